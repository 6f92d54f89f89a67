//! The decoders of the log.

pub(super) mod backup;
mod broadcast;
mod parts;

use std::sync::Arc;

use bytes::Bytes;
use sluice_log::record::{
    Asked, Change, CursorId, Deadline, Due, Fate, Filter, GivenId, GivenIds, Holder, LeaseRange, OffsetRange, OnExpired, OnFailure,
    Operated, Operation, Parked, PluginLimits, Prepared, QueueStart, Record, ReturnReason, SentBack, Transaction,
};
use sluice_log::{FaultyStorage, Log, LogConfig, Start, Storage, formats};
use sluice_protocol::batch::{BatchBuilder, NewMessage, crc32c};
use sluice_protocol::ids::{Attempt, Digest, Epoch, GroupId, Pass, ProducerId, QueueId, QueueIndex, QueueOffset, Sequence, TopicId};
use sluice_protocol::units::Now;

use super::{Target, nothing_to_repair};

pub(super) use parts::PART;

pub(super) const RECORD: Target = Target {
    name: "record",
    valid: || records().iter().map(|record| record.encode().to_vec()).collect(),
    repair: nothing_to_repair,
    run: |input| {
        if let Ok(record) = Record::decode(&Bytes::copy_from_slice(input)) {
            assert_eq!(Record::decode(&record.encode()), Ok(record), "a record survives its own bytes");
        }
    },
    accepts: |input| Record::decode(&Bytes::copy_from_slice(input)).is_ok(),
};

/// The frame secret of the log that gives the valid inputs.
const SECRET: u64 = 0x0303_0303_0303_0303;

pub(super) const SEGMENT: Target = Target {
    name: "log-segment",
    valid: || files("segment-").into_iter().map(|file| file[..64].to_vec()).collect(),
    repair: |input| put_checksum(input, 60, |input| crc32c(&input[..60])),
    run: |input| survives(input, |bytes| formats::segment_header(SECRET, bytes)),
    accepts: |input| formats::segment_header(SECRET, input).is_some(),
};

pub(super) const FRAME: Target = Target {
    name: "log-frame",
    valid: || files("segment-").iter().flat_map(|file| frames(&file[64..])).collect(),
    repair: |input| {
        put_checksum(input, 44, |input| {
            let payload = u32::from_le_bytes([input[36], input[37], input[38], input[39]]) as usize;
            let covered = [&SECRET.to_le_bytes(), &input[..44], input.get(48..48 + payload).unwrap_or(&[])];
            crc32c(&covered.concat())
        });
    },
    run: |input| survives(input, |bytes| formats::frame(SECRET, bytes)),
    accepts: |input| formats::frame(SECRET, &Bytes::copy_from_slice(input)).is_some(),
};

pub(super) const SIDECAR: Target = Target {
    name: "log-sidecar",
    valid: || files("index-"),
    repair: repair_sidecar,
    run: |input| survives(input, |bytes| formats::sidecar(bytes)),
    accepts: |input| formats::sidecar(input).is_some(),
};

pub(super) const CHECKPOINT: Target = Target {
    name: "log-checkpoint",
    valid: || files("checkpoint-"),
    repair: |input| {
        let Some(at) = input.len().checked_sub(4) else { return };
        put_checksum(input, at, |input| crc32c(&[&SECRET.to_le_bytes(), &input[..at]].concat()));
    },
    run: |input| survives(input, |bytes| formats::checkpoint(SECRET, bytes)),
    accepts: |input| formats::checkpoint(SECRET, &Bytes::copy_from_slice(input)).is_some(),
};

/// Seals a sidecar again from the inside out: parts, blocks, filter, head.
fn repair_sidecar(input: &mut [u8]) {
    let number = |input: &[u8], at: usize| {
        let bytes = input.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes) as usize)
    };
    let [queues, batches, rows, runs, producers, keys, dealings] = [40, 44, 48, 52, 56, 60, 64].map(|at| number(input, at));
    let producers = if producers == u32::MAX as usize { 0 } else { producers };
    let queue_fences = 72 + producers * 24;
    let run_fences = queue_fences + queues.div_ceil(64) * 14;
    let key_fences = run_fences + runs.div_ceil(128) * 20;
    let dealing_fences = key_fences + keys.div_ceil(128) * 26;
    let directory = dealing_fences + dealings.div_ceil(64) * 30;
    let parts = directory + queues * 50;
    let runs_at = parts + batches * 36 + rows * 4;
    let keys_at = runs_at + runs * 32;
    let filter = keys_at + keys * 22;
    let within = |input: &[u8], from: usize, length: usize| crc32c(input.get(from..).map_or(&[], |rest| &rest[..length.min(rest.len())]));
    for entry in (directory..parts.min(input.len())).step_by(50) {
        let length = number(input, entry + 10) * 36 + number(input, entry + 14) * 4;
        let part = parts + number(input, entry + 42);
        put_checksum(input, entry + 46, |input| within(input, part, length));
    }
    for (nth, fence) in (queue_fences..run_fences.min(input.len())).step_by(14).enumerate() {
        let block = directory + nth * 64 * 50;
        put_checksum(input, fence + 10, |input| {
            within(input, block, parts.saturating_sub(block).min(64 * 50))
        });
    }
    for (nth, fence) in (run_fences..key_fences.min(input.len())).step_by(20).enumerate() {
        let block = runs_at + nth * 128 * 32;
        put_checksum(input, fence + 16, |input| within(input, block, (runs - nth * 128).min(128) * 32));
    }
    for (nth, fence) in (key_fences..dealing_fences.min(input.len())).step_by(26).enumerate() {
        let block = keys_at + nth * 128 * 22;
        put_checksum(input, fence + 22, |input| within(input, block, (keys - nth * 128).min(128) * 22));
    }
    let mut dealings_at = filter;
    if keys > 0 {
        let end = filter + (keys * 10).div_ceil(64) * 8;
        put_checksum(input, end, |input| within(input, filter, end - filter));
        dealings_at = end + 4;
    }
    for (nth, fence) in (dealing_fences..directory.min(input.len())).step_by(30).enumerate() {
        let block = dealings_at + nth * 64 * 50;
        put_checksum(input, fence + 26, |input| within(input, block, (dealings - nth * 64).min(64) * 50));
    }
    put_checksum(input, 68, |input| {
        let rest = input.get(72..directory).unwrap_or(&[]);
        crc32c(&[&input[..68], rest].concat())
    });
}

/// What is written again for an accepted input is accepted, and is written again the same.
fn survives(input: &[u8], rewrite: fn(&Bytes) -> Option<Bytes>) {
    if let Some(again) = rewrite(&Bytes::copy_from_slice(input)) {
        assert!(again.len() <= input.len().next_multiple_of(8), "nothing was added");
        assert_eq!(rewrite(&again).as_ref(), Some(&again), "it survives its own bytes");
    }
}

/// Puts a checksum where it stands, if the input reaches so far.
fn put_checksum(input: &mut [u8], at: usize, checksum: impl FnOnce(&[u8]) -> u32) {
    if input.len() >= at + 4 {
        let sum = checksum(input);
        input[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// The frames at the beginning of `bytes`, each alone.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut rest = Bytes::copy_from_slice(bytes);
    let mut frames = Vec::new();
    while let Some(frame) = formats::frame(SECRET, &rest) {
        rest = rest.slice(frame.len()..);
        frames.push(frame.to_vec());
    }
    frames
}

/// The files of a small log whose names begin so.
fn files(beginning: &str) -> Vec<Vec<u8>> {
    let storage = FaultyStorage::new(1);
    let config = LogConfig {
        segment_bytes: 4096,
        ..LogConfig::default()
    };
    let start = Start {
        wall_ms: 1,
        random: [3; 24],
    };
    let mut writer = Log::open(Arc::new(storage.clone()), config, start)
        .expect("an empty disk in memory")
        .writer;
    for number in 0..24 {
        let mut encoded: Vec<Bytes> = if number % 5 == 0 {
            records().iter().map(Record::encode).collect()
        } else {
            Vec::new()
        };
        // A batch of the samples is no batch; these are.
        encoded.retain(|record| {
            !matches!(
                Record::decode(record),
                Ok(Record {
                    change: Change::Appended { .. }
                        | Change::CulpritDecided { .. }
                        | Change::Delayed { .. }
                        | Change::Released { .. }
                        | Change::Transaction(_),
                    ..
                })
            )
        });
        encoded.push(appended(number).encode());
        writer.append(writer.end(), &encoded).expect("the disk in memory has room");
        writer.sync().expect("the disk in memory syncs");
    }
    writer.begin_checkpoint(writer.end()).expect("the disk in memory has room");
    for entries in [1, 3] {
        writer
            .checkpoint_slice(&vec![Bytes::from_static(b"an entry"); entries])
            .expect("the disk in memory has room");
    }
    writer.finish_checkpoint().expect("the disk in memory has room");
    let entries = storage.list().expect("the disk in memory lists").into_iter();
    let names = entries.map(|entry| entry.name).filter(|name| name.starts_with(beginning));
    // Segments in reserve hold nothing.
    let files = names.filter_map(|name| storage.contents(&name));
    files.filter(|file| file.iter().any(|byte| *byte != 0)).collect()
}

fn appended(number: u64) -> Record {
    let mut builder = BatchBuilder::new(500, ProducerId(9), Sequence(number * 2));
    for tag in ["a", "b"] {
        let message = NewMessage::<&str> {
            tag: Some(tag),
            keys: &["k"],
            properties: &[],
            born_ms: 500,
            ..NewMessage::default()
        };
        builder.push(&message, b"body").expect("a small message fits");
    }
    let queue = QueueId {
        topic: TopicId(3),
        index: QueueIndex((number % 3) as u16),
    };
    Record {
        at: Now {
            wall_ms: 1_700_000_000_000,
            mono_ms: 12,
        },
        change: Change::Appended {
            queue,
            first: QueueOffset(number / 3 * 2),
            batch: builder.finish(),
        },
    }
}

fn operated(operation: Operation) -> Change {
    Change::Operated(Operated {
        by: "ops-1".into(),
        operation,
    })
}

fn records() -> Vec<Record> {
    let queue = QueueId {
        topic: TopicId(3),
        index: QueueIndex(1),
    };
    let (cursor, pass) = (CursorId { group: GroupId(4), queue }, Pass(2));
    let offsets = OffsetRange {
        first: QueueOffset(7),
        end: QueueOffset(19),
    };
    let leases = vec![
        LeaseRange {
            offsets,
            attempt: Attempt(1),
        },
        LeaseRange {
            offsets,
            attempt: Attempt(2),
        },
    ];
    let starts = vec![
        QueueStart {
            queue,
            offset: QueueOffset(5)
        };
        3
    ];
    let filter = Filter::Plugin {
        plugin: "sql".into(),
        expression: "price > 100.0".into(),
    };
    let due = Due {
        at_ms: 1_800_000_000_000,
        number: QueueOffset(41),
    };
    let parked = Parked {
        offset: QueueOffset(8),
        group: 0xfeed,
        priority: 3,
        judged: true,
    };
    let changes = [
        Change::Opened { epoch: Epoch(2) },
        Change::Subscribed {
            group: GroupId(4),
            topic: TopicId(3),
            filter,
            starts,
        },
        Change::Appended {
            queue,
            first: QueueOffset(100),
            batch: Bytes::from_static(&[1; 90]),
        },
        Change::Granted {
            cursor,
            pass,
            priority: 9,
            holder: Holder::Stream { member: "m".into() },
            leases: leases.clone(),
            frontier: QueueOffset(20),
            expires_mono_ms: 99,
        },
        Change::FrontierMoved {
            cursor,
            pass,
            priority: 0,
            frontier: QueueOffset(20),
            parked: vec![parked; 3],
        },
        Change::Expiring {
            queue,
            first: QueueOffset(7),
            end: QueueOffset(9),
        },
        Change::DeadlinesFound {
            cursor,
            pass,
            priority: 9,
            deadlines: vec![Deadline { offsets, expires_ms: 7 }; 3],
        },
        Change::Expired {
            cursor,
            pass,
            priority: 1,
            messages: leases.clone(),
            fate: OnExpired::DeadLetter,
        },
        Change::Prioritized {
            queue,
            first: QueueOffset(7),
            end: QueueOffset(9),
            priorities: 0b10_0000_0001,
        },
        Change::Settled {
            cursor,
            pass,
            offsets: vec![offsets; 3],
        },
        Change::Returned {
            cursor,
            pass,
            leases: leases.clone(),
            due_mono_ms: 7,
            reason: ReturnReason::Nacked,
        },
        Change::PluginBound {
            name: "sql".into(),
            digest: Digest([7; 32]),
            limits: PluginLimits {
                fuel_per_run: 1,
                fuel_per_message: 2,
                run_ms: 3,
                memory_bytes: 4,
            },
            on_failure: OnFailure::Skip,
        },
        Change::CulpritDecided {
            cursor,
            pass,
            priority: 4,
            offset: QueueOffset(7),
            digest: Digest([7; 32]),
            reason: "it trapped".into(),
            fate: Fate::DeadLettered {
                to: queue,
                at_offset: QueueOffset(9),
                batch: Bytes::from_static(&[1; 30]),
            },
        },
        Change::SubscriptionHeld {
            group: GroupId(4),
            topic: TopicId(3),
            digest: Digest([7; 32]),
            reason: "it ran too long".into(),
        },
        operated(Operation::Paused {
            group: GroupId(4),
            topic: Some(TopicId(3)),
        }),
        operated(Operation::Unpaused {
            group: GroupId(4),
            topic: None,
        }),
        operated(Operation::TopicGrown {
            topic: TopicId(3),
            ends: vec![QueueOffset(7); 2],
            queues: 4,
            groups: vec![GroupId(4)],
        }),
        operated(Operation::DeadLettersDealt {
            from: queue,
            dealt: vec![offsets],
            back: vec![SentBack {
                cursor,
                pass,
                priority: 9,
                messages: leases,
            }],
        }),
        operated(Operation::Skipped {
            cursor,
            pass,
            offset: QueueOffset(7),
        }),
        Change::Delayed {
            topic: TopicId(3),
            first: QueueOffset(40),
            due_ms: vec![1_800_000_000_000; 3],
            batch: Bytes::from_static(&[1; 90]),
        },
        Change::Released {
            queue,
            first: QueueOffset(100),
            due: vec![due; 3],
            batch: Bytes::from_static(&[1; 90]),
        },
        Change::Recalled { topic: TopicId(3), due },
    ];
    let transactions = transactions(due).into_iter().map(Change::Transaction).chain(broadcast::changes());
    let given_ids = [
        GivenIds::Stored {
            queue,
            prepared: false,
            ids: vec![
                GivenId {
                    hash: 1 << 100,
                    offset: QueueOffset(100),
                    due_ms: 0
                };
                3
            ],
        },
        GivenIds::Forgotten { minute: 9 },
    ];
    changes
        .into_iter()
        .chain(transactions)
        .chain(given_ids.map(Change::GivenIds))
        .chain(parts::changes())
        .chain([backup::change()])
        .map(|change| Record {
            at: Now {
                wall_ms: 1_700_000_000_000,
                mono_ms: 12,
            },
            change,
        })
        .collect()
}

fn transactions(due: Due) -> Vec<Transaction> {
    let message = Prepared { topic: TopicId(3), due };
    let batch = Bytes::from_static(&[1; 90]);
    vec![
        Transaction::Prepared {
            topic: TopicId(3),
            first: QueueOffset(40),
            due_ms: vec![0, 1_800_000_000_000],
            batch: batch.clone(),
        },
        Transaction::Committed {
            messages: vec![message; 2],
            by: "operator".into(),
        },
        Transaction::RolledBack {
            messages: vec![message],
            by: String::new(),
        },
        Transaction::Asked {
            topic: TopicId(3),
            asked: vec![Asked {
                number: QueueOffset(40),
                asks: 2,
            }],
        },
        Transaction::GivenUp {
            message,
            to: QueueId::default(),
            at_offset: QueueOffset(4),
            batch: batch.clone(),
        },
        Transaction::Revived {
            message,
            number: QueueOffset(44),
            batch,
            by: "operator".into(),
        },
    ]
}
