//! Sidecars that are broken, missing or torn by a crash: each is made again, and none is believed that is not whole.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use bytes::Bytes;
use sluice_log::{FaultyStorage, LogConfig, LogWriter, Opened, Storage};
use sluice_protocol::ids::{Position, QueueOffset};
use support::{append, appended, batch, config, open, open_with, queue};

/// One frame with a batch of two messages for each of eight queues.
fn frame(number: u64) -> Vec<Bytes> {
    let record = |index: u16| {
        let sequence = number * 16 + u64::from(index) * 2;
        appended(2_000, index, number * 2, batch(sequence, &["a", "b"]))
    };
    (0..8).map(record).collect()
}

/// A new log with so many of these frames, all durable.
fn filled(storage: &FaultyStorage, frames: u64) -> LogWriter {
    let mut writer = open(storage).unwrap().writer;
    for number in 0..frames {
        append(&mut writer, &frame(number));
        writer.sync().unwrap();
    }
    writer
}

/// Lets the disk fail when it is next written to, or next synced.
fn fail(storage: &FaultyStorage, seed: u64) {
    match seed % 2 {
        0 => storage.fail_next_sync(),
        _ => storage.fail_next_write(),
    }
}

/// How many batches of each queue can be found.
fn found(storage: &FaultyStorage) -> Vec<usize> {
    let reader = open(storage).unwrap().reader;
    let all = |index| reader.batches(queue(index), QueueOffset(0), QueueOffset(u64::MAX));
    (0..8).map(|index| all(index).unwrap().len()).collect()
}

fn sidecars(storage: &FaultyStorage) -> Vec<String> {
    let names = storage.list().unwrap().into_iter().map(|entry| entry.name);
    names.filter(|name| name.starts_with("index-")).collect()
}

#[test]
fn sidecars_that_are_broken_or_missing_are_made_again() {
    let storage = FaultyStorage::new(1);
    let mut writer = filled(&storage, 12);
    writer.begin_checkpoint(writer.end()).unwrap();
    writer.finish_checkpoint().unwrap();
    drop(writer);
    let sidecars = sidecars(&storage);
    assert!(sidecars.len() > 2);
    for (index, name) in sidecars.iter().enumerate() {
        match index % 3 {
            0 => storage.flip(name, 57, 1),
            1 => storage.truncate(name, 20),
            _ => storage.remove(name).unwrap(),
        }
    }
    assert_eq!(found(&storage), [12; 8]);
}

#[test]
fn a_sidecar_that_a_crash_tore_while_its_segment_was_sealed_is_made_again() {
    let seals = |frames: &u64| {
        let storage = FaultyStorage::new(0);
        filled(&storage, *frames);
        !sidecars(&storage).is_empty()
    };
    let sealing = (1..).find(seals).unwrap();
    for seed in 0..200 {
        let storage = FaultyStorage::new(seed);
        let mut writer = filled(&storage, sealing - 1);
        fail(&storage, seed);
        writer.append(writer.end(), &frame(sealing)).unwrap_err();
        storage.crash();
        drop(writer);
        assert_eq!(found(&storage), [sealing as usize - 1; 8], "seed {seed}");
    }
}

#[test]
fn a_sidecar_that_a_crash_tore_while_it_was_made_again_is_made_again() {
    for seed in 0..200 {
        let storage = FaultyStorage::new(seed);
        let mut writer = filled(&storage, 12);
        writer.begin_checkpoint(writer.end()).unwrap();
        writer.finish_checkpoint().unwrap();
        storage.crash();
        drop(writer);
        storage.remove(&sidecars(&storage)[0]).unwrap();
        fail(&storage, seed);
        assert!(open(&storage).is_err(), "seed {seed}");
        storage.crash();
        assert_eq!(found(&storage), [12; 8], "seed {seed}");
    }
}

/// Somebody removes all sidecars while the log is open.
fn lose_sidecars(storage: &FaultyStorage) {
    let sidecars = sidecars(storage);
    assert!(!sidecars.is_empty());
    sidecars.iter().for_each(|name| storage.remove(name).unwrap());
}

#[test]
fn retention_takes_a_segment_whose_sidecar_somebody_removed_and_the_log_goes_on() {
    let storage = FaultyStorage::new(1);
    let mut writer = filled(&storage, 12);
    writer.begin_checkpoint(writer.end()).unwrap();
    writer.finish_checkpoint().unwrap();
    lose_sidecars(&storage);
    assert!(writer.retain(|_| None).unwrap() > 2, "what few queues they hold is known without");
    append(&mut writer, &frame(12));
    writer.sync().unwrap();
    storage.crash();
    drop(writer);
    assert!(
        found(&storage).iter().all(|found| (1..=12).contains(found)),
        "what was written last is there"
    );
}

#[test]
fn retention_by_age_passes_over_a_segment_whose_sidecar_is_lost() {
    let storage = FaultyStorage::new(1);
    // Segments with more queues than are kept in memory: what they hold is in their sidecars alone.
    let config = LogConfig {
        segment_bytes: 16 << 10,
        ..config()
    };
    let Opened { mut writer, reader, .. } = open_with(&storage, config).unwrap();
    let queues: Vec<u16> = (0..200).collect();
    for &index in &queues {
        append(&mut writer, &[appended(2_000, index, 0, batch(u64::from(index), &["a"]))]);
    }
    writer.sync().unwrap();
    let expired = || reader.expired(Position(0), 3_000, |_| Some(3_000)).map(|expired| expired.len());
    lose_sidecars(&storage);
    let active = expired().unwrap();
    assert!((1..200).contains(&active), "of the segment that is written: {active}");
}
