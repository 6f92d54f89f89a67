//! The checked-in files of each version of each format, added and never edited: what is written today must be these bytes, and a log of
//! them must open.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::path::PathBuf;
use std::{env, fs};

use bytes::Bytes;
use sluice_log::Restored;
use sluice_log::backup::{BackupFile, Manifest};
use sluice_log::formats;
use sluice_log::record::{Change, OnFailure, Record};
use sluice_log::{Ending, FaultyStorage, Storage, inspect};
use sluice_protocol::ids::{GroupId, MessageId, ProducerId, QueueOffset, Sequence, TopicId};
use sluice_protocol::wire::Reader;
use support::broadcast::of_broadcast;
use support::expiry::of_expiry;
use support::given_ids::given_id_kinds;
use support::parts::part_kinds;
use support::restoration::{restoration, restored};
use support::transaction::transaction_kinds;
use support::{append, appended, batch, calendar_kinds, each_kind, keyed_batch, numbered, of_lanes, of_topics, open, operated, queue};

/// The first eight of the random bytes that `support::open` gives.
const SECRET: u64 = 0x0707_0707_0707_0707;

/// The golden files and what the log of `written` calls them.
const FILES: [(&str, &str); 5] = [
    ("format-1.bin", "format"),
    ("segment-1.bin", "segment-0000000000000000"),
    ("segment-1-active.bin", "segment-0000000000000003"),
    ("index-4.bin", "index-0000000000000000"),
    ("checkpoint-1.bin", "checkpoint-0000000000000000"),
];

fn golden(name: &str) -> Vec<u8> {
    let path = path(name);
    fs::read(&path).unwrap_or_else(|error| panic!("golden/{name}: {error}"))
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "golden", name].iter().collect()
}

/// Demands that a golden file holds `bytes`. With `SLUICE_ADD_GOLDENS` set a file that does not exist is written.
fn check(name: &str, bytes: &[u8]) {
    if env::var_os("SLUICE_ADD_GOLDENS").is_some() && !path(name).exists() {
        fs::create_dir_all(path("")).unwrap();
        fs::write(path(name), bytes).unwrap();
    }
    assert!(golden(name) == bytes, "golden/{name} holds other bytes than are written now");
}

/// A small log of two segments with a checkpoint.
fn written() -> FaultyStorage {
    let storage = FaultyStorage::new(1);
    let mut writer = open(&storage).unwrap().writer;
    for number in 0..16 {
        let batch = batch(number * 3, &["a", "b", "rare"]);
        append(
            &mut writer,
            &[
                appended(2_000 + number as i64, (number % 2) as u16, number / 2 * 3, batch),
                numbered(number),
            ],
        );
        writer.sync().unwrap();
    }
    writer.begin_checkpoint(writer.end()).unwrap();
    writer.checkpoint_slice(&[numbered(1), numbered(2)]).unwrap();
    writer.finish_checkpoint().unwrap();
    storage
}

/// The sidecar of a segment whose messages have keys.
#[test]
fn a_sidecar_with_keys_is_written_as_ever() {
    let storage = FaultyStorage::new(1);
    let mut writer = open(&storage).unwrap().writer;
    for number in 0..16 {
        let batch = keyed_batch(number * 2, &[&["order-1", "eu"], &[]]);
        append(&mut writer, &[appended(2_000, (number % 2) as u16, number, batch)]);
        writer.sync().unwrap();
    }
    check("index-4-keys.bin", &storage.contents("index-0000000000000000").unwrap());
}

/// The sidecar of a segment in which groups dealt with messages, and some wait for their time.
#[test]
fn a_sidecar_of_what_groups_did_is_written_as_ever() {
    let storage = FaultyStorage::new(1);
    let mut writer = open(&storage).unwrap().writer;
    let delayed = Change::Delayed {
        topic: queue(0).topic,
        first: QueueOffset(0),
        due_ms: vec![9_000],
        batch: batch(7, &["late"]),
    };
    let records = [each_kind(), operated(), of_lanes()].concat();
    // The batches of the others are none.
    let has_none = |record: &&Record| {
        let stores = matches!(
            record.change,
            Change::Appended { .. } | Change::DeadLettered { .. } | Change::CulpritDecided { .. }
        );
        !stores
    };
    let mut encoded: Vec<Bytes> = records.iter().filter(has_none).map(Record::encode).collect();
    let delayed = Record {
        at: records[0].at,
        change: delayed,
    };
    encoded.push(delayed.encode());
    while storage.contents("index-0000000000000000").is_none() {
        append(&mut writer, &encoded);
        writer.sync().unwrap();
    }
    let sidecar = storage.contents("index-0000000000000000").unwrap();
    check("index-4-dealings.bin", &sidecar);
    assert_eq!(formats::sidecar(&sidecar).unwrap(), sidecar);
}

#[test]
fn every_kind_of_record_is_written_as_ever() {
    check("records-2.bin", &side_by_side(&each_kind()));
    check("records-calendar-1.bin", &side_by_side(&calendar_kinds()));
    check("records-transaction-1.bin", &side_by_side(&transaction_kinds()));
    check("records-given-ids-1.bin", &side_by_side(&given_id_kinds()));
    check("records-restored-1.bin", &side_by_side(&[restoration()]));
}

/// Encoded records, each behind its length.
fn side_by_side(records: &[Record]) -> Vec<u8> {
    let encoded = records.iter().map(Record::encode);
    let parts = encoded.map(|record| [&(record.len() as u32).to_le_bytes()[..], &record].concat());
    parts.collect::<Vec<_>>().concat()
}

#[test]
fn every_kind_of_record_of_operators_is_written_as_ever() {
    let encoded: Vec<_> = operated().iter().map(Record::encode).collect();
    let parts = encoded
        .iter()
        .flat_map(|record| [&(record.len() as u32).to_le_bytes()[..], record].concat());
    check("operated-1.bin", &parts.collect::<Vec<_>>());
}

#[test]
fn records_of_topics_are_written_and_read_as_ever() {
    check("records-topics-1.bin", &side_by_side(&of_topics()));
    let read: Vec<_> = of_topics().iter().map(|record| Record::decode(&record.encode()).unwrap()).collect();
    assert_eq!(read, of_topics());
}

#[test]
fn records_of_lanes_are_written_and_read_as_ever() {
    let encoded: Vec<_> = of_lanes().iter().map(Record::encode).collect();
    let parts = encoded
        .iter()
        .flat_map(|record| [&(record.len() as u32).to_le_bytes()[..], record].concat());
    check("records-lanes-1.bin", &parts.collect::<Vec<_>>());
    let read: Vec<_> = encoded.iter().map(|bytes| Record::decode(bytes).unwrap()).collect();
    assert_eq!(read, of_lanes());
}

#[test]
fn records_of_expiry_are_written_and_read_as_ever() {
    let encoded: Vec<_> = of_expiry().iter().map(Record::encode).collect();
    let parts = encoded
        .iter()
        .flat_map(|record| [&(record.len() as u32).to_le_bytes()[..], record].concat());
    check("records-expiry-1.bin", &parts.collect::<Vec<_>>());
    let read: Vec<_> = encoded.iter().map(|bytes| Record::decode(bytes).unwrap()).collect();
    assert_eq!(read, of_expiry());
}

#[test]
fn records_of_losses_are_written_and_read_as_ever() {
    let trimmed = Record {
        at: of_expiry()[0].at,
        change: Change::Trimmed {
            queue: TopicId(3).calendar(),
            start: QueueOffset(9),
            lost: vec![(GroupId(2), 5), (GroupId(7), 1)],
        },
    };
    check("records-losses-1.bin", &side_by_side(std::slice::from_ref(&trimmed)));
    assert_eq!(Record::decode(&trimmed.encode()), Ok(trimmed));
}

#[test]
fn records_of_broadcast_groups_are_written_and_read_as_ever() {
    check("records-broadcast-1.bin", &side_by_side(&of_broadcast()));
    let read: Vec<_> = of_broadcast()
        .iter()
        .map(|record| Record::decode(&record.encode()).unwrap())
        .collect();
    assert_eq!(read, of_broadcast());
}

#[test]
fn records_of_parts_are_written_and_read_as_ever() {
    check("records-parts-1.bin", &side_by_side(&part_kinds()));
    let read: Vec<_> = part_kinds()
        .iter()
        .map(|record| Record::decode(&record.encode()).unwrap())
        .collect();
    assert_eq!(read, part_kinds());
}

/// `records-1.bin` has the kinds that there were before `records-2.bin`, and a binding that does not say what becomes of failures.
#[test]
fn every_kind_of_record_is_read_as_it_was_written_once() {
    let records = golden("records-1.bin");
    let mut from = Reader::new(&records);
    for mut expected in each_kind().into_iter().take(17) {
        if let Change::PluginBound { on_failure, .. } = &mut expected.change {
            *on_failure = OnFailure::DeadLetter;
        }
        let length = from.u32().unwrap();
        let bytes = Bytes::copy_from_slice(from.bytes(length as usize).unwrap());
        assert_eq!(Record::decode(&bytes), Ok(expected));
    }
    assert_eq!(from.remaining(), 0);
}

#[test]
fn every_file_is_written_as_ever() {
    let storage = written();
    for (golden, name) in FILES {
        check(golden, &storage.contents(name).unwrap());
    }
    let others = storage.list().unwrap().into_iter().map(|entry| entry.name);
    let others: Vec<_> = others
        .filter(|name| name != "lock" && FILES.iter().all(|(_, known)| known != name))
        .collect();
    assert_eq!(others, ["segment-0000000000000001", "segment-0000000000000002"], "the reserve");
    for name in others {
        assert_eq!(storage.contents(&name).unwrap(), [0; 4096]);
    }
}

#[test]
fn a_log_of_golden_files_opens_and_says_what_it_said() {
    let storage = FaultyStorage::new(1);
    lay_out(&storage, FILES);
    let report = inspect(&storage).unwrap();
    assert_eq!((report.ending, report.damage.len(), report.segments.len()), (Ending::Clean, 0, 2));
    let opened = open(&storage).unwrap();
    assert_eq!(opened.recovery.checkpoint_entries, [numbered(1), numbered(2)]);
    let places = opened.reader.batches(queue(1), QueueOffset(0), QueueOffset(u64::MAX)).unwrap();
    assert_eq!(
        places.iter().map(|place| place.first.0).collect::<Vec<_>>(),
        [0, 3, 6, 9, 12, 15, 18, 21]
    );
    assert!(
        places
            .iter()
            .all(|place| opened.reader.batch(place).unwrap().verify_bodies().is_ok())
    );
    let id = MessageId::new(ProducerId(9), Sequence(7));
    assert_eq!(opened.reader.find(id).unwrap(), Some((queue(0), QueueOffset(4))));
}

fn lay_out(storage: &FaultyStorage, files: impl IntoIterator<Item = (&'static str, &'static str)>) {
    for (file, name) in files {
        let bytes = golden(file);
        storage.create(name, bytes.len() as u64).unwrap().write_at(0, &[&bytes]).unwrap();
    }
}

#[test]
fn a_sidecar_of_an_older_version_is_made_again() {
    for older in ["index-1.bin", "index-2.bin", "index-3.bin"] {
        let storage = FaultyStorage::new(1);
        lay_out(
            &storage,
            FILES.map(|(file, name)| (if file == "index-4.bin" { older } else { file }, name)),
        );
        open(&storage).unwrap();
        assert!(storage.contents("index-0000000000000000").unwrap() == golden("index-4.bin"));
    }
}

#[test]
fn each_format_is_read_and_written_again_byte_by_byte() {
    let segment = golden("segment-1.bin");
    assert_eq!(formats::segment_header(SECRET, &segment).unwrap(), segment[..64]);
    let frame = formats::frame(SECRET, &segment[64..].to_vec().into()).unwrap();
    assert_eq!(frame, segment[64..64 + frame.len()]);
    let index = golden("index-4.bin");
    assert_eq!(formats::sidecar(&index).unwrap(), index);
    let index = golden("index-4-keys.bin");
    assert_eq!(formats::sidecar(&index).unwrap(), index);
    let checkpoint = golden("checkpoint-1.bin");
    assert_eq!(formats::checkpoint(SECRET, &checkpoint.clone().into()).unwrap(), checkpoint);
}

/// A log that went on from a backup, and the backup's manifest.
#[test]
fn what_belongs_to_backups_is_written_and_read_as_ever() {
    check("restored-1.bin", &restored().encode());
    assert_eq!(Restored::decode(&golden("restored-1.bin")), Some(restored()));
    let file = |path: &str, bytes, room_bytes, base| BackupFile {
        path: path.to_owned(),
        bytes,
        room_bytes,
        base,
        sha256: "0123456789abcdef".repeat(4),
    };
    let manifest = Manifest {
        broker: "sluice 0.1.0".to_owned(),
        log: "0123456789abcdef".repeat(2),
        position: 70_000,
        epoch: 3,
        taken_ms: 1_700_000_000_000,
        files: vec![
            file("log/format", 40, 40, None),
            file("log/segment-0000000000000003", 67_108_000, 67_108_000, Some(0)),
            file("log/segment-0000000000000004", 2_064, 67_108_864, None),
            file("plugins/abc.wasm", 7, 7, None),
            file("key.pem", 241, 241, None),
        ],
    };
    check("manifest-1.json", manifest.encode().as_bytes());
    assert_eq!(Manifest::decode(&golden("manifest-1.json")), Ok(manifest));
}
