//! The decoders of the wire: frames, control messages, batches, deliveries.

mod backup;

use bytes::{Bytes, BytesMut};
use prost::Message;
use sluice_protocol::batch::{AdmissionLimits, Attributes, Batch, BatchBuilder, BatchMerger, NewMessage, admit, crc32c};
use sluice_protocol::control::{self, action, backoff, seek, start_point};
use sluice_protocol::delivery::{AskedMessage, DeliveredRange, Delivery, FoundMessage, Received};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FRAME_HEADER_BYTES, FrameKind, Kind};
use sluice_protocol::ids::{Attempt, ProducerId, QueueIndex, QueueOffset, Sequence, TopicId};
use sluice_protocol::page::MessagePage;

use super::{Target, nothing_to_repair};

pub(super) const FRAME: Target = Target {
    name: "frame",
    valid: frames,
    repair: nothing_to_repair,
    run: |input| assert!(read_frames(input).0 <= input.len()),
    accepts: |input| matches!(read_frames(input), (taken, true) if taken > 0),
};

pub(super) const CONTROL: Target = Target {
    name: "control",
    valid: || {
        control_messages()
            .iter()
            .enumerate()
            .map(|(number, (_, payload))| [&[number as u8], &payload[..]].concat())
            .collect()
    },
    repair: nothing_to_repair,
    run: |input| {
        let _ = read_control(input);
    },
    accepts: read_control,
};

pub(super) const BATCH: Target = Target {
    name: "batch",
    valid: batches,
    repair: |input| reseal(input, 0),
    run: |input| {
        let input = Bytes::copy_from_slice(input);
        let _ = Attributes::length(&input);
        for batch in [Batch::parse(input.clone()), Batch::parse_stored(input.clone())]
            .into_iter()
            .flatten()
        {
            use_batch(&batch);
        }
        if let Ok(batch) = Batch::parse(input) {
            keep_promises(&batch);
        }
    },
    accepts: |input| Batch::parse(Bytes::copy_from_slice(input)).is_ok(),
};

pub(super) const DELIVERY: Target = Target {
    name: "delivery",
    valid: || payloads(|batch, ranges| (Delivery::encode_head(41, ranges), batch)),
    repair: |input| reseal(input, 8 + 2 + 2 * 22),
    run: |input| {
        if let Ok(delivery) = Delivery::decode(Bytes::copy_from_slice(input)) {
            assert_eq!(delivery.places().count(), delivery.batch.count() as usize);
            use_batch(&delivery.batch);
        }
    },
    accepts: |input| Delivery::decode(Bytes::copy_from_slice(input)).is_ok(),
};

pub(super) const RECEIVED: Target = Target {
    name: "received",
    valid: || {
        payloads(|batch, ranges| {
            let handles = vec![Bytes::from_static(&[7; 20]); 5];
            (Received::encode_head(TopicId(3), QueueIndex(1), ranges, &handles), batch)
        })
    },
    repair: |input| reseal(input, 8 + 2 + 2 + 2 * 22 + 5 * 21),
    run: |input| {
        if let Ok(received) = Received::decode(Bytes::copy_from_slice(input)) {
            assert_eq!(received.places().count(), received.handles.len());
            use_batch(&received.batch);
        }
    },
    accepts: |input| Received::decode(Bytes::copy_from_slice(input)).is_ok(),
};

pub(super) const FOUND: Target = Target {
    name: "found",
    valid: || {
        let found = control::Found {
            topic: "flights".into(),
            topic_id: 1,
            queue: 2,
            offset: 3,
            stored_wall_ms: 1_700_000_000_000,
        };
        vec![[&FoundMessage::encode_head(&found)[..], &batch(1, 0)[..]].concat()]
    },
    repair: |input| {
        let head = input.first_chunk().map_or(0, |length| 4 + u32::from_le_bytes(*length) as usize);
        reseal(input, head);
    },
    run: |input| {
        if let Ok(found) = FoundMessage::decode(Bytes::copy_from_slice(input)) {
            use_batch(&found.batch);
        }
    },
    accepts: |input| FoundMessage::decode(Bytes::copy_from_slice(input)).is_ok(),
};

pub(super) const ASKED: Target = Target {
    name: "asked",
    valid: || {
        let ask = control::Ask {
            ask: 1,
            handle: Bytes::from_static(&[1; 33]),
            topic: "flights".into(),
            prepared_wall_ms: 1_700_000_000_000,
            asks: 2,
            deliver_at_ms: 1_800_000_000_000,
        };
        vec![[&AskedMessage::encode_head(&ask)[..], &batch(1, 0)[..]].concat()]
    },
    repair: FOUND.repair,
    run: |input| {
        if let Ok(asked) = AskedMessage::decode(Bytes::copy_from_slice(input)) {
            use_batch(&asked.batch);
        }
    },
    accepts: |input| AskedMessage::decode(Bytes::copy_from_slice(input)).is_ok(),
};

pub(super) const MESSAGES: Target = Target {
    name: "messages",
    valid: || {
        let place = |offset| control::MessagePlace {
            stored_wall_ms: 1_700_000_000_000,
            queue: 2,
            offset,
        };
        let head = control::Messages {
            topic: "flights".into(),
            topic_id: 1,
            places: (0..3).map(place).collect(),
            next: Some(place(3)),
            judged: 9,
            failed: 1,
        };
        vec![[&MessagePage::encode_head(&head)[..], &batch(3, 0)[..]].concat()]
    },
    repair: |input| {
        let head = input.first_chunk().map_or(0, |length| 4 + u32::from_le_bytes(*length) as usize);
        reseal(input, head);
    },
    run: |input| {
        for bodies in [true, false] {
            if let Ok(MessagePage { head, batch }) = MessagePage::decode(Bytes::copy_from_slice(input), bodies) {
                assert_eq!(batch.as_ref().map_or(0, |batch| batch.count() as usize), head.places.len());
                batch.iter().for_each(use_batch);
            }
        }
    },
    accepts: |input| MessagePage::decode(Bytes::copy_from_slice(input), true).is_ok(),
};

/// A batch with something of everything.
fn batch(messages: usize, variant: usize) -> Bytes {
    let mut builder = BatchBuilder::new(1_700_000_000_000, ProducerId(9 + variant as u128), Sequence(100));
    let keys = ["17", "flight-17", "ключ"];
    let properties = [("region", "eu"), ("price", "120.5"), ("origin", "São Paulo"), ("empty", "")];
    for number in 0..messages {
        let message = NewMessage {
            tag: [None, Some("ATL"), Some("ORD")][(number + variant) % 3],
            keys: &keys[..(number + variant) % 4],
            properties: &properties[..(number * 2 + variant) % 5],
            born_ms: 1_700_000_000_000 + number as i64 * 7 - 9,
            ..NewMessage::default()
        };
        builder
            .push(&message, &[b'x'; 100][..number * 13 % 100])
            .expect("the messages keep the rules");
    }
    builder.finish()
}

fn batches() -> Vec<Vec<u8>> {
    let mut merger = BatchMerger::new();
    for variant in 0..4 {
        let source = Batch::parse(batch(5, variant)).expect("a built batch is valid");
        merger.add_batch(&source, 1..4).expect("a batch has room for twelve messages");
    }
    let merged = merger.take().into_bytes();
    [batch(0, 0), batch(1, 1), batch(1, 2), batch(7, 0), batch(40, 1), merged]
        .iter()
        .map(|bytes| bytes.to_vec())
        .collect()
}

fn payloads(assemble: impl Fn(Bytes, &[DeliveredRange]) -> (Bytes, Bytes)) -> Vec<Vec<u8>> {
    let range = |first, count, attempt| DeliveredRange {
        first_offset: QueueOffset(first),
        count,
        attempt: Attempt(attempt),
        stored_wall_ms: 1_700_000_000_000,
    };
    let with = |variant| {
        let (head, batch) = assemble(batch(5, variant), &[range(7, 4, 1), range(900, 1, 3)]);
        [&head[..], &batch[..]].concat()
    };
    (0..3).map(with).collect()
}

/// Makes the checksum of the batch that begins at `at` right, if its header can be read.
fn reseal(input: &mut [u8], at: usize) {
    const CHECKSUM_AT: usize = 36;
    let Some(batch) = input.get_mut(at..) else { return };
    let Some(length) = Attributes::length(batch).ok().filter(|&length| length <= batch.len()) else {
        return;
    };
    batch[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
    let checksum = crc32c(&batch[..length]);
    batch[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
}

/// Calls every accessor; whatever the rows say, none may panic.
fn use_batch(batch: &Batch) {
    for row in batch.rows() {
        let _ = (
            row.tag(),
            row.tag_hash(),
            row.message_id(),
            row.born_ms(),
            row.deliver_at_ms(),
            row.priority(),
            row.flags(),
        );
        let _ = (
            row.keys().count(),
            row.properties().count(),
            row.property("region"),
            row.attribute_bytes(),
        );
        let _ = (batch.body(&row), batch.verify_body(&row), row.body_range());
    }
    let _ = (
        batch.verify_bodies(),
        batch.attributes().names().count(),
        batch.attributes().runs().count(),
    );
    let mut merger = BatchMerger::new();
    let middle = batch.count() / 2;
    let _ = merger.add_batch(batch, middle..batch.count());
    if let Some(row) = batch.row(middle) {
        let _ = merger.add_with_properties(
            batch.attributes(),
            middle,
            batch.body(&row),
            &[("region", "us"), ("reason", "nacked")],
        );
    }
    let _ = merger.take().into_bytes();
}

/// What was parsed can be merged, parsed again and says the same; what is admitted keeps every rule.
fn keep_promises(batch: &Batch) {
    let mut merger = BatchMerger::new();
    merger.add_batch(batch, 0..batch.count()).expect("a batch of this size fits");
    let copy = Batch::parse(merger.take().into_bytes()).expect("what was merged from a valid batch is valid");
    assert_eq!(copy.count(), batch.count());
    for (left, right) in batch.rows().zip(copy.rows()) {
        assert_eq!(
            (left.tag_bytes(), left.message_id(), left.born_ms()),
            (right.tag_bytes(), right.message_id(), right.born_ms())
        );
        assert!(left.keys().eq(right.keys()) && batch.body(&left) == batch.body(&right));
        let named = |batch: &Batch, name| batch.attributes().name(name).to_owned();
        let properties = left.properties().map(|(name, value)| (named(batch, name), value));
        assert!(properties.eq(right.properties().map(|(name, value)| (named(&copy, name), value))));
    }
    let Some(producer) = batch.attributes().runs().next().map(|run| run.producer) else {
        return;
    };
    if let Ok(admission) = admit(batch.bytes().clone(), producer, &AdmissionLimits::default()) {
        assert_eq!(admission.batch.count() as usize + admission.refused.len(), batch.count() as usize);
        let again = admit(admission.batch.bytes().clone(), producer, &AdmissionLimits::default()).expect("what is admitted is a batch");
        assert!(again.refused.is_empty() && again.batch == admission.batch);
    }
}

fn frames() -> Vec<Vec<u8>> {
    let mut stream = BytesMut::new();
    for (kind, payload) in control_messages() {
        frame::encode(kind, &payload, &mut stream);
    }
    let mut publishes = BytesMut::new();
    for (variant, kind) in [FrameKind::Publish, FrameKind::Publish, FrameKind::Confirm].into_iter().enumerate() {
        frame::encode(kind, &batch(2, variant), &mut publishes);
    }
    vec![stream.to_vec(), publishes.to_vec(), vec![0, 0, 0, 0, 200, 1, 1, 0]]
}

/// Bytes taken as frames, and whether all of them were.
fn read_frames(input: &[u8]) -> (usize, bool) {
    let mut buffer = BytesMut::from(input);
    let mut taken = 0;
    while let Ok(Some(frame)) = frame::decode(&mut buffer, 1 << 20) {
        taken += FRAME_HEADER_BYTES + frame.payload.len();
        assert_eq!(taken + buffer.len(), input.len(), "a frame takes its own bytes and no other");
        if let Kind::Known(kind) = frame.kind {
            let mut again = BytesMut::new();
            frame::encode(kind, &frame.payload, &mut again);
            assert_eq!(again[..6], input[taken - again.len()..][..6], "length and kind are what they were");
        }
        let _ = frame.known();
    }
    (taken, taken == input.len())
}

/// Reads one kind of message; whether it is one.
type ReadControl = fn(&[u8]) -> bool;

/// What a first byte stands for in an input of the control target.
const CONTROL_READERS: [ReadControl; 14] = [
    survives::<control::Hello>,
    survives::<control::Subscribe>,
    survives::<control::SettleStream>,
    survives::<control::SettleHandles>,
    survives::<control::Confirm>,
    survives::<control::CreateGroup>,
    survives::<control::Seek>,
    survives::<control::Refused>,
    survives::<control::Decide>,
    survives::<control::Transactions>,
    survives::<control::LoadPlugin>,
    |payload| {
        control::Refused::decode(payload).is_ok_and(|refused| {
            let refusal = Refusal::from(refused);
            assert_eq!(
                Refusal::from(control::Refused::from(refusal.clone())),
                refusal,
                "a refusal survives the wire"
            );
            true
        })
    },
    survives::<control::BackupCut>,
    survives::<control::BackupFiles>,
];

fn survives<M: Message + Default + PartialEq>(payload: &[u8]) -> bool {
    M::decode(payload).is_ok_and(|message| {
        assert!(
            M::decode(&message.encode_to_vec()[..]).as_ref() == Ok(&message),
            "a message survives its own bytes"
        );
        true
    })
}

fn read_control(input: &[u8]) -> bool {
    let reader = input
        .split_first()
        .and_then(|(&number, payload)| Some((CONTROL_READERS.get(usize::from(number))?, payload)));
    reader.is_some_and(|(read, payload)| read(payload))
}

/// One message for each of the first readers, in their order.
fn control_messages() -> Vec<(FrameKind, Vec<u8>)> {
    let filter = Some(control::Filter {
        plugin: "sql".into(),
        expression: "price > 100.0".into(),
    });
    let start = Some(control::StartPoint {
        at: Some(start_point::At::WallMs(1_700_000_000_000)),
    });
    let backoff = Some(control::Backoff {
        kind: Some(backoff::Kind::Table(backoff::Table {
            waits_ms: vec![1000, 5000],
        })),
    });
    let refusal = control::Refused::from(Refusal::new(ErrorCode::BadExpression, "unexpected ')'").at(7));
    let nack = Some(control::Action {
        kind: Some(action::Kind::Nack(control::Nack {
            by_group: false,
            delay_ms: 5,
        })),
    });
    let hello = control::Hello {
        version_min: 1,
        version_max: 2,
        client_name: "c".into(),
        producer_id: Bytes::from_static(&[7; 16]),
    };
    let subscribe = control::Subscribe {
        topic: "flights".into(),
        group: "g".into(),
        filter,
        invisible_ms: 9000,
        credit_messages: 100,
        start,
        member: "m".into(),
    };
    let settle = control::SettleStream {
        request: 1,
        queue: 2,
        pass: 3,
        up_to: 4,
        each: vec![5, 6, 7],
        action: nack,
    };
    let handles = control::SettleHandles {
        handles: vec![Bytes::from_static(&[1; 40]); 3],
        action: nack,
    };
    let confirm = control::Confirm {
        stored: vec![control::Stored {
            first_sequence: 1,
            count: 2,
            topic: 3,
            queue: 4,
            first_offset: 5,
            duplicate: true,
            deliver_at_ms: 1_800_000_000_000,
            recall: Bytes::from_static(b"recall"),
            transaction: Bytes::from_static(b"transaction"),
        }],
        refused: vec![control::RefusedMessage {
            sequence: 9,
            refused: Some(refusal.clone()),
        }],
    };
    let create = control::CreateGroup {
        name: "g".into(),
        settings: Some(control::GroupSettings {
            attempts_max: 16,
            backoff,
            start: None,
            ordered: true,
            hold_exhausted: true,
            oldest_every: 4,
            broadcast: true,
        }),
    };
    let seek = control::Seek {
        group: "g".into(),
        topic: "t".into(),
        one_queue: true,
        queue: 1,
        to: Some(seek::To::Offset(7)),
    };
    let decide = control::Decide {
        handles: vec![Bytes::from_static(&[1; 33]); 3],
        decision: control::Decision::RollBack.into(),
        operator: true,
    };
    vec![
        (FrameKind::Hello, hello.encode_to_vec()),
        (FrameKind::Subscribe, subscribe.encode_to_vec()),
        (FrameKind::SettleStream, settle.encode_to_vec()),
        (FrameKind::SettleHandles, handles.encode_to_vec()),
        (FrameKind::Confirm, confirm.encode_to_vec()),
        (FrameKind::CreateGroup, create.encode_to_vec()),
        (FrameKind::Seek, seek.encode_to_vec()),
        (FrameKind::Refused, refusal.encode_to_vec()),
        (FrameKind::Decide, decide.encode_to_vec()),
        (FrameKind::Transactions, transactions().encode_to_vec()),
        (FrameKind::AnswerStart, control::AnswerStart { topic: "t".into() }.encode_to_vec()),
        (FrameKind::Heard, control::Heard { ask: 7 }.encode_to_vec()),
        (FrameKind::BackupCut, backup::cut().encode_to_vec()),
        (FrameKind::BackupFiles, backup::files().encode_to_vec()),
    ]
}

fn transactions() -> control::Transactions {
    let transaction = control::TransactionInfo {
        handle: Bytes::from_static(&[1; 33]),
        id: "00000000000000070000000000000009".into(),
        prepared_wall_ms: 1_700_000_000_000,
        asks: 3,
        deliver_at_ms: 1_800_000_000_000,
        given_up: true,
        tag: "t".into(),
        keys: vec!["k".into()],
        body_bytes: 5,
        next_ask_wall_ms: 1_700_000_006_000,
    };
    control::Transactions {
        transactions: vec![transaction],
        next: 41,
    }
}
