//! What operators may set of the core.

use sluice_log::record::{Backoff, GroupSettings, OLDEST_EVERY, OnExhausted, OnExpired, Sharing, StartPoint, TopicSettings};

use crate::limits::{CULPRIT_QUORUM, FRAME_RECORDS_BYTES_MAX, GRANT_MESSAGES_MAX, MEMBER_ABSENT_MS, PART_MESSAGES_MAX};

/// The settings of the core, each with the default that [`CoreConfig::default`] gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreConfig {
    /// Whether a publish to a topic that does not exist creates it. Default: yes.
    pub auto_create_topics: bool,
    /// Whether a group is created by its first member. Default: yes.
    pub auto_create_groups: bool,
    /// What a topic gets that is created by a publish. Default: 4 queues, 72 hours, any size, and no message expires.
    pub topic: TopicSettings,
    /// What a group gets that is created by its first member. Default: 16 deliveries, the reference's table of waits, from the earliest.
    pub group: GroupSettings,
    /// How long a stream's leases last unless it asks otherwise, in milliseconds. Default: 15 minutes.
    pub stream_invisible_ms: u64,
    /// A checkpoint is begun after so many bytes of log at the latest; earlier where its own size allows it. Default: 256 MiB.
    pub checkpoint_bytes: u64,
    /// What the windows of all producers may take together, in bytes. Default: 64 MiB.
    pub producer_memory_bytes: u64,
    /// What the ids that producers gave their messages may take together, in bytes. Default: 64 MiB.
    pub given_ids_memory_bytes: u64,
    /// Messages handed out at once to one stream. Default: 1,024.
    pub grant_messages: u64,
    /// Bytes of records after which a frame is closed. Default: 16 MiB.
    pub frame_records_bytes: u64,
    /// Messages that must have been judged with one that a plugin failed on before it is decided about, unless its time is over.
    /// Default: 1,024.
    pub culprit_quorum: u64,
    /// How long a prepared message waits for a decision before a producer is asked about it, in milliseconds. Default: 6 s.
    pub ask_first_ms: u64,
    /// How long after one ask the next one follows, or the message is given up, in milliseconds. Default: 30 s.
    pub ask_interval_ms: u64,
    /// How many asks are delivered before a message is given up. Default: 15.
    pub asks_max: u16,
    /// After so long without reading a member of a broadcast group is forgotten with its cursors, in milliseconds. Default: 24 hours.
    pub member_absent_ms: u64,
    /// What is due within so many milliseconds waits in memory, and what is due after more than twice as many goes into a part of the calendar.
    /// Default: `None`, which puts nothing into parts.
    pub near_ms: Option<i64>,
    /// Far-off messages in a new part, at most. Default: 16,384.
    pub part_messages: usize,
    /// So many parts of about the same size are merged. Default: 8.
    pub merged_parts: usize,
}

impl Default for CoreConfig {
    fn default() -> Self {
        Self {
            auto_create_topics: true,
            auto_create_groups: true,
            topic: TopicSettings {
                queues: 4,
                retention_ms: 72 * 60 * 60 * 1_000,
                retention_bytes: 0,
                ttl_ms: 0,
                on_expired: OnExpired::Skip,
            },
            group: GroupSettings {
                attempts_max: 16,
                backoff: reference_backoff(),
                start: StartPoint::Earliest,
                ordered: false,
                on_exhausted: OnExhausted::DeadLetter,
                oldest_every: OLDEST_EVERY,
                sharing: Sharing::Shared,
            },
            stream_invisible_ms: 15 * 60 * 1_000,
            checkpoint_bytes: 256 << 20,
            producer_memory_bytes: 64 << 20,
            given_ids_memory_bytes: 64 << 20,
            grant_messages: GRANT_MESSAGES_MAX,
            frame_records_bytes: FRAME_RECORDS_BYTES_MAX,
            culprit_quorum: CULPRIT_QUORUM,
            ask_first_ms: 6_000,
            ask_interval_ms: 30_000,
            asks_max: 15,
            member_absent_ms: MEMBER_ABSENT_MS,
            near_ms: None,
            part_messages: PART_MESSAGES_MAX,
            merged_parts: 8,
        }
    }
}

/// The reference's table: 1 s, 5 s, 10 s, 30 s, every minute from 1 to 10, 20 and 30 minutes, 1 and 2 hours.
fn reference_backoff() -> Backoff {
    let seconds = [
        1, 5, 10, 30, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 1_200, 1_800, 3_600, 7_200,
    ];
    Backoff::Table {
        waits_ms: seconds.iter().map(|seconds| seconds * 1_000).collect(),
    }
}
