//! What the broker counts while it serves, and what the process costs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One count that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `count`.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn one(&self) {
        self.add(1);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$about:meta])* $name:ident),* $(,)?) => {
        /// Counters of the shell since the start, shared by all its threads.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($(#[$about])* pub $name: Counter,)*
        }

        impl Metrics {
            /// Every counter by name, in the order of the data's path.
            pub fn readings(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Connections that completed the handshake.
    connections_opened,
    /// Connections that ended.
    connections_closed,
    /// Connections refused because there were too many.
    connections_refused,
    /// Streams closed because of a malformed, unknown or misplaced frame.
    frames_refused,
    /// Messages refused by admission.
    messages_refused,
    /// Messages handed to the shard.
    messages_admitted,
    /// Publishes refused because the inbox or the disk was full.
    publishes_refused,
    /// Turns of the shard.
    turns,
    /// Inputs that the core was told.
    inputs,
    /// Frames written to the log.
    frames_written,
    /// Bytes of records written to the log.
    record_bytes_written,
    /// Syncs of the log.
    syncs,
    /// Messages judged by a plugin or dropped by a pruning hint.
    messages_judged,
    /// Of these, dropped by a pruning hint without a call.
    messages_pruned,
    /// Runs that a plugin failed to judge.
    runs_failed,
    /// Messages written to consumers.
    messages_delivered,
    /// Bytes of delivery frames written to consumers.
    delivery_bytes,
}

/// What the process has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// CPU time in user mode, all threads.
    pub user: Duration,
    /// CPU time in the kernel, all threads.
    pub system: Duration,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
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
        let statm = std::fs::read_to_string(format!("/proc/{process}/statm")).ok()?;
        let pages = statm.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?;
        // Linux reports ticks of 10 ms and, on the machines served, pages of 4 KiB.
        Some(Self {
            user: Duration::from_millis(user * 10),
            system: Duration::from_millis(system * 10),
            resident_bytes: pages * 4_096,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_memory() {
        if let Some(usage) = ProcessUsage::read() {
            assert!(usage.resident_bytes > 1 << 16);
        }
    }

    #[test]
    fn readings_name_every_counter() {
        let metrics = Metrics::default();
        metrics.turns.add(3);
        assert!(metrics.readings().contains(&("turns", 3)));
        assert!(metrics.readings().contains(&("delivery_bytes", 0)));
    }
}
