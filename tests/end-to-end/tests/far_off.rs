//! Messages that are far off: they wait in files, retention takes their segments, and after kills they come to the moment, once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::{Duration, Instant};

use sluice_client::admin::TopicSettings;
use sluice_client::{Client, ConsumerConfig, ErrorCode, NewMessage, ProducerConfig, RecallHandle, Receipt};
use sluice_end_to_end::Broker;
use sluice_end_to_end::scene::wall_ms;

/// Carries out retention again and again, without waiting for its minute.
const HOLDING: &str = env!("CARGO_BIN_EXE_sluice-holding");
/// What is due in two seconds is far off, and segments are small.
const SETTINGS: &str = "segment_bytes = 1048576\n[delays]\nnear_ms = 1000\n";
/// More than the log and the files take.
const ROOM_BYTES: u64 = 1 << 30;
/// How long the test goes on looking; only a broken broker comes near it.
const PATIENCE: Duration = Duration::from_secs(60);
/// Long enough for all that is done before the messages are due.
const DUE_IN_MS: i64 = 20_000;
const YEAR_MS: i64 = 365 * 24 * 60 * 60 * 1_000;

/// The names of the log's files that begin so.
fn files(broker: &Broker, beginning: &str) -> Vec<String> {
    let entries = std::fs::read_dir(broker.data().join("log")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(beginning)).collect();
    names.sort();
    names
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::task::yield_now().await;
    }
}

async fn topic(client: &Client, name: &str) {
    let settings = TopicSettings {
        queues: 1,
        retention_ms: 1,
        retention_bytes: 0,
        ..TopicSettings::default()
    };
    client.create_topic(name, Some(settings)).await.unwrap();
}

fn recall(receipt: &Receipt) -> RecallHandle {
    receipt.delayed.clone().unwrap().recall
}

async fn delayed(client: &Client) -> u64 {
    client.topic("reminders").await.unwrap().delayed
}

#[tokio::test(flavor = "multi_thread")]
async fn far_off_messages_outlive_their_segments_and_kills_and_come_once_to_the_moment() {
    let mut broker = Broker::start_with_room(HOLDING, SETTINGS, ROOM_BYTES);
    let client = broker.client().await;
    for name in ["reminders", "others"] {
        topic(&client, name).await;
    }
    let producer = client.producer("reminders", ProducerConfig::default());
    let due_ms = wall_ms() + DUE_IN_MS;
    let mut receipts = Vec::new();
    for number in 0..20_u8 {
        let message = NewMessage::new(vec![number]).deliver_at_ms(due_ms + i64::from(number / 2));
        receipts.push(producer.send(message).await.unwrap());
    }
    let next_year = producer
        .send(NewMessage::new("later").deliver_at_ms(due_ms + YEAR_MS))
        .await
        .unwrap();
    let first_segment = files(&broker, "segment-").swap_remove(0);
    assert_eq!(files(&broker, "part-"), Vec::<String>::new());

    // A start puts what is far off into a part, and retention takes the segment.
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    until("no part was written", async || !files(&broker, "part-").is_empty()).await;
    let filler = client.producer("others", ProducerConfig::default());
    until("the segment stays", async || {
        filler.send(NewMessage::new(vec![7; 100_000])).await.unwrap();
        files(&broker, "segment-").first() != Some(&first_segment)
    })
    .await;
    assert_eq!(delayed(&client).await, 21);

    // Once more, while all that is known of them is in the part.
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    assert_eq!(delayed(&client).await, 21);
    client.recall(&recall(&receipts[7])).await.unwrap();
    let refused = client.recall(&recall(&receipts[7])).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotWaiting));
    assert_eq!(delayed(&client).await, 20);
    assert!(wall_ms() < due_ms, "all this took longer than the messages were to wait");

    let consumer = client.consumer(ConsumerConfig::new("reminders", "g"));
    let mut seen = Vec::new();
    while seen.len() < 19 {
        for message in consumer.receive(32, Duration::from_secs(1)).await.unwrap() {
            assert!(wall_ms() >= message.deliver_at_ms().unwrap(), "it came early");
            seen.push(message.body()[0]);
            consumer.ack(&[message]).await.unwrap().pop().unwrap().unwrap();
        }
    }
    assert_eq!(
        seen,
        (0..20).filter(|number| *number != 7).collect::<Vec<u8>>(),
        "in order, and each once"
    );
    let refused = client.recall(&recall(&receipts[3])).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotWaiting), "it was released");
    assert_eq!(delayed(&client).await, 1);

    // What is left waits over a further kill, and can be recalled; then nothing needs the part, which would otherwise be kept for a year.
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    assert_eq!(delayed(&client).await, 1);
    client.recall(&recall(&next_year)).await.unwrap();
    assert_eq!(delayed(&client).await, 0);
    until("the part stays", async || files(&broker, "part-").is_empty()).await;
    let consumer = client.consumer(ConsumerConfig::new("reminders", "g"));
    assert!(consumer.receive(32, Duration::from_millis(100)).await.unwrap().is_empty());
    assert!(!broker.log().contains("ERROR"), "{}", broker.log());
}
