//! What one client can make the broker hold is bounded: connections, streams, messages pushed and never read.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::Duration;

use bytes::BytesMut;
use quinn::{ConnectionError, RecvStream};
use sluice_client::{Client, ConsumerConfig, NewMessage, ProducerConfig};
use sluice_protocol::control::{Credit, Subscribe};
use sluice_protocol::frame::{self, FrameKind};
use sluice_server::Server;
use support::document::quoted;
use support::raw::Raw;
use support::{STOP_BOUND, config, connect, start};
use tokio::time::timeout;

mod support;

const WAIT: Duration = Duration::from_secs(10);

async fn publish(client: &Client, topic: &str, count: usize, body_bytes: usize) {
    let producer = client.producer(topic, ProducerConfig::default());
    let mut confirmations = Vec::new();
    for number in 0..count {
        let body = vec![number as u8; body_bytes];
        confirmations.push(producer.enqueue(NewMessage::new(body)).await.unwrap());
    }
    for confirmation in confirmations {
        confirmation.await.unwrap();
    }
    producer.close().await.unwrap();
}

fn subscribe(credit_messages: u32) -> Subscribe {
    Subscribe {
        topic: "t".into(),
        group: "g".into(),
        credit_messages,
        ..Subscribe::default()
    }
}

async fn leased(client: &Client) -> u64 {
    let group = client.group("g").await.unwrap();
    group.cursors.iter().map(|cursor| cursor.leased).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_are_refused_and_those_within_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut few = config(directory.path());
    few.limits.connections = 3;
    let running = Server::start(few).await.unwrap();
    let mut within = Vec::new();
    for _ in 0..3 {
        within.push(Raw::welcomed(&running).await);
    }
    for refused in 1..=20 {
        let error = Raw::try_connect(&running).await.err().unwrap();
        assert!(matches!(error, ConnectionError::ConnectionClosed(_)), "{error:?}");
        assert_eq!(running.metrics().connections_refused.get(), refused);
    }
    for raw in &within {
        raw.lives().await;
    }
    assert_eq!(running.metrics().connections_opened.get(), 3);
    drop(within);
    timeout(WAIT, async { while Raw::try_connect(&running).await.is_err() {} })
        .await
        .expect("a place that was left is given to another");
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_beyond_the_limit_wait_for_those_that_are_open() {
    let directory = tempfile::tempdir().unwrap();
    let mut few = config(directory.path());
    few.limits.streams = 8;
    let running = Server::start(few).await.unwrap();
    let raw = Raw::welcomed(&running).await;
    // The first stream of the connection counts too. Each of these never finishes its first frame.
    let mut open = Vec::new();
    for _ in 0..7 {
        open.push(raw.open(&[255, 0, 0, 0, 66, 0, 0, 0, 1]).await);
    }
    assert!(timeout(Duration::ZERO, raw.connection.open_bi()).await.is_err());
    // QUIC tells of room for streams when there is some more of it.
    for mut given_up in open.drain(..4) {
        given_up.send.reset(0_u32.into()).unwrap();
    }
    timeout(WAIT, raw.lives()).await.unwrap();
    assert!(
        timeout(Duration::ZERO, raw.connection.open_uni()).await.is_err(),
        "clients open none of these"
    );
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_never_reads_holds_no_more_than_its_credit() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    publish(&client, "t", 200, 100).await;
    let raw = Raw::welcomed(&running).await;
    let mut stream = raw.open(&frame::message(FrameKind::Subscribe, &subscribe(50))).await;
    assert_eq!(stream.next().await.unwrap().0, FrameKind::Subscribed);
    timeout(WAIT, async { while leased(&client).await < 50 {} }).await.unwrap();
    publish(&client, "t", 200, 100).await;
    assert_eq!(leased(&client).await, 50);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_credit_than_the_welcome_allows_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    client.create_topic("t", None).await.unwrap();
    let raw = Raw::welcomed(&running).await;
    let mut bytes = BytesMut::from(&frame::message(FrameKind::Subscribe, &subscribe(1))[..]);
    frame::encode_message(FrameKind::Credit, &Credit { messages: 65_537 }, &mut bytes);
    let mut stream = raw.open(&bytes).await;
    assert_eq!(stream.next().await.unwrap().0, FrameKind::Subscribed);
    quoted(&stream.refusal().await);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_delivery_stream_ends_its_subscription_and_returns_what_it_held() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    publish(&client, "t", 20, 100_000).await;
    let raw = Raw::welcomed(&running).await;
    let mut stream = raw.open(&frame::message(FrameKind::Subscribe, &subscribe(20))).await;
    assert_eq!(stream.next().await.unwrap().0, FrameKind::Subscribed);
    let mut deliveries: RecvStream = raw.connection.accept_uni().await.unwrap();
    deliveries.stop(7_u32.into()).unwrap();
    assert_eq!(stream.next().await.unwrap().0, FrameKind::StreamEnded);
    let consumer = client.consumer(ConsumerConfig::new("t", "g"));
    let messages = consumer.receive(1, WAIT).await.unwrap();
    assert_eq!(messages[0].attempt(), 1, "the stream's end is not counted");
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_that_exceeds_a_frame_comes_in_several_answers_each_message_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut small = config(directory.path());
    small.topics.queues = 1;
    small.limits.body_bytes = 64 << 10;
    small.limits.frame_bytes = 512 << 10;
    let running = Server::start(small).await.unwrap();
    let client = connect(&running).await;
    publish(&client, "t", 24, 60_000).await;
    let consumer = client.consumer(ConsumerConfig::new("t", "g"));
    let mut answers = Vec::new();
    while answers.iter().sum::<usize>() < 24 {
        let messages = consumer.receive(24, WAIT).await.unwrap();
        assert!(!messages.is_empty() && messages.iter().all(|message| message.attempt() == 1));
        assert!(consumer.ack(&messages).await.unwrap().iter().all(Result::is_ok));
        answers.push(messages.len());
    }
    assert!(answers.len() > 1 && answers.iter().sum::<usize>() == 24, "{answers:?}");
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}
