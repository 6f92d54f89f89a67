//! The reserve: what is written when there is no room for another segment, and how it is made good.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use proptest::prelude::*;
use sluice_log::{FaultyStorage, LogError, Opened};
use sluice_protocol::ids::QueueOffset;
use support::{append, appended, batch, config, numbered, numbers, open, queue};

/// Appends numbered records, each in a frame of its own, until there is no room; how many there were.
fn fill(opened: &mut Opened, from: u64) -> u64 {
    for number in from.. {
        let end = opened.writer.end();
        match opened.writer.append(end, &[numbered(number)]) {
            Ok(_) => drop(opened.writer.sync().unwrap()),
            Err(LogError::NoRoom { .. }) => return number - from,
            Err(error) => panic!("{error}"),
        }
    }
    unreachable!("a disk has an end")
}

#[test]
fn without_room_for_another_segment_two_are_in_reserve() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    assert!(opened.writer.has_reserve());
    storage.limit(Some(0));
    let begun = opened.writer.end();
    let in_active = (0..).take_while(|number| {
        append(&mut opened.writer, &[numbered(*number)]);
        opened.writer.has_reserve()
    });
    let in_active = in_active.count() as u64;
    assert!(
        opened.writer.end().0 - begun.0 > config().segment_bytes / 2,
        "the active segment goes first"
    );
    assert_eq!(opened.writer.reserve_segments(), 1);
    let written = in_active + 1 + fill(&mut opened, in_active + 1);
    assert!(opened.writer.end().0 - begun.0 > 5 * config().segment_bytes / 2);
    assert!(matches!(opened.writer.replenish(), Err(LogError::NoRoom { .. })));
    storage.crash();
    drop(opened);
    assert!(open(&storage).err().unwrap().is_full(), "there is no room for an opening frame");
    storage.limit(None);
    let opened = open(&storage).unwrap();
    assert!(opened.writer.has_reserve(), "all goes on by itself when there is room");
    storage.crash();
    assert_eq!(numbers(open(&storage).unwrap()), (0..written).collect::<Vec<_>>());
}

#[test]
fn a_log_with_a_reserve_opens_on_a_full_disk_and_goes_on() {
    let storage = FaultyStorage::new(1);
    drop(open(&storage).unwrap());
    storage.restart();
    storage.limit(Some(0));
    for number in 0..40 {
        let mut opened = open(&storage).unwrap();
        append(&mut opened.writer, &[numbered(number)]);
        opened.writer.sync().unwrap();
        storage.crash();
    }
    assert_eq!(numbers(open(&storage).unwrap()), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_sidecar_without_room_is_in_memory_until_there_is() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    storage.limit(Some(0));
    let mut stored = 0;
    while opened.writer.reserve_segments() > 0 {
        append(&mut opened.writer, &[appended(2_000, 0, stored, batch(stored, &["a"]))]);
        stored += 1;
    }
    opened.writer.sync().unwrap();
    let sidecars = || {
        (0..1 << 15)
            .filter(|base| storage.contents(&format!("index-{base:016x}")).is_some())
            .count()
    };
    let found = |opened: &Opened| {
        let places = opened.reader.batches(queue(0), QueueOffset(0), QueueOffset(stored)).unwrap();
        places.iter().map(|place| place.first.0).collect::<Vec<_>>()
    };
    assert_eq!((sidecars(), found(&opened)), (0, (0..stored).collect()));
    storage.limit(Some(100));
    assert!(matches!(opened.writer.replenish(), Err(LogError::NoRoom { .. })));
    storage.restart();
    drop(opened);
    let mut opened = open(&storage).unwrap();
    assert_eq!(
        (sidecars(), found(&opened)),
        (0, (0..stored).collect()),
        "a start goes without them too"
    );
    storage.limit(None);
    opened.writer.replenish().unwrap();
    assert_eq!((sidecars(), found(&opened)), (2, (0..stored).collect()));
    assert!(opened.writer.has_reserve());
}

#[test]
fn what_retention_frees_goes_to_the_reserve_first() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    for number in 0..60 {
        append(&mut opened.writer, &[appended(2_000, 0, number, batch(number, &["a"]))]);
    }
    opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
    opened.writer.finish_checkpoint().unwrap();
    storage.limit(Some(0));
    while opened.writer.has_reserve() {
        append(&mut opened.writer, &[numbered(7)]);
    }
    assert!(opened.writer.retain(|_| None).unwrap() > 2);
    opened.writer.replenish().unwrap();
    assert!(opened.writer.has_reserve());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each step: how many records, for how many bytes more there is room on the disk, whether there is a crash.
    #[test]
    fn while_segments_are_in_reserve_everything_finds_room(
        seed in any::<u64>(),
        steps in prop::collection::vec((1..30_u64, prop::option::of(0..9_000_u64), prop::bool::weighted(0.1)), 1..80),
    ) {
        let storage = FaultyStorage::new(seed);
        let mut opened = open(&storage).unwrap();
        let mut written = 0;
        for (count, room, crash) in steps {
            storage.limit(room);
            let records: Vec<_> = (written..written + count).map(numbered).collect();
            let (end, reserve) = (opened.writer.end(), opened.writer.reserve_segments());
            match opened.writer.append(end, &records) {
                Ok(_) => written += count,
                Err(error) => prop_assert!(error.is_full() && reserve == 0, "{} with {} in reserve", error, reserve),
            }
            opened.writer.sync().unwrap();
            let replenished = opened.writer.replenish();
            prop_assert_eq!(opened.writer.has_reserve(), replenished.is_ok());
            if crash {
                storage.crash();
                drop(opened);
                storage.limit(None);
                prop_assert_eq!(numbers(open(&storage).unwrap()), (0..written).collect::<Vec<_>>());
                opened = open(&storage).unwrap();
            }
        }
    }
}
