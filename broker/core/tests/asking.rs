//! Prepared messages about which producers are asked, stepped by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

use bytes::Bytes;
use harness::Harness;
use sluice_core::effect::{Answer, Ask, AskId, Copied, Effect, FetchId};
use sluice_core::input::{Admin, Decision, Input, RequestId};
use sluice_core::state::transaction::Known;
use sluice_core::{CoreConfig, TRANSACTION_BYTES};
use sluice_log::record::{Change, Transaction};
use sluice_protocol::batch::{Batch, BatchBuilder, NewMessage};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{ProducerId, QueueOffset, Sequence, TopicId};

type Handle = [u8; TRANSACTION_BYTES];

const FIRST_MS: u64 = 6_000;
const INTERVAL_MS: u64 = 30_000;

/// A broker that gives up after two asks.
fn broker() -> Harness {
    Harness::with(CoreConfig {
        asks_max: 2,
        ..Harness::new().config
    })
}

/// One message that is only prepared, alone in a batch.
fn message(sequence: u64, deliver_at_ms: i64) -> Batch {
    let mut builder = BatchBuilder::new(1_000_000, ProducerId(1), Sequence(sequence));
    let message = NewMessage::<&str> {
        deliver_at_ms,
        prepared: true,
        ..NewMessage::default()
    };
    builder.push(&message, sequence.to_string().as_bytes()).unwrap();
    Batch::parse(builder.finish()).unwrap().looked_at()
}

fn publish(harness: &mut Harness, batch: Batch) -> Handle {
    let request = harness.request();
    harness.input(Input::Publish {
        request,
        topic: "t".into(),
        batches: vec![batch],
    });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::Stored { runs, .. })) => runs[0].transaction.unwrap(),
        other => panic!("not stored: {other:?}"),
    }
}

fn asks(harness: &mut Harness) -> Vec<Ask> {
    let (asks, others) = std::mem::take(&mut harness.effects)
        .into_iter()
        .partition(|effect| matches!(effect, Effect::Ask(_)));
    harness.effects = others;
    let asks = asks.into_iter().filter_map(|effect| match effect {
        Effect::Ask(ask) => Some(ask),
        _ => None,
    });
    asks.collect()
}

fn only_ask(harness: &mut Harness) -> AskId {
    let asks = asks(harness);
    assert_eq!(asks.len(), 1, "{asks:?}");
    asks[0].ask
}

/// What is to be copied now.
fn copies(harness: &mut Harness) -> Vec<(FetchId, Copied)> {
    let copies = harness.effects.iter().filter_map(|effect| match effect {
        Effect::Fetch { fetch, copy, .. } => Some((*fetch, copy.clone())),
        _ => None,
    });
    let copies = copies.collect();
    harness.effects.retain(|effect| !matches!(effect, Effect::Fetch { .. }));
    copies
}

fn decide(harness: &mut Harness, handles: &[Handle], decision: Decision, operator: bool) -> RequestId {
    let request = harness.request();
    harness.input(Input::Decide {
        request,
        handles: handles.iter().map(|handle| Bytes::copy_from_slice(handle)).collect(),
        decision,
        operator: operator.then(|| "operator".to_owned()),
    });
    harness.sync();
    request
}

fn is_done(harness: &mut Harness, request: RequestId) -> bool {
    matches!(harness.answer(request), Some(Ok(Answer::Done)))
}

fn known(harness: &Harness, number: u64) -> Known {
    let transactions = harness.core.state().transactions.get(topic(harness)).unwrap();
    transactions.known(QueueOffset(number))
}

fn topic(harness: &Harness) -> TopicId {
    harness.core.state().topic_named("t").unwrap()
}

/// A message that was asked about as often as it may be and is rolled back, and its handle.
fn given_up(harness: &mut Harness) -> Handle {
    let handle = publish(harness, message(0, 0));
    harness.wait(FIRST_MS);
    for _ in 0..2 {
        let ask = only_ask(harness);
        harness.input(Input::Asked { ask });
        harness.wait(INTERVAL_MS);
    }
    assert_eq!(asks(harness), []);
    let copies = copies(harness);
    assert!(matches!(&copies[..], [(_, Copied::RolledBack(back))] if back.asks == 2 && back.handle == handle));
    let batch = Some(message(0, 0).bytes().clone());
    harness.input(Input::Fetched { fetch: copies[0].0, batch });
    harness.sync();
    handle
}

/// Has what is committed by an operator read, and says whether that is answered.
fn revive(harness: &mut Harness, request: RequestId) -> bool {
    for (fetch, copy) in copies(harness) {
        assert_eq!(copy, Copied::Revived);
        let batch = Some(message(0, 0).bytes().clone());
        harness.input(Input::Fetched { fetch, batch });
    }
    harness.sync();
    is_done(harness, request)
}

#[test]
fn a_producer_is_asked_after_a_while_and_then_from_time_to_time() {
    let mut harness = broker();
    let handle = publish(&mut harness, message(0, 0));
    harness.wait(FIRST_MS - 1);
    assert_eq!(asks(&mut harness), []);
    assert_eq!(harness.core.next_deadline(), Some(harness.now.mono_ms + 1));
    harness.wait(1);
    let asked = asks(&mut harness);
    assert_eq!((asked.len(), asked[0].handle, asked[0].undecided.asks), (1, handle, 0));
    harness.wait(100);
    assert_eq!(asks(&mut harness), [], "nothing is asked twice at one time");
    harness.input(Input::Asked { ask: asked[0].ask });
    harness.sync();
    harness.wait(INTERVAL_MS - 1);
    assert_eq!(asks(&mut harness), []);
    harness.wait(1);
    assert_eq!(asks(&mut harness)[0].undecided.asks, 1);
}

#[test]
fn an_ask_that_was_not_delivered_does_not_count_and_is_tried_again() {
    let mut harness = broker();
    publish(&mut harness, message(0, 0));
    harness.wait(FIRST_MS);
    for _ in 0..20 {
        let asked = asks(&mut harness);
        assert_eq!((asked.len(), asked[0].undecided.asks), (1, 0));
        harness.input(Input::NotAsked { ask: asked[0].ask });
        assert_eq!(asks(&mut harness), [], "not at once");
        harness.wait(1_000);
    }
    assert_eq!(harness.core.counters().asks_undelivered, 20);
    assert!(matches!(known(&harness, 0), Known::Undecided(undecided) if undecided.asks == 0));
}

#[test]
fn asks_go_on_after_a_restart_where_they_were() {
    let mut harness = broker();
    publish(&mut harness, message(0, 0));
    harness.wait(FIRST_MS);
    let ask = only_ask(&mut harness);
    harness.input(Input::Asked { ask });
    harness.sync();
    harness.wait(INTERVAL_MS / 2);
    harness.crash();
    assert_eq!(asks(&mut harness), []);
    harness.wait(INTERVAL_MS / 2 - 1);
    assert_eq!(asks(&mut harness), []);
    harness.wait(1);
    assert_eq!(asks(&mut harness)[0].undecided.asks, 1);
}

#[test]
fn a_message_that_is_not_durable_is_not_asked_about() {
    let mut harness = broker();
    let request = harness.request();
    harness.input(Input::Publish {
        request,
        topic: "t".into(),
        batches: vec![message(0, 0)],
    });
    harness.wait(FIRST_MS);
    assert_eq!(asks(&mut harness), []);
    harness.sync();
    harness.wait(1_000);
    assert_eq!(asks(&mut harness).len(), 1);
}

#[test]
fn what_was_decided_meanwhile_is_neither_counted_nor_given_up() {
    let mut harness = broker();
    let handle = publish(&mut harness, message(0, 0));
    harness.wait(FIRST_MS);
    let ask = only_ask(&mut harness);
    let request = decide(&mut harness, &[handle], Decision::Commit, false);
    assert!(is_done(&mut harness, request));
    let records = harness.durable.len();
    harness.input(Input::Asked { ask });
    harness.sync();
    let is_ask = |change: &Change| matches!(change, Change::Transaction(Transaction::Asked { .. }));
    assert!(!harness.durable[records..].iter().any(|(_, record)| is_ask(&record.change)));
    harness.wait(10 * INTERVAL_MS);
    assert_eq!((asks(&mut harness), copies(&mut harness)), (vec![], vec![]));
}

#[test]
fn a_decision_that_comes_while_the_copy_is_made_counts() {
    let mut harness = broker();
    let handle = publish(&mut harness, message(0, 0));
    harness.wait(FIRST_MS);
    for _ in 0..2 {
        let ask = only_ask(&mut harness);
        harness.input(Input::Asked { ask });
        harness.wait(INTERVAL_MS);
    }
    let fetch = copies(&mut harness)[0].0;
    let request = decide(&mut harness, &[handle], Decision::Commit, false);
    assert!(is_done(&mut harness, request));
    let batch = Some(message(0, 0).bytes().clone());
    harness.input(Input::Fetched { fetch, batch });
    harness.sync();
    assert_eq!((known(&harness, 0), harness.core.counters().given_up), (Known::Committed, 0));
}

#[test]
fn a_copy_that_cannot_be_made_is_tried_again() {
    let mut harness = broker();
    publish(&mut harness, message(0, 0));
    harness.wait(FIRST_MS);
    for _ in 0..2 {
        let ask = only_ask(&mut harness);
        harness.input(Input::Asked { ask });
        harness.wait(INTERVAL_MS);
    }
    let fetch = copies(&mut harness)[0].0;
    harness.input(Input::FetchFailed { fetch });
    assert_eq!(copies(&mut harness), []);
    harness.wait(1_000);
    assert_eq!(copies(&mut harness).len(), 1);
}

#[test]
fn what_nobody_decides_about_is_rolled_back_and_its_copy_is_kept() {
    let mut harness = broker();
    let handle = given_up(&mut harness);
    let copies = harness.core.state().topic_named("%SYS%rolled-back").unwrap();
    assert!(matches!(known(&harness, 0), Known::GivenUp(queue, QueueOffset(0)) if queue.topic == copies));
    let rolled_back = decide(&mut harness, &[handle], Decision::RollBack, false);
    assert!(is_done(&mut harness, rolled_back));
    let commit = decide(&mut harness, &[handle], Decision::Commit, false);
    assert_eq!(harness.refusal(commit), ErrorCode::AlreadyRolledBack, "only an operator may");
    harness.crash();
    assert!(matches!(known(&harness, 0), Known::GivenUp(queue, QueueOffset(0)) if queue.topic == copies));
}

#[test]
fn an_operator_commits_what_was_given_up_and_it_is_released_once() {
    let mut harness = broker();
    let handle = given_up(&mut harness);
    let both = [
        decide(&mut harness, &[handle], Decision::Commit, true),
        decide(&mut harness, &[handle], Decision::Commit, true),
    ];
    assert!(revive(&mut harness, both[0]));
    assert!(is_done(&mut harness, both[1]));
    let again = decide(&mut harness, &[handle], Decision::Commit, true);
    assert!(is_done(&mut harness, again));
    let due: Vec<_> = harness
        .core
        .state()
        .calendars
        .get(topic(&harness))
        .unwrap()
        .after(None)
        .map(|due| due.number.0)
        .collect();
    assert_eq!((due, harness.core.counters().revived), (vec![1], 1));
    let fetched = harness
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::FetchDue { messages, .. } if messages.iter().map(|due| due.number).eq([QueueOffset(1)])));
    assert!(fetched, "it is due at once");
    assert_eq!(known(&harness, 0), Known::Committed);
    harness.crash();
    assert_eq!(known(&harness, 0), Known::Committed);
}

#[test]
fn what_was_given_up_is_committed_alone() {
    let mut harness = broker();
    let handle = given_up(&mut harness);
    let other = publish(&mut harness, message(1, 0));
    let request = decide(&mut harness, &[handle, other], Decision::Commit, true);
    assert_eq!(harness.refusal(request), ErrorCode::DecideAlone);
    assert!(matches!(known(&harness, 1), Known::Undecided(_)));
}

#[test]
fn what_retention_took_of_the_copies_cannot_be_committed_any_more() {
    let mut harness = broker();
    let handle = given_up(&mut harness);
    let Known::GivenUp(queue, _) = known(&harness, 0) else {
        panic!("it was given up");
    };
    let request = decide(&mut harness, &[handle], Decision::Commit, true);
    harness.input(Input::Trim {
        queue,
        start: QueueOffset(1),
    });
    let fetch = copies(&mut harness)[0].0;
    harness.input(Input::Fetched { fetch, batch: None });
    harness.sync();
    assert_eq!(harness.refusal(request), ErrorCode::AlreadyRolledBack);
}

#[test]
fn a_topic_that_is_deleted_takes_its_asks_along() {
    let mut harness = broker();
    publish(&mut harness, message(0, 0));
    harness.wait(FIRST_MS);
    let ask = only_ask(&mut harness);
    harness.admin(Admin::DeleteTopic { name: "t".to_owned() });
    harness.sync();
    harness.input(Input::Asked { ask });
    harness.wait(10 * INTERVAL_MS);
    assert_eq!(asks(&mut harness), []);
}

#[test]
fn many_are_asked_about_some_at_a_time() {
    let mut harness = broker();
    (0..100).for_each(|sequence| {
        publish(&mut harness, message(sequence, 0));
    });
    harness.wait(FIRST_MS);
    let mut asked = asks(&mut harness);
    assert_eq!(asked.len(), 64);
    let mut total = 0;
    while let Some(next) = asked.pop() {
        total += 1;
        harness.input(Input::Asked { ask: next.ask });
        asked.extend(asks(&mut harness));
    }
    assert_eq!(total, 100);
    harness.sync();
    assert_eq!(harness.core.counters().asks_delivered, 100);
}
