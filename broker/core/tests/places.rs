//! Where messages go after their last attempt and where a group reads on: dead letters, seeks, deletion and retention.

mod harness;

use harness::Harness;
use sluice_core::effect::{Answer, Copied, DeadLetter, Effect, FetchId};
use sluice_core::input::{Action, Admin, ConnectionId, Consume, Input, Numbers, SeekTo, SubscriptionId};
use sluice_core::state::lane::NEVER_MONO_MS;
use sluice_log::record::{Backoff, Filter, GroupSettings, OLDEST_EVERY, OnExhausted, Sharing, StartPoint};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset, TopicId};

const NACK_NOW: Action = Action::Nack { delay_ms: Some(0) };

fn attempts(max: u16) -> GroupSettings {
    GroupSettings {
        attempts_max: max,
        backoff: Backoff::Fixed { wait_ms: 5_000 },
        start: StartPoint::Earliest,
        ordered: false,
        on_exhausted: OnExhausted::DeadLetter,
        oldest_every: OLDEST_EVERY,
        sharing: Sharing::Shared,
    }
}

#[test]
fn after_the_last_attempt_a_message_goes_to_the_dead_letter_topic_once() {
    let mut harness = Harness::new();
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings: attempts(2),
    });
    harness.publish(1, 0, 1);
    harness.sync();
    harness.stream(1, Filter::All, 5);
    harness.sync();
    harness.settle(1, 1, Numbers::UpTo(1), NACK_NOW);
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (0, 2)]);
    harness.settle(1, 1, Numbers::UpTo(2), NACK_NOW);
    let asked = harness.effects.iter().find_map(|effect| match effect {
        Effect::Fetch {
            fetch,
            offset,
            copy: Copied::DeadLetter(dead),
            ..
        } => Some((*fetch, *offset, dead.clone())),
        _ => None,
    });
    let (fetch, offset, dead) = asked.expect("a fetch");
    let reason = "the consumer asked for another delivery";
    assert_eq!(
        (offset.0, &dead),
        (
            0,
            &DeadLetter {
                topic: "t".to_owned(),
                group: "g".to_owned(),
                attempts: 2,
                reason: reason.to_owned(),
                plugin: None,
            }
        )
    );
    harness.input(Input::Fetched {
        fetch,
        batch: Some(harness::batch(1, 0, 1)),
    });
    harness.input(Input::Fetched {
        fetch,
        batch: Some(harness::batch(1, 0, 1)),
    });
    harness.sync();
    let request = harness.admin(Admin::DescribeTopic { name: "%DLQ%g".to_owned() });
    let Some(Ok(Answer::Topic { topic, .. })) = harness.answer(request) else {
        panic!("no topic")
    };
    assert_eq!(topic.messages, 1);
    harness.wait(100_000_000);
    assert_eq!(harness.delivered(), []);
}

#[test]
fn what_fails_in_a_group_that_reads_a_dead_letter_topic_stays_there_held() {
    let mut harness = Harness::new();
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings: attempts(1),
    });
    harness.publish(1, 0, 1);
    harness.stream(1, Filter::All, 1);
    harness.sync();
    harness.settle(1, 1, Numbers::UpTo(1), NACK_NOW);
    let fetch = harness.effects.iter().find_map(|effect| {
        if let Effect::Fetch { fetch, .. } = effect {
            Some(*fetch)
        } else {
            None
        }
    });
    harness.input(Input::Fetched {
        fetch: fetch.expect("a fetch"),
        batch: Some(harness::batch(1, 0, 1)),
    });
    harness.sync();
    harness.effects.clear();
    let mut ask = harness.consume("m", Filter::All);
    ask.topic = "%DLQ%g".to_owned();
    let (request, subscription) = (harness.request(), SubscriptionId(7));
    harness.input(Input::Subscribe {
        request,
        subscription,
        connection: ConnectionId(7),
        ask,
        invisible_ms: 0,
    });
    harness.input(Input::Credit { subscription, messages: 5 });
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1)]);
    harness.settle(7, 1, Numbers::UpTo(1), NACK_NOW);
    harness.wait(100_000_000);
    assert!(
        harness
            .effects
            .iter()
            .all(|effect| !matches!(effect, Effect::Fetch { .. } | Effect::Deliver(_)))
    );
    let held = harness
        .core
        .state()
        .cursors
        .values()
        .any(|cursor| cursor.lane.retries.latest() == Some(NEVER_MONO_MS));
    assert!(held);
}

#[test]
fn a_seek_voids_leases_numbers_and_handles_of_the_pass_before() {
    let mut harness = Harness::streaming(4);
    harness.delivered();
    let to = SeekTo::Offset(QueueOffset(2));
    let seek = harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to,
    });
    let stale = harness.settle(1, 1, Numbers::UpTo(4), Action::Ack);
    assert_eq!(harness.refusal(stale), ErrorCode::StaleHandle);
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 2,
    });
    assert_eq!(harness.delivered(), [], "what the new pass hands out waits for the seek");
    harness.sync();
    assert_eq!(harness.answer(seek), Some(Ok(Answer::Done)));
    let reset = harness
        .effects
        .iter()
        .position(|effect| matches!(effect, Effect::StreamReset { pass, .. } if pass.0 == 2));
    let delivery = harness.effects.iter().position(|effect| matches!(effect, Effect::Deliver(_)));
    assert!(reset.expect("a reset") < delivery.expect("a delivery"));
    assert_eq!(harness.delivered(), [(2, 1), (3, 1)]);
}

#[test]
fn a_seek_to_a_time_asks_for_the_offset_first() {
    let mut harness = Harness::streaming(0);
    let to = SeekTo::Time { wall_ms: 5 };
    let seek = harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: Some(QueueIndex(0)),
        to,
    });
    let asked = harness.effects.iter().find_map(|effect| {
        if let Effect::Locate { locate, .. } = effect {
            Some(*locate)
        } else {
            None
        }
    });
    harness.input(Input::Located {
        locate: asked.expect("a question"),
        offset: QueueOffset(9),
    });
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 5,
    });
    harness.sync();
    assert_eq!(harness.answer(seek), Some(Ok(Answer::Done)));
    assert_eq!(harness.delivered(), [(9, 1)]);
}

#[test]
fn a_deleted_topic_ends_its_streams_and_its_handles() {
    let mut harness = Harness::streaming(0);
    harness.receive(1, 0);
    let handles = harness.handles();
    harness.admin(Admin::DeleteTopic { name: "t".to_owned() });
    harness.sync();
    let ended = harness
        .effects
        .iter()
        .any(|effect| matches!(effect, Effect::StreamEnded { refusal, .. } if refusal.code == ErrorCode::TopicDeleted));
    assert!(ended);
    harness.publish(1, 50, 1);
    harness.sync();
    let request = harness.settle_handles(handles, Action::Ack);
    assert_eq!(harness.settled(request), [Err(ErrorCode::StaleHandle)]);
}

#[test]
fn what_retention_took_is_neither_delivered_nor_held_and_is_counted() {
    let mut harness = Harness::streaming(2);
    harness.delivered();
    let queue = QueueId {
        topic: TopicId(0),
        index: QueueIndex(0),
    };
    harness.input(Input::Trim {
        queue,
        start: QueueOffset(5),
    });
    assert_eq!(harness.core.counters().lost_to_retention, 5);
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 1,
    });
    harness.sync();
    assert_eq!(harness.delivered(), [(5, 1)]);
}

/// A topic without a synced message, and three that are being written.
fn being_written() -> Harness {
    let mut harness = Harness::new();
    let settings = harness.config.topic;
    harness.admin(Admin::CreateTopic {
        name: "t".to_owned(),
        settings,
    });
    harness.sync();
    harness.publish(1, 0, 3);
    harness
}

#[test]
fn a_start_at_a_time_before_messages_that_are_being_written_begins_with_them() {
    let mut harness = being_written();
    let request = harness.request();
    let ask = Consume {
        start: Some(StartPoint::Time { wall_ms: 5 }),
        ..harness.consume("receiver", Filter::All)
    };
    harness.input(Input::Receive {
        request,
        connection: ConnectionId(99),
        ask,
        max: 4,
        wait_ms: 20_000,
        invisible_ms: 10_000,
    });
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn a_seek_to_a_time_before_messages_that_are_being_written_goes_to_them() {
    let mut harness = being_written();
    harness.stream(1, Filter::All, 10);
    harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to: SeekTo::Time { wall_ms: 5 },
    });
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (1, 1), (2, 1)]);
}

#[test]
fn a_dead_letter_that_cannot_be_read_is_held_and_asked_for_again() {
    let mut harness = Harness::new();
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings: attempts(1),
    });
    harness.publish(1, 0, 1);
    harness.sync();
    harness.stream(1, Filter::All, 5);
    harness.sync();
    harness.settle(1, 1, Numbers::UpTo(1), NACK_NOW);
    for _ in 0..3 {
        let fetch = fetch_asked(&mut harness).expect("a fetch");
        harness.input(Input::FetchFailed { fetch });
        harness.wait(9_999);
        assert_eq!(fetch_asked(&mut harness), None, "not before its time");
        harness.wait(1);
    }
    let fetch = fetch_asked(&mut harness).expect("a fetch");
    harness.input(Input::Fetched {
        fetch,
        batch: Some(harness::batch(1, 0, 1)),
    });
    harness.sync();
    let counters = harness.core.counters();
    assert_eq!((counters.dead_lettered, counters.lost_to_retention), (1, 0));
}

/// The message that is asked for the dead-letter topic.
fn fetch_asked(harness: &mut Harness) -> Option<FetchId> {
    let mut asked = None;
    harness.effects.retain(|effect| match effect {
        Effect::Fetch { fetch, .. } => {
            assert_eq!(asked.replace(*fetch), None, "one message, one fetch");
            false
        }
        _ => true,
    });
    asked
}
