//! What the broker counts while it serves.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::metrics::histogram::Histogram;
use sluice_protocol::errors::{ErrorCode, Refusal};

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

/// A counter by name: what it counts, and how far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The field's name.
    pub name: &'static str,
    /// What is counted.
    pub about: &'static str,
    /// The count so far.
    pub value: u64,
}

macro_rules! counters {
    ($($(#[doc = $about:literal])+ $name:ident),* $(,)?) => {
        /// What the shell has counted since the start, shared by all its threads.
        #[derive(Debug)]
        pub struct Metrics {
            $($(#[doc = $about])+ pub $name: Counter,)*
            /// Requests, messages and settlements that were refused, by the code that the client was told.
            pub refusals: Refusals,
            /// How long syncs of the log took, in seconds.
            pub sync_seconds: Histogram,
            /// Bytes of records in each group commit.
            pub commit_bytes: Histogram,
            /// Records in each group commit.
            pub commit_records: Histogram,
        }

        impl Default for Metrics {
            fn default() -> Self {
                Self {
                    $($name: Counter::default(),)*
                    refusals: Refusals::default(),
                    sync_seconds: Histogram::new(SYNC_SECONDS),
                    commit_bytes: Histogram::new(COMMIT_BYTES),
                    commit_records: Histogram::new(COMMIT_RECORDS),
                }
            }
        }

        impl Metrics {
            /// Every counter, in the order of the data's path.
            pub fn readings(&self) -> Vec<Reading> {
                vec![$(Reading {
                    name: stringify!($name),
                    about: concat!($($about),+),
                    value: self.$name.get(),
                },)*]
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
    /// Certificates that were read again and taken for new connections.
    certificates_taken,
    /// Certificates that were read again and refused; the one before went on serving.
    certificates_refused,
    /// Backups that were sent whole.
    backups_sent,
    /// Backups that ended early: the client is gone or hung, the disk had no room, or the broker stopped.
    backups_ended_early,
    /// Bytes of files sent for backups.
    backup_bytes,
}

/// Bounds of the buckets for a sync: from a write cache without barriers to a disk that is about to be replaced.
const SYNC_SECONDS: [f64; 16] = [
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
];

/// Bounds of the buckets for the bytes of a group commit: from one small message to the largest frame of the log.
const COMMIT_BYTES: [f64; 9] = [
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// Bounds of the buckets for the records of a group commit.
const COMMIT_RECORDS: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0];

/// Counts by code of the error registry.
#[derive(Debug)]
pub struct Refusals([Counter; ErrorCode::ALL.len()]);

impl Default for Refusals {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Refusals {
    /// Adds `count` refusals with this code.
    pub fn add(&self, code: ErrorCode, count: u64) {
        let place = ErrorCode::ALL.iter().position(|other| *other == code);
        self.0[place.expect("ALL holds every code")].add(count);
    }

    /// Adds one refusal with this code.
    pub fn one(&self, code: ErrorCode) {
        self.add(code, 1);
    }

    /// Adds those of these results that are refusals.
    pub(crate) fn of_results<T>(&self, results: &[Result<T, Refusal>]) {
        results
            .iter()
            .flat_map(|result| result.as_ref().err())
            .for_each(|refusal| self.one(refusal.code));
    }

    /// How many were refused with each code.
    pub fn readings(&self) -> impl Iterator<Item = (ErrorCode, u64)> + '_ {
        ErrorCode::ALL.iter().copied().zip(self.0.iter().map(Counter::get))
    }

    /// How many were refused with this code.
    pub fn of(&self, code: ErrorCode) -> u64 {
        self.readings().find(|(other, _)| *other == code).map_or(0, |(_, count)| count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_name_every_counter_and_say_what_it_counts() {
        let metrics = Metrics::default();
        metrics.turns.add(3);
        let readings = metrics.readings();
        let turns = readings.iter().find(|reading| reading.name == "turns").unwrap();
        assert_eq!((turns.about.trim(), turns.value), ("Turns of the shard.", 3));
        assert!(readings.iter().any(|reading| reading.name == "delivery_bytes"));
    }

    #[test]
    fn refusals_are_counted_by_their_code() {
        let metrics = Metrics::default();
        metrics.refusals.one(ErrorCode::Overloaded);
        metrics.refusals.add(ErrorCode::BadMessageId, 2);
        assert_eq!(metrics.refusals.of(ErrorCode::Overloaded), 1);
        assert_eq!(metrics.refusals.of(ErrorCode::BadMessageId), 2);
        assert_eq!(metrics.refusals.readings().map(|(_, count)| count).sum::<u64>(), 3);
    }
}
