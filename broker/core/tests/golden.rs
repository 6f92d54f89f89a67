//! The checked-in entries of a checkpoint, added and never edited: what is written today must be these bytes, and they must still be read.

#[path = "golden/changes.rs"]
mod changes;
mod harness;

use std::path::PathBuf;
use std::{env, fs};

use changes::{broadcast, expiry, given_ids, lanes, losses, parts, restorations, transactions};
use harness::batch;
use sluice_core::state::State;
use sluice_log::record::*;
use sluice_protocol::ids::{Attempt, Digest, Epoch, GroupId, Pass, Position, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, Writer};

const TOPIC: TopicId = TopicId(3);
const DEAD_LETTERS: TopicId = TopicId(4);
const GROUP: GroupId = GroupId(7);

fn queue(topic: TopicId) -> QueueId {
    QueueId {
        topic,
        index: QueueIndex(0),
    }
}

fn offsets(first: u64, end: u64) -> OffsetRange {
    OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(end),
    }
}

fn topic(id: TopicId, name: &str) -> Change {
    let settings = TopicSettings {
        queues: 1,
        retention_ms: 86_400_000,
        retention_bytes: 1 << 30,
        ttl_ms: 0,
        on_expired: OnExpired::Skip,
    };
    Change::TopicCreated {
        topic: id,
        name: name.to_owned(),
        settings,
    }
}

/// A history that leaves an entry of every kind, with something in each of its fields.
fn history() -> Vec<Change> {
    let cursor = CursorId {
        group: GROUP,
        queue: queue(TOPIC),
    };
    let pass = Pass(1);
    let lease = |first, end| LeaseRange {
        offsets: offsets(first, end),
        attempt: Attempt(1),
    };
    let granted = |holder, first, end| Change::Granted {
        cursor,
        priority: 0,
        pass,
        holder,
        leases: vec![lease(first, end)],
        frontier: QueueOffset(end),
        expires_mono_ms: 60_000,
    };
    let member = || "member".to_owned();
    vec![
        Change::Opened { epoch: Epoch(2) },
        topic(TOPIC, "orders"),
        topic(DEAD_LETTERS, "%DLQ%billing"),
        Change::GroupCreated {
            group: GROUP,
            name: "billing".to_owned(),
            settings: GroupSettings {
                attempts_max: 16,
                backoff: Backoff::Table {
                    waits_ms: vec![1_000, 5_000, 10_000],
                },
                start: StartPoint::Time { wall_ms: -5 },
                ordered: false,
                on_exhausted: OnExhausted::DeadLetter,
                oldest_every: OLDEST_EVERY,
                sharing: Sharing::Shared,
            },
        },
        Change::PluginBound {
            name: "sql".to_owned(),
            digest: Digest([0xab; 32]),
            limits: PluginLimits {
                fuel_per_run: 10_000_000,
                fuel_per_message: 650_000,
                run_ms: 1_000,
                memory_bytes: 16 << 20,
            },
            on_failure: OnFailure::Skip,
        },
        Change::Appended {
            queue: queue(TOPIC),
            first: QueueOffset(0),
            batch: batch(9, 0, 12),
        },
        Change::Subscribed {
            group: GROUP,
            topic: TOPIC,
            filter: Filter::Plugin {
                plugin: "sql".to_owned(),
                expression: "price > 100".to_owned(),
            },
            starts: vec![QueueStart {
                queue: queue(TOPIC),
                offset: QueueOffset(0),
            }],
        },
        granted(Holder::Stream { member: member() }, 0, 5),
        granted(Holder::Receive { member: member() }, 6, 10),
        Change::Settled {
            cursor,
            pass,
            offsets: vec![offsets(1, 3)],
        },
        Change::Returned {
            cursor,
            pass,
            leases: vec![lease(4, 5)],
            due_mono_ms: 1_500,
            reason: ReturnReason::Nacked,
        },
        Change::DeadLettered {
            cursor,
            pass,
            offset: QueueOffset(3),
            to: queue(DEAD_LETTERS),
            at_offset: QueueOffset(0),
            batch: batch(9, 3, 1),
        },
        // The lease of a crash's other side settled ahead of the frontier.
        Change::Settled {
            cursor,
            pass,
            offsets: vec![offsets(11, 12)],
        },
        Change::Trimmed {
            queue: queue(TOPIC),
            start: QueueOffset(1),
            lost: Vec::new(),
        },
    ]
}

/// What version 2 holds beyond the above: a message that is held for a failure, and an alarm.
fn failures() -> Vec<Change> {
    let cursor = CursorId {
        group: GROUP,
        queue: queue(TOPIC),
    };
    vec![
        Change::CulpritDecided {
            cursor,
            priority: 0,
            pass: Pass(1),
            offset: QueueOffset(5),
            digest: Digest([0xab; 32]),
            reason: "it trapped".to_owned(),
            fate: Fate::Held,
        },
        Change::SubscriptionHeld {
            group: GROUP,
            topic: TOPIC,
            digest: Digest([0xab; 32]),
            reason: "it ran too long".to_owned(),
        },
    ]
}

/// Messages that wait for their time, one that does no more, and a producer that sent them.
fn delays() -> Vec<Change> {
    let due = |at_ms, number| Due {
        at_ms,
        number: QueueOffset(number),
    };
    vec![
        topic(TOPIC, "orders"),
        Change::Delayed {
            topic: TOPIC,
            first: QueueOffset(0),
            due_ms: vec![1_800_000_000_123, 1_800_000_000_000, 1_700_000_000_500],
            batch: batch(9, 0, 3),
        },
        Change::Released {
            queue: queue(TOPIC),
            first: QueueOffset(0),
            due: vec![due(1_700_000_000_500, 2)],
            batch: batch(9, 2, 1),
        },
    ]
}
fn state(changes: Vec<Change>) -> State {
    let mut state = State::default();
    for (nth, change) in changes.into_iter().enumerate() {
        let at = Now {
            wall_ms: 1_700_000_000_000 + nth as i64,
            mono_ms: nth as u64,
        };
        state.apply(Position(64 * (nth as u64 + 1)), &Record { at, change });
    }
    state
}

/// All entries in their order, each behind its length, which are of these kinds.
fn written(state: &State, expected: &[u8]) -> Vec<u8> {
    let mut out = Writer::with_capacity(4096);
    let (mut last, mut kinds) = (None, Vec::new());
    while let Some(key) = state.next_key(last.as_ref()) {
        let entry = state.encode_entry(&key).expect("a key that state just named has an entry");
        kinds.push(entry[0]);
        out.u32(entry.len() as u32).bytes(&entry);
        last = Some(key);
    }
    kinds.dedup();
    assert_eq!(kinds, expected, "a kind of entry is missing in the golden file");
    out.finish().to_vec()
}

fn restored(golden: &[u8]) -> State {
    let (mut restored, mut from) = (State::default(), Reader::new(golden));
    while from.remaining() > 0 {
        let bytes = from.u32().expect("a length") as usize;
        restored.restore(from.bytes(bytes).expect("an entry")).expect("an entry");
    }
    restored
}

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name)
}

#[test]
fn every_kind_of_entry_is_written_and_read_as_ever() {
    check("entries-2.bin", &state([history(), failures()].concat()), &[1, 2, 3, 4, 5, 6, 7, 8]);
    check("entries-calendar-1.bin", &state(delays()), &[1, 2, 3, 7, 9, 10]);
    check("entries-transaction-1.bin", &state(transactions()), &[1, 2, 3, 7, 9, 10, 13, 14]);
    check("entries-given-ids-1.bin", &state(given_ids()), &[1, 18]);
    check("entries-restored-1.bin", &state(restorations()), &[1, 22]);
    check("entries-broadcast-1.bin", &state(broadcast()), &[1, 4]);
}

/// What operators paused, and the dead letters that they dealt with.
#[test]
fn entries_of_what_operators_do_are_written_and_read_as_ever() {
    let paused = |topic| {
        Change::Operated(Operated {
            by: "ops-1".to_owned(),
            operation: Operation::Paused { group: GROUP, topic },
        })
    };
    let dealt = Change::Operated(Operated {
        by: "ops-1".to_owned(),
        operation: Operation::DeadLettersDealt {
            from: queue(DEAD_LETTERS),
            dealt: vec![offsets(0, 3), offsets(5, 6)],
            back: Vec::new(),
        },
    });
    check(
        "operated-1.bin",
        &state(vec![paused(None), paused(Some(TOPIC)), dealt]),
        &[1, 15, 16],
    );
}

/// Where the passes of a group began that did not begin with the first message of a queue.
#[test]
fn entries_of_where_passes_began_are_written_and_read_as_ever() {
    let start = |index, offset| QueueStart {
        queue: QueueId {
            topic: TOPIC,
            index: QueueIndex(index),
        },
        offset: QueueOffset(offset),
    };
    let subscribed = Change::Subscribed {
        group: GROUP,
        topic: TOPIC,
        filter: Filter::All,
        starts: vec![start(0, 12), start(1, 0), start(2, 7)],
    };
    let sought = Change::Sought {
        group: GROUP,
        topic: TOPIC,
        pass: Pass(2),
        starts: vec![start(1, 5), start(2, 0)],
    };
    check("begun-1.bin", &state(vec![subscribed, sought]), &[1, 5, 6]);
}

/// A topic that grew twice, and a group that reads it.
#[test]
fn entries_of_a_topic_that_grew_are_written_and_read_as_ever() {
    let grown = |ends: &[u64], queues| {
        Change::Operated(Operated {
            by: "ops-1".to_owned(),
            operation: Operation::TopicGrown {
                topic: TOPIC,
                ends: ends.iter().copied().map(QueueOffset).collect(),
                queues,
                groups: vec![GROUP],
            },
        })
    };
    let changes = vec![topic(TOPIC, "orders"), grown(&[12], 2), grown(&[20, 5], 4)];
    check("growth-1.bin", &state(changes), &[1, 2, 3, 6, 17]);
}

fn check(name: &str, state: &State, kinds: &[u8]) {
    let (path, entries) = (path(name), written(state, kinds));
    if env::var_os("SLUICE_ADD_GOLDENS").is_some() && !path.exists() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("make the folder");
        fs::write(&path, &entries).expect("write the golden file");
    }
    let golden = fs::read(&path).expect("read the golden file");
    assert!(golden == entries, "golden/{name} holds other bytes than are written now");
    assert_eq!(restored(&golden), *state);
}
#[test]
fn entries_of_lanes_are_written_and_read_as_ever() {
    let path = path("entries-lanes-1.bin");
    let state = state(lanes());
    let (mut out, mut last) = (Writer::with_capacity(4096), None);
    while let Some(key) = state.next_key(last.as_ref()) {
        let entry = state.encode_entry(&key).expect("a key that state just named has an entry");
        out.u32(entry.len() as u32).bytes(&entry);
        last = Some(key);
    }
    let entries = out.finish().to_vec();
    if env::var_os("SLUICE_ADD_GOLDENS").is_some() && !path.exists() {
        fs::write(&path, &entries).expect("write the golden file");
    }
    let golden = fs::read(&path).expect("read the golden file");
    assert!(
        golden == entries,
        "golden/entries-lanes-1.bin holds other bytes than are written now"
    );
    assert_eq!(restored(&golden), state);
}
#[test]
fn entries_of_expiry_are_written_and_read_as_ever() {
    check("entries-expiry-1.bin", &state(expiry()), &[1, 2, 3, 5, 6]);
}

#[test]
fn entries_of_parts_are_written_and_read_as_ever() {
    check("entries-parts-1.bin", &state(parts()), &[1, 2, 3, 7, 9, 10, 19, 20]);
}

#[test]
fn entries_of_losses_are_written_and_read_as_ever() {
    check("entries-losses-1.bin", &state(losses()), &[1, 2, 3, 5, 6]);
}

#[test]
fn entries_of_version_1_are_read_as_they_were_meant() {
    let mut changes = history();
    for change in &mut changes {
        if let Change::PluginBound { on_failure, .. } = change {
            *on_failure = OnFailure::DeadLetter;
        }
    }
    let golden = fs::read(path("entries-1.bin")).expect("read the golden file");
    assert_eq!(restored(&golden), state(changes));
}
