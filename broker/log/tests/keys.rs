//! Messages found by their keys: in the active segment, in sidecars, after a restart, and with few reads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use sluice_log::{FaultyStorage, KeyedRange, LogReader, Storage as _};
use sluice_protocol::batch::key_hash;
use sluice_protocol::ids::QueueOffset;
use support::{append, appended, batch, keyed_batch, open, queue};

fn find(reader: &LogReader, key: &str, index: u16, from: u64, to: u64, max: usize) -> Vec<u64> {
    let wanted = KeyedRange {
        hash: key_hash(key.as_bytes()),
        queue: queue(index),
        from: QueueOffset(from),
        to: QueueOffset(to),
        max,
    };
    reader.keyed(&wanted).unwrap().into_iter().map(|offset| offset.0).collect()
}

/// Two hundred messages in each of two queues, over many segments: message `n` of queue `q` has the keys `n % 7`, `unique-q-n` and, where it is 50, `rare`.
fn filled(storage: &FaultyStorage) -> LogReader {
    let opened = open(storage).unwrap();
    let mut writer = opened.writer;
    for number in 0..200_u64 {
        for index in 0..2_u16 {
            let (seventh, unique) = ((number % 7).to_string(), format!("unique-{index}-{number}"));
            let mut keys = vec![seventh.as_str(), unique.as_str()];
            if number == 50 {
                keys.push("rare");
            }
            let batch = keyed_batch(number * 2 + u64::from(index), &[&keys]);
            append(&mut writer, &[appended(2_000 + number as i64, index, number, batch)]);
        }
        writer.sync().unwrap();
    }
    opened.reader
}

fn holds(reader: &LogReader) {
    assert_eq!(find(reader, "rare", 1, 0, u64::MAX, 10), [50]);
    assert!(find(reader, "rare", 1, 51, u64::MAX, 10).is_empty());
    assert_eq!(find(reader, "rare", 0, 50, 51, 10), [50]);
    assert!(find(reader, "nobody", 0, 0, u64::MAX, 10).is_empty());
    let seventh: Vec<u64> = (20..180).filter(|number| number % 7 == 3).collect();
    assert_eq!(find(reader, "3", 0, 20, 180, 1_000), seventh);
    assert_eq!(find(reader, "3", 0, 20, 180, 5), seventh[..5]);
    for number in 0..200 {
        assert_eq!(find(reader, &format!("unique-1-{number}"), 1, 0, u64::MAX, 10), [number]);
        assert!(find(reader, &format!("unique-1-{number}"), 0, 0, u64::MAX, 10).is_empty());
    }
}

#[test]
fn keys_are_found_by_queue_and_range_before_and_after_a_restart() {
    let storage = FaultyStorage::new(1);
    holds(&filled(&storage));
    holds(&open(&storage).unwrap().reader);
}

#[test]
fn a_message_with_a_key_twice_is_found_once() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    for number in 0..100 {
        let batch = keyed_batch(number, &[&["twice", "other", "twice"]]);
        append(&mut opened.writer, &[appended(2_000, 0, number, batch)]);
        opened.writer.sync().unwrap();
    }
    for max in [1, 7, 99, 100, 1_000] {
        let expected: Vec<u64> = (0..100.min(max as u64)).collect();
        assert_eq!(find(&opened.reader, "twice", 0, 0, u64::MAX, max), expected);
    }
}

/// Makes sidecars that cannot be read any more: they show who reads them.
fn break_sidecars(storage: &FaultyStorage) -> usize {
    let names: Vec<String> = storage.list().unwrap().into_iter().map(|entry| entry.name).collect();
    let sidecars: Vec<_> = names.iter().filter(|name| name.starts_with("index-")).collect();
    for name in &sidecars {
        let bytes = storage.contents(name).unwrap().len();
        storage.overwrite(name, 0, &vec![0xa5; bytes]);
    }
    sidecars.len()
}

#[test]
fn of_a_segment_without_the_key_nothing_is_read_but_the_filter_once() {
    let storage = FaultyStorage::new(1);
    let reader = filled(&storage);
    assert!(find(&reader, "nobody", 0, 0, u64::MAX, 10).is_empty(), "the filters are read");
    assert!(break_sidecars(&storage) > 10);
    let wanted = |number: u32| KeyedRange {
        hash: key_hash(format!("nobody-{number}").as_bytes()),
        queue: queue(0),
        from: QueueOffset(0),
        to: QueueOffset(u64::MAX),
        max: 10,
    };
    // One segment in a hundred looks as if it had the key.
    let unread = (0..1_000).filter(|number| reader.keyed(&wanted(*number)).is_ok()).count();
    assert!(unread > 500, "{unread} of 1,000");
}

#[test]
fn a_segment_without_keys_is_not_looked_at() {
    let storage = FaultyStorage::new(1);
    let opened = open(&storage).unwrap();
    let mut writer = opened.writer;
    for number in 0..100 {
        append(&mut writer, &[appended(2_000, 0, number * 2, batch(number * 2, &["a", "b"]))]);
        writer.sync().unwrap();
    }
    assert!(break_sidecars(&storage) > 3);
    assert!(find(&opened.reader, "a", 0, 0, u64::MAX, 10).is_empty());
}
