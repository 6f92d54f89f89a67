//! What a process uses of the machine, as the system tells it.

use std::time::Duration;

/// What a process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// CPU time in user mode, all threads.
    pub user: Duration,
    /// CPU time in the kernel, all threads.
    pub system: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Address space in bytes.
    pub virtual_bytes: u64,
    /// Threads.
    pub threads: u64,
}

impl ProcessUsage {
    /// Reads the usage of this process; `None` where the system has no `/proc`.
    pub fn read() -> Option<Self> {
        Self::of("self")
    }

    /// Reads the usage of the process with this id; `None` when there is none, or no `/proc`.
    pub fn of_process(pid: u32) -> Option<Self> {
        Self::of(&pid.to_string())
    }

    fn of(process: &str) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        // The command name is in parentheses and may hold anything; the fields after it are plain (proc(5)).
        let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
        let user = fields.nth(11)?.parse::<u64>().ok()?;
        let system = fields.next()?.parse::<u64>().ok()?;
        let threads = fields.nth(4)?.parse::<u64>().ok()?;
        let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
        let mut pages = statm.split_ascii_whitespace().map(str::parse::<u64>);
        let (all, resident) = (pages.next()?.ok()?, pages.next()?.ok()?);
        // Linux reports ticks of 10 ms and, on the machines served, pages of 4 KiB.
        Some(Self {
            user: Duration::from_millis(user * 10),
            system: Duration::from_millis(system * 10),
            resident_bytes: resident * 4_096,
            virtual_bytes: all * 4_096,
            threads,
        })
    }
}

/// Files and sockets that this process has open, and how many it may have; `None` where the system has no `/proc`.
pub(crate) fn open_files() -> Option<(u64, Option<u64>)> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count() as u64;
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    // The soft limit comes first; it may be the word "unlimited".
    let most = line.and_then(|rest| rest.split_ascii_whitespace().next()?.parse().ok());
    // The directory itself was open while it was read.
    Some((open.saturating_sub(1), most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_memory_and_files() {
        if let Some(usage) = ProcessUsage::read() {
            assert!(usage.resident_bytes > 1 << 16 && usage.resident_bytes <= usage.virtual_bytes);
            assert!(usage.threads >= 1);
            let (open, most) = open_files().unwrap();
            assert!(open >= 1 && most.is_none_or(|most| open <= most), "{open} {most:?}");
        }
    }
}
