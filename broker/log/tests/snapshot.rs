//! A snapshot that is read while the log goes on, segments are let go and written anew, and checkpoints come and go.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use proptest::prelude::*;
use sluice_log::{Ending, FaultyStorage, LogError, LogReader, LogWriter, Restored, Snapshot, Storage, inspect};
use sluice_protocol::ids::{Position, QueueOffset};
use support::{append, appended, batch, open, queue};

/// Stores a message in queue 0 under the next offset.
fn store(writer: &mut LogWriter, offset: u64) {
    append(writer, &[appended(2_000, 0, offset, batch(offset, &["a"]))]);
    writer.sync().unwrap();
}

fn checkpoint(writer: &mut LogWriter) {
    writer.begin_checkpoint(writer.end()).unwrap();
    writer.finish_checkpoint().unwrap();
}

/// Lets go of all that lies before the offset.
fn trim(writer: &mut LogWriter, start: u64) -> usize {
    writer.retain(|_| Some(QueueOffset(start))).unwrap()
}

/// Puts what was read of a snapshot onto a disk of its own.
fn put(disk: &FaultyStorage, snapshot: &Snapshot, file: usize, offset: u64, bytes: &[u8]) {
    let of = &snapshot.files[file];
    let file = match offset {
        0 => disk.create(&of.name, of.room_bytes).unwrap(),
        _ => disk.open(&of.name).unwrap(),
    };
    file.write_at(offset, &[bytes]).unwrap();
    file.sync_data().unwrap();
    disk.sync_directory().unwrap();
}

/// Reads all of a snapshot, doing something else before each piece.
fn copy(snapshot: &Snapshot, piece_bytes: usize, mut between: impl FnMut()) -> Result<FaultyStorage, LogError> {
    let disk = FaultyStorage::new(2);
    for file in 0..snapshot.files.len() {
        between();
        let reader = snapshot.open(file)?;
        let mut offset = 0;
        loop {
            between();
            let piece = reader.read(offset, piece_bytes)?;
            if piece.is_empty() && offset > 0 {
                break;
            }
            put(&disk, snapshot, file, offset, &piece);
            offset += piece.len() as u64;
            if offset >= reader.bytes() {
                break;
            }
        }
    }
    Ok(disk)
}

fn offsets(reader: &LogReader) -> Vec<u64> {
    let places = reader.batches(queue(0), QueueOffset(0), QueueOffset(u64::MAX)).unwrap();
    for place in &places {
        reader.batch(place).unwrap();
    }
    places.iter().map(|place| place.first.0).collect()
}

#[test]
fn a_snapshot_is_the_log_at_its_cut_whatever_happens_while_it_is_read() {
    let disk = FaultyStorage::new(1);
    let mut writer = open(&disk).unwrap().writer;
    for offset in 0..150 {
        store(&mut writer, offset);
        if offset == 70 {
            checkpoint(&mut writer);
        }
    }
    let snapshot = writer.snapshot().unwrap();
    assert_eq!(snapshot.cut, writer.synced());
    let (mut next, mut gone) = (150, 0);
    let copied = copy(&snapshot, 1_000, || {
        store(&mut writer, next);
        next += 1;
        if next % 20 == 0 {
            checkpoint(&mut writer);
        }
        gone += trim(&mut writer, next - 5);
    })
    .unwrap();
    let cut = snapshot.cut;
    assert_eq!(gone, 0, "retention waits");
    drop(snapshot);
    assert!(trim(&mut writer, next - 5) > 5, "and goes on");
    let report = inspect(&copied).unwrap();
    assert_eq!((report.end, report.ending), (cut, Ending::Clean));
    assert!(report.damage.is_empty(), "{:?}", report.damage);
    assert!(report.spares.is_empty(), "what is not in use is not copied");
    copied.restart();
    let opened = open(&copied).unwrap();
    assert!(opened.recovery.next_position > cut, "the opening frame follows the cut");
    assert_eq!(offsets(&opened.reader), (0..150).collect::<Vec<_>>());
}

#[test]
fn what_is_not_durable_is_not_in_a_snapshot() {
    let disk = FaultyStorage::new(1);
    let mut writer = open(&disk).unwrap().writer;
    store(&mut writer, 0);
    append(&mut writer, &[appended(2_000, 0, 1, batch(1, &["a"]))]);
    let snapshot = writer.snapshot().unwrap();
    assert_eq!(snapshot.cut, writer.synced());
    let copied = copy(&snapshot, 1 << 20, || ()).unwrap();
    assert_eq!(offsets(&open(&copied).unwrap().reader), [0]);
}

#[test]
fn a_file_that_nobody_knows_of_is_in_a_snapshot_and_what_does_not_count_is_not() {
    let disk = FaultyStorage::new(1);
    let mut writer = open(&disk).unwrap().writer;
    (0..50).for_each(|offset| store(&mut writer, offset));
    checkpoint(&mut writer);
    let part = disk.create("part-0000000000000007", 0).unwrap();
    part.write_at(0, &[b"what is due next year"]).unwrap();
    writer.begin_checkpoint(writer.end()).unwrap();
    disk.create("lock", 0).unwrap();
    let snapshot = writer.snapshot().unwrap();
    // It may go at once: who has the snapshot has it.
    disk.remove("part-0000000000000007").unwrap();
    writer.finish_checkpoint().unwrap();
    let copied = copy(&snapshot, 7, || ()).unwrap();
    assert_eq!(copied.contents("part-0000000000000007").unwrap(), b"what is due next year");
    let names: Vec<String> = copied.list().unwrap().into_iter().map(|entry| entry.name).collect();
    assert!(!names.contains(&"lock".to_owned()));
    assert_eq!(names.iter().filter(|name| name.starts_with("checkpoint-")).count(), 1);
    assert!(open(&copied).unwrap().recovery.checkpoint_entries.is_empty());
}

#[test]
fn a_snapshot_that_is_given_up_is_not_read_any_further() {
    let disk = FaultyStorage::new(1);
    let mut writer = open(&disk).unwrap().writer;
    (0..60).for_each(|offset| store(&mut writer, offset));
    checkpoint(&mut writer);
    let snapshot = writer.snapshot().unwrap();
    let (lost, kept) = (snapshot.files.len() - 1, snapshot.open(0).unwrap());
    assert_eq!(writer.lose_snapshots(), 1);
    assert!(trim(&mut writer, 59) > 0, "retention goes on at once");
    assert!(matches!(snapshot.open(lost).map(drop), Err(LogError::SnapshotLost)));
    assert!(matches!(kept.read(0, 10), Err(LogError::SnapshotLost)));
    let another = writer.snapshot().unwrap();
    assert!(copy(&another, 1 << 20, || ()).is_ok());
}

#[test]
fn a_restored_log_says_so_at_every_start_and_refuses_to_forget_it() {
    let disk = FaultyStorage::new(1);
    assert_eq!(open(&disk).unwrap().recovery.restored, None);
    let restored = Restored {
        mark: [5; 16],
        cut: Position(72),
        wall_ms: 9,
    };
    restored.write(&disk).unwrap();
    for _ in 0..2 {
        disk.restart();
        assert_eq!(open(&disk).unwrap().recovery.restored, Some(restored));
    }
    let copied = copy(
        &open(&{
            disk.restart();
            disk.clone()
        })
        .unwrap()
        .writer
        .snapshot()
        .unwrap(),
        100,
        || (),
    )
    .unwrap();
    assert_eq!(
        open(&copied).unwrap().recovery.restored,
        Some(restored),
        "a backup of it says so, too"
    );
    disk.restart();
    disk.open("restored").unwrap().write_at(20, &[b"x"]).unwrap();
    let refused = open(&disk).err().unwrap();
    assert!(
        matches!(&refused, LogError::Damaged { file, .. } if file == "restored"),
        "{refused}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_snapshot_opens_as_the_log_was(
        before in prop::collection::vec((1u64..40, any::<bool>(), 0u64..30), 1..5),
        after in prop::collection::vec((0u64..4, any::<bool>()), 1..50),
        piece_bytes in 100usize..5_000,
    ) {
        let disk = FaultyStorage::new(1);
        let opened = open(&disk).unwrap();
        let (mut writer, reader) = (opened.writer, opened.reader);
        let mut next = 0;
        for (messages, with_checkpoint, kept) in before {
            (0..messages).for_each(|nth| store(&mut writer, next + nth));
            next += messages;
            if with_checkpoint {
                checkpoint(&mut writer);
            }
            trim(&mut writer, next.saturating_sub(kept));
        }
        let snapshot = writer.snapshot().unwrap();
        let there = offsets(&reader);
        let mut after = after.into_iter().cycle();
        let copied = copy(&snapshot, piece_bytes, || {
            let (messages, with_checkpoint) = after.next().unwrap();
            (0..messages).for_each(|nth| store(&mut writer, next + nth));
            next += messages;
            if with_checkpoint {
                checkpoint(&mut writer);
            }
            trim(&mut writer, next);
        })
        .unwrap();
        prop_assert_eq!(offsets(&open(&copied).unwrap().reader), there);
    }
}
