//! The flat batch against a plain model of messages: whatever is built, merged, split or damaged.

use std::ops::Range;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::errors::ErrorCode;
use crate::ids::{MessageId, ProducerId, Sequence};

/// A message as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    tag: Option<String>,
    keys: Vec<String>,
    properties: Vec<(String, String)>,
    born_ms: i64,
    body: Vec<u8>,
    producer: u128,
    sequence: u64,
}

prop_compose! {
    fn message()(
        tag in prop::option::of("[a-zé]{1,6}"),
        keys in prop::collection::vec("[a-z ]{1,9}", 0..4),
        properties in prop::collection::btree_map("[a-dü]{1,3}", ".{0,12}", 0..6),
        born_ms in 1_600_000_000_000i64..1_900_000_000_000,
        body in prop::collection::vec(any::<u8>(), 0..40),
    ) -> Model {
        Model { tag, keys, properties: properties.into_iter().collect(), born_ms, body, producer: 0, sequence: 0 }
    }
}

prop_compose! {
    fn batch_of(size: Range<usize>)(
        mut messages in prop::collection::vec(message(), size),
        producer in 0u128..3,
        first in 0u64..1000,
    ) -> Vec<Model> {
        for (place, message) in messages.iter_mut().enumerate() {
            (message.producer, message.sequence) = (producer, first + place as u64);
        }
        messages
    }
}

fn build(messages: &[Model]) -> Bytes {
    let (producer, first) = messages.first().map_or((0, 0), |first| (first.producer, first.sequence));
    let mut builder = BatchBuilder::new(1_700_000_000_000, ProducerId(producer), Sequence(first));
    for message in messages {
        let new = NewMessage {
            tag: message.tag.as_deref(),
            keys: &message.keys,
            properties: &message.properties,
            born_ms: message.born_ms,
            ..NewMessage::default()
        };
        builder.push(&new, &message.body).unwrap();
    }
    let expected = builder.total_bytes();
    let bytes = builder.finish();
    assert!(bytes.len() == expected || messages.is_empty());
    bytes
}

fn read(batch: &Batch) -> Vec<Model> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let model = |row: Row<'_>| Model {
        tag: row.tag().map(str::to_owned),
        keys: row.keys().map(text).collect(),
        properties: row
            .properties()
            .map(|(name, value)| (batch.attributes().name(name).to_owned(), text(value)))
            .collect(),
        born_ms: row.born_ms(),
        body: batch.body(&row).to_vec(),
        producer: row.producer().0,
        sequence: row.sequence().0,
    };
    batch.rows().map(model).collect()
}

proptest! {
    #[test]
    fn what_is_built_is_read(messages in batch_of(0..12)) {
        let batch = Batch::parse(build(&messages)).unwrap();
        prop_assert_eq!(batch.verify_bodies(), Ok(()));
        for row in batch.rows() {
            prop_assert_eq!(row.tag_hash(), row.tag().map_or(0, tag_hash));
            for (name, value) in row.properties() {
                prop_assert_eq!(row.property(batch.attributes().name(name)), Some(value));
            }
        }
        prop_assert_eq!(read(&batch), messages);
    }

    #[test]
    fn the_attributes_alone_say_the_same(messages in batch_of(1..12)) {
        let whole = build(&messages);
        let length = Attributes::length(&whole[..HEADER_BYTES]).unwrap();
        let attributes = Attributes::parse(whole.slice(..length)).unwrap();
        let batch = Batch::parse(whole.clone()).unwrap();
        prop_assert_eq!(&attributes, batch.attributes());
        prop_assert_eq!(&attributes, &Attributes::parse_stored(whole.clone()).unwrap());
        prop_assert_eq!(attributes.total_bytes(), whole.len());
    }

    #[test]
    fn admission_hands_on_a_batch_without_fault_as_it_came(messages in batch_of(1..12)) {
        let bytes = build(&messages);
        let admission = admit(bytes.clone(), ProducerId(messages[0].producer), &AdmissionLimits::default()).unwrap();
        prop_assert_eq!(admission.refused, vec![]);
        prop_assert_eq!(admission.batch.bytes(), &bytes);
    }

    #[test]
    fn a_body_that_was_damaged_is_taken_out_alone(messages in batch_of(1..12), damaged in any::<prop::sample::Index>()) {
        let mut bytes = build(&messages).to_vec();
        let damaged = damaged.index(messages.len());
        prop_assume!(!messages[damaged].body.is_empty());
        let batch = Batch::parse(bytes.clone().into()).unwrap();
        let at = batch.attributes().bodies_range(damaged as u32..damaged as u32 + 1).unwrap();
        bytes[at.start] ^= 1;
        let admission = admit(bytes.into(), ProducerId(messages[0].producer), &AdmissionLimits::default()).unwrap();
        prop_assert_eq!(admission.refused.len(), 1);
        prop_assert_eq!(admission.refused[0].sequence, Sequence(messages[damaged].sequence));
        prop_assert_eq!(admission.refused[0].refusal.code, ErrorCode::BadChecksum);
        let mut rest = messages;
        rest.remove(damaged);
        prop_assert_eq!(read(&Batch::parse(admission.batch.bytes().clone()).unwrap()), rest);
    }

    #[test]
    fn chosen_rows_of_several_batches_make_one(
        sources in prop::collection::vec((batch_of(1..8), any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
    ) {
        let mut merger = BatchMerger::new();
        let mut expected = Vec::new();
        for (messages, first, last) in &sources {
            let (first, last) = (first.index(messages.len()), last.index(messages.len()));
            let rows = first.min(last)..first.max(last) + 1;
            merger.add_batch(&Batch::parse(build(messages)).unwrap(), rows.start as u32..rows.end as u32).unwrap();
            expected.extend_from_slice(&messages[rows]);
        }
        let total = merger.total_bytes();
        let bytes = merger.take().into_bytes();
        prop_assert_eq!(bytes.len(), total);
        let merged = Batch::parse(bytes).unwrap();
        prop_assert_eq!(merged.verify_bodies(), Ok(()));
        prop_assert_eq!(read(&merged), expected);
        prop_assert!(merger.is_empty());
    }

    #[test]
    fn further_properties_take_the_place_of_their_like(messages in batch_of(1..6), row in any::<prop::sample::Index>()) {
        let batch = Batch::parse(build(&messages)).unwrap();
        let row = row.index(messages.len());
        let further = [("a", "1"), ("sluice.origin", "orders")];
        let body = batch.body(&batch.row(row as u32).unwrap());
        let mut merger = BatchMerger::new();
        merger.add_with_properties(batch.attributes(), row as u32, body, &further).unwrap();
        let copy = Batch::parse(merger.take().into_bytes()).unwrap();
        prop_assert_eq!(copy.verify_bodies(), Ok(()));
        let mut expected = messages[row].clone();
        expected.properties.retain(|(name, _)| name != "a");
        expected.properties.extend(further.map(|(name, value)| (name.to_owned(), value.to_owned())));
        prop_assert_eq!(read(&copy), vec![expected]);
    }

    #[test]
    fn a_flipped_bit_in_the_attributes_is_noticed(messages in batch_of(1..6), at in any::<prop::sample::Index>(), bit in 0..8) {
        let whole = build(&messages);
        let length = Attributes::length(&whole).unwrap();
        let mut bytes = whole.to_vec();
        bytes[at.index(length)] ^= 1u8 << bit;
        prop_assert!(Batch::parse(bytes.into()).is_err());
    }

    #[test]
    fn a_truncated_batch_is_refused(messages in batch_of(1..6), end in any::<prop::sample::Index>()) {
        let whole = build(&messages);
        prop_assert!(Batch::parse(whole.slice(..end.index(whole.len()))).is_err());
    }

    /// The checksum is made right again after the damage, so that the structure alone has to hold.
    #[test]
    fn no_resealed_damage_makes_a_reader_panic(
        messages in batch_of(1..6),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = build(&messages).to_vec();
        for (at, value) in &damage {
            let at = at.index(bytes.len());
            bytes[at] = *value;
        }
        reseal(&mut bytes);
        for parsed in [Batch::parse(bytes.clone().into()), Batch::parse_stored(bytes.into())].into_iter().flatten() {
            touch_everything(&parsed);
        }
    }
}

/// Makes the checksum of the attributes right, if the header can be read.
fn reseal(bytes: &mut [u8]) {
    let Ok(length) = Attributes::length(bytes) else { return };
    let Some((header, rest)) = bytes.get(..length).and_then(|attributes| attributes.split_first_chunk()) else {
        return;
    };
    let checksum = layout::attributes_checksum(header, rest);
    bytes[layout::CHECKSUM_AT..layout::CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
}

fn touch_everything(batch: &Batch) {
    for row in batch.rows() {
        let _ = (
            row.tag(),
            row.keys().count(),
            row.properties().count(),
            row.property("a"),
            row.extensions().len(),
        );
        let _ = (row.message_id(), row.born_ms(), batch.body(&row), batch.verify_body(&row));
        let mut merger = BatchMerger::new();
        let _ = merger.add_with_properties(batch.attributes(), row.index(), batch.body(&row), &[("a", "b")]);
        let _ = merger.take();
    }
    let mut merger = BatchMerger::new();
    let _ = merger.add_batch(batch, 0..batch.count());
    let _ = merger.add_batch(batch, 1..batch.count());
    let _ = Batch::parse(merger.take().into_bytes());
    for producer in batch.attributes().runs().map(|run| run.producer) {
        let _ = admit(batch.bytes().clone(), producer, &AdmissionLimits::default());
    }
}

fn one(mut change: impl FnMut(&mut [u8], usize)) -> Batch {
    let message = Model {
        tag: Some("t".into()),
        keys: vec!["k".into()],
        properties: vec![("p".into(), "v".into())],
        ..plain()
    };
    let mut bytes = build(&[plain(), message]).to_vec();
    let row_at = bytes.len() - 2 - 48;
    change(&mut bytes, row_at);
    reseal(&mut bytes);
    Batch::parse(bytes.into()).unwrap()
}

fn plain() -> Model {
    Model {
        tag: None,
        keys: vec![],
        properties: vec![],
        born_ms: 1_700_000_000_001,
        body: b"x".to_vec(),
        producer: 5,
        sequence: 9,
    }
}

fn refused(batch: Batch) -> Vec<(u32, ErrorCode)> {
    let admission = admit(
        batch.bytes().clone(),
        ProducerId(5),
        &AdmissionLimits {
            body_bytes_max: 1,
            ..AdmissionLimits::default()
        },
    )
    .unwrap();
    assert_eq!(admission.batch.count() as usize + admission.refused.len(), 2);
    admission
        .refused
        .into_iter()
        .map(|refused| (refused.row, refused.refusal.code))
        .collect()
}

#[test]
fn what_is_not_offered_yet_is_refused_by_name() {
    assert_eq!(refused(one(|_, _| ())), []);
    assert_eq!(
        refused(one(|bytes, row| bytes[row + 35] = 10)),
        [(1, ErrorCode::BadMessage)],
        "priority"
    );
    assert_eq!(
        refused(one(|bytes, row| bytes[row + 37] = 1)),
        [(1, ErrorCode::NotOffered)],
        "flags"
    );
}

#[test]
fn a_message_that_breaks_a_rule_is_refused_alone() {
    assert_eq!(
        refused(one(|bytes, row| bytes[row + 31] = 0x80)),
        [(1, ErrorCode::BadMessage)],
        "delivery before 1970"
    );
    assert_eq!(
        refused(one(|bytes, row| bytes[row + 4] ^= 1)),
        [(1, ErrorCode::BadMessage)],
        "tag hash"
    );
    assert_eq!(
        refused(one(|bytes, row| bytes[row + 40] = 0xff)),
        [(1, ErrorCode::BadMessage)],
        "tag is not UTF-8"
    );
    assert_eq!(
        refused(one(|bytes, row| bytes[row + 42] = b'\n')),
        [(1, ErrorCode::BadMessage)],
        "control character in a key"
    );
    assert_eq!(
        refused(one(|bytes, row| bytes[row + 47] = 0xff)),
        [(1, ErrorCode::BadMessage)],
        "value is not UTF-8"
    );
    assert_eq!(
        refused(one(|bytes, row| bytes[row - 41] = b'\t')),
        [(1, ErrorCode::BadMessage)],
        "property name"
    );
}

#[test]
fn a_body_over_the_limit_is_refused_alone() {
    let batch = Batch::parse(build(&[
        Model {
            body: b"xy".to_vec(),
            ..plain()
        },
        plain(),
    ]))
    .unwrap();
    assert_eq!(refused(batch), [(0, ErrorCode::BodyTooLarge)]);
}

#[test]
fn a_batch_of_another_producer_is_refused_whole() {
    let batch = Batch::parse(build(&[plain()])).unwrap();
    let refusal = admit(batch.bytes().clone(), ProducerId(6), &AdmissionLimits::default()).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::BadMessage);
}

#[test]
fn a_message_that_the_builder_refuses_leaves_no_trace() {
    let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(0));
    let good = NewMessage {
        tag: Some("t"),
        keys: &["k"],
        properties: &[("p", "v")],
        born_ms: 5,
        ..NewMessage::default()
    };
    let refusals = [
        NewMessage { tag: Some("a||b"), ..good },
        NewMessage { tag: Some(""), ..good },
        NewMessage { keys: &["k"; 17], ..good },
        NewMessage { keys: &["\n"], ..good },
        NewMessage {
            properties: &[("p", "v"), ("p", "w")],
            ..good
        },
        NewMessage {
            properties: &[("p", "v"), ("", "w")],
            ..good
        },
        NewMessage { born_ms: i64::MAX, ..good },
        NewMessage { deliver_at_ms: -1, ..good },
        NewMessage { priority: 10, ..good },
        NewMessage { group: Some(""), ..good },
    ];
    for message in &refusals {
        assert!(
            matches!(builder.push(message, b"lost"), Err(MessageError::Refused(_))),
            "{message:?}"
        );
        builder.push(&good, b"kept").unwrap();
    }
    let long = "x".repeat(60_000);
    let large = [("p", long.as_str()), ("q", long.as_str())];
    let refused = builder
        .push(
            &NewMessage {
                properties: &large,
                ..good
            },
            b"",
        )
        .unwrap_err();
    assert!(matches!(refused, MessageError::Refused(refusal) if refusal.code == ErrorCode::AttributesTooLarge));
    let batch = Batch::parse(builder.finish()).unwrap();
    assert_eq!(batch.count() as usize, refusals.len());
    assert!(batch.rows().all(|row| row.tag() == Some("t") && &batch.body(&row)[..] == b"kept"));
    builder.push(&good, b"").unwrap();
    let next = Batch::parse(builder.finish()).unwrap();
    assert_eq!(
        next.row(0).unwrap().message_id(),
        MessageId {
            producer: 1,
            sequence: Sequence(refusals.len() as u64)
        }
    );
}

#[test]
fn births_that_lie_centuries_apart_survive_a_merge() {
    let births = [-60_000_000_000_000, 1_700_000_000_000, 60_000_000_000_000];
    let mut merger = BatchMerger::new();
    for born_ms in births {
        merger
            .add_batch(&Batch::parse(build(&[Model { born_ms, ..plain() }])).unwrap(), 0..1)
            .unwrap();
    }
    let merged = Batch::parse(merger.take().into_bytes()).unwrap();
    assert_eq!(merged.rows().map(|row| row.born_ms()).collect::<Vec<_>>(), births);
}

#[test]
fn an_extension_that_is_not_known_is_skipped_and_kept() {
    let mut bytes = build(&[plain()]).to_vec();
    let body_at = bytes.len() - 1;
    bytes.splice(body_at..body_at, [9, 2, 0, 1, 2]);
    for (at, grown) in [(8, bytes.len() as u32), (28, 45), (body_at - 40, 45)] {
        bytes[at..at + 4].copy_from_slice(&grown.to_le_bytes());
    }
    reseal(&mut bytes);
    let batch = Batch::parse(bytes.into()).unwrap();
    let mut merger = BatchMerger::new();
    let row = batch.row(0).unwrap();
    assert_eq!(row.extensions(), [9, 2, 0, 1, 2]);
    merger
        .add_with_properties(batch.attributes(), 0, batch.body(&row), &[("p", "v")])
        .unwrap();
    let copy = Batch::parse(merger.take().into_bytes()).unwrap();
    assert_eq!(copy.row(0).unwrap().extensions(), [9, 2, 0, 1, 2]);
    assert_eq!(copy.row(0).unwrap().property("p"), Some(&b"v"[..]));
}

/// The bytes of version 1, as they were when it was laid down. A change that fails here is a new version with a file of its own.
#[test]
fn the_bytes_of_version_1_are_what_they_were() {
    let messages = [
        Model {
            tag: Some("ATL".into()),
            keys: vec!["17".into(), "flight-17".into()],
            properties: vec![("delay_min".into(), "-4".into()), ("destination".into(), "LAX".into())],
            born_ms: 1_700_000_000_250,
            body: br#"{"origin":"ATL"}"#.to_vec(),
            producer: 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
            sequence: 17,
        },
        Model {
            properties: vec![("destination".into(), "São Paulo".into())],
            born_ms: 1_699_999_999_999,
            body: vec![],
            producer: 0x0123_4567_89ab_cdef_fedc_ba98_7654_3210,
            sequence: 18,
            ..plain()
        },
    ];
    crate::golden::check("batch-1.bin", &build(&messages));
    assert_eq!(read(&Batch::parse(crate::golden::read("batch-1.bin").into()).unwrap()), messages);
}

#[test]
fn a_message_is_taken_out_alone_of_a_batch_with_as_many_names_as_there_may_be() {
    let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(0));
    for message in 0..32 {
        let properties: Vec<_> = (0..128)
            .map(|nth| (format!("name {}", message * 128 + nth), String::new()))
            .collect();
        let message = NewMessage::<String> {
            tag: None,
            keys: &[],
            properties: &properties,
            born_ms: 0,
            ..NewMessage::default()
        };
        builder.push(&message, b"body").unwrap();
    }
    let mut bytes = builder.finish().to_vec();
    let last = bytes.len() - 1;
    for damaged in [last, last - 4 * 16] {
        bytes[damaged] ^= 1;
    }
    let admission = admit(bytes.into(), ProducerId(1), &AdmissionLimits::default()).unwrap();
    let refused: Vec<_> = admission.refused.iter().map(|refused| refused.row).collect();
    assert_eq!((admission.batch.count(), refused), (30, vec![15, 31]));
}
