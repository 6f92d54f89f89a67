//! Consuming by streams and receives, stepped by hand.

mod harness;

use harness::{Harness, messages};
use sluice_core::effect::{Answer, Effect, Taker};
use sluice_core::input::{Action, ConnectionId, Input, Numbers, SubscriptionId};
use sluice_log::record::Filter;
use sluice_protocol::errors::ErrorCode;

const NACK_NOW: Action = Action::Nack { delay_ms: Some(0) };

#[test]
fn an_unsynced_message_is_not_delivered() {
    let mut harness = Harness::streaming(20);
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
    let mut harness = Harness::streaming(3);
    assert_eq!(harness.delivered(), [(0, 1), (1, 1), (2, 1)]);
    harness.input(Input::Credit {
        subscription: SubscriptionId(1),
        messages: 2,
    });
    assert_eq!(harness.delivered(), [(3, 1), (4, 1)]);
}

#[test]
fn an_ack_is_answered_when_it_is_synced_and_survives_a_crash() {
    let mut harness = Harness::streaming(4);
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
    let mut harness = Harness::streaming(4);
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
    let mut harness = Harness::streaming(3);
    let request = harness.settle(1, 1, Numbers::Each(vec![1, 9]), Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(request), [Err(ErrorCode::NotLeased)]);
    assert_eq!(harness.core.counters().settled, 1);
}

#[test]
fn a_nacked_message_does_not_come_back_before_its_delay() {
    let mut harness = Harness::streaming(1);
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
    let mut harness = Harness::streaming(1);
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
    let mut harness = Harness::streaming(0);
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
