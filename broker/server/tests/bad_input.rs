//! What clients get that break the protocol: the stream at fault ends with a code, the connection goes on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use bytes::BytesMut;
use sluice_protocol::control::{Confirm, Empty, Hello, PublishStart};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use support::document::quoted;
use support::raw::{PRODUCER, Raw, batch, publish, publish_start};
use support::{STOP_BOUND, start};

mod support;

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_frame_ends_its_stream_alone() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let oversized = raw.open(&[255, 255, 255, 127, 16, 0, 0, 0]).await;
    let unknown = raw.open(&[0, 0, 0, 0, 9, 9, 0, 0]).await;
    let misplaced = raw.open(&frame::message(FrameKind::Credit, &Empty {})).await;
    let broken = raw.open(&[3, 0, 0, 0, 64, 0, 0, 0, 255, 255, 255]).await;
    let mut cut = raw.open(&[3, 0, 0, 0, 64, 0, 0, 0, 255]).await;
    cut.send.finish().unwrap();
    for (mut stream, code) in [
        (oversized, ErrorCode::LimitExceeded),
        (unknown, ErrorCode::UnknownFrame),
        (misplaced, ErrorCode::UnexpectedFrame),
        (broken, ErrorCode::MalformedFrame),
        (cut, ErrorCode::MalformedFrame),
    ] {
        let refusal = stream.refusal().await;
        assert_eq!(refusal.code, code);
        quoted(&refusal);
    }
    raw.lives().await;
    assert!(running.metrics().frames_refused.get() >= 4);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_may_be_skipped_is() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(&[2, 0, 0, 0, 9, 9, 1, 0, 1, 2][..]);
    frame::encode_message(FrameKind::ListTopics, &Empty {}, &mut bytes);
    assert_eq!(raw.open(&bytes).await.next().await.unwrap().0, FrameKind::Topics);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_hello_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::connect(&running).await;
    let mut stream = raw.open(&frame::message(FrameKind::ListTopics, &Empty {})).await;
    quoted(&stream.refusal().await);
    assert!(matches!(
        raw.connection.closed().await,
        quinn::ConnectionError::ApplicationClosed(_)
    ));
    let raw = Raw::connect(&running).await;
    let hello = Hello {
        version_min: 2,
        version_max: 9,
        client_name: "new".into(),
        producer_id: vec![0; 16].into(),
    };
    let mut stream = raw.open(&frame::message(FrameKind::Hello, &hello)).await;
    assert_eq!(stream.refused().await, ErrorCode::UnsupportedVersion);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_before_a_malformed_batch_is_confirmed() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(
        &frame::message(
            FrameKind::PublishStart,
            &PublishStart {
                topic: "t".into(),
                ..Default::default()
            },
        )[..],
    );
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 3)));
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 3, 2)));
    bytes.extend_from_slice(&publish(b"not a batch"));
    let mut stream = raw.open(&bytes).await;
    for count in [3, 2] {
        let (kind, payload) = stream.next().await.unwrap();
        assert_eq!(kind, FrameKind::Confirm);
        let confirm: Confirm = prost::Message::decode(payload).unwrap();
        assert_eq!(confirm.stored.iter().map(|run| run.count).sum::<u32>(), count);
    }
    quoted(&stream.refusal().await);
    raw.lives().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retried_publish_is_answered_as_a_duplicate() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(
        &frame::message(
            FrameKind::PublishStart,
            &PublishStart {
                topic: "t".into(),
                ..Default::default()
            },
        )[..],
    );
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 4)));
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 4)));
    let mut stream = raw.open(&bytes).await;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let confirm: Confirm = prost::Message::decode(stream.next().await.unwrap().1).unwrap();
        runs.push(confirm.stored);
    }
    assert!(
        runs[0].iter().all(|run| !run.duplicate) && runs[1].iter().all(|run| run.duplicate),
        "{runs:?}"
    );
    assert_eq!(
        (runs[0][0].queue, runs[0][0].first_offset),
        (runs[1][0].queue, runs[1][0].first_offset)
    );
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn confirms_are_joined_where_the_client_takes_that() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let start = PublishStart {
        topic: "t".into(),
        joined_confirms: true,
    };
    let mut bytes = BytesMut::from(&frame::message(FrameKind::PublishStart, &start)[..]);
    for (first, count) in [(0, 3), (3, 2), (5, 1), (0, 2), (6, 1_025)] {
        bytes.extend_from_slice(&publish(&batch(PRODUCER, first, count)));
    }
    let mut stream = raw.open(&bytes).await;
    let (mut told, mut confirms) = (Vec::new(), 0);
    while told.len() < 6 + 2 + 1_025 {
        let confirm: Confirm = prost::Message::decode(stream.next().await.unwrap().1).unwrap();
        let stored = confirm.stored.iter().flat_map(|run| {
            let sequences = run.first_sequence..run.first_sequence + u64::from(run.count);
            sequences.map(|sequence| (sequence, true, run.duplicate))
        });
        told.extend(stored);
        told.extend(confirm.refused.iter().map(|refused| (refused.sequence, false, false)));
        confirms += 1;
    }
    assert!(confirms <= 5, "{confirms}");
    let stored = |sequences: std::ops::Range<u64>, duplicate| sequences.map(move |sequence| (sequence, true, duplicate));
    let mut expected: Vec<_> = stored(0..6, false).chain(stored(0..2, true)).collect();
    expected.extend((6..1_031).map(|sequence| (sequence, false, false)));
    told.sort_unstable();
    expected.sort_unstable();
    assert_eq!(told, expected);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_unconfirmed_messages_than_the_welcome_allows_are_refused_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut few = support::config(directory.path());
    few.limits.unconfirmed = 4;
    let running = sluice_server::Server::start(few).await.unwrap();
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(
        &frame::message(
            FrameKind::PublishStart,
            &PublishStart {
                topic: "t".into(),
                ..Default::default()
            },
        )[..],
    );
    bytes.extend_from_slice(&publish(&batch(PRODUCER, 0, 5)));
    let mut stream = raw.open(&bytes).await;
    let confirm: Confirm = prost::Message::decode(stream.next().await.unwrap().1).unwrap();
    assert_eq!((confirm.stored.len(), confirm.refused.len()), (0, 5));
    let code = confirm.refused[0].refused.as_ref().unwrap().code;
    assert_eq!(ErrorCode::from_code(code as u16), Some(ErrorCode::TooManyUnconfirmed));
    stream.send.write_all(&publish(&batch(PRODUCER, 5, 4))).await.unwrap();
    let confirm: Confirm = prost::Message::decode(stream.next().await.unwrap().1).unwrap();
    assert_eq!(confirm.stored.iter().map(|run| run.count).sum::<u32>(), 4);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_and_too_old_messages_are_refused_alone_and_the_stream_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let mut stream = raw.open(&publish_start("t")).await;
    let mut ask = async |first: u64, count: u32| {
        stream.send.write_all(&publish(&batch(PRODUCER, first, count))).await.unwrap();
        let confirm = stream.confirm().await;
        let refused = confirm.refused.first().and_then(|message| message.refused.clone());
        let stored = confirm.stored.iter().map(|run| run.count).sum::<u32>();
        let refusal = refused.map(Refusal::from);
        refusal.iter().for_each(quoted);
        (stored, confirm.refused.len(), refusal.map(|refusal| refusal.code))
    };
    assert_eq!(ask(10_000, 1_025).await, (0, 1_025, Some(ErrorCode::TooManyUnconfirmed)));
    assert_eq!(ask(10_000, 1_024).await, (1_024, 0, None));
    assert_eq!(ask(0, 1).await, (0, 1, Some(ErrorCode::SequenceTooOld)));
    assert_eq!(ask(11_024, 1).await, (1, 0, None));
    running.stop(STOP_BOUND).await.unwrap();
}
