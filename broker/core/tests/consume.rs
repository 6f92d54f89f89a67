//! Consuming by streams and receives, stepped by hand.

mod harness;

use harness::{Harness, messages};
use sluice_core::effect::{Answer, DeadLetter, Effect, FetchId, Taker};
use sluice_core::input::{Action, Admin, ConnectionId, Consume, Input, Numbers, SeekTo, SubscriptionId};
use sluice_core::state::lane::NEVER_MONO_MS;
use sluice_log::record::{Backoff, Filter, GroupSettings, StartPoint};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset, TopicId};

const NACK_NOW: Action = Action::Nack { delay_ms: Some(0) };

/// Ten messages stored and a stream with this much credit.
fn streaming(credit: u32) -> Harness {
    let mut harness = Harness::new();
    harness.publish(1, 0, 10);
    harness.sync();
    harness.stream(1, Filter::All, credit);
    harness.sync();
    harness
}

fn attempts(max: u16) -> GroupSettings {
    GroupSettings {
        attempts_max: max,
        backoff: Backoff::Fixed { wait_ms: 5_000 },
        start: StartPoint::Earliest,
    }
}

#[test]
fn an_unsynced_message_is_not_delivered() {
    let mut harness = streaming(20);
    assert_eq!(harness.delivered().len(), 10);
    harness.publish(1, 10, 1);
    assert_eq!(harness.delivered(), []);
    harness.sync();
    assert_eq!(harness.delivered(), [(10, 1)]);
}

#[test]
fn a_delivery_waits_for_its_subscription_and_comes_after_its_answer() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    let request = harness.stream(1, Filter::All, 1);
    assert!(harness.effects.iter().all(|effect| !matches!(effect, Effect::Deliver(_))));
    harness.sync();
    let answer = harness
        .effects
        .iter()
        .position(|effect| matches!(effect, Effect::Answer { request: other, .. } if *other == request));
    let delivery = harness.effects.iter().position(|effect| matches!(effect, Effect::Deliver(_)));
    assert!(answer.expect("an answer") < delivery.expect("a delivery"));
}

#[test]
fn a_stream_gets_no_more_than_its_credit() {
    let mut harness = streaming(3);
    assert_eq!(harness.delivered(), [(0, 1), (1, 1), (2, 1)]);
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 2,
    });
    assert_eq!(harness.delivered(), [(3, 1), (4, 1)]);
}

#[test]
fn an_ack_is_answered_when_it_is_synced_and_survives_a_crash() {
    let mut harness = streaming(4);
    let request = harness.settle(1, 1, Numbers::UpTo(3), Action::Ack);
    assert!(
        harness
            .effects
            .iter()
            .all(|effect| !matches!(effect, Effect::Answer { request: other, .. } if *other == request))
    );
    harness.sync();
    assert_eq!(harness.settled(request), [Ok(())]);
    harness.crash();
    harness.sync();
    harness.stream(2, Filter::All, 2);
    harness.sync();
    assert_eq!(
        harness.delivered(),
        [(3, 2), (4, 1)],
        "what the old stream held comes first, as its second attempt"
    );
}

#[test]
fn a_cumulative_ack_settles_only_what_the_stream_still_holds() {
    let mut harness = streaming(4);
    harness.settle(1, 1, Numbers::Each(vec![2]), NACK_NOW);
    harness.settle(1, 1, Numbers::UpTo(4), Action::Ack);
    harness.sync();
    harness.delivered();
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 1,
    });
    assert_eq!(harness.delivered(), [(1, 2)]);
}

#[test]
fn a_number_that_is_not_held_is_refused_and_the_others_are_settled() {
    let mut harness = streaming(3);
    let request = harness.settle(1, 1, Numbers::Each(vec![1, 9]), Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(request), [Err(ErrorCode::NotLeased)]);
    assert_eq!(harness.core.counters().settled, 1);
}

#[test]
fn a_nacked_message_does_not_come_back_before_its_delay() {
    let mut harness = streaming(1);
    harness.delivered();
    harness.settle(1, 1, Numbers::UpTo(1), Action::Nack { delay_ms: Some(2_000) });
    harness.wait(1_999);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 1,
    });
    assert_eq!(harness.delivered(), [(1, 1)]);
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 1,
    });
    harness.wait(1);
    assert!(harness.delivered().contains(&(2, 1)) && harness.core.counters().returned_nacked == 1);
}

#[test]
fn a_lost_connection_counts_an_attempt_and_a_graceful_close_does_not() {
    let mut harness = streaming(1);
    harness.delivered();
    harness.input(Input::Disconnected {
        connection: ConnectionId(1),
    });
    harness.stream(2, Filter::All, 1);
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 2)]);
    let request = harness.request();
    harness.input(Input::Unsubscribe {
        request,
        subscription: SubscriptionId(2),
    });
    harness.stream(3, Filter::All, 1);
    harness.sync();
    assert_eq!(harness.answer(request), Some(Ok(Answer::Done)));
    assert_eq!(harness.delivered(), [(0, 2)]);
}

#[test]
fn a_lease_ends_when_its_time_is_over_and_not_before() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    harness.receive(1, 0);
    harness.sync();
    let handles = harness.handles();
    harness.wait(9_999);
    assert_eq!(harness.core.counters().returned_expired, 0);
    harness.wait(1);
    assert_eq!(harness.core.counters().returned_expired, 1);
    let request = harness.settle_handles(handles, Action::Ack);
    assert_eq!(harness.settled(request), [Err(ErrorCode::StaleHandle)]);
    harness.receive(1, 5_000);
    harness.wait(999);
    assert_eq!(harness.delivered(), [], "the first wait of the back-off is a second");
    harness.wait(1);
    assert_eq!(harness.delivered(), [(0, 2)]);
}

#[test]
fn what_an_answer_had_no_room_for_comes_again_at_once_as_the_same_attempt() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 3);
    harness.sync();
    harness.receive(3, 0);
    harness.sync();
    let handles = harness.handles();
    harness.delivered();
    harness.input(Input::Undelivered {
        handles: handles[1..].to_vec(),
    });
    harness.receive(3, 0);
    harness.sync();
    assert_eq!(harness.delivered(), [(1, 1), (2, 1)]);
    let request = harness.settle_handles(handles, Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(request)[0], Ok(()));
    assert_eq!(harness.core.counters().returned_closed, 2);
}

#[test]
fn an_extended_lease_lasts_longer() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    harness.receive(1, 0);
    harness.sync();
    let handles = harness.handles();
    harness.wait(9_000);
    harness.settle_handles(handles.clone(), Action::Extend { invisible_ms: 10_000 });
    harness.wait(9_999);
    let request = harness.settle_handles(handles, Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(request), [Ok(())]);
}

#[test]
fn a_receive_that_waits_in_vain_gets_nothing_and_one_that_waits_gets_what_comes() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    harness.receive(1, 0);
    harness.sync();
    harness.delivered();
    let in_vain = harness.receive(1, 100);
    harness.wait(99);
    assert_eq!(harness.answer(in_vain), None);
    harness.wait(1);
    assert_eq!(harness.answer(in_vain), Some(Ok(Answer::NothingReceived)));
    harness.receive(8, 10_000);
    harness.publish(1, 1, 3);
    harness.sync();
    assert_eq!(harness.delivered(), [(1, 1), (2, 1), (3, 1)]);
}

#[test]
fn two_members_share_the_messages() {
    let mut harness = streaming(0);
    harness.stream(2, Filter::All, 2);
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 2,
    });
    harness.sync();
    let deliveries = harness.deliveries();
    let takers: Vec<_> = deliveries.iter().map(|delivery| delivery.taker.clone()).collect();
    let taker = |subscription| Taker::Stream {
        subscription: SubscriptionId(subscription),
        first_number: 1,
    };
    assert_eq!(takers, [taker(2), taker(1)]);
    assert_eq!(
        deliveries.iter().flat_map(messages).collect::<Vec<_>>(),
        [(0, 1), (1, 1), (2, 1), (3, 1)]
    );
}

#[test]
fn a_handle_settles_once_and_a_made_up_one_never() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 2);
    harness.sync();
    harness.receive(2, 0);
    harness.sync();
    let mut handles = harness.handles();
    handles.push(bytes::Bytes::from_static(b"made up"));
    let request = harness.settle_handles(handles.clone(), Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(request), [Ok(()), Ok(()), Err(ErrorCode::BadHandle)]);
    let request = harness.settle_handles(handles[..1].to_vec(), Action::Ack);
    assert_eq!(harness.settled(request), [Err(ErrorCode::StaleHandle)]);
}

#[test]
fn a_handle_whose_lease_the_crash_forgot_settles_until_the_message_is_handed_out_again() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 3);
    harness.stream(1, Filter::All, 0);
    harness.sync();
    harness.receive(2, 0);
    let handles = harness.handles();
    harness.crash();
    harness.sync();
    let request = harness.settle_handles(handles[1..].to_vec(), Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(request), [Ok(())]);
    harness.crash();
    harness.sync();
    harness.receive(3, 0);
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (2, 1)], "what was settled ahead is not handed out");
    let request = harness.settle_handles(handles[..1].to_vec(), Action::Ack);
    assert_eq!(harness.settled(request), [Err(ErrorCode::StaleHandle)]);
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
    harness.settle(1, 1, Numbers::UpTo(1), NACK_NOW);
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (0, 2)]);
    harness.settle(1, 1, Numbers::UpTo(2), NACK_NOW);
    let asked = harness.effects.iter().find_map(|effect| match effect {
        Effect::Fetch { fetch, offset, dead, .. } => Some((*fetch, *offset, dead.clone())),
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
                reason
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
    let mut harness = streaming(4);
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
    let mut harness = streaming(0);
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
    let mut harness = streaming(0);
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
    let mut harness = streaming(2);
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
