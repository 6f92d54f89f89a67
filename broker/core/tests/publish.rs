//! Publishing, stepped by hand.

mod harness;

use harness::{Harness, parsed};
use sluice_core::effect::{Answer, StoredRun};
use sluice_core::input::{Admin, Input};
use sluice_core::{Core, CoreConfig};
use sluice_protocol::batch::Batch;
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{ProducerId, QueueIndex};

fn runs(answer: Option<Result<Answer, sluice_protocol::errors::Refusal>>) -> Vec<StoredRun> {
    match answer {
        Some(Ok(Answer::Stored { runs, refused })) if refused.is_empty() => runs,
        other => panic!("not stored: {other:?}"),
    }
}

fn places(runs: &[StoredRun]) -> Vec<(u64, u32, u64, bool)> {
    runs.iter()
        .map(|run| (run.first_sequence.0, run.count, run.first_offset.0, run.duplicate))
        .collect()
}

#[test]
fn a_publish_is_confirmed_only_when_it_is_synced() {
    let mut harness = Harness::new();
    let request = harness.publish(1, 0, 3);
    assert_eq!(harness.answer(request), None);
    harness.sync();
    assert_eq!(places(&runs(harness.answer(request))), [(0, 3, 0, false)]);
}

#[test]
fn a_retry_of_a_send_that_is_not_synced_waits_and_gets_the_same_answer() {
    let mut harness = Harness::new();
    let first = harness.publish(1, 0, 3);
    let again = harness.publish(1, 0, 3);
    assert_eq!(harness.answer(again), None);
    harness.sync();
    assert_eq!(places(&runs(harness.answer(first))), [(0, 3, 0, false)]);
    assert_eq!(places(&runs(harness.answer(again))), [(0, 3, 0, true)]);
    assert_eq!((harness.core.counters().published, harness.core.counters().duplicates), (3, 3));
}

#[test]
fn two_tries_in_one_turn_are_stored_once() {
    let mut harness = Harness::new();
    let requests = [harness.request(), harness.request()];
    for request in requests {
        harness.core.handle(
            harness.now,
            Input::Publish {
                request,
                topic: "t".into(),
                batches: vec![parsed(1, 0, 2)],
            },
        );
    }
    harness.end_turn();
    harness.sync();
    assert_eq!(places(&runs(harness.answer(requests[0]))), [(0, 2, 0, false)]);
    assert_eq!(places(&runs(harness.answer(requests[1]))), [(0, 2, 0, true)]);
}

#[test]
fn a_retry_that_overlaps_is_stored_where_it_is_new() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 3);
    let request = harness.publish(1, 1, 4);
    harness.sync();
    assert_eq!(places(&runs(harness.answer(request))), [(1, 2, 1, true), (3, 2, 3, false)]);
}

#[test]
fn a_retry_after_a_crash_is_stored_once() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 3);
    harness.sync();
    harness.crash();
    let request = harness.publish(1, 0, 3);
    harness.sync();
    assert_eq!(places(&runs(harness.answer(request))), [(0, 3, 0, true)]);
}

#[test]
fn a_sequence_before_the_window_is_refused_by_name() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.publish(1, 1_100, 1);
    let old = harness.publish(1, 76, 1);
    assert_eq!(harness.refusal(old), ErrorCode::SequenceTooOld);
    let late = harness.publish(1, 77, 1);
    harness.sync();
    assert_eq!(places(&runs(harness.answer(late))), [(77, 1, 2, false)]);
}

#[test]
fn sends_that_meet_in_a_turn_become_one_batch_with_their_bodies() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    let requests: Vec<_> = (0..5).map(|_| harness.request()).collect();
    for (nth, &request) in requests.iter().enumerate() {
        let batch = parsed(10 + nth as u128, 7, 1);
        harness.core.handle(
            harness.now,
            Input::Publish {
                request,
                topic: "t".into(),
                batches: vec![batch],
            },
        );
    }
    harness.end_turn();
    let (_, records) = harness.unsynced.last().expect("a write");
    assert_eq!(records.len(), 1);
    harness.sync();
    for (nth, &request) in requests.iter().enumerate() {
        assert_eq!(places(&runs(harness.answer(request))), [(7, 1, 1 + nth as u64, false)]);
    }
    let sluice_log::record::Change::Appended { batch, .. } = &harness.durable.last().expect("a record").1.change else {
        panic!("no batch")
    };
    let batch = Batch::parse(batch.clone()).expect("a batch");
    batch.verify_bodies().expect("sound bodies");
    assert!(batch.rows().all(|row| &batch.body(&row)[..] == b"body 7"));
}

/// Publishes several batches of one producer in one request: the first sequence and the count of each.
fn publish_all(harness: &mut Harness, batches: &[(u64, u64)]) -> sluice_core::input::RequestId {
    let request = harness.request();
    harness.input(Input::Publish {
        request,
        topic: "t".into(),
        batches: batches.iter().map(|&(first, count)| parsed(1, first, count)).collect(),
    });
    request
}

#[test]
fn the_batches_of_a_request_are_placed_as_one_where_their_sequences_are_neighbours() {
    let mut harness = Harness::new();
    let request = publish_all(&mut harness, &[(0, 1), (1, 1), (2, 3), (7, 2), (9, 1)]);
    assert_eq!(harness.unsynced.last().expect("a write").1.len(), 2, "the topic and one batch");
    harness.sync();
    assert_eq!(places(&runs(harness.answer(request))), [(0, 5, 0, false), (7, 3, 5, false)]);
    // The same again, cut otherwise, with something new before, between and behind.
    let request = publish_all(&mut harness, &[(1, 2), (3, 5), (8, 3)]);
    harness.sync();
    let places = places(&runs(harness.answer(request)));
    assert_eq!(places, [(1, 4, 1, true), (5, 2, 8, false), (7, 3, 5, true), (10, 1, 10, false)]);
}

#[test]
fn a_large_batch_is_stored_as_it_came_between_merged_ones() {
    let mut harness = Harness::new();
    let request = publish_all(&mut harness, &[(0, 1), (1, 2), (3, 200), (203, 1), (204, 3)]);
    let records = &harness.unsynced.last().expect("a write").1;
    assert_eq!(records.len(), 4, "the topic and three batches");
    let sent = parsed(1, 3, 200);
    assert!(records[2].ends_with(sent.bytes()), "not a byte is changed");
    harness.sync();
    assert_eq!(places(&runs(harness.answer(request))), [(0, 207, 0, false)]);
}

#[test]
fn a_batch_that_is_refused_leaves_the_others_of_its_request_alone() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.publish(1, 1_100, 1);
    let request = publish_all(&mut harness, &[(75, 2), (77, 1), (78, 1_025), (76, 1), (78, 1)]);
    assert_eq!(harness.answer(request), None, "it waits for what is stored of it");
    harness.sync();
    let Some(Ok(Answer::Stored { runs, refused })) = harness.answer(request) else {
        panic!("not stored")
    };
    assert_eq!(places(&runs), [(77, 2, 2, false)]);
    let codes: Vec<_> = refused.iter().map(|(nth, refusal)| (*nth, refusal.code)).collect();
    use ErrorCode::{SequenceTooOld, TooManyUnconfirmed};
    assert_eq!(codes, [(0, SequenceTooOld), (2, TooManyUnconfirmed), (3, SequenceTooOld)]);
}

#[test]
fn two_tries_in_one_request_are_stored_once() {
    let mut harness = Harness::new();
    let request = publish_all(&mut harness, &[(0, 2), (0, 2), (1, 2)]);
    harness.sync();
    let places = places(&runs(harness.answer(request)));
    assert_eq!(places, [(0, 2, 0, false), (0, 2, 0, true), (1, 1, 1, true), (2, 1, 2, false)]);
}

#[test]
fn neighbouring_sequences_share_a_queue_and_blocks_of_them_spread() {
    let mut harness = Harness::with(CoreConfig::default());
    let mut used = std::collections::BTreeSet::new();
    for block in 0..16 {
        let request = harness.publish(1, block * 256, 256);
        harness.sync();
        let runs = runs(harness.answer(request));
        assert_eq!(runs.len(), 1);
        used.insert(runs[0].queue.index);
    }
    assert_eq!(used, (0..4).map(QueueIndex).collect());
}

#[test]
fn a_batch_wider_than_the_window_is_refused() {
    let mut harness = Harness::new();
    let request = harness.publish(1, 0, 1_025);
    assert_eq!(harness.refusal(request), ErrorCode::TooManyUnconfirmed);
}

#[test]
fn publishing_creates_no_topic_where_that_is_switched_off_or_the_name_is_reserved() {
    let mut harness = Harness::with(CoreConfig {
        auto_create_topics: false,
        ..CoreConfig::default()
    });
    let request = harness.publish(1, 0, 1);
    assert_eq!(harness.refusal(request), ErrorCode::NoSuchTopic);
    let request = harness.request();
    harness.input(Input::Publish {
        request,
        topic: "%DLQ%g".into(),
        batches: vec![parsed(1, 0, 1)],
    });
    assert_eq!(harness.refusal(request), ErrorCode::ReservedName);
}

#[test]
fn the_least_recently_used_producer_is_forgotten_when_memory_is_short() {
    let mut harness = Harness::with(CoreConfig {
        producer_memory_bytes: 1_000,
        ..CoreConfig::default()
    });
    for producer in 1..=5 {
        harness.publish(producer, 0, 1);
    }
    harness.sync();
    assert_eq!(harness.core.counters().producers_forgotten, 2);
    assert!(harness.core.state().producers.get(ProducerId(2)).is_none() && harness.core.state().producers.get(ProducerId(3)).is_some());
}

#[test]
fn an_idle_log_gets_an_empty_frame_after_100_ms_and_then_rests() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    assert_eq!(harness.core.next_deadline(), Some(harness.now.mono_ms + 100));
    harness.wait(100);
    assert!(harness.unsynced.last().expect("a write").1.is_empty());
    harness.sync();
    assert_eq!(harness.core.next_deadline(), None);
}

#[test]
fn a_checkpoint_and_the_log_behind_it_make_the_same_state() {
    use sluice_core::effect::{CheckpointStep, Effect};
    let mut harness = Harness::new();
    harness.publish(1, 0, 3);
    harness.stream(1, sluice_log::record::Filter::All, 2);
    harness.sync();
    harness.core.checkpoint_now();
    harness.end_turn();
    harness.publish(2, 0, 3);
    harness.admin(Admin::CreateTopic {
        name: "u".to_owned(),
        settings: harness.config.topic,
    });
    harness.sync();
    let mut restored = Core::new(harness.config.clone(), [1; 16]);
    let mut from = None;
    for effect in &harness.effects {
        if let Effect::Checkpoint(step) = effect {
            match step {
                CheckpointStep::Begin { replay_from } => from = Some(*replay_from),
                CheckpointStep::Slice { entries } => entries.iter().for_each(|entry| restored.restore(entry).expect("an entry")),
                CheckpointStep::Finish => {}
            }
        }
    }
    let from = from.expect("a beginning");
    assert!(harness.durable.iter().any(|(position, _)| *position < from) && harness.durable.iter().any(|(position, _)| *position > from));
    for (position, record) in harness.durable.iter().filter(|(position, _)| *position >= from) {
        restored.replay(*position, record);
    }
    assert_eq!(restored.state(), harness.core.state());
}
