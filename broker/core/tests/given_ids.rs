//! Messages with ids of their own: of those with the same one the first is stored, and the others are answered as it was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

use harness::Harness;
use sluice_core::CoreConfig;
use sluice_core::effect::{Answer, StoredRun};
use sluice_core::input::{Input, RequestId};
use sluice_protocol::batch::{Batch, BatchBuilder, GivenId, NewMessage};
use sluice_protocol::ids::{ProducerId, Sequence};

/// Publishes one message with an id.
fn publish(harness: &mut Harness, producer: u128, sequence: u64, (scope, id): (u64, &str), deliver_after_ms: i64) -> RequestId {
    let mut builder = BatchBuilder::new(0, ProducerId(producer), Sequence(sequence));
    let message = NewMessage::<&str> {
        given_id: Some(GivenId { scope, id }),
        deliver_at_ms: if deliver_after_ms > 0 {
            harness.now.wall_ms + deliver_after_ms
        } else {
            0
        },
        ..NewMessage::default()
    };
    builder.push(&message, b"body").unwrap();
    let request = harness.request();
    let batches = vec![Batch::parse(builder.finish()).unwrap().looked_at()];
    let topic = "t".into();
    harness.core.handle(harness.now, Input::Publish { request, topic, batches });
    request
}

fn answered(harness: &mut Harness, request: RequestId) -> StoredRun {
    match harness.answer(request) {
        Some(Ok(Answer::Stored { runs, refused })) if runs.len() == 1 && refused.is_empty() => runs[0],
        other => panic!("{other:?} is no stored message"),
    }
}

/// Publishes one message with an id, waits until it is durable, and says where it is and whether it was there before.
fn stored(harness: &mut Harness, producer: u128, sequence: u64, id: (u64, &str)) -> (u64, bool) {
    let request = publish(harness, producer, sequence, id, 0);
    harness.end_turn();
    harness.sync();
    let run = answered(harness, request);
    (run.first_offset.0, run.duplicate)
}

#[test]
fn an_id_is_recognised_under_another_sequence_for_ten_minutes_and_after_a_crash() {
    let mut harness = Harness::new();
    assert_eq!(stored(&mut harness, 1, 0, (0, "a")), (0, false));
    assert_eq!(stored(&mut harness, 1, 1, (0, "b")), (1, false));
    assert_eq!(stored(&mut harness, 1, 2, (0, "a")), (0, true));
    harness.crash();
    assert_eq!(stored(&mut harness, 1, 3, (0, "a")), (0, true));
    harness.wait(599_000);
    assert_eq!(stored(&mut harness, 1, 4, (0, "a")), (0, true));
    harness.wait(61_000);
    assert_eq!(stored(&mut harness, 1, 5, (0, "a")), (2, false));
}

#[test]
fn an_id_is_its_producers_own_or_that_of_all_who_share_a_scope() {
    let mut harness = Harness::new();
    assert_eq!(stored(&mut harness, 1, 0, (0, "a")), (0, false));
    assert_eq!(stored(&mut harness, 2, 0, (0, "a")), (1, false));
    assert_eq!(stored(&mut harness, 1, 1, (7, "a")), (2, false));
    assert_eq!(stored(&mut harness, 2, 1, (7, "a")), (2, true));
    assert_eq!(stored(&mut harness, 2, 2, (8, "a")), (3, false));
}

#[test]
fn two_of_one_turn_with_the_same_id_are_stored_once_and_wait_for_the_same_sync() {
    let mut harness = Harness::new();
    let first = publish(&mut harness, 1, 0, (0, "a"), 0);
    let second = publish(&mut harness, 1, 1, (0, "a"), 0);
    harness.end_turn();
    assert!(harness.answer(second).is_none(), "the first is not durable yet");
    harness.sync();
    assert!(!answered(&mut harness, first).duplicate);
    assert_eq!(answered(&mut harness, second).first_offset.0, 0);
}

#[test]
fn a_delayed_message_is_answered_with_what_recalls_the_first() {
    let mut harness = Harness::new();
    let first = publish(&mut harness, 1, 0, (0, "a"), 5_000);
    harness.end_turn();
    harness.sync();
    let first = answered(&mut harness, first);
    harness.crash();
    // Another time is asked for: the first one counts.
    let second = publish(&mut harness, 1, 1, (0, "a"), 9_000);
    harness.end_turn();
    harness.sync();
    let second = answered(&mut harness, second);
    assert!(second.duplicate && first.recall.is_some());
    assert_eq!(second.recall, first.recall);
}

#[test]
fn ids_that_take_too_much_memory_are_forgotten_and_counted() {
    let mut harness = Harness::with(CoreConfig {
        given_ids_memory_bytes: 200,
        ..CoreConfig::default()
    });
    assert_eq!(stored(&mut harness, 1, 0, (0, "a")), (0, false));
    harness.wait(60_000);
    for (sequence, id) in [(1, "b"), (2, "c")] {
        stored(&mut harness, 1, sequence, (0, id));
    }
    assert_eq!(harness.core.counters().given_ids_forgotten, 1);
    assert!(stored(&mut harness, 1, 3, (0, "c")).1);
    assert!(!stored(&mut harness, 1, 4, (0, "a")).1);
}
