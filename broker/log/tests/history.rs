//! What groups did with a message, found by the index: in the active segment, in sidecars, after a restart, and with few reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use sluice_log::record::{Change, CursorId, Holder, LeaseRange, OffsetRange, Record};
use sluice_log::{FaultyStorage, LogReader, LogWriter, Storage as _};
use sluice_protocol::ids::{Attempt, GroupId, MessageId, Pass, Position, ProducerId, QueueOffset, Sequence};
use sluice_protocol::units::Now;
use support::{append, appended, batch, open, queue};

fn cursor(group: u64, index: u16) -> CursorId {
    CursorId {
        group: GroupId(group),
        queue: queue(index),
    }
}

fn range(first: u64, end: u64) -> OffsetRange {
    OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(end),
    }
}

fn record(wall_ms: i64, change: Change) -> Record {
    let now = Now {
        wall_ms,
        mono_ms: wall_ms as u64,
    };
    Record { at: now, change }
}

fn granted(at_ms: i64, cursor: CursorId, first: u64, end: u64, attempt: u16) -> Record {
    let lease = LeaseRange {
        offsets: range(first, end),
        attempt: Attempt(attempt),
    };
    record(
        at_ms,
        Change::Granted {
            cursor,
            pass: Pass(1),
            priority: 0,
            holder: Holder::Receive { member: "m".to_owned() },
            leases: vec![lease],
            frontier: QueueOffset(end),
            expires_mono_ms: 1 << 40,
        },
    )
}

fn settled(at_ms: i64, cursor: CursorId, first: u64, end: u64) -> Record {
    record(
        at_ms,
        Change::Settled {
            cursor,
            pass: Pass(1),
            offsets: vec![range(first, end)],
        },
    )
}

/// Messages 0 to 200 of two queues; two groups are given each pair of them and settle it a while later, but for every tenth, which they are
/// given once more.
fn filled(storage: &FaultyStorage) -> (LogWriter, LogReader, Vec<Record>) {
    let opened = open(storage).unwrap();
    let (mut writer, mut dealings) = (opened.writer, Vec::new());
    for pair in 0..100_u64 {
        let at_ms = 2_000 + pair as i64;
        let stored = |index: u16| appended(at_ms, index, pair * 2, batch(pair * 4 + u64::from(index) * 2, &["a", "b"]));
        let mut records = vec![stored(0), stored(1)];
        let earlier = pair.checked_sub(9).map(|pair| pair * 2);
        for of in [cursor(1, 0), cursor(1, 1), cursor(2, 1)] {
            dealings.push(granted(at_ms, of, pair * 2, pair * 2 + 2, 1));
            records.extend(dealings.last().map(Record::encode));
            let Some(first) = earlier else { continue };
            dealings.push(match first % 10 {
                0 => granted(at_ms, of, first, first + 1, 2),
                _ => settled(at_ms, of, first, first + 2),
            });
            records.extend(dealings.last().map(Record::encode));
        }
        append(&mut writer, &records);
        writer.sync().unwrap();
    }
    (writer, opened.reader, dealings)
}

/// By hand what the records say of a message.
fn expected(dealings: &[Record], wanted: CursorId, offset: u64) -> Vec<Record> {
    let holds = |range: &OffsetRange| (range.first.0..range.end.0).contains(&offset);
    let concerns = |record: &&Record| match &record.change {
        Change::Granted { cursor, leases, .. } => *cursor == wanted && leases.iter().any(|lease| holds(&lease.offsets)),
        Change::Settled { cursor, offsets, .. } => *cursor == wanted && offsets.iter().any(holds),
        _ => false,
    };
    dealings.iter().filter(concerns).cloned().collect()
}

fn told(reader: &LogReader, cursor: CursorId, offset: u64) -> Vec<Record> {
    let history = reader.history(cursor, QueueOffset(offset), Position(0), 100).unwrap();
    assert!(!history.cut);
    assert!(history.records.is_sorted_by_key(|(position, _)| *position));
    history.records.into_iter().map(|(_, record)| record).collect()
}

fn holds(reader: &LogReader, dealings: &[Record]) {
    for offset in 0..200 {
        for of in [cursor(1, 0), cursor(1, 1), cursor(2, 1), cursor(2, 0)] {
            assert_eq!(told(reader, of, offset), expected(dealings, of, offset));
        }
    }
}

#[test]
fn a_history_is_told_before_and_after_a_restart() {
    let storage = FaultyStorage::new(1);
    let (writer, reader, dealings) = filled(&storage);
    assert!(storage.list().unwrap().len() > 20, "there are many segments");
    holds(&reader, &dealings);
    drop(writer);
    holds(&open(&storage).unwrap().reader, &dealings);
}

#[test]
fn what_is_not_synced_is_not_told() {
    let storage = FaultyStorage::new(1);
    let (mut writer, reader, mut dealings) = filled(&storage);
    let late = settled(9_000, cursor(1, 0), 198, 200);
    append(&mut writer, &[late.encode()]);
    holds(&reader, &dealings);
    writer.sync().unwrap();
    dealings.push(late);
    holds(&reader, &dealings);
}

#[test]
fn a_long_history_is_cut_and_says_so() {
    let storage = FaultyStorage::new(1);
    let (_writer, reader, dealings) = filled(&storage);
    let all = expected(&dealings, cursor(1, 0), 20);
    assert_eq!(all.len(), 2);
    let history = reader.history(cursor(1, 0), QueueOffset(20), Position(0), 1).unwrap();
    assert!(history.cut);
    assert_eq!(history.records[0].1, all[0]);
    let second = reader.history(cursor(1, 0), QueueOffset(20), Position(0), 2).unwrap();
    assert!(!second.cut);
    // What was done before a position is left out, to the stretch that the index knows.
    let since = second.records[1].0;
    let late = reader.history(cursor(1, 0), QueueOffset(20), since, 2).unwrap();
    assert_eq!(late.records.last().map(|(position, _)| *position), Some(since));
}

#[test]
fn a_message_that_waits_is_found_apart_from_those_in_queues() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    let delayed = record(
        1,
        Change::Delayed {
            topic: queue(0).topic,
            first: QueueOffset(5),
            due_ms: vec![9, 9],
            batch: batch(3, &["a", "b"]),
        },
    );
    append(&mut opened.writer, &[delayed.encode()]);
    opened.writer.sync().unwrap();
    let id = MessageId::new(ProducerId(9), Sequence(4));
    let waits = Some((queue(0).topic.calendar(), QueueOffset(6)));
    assert_eq!(
        (opened.reader.find(id).unwrap(), opened.reader.find_waiting(id).unwrap()),
        (None, waits)
    );
    append(&mut opened.writer, &[appended(2, 1, 0, batch(4, &["a"]))]);
    opened.writer.sync().unwrap();
    let found = |reader: &LogReader| (reader.find(id).unwrap(), reader.find_waiting(id).unwrap());
    let both = (Some((queue(1), QueueOffset(0))), waits);
    assert_eq!(found(&opened.reader), both);
    drop(opened.writer);
    assert_eq!(found(&open(&storage).unwrap().reader), both);
}
