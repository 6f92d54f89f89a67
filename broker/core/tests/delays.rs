//! Delayed messages, stepped by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

use harness::Harness;
use sluice_core::effect::{Answer, Effect, FetchId, Recall, StoredRun};
use sluice_core::input::{Admin, Input, RequestId};
use sluice_log::record::{Change, Due, Filter};
use sluice_protocol::batch::{Batch, BatchBuilder, BatchMerger, NewMessage};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{ProducerId, QueueOffset, Sequence};

/// A batch of messages that are due so long from the harness's beginning; 0 for at once.
fn delayed(first: u64, after_ms: &[i64]) -> Batch {
    let mut builder = BatchBuilder::new(1_000_000, ProducerId(1), Sequence(first));
    for &after_ms in after_ms {
        let message = NewMessage::<&str> {
            deliver_at_ms: if after_ms == 0 { 0 } else { 1_000_000 + after_ms },
            ..NewMessage::default()
        };
        builder.push(&message, format!("after {after_ms}").as_bytes()).unwrap();
    }
    Batch::parse(builder.finish()).unwrap()
}

fn publish(harness: &mut Harness, batch: Batch) -> RequestId {
    let request = harness.request();
    harness.input(Input::Publish {
        request,
        topic: "t".into(),
        batches: vec![batch],
    });
    request
}

fn stored(harness: &mut Harness, request: RequestId) -> Vec<StoredRun> {
    match harness.answer(request) {
        Some(Ok(Answer::Stored { runs, refused })) if refused.is_empty() => runs,
        other => panic!("not stored: {other:?}"),
    }
}

/// Publishes, and waits for what recalls each message.
fn recalls(harness: &mut Harness, batch: Batch) -> Vec<Recall> {
    let request = publish(harness, batch);
    harness.sync();
    stored(harness, request).iter().filter_map(|run| run.recall).collect()
}

fn recall(harness: &mut Harness, recall: Recall) -> RequestId {
    let (request, handle) = (harness.request(), bytes::Bytes::copy_from_slice(&recall.handle));
    harness.input(Input::Recall { request, handle });
    request
}

/// What the core asks to be read, and its answer from the durable records: as many messages as are to be given.
fn asked(harness: &mut Harness) -> Option<(FetchId, Vec<QueueOffset>)> {
    let place = harness
        .effects
        .iter()
        .position(|effect| matches!(effect, Effect::FetchDue { .. }))?;
    match harness.effects.remove(place) {
        Effect::FetchDue { fetch, messages, .. } => Some((fetch, messages.iter().map(|due| due.number).collect())),
        _ => None,
    }
}

fn read(harness: &Harness, numbers: &[QueueOffset]) -> Batch {
    let mut merger = BatchMerger::new();
    for number in numbers {
        let found = harness.durable.iter().find_map(|(_, record)| match &record.change {
            Change::Delayed { first, due_ms, batch, .. } if (first.0..first.0 + due_ms.len() as u64).contains(&number.0) => {
                Some((Batch::parse(batch.clone()).unwrap(), (number.0 - first.0) as u32))
            }
            _ => None,
        });
        let (batch, row) = found.unwrap();
        merger.add_batch(&batch, row..row + 1).unwrap();
    }
    Batch::parse(merger.take().into_bytes()).unwrap()
}

/// Reads everything that is asked for.
fn serve(harness: &mut Harness) {
    while let Some((fetch, numbers)) = asked(harness) {
        let batch = Some(read(harness, &numbers));
        harness.input(Input::DueFetched { fetch, batch });
    }
}

#[test]
fn a_delayed_message_is_released_when_it_is_due_and_not_before() {
    let mut harness = Harness::new();
    publish(&mut harness, delayed(0, &[5_000, 3_000]));
    harness.sync();
    assert_eq!(harness.core.next_deadline(), Some(1_100), "the last frame is to be covered");
    harness.wait(100);
    assert_eq!(harness.core.next_deadline(), Some(3_500), "it is read half a second ahead");
    harness.wait(2_400);
    serve(&mut harness);
    assert_eq!(harness.core.next_deadline(), Some(4_000));
    harness.wait(499);
    assert_eq!(harness.released(), Vec::<String>::new());
    harness.wait(1);
    assert_eq!(harness.released(), ["after 3000"]);
    harness.wait(2_000);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 3000", "after 5000"], "late, since it was read late");
    assert_eq!(harness.core.counters().released, 2);
}

#[test]
fn what_is_due_already_goes_to_its_queue_at_once() {
    let mut harness = Harness::new();
    let request = publish(&mut harness, delayed(0, &[0, 9_000, -5, 0]));
    harness.sync();
    let runs = stored(&mut harness, request);
    let places: Vec<_> = runs
        .iter()
        .map(|run| (run.first_sequence.0, run.count, run.recall.is_some()))
        .collect();
    assert_eq!(places, [(0, 1, false), (1, 1, true), (2, 2, false)]);
    assert_eq!(runs[2].first_offset, QueueOffset(1));
    assert_eq!((harness.core.counters().published, harness.core.counters().delayed), (3, 1));
}

#[test]
fn a_retry_gets_the_first_answer_before_and_after_the_release() {
    let mut harness = Harness::new();
    let first = recalls(&mut harness, delayed(0, &[1_000, 2_000]));
    assert_eq!(first.iter().map(|recall| recall.due_ms).collect::<Vec<_>>(), [1_001_000, 1_002_000]);
    // Another time is not what was asked for first.
    assert_eq!(recalls(&mut harness, delayed(0, &[4_000, 2_000])), first);
    harness.wait(2_000);
    serve(&mut harness);
    assert_eq!(harness.released().len(), 2);
    assert_eq!(recalls(&mut harness, delayed(0, &[1_000, 2_000])), first);
    harness.crash();
    assert_eq!(recalls(&mut harness, delayed(0, &[1_000, 2_000])), first);
    assert_eq!(harness.core.counters().duplicates, 2);
}

#[test]
fn a_recalled_message_is_never_released_though_it_was_read_ahead() {
    let mut harness = Harness::new();
    let recalled = recalls(&mut harness, delayed(0, &[1_000, 2_000, 3_000]));
    harness.wait(600);
    serve(&mut harness);
    let early = recall(&mut harness, recalled[0]);
    assert_eq!(harness.answer(early), None, "not before it is durable");
    harness.sync();
    assert!(matches!(harness.answer(early), Some(Ok(Answer::Done))));
    harness.wait(1_000);
    let (fetch, numbers) = asked(&mut harness).unwrap();
    let under_way = recall(&mut harness, recalled[1]);
    let batch = Some(read(&harness, &numbers));
    harness.input(Input::DueFetched { fetch, batch });
    harness.sync();
    assert!(matches!(harness.answer(under_way), Some(Ok(Answer::Done))));
    harness.wait(2_000);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 3000"]);
    harness.crash();
    harness.wait(10_000);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 3000"], "nor is any released twice");
}

#[test]
fn a_recall_that_comes_too_late_is_refused_by_its_own_code_when_that_is_durable() {
    let mut harness = Harness::new();
    let told = recalls(&mut harness, delayed(0, &[1_000, 9_000]));
    harness.wait(1_000);
    serve(&mut harness);
    let late = recall(&mut harness, told[0]);
    assert_eq!(harness.answer(late), None, "a crash might bring it back");
    harness.sync();
    assert_eq!(harness.refusal(late), ErrorCode::NotWaiting);
    let first = recall(&mut harness, told[1]);
    let again = recall(&mut harness, told[1]);
    harness.sync();
    assert!(matches!(harness.answer(first), Some(Ok(Answer::Done))));
    assert_eq!(harness.refusal(again), ErrorCode::NotWaiting);
    let mut forged = told[1];
    forged.handle[10] ^= 1;
    let request = recall(&mut harness, forged);
    assert_eq!(harness.refusal(request), ErrorCode::BadRecallHandle);
}

#[test]
fn a_clock_set_back_releases_nothing_twice_and_nothing_early() {
    let mut harness = Harness::new();
    publish(&mut harness, delayed(0, &[1_000, 2_000]));
    harness.sync();
    harness.now.wall_ms += 1_000;
    harness.wait(1);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 1000"]);
    harness.now.wall_ms -= 100_000;
    harness.wait(10_000);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 1000"]);
    // What comes now is due by the clock as it is now.
    publish(&mut harness, delayed(2, &[-85_000]));
    harness.sync();
    harness.wait(3_500);
    serve(&mut harness);
    harness.wait(498);
    assert_eq!(harness.released(), ["after 1000"]);
    harness.wait(1);
    assert_eq!(harness.released(), ["after 1000", "after -85000"]);
    harness.now.wall_ms += 100_000;
    harness.wait(1);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 1000", "after -85000", "after 2000"]);
}

#[test]
fn releases_go_in_the_order_of_their_times_though_they_are_read_otherwise() {
    let mut harness = Harness::new();
    publish(&mut harness, delayed(0, &[1_002]));
    harness.sync();
    harness.wait(600);
    serve(&mut harness);
    // It comes late into what was looked at already, and is due earlier.
    publish(&mut harness, delayed(1, &[1_001]));
    harness.sync();
    let (fetch, numbers) = asked(&mut harness).unwrap();
    harness.wait(500);
    assert_eq!(harness.released(), Vec::<String>::new(), "the first is waited for");
    let batch = Some(read(&harness, &numbers));
    harness.input(Input::DueFetched { fetch, batch });
    assert_eq!(harness.released(), ["after 1001", "after 1002"]);
}

#[test]
fn a_message_that_cannot_be_read_is_tried_again_and_holds_nothing_up_for_long() {
    let mut harness = Harness::new();
    publish(&mut harness, delayed(0, &[1_000, 1_001]));
    harness.sync();
    harness.wait(1_001);
    let (fetch, numbers) = asked(&mut harness).unwrap();
    assert_eq!(numbers.len(), 2);
    harness.input(Input::DueFetched { fetch, batch: None });
    assert!(asked(&mut harness).is_none(), "not at once");
    harness.wait(1_000);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 1001"]);
    harness.wait(9_000);
    serve(&mut harness);
    assert_eq!(harness.released(), ["after 1001", "after 1000"]);
    assert_eq!(harness.core.counters().due_unreadable, 1);
}

#[test]
fn a_deleted_topic_drops_what_waits_there_and_counts_it() {
    let mut harness = Harness::new();
    let told = recalls(&mut harness, delayed(0, &[1_000, 2_000]));
    harness.wait(600);
    harness.admin(Admin::DeleteTopic { name: "t".to_owned() });
    serve(&mut harness);
    harness.wait(5_000);
    assert_eq!(harness.released(), Vec::<String>::new());
    let request = recall(&mut harness, told[0]);
    assert_eq!(harness.refusal(request), ErrorCode::TopicDeleted);
    assert_eq!(harness.core.counters().delays_dropped, 2);
    // The last frame is covered, and nothing more is to come.
    harness.wait(100);
    harness.sync();
    assert_eq!(harness.core.next_deadline(), None);
}

#[test]
fn a_released_message_is_delivered() {
    let mut harness = Harness::new();
    publish(&mut harness, delayed(0, &[1_000]));
    harness.sync();
    harness.stream(1, Filter::All, 10);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    harness.wait(1_000);
    serve(&mut harness);
    assert_eq!(harness.delivered(), [], "it is not durable in its queue");
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1)]);
}

#[test]
fn what_waits_is_kept_in_the_log_and_nothing_else() {
    let mut harness = Harness::new();
    publish(&mut harness, delayed(0, &[1_000, 2_000]));
    harness.sync();
    let topic = harness.core.state().topic_named("t").unwrap();
    let calendar = |harness: &Harness| harness.core.state().calendars.get(topic).unwrap().clone();
    assert_eq!(
        (calendar(&harness).start(), calendar(&harness).next),
        (QueueOffset(0), QueueOffset(2))
    );
    let due = |at_ms, number| Due {
        at_ms,
        number: QueueOffset(number),
    };
    assert!(calendar(&harness).holds(due(1_001_000, 0)));
    harness.wait(2_000);
    serve(&mut harness);
    harness.sync();
    assert_eq!(calendar(&harness).start(), QueueOffset(2));
}
