//! A full disk: publishes are refused and consumers go on, until the reserve is used up; then all goes on by itself when there is room.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sluice_client::admin::{SeekTo, TopicSettings};
use sluice_client::{Client, Consumer, ConsumerConfig, Error, NewMessage, ProducerConfig, SendError};
use sluice_end_to_end::{Broker, quoted};
use sluice_protocol::errors::ErrorCode;

const HOLDING: &str = env!("CARGO_BIN_EXE_sluice-holding");
/// Small segments, so that the disk is soon full.
const SETTINGS: &str = "segment_bytes = 1048576\n";
/// Room for a few of them, the two in reserve included.
const ROOM_BYTES: u64 = 6 << 20;
/// Room for as much as any of these tests writes.
const ROOM_BYTES_LARGE: u64 = 1 << 30;

/// Publishes until that is refused; how many messages were confirmed.
async fn fill(client: &Client, topic: &str) -> usize {
    // A client tries again what is refused for want of room, so it is told to give up soon.
    let config = ProducerConfig {
        confirm_within: Duration::from_millis(200),
        ..ProducerConfig::default()
    };
    let producer = client.producer(topic, config);
    let mut confirmed = 0;
    loop {
        let mut under_way = Vec::new();
        for _ in 0..100 {
            under_way.push(producer.enqueue(NewMessage::new(vec![7; 4_000])).await.unwrap());
        }
        for confirmation in under_way {
            match confirmation.await {
                Ok(_) => confirmed += 1,
                Err(SendError::Refused(refusal)) => {
                    assert_eq!(refusal.code, ErrorCode::StorageFull);
                    quoted(&refusal.to_string());
                    return confirmed;
                }
                // It was given up between two tries.
                Err(SendError::Unknown { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// Receives and acknowledges all there is; how many messages that were.
async fn consume(consumer: &Consumer) -> usize {
    let mut acked = 0;
    loop {
        let messages = consumer.receive(32, Duration::from_millis(500)).await.unwrap();
        for outcome in consumer.ack(&messages).await.unwrap() {
            outcome.unwrap();
        }
        acked += messages.len();
        if messages.is_empty() {
            return acked;
        }
    }
}

/// Demands that the broker logged this, and that the document says so.
fn logged(broker: &Broker, message: &str) {
    assert!(broker.log().contains(message), "{}", broker.log());
    quoted(message);
}

fn code<T>(outcome: Result<T, Error>) -> Option<ErrorCode> {
    outcome.err().map(|error| error.code().expect("only refusals are expected"))
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_consumers_go_on_and_publishes_when_there_is_room() {
    let mut broker = Broker::start_with_room(HOLDING, SETTINGS, ROOM_BYTES);
    let client = broker.client().await;
    let confirmed = fill(&client, "numbers").await;
    assert!(confirmed > 100, "{confirmed}");
    logged(
        &broker,
        "the disk is full: nothing is published until there is room; consumers go on in the log's reserve, and what was confirmed is safe",
    );
    let consumer = client.consumer(ConsumerConfig::new("numbers", "g"));
    let acked = consume(&consumer).await;
    assert!(acked >= confirmed, "{acked} of {confirmed}");
    client.create_topic("made-on-a-full-disk", None).await.unwrap();

    // It starts on a full disk too, has forgotten nothing, and takes no message.
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    assert_eq!(client.group("g").await.unwrap().lag, 0);
    client.topic("made-on-a-full-disk").await.unwrap();
    assert_eq!(fill(&client, "numbers").await, 0);

    // Nobody does anything but make room.
    let producer = client.producer("numbers", ProducerConfig::default());
    let waiting = producer.enqueue(NewMessage::new("at last")).await.unwrap();
    broker.set_room(ROOM_BYTES_LARGE);
    waiting.await.unwrap();
    logged(&broker, "there is room on the disk again");
    assert!(consume(&client.consumer(ConsumerConfig::new("numbers", "g"))).await >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_reserve_is_used_up_consumers_are_refused_until_there_is_room() {
    let mut broker = Broker::start_with_room(HOLDING, SETTINGS, ROOM_BYTES);
    let client = broker.client().await;
    let settings = TopicSettings {
        queues: 1_024,
        retention_ms: 0,
        retention_bytes: 0,
        ..TopicSettings::default()
    };
    client.create_topic("wide", Some(settings)).await.unwrap();
    let consumer = client.consumer(ConsumerConfig::new("wide", "g"));
    fill(&client, "wide").await;
    let received = consumer.receive(1, Duration::from_secs(1)).await.unwrap();
    assert_eq!(received.len(), 1);
    // A seek over so many queues is a large record. One of them finds no room and waits for it; who asks later is refused.
    let (seeker, seeks) = (broker.client().await, Arc::new(AtomicU32::new(0)));
    let counted = seeks.clone();
    let seeking = tokio::spawn(async move {
        while seeker.seek("g", "wide", None, SeekTo::Earliest).await.is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let refused = loop {
        // What came between is not answered before there is room, so it is asked again.
        let asked = tokio::time::timeout(Duration::from_millis(500), client.create_group("other", None)).await;
        match asked.map(code) {
            Ok(Some(ErrorCode::GroupExists) | None) | Err(_) => {}
            Ok(Some(refused)) => break refused,
        }
    };
    assert_eq!(refused, ErrorCode::StorageFull);
    let seeks = seeks.load(Ordering::Relaxed);
    assert!(seeks > 20, "{seeks} seeks went into the reserve");
    assert_eq!(code(consumer.receive(1, Duration::ZERO).await), Some(ErrorCode::StorageFull));
    assert_eq!(code(consumer.ack(&received).await), Some(ErrorCode::StorageFull));
    seeking.abort();
    logged(
        &broker,
        "the disk is full and the log's reserve is used up: consumers are refused too until there is room; what was confirmed is safe",
    );

    broker.set_room(ROOM_BYTES_LARGE);
    let messages = loop {
        match consumer.receive(1, Duration::from_secs(1)).await {
            Ok(messages) if messages.is_empty() => {}
            Ok(messages) => break messages,
            Err(error) => assert_eq!(error.code(), Some(ErrorCode::StorageFull)),
        }
    };
    assert_eq!(messages.len(), 1, "what was refused changed nothing");
    consumer.ack(&messages).await.unwrap().pop().unwrap().unwrap();
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    assert!(client.group("g").await.unwrap().lag > 0);
}
