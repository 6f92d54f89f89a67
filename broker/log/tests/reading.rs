//! What readers find: by offset, by tag, by time and by id, in memory and on disk.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::sync::Arc;

use sluice_log::record::{Change, CursorId, Record};
use sluice_log::{FaultyStorage, FileStorage, Log, LogConfig, LogError, LogReader, LogWriter, ReadAhead, Start, Storage};
use sluice_protocol::batch::tag_hash;
use sluice_protocol::ids::{GroupId, MessageId, Pass, Position, ProducerId, QueueOffset, Sequence};
use sluice_protocol::units::Now;
use support::{append, appended, batch, config, open, queue};

const ALL: QueueOffset = QueueOffset(u64::MAX);

/// 100 batches of three messages over two queues, one millisecond apart.
fn fill(writer: &mut LogWriter) {
    for number in 0..100_u64 {
        let batch = batch(number * 3, &["a", "b", if number % 10 == 0 { "rare" } else { "c" }]);
        append(
            writer,
            &[appended(2_000 + number as i64, (number % 2) as u16, number / 2 * 3, batch)],
        );
        writer.sync().unwrap();
    }
}

fn check(reader: &LogReader) {
    let places = reader.batches(queue(1), QueueOffset(4), QueueOffset(10)).unwrap();
    assert_eq!(
        places.iter().map(|place| (place.first.0, place.count)).collect::<Vec<_>>(),
        [(3, 3), (6, 3), (9, 3)]
    );
    assert_eq!(reader.batches(queue(1), QueueOffset(0), ALL).unwrap().len(), 50);
    assert_eq!(reader.batches(queue(2), QueueOffset(0), ALL).unwrap().len(), 0);
    for place in &places {
        let attributes = reader.attributes(place).unwrap();
        let whole = reader.batch(place).unwrap();
        assert_eq!((attributes.count(), whole.attributes()), (3, &attributes));
        for _ in 0..2 {
            reader.will_read(place, 0..place.attribute_bytes);
            assert_eq!(reader.sparse_attributes(place).unwrap(), attributes, "read, then kept");
        }
        let bodies = attributes.bodies_range(1..2).unwrap();
        assert_eq!(reader.read(place, bodies.start as u32..bodies.end as u32).unwrap(), "body of b");
    }
    let all = reader.batches(queue(0), QueueOffset(0), ALL).unwrap();
    let mut ahead = ReadAhead::new();
    for (at, place) in all.iter().enumerate() {
        let attributes = ahead.attributes(reader, place, &all[at + 1..]).unwrap();
        assert_eq!(attributes, reader.attributes(place).unwrap());
    }
    let rare = reader
        .tagged(queue(0), QueueOffset(0), ALL, &[tag_hash("rare"), tag_hash("none")])
        .unwrap();
    assert_eq!(rare, (0..10).map(|number| QueueOffset(number * 15 + 2)).collect::<Vec<_>>());
    let few = reader
        .tagged(queue(0), QueueOffset(3), QueueOffset(33), &[tag_hash("rare")])
        .unwrap();
    assert_eq!(few, [QueueOffset(17), QueueOffset(32)]);
    assert_eq!(reader.locate_time(queue(0), 0).unwrap(), QueueOffset(0));
    assert_eq!(reader.locate_time(queue(0), 2_050).unwrap(), QueueOffset(75));
    assert_eq!(reader.locate_time(queue(1), 2_050).unwrap(), QueueOffset(75));
    assert_eq!(reader.locate_time(queue(1), 9_000).unwrap(), QueueOffset(150));
    assert_eq!(reader.locate_time(queue(2), 9_000).unwrap(), QueueOffset(0));
    let id = |sequence| MessageId::new(ProducerId(9), Sequence(sequence));
    assert_eq!(reader.find(id(7)).unwrap(), Some((queue(0), QueueOffset(4))));
    assert_eq!(reader.find(id(299)).unwrap(), Some((queue(1), QueueOffset(149))));
    assert_eq!(reader.find(id(300)).unwrap(), None);
    let queues = reader.queues().unwrap();
    assert_eq!(
        (queues.len(), queues[&queue(1)].first, queues[&queue(1)].end),
        (2, QueueOffset(0), QueueOffset(150))
    );
    let half = reader.locate_size(queue(0), queues[&queue(0)].bytes / 2).unwrap();
    assert!((72..=78).contains(&half.0), "{half:?}");
}

#[test]
fn readers_find_by_offset_tag_time_and_id_before_and_after_a_restart() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    fill(&mut opened.writer);
    check(&opened.reader);
    storage.crash();
    drop(opened);
    check(&open(&storage).unwrap().reader);
}

#[test]
fn the_tail_in_memory_answers_as_the_files_do() {
    let directory = tempfile::tempdir().unwrap();
    let config = LogConfig {
        tail_cache_bytes: 1 << 20,
        ..config()
    };
    let start = Start {
        wall_ms: 1_000,
        random: [1; 24],
    };
    let open = || Log::open(Arc::new(FileStorage::new(directory.path()).unwrap()), config, start).unwrap();
    let mut opened = open();
    fill(&mut opened.writer);
    check(&opened.reader);
    drop(opened);
    check(&open().reader);
}

#[test]
fn what_expired_is_told_by_queue_up_to_the_last_batch_that_is_too_old() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    fill(&mut opened.writer);
    let expired = |reader: &LogReader, behind, since_ms| reader.expired(behind, since_ms, |_| Some(since_ms)).unwrap();
    for since_ms in [1_000, 2_000, 2_001, 2_013, 2_050, 2_099, 2_100, 9_000] {
        let expired = expired(&opened.reader, Position(0), since_ms);
        for number in [0, 1] {
            let first = opened.reader.locate_time(queue(number), since_ms).unwrap();
            let told = expired.get(&queue(number)).copied().unwrap_or_default();
            assert_eq!(told, first, "queue {number} since {since_ms}");
        }
    }
    assert!(opened.reader.expired(Position(0), 2_050, |_| None).unwrap().is_empty());
    let looked_at = opened.reader.sealed_before(2_050);
    assert!(looked_at > Position(0) && looked_at < opened.writer.end());
    assert_eq!(
        expired(&opened.reader, looked_at, 2_050),
        expired(&opened.reader, Position(0), 2_050),
        "what lies before is older, and the last word is behind"
    );
    storage.crash();
    drop(opened);
    let opened = open(&storage).unwrap();
    assert_eq!(opened.reader.sealed_before(2_050), looked_at);
}

/// 400 queues, more than a summary or a block holds: what a segment holds of each is found in its sidecar alone.
#[test]
fn very_many_queues_are_found_in_sidecars() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    let stored = |number: u64| u64::from(number.is_multiple_of(7)) + 1;
    let (mut next, mut sequence) = (vec![0; 400], 0);
    for round in 0..6_u64 {
        let records: Vec<_> = (0..400_u64)
            .filter(|number| !(number + round).is_multiple_of(3))
            .flat_map(|number| (0..stored(number)).map(move |_| number))
            .map(|number| {
                let first = next[number as usize];
                next[number as usize] += 2;
                sequence += 2;
                appended(2_000 + round as i64, number as u16, first, batch(sequence - 2, &["a", "b"]))
            })
            .collect();
        for records in records.chunks(10) {
            append(&mut opened.writer, records);
        }
        opened.writer.sync().unwrap();
    }
    let check = |reader: &LogReader| {
        let queues = reader.queues().unwrap();
        for number in 0..400_u16 {
            let end = QueueOffset(next[usize::from(number)]);
            assert_eq!((queues[&queue(number)].first, queues[&queue(number)].end), (QueueOffset(0), end));
            for from in [0, 1, end.0 / 2, end.0 - 1] {
                let places = reader.batches(queue(number), QueueOffset(from), ALL).unwrap();
                let firsts: Vec<_> = places.iter().map(|place| place.first.0).collect();
                assert_eq!(
                    firsts,
                    (from / 2 * 2..end.0).step_by(2).collect::<Vec<_>>(),
                    "queue {number} from {from}"
                );
            }
            assert_eq!(reader.locate_size(queue(number), u64::MAX).unwrap(), QueueOffset(0));
            assert_eq!(reader.locate_size(queue(number), 0).unwrap(), end);
            let since = reader.locate_time(queue(number), 2_003).unwrap();
            let expired = reader.expired(Position(0), 2_003, |_| Some(2_003)).unwrap();
            assert_eq!(expired.get(&queue(number)).copied().unwrap_or_default(), since);
        }
        for id in (0..sequence).step_by(37) {
            let (found, offset) = reader.find(MessageId::new(ProducerId(9), Sequence(id))).unwrap().unwrap();
            let tagged = reader.tagged(found, offset, QueueOffset(offset.0 + 1), &[tag_hash(["a", "b"][(id % 2) as usize])]);
            assert_eq!(tagged.unwrap(), [offset]);
        }
    };
    check(&opened.reader);
    storage.crash();
    drop(opened);
    check(&open(&storage).unwrap().reader);
}

#[test]
fn what_is_not_synced_is_not_read_unless_exposed() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    let seen = |reader: &LogReader| reader.batches(queue(0), QueueOffset(0), ALL).unwrap().len();
    append(&mut opened.writer, &[appended(2_000, 0, 0, batch(0, &["a"]))]);
    assert_eq!(seen(&opened.reader), 0);
    opened.writer.sync().unwrap();
    assert_eq!(seen(&opened.reader), 1);
    append(&mut opened.writer, &[appended(2_000, 0, 1, batch(1, &["a"]))]);
    opened.writer.expose();
    assert_eq!(seen(&opened.reader), 2);
}

#[test]
fn an_id_that_was_never_stored_is_looked_for_in_memory_alone() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    fill(&mut opened.writer);
    let id = |producer, sequence| MessageId::new(ProducerId(producer), Sequence(sequence));
    // Sidecars that cannot be read any more show who reads them.
    let damage = || {
        for entry in storage.list().unwrap().iter().filter(|entry| entry.name.starts_with("index-")) {
            storage.flip(&entry.name, 60, 1);
        }
    };
    damage();
    assert_eq!(opened.reader.find(id(8, 7)).unwrap(), None, "no such producer");
    assert_eq!(
        opened.reader.find(id(10, 0)).unwrap(),
        None,
        "nor this one, whose id comes after one with a higher sequence"
    );
    assert_eq!(
        opened.reader.find(id(9, 300)).unwrap(),
        None,
        "a sequence that the producer has not come to"
    );
    assert!(opened.reader.find(id(9, 7)).is_err(), "this one must be read");
    damage();
    opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
    opened.writer.finish_checkpoint().unwrap();
    storage.restart();
    drop(opened);
    let opened = open(&storage).unwrap();
    assert_eq!(opened.reader.find(id(8, 7)).unwrap(), None, "after a start each is read once");
    damage();
    assert_eq!(opened.reader.find(id(8, 7)).unwrap(), None);
    assert_eq!(opened.reader.find(id(9, 300)).unwrap(), None);
}

#[test]
fn the_id_of_a_dead_letter_names_its_source() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    append(&mut opened.writer, &[appended(2_000, 0, 0, batch(40, &["a"]))]);
    let change = Change::DeadLettered {
        cursor: CursorId {
            group: GroupId(1),
            queue: queue(0),
        },
        pass: Pass(1),
        offset: QueueOffset(0),
        to: queue(3),
        at_offset: QueueOffset(8),
        batch: batch(40, &["a"]),
    };
    append(
        &mut opened.writer,
        &[Record {
            at: Now {
                wall_ms: 2_001,
                mono_ms: 0,
            },
            change,
        }
        .encode()],
    );
    opened.writer.sync().unwrap();
    let id = MessageId::new(ProducerId(9), Sequence(40));
    assert_eq!(opened.reader.find(id).unwrap(), Some((queue(0), QueueOffset(0))));
    assert_eq!(opened.reader.batches(queue(3), QueueOffset(8), QueueOffset(9)).unwrap().len(), 1);
}

#[test]
fn a_segment_whose_sidecar_is_lost_is_not_taken_for_an_empty_one() {
    let storage = FaultyStorage::new(1);
    // A segment with more queues than are kept in memory.
    let config = LogConfig {
        segment_bytes: 128 << 10,
        ..config()
    };
    let start = Start {
        wall_ms: 1_000,
        random: [1; 24],
    };
    let open = || Log::open(Arc::new(storage.clone()), config, start).unwrap();
    let mut opened = open();
    for number in 0..600_u64 {
        append(&mut opened.writer, &[appended(2_000, number as u16, 0, batch(number, &["a"]))]);
    }
    opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
    opened.writer.finish_checkpoint().unwrap();
    for entry in storage.list().unwrap().iter().filter(|entry| entry.name.starts_with("index-")) {
        storage.remove(&entry.name).unwrap();
    }
    assert!(matches!(
        opened.reader.batches(queue(0), QueueOffset(0), ALL),
        Err(LogError::Damaged { .. })
    ));
    opened.writer.retain(|_| Some(QueueOffset(0))).unwrap();
    drop(opened);
    assert_eq!(open().reader.queues().unwrap().len(), 600, "nothing went");
}

#[test]
fn retention_takes_whole_segments_behind_the_checkpoint_and_nothing_kept() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    fill(&mut opened.writer);
    assert_eq!(
        opened.writer.retain(|_| None).unwrap(),
        0,
        "nothing goes before a checkpoint covers it"
    );
    opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
    opened.writer.finish_checkpoint().unwrap();
    assert_eq!(opened.writer.retain(|_| Some(QueueOffset(0))).unwrap(), 0);
    assert!(opened.writer.retain(|_| Some(QueueOffset(60))).unwrap() > 0);
    let places = opened.reader.batches(queue(0), QueueOffset(0), ALL).unwrap();
    assert!(places[0].first > QueueOffset(0) && places[0].first <= QueueOffset(60));
    assert!(places.iter().all(|place| opened.reader.batch(place).is_ok()));
    storage.crash();
    drop(opened);
    assert_eq!(
        open(&storage).unwrap().reader.batches(queue(0), QueueOffset(0), ALL).unwrap(),
        places
    );
}
