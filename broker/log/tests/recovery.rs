//! What a start makes of the bytes that a stop, a crash or a bad disk left behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use proptest::prelude::*;
use sluice_log::record::Change;
use sluice_log::{FaultyStorage, LogError, Storage};
use sluice_protocol::ids::{Epoch, Position};
use support::{append, numbered, numbers, open, open_at};

/// The segment files there are.
/// The segments in use.
fn segments(storage: &FaultyStorage) -> Vec<String> {
    let names = storage.list().unwrap().into_iter().map(|entry| entry.name);
    let used = |name: &String| name.starts_with("segment-") && !storage.contents(name).unwrap().starts_with(&[0; 64]);
    names.filter(used).collect()
}

#[test]
fn a_new_log_begins_with_its_opening() {
    let storage = FaultyStorage::new(1);
    let opened = open(&storage).unwrap();
    assert_eq!(opened.recovery.epoch, Epoch(1));
    assert_eq!(opened.recovery.next_position, opened.writer.end());
    let records: Vec<_> = opened.recovery.replay.map(Result::unwrap).collect();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].1.change, Change::Opened { epoch: Epoch(1) });
    assert_eq!(records[0].1.at.wall_ms, 1_000);
}

#[test]
fn a_start_replays_what_was_written_over_many_segments_and_time_goes_on() {
    let storage = FaultyStorage::new(1);
    let mut opened = open(&storage).unwrap();
    for number in 0..500 {
        append(&mut opened.writer, &[numbered(number), numbered(number + 1_000)]);
        opened.writer.sync().unwrap();
    }
    let secret = opened.recovery.secret;
    assert!(segments(&storage).len() > 5);
    storage.restart();
    let opened = open_at(&storage, 3_500).unwrap();
    assert_eq!((opened.recovery.epoch, opened.recovery.secret), (Epoch(2), secret));
    assert_eq!(
        (opened.recovery.opened_at.wall_ms, opened.recovery.opened_at.mono_ms),
        (3_500, 2_500)
    );
    assert_eq!(
        numbers(opened),
        (0..500).flat_map(|number| [number, number + 1_000]).collect::<Vec<_>>()
    );
    storage.restart();
    let opened = open_at(&storage, 100).unwrap();
    assert_eq!(
        (opened.recovery.opened_at.wall_ms, opened.recovery.opened_at.mono_ms),
        (3_500, 2_500),
        "time never falls"
    );
}

#[test]
fn a_directory_in_use_is_refused() {
    let storage = FaultyStorage::new(1);
    let opened = open(&storage).unwrap();
    assert!(matches!(open(&storage), Err(LogError::InUse { .. })));
    drop(opened);
    open(&storage).unwrap();
}

#[test]
fn another_format_version_is_refused_by_name() {
    let storage = FaultyStorage::new(1);
    drop(open(&storage).unwrap());
    storage.overwrite("format", 8, &[9, 0, 0, 0]);
    assert!(matches!(open(&storage), Err(LogError::FormatVersion { found: 9, .. })));
}

/// A log of one segment: records 0 to 4, each a frame of its own, and where each begins in the log.
fn five_frames(last_is_covered: bool) -> (FaultyStorage, Vec<u64>) {
    let storage = FaultyStorage::new(1);
    let mut writer = open(&storage).unwrap().writer;
    let mut starts = Vec::new();
    for number in 0..5 {
        starts.push(writer.end().0);
        append(&mut writer, &[numbered(number)]);
        writer.sync().unwrap();
    }
    starts.push(writer.end().0);
    if last_is_covered {
        append(&mut writer, &[]);
        writer.sync().unwrap();
    }
    drop(writer);
    (storage, starts)
}

#[test]
fn damage_anywhere_is_refused_where_a_later_frame_proves_it_and_cut_where_none_does() {
    for last_is_covered in [false, true] {
        let (storage, starts) = five_frames(last_is_covered);
        let name = segments(&storage).remove(0);
        for at in starts[0]..starts[5] {
            let frame = starts.iter().rposition(|start| *start <= at).unwrap();
            let padding = at >= starts[frame] + 48 + 4 + numbered(0).len() as u64;
            let copy = storage.copy(at);
            copy.flip(&name, 64 + at, 0x10);
            match open(&copy) {
                Ok(opened) if padding => assert_eq!(numbers(opened), [0, 1, 2, 3, 4]),
                Ok(opened) => {
                    assert!(
                        frame == 4 && !last_is_covered,
                        "only the last frame passes for a torn one: byte {at}"
                    );
                    assert_eq!(numbers(opened), [0, 1, 2, 3]);
                }
                Err(LogError::Damaged { file, position, bytes, .. }) => {
                    assert!(frame < 4 || last_is_covered, "byte {at}");
                    assert_eq!((file.as_str(), position.0), (name.as_str(), starts[frame]), "byte {at}");
                    assert!(bytes > 0);
                }
                Err(error) => panic!("byte {at}: {error}"),
            }
        }
    }
}

#[test]
fn a_file_that_ends_early_is_a_torn_tail() {
    let (storage, starts) = five_frames(false);
    let name = segments(&storage).remove(0);
    for end in starts[0]..=starts[5] {
        let copy = storage.copy(end);
        copy.truncate(&name, 64 + end);
        let whole = starts[1..].iter().filter(|start| **start <= end.next_multiple_of(8)).count() as u64;
        let opened = open(&copy).unwrap();
        let replayed = numbers(opened);
        assert!(replayed.len() as u64 == whole || end % 8 != 0, "{end}: {replayed:?}");
        copy.restart();
        assert_eq!(numbers(open(&copy).unwrap()), replayed, "what was cut stays cut");
    }
}

#[test]
fn a_cut_tail_never_comes_back() {
    // Frames written without a sync between them: the first is torn, the second is whole.
    let storage = FaultyStorage::new(1);
    let mut writer = open(&storage).unwrap().writer;
    let torn = writer.end().0;
    append(&mut writer, &[numbered(1)]);
    append(&mut writer, &[numbered(2)]);
    append(&mut writer, &[numbered(3)]);
    drop(writer);
    let name = segments(&storage).remove(0);
    storage.flip(&name, 64 + torn + 60, 1);
    let mut opened = open(&storage).unwrap();
    assert_eq!(
        opened.recovery.next_position.0 - torn,
        80,
        "the opening frame takes the torn one's place"
    );
    // One frame of the size of the torn ones: exactly at its end lies the whole stale frame of the earlier epoch.
    append(&mut opened.writer, &[numbered(7)]);
    opened.writer.sync().unwrap();
    drop(opened);
    assert_eq!(numbers(open(&storage).unwrap()), [7]);
}

#[test]
fn a_failed_sync_or_write_stops_the_writer_for_good() {
    for fails in [FaultyStorage::fail_next_sync, FaultyStorage::fail_next_write] {
        let storage = FaultyStorage::new(1);
        let mut writer = open(&storage).unwrap().writer;
        fails(&storage);
        let at = writer.end();
        let failed = writer.append(at, &[numbered(1)]).and_then(|_| writer.sync());
        assert!(matches!(failed, Err(LogError::Io { .. })));
        assert!(matches!(writer.sync(), Err(LogError::Stopped)));
        assert!(matches!(writer.begin_checkpoint(Position(0)), Err(LogError::Stopped)));
    }
}

#[test]
fn replay_begins_where_the_newest_whole_checkpoint_says() {
    let storage = FaultyStorage::new(1);
    let mut writer = open(&storage).unwrap().writer;
    append(&mut writer, &[numbered(1)]);
    let from = writer.end();
    append(&mut writer, &[numbered(2)]);
    writer.begin_checkpoint(from).unwrap();
    writer.checkpoint_slice(&["one".into(), "two".into()]).unwrap();
    writer.checkpoint_slice(&["three".into()]).unwrap();
    writer.finish_checkpoint().unwrap();
    append(&mut writer, &[numbered(3)]);
    writer.begin_checkpoint(writer.end()).unwrap();
    writer.checkpoint_slice(&["cut short".into()]).unwrap();
    writer.sync().unwrap();
    drop(writer);
    let opened = open(&storage).unwrap();
    assert_eq!(opened.recovery.checkpoint_entries, ["one", "two", "three"]);
    assert_eq!(numbers(opened), [2, 3]);
    let checkpoints = storage
        .list()
        .unwrap()
        .into_iter()
        .filter(|entry| entry.name.starts_with("checkpoint-"));
    assert_eq!(checkpoints.count(), 1, "what was cut short is removed");
}

#[test]
fn a_log_that_ends_before_its_checkpoint_is_refused() {
    let (storage, _) = five_frames(false);
    let mut writer = open(&storage).unwrap().writer;
    let end = writer.end().0;
    writer.begin_checkpoint(writer.end()).unwrap();
    writer.finish_checkpoint().unwrap();
    drop(writer);
    let name = segments(&storage).remove(0);
    storage.flip(&name, 64 + end - 30, 1);
    assert!(matches!(open(&storage), Err(LogError::Damaged { .. })));
}

#[test]
fn a_lost_segment_is_refused() {
    let storage = FaultyStorage::new(1);
    let mut writer = open(&storage).unwrap().writer;
    for number in 0..330 {
        append(&mut writer, &[numbered(number)]);
        writer.sync().unwrap();
    }
    drop(writer);
    for name in segments(&storage) {
        // Nothing is left that knows of the last segment but a checkpoint, and there is none.
        if Some(&name) != segments(&storage).last() {
            let lost = storage.copy(1);
            lost.remove(&name).unwrap();
            assert!(matches!(open(&lost), Err(LogError::Damaged { .. })), "without {name}");
        }
        let headless = storage.copy(1);
        headless.overwrite(&name, 0, &[0xff; 64]);
        assert!(
            matches!(open(&headless), Err(LogError::Damaged { .. })),
            "without the header of {name}"
        );
    }
}

#[test]
fn recycled_segments_show_nothing_of_their_earlier_life() {
    let storage = FaultyStorage::new(3);
    let mut next = 0;
    for round in 0..30 {
        let mut opened = open(&storage).unwrap();
        let kept = numbers_and_writer(&mut opened);
        assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "round {round}: {kept:?}");
        assert!(kept.last().is_none_or(|last| last + 1 == next), "round {round}: {kept:?}, {next}");
        for _ in 0..200 {
            append(&mut opened.writer, &[numbered(next)]);
            opened.writer.sync().unwrap();
            next += 1;
        }
        if round % 3 == 2 {
            opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
            opened.writer.finish_checkpoint().unwrap();
            assert!(opened.writer.retain(|_| None).unwrap() > 0);
            append(&mut opened.writer, &[numbered(next)]);
            opened.writer.sync().unwrap();
            next += 1;
        }
        drop(opened);
        storage.crash();
    }
    assert!(segments(&storage).len() < 30);
}

/// The numbers that a start replays, leaving its writer.
fn numbers_and_writer(opened: &mut sluice_log::Opened) -> Vec<u64> {
    let records = opened.recovery.replay.by_ref().map(Result::unwrap);
    records
        .filter_map(|(_, record)| match record.change {
            Change::TopicDeleted { topic } => Some(topic.0),
            _ => None,
        })
        .collect()
}

/// A step of the life of a log.
#[derive(Clone, Debug)]
enum Step {
    Append { records: usize },
    Sync,
    Checkpoint,
    Retain,
    Crash,
    FailedSync,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        10 => (0..20_usize).prop_map(|records| Step::Append { records }),
        1 => (80..200_usize).prop_map(|records| Step::Append { records }),
        6 => Just(Step::Sync),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Retain),
        2 => Just(Step::Crash),
        1 => Just(Step::FailedSync),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn crashes_never_lose_what_was_synced_nor_break_the_order(seed in any::<u64>(), steps in steps()) {
        let storage = FaultyStorage::new(seed);
        let mut opened = open(&storage).unwrap();
        // What was synced, what was written since, and from where on a checkpoint has replay begin.
        let (mut synced, mut written, mut checkpointed) = (0_u64, 0_u64, 0_u64);
        for step in steps {
            let mut dies = false;
            match step {
                Step::Append { records } => {
                    let records: Vec<_> = (written..written + records as u64).map(numbered).collect();
                    written += records.len() as u64;
                    append(&mut opened.writer, &records);
                }
                Step::Sync => {
                    opened.writer.sync().unwrap();
                    synced = written;
                }
                Step::Checkpoint => {
                    opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
                    opened.writer.finish_checkpoint().unwrap();
                    (synced, checkpointed) = (written, written);
                }
                Step::Retain => {
                    opened.writer.retain(|_| None).unwrap();
                }
                Step::Crash => dies = true,
                Step::FailedSync => {
                    append(&mut opened.writer, &[numbered(written)]);
                    written += 1;
                    storage.fail_next_sync();
                    prop_assert!(opened.writer.sync().is_err());
                    dies = true;
                }
            }
            if dies {
                storage.crash();
                drop(opened);
                opened = open(&storage).unwrap();
                let replayed = numbers_and_writer(&mut opened);
                let end = checkpointed + replayed.len() as u64;
                prop_assert_eq!(replayed, (checkpointed..end).collect::<Vec<_>>());
                prop_assert!(end >= synced && end <= written, "{} is not within {}..={}", end, synced, written);
                (synced, written) = (end, end);
            }
        }
    }
}
