//! What operators do with a group, stepped by hand: pause and resume, skip, purge, leases.

mod harness;

use harness::Harness;
use sluice_core::effect::{Answer, LeaseState, MessageState};
use sluice_core::input::{Action, Admin, ConnectionId, Input, LeasePlace, Numbers, SeekTo, SubscriptionId};
use sluice_log::record::{Filter, Holder, ReturnReason};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{QueueIndex, QueueOffset};

fn operator() -> String {
    "operator".to_owned()
}

fn pause(harness: &mut Harness, topic: Option<&str>) {
    harness.admin(Admin::PauseGroup {
        name: "g".to_owned(),
        topic: topic.map(str::to_owned),
        by: operator(),
    });
    harness.sync();
}

fn resume(harness: &mut Harness, topic: Option<&str>) {
    harness.admin(Admin::ResumeGroup {
        name: "g".to_owned(),
        topic: topic.map(str::to_owned),
        by: operator(),
    });
}

fn credit(harness: &mut Harness, messages: u32) {
    let subscription = SubscriptionId(1);
    harness.input(Input::Credit { subscription, messages });
}

fn skip(harness: &mut Harness, offset: u64) -> MessageState {
    let request = harness.admin(Admin::SkipMessage {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: QueueIndex(0),
        offset: QueueOffset(offset),
        by: operator(),
    });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::Skipped { was })) => was,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_paused_group_gets_nothing_and_may_settle_what_it_has() {
    let mut harness = Harness::streaming(3);
    assert_eq!(harness.delivered().len(), 3);
    pause(&mut harness, None);
    credit(&mut harness, 10);
    harness.publish(1, 10, 5);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    let request = harness.settle(1, 1, Numbers::UpTo(2), Action::Ack);
    harness.settle(1, 1, Numbers::UpTo(3), Action::Nack { delay_ms: Some(0) });
    harness.sync();
    assert_eq!(harness.settled(request), [Ok(())]);
    assert_eq!(harness.delivered(), [], "what came back waits, too");
    resume(&mut harness, None);
    assert_eq!(harness.delivered(), [], "nothing goes out before the end of the pause is durable");
    harness.sync();
    assert_eq!(harness.delivered().first(), Some(&(2, 2)));
}

#[test]
fn a_receive_of_a_paused_group_waits_in_vain() {
    let mut harness = Harness::streaming(0);
    pause(&mut harness, Some("t"));
    let request = harness.receive(1, 1_000);
    harness.wait(999);
    assert_eq!(harness.answer(request), None);
    harness.wait(1);
    assert_eq!(harness.answer(request), Some(Ok(Answer::NothingReceived)));
}

#[test]
fn leases_run_out_while_a_group_is_paused() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    harness.receive(1, 0);
    harness.sync();
    pause(&mut harness, None);
    harness.wait(10_000);
    assert_eq!(harness.core.counters().returned_expired, 1);
}

#[test]
fn a_pause_outlives_a_crash() {
    let mut harness = Harness::streaming(0);
    pause(&mut harness, None);
    harness.crash();
    harness.sync();
    harness.stream(2, Filter::All, 10);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    resume(&mut harness, None);
    harness.sync();
    assert_eq!(harness.delivered().len(), 10);
}

#[test]
fn a_group_that_is_paused_in_all_topics_is_resumed_in_all() {
    let mut harness = Harness::streaming(0);
    pause(&mut harness, None);
    pause(&mut harness, Some("t"));
    let one = harness.admin(Admin::ResumeGroup {
        name: "g".to_owned(),
        topic: Some("t".to_owned()),
        by: operator(),
    });
    assert_eq!(harness.refusal(one), ErrorCode::GroupPaused);
    resume(&mut harness, None);
    credit(&mut harness, 1);
    harness.sync();
    assert_eq!(harness.delivered().len(), 1);
    assert!(harness.core.state().pauses.is_empty());
}

#[test]
fn a_skipped_message_is_over_whatever_it_was() {
    let mut harness = Harness::streaming(3);
    harness.delivered();
    harness.settle(1, 1, Numbers::Each(vec![2]), Action::Nack { delay_ms: Some(5_000) });
    harness.sync();
    assert_eq!(skip(&mut harness, 0), MessageState::Leased);
    assert_eq!(skip(&mut harness, 1), MessageState::Retrying);
    assert_eq!(skip(&mut harness, 5), MessageState::Free);
    assert_eq!(skip(&mut harness, 5), MessageState::Over);
    let late = harness.settle(1, 1, Numbers::Each(vec![1]), Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(late), [Err(ErrorCode::NotLeased)]);
    credit(&mut harness, 20);
    harness.wait(5_000);
    harness.sync();
    let offsets: Vec<u64> = harness.delivered().into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [3, 4, 6, 7, 8, 9]);
}

#[test]
fn what_is_not_stored_cannot_be_skipped() {
    let mut harness = Harness::streaming(0);
    let request = harness.admin(Admin::SkipMessage {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: QueueIndex(0),
        offset: QueueOffset(10),
        by: operator(),
    });
    assert_eq!(harness.refusal(request), ErrorCode::NoSuchOffset);
}

#[test]
fn a_purge_passes_over_all_that_is_not_settled_and_counts_it() {
    let mut harness = Harness::streaming(4);
    harness.delivered();
    harness.settle(1, 1, Numbers::UpTo(1), Action::Ack);
    harness.sync();
    let request = harness.admin(Admin::PurgeGroup {
        group: "g".to_owned(),
        topic: "t".to_owned(),
    });
    assert_eq!(harness.answer(request), None);
    harness.sync();
    assert_eq!(harness.answer(request), Some(Ok(Answer::Purged { messages: 9 })));
    credit(&mut harness, 20);
    harness.publish(1, 10, 1);
    harness.sync();
    assert_eq!(harness.delivered(), [(10, 1)]);
}

#[test]
fn leases_are_listed_with_their_holders_and_what_waits_with_its_reason() {
    let mut harness = Harness::streaming(3);
    harness.settle(1, 1, Numbers::Each(vec![2]), Action::Nack { delay_ms: Some(5_000) });
    harness.sync();
    let request = harness.admin(Admin::ListLeases {
        group: "g".to_owned(),
        topic: None,
        from: LeasePlace::default(),
    });
    let Some(Ok(Answer::Leases { leases, next })) = harness.answer(request) else {
        panic!("no leases");
    };
    assert_eq!(next, None);
    let shown: Vec<_> = leases
        .iter()
        .map(|lease| (lease.offsets.first.0, lease.offsets.end.0, &lease.state))
        .collect();
    let wall_ms = harness.now.wall_ms;
    let leased = |until_wall_ms| LeaseState::Leased {
        holder: Holder::Stream {
            member: "member-1".to_owned(),
        },
        attempt: 1,
        until_wall_ms,
    };
    let waits = LeaseState::Retrying {
        attempts: 1,
        due_wall_ms: Some(wall_ms + 5_000),
        reason: ReturnReason::Nacked,
    };
    let leased = leased(wall_ms + 900_000);
    assert_eq!(shown, [(0, 1, &leased), (1, 2, &waits), (2, 3, &leased)]);
}

#[test]
fn a_seek_of_a_paused_group_leaves_it_paused() {
    let mut harness = Harness::streaming(2);
    harness.delivered();
    pause(&mut harness, None);
    harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to: SeekTo::Earliest,
    });
    credit(&mut harness, 5);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    harness.input(Input::Disconnected {
        connection: ConnectionId(1),
    });
    resume(&mut harness, None);
    harness.stream(2, Filter::All, 1);
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1)]);
}
