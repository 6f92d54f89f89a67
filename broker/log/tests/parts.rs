//! Parts of the calendar: files of far-off messages, written out of the log and merged, found again, and refused when they are damaged.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use sluice_log::record::{FarOff, PartFacts, PartId};
use sluice_log::{FaultyStorage, LogError, LogReader, Opened, SeenDelayed, formats, inspect};
use sluice_protocol::ids::TopicId;
use support::parts::{far, with_delayed};

const SECRET: u64 = 0x0707_0707_0707_0707;

/// The messages with these numbers, in the order in which they are due.
fn messages(numbers: std::ops::Range<u64>) -> Vec<FarOff> {
    numbers.rev().map(|number| far(1_000 - 10 * number as i64, number)).collect()
}

fn write(reader: &LogReader, part: u64, numbers: std::ops::Range<u64>) -> PartFacts {
    let written = reader.write_part(PartId(part), &messages(numbers)).unwrap().unwrap();
    assert_eq!(written.left_out, []);
    written.facts.unwrap()
}

fn body(reader: &LogReader, message: FarOff, parts: &[u64]) -> Option<String> {
    let parts: Vec<PartId> = parts.iter().copied().map(PartId).collect();
    let found = reader.delayed(message, &parts, &mut SeenDelayed::default()).unwrap()?;
    Some(String::from_utf8(found.body.to_vec()).unwrap())
}

/// A log whose segments went with the delayed messages in them, but for those that two parts have.
fn with_parts(storage: &FaultyStorage) -> (Opened, [PartFacts; 2]) {
    let mut opened = with_delayed(storage);
    let facts = [write(&opened.reader, 1, 0..6), write(&opened.reader, 2, 6..9)];
    for number in 0..60 {
        support::append(&mut opened.writer, &[support::numbered(number)]);
    }
    opened.writer.sync().unwrap();
    opened.writer.begin_checkpoint(opened.writer.end()).unwrap();
    opened.writer.finish_checkpoint().unwrap();
    opened.writer.retain(|_| None).unwrap();
    (opened, facts)
}

#[test]
fn messages_in_a_part_are_found_when_the_log_has_them_no_more() {
    let (opened, facts) = with_parts(&FaultyStorage::new(1));
    let reader = &opened.reader;
    assert_eq!((facts[0].messages, facts[0].first, facts[0].last), (6, far(950, 5), far(1_000, 0)));
    for number in 0..9 {
        let message = far(1_000 - 10 * number as i64, number);
        assert_eq!(body(reader, message, &[]), None, "the log has let it go");
        assert_eq!(body(reader, message, &[1, 2]), Some(format!("body of {number}")));
        let part = PartId(1 + u64::from(number >= 6));
        assert_eq!(reader.find_in_parts(message, &[PartId(1), PartId(2)]).unwrap(), Some(part));
    }
    for other in [far(910, 9), far(955, 5), far(1_000, 1), far(0, 0)] {
        assert_eq!(reader.find_in_parts(other, &[PartId(1), PartId(2)]).unwrap(), None);
        assert_eq!(body(reader, other, &[1, 2]), None);
    }
}

/// What follows in a part that is sound, and when the next one is due.
fn read(reader: &LogReader, part: u64, after: Option<FarOff>, until_ms: i64, most: usize) -> (Vec<FarOff>, Option<i64>) {
    let following = reader.read_part(PartId(part), after, until_ms, most).unwrap().unwrap();
    assert_eq!((following.lost, following.point), (0, following.messages.last().copied()));
    (following.messages, following.next_ms)
}

#[test]
fn a_part_is_read_in_order_from_any_message_on() {
    let (opened, _) = with_parts(&FaultyStorage::new(1));
    let read = |after, until_ms, most| read(&opened.reader, 1, after, until_ms, most);
    assert_eq!(read(None, 970, 9), (messages(3..6), Some(980)));
    assert_eq!(read(None, 970, 2), (messages(4..6), Some(970)));
    assert_eq!(read(Some(far(970, 3)), 2_000, 9), (messages(0..3), None));
    assert_eq!(read(Some(far(1_000, 0)), 2_000, 9), (vec![], None));
    assert_eq!(read(None, 10, 9), (vec![], Some(950)));
}

#[test]
fn damaged_names_hold_back_nothing_that_comes_later_nor_hide_what_another_part_has() {
    let storage = FaultyStorage::new(1);
    let (opened, _) = with_parts(&storage);
    storage.flip("part-0000000000000001", 104 + 30, 1);
    let following = |after, until_ms| opened.reader.read_part(PartId(1), after, until_ms, 9).unwrap().unwrap();
    let early = following(None, 10);
    assert_eq!(
        (early.lost, early.point, early.next_ms),
        (0, None, Some(950)),
        "it is passed over when it is due"
    );
    let passed = following(None, 950);
    assert_eq!((passed.messages, passed.lost), (vec![], 6));
    assert!(passed.damage.unwrap().to_string().contains("part-0000000000000001"));
    assert_eq!((passed.point, passed.next_ms), (Some(far(950, 5)), None));
    assert_eq!(following(passed.point, 2_000).lost, 0, "and once");
    let (reader, both) = (&opened.reader, [PartId(1), PartId(2)]);
    assert_eq!(reader.find_in_parts(far(930, 7), &both).unwrap(), Some(PartId(2)));
    assert_eq!(body(reader, far(930, 7), &[1, 2]).unwrap(), "body of 7");
    let unsure = reader.find_in_parts(far(970, 3), &both).unwrap_err();
    assert!(matches!(unsure, LogError::BadPart { offset: 104, .. }), "{unsure}");
}

#[test]
fn an_inspection_tells_what_is_in_parts_and_what_of_them_cannot_be_read() {
    let storage = FaultyStorage::new(1);
    let (_opened, facts) = with_parts(&storage);
    let told = |storage: &FaultyStorage| inspect(storage).unwrap().parts;
    let whole = told(&storage);
    assert_eq!(whole.iter().map(|part| part.facts).collect::<Vec<_>>(), facts.map(Some));
    assert!(whole.iter().all(|part| part.damage.is_empty()));
    assert_eq!((whole[1].part, whole[1].file.as_str()), (PartId(2), "part-0000000000000002"));
    let bytes = storage.contents("part-0000000000000001").unwrap().len() as u64;
    for offset in 0..bytes {
        let copy = storage.copy(1);
        copy.flip("part-0000000000000001", offset, 0x10);
        let damaged = told(&copy).swap_remove(0);
        assert_eq!(damaged.damage.len(), 1, "byte {offset}");
        let of_a_block = damaged.facts.map(|_| 6);
        assert_eq!(damaged.damage[0].messages, of_a_block.unwrap_or(0), "byte {offset}");
    }
}

#[test]
fn a_far_off_message_is_found_by_its_id_among_so_many() {
    let (opened, _) = with_parts(&FaultyStorage::new(1));
    let read = opened
        .reader
        .delayed(far(970, 3), &[PartId(1)], &mut SeenDelayed::default())
        .unwrap()
        .unwrap();
    let id = read.attributes.row(read.row).unwrap().message_id();
    assert_eq!(opened.reader.find_far(id, 9).unwrap(), Some(far(970, 3)));
    assert_eq!(opened.reader.find_far(id, 8).unwrap(), None, "the newer part has three of them");
    assert_eq!(opened.reader.parts_with(far(970, 3)).unwrap(), [PartId(1)]);
    assert_eq!(opened.reader.parts_with(far(970, 4)).unwrap(), []);
}

#[test]
fn parts_are_merged_without_what_is_passed_dead_or_of_other_topics() {
    let (opened, _) = with_parts(&FaultyStorage::new(1));
    let parts = [(PartId(1), Some(far(950, 5))), (PartId(2), None)];
    let (dead, topics) = (BTreeSet::from([far(930, 7)]), BTreeSet::from([TopicId(5)]));
    let facts = opened.reader.merge_parts(PartId(3), &parts, &dead, &topics).unwrap().unwrap();
    let merged = [
        far(920, 8),
        far(940, 6),
        far(960, 4),
        far(970, 3),
        far(980, 2),
        far(990, 1),
        far(1_000, 0),
    ];
    assert_eq!(read(&opened.reader, 3, None, 2_000, 99), (merged.to_vec(), None));
    assert_eq!((facts.messages, facts.first, facts.last), (7, far(920, 8), far(1_000, 0)));
    assert_eq!(body(&opened.reader, far(970, 3), &[3]).unwrap(), "body of 3");
    let nothing = opened
        .reader
        .merge_parts(PartId(4), &parts, &dead, &BTreeSet::new())
        .unwrap()
        .unwrap();
    assert_eq!(nothing, PartFacts::default());
    assert_eq!(opened.reader.parts().unwrap(), [1, 2, 3].map(PartId), "of nothing there is no file");
}

#[test]
fn a_start_keeps_the_parts_that_are_named_and_removes_the_others() {
    let storage = FaultyStorage::new(1);
    let (mut opened, facts) = with_parts(&storage);
    opened.writer.keep_parts(&BTreeMap::from([(PartId(2), facts[1])])).unwrap();
    assert_eq!(opened.reader.parts().unwrap(), [PartId(2)]);
    opened.writer.remove_part(PartId(2)).unwrap();
    assert_eq!(opened.reader.parts().unwrap(), []);
    let lost = opened.writer.keep_parts(&BTreeMap::from([(PartId(2), facts[1])]));
    assert!(matches!(lost, Err(LogError::BadPart { .. })), "{lost:?}");
}

#[test]
fn damage_is_told_with_the_place_and_never_read_as_something_else() {
    let storage = FaultyStorage::new(1);
    let (opened, facts) = with_parts(&storage);
    let name = "part-0000000000000001";
    let length = storage.contents(name).unwrap().len() as u64;
    assert_eq!(length, facts[0].bytes);
    drop(opened);
    for place in 0..length {
        let copy = storage.copy(place);
        copy.restart();
        copy.flip(name, place, 4);
        let mut opened = support::open(&copy).unwrap();
        let kept = opened.writer.keep_parts(&BTreeMap::from([(PartId(1), facts[0])]));
        let mut wrong = kept.is_err();
        for message in messages(0..6) {
            match opened.reader.delayed(message, &[PartId(1)], &mut SeenDelayed::default()) {
                Ok(Some(found)) => {
                    let row = found.attributes.row(found.row).unwrap();
                    let sound = sluice_protocol::batch::crc32c(&found.body) == row.body_crc();
                    assert!(!sound || found.body == format!("body of {}", message.number.0), "byte {place}");
                    wrong |= !sound;
                }
                Ok(None) => panic!("byte {place}: {message:?} is not found"),
                Err(error) => {
                    assert!(matches!(error, LogError::BadPart { .. }), "{error}");
                    wrong = true;
                }
            }
        }
        assert!(wrong, "byte {place} is not covered");
    }
}

#[test]
fn a_part_without_room_leaves_nothing() {
    let storage = FaultyStorage::new(1);
    let opened = with_delayed(&storage);
    for bytes in [0, 10, 300] {
        storage.full_after(Some(bytes));
        let written = opened.reader.write_part(PartId(1), &messages(0..9)).unwrap();
        assert!(matches!(written, Err(LogError::NoRoom { .. })), "{bytes}");
        storage.full_after(None);
        assert_eq!(opened.reader.parts().unwrap(), []);
    }
    write(&opened.reader, 1, 0..9);
}

#[test]
fn a_part_is_durable_when_it_is_told_to_be_written() {
    let storage = FaultyStorage::new(1);
    let opened = with_delayed(&storage);
    let facts = write(&opened.reader, 1, 0..9);
    drop(opened);
    storage.crash();
    let mut opened = support::open(&storage).unwrap();
    opened.writer.keep_parts(&BTreeMap::from([(PartId(1), facts)])).unwrap();
    assert_eq!(read(&opened.reader, 1, None, 2_000, 99).0, messages(0..9));
}

#[test]
fn a_part_is_written_and_read_as_ever() {
    let storage = FaultyStorage::new(1);
    let opened = with_delayed(&storage);
    write(&opened.reader, 7, 0..9);
    let bytes = storage.contents("part-0000000000000007").unwrap();
    let path: std::path::PathBuf = [env!("CARGO_MANIFEST_DIR"), "golden", "part-1.bin"].iter().collect();
    if std::env::var_os("SLUICE_ADD_GOLDENS").is_some() && !path.exists() {
        std::fs::write(&path, &bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    assert!(golden == bytes, "golden/part-1.bin holds other bytes than are written now");
    assert_eq!(formats::part(SECRET, &golden.clone().into()).unwrap(), golden);
    assert_eq!(formats::part(SECRET + 1, &golden.into()), None);
}
