//! What an inspection tells of a directory, and that it leaves the directory alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use sluice_log::{Ending, FaultyStorage, LogError, SidecarState, Storage, inspect};
use sluice_protocol::ids::{Epoch, Position, QueueOffset};
use support::{append, appended, batch, numbered, open, queue};

/// Every file with what is in it.
fn contents(storage: &FaultyStorage) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = storage.list().unwrap().into_iter().map(|entry| entry.name).collect();
    files.sort();
    let contents = |name: String| {
        let bytes = storage.contents(&name).unwrap();
        (name, bytes)
    };
    files.into_iter().map(contents).collect()
}

/// A log over several segments, with a checkpoint, whose broker still runs.
fn filled(storage: &FaultyStorage) -> sluice_log::Opened {
    let mut opened = open(storage).unwrap();
    for number in 0..60 {
        append(
            &mut opened.writer,
            &[appended(2_000, 0, number, batch(number, &["a"])), numbered(number)],
        );
        opened.writer.sync().unwrap();
        if number == 30 {
            opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
            opened.writer.checkpoint_slice(&[numbered(1)]).unwrap();
            opened.writer.finish_checkpoint().unwrap();
        }
    }
    opened
}

#[test]
fn an_empty_directory_holds_no_log() {
    let storage = FaultyStorage::new(1);
    let report = inspect(&storage).unwrap();
    assert_eq!(report, sluice_log::Report::default());
    assert!(storage.list().unwrap().is_empty(), "nothing was made");
}

#[test]
fn the_log_of_a_running_broker_is_told_whole_and_left_alone() {
    let storage = FaultyStorage::new(1);
    let opened = filled(&storage);
    let before = contents(&storage);
    let report = inspect(&storage).unwrap();
    assert_eq!(contents(&storage), before);
    assert_eq!(
        (report.format_version, report.ending, report.end),
        (Some(1), Ending::Clean, opened.writer.end())
    );
    assert!(report.damage.is_empty() && report.can_start());
    assert!(report.segments.len() > 3);
    let sum = |name| report.segments.iter().filter_map(|segment| segment.records.get(name)).sum::<u64>();
    assert_eq!((sum("opened"), sum("appended"), sum("topic-deleted")), (1, 60, 60));
    assert_eq!(report.segments.iter().map(|segment| segment.frames).sum::<u64>(), 61);
    for pair in report.segments.windows(2) {
        assert_eq!((pair[0].end, pair[0].sidecar), (pair[1].base, SidecarState::Whole));
        assert_eq!(pair[0].epochs, Some((Epoch(1), Epoch(1))));
    }
    assert_eq!(report.segments.last().unwrap().sidecar, SidecarState::NotDue);
    let checkpoint = report.checkpoint.unwrap();
    assert_eq!((checkpoint.entries, checkpoint.replay_from), (1, checkpoint.covers));
    assert_eq!(report.queues, opened.reader.queues().unwrap());
    assert_eq!(report.queues[&queue(0)].end, QueueOffset(60));
}

#[test]
fn a_torn_tail_is_told_from_damage() {
    let storage = FaultyStorage::new(1);
    let mut opened = filled(&storage);
    let (end, name) = (opened.writer.end(), inspect(&storage).unwrap().segments.pop().unwrap());
    let torn = append(&mut opened.writer, &[numbered(99)]);
    storage.flip(&name.file, 64 + end.0 - name.base.0 + 50, 1);
    let report = inspect(&storage).unwrap();
    let bytes = torn.0 - end.0;
    assert_eq!((report.end, report.ending), (end, Ending::TornTail { bytes }));
    assert!(report.damage.is_empty() && report.can_start());
}

#[test]
fn damage_is_named_with_its_place_and_stops_a_start_where_it_would() {
    let storage = FaultyStorage::new(1);
    drop(filled(&storage));
    let healthy = inspect(&storage).unwrap();
    let replay_from = healthy.checkpoint.unwrap().replay_from;
    for segment in &healthy.segments[..healthy.segments.len() - 1] {
        let copy = storage.copy(1);
        copy.flip(&segment.file, 64, 0x40);
        let report = inspect(&copy).unwrap();
        let damage = &report.damage[0];
        assert_eq!((damage.file.as_str(), damage.position), (segment.file.as_str(), segment.base));
        assert_eq!(report.can_start(), open(&copy).is_ok(), "{damage:?}");
        if segment.end <= replay_from {
            assert_eq!(
                (damage.bytes, damage.stops_start, report.end),
                (segment.end.0 - segment.base.0, false, healthy.end)
            );
        }
        if segment.base >= replay_from {
            assert_eq!(
                (report.ending, report.end, damage.stops_start),
                (Ending::Damaged, segment.base, true)
            );
        }
    }
}

#[test]
fn sidecars_that_are_missing_or_broken_and_lost_segments_are_told() {
    let storage = FaultyStorage::new(1);
    drop(filled(&storage));
    let healthy = inspect(&storage).unwrap();
    let sidecar = |position: Position| format!("index-{:016x}", position.0);
    storage.remove(&sidecar(healthy.segments[0].base)).unwrap();
    storage.flip(&sidecar(healthy.segments[1].base), 100, 1);
    let states: Vec<_> = inspect(&storage).unwrap().segments.iter().map(|segment| segment.sidecar).collect();
    assert_eq!(states[..3], [SidecarState::Missing, SidecarState::Broken, SidecarState::Whole]);
    storage.remove(&healthy.segments[2].file).unwrap();
    let report = inspect(&storage).unwrap();
    assert!(!report.can_start() && open(&storage).is_err());
    assert!(
        report.damage.iter().any(|damage| damage.file == sidecar(healthy.segments[2].base)),
        "{:?}",
        report.damage
    );
}

#[test]
fn another_format_version_is_named() {
    let storage = FaultyStorage::new(1);
    drop(open(&storage).unwrap());
    storage.overwrite("format", 8, &[9, 0, 0, 0]);
    assert!(matches!(inspect(&storage), Err(LogError::FormatVersion { found: 9, .. })));
}
