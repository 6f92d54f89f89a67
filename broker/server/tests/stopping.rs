//! What a stop in good order does for clients, and what retention takes while the broker runs.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::Duration;

use bytes::BytesMut;
use sluice_client::admin::{OnFailure, TopicSettings};
use sluice_client::{ConsumerConfig, NewMessage, ProducerConfig};
use sluice_protocol::control::{Confirm, PublishStart, Refused, StreamEnded, Subscribe};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::frame::{self, FrameKind};
use sluice_server::{Config, Server};
use support::raw::{PRODUCER, Raw, batch, publish};
use support::{STOP_BOUND, config, connect, start};
use tokio::time::timeout;

mod support;

const WAIT: Duration = Duration::from_secs(10);

fn code(refused: &Refused) -> ErrorCode {
    ErrorCode::from_code(refused.code as u16).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_confirms_what_it_took_and_tells_the_producer() {
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
    for number in 0..100 {
        bytes.extend_from_slice(&publish(&batch(PRODUCER, number * 10, 10)));
    }
    let mut stream = raw.open(&bytes).await;
    assert_eq!(stream.next().await.unwrap().0, FrameKind::Confirm);
    let mut confirmed = 10;
    let stopping = tokio::spawn(running.stop(STOP_BOUND));
    let last = loop {
        let (kind, payload) = stream.next().await.unwrap();
        if kind != FrameKind::Confirm {
            break (kind, payload);
        }
        let confirm: Confirm = prost::Message::decode(payload).unwrap();
        confirmed += confirm.stored.iter().map(|run| run.count).sum::<u32>();
    };
    assert_eq!(last.0, FrameKind::Refused);
    assert_eq!(code(&prost::Message::decode(last.1).unwrap()), ErrorCode::ShuttingDown);
    assert!(stream.next().await.is_none());
    stopping.await.unwrap().unwrap();

    let running = start(directory.path()).await;
    let client = connect(&running).await;
    assert_eq!(client.topic("t").await.unwrap().messages, u64::from(confirmed));
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_returns_what_streams_hold_without_counting_it() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    let producer = client.producer("t", ProducerConfig::default());
    producer.send(NewMessage::new("held")).await.unwrap();
    let raw = Raw::welcomed(&running).await;
    let subscribe = Subscribe {
        topic: "t".into(),
        group: "g".into(),
        credit_messages: 5,
        ..Subscribe::default()
    };
    let mut stream = raw.open(&frame::message(FrameKind::Subscribe, &subscribe)).await;
    assert_eq!(stream.next().await.unwrap().0, FrameKind::Subscribed);
    let _delivered = raw.connection.accept_uni().await.unwrap();
    client.close().await;
    let stopping = tokio::spawn(running.stop(STOP_BOUND));
    let (kind, payload) = stream.next().await.unwrap();
    assert_eq!(kind, FrameKind::StreamEnded);
    let ended: StreamEnded = prost::Message::decode(payload).unwrap();
    assert_eq!(code(&ended.why.unwrap()), ErrorCode::ShuttingDown);
    stopping.await.unwrap().unwrap();

    let running = start(directory.path()).await;
    let client = connect(&running).await;
    let messages = client.consumer(ConsumerConfig::new("t", "g")).receive(1, WAIT).await.unwrap();
    assert_eq!((messages.len(), messages[0].attempt()), (1, 1));
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_does_not_hold_up_a_stop() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let raw = Raw::welcomed(&running).await;
    let start = frame::message(
        FrameKind::PublishStart,
        &PublishStart {
            topic: "t".into(),
            ..Default::default()
        },
    );
    let _silent = raw.open(&start).await;
    // A frame that is never finished.
    let _unfinished = raw.open(&[255, 255, 0, 0, 64, 0, 0, 0, 1]).await;
    raw.lives().await;
    running.stop(STOP_BOUND).await.unwrap();
}

/// A broker whose topic has old segments: which of them retention may take depends on the topic's settings alone.
async fn keeping(settings: TopicSettings) -> (u64, u64) {
    let directory = tempfile::tempdir().unwrap();
    let small = Config {
        segment_bytes: 1 << 20,
        ..config(directory.path())
    };
    let running = Server::start(small).await.unwrap();
    let client = connect(&running).await;
    client.create_topic("t", Some(settings)).await.unwrap();
    let producer = client.producer("t", ProducerConfig::default());
    for _ in 0..40 {
        producer.send(NewMessage::new(vec![7; 100_000])).await.unwrap();
    }
    running.retain().await.unwrap();
    let topic = client.topic("t").await.unwrap();
    let kept: u64 = topic.queues.iter().map(|queue| queue.end - queue.start).sum();
    let received = client.consumer(ConsumerConfig::new("t", "g")).receive(1, WAIT).await.unwrap();
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
    (kept, received.len() as u64)
}

fn settings(retention_ms: u64, retention_bytes: u64) -> TopicSettings {
    TopicSettings {
        queues: 1,
        retention_ms,
        retention_bytes,
        ..TopicSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_keeps_what_is_within_age_and_size() {
    let hour_ms = 3_600_000;
    assert_eq!(timeout(WAIT, keeping(settings(hour_ms, 1 << 30))).await.unwrap(), (40, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_by_size_keeps_the_newest() {
    let (kept, received) = timeout(WAIT, keeping(settings(0, 1 << 20))).await.unwrap();
    assert!((1..=11).contains(&kept), "{kept} of 100 kB each are kept of 1 MiB");
    assert_eq!(received, 1, "the first that is kept is delivered");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_larger_than_other_frames_is_loaded() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    let padded = |bytes: usize| {
        // A custom section, which has no meaning: kind 0, length, and a name of one byte.
        let mut module = sluice_plugin_host::builtin::FILTER_TAG.to_vec();
        module.push(0);
        let length = u32::try_from(bytes).unwrap();
        module.extend((0..5).map(|place| (length >> (7 * place)) as u8 & 127 | if place < 4 { 128 } else { 0 }));
        module.extend([1, b'x']);
        module.resize(module.len() + bytes - 2, 0);
        module
    };
    let loaded = client
        .load_plugin("large", padded(12 << 20), None, OnFailure::DeadLetter)
        .await
        .unwrap();
    assert_eq!((loaded.name.as_str(), loaded.built_in), ("large", false));
    let refused = client
        .load_plugin("larger", padded(33 << 20), None, OnFailure::DeadLetter)
        .await
        .unwrap_err()
        .to_string();
    // The refusal, or its code as that with which the broker stops reading: whichever the client sees first.
    assert!(refused.contains("LimitExceeded") || refused.contains("error 5"), "{refused}");
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}
