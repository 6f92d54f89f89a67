//! A small log on a disk in memory, and messages to put into it.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod broadcast;
pub(crate) mod expiry;
pub(crate) mod given_ids;
pub(crate) mod parts;
pub(crate) mod restoration;
pub(crate) mod transaction;

use std::sync::Arc;

use bytes::Bytes;
use sluice_log::record::*;
use sluice_log::{FaultyStorage, Log, LogConfig, LogError, LogWriter, Opened, Start};
use sluice_protocol::batch::{BatchBuilder, NewMessage};
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

/// Small, so that a few frames fill a segment.
pub(crate) fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 4096,
        fill_ahead_bytes: 512,
        tail_cache_bytes: 0,
    }
}

pub(crate) fn open_at(storage: &FaultyStorage, wall_ms: i64) -> Result<Opened, LogError> {
    Log::open(Arc::new(storage.clone()), config(), Start { wall_ms, random: [7; 24] })
}

pub(crate) fn open_with(storage: &FaultyStorage, config: LogConfig) -> Result<Opened, LogError> {
    let start = Start {
        wall_ms: 1_000,
        random: [7; 24],
    };
    Log::open(Arc::new(storage.clone()), config, start)
}

pub(crate) fn open(storage: &FaultyStorage) -> Result<Opened, LogError> {
    open_at(storage, 1_000)
}

pub(crate) fn queue(index: u16) -> QueueId {
    QueueId {
        topic: TopicId(5),
        index: QueueIndex(index),
    }
}

pub(crate) fn batch(first_sequence: u64, tags: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(500, ProducerId(9), Sequence(first_sequence));
    for tag in tags {
        let message = NewMessage::<&str> {
            tag: Some(tag),
            keys: &[],
            properties: &[],
            born_ms: 500,
            ..NewMessage::default()
        };
        builder.push(&message, format!("body of {tag}").as_bytes()).unwrap();
    }
    builder.finish()
}

/// Messages with these keys.
pub(crate) fn keyed_batch(first_sequence: u64, messages: &[&[&str]]) -> Bytes {
    let mut builder = BatchBuilder::new(500, ProducerId(9), Sequence(first_sequence));
    for keys in messages {
        let message = NewMessage::<&str> {
            keys,
            born_ms: 500,
            ..NewMessage::default()
        };
        builder.push(&message, b"body").unwrap();
    }
    builder.finish()
}

pub(crate) fn appended(at_ms: i64, index: u16, first: u64, batch: Bytes) -> Bytes {
    let change = Change::Appended {
        queue: queue(index),
        first: QueueOffset(first),
        batch,
    };
    Record {
        at: Now {
            wall_ms: at_ms,
            mono_ms: at_ms as u64,
        },
        change,
    }
    .encode()
}

/// A record that is told apart by a number.
pub(crate) fn numbered(number: u64) -> Bytes {
    Record {
        at: Now {
            wall_ms: 1_000,
            mono_ms: 0,
        },
        change: Change::TopicDeleted { topic: TopicId(number) },
    }
    .encode()
}

pub(crate) fn append(writer: &mut LogWriter, records: &[Bytes]) -> Position {
    let at = writer.end();
    writer.append(at, records).unwrap()
}

/// The numbers of the numbered records that a start replays.
pub(crate) fn numbers(opened: Opened) -> Vec<u64> {
    let records = opened.recovery.replay.map(Result::unwrap);
    records
        .filter_map(|(_, record)| match record.change {
            Change::TopicDeleted { topic } => Some(topic.0),
            _ => None,
        })
        .collect()
}

/// A record of each kind that changes a calendar, by number.
pub(crate) fn calendar_kinds() -> Vec<Record> {
    let (topic, first) = (TopicId(3), QueueOffset(40));
    let queue = QueueId {
        topic,
        index: QueueIndex(2),
    };
    let due = |at_ms, number| Due {
        at_ms,
        number: QueueOffset(number),
    };
    let batch = Bytes::from_static(b"any bytes");
    let changes = [
        Change::Delayed {
            topic,
            first,
            due_ms: vec![1_800_000_000_000, -1],
            batch: batch.clone(),
        },
        Change::Released {
            queue,
            first: QueueOffset(77),
            due: vec![due(-1, 41), due(1_800_000_000_000, 40)],
            batch,
        },
        Change::Recalled { topic, due: due(5, 6) },
    ];
    let at = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 12,
    };
    changes.map(|change| Record { at, change }).into()
}

/// One record of each kind.
pub(crate) fn each_kind() -> Vec<Record> {
    let queue = QueueId {
        topic: TopicId(3),
        index: QueueIndex(2),
    };
    let cursor = CursorId { group: GroupId(8), queue };
    let (pass, offset, topic, group) = (Pass(4), QueueOffset(77), TopicId(3), GroupId(8));
    let offsets = OffsetRange {
        first: QueueOffset(5),
        end: QueueOffset(9),
    };
    let leases = vec![LeaseRange {
        offsets,
        attempt: Attempt(2),
    }];
    let starts = vec![QueueStart { queue, offset }];
    let settings = TopicSettings {
        queues: 4,
        retention_ms: 1,
        retention_bytes: 2,
        ttl_ms: 0,
        on_expired: OnExpired::Skip,
    };
    let table = GroupSettings {
        attempts_max: 16,
        backoff: Backoff::Table { waits_ms: vec![1, 5] },
        start: StartPoint::Time { wall_ms: -1 },
        ordered: false,
        on_exhausted: OnExhausted::DeadLetter,
        oldest_every: OLDEST_EVERY,
        sharing: Sharing::Shared,
    };
    let limits = PluginLimits {
        fuel_per_run: 1,
        fuel_per_message: 2,
        run_ms: 3,
        memory_bytes: 4,
    };
    let filter = Filter::Plugin {
        plugin: "sql".into(),
        expression: "a = 'ü'".into(),
    };
    let batch = Bytes::from_static(b"any bytes");
    let holder = Holder::Stream { member: "m".into() };
    let changes = vec![
        Change::Opened { epoch: Epoch(9) },
        Change::TopicCreated {
            topic,
            name: "t".into(),
            settings,
        },
        Change::TopicDeleted { topic },
        Change::GroupCreated {
            group,
            name: "g".into(),
            settings: table,
        },
        Change::GroupDeleted { group },
        Change::Subscribed {
            group,
            topic,
            filter,
            starts: starts.clone(),
        },
        Change::PluginBound {
            name: "sql".into(),
            digest: Digest([7; 32]),
            limits,
            on_failure: OnFailure::Hold,
        },
        Change::Appended {
            queue,
            first: offset,
            batch: batch.clone(),
        },
        Change::Granted {
            cursor,
            priority: 0,
            pass,
            holder,
            leases: leases.clone(),
            frontier: offset,
            expires_mono_ms: 6,
        },
        Change::FrontierMoved {
            cursor,
            priority: 0,
            parked: Vec::new(),
            pass,
            frontier: offset,
        },
        Change::Settled {
            cursor,
            pass,
            offsets: vec![offsets],
        },
        Change::Returned {
            cursor,
            pass,
            leases,
            due_mono_ms: 5,
            reason: ReturnReason::Expired,
        },
        Change::Extended {
            cursor,
            pass,
            offsets: vec![offsets],
            expires_mono_ms: 6,
        },
        Change::DeadLettered {
            cursor,
            pass,
            offset,
            to: queue,
            at_offset: offset,
            batch: batch.clone(),
        },
        Change::Sought {
            group,
            topic,
            pass,
            starts,
        },
        Change::Trimmed {
            queue,
            start: offset,
            lost: Vec::new(),
        },
        Change::ProducerForgotten {
            producer: ProducerId(1 << 100),
        },
        Change::CulpritDecided {
            cursor,
            priority: 0,
            pass,
            offset,
            digest: Digest([7; 32]),
            reason: "it trapped".into(),
            fate: Fate::DeadLettered {
                to: queue,
                at_offset: offset,
                batch,
            },
        },
        Change::SubscriptionHeld {
            group,
            topic,
            digest: Digest([7; 32]),
            reason: "it ran too long".into(),
        },
        Change::SubscriptionResumed { group, topic },
    ];
    changes
        .into_iter()
        .map(|change| Record {
            at: Now { wall_ms: -5, mono_ms: 6 },
            change,
        })
        .collect()
}

/// One record of every kind of what operators do, in the order of their numbers.
pub(crate) fn operated() -> Vec<Record> {
    let (group, topic) = (GroupId(8), TopicId(3));
    let queue = QueueId {
        topic,
        index: QueueIndex(2),
    };
    let operations = [
        Operation::Paused { group, topic: None },
        Operation::Unpaused { group, topic: Some(topic) },
        Operation::Skipped {
            cursor: CursorId { group, queue },
            pass: Pass(4),
            offset: QueueOffset(77),
        },
        Operation::DeadLettersDealt {
            from: queue,
            dealt: vec![OffsetRange {
                first: QueueOffset(5),
                end: QueueOffset(9),
            }],
            back: vec![SentBack {
                cursor: CursorId { group, queue },
                pass: Pass(4),
                priority: 0,
                messages: vec![LeaseRange {
                    offsets: OffsetRange {
                        first: QueueOffset(70),
                        end: QueueOffset(73),
                    },
                    attempt: Attempt(16),
                }],
            }],
        },
    ];
    let record = |operation| Record {
        at: Now { wall_ms: -5, mono_ms: 6 },
        change: Change::Operated(Operated {
            by: "ops-1".into(),
            operation,
        }),
    };
    operations.map(record).into()
}

/// What operators do with topics.
pub(crate) fn of_topics() -> Vec<Record> {
    let grown = Operation::TopicGrown {
        topic: TopicId(3),
        ends: vec![QueueOffset(40), QueueOffset(0)],
        queues: 5,
        groups: vec![GroupId(8), GroupId(9)],
    };
    vec![Record {
        at: Now { wall_ms: -5, mono_ms: 6 },
        change: Change::Operated(Operated {
            by: "ops-1".into(),
            operation: grown,
        }),
    }]
}

/// Records that speak of priorities and order.
pub(crate) fn of_lanes() -> Vec<Record> {
    let queue = QueueId {
        topic: TopicId(3),
        index: QueueIndex(1),
    };
    let cursor = CursorId { group: GroupId(2), queue };
    let offsets = OffsetRange {
        first: QueueOffset(5),
        end: QueueOffset(9),
    };
    let parked = [(7, 0xfeed, 2, true), (8, 0, 0, false)].map(|(offset, group, priority, judged)| Parked {
        offset: QueueOffset(offset),
        group,
        priority,
        judged,
    });
    let changes = vec![
        Change::GroupCreated {
            group: GroupId(2),
            name: "g".into(),
            settings: GroupSettings {
                attempts_max: 3,
                backoff: Backoff::Fixed { wait_ms: 7 },
                start: StartPoint::Earliest,
                ordered: true,
                on_exhausted: OnExhausted::Hold,
                oldest_every: 0,
                sharing: Sharing::Shared,
            },
        },
        Change::Prioritized {
            queue,
            first: QueueOffset(5),
            end: QueueOffset(9),
            priorities: 0b10_0000_0001,
        },
        Change::Granted {
            cursor,
            pass: Pass(1),
            priority: 9,
            holder: Holder::Receive { member: "m".into() },
            leases: vec![LeaseRange {
                offsets,
                attempt: Attempt(1),
            }],
            frontier: QueueOffset(9),
            expires_mono_ms: 6,
        },
        Change::FrontierMoved {
            cursor,
            pass: Pass(1),
            priority: 0,
            frontier: QueueOffset(9),
            parked: parked.to_vec(),
        },
        Change::CulpritDecided {
            cursor,
            pass: Pass(1),
            priority: 4,
            offset: QueueOffset(6),
            digest: Digest([7; 32]),
            reason: "it trapped".into(),
            fate: Fate::Delivered,
        },
    ];
    let back = [0, 9].map(|priority| SentBack {
        cursor,
        pass: Pass(4),
        priority,
        messages: vec![LeaseRange {
            offsets,
            attempt: Attempt(16),
        }],
    });
    let dealt = Change::Operated(Operated {
        by: "ops-1".into(),
        operation: Operation::DeadLettersDealt {
            from: queue,
            dealt: vec![offsets],
            back: back.into(),
        },
    });
    let at = Now { wall_ms: -2, mono_ms: 3 };
    let changes = changes.into_iter().chain([dealt]);
    changes.map(|change| Record { at, change }).collect()
}
