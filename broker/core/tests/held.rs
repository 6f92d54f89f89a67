//! What waits for a sync while its reason goes: nobody is given a message that belongs to others by then.

mod harness;

use harness::Harness;
use sluice_core::effect::Answer;
use sluice_core::input::{Admin, ConnectionId, Input, SeekTo};
use sluice_log::record::Filter;

#[test]
fn what_waited_for_a_sync_until_its_lease_was_over_is_not_received() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 2);
    harness.sync();
    let request = harness.receive(10, 20_000);
    harness.wait(10_000);
    harness.sync();
    assert!(harness.delivered().is_empty());
    assert!(matches!(harness.answer(request), Some(Ok(Answer::NothingReceived))));
}

#[test]
fn what_waited_for_a_sync_while_a_seek_voided_it_is_not_received() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 2);
    harness.sync();
    let request = harness.receive(10, 20_000);
    harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to: SeekTo::Earliest,
    });
    harness.sync();
    assert!(harness.delivered().is_empty());
    assert!(matches!(harness.answer(request), Some(Ok(Answer::NothingReceived))));
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
