//! A log that goes on twice from one place, here after a backup and there as if nothing had been: what is handed out there counts for nothing
//! here that was not there at that place.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

use bytes::Bytes;
use harness::Harness;
use sluice_core::effect::{Answer, StoredRun};
use sluice_core::input::{Action, Admin, Decision, Input, RequestId};
use sluice_log::record::{Change, Restoration};
use sluice_protocol::batch::{Batch, BatchBuilder, GivenId, NewMessage};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{ProducerId, Sequence};

const MARK: [u8; 16] = *b"one restoration!";

/// Starts where another is, after a backup was restored under this mark.
fn restored(of: &Harness, mark: [u8; 16]) -> Harness {
    let mut here = of.forked();
    note(&mut here, mark);
    here
}

fn note(here: &mut Harness, mark: [u8; 16]) {
    let request = here.admin(Admin::Restored { mark });
    here.sync();
    assert_eq!(here.answer(request), Some(Ok(Answer::Done)));
}

/// Starts again, as a restored log does each time.
fn crash(here: &mut Harness) {
    here.crash();
    note(here, MARK);
}

fn restorations(of: &Harness) -> Vec<&Restoration> {
    let records = of.durable.iter().filter_map(|(_, record)| match &record.change {
        Change::Restored(restoration) => Some(restoration),
        _ => None,
    });
    records.collect()
}

fn store(harness: &mut Harness, first: u64, count: u64) {
    harness.publish(1, first, count);
    harness.sync();
}

/// Receives so many messages; their handles.
fn receive(harness: &mut Harness, max: u16) -> Vec<Bytes> {
    harness.receive(max, 0);
    harness.sync();
    let handles = harness.handles();
    assert_eq!(handles.len(), usize::from(max));
    handles
}

fn ack(harness: &mut Harness, handles: &[Bytes]) -> Vec<Result<(), ErrorCode>> {
    let request = harness.settle_handles(handles.to_vec(), Action::Ack);
    harness.sync();
    harness.settled(request)
}

#[test]
fn a_lease_from_before_the_backup_settles_and_one_from_after_it_never_does() {
    let mut there = Harness::new();
    store(&mut there, 0, 6);
    let mut before = receive(&mut there, 1);
    before.extend(receive(&mut there, 1));
    let mut here = restored(&there, MARK);
    // There the same start goes on, then the next one, whose number the first start here has as well.
    let mut after = receive(&mut there, 2);
    there.crash();
    after.extend(receive(&mut there, 2));
    store(&mut there, 6, 1);
    after.extend(receive(&mut there, 1));
    assert_eq!(ack(&mut here, &before[..1]), [Ok(())]);
    assert_eq!(ack(&mut here, &after), [Err(ErrorCode::StaleHandle); 5], "nobody has them here");
    harness_publish(&mut here, 2);
    let mut own = receive(&mut here, 4);
    own.extend(receive(&mut here, 1));
    assert_eq!(ack(&mut here, &after), [Err(ErrorCode::StaleHandle); 5], "others have them here");
    assert_eq!(ack(&mut there, &own), [Err(ErrorCode::BadHandle); 5]);
    crash(&mut here);
    assert_eq!(ack(&mut here, &before[1..]), [Ok(())], "at a later start, too");
    assert_eq!(ack(&mut here, &after), [Err(ErrorCode::StaleHandle); 5]);
    assert_eq!(ack(&mut here, &own), [Ok(()); 5]);
    assert_eq!(restorations(&here).len(), 1, "it is noted once");
}

/// Another message at the offset that the log elsewhere gave to one of its own.
fn harness_publish(harness: &mut Harness, producer: u128) {
    harness.publish(producer, 0, 1);
    harness.sync();
}

/// Publishes one message that waits: prepared, or for a time.
fn wait(harness: &mut Harness, sequence: u64, prepared: bool) -> StoredRun {
    let mut builder = BatchBuilder::new(1_000_000, ProducerId(1), Sequence(sequence));
    let message = NewMessage::<&str> {
        deliver_at_ms: if prepared { 0 } else { 1_900_000 },
        prepared,
        ..NewMessage::default()
    };
    builder.push(&message, b"waits").unwrap();
    let request = harness.request();
    let batches = vec![Batch::parse(builder.finish()).unwrap().looked_at()];
    let topic = "t".into();
    harness.input(Input::Publish { request, topic, batches });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::Stored { runs, .. })) => runs[0],
        other => panic!("not stored: {other:?}"),
    }
}

fn outcome(harness: &mut Harness, request: RequestId) -> Result<(), ErrorCode> {
    harness.sync();
    match harness.answer(request).unwrap() {
        Ok(_) => Ok(()),
        Err(refusal) => Err(refusal.code),
    }
}

fn recall(harness: &mut Harness, of: &StoredRun) -> Result<(), ErrorCode> {
    let (request, handle) = (harness.request(), Bytes::copy_from_slice(&of.recall.unwrap().handle));
    harness.input(Input::Recall { request, handle });
    outcome(harness, request)
}

fn commit(harness: &mut Harness, of: &StoredRun) -> Result<(), ErrorCode> {
    let request = harness.request();
    harness.input(Input::Decide {
        request,
        handles: vec![Bytes::copy_from_slice(&of.transaction.unwrap())],
        decision: Decision::Commit,
        operator: None,
    });
    outcome(harness, request)
}

#[test]
fn what_waited_at_the_backup_is_recalled_and_committed_and_what_was_numbered_after_it_is_another() {
    let mut there = Harness::new();
    let before = [wait(&mut there, 0, false), wait(&mut there, 1, true)];
    let mut here = restored(&there, MARK);
    let after = [wait(&mut there, 2, false), wait(&mut there, 3, true)];
    let own = [wait(&mut here, 2, false), wait(&mut here, 3, true)];
    for _ in 0..2 {
        assert_eq!(recall(&mut here, &after[0]), Err(ErrorCode::BadRecallHandle));
        assert_eq!(commit(&mut here, &after[1]), Err(ErrorCode::BadTransactionHandle));
        crash(&mut here);
    }
    assert_eq!(recall(&mut here, &before[0]), Ok(()));
    assert_eq!(commit(&mut here, &before[1]), Ok(()));
    assert_eq!(recall(&mut here, &own[0]), Ok(()));
    assert_eq!(commit(&mut here, &own[1]), Ok(()));
    assert_eq!(recall(&mut there, &after[0]), Ok(()), "there all is as ever");
}

#[test]
fn a_backup_of_a_restored_log_is_restored_as_well() {
    let mut there = Harness::new();
    let first = wait(&mut there, 0, false);
    let mut here = restored(&there, MARK);
    let second = wait(&mut here, 1, false);
    let lost = wait(&mut there, 1, false);
    let mut again = restored(&here, *b"another of them!");
    let third = wait(&mut again, 2, false);
    let lost_here = wait(&mut here, 2, false);
    for of in [&lost, &lost_here] {
        assert_eq!(recall(&mut again, of), Err(ErrorCode::BadRecallHandle));
    }
    for of in [&first, &second, &third] {
        assert_eq!(recall(&mut again, of), Ok(()));
    }
    assert_eq!(restorations(&again).len(), 2);
}

#[test]
fn a_send_that_is_tried_again_is_recognised_after_a_restoration() {
    let mut there = Harness::new();
    let publish = |harness: &mut Harness, sequence| {
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(sequence));
        let message = NewMessage::<&str> {
            given_id: Some(GivenId { scope: 0, id: "a" }),
            ..NewMessage::default()
        };
        builder.push(&message, b"body").unwrap();
        let request = harness.request();
        let batches = vec![Batch::parse(builder.finish()).unwrap().looked_at()];
        let topic = "t".into();
        harness.input(Input::Publish { request, topic, batches });
        harness.sync();
        match harness.answer(request) {
            Some(Ok(Answer::Stored { runs, .. })) => runs[0].duplicate,
            other => panic!("not stored: {other:?}"),
        }
    };
    assert!(!publish(&mut there, 0));
    let mut here = restored(&there, MARK);
    assert!(publish(&mut here, 0), "by its sequence");
    assert!(publish(&mut here, 1), "by its id");
}
