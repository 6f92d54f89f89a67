//! A full disk: what does not fit is not in the log, what was confirmed stays, and the writer goes on when there is room.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use proptest::prelude::*;
use sluice_log::{Ending, FaultyStorage, LogError, inspect};
use support::{append, appended, batch, numbered, numbers, open};

#[test]
fn an_append_that_finds_no_room_changes_nothing_and_may_be_made_again() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    append(&mut opened.writer, &[numbered(0)]);
    opened.writer.sync().unwrap();
    storage.full_after(Some(0));
    let end = opened.writer.end();
    let records: Vec<_> = (1..90).map(numbered).collect();
    let error = opened.writer.append(end, &records).unwrap_err();
    assert!(error.is_full() && matches!(error, LogError::NoRoom { .. }), "{error}");
    assert_eq!((opened.writer.end(), opened.writer.synced()), (end, end));
    assert_eq!(inspect(&storage).unwrap().ending, Ending::Clean);
    assert!(matches!(opened.writer.begin_checkpoint(end), Err(LogError::NoRoom { .. })));
    storage.full_after(None);
    append(&mut opened.writer, &[numbered(1)]);
    opened.writer.sync().unwrap();
    opened.writer.begin_checkpoint(end).unwrap();
    opened.writer.finish_checkpoint().unwrap();
    append(&mut opened.writer, &records[1..]);
    opened.writer.sync().unwrap();
    storage.crash();
    drop(opened);
    assert_eq!(numbers(open(&storage).unwrap()), (1..90).collect::<Vec<_>>());
}

#[test]
fn a_checkpoint_without_room_is_given_up_and_the_one_before_counts() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    let mut checkpoint = |entry: u64, room: Option<u64>| {
        storage.full_after(room);
        let end = opened.writer.end();
        opened.writer.begin_checkpoint(end)?;
        opened.writer.checkpoint_slice(&[numbered(entry)])?;
        opened.writer.finish_checkpoint()
    };
    checkpoint(1, None).unwrap();
    for room in [0, 48, 90, 108] {
        assert!(
            matches!(checkpoint(2, Some(room)), Err(LogError::NoRoom { .. })),
            "room for {room} bytes"
        );
    }
    storage.full_after(None);
    storage.crash();
    drop(opened);
    let opened = open(&storage).unwrap();
    assert_eq!(opened.recovery.checkpoint_entries, [numbered(1)]);
}

#[test]
fn retention_makes_room_on_a_full_disk() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    for number in 0..60 {
        append(&mut opened.writer, &[appended(2_000, 0, number, batch(number, &["a"]))]);
    }
    opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
    opened.writer.finish_checkpoint().unwrap();
    storage.full_after(Some(0));
    assert!(opened.writer.retain(|_| None).unwrap() > 2);
    storage.full_after(None);
    append(&mut opened.writer, &[numbered(7)]);
    opened.writer.sync().unwrap();
    storage.crash();
    drop(opened);
    assert_eq!(numbers(open(&storage).unwrap()), [7]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each step: how many records, for how many bytes there is room, whether it is synced, whether there is a crash.
    #[test]
    fn wherever_the_room_ends_exactly_the_appended_is_there(
        seed in any::<u64>(),
        steps in prop::collection::vec((1..60_u64, prop::option::of(0..3_000_u64), any::<bool>(), prop::bool::weighted(0.1)), 1..60),
    ) {
        let storage = FaultyStorage::new(seed);
        let mut opened = open(&storage).unwrap();
        let (mut synced, mut written) = (0, 0);
        for (count, room, sync, crash) in steps {
            storage.full_after(room);
            let records: Vec<_> = (written..written + count).map(numbered).collect();
            let end = opened.writer.end();
            match opened.writer.append(end, &records) {
                Ok(_) => written += count,
                Err(error) => {
                    prop_assert!(matches!(error, LogError::NoRoom { .. }), "{}", error);
                    prop_assert_eq!(opened.writer.end(), end);
                }
            }
            storage.full_after(None);
            if sync {
                opened.writer.sync().unwrap();
                synced = written;
            }
            if crash {
                storage.crash();
                drop(opened);
                // A log that begins again finds the numbers in order, all that was synced and nothing that was not appended.
                let replayed = numbers(open(&storage).unwrap());
                let count = replayed.len() as u64;
                prop_assert_eq!(replayed, (0..count).collect::<Vec<_>>());
                prop_assert!(count >= synced && count <= written, "{} is not within {}..={}", count, synced, written);
                opened = open(&storage).unwrap();
                (synced, written) = (count, count);
            }
        }
    }
}
