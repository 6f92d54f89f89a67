//! What waits for a sync: nothing is handed out before the seek or subscription that it follows is durable, and nothing is said too early.

mod harness;

use harness::Harness;
use sluice_core::input::{Action, Admin, ConnectionId, Input, Numbers, SeekTo};
use sluice_log::record::Filter;
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset, TopicId};

#[test]
fn a_lease_begins_when_its_delivery_may_go_out() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 2);
    harness.sync();
    let request = harness.receive(10, 20_000);
    // Longer than the lease: the disk stalls.
    harness.wait(10_000);
    assert!(harness.delivered().is_empty());
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (1, 1)]);
    assert!(harness.answer(request).is_none(), "the delivery is its answer");
    harness.wait(9_999);
    harness.sync();
    assert_eq!(harness.core.counters().redelivered, 0);
}

#[test]
fn a_stall_behind_a_seek_uses_up_no_attempts() {
    let mut harness = held();
    harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to: SeekTo::Earliest,
    });
    harness.wait(100_000_000);
    assert!(harness.delivered().is_empty());
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (1, 1)]);
}

#[test]
fn a_receive_that_does_not_wait_waits_for_the_sync_of_its_subscription() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 2);
    harness.sync();
    let request = harness.receive(10, 0);
    assert!(harness.answer(request).is_none());
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (1, 1)]);
}

#[test]
fn what_waited_for_a_sync_is_not_pushed_on_a_stream_that_ended() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 2);
    harness.sync();
    harness.stream(1, Filter::All, 10);
    harness.input(Input::Disconnected {
        connection: ConnectionId(1),
    });
    harness.sync();
    assert!(harness.delivered().is_empty());
}

/// Two messages that a stream holds.
fn held() -> Harness {
    let mut harness = Harness::new();
    harness.publish(1, 0, 2);
    harness.sync();
    harness.stream(1, Filter::All, 10);
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 1), (1, 1)]);
    harness
}

#[test]
fn a_repeated_cumulative_ack_is_answered_when_the_first_is_synced() {
    let mut harness = held();
    let first = harness.settle(1, 1, Numbers::UpTo(2), Action::Ack);
    let second = harness.settle(1, 1, Numbers::UpTo(2), Action::Ack);
    assert!(harness.answer(first).is_none() && harness.answer(second).is_none());
    harness.sync();
    assert_eq!((harness.settled(first), harness.settled(second)), (vec![Ok(())], vec![Ok(())]));
}

#[test]
fn an_ack_of_what_retention_took_is_answered_when_the_trim_is_synced() {
    let mut harness = held();
    harness.sync();
    let queue = QueueId {
        topic: TopicId(0),
        index: QueueIndex(0),
    };
    let start = QueueOffset(2);
    harness.input(Input::Trim { queue, start });
    let request = harness.settle(1, 1, Numbers::UpTo(2), Action::Ack);
    assert!(harness.answer(request).is_none());
    harness.sync();
    assert_eq!(harness.settled(request), [Ok(())]);
}
