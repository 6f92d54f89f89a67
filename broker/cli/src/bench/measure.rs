//! CPU time of this thread, this process and a broker; bytes that a broker read; medians of several rounds.

use std::time::Duration;

use anyhow::{Context, Result};
use cpu_time::ThreadTime;
use sluice_server::ProcessUsage;

use crate::child::Broker;

/// The middle of the values; of an even number the upper of the two.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs `work` once to warm up and then `rounds` times; the median of its CPU nanoseconds divided by `messages`.
///
/// # Errors
/// Those of `work`.
pub(super) fn cpu_ns_a_message(rounds: usize, messages: u64, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut rounds_ns = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let before = ThreadTime::try_now().context("this system does not count a thread's CPU time")?;
        work()?;
        rounds_ns.push(before.elapsed().as_nanos() as f64 / messages as f64);
    }
    Ok(median(&mut rounds_ns))
}

/// What a broker and this process, its client, have used so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    /// CPU of the broker, user and system.
    pub(super) broker: Duration,
    /// CPU of this process, user and system.
    pub(super) client: Duration,
    /// Bytes that the broker asked of its files.
    pub(super) read_bytes: u64,
    /// Bytes that the device read for it, the page cache and its reading ahead between them.
    pub(super) device_bytes: u64,
}

impl Spent {
    /// What a test makes out to have been used: so many milliseconds of the broker's CPU, one of the client's, nothing read.
    #[cfg(test)]
    pub(super) fn by_broker(broker_ms: u64) -> Self {
        Self {
            broker: Duration::from_millis(broker_ms),
            client: Duration::from_millis(1),
            read_bytes: 0,
            device_bytes: 0,
        }
    }

    /// What was used until now.
    ///
    /// # Errors
    /// This system does not tell.
    pub(super) fn now(broker: &Broker) -> Result<Self> {
        let usage = |pid| ProcessUsage::of_process(pid).context("this system does not tell a process's CPU time");
        let (server, client) = (usage(broker.pid())?, usage(std::process::id())?);
        let io = std::fs::read_to_string(format!("/proc/{}/io", broker.pid())).context("this system does not tell what a process reads")?;
        let field = |name: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
        };
        Ok(Self {
            broker: server.user + server.system,
            client: client.user + client.system,
            read_bytes: field("rchar:"),
            device_bytes: field("read_bytes:"),
        })
    }

    /// What was used since then.
    ///
    /// # Errors
    /// This system does not tell.
    pub(super) fn since(&self, broker: &Broker) -> Result<Self> {
        let now = Self::now(broker)?;
        Ok(Self {
            broker: now.broker.saturating_sub(self.broker),
            client: now.client.saturating_sub(self.client),
            read_bytes: now.read_bytes.saturating_sub(self.read_bytes),
            device_bytes: now.device_bytes.saturating_sub(self.device_bytes),
        })
    }
}
