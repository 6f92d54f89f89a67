//! Prepared messages, stepped by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

use bytes::Bytes;
use harness::Harness;
use sluice_core::TRANSACTION_BYTES;
use sluice_core::effect::{Answer, Effect, StoredRun};
use sluice_core::input::{Admin, Decision, Input, RequestId};
use sluice_log::record::{Change, Filter, Transaction};
use sluice_protocol::batch::{Batch, BatchBuilder, BatchMerger, NewMessage};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{ProducerId, QueueOffset, Sequence};

type Handle = [u8; TRANSACTION_BYTES];

/// A batch of messages: whether each is only prepared, and how long from the harness's beginning it is due; 0 for at once.
fn batch(first: u64, messages: &[(bool, i64)]) -> Batch {
    let mut builder = BatchBuilder::new(1_000_000, ProducerId(1), Sequence(first));
    for (nth, &(prepared, after_ms)) in messages.iter().enumerate() {
        let message = NewMessage::<&str> {
            deliver_at_ms: if after_ms == 0 { 0 } else { 1_000_000 + after_ms },
            prepared,
            ..NewMessage::default()
        };
        builder.push(&message, (first + nth as u64).to_string().as_bytes()).unwrap();
    }
    Batch::parse(builder.finish()).unwrap().looked_at()
}

/// Publishes a batch, which is stored.
fn publish(harness: &mut Harness, batch: Batch) -> Vec<StoredRun> {
    let request = harness.request();
    harness.input(Input::Publish {
        request,
        topic: "t".into(),
        batches: vec![batch],
    });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::Stored { runs, refused })) if refused.is_empty() => runs,
        other => panic!("not stored: {other:?}"),
    }
}

/// Prepares so many messages that are due at once.
fn prepare(harness: &mut Harness, first: u64, count: usize) -> Vec<Handle> {
    let runs = publish(harness, batch(first, &vec![(true, 0); count]));
    runs.iter().map(|run| run.transaction.unwrap()).collect()
}

fn ask(harness: &mut Harness, handles: &[Handle], decision: Decision) -> RequestId {
    let request = harness.request();
    harness.input(Input::Decide {
        request,
        handles: handles.iter().map(|handle| Bytes::copy_from_slice(handle)).collect(),
        decision,
        operator: None,
    });
    request
}

/// Decides, which is answered when it is durable.
fn decide(harness: &mut Harness, handles: &[Handle], decision: Decision) {
    let request = ask(harness, handles, decision);
    harness.sync();
    assert!(matches!(harness.answer(request), Some(Ok(Answer::Done))));
}

fn refused(harness: &mut Harness, handles: &[Handle], decision: Decision) -> ErrorCode {
    let request = ask(harness, handles, decision);
    harness.sync();
    harness.refusal(request)
}

fn read(harness: &Harness, numbers: &[QueueOffset]) -> Batch {
    let mut merger = BatchMerger::new();
    for number in numbers {
        let found = harness.durable.iter().find_map(|(_, record)| match &record.change {
            Change::Transaction(Transaction::Prepared { first, due_ms, batch, .. }) | Change::Delayed { first, due_ms, batch, .. }
                if (first.0..first.0 + due_ms.len() as u64).contains(&number.0) =>
            {
                Some((Batch::parse(batch.clone()).unwrap(), (number.0 - first.0) as u32))
            }
            _ => None,
        });
        let (batch, row) = found.unwrap();
        merger.add_batch(&batch, row..row + 1).unwrap();
    }
    Batch::parse(merger.take().into_bytes()).unwrap()
}

/// Reads what the core asks for, and says what was released so far, by its bodies.
fn released(harness: &mut Harness) -> Vec<String> {
    while let Some(place) = harness.effects.iter().position(|effect| matches!(effect, Effect::FetchDue { .. })) {
        if let Effect::FetchDue { fetch, messages, .. } = harness.effects.remove(place) {
            let numbers: Vec<QueueOffset> = messages.iter().map(|due| due.number).collect();
            let batch = Some(read(harness, &numbers));
            harness.input(Input::DueFetched { fetch, batch });
        }
    }
    harness.released()
}

#[test]
fn a_prepared_message_is_released_when_it_is_committed_and_not_before() {
    let mut harness = Harness::new();
    let handles = prepare(&mut harness, 0, 2);
    harness.wait(600_000);
    assert_eq!(released(&mut harness), Vec::<String>::new());
    let first = ask(&mut harness, &handles[1..], Decision::Commit);
    assert_eq!(harness.answer(first), None, "not before it is durable");
    harness.sync();
    assert!(matches!(harness.answer(first), Some(Ok(Answer::Done))));
    assert_eq!(released(&mut harness), ["1"]);
    harness.crash();
    decide(&mut harness, &handles[..1], Decision::Commit);
    assert_eq!(released(&mut harness), ["1", "0"]);
}

#[test]
fn a_message_that_was_rolled_back_is_never_released() {
    let mut harness = Harness::new();
    let handles = prepare(&mut harness, 0, 1);
    decide(&mut harness, &handles, Decision::RollBack);
    assert_eq!(released(&mut harness), Vec::<String>::new());
    harness.crash();
    harness.wait(600_000);
    assert_eq!(released(&mut harness), Vec::<String>::new());
    assert_eq!(refused(&mut harness, &handles, Decision::Commit), ErrorCode::AlreadyRolledBack);
    decide(&mut harness, &handles, Decision::RollBack);
    assert_eq!(harness.core.state().transactions.count(), 0);
}

#[test]
fn a_commit_that_is_asked_for_again_is_answered_the_same_and_done_once() {
    let mut harness = Harness::new();
    let handles = prepare(&mut harness, 0, 1);
    let both = [
        ask(&mut harness, &handles, Decision::Commit),
        ask(&mut harness, &handles, Decision::Commit),
    ];
    assert_eq!(harness.answer(both[1]), None, "the first may still be lost");
    harness.sync();
    for request in both {
        assert!(matches!(harness.answer(request), Some(Ok(Answer::Done))));
    }
    assert_eq!(released(&mut harness), ["0"]);
    harness.crash();
    decide(&mut harness, &handles, Decision::Commit);
    assert_eq!(released(&mut harness), ["0"]);
    assert_eq!(refused(&mut harness, &handles, Decision::RollBack), ErrorCode::AlreadyCommitted);
}

#[test]
fn several_messages_are_decided_about_together_or_not_at_all() {
    let mut harness = Harness::new();
    let handles = prepare(&mut harness, 0, 3);
    decide(&mut harness, &handles[..1], Decision::RollBack);
    assert_eq!(refused(&mut harness, &handles, Decision::Commit), ErrorCode::AlreadyRolledBack);
    assert_eq!(released(&mut harness), Vec::<String>::new());
    decide(&mut harness, &handles[1..], Decision::Commit);
    assert_eq!(released(&mut harness), ["1", "2"]);
    let commits = harness
        .durable
        .iter()
        .filter(|(_, record)| matches!(record.change, Change::Transaction(Transaction::Committed { .. })));
    assert_eq!(commits.count(), 1, "one record says so of both");
}

#[test]
fn a_delayed_message_waits_for_its_commit_and_then_for_its_time() {
    let mut harness = Harness::new();
    let runs = publish(&mut harness, batch(0, &[(true, 5_000), (true, 1_000)]));
    assert!(
        runs.iter().all(|run| run.recall.is_some()),
        "it can be recalled once it is committed"
    );
    let handles: Vec<Handle> = runs.iter().map(|run| run.transaction.unwrap()).collect();
    let handle = Bytes::copy_from_slice(&runs[0].recall.unwrap().handle);
    let early = harness.request();
    harness.input(Input::Recall {
        request: early,
        handle: handle.clone(),
    });
    assert_eq!(harness.refusal(early), ErrorCode::NotWaiting);
    harness.wait(2_000);
    decide(&mut harness, &handles, Decision::Commit);
    assert_eq!(released(&mut harness), ["1"], "its time had come before");
    harness.wait(2_999);
    assert_eq!(released(&mut harness), ["1"]);
    let late = harness.request();
    harness.input(Input::Recall { request: late, handle });
    harness.sync();
    assert!(matches!(harness.answer(late), Some(Ok(Answer::Done))));
    harness.wait(5_000);
    assert_eq!(released(&mut harness), ["1"]);
}

#[test]
fn a_retry_gets_the_first_answer_whatever_was_decided_meanwhile() {
    let mut harness = Harness::new();
    let first = publish(&mut harness, batch(0, &[(true, 0), (false, 9_000), (false, 0), (true, 8_000)]));
    let again = |runs: &[StoredRun]| -> Vec<StoredRun> { runs.iter().map(|run| StoredRun { duplicate: true, ..*run }).collect() };
    let handle = first[0].transaction.unwrap();
    assert_eq!(
        publish(&mut harness, batch(0, &[(true, 0), (false, 9_000), (false, 0), (true, 8_000)])),
        again(&first)
    );
    decide(&mut harness, &[handle], Decision::Commit);
    assert_eq!(released(&mut harness), ["0"]);
    harness.crash();
    // What it asks for now is not what it asked for first.
    assert_eq!(publish(&mut harness, batch(0, &[(false, 0); 4])), again(&first));
    assert_eq!(released(&mut harness), ["0"]);
}

#[test]
fn prepared_and_delayed_messages_of_a_turn_share_the_numbers_of_their_calendar() {
    let mut harness = Harness::new();
    let runs = publish(
        &mut harness,
        batch(0, &[(true, 0), (false, 1_000), (true, 0), (false, 2_000), (false, 0)]),
    );
    let places: Vec<_> = runs.iter().map(|run| (run.queue.index.0, run.first_offset.0)).collect();
    assert_eq!(places, [(65_535, 0), (65_535, 1), (65_535, 2), (65_535, 3), (0, 0)]);
    decide(&mut harness, &[runs[2].transaction.unwrap()], Decision::Commit);
    harness.wait(3_000);
    assert_eq!(released(&mut harness), ["2", "1", "3"]);
    let counters = harness.core.counters();
    assert_eq!((counters.prepared, counters.delayed, counters.published), (2, 2, 1));
}

#[test]
fn a_committed_message_is_delivered_as_an_ordinary_one() {
    let mut harness = Harness::new();
    let handles = prepare(&mut harness, 0, 1);
    harness.stream(1, Filter::All, 10);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    decide(&mut harness, &handles, Decision::Commit);
    assert_eq!(released(&mut harness), ["0"]);
    assert_eq!(harness.delivered(), [(0, 1)]);
}

#[test]
fn foreign_handles_and_those_of_deleted_topics_are_refused() {
    let mut harness = Harness::new();
    let mut handles = prepare(&mut harness, 0, 2);
    let mut forged = handles[0];
    forged[9] ^= 1;
    assert_eq!(
        refused(&mut harness, &[handles[0], forged], Decision::Commit),
        ErrorCode::BadTransactionHandle
    );
    assert_eq!(refused(&mut harness, &[], Decision::Commit), ErrorCode::LimitExceeded);
    let request = harness.request();
    harness.input(Input::Admin {
        request,
        admin: Admin::DeleteTopic { name: "t".to_owned() },
    });
    harness.sync();
    assert_eq!(refused(&mut harness, &handles, Decision::Commit), ErrorCode::TopicDeleted);
    assert_eq!(harness.core.counters().undecided_dropped, 2);
    assert_eq!(harness.core.state().transactions.count(), 0);
    handles = prepare(&mut harness, 2, 1);
    decide(&mut harness, &handles, Decision::Commit);
}

#[test]
fn undecided_messages_are_listed_with_what_decides_about_them() {
    let mut harness = Harness::new();
    let handles = prepare(&mut harness, 0, 3);
    decide(&mut harness, &handles[1..2], Decision::RollBack);
    let request = harness.request();
    harness.input(Input::Admin {
        request,
        admin: Admin::ListTransactions {
            topic: "t".to_owned(),
            from: QueueOffset(0),
        },
    });
    match harness.answer(request) {
        Some(Ok(Answer::Transactions { transactions, next, .. })) => {
            let listed: Vec<Handle> = transactions.iter().map(|transaction| transaction.handle).collect();
            assert_eq!((listed, next), (vec![handles[0], handles[2]], None));
        }
        other => panic!("no list: {other:?}"),
    }
}
