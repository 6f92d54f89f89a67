//! What the system says of a broker's process: memory, open files, threads, and what it has read.

use std::time::Duration;

use anyhow::{Context, Result};
use sluice_server::ProcessUsage;

/// A process at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observed {
    /// CPU time, user and system together.
    pub(super) cpu: Duration,
    pub(super) resident_bytes: u64,
    pub(super) open_files: u64,
    pub(super) threads: u64,
    /// Bytes that its reads returned, those from the page cache included.
    pub(super) read_bytes: u64,
    /// Bytes that a disk gave it.
    pub(super) device_read_bytes: u64,
}

impl Observed {
    /// Looks at a process of this user.
    ///
    /// # Errors
    /// There is none with this id, or no `/proc`.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let usage = ProcessUsage::of_process(pid).context("this system does not tell what a process uses")?;
        let count = |folder: &str| -> Result<u64> {
            let entries = std::fs::read_dir(format!("/proc/{pid}/{folder}")).with_context(|| format!("look into /proc/{pid}/{folder}"))?;
            Ok(entries.count() as u64)
        };
        let io = std::fs::read_to_string(format!("/proc/{pid}/io")).context("read what a process has read")?;
        let number = |name: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Ok(Self {
            cpu: usage.user + usage.system,
            resident_bytes: usage.resident_bytes,
            open_files: count("fd")?,
            threads: count("task")?,
            read_bytes: number("rchar:"),
            device_read_bytes: number("read_bytes:"),
        })
    }

    /// The resident memory in megabytes.
    pub(super) fn resident_mb(&self) -> f64 {
        self.resident_bytes as f64 / 1e6
    }

    /// How much more memory is resident now than `before`, in kilobytes for each of `count`.
    pub(super) fn more_resident_kb(&self, before: &Self, count: u64) -> f64 {
        (self.resident_bytes as f64 - before.resident_bytes as f64) / 1e3 / count.max(1) as f64
    }

    /// The CPU time used since `before`, in microseconds for each of `count`.
    pub(super) fn cpu_us(&self, before: &Self, count: u64) -> f64 {
        (self.cpu - before.cpu).as_secs_f64() * 1e6 / count.max(1) as f64
    }
}

/// CPU time of this process, the bench itself.
///
/// # Errors
/// There is no `/proc`.
pub(super) fn own_cpu() -> Result<Duration> {
    let usage = ProcessUsage::read().context("this system does not tell what a process uses")?;
    Ok(usage.user + usage.system)
}
