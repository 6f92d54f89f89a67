//! Messages that are far off: they wait in files, retention takes their segments, and after kills they come to the moment, once.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::{Duration, Instant};

use serde_json::Value;
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

/// Whether far-off messages have a file.
fn has_parts(broker: &Broker) -> bool {
    let entries = std::fs::read_dir(broker.data().join("log")).unwrap();
    let mut names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.any(|name| name.starts_with("part-"))
}

/// What an inspection of the directory says. Segments that retention took are kept as files to be written again.
fn inspected(broker: &Broker) -> Value {
    let data = broker.data();
    serde_json::from_str(&broker.run(&["inspect", data.to_str().unwrap(), "--json"])).unwrap()
}

async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is_so().await {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        tokio::task::yield_now().await;
    }
}

async fn topic(client: &Client, name: &str, retention_ms: u64) {
    let settings = TopicSettings {
        queues: 1,
        retention_ms,
        retention_bytes: 0,
        ..TopicSettings::default()
    };
    client.create_topic(name, Some(settings)).await.unwrap();
}

fn recall(receipt: &Receipt) -> RecallHandle {
    receipt.delayed.clone().unwrap().recall
}

/// The step that decided about a message, and when it is due if it waits for that.
fn explained(broker: &Broker, receipt: &Receipt) -> (String, Option<i64>) {
    let told = broker.run(&["message", "explain", &receipt.id.to_string(), "--group", "g", "--json"]);
    let told: Value = serde_json::from_str(&told).unwrap();
    (told["step"].as_str().unwrap().to_owned(), told["details"]["due_ms"].as_i64())
}

async fn delayed(client: &Client) -> u64 {
    client.topic("reminders").await.unwrap().delayed
}

#[tokio::test(flavor = "multi_thread")]
async fn far_off_messages_outlive_their_segments_and_kills_and_come_once_to_the_moment() {
    let mut broker = Broker::start_with_room(HOLDING, SETTINGS, ROOM_BYTES);
    let client = broker.client().await;
    topic(&client, "reminders", 0).await;
    topic(&client, "others", 1).await;
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
    assert!(!has_parts(&broker));

    // A start puts what is far off into a part.
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    until("no part was written", async || has_parts(&broker)).await;
    let filler = client.producer("others", ProducerConfig::default());
    for _ in 0..15 {
        filler.send(NewMessage::new(vec![7; 100_000])).await.unwrap();
    }
    // A stop leaves a checkpoint, so that retention may take the segment, which nothing that waits holds.
    assert!(broker.terminate());
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    until("the segment stays", async || inspected(&broker)["segments"][0]["base"] != 0).await;
    assert!(wall_ms() < due_ms, "all this took longer than the messages were to wait");
    assert_eq!(delayed(&client).await, 21);

    // Once more, while all that is known of them is in the part.
    broker.kill();
    let told = inspected(&broker);
    let part = &told["parts"][0];
    assert_eq!(
        (&part["messages"], &part["damage"]),
        (&Value::from(21), &Value::from(Vec::<Value>::new()))
    );
    assert_eq!(
        (&part["first_due_ms"], &part["last_due_ms"]),
        (&due_ms.into(), &(due_ms + YEAR_MS).into())
    );
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    assert_eq!(delayed(&client).await, 21);
    client.create_group("g", None).await.unwrap();
    assert_eq!(explained(&broker, &receipts[7]), ("waiting".to_owned(), Some(due_ms + 3)));
    client.recall(&recall(&receipts[7])).await.unwrap();
    assert_eq!(explained(&broker, &receipts[7]).0, "not_stored");
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
    assert_eq!(explained(&broker, &receipts[3]), ("settled".to_owned(), None));
    assert_eq!(explained(&broker, &next_year), ("waiting".to_owned(), Some(due_ms + YEAR_MS)));

    // What is left waits over a further kill, and can be recalled; then nothing needs the part, which would otherwise be kept for a year.
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    assert_eq!(delayed(&client).await, 1);
    client.recall(&recall(&next_year)).await.unwrap();
    assert_eq!(delayed(&client).await, 0);
    // This storage holds the removal of a file back until the directory is synced.
    let is_dropped = || broker.page("/metrics").contains("\nsluice_calendar_parts_dropped_total 1\n");
    until("the part stays", async || is_dropped()).await;
    let consumer = client.consumer(ConsumerConfig::new("reminders", "g"));
    assert!(consumer.receive(32, Duration::from_millis(100)).await.unwrap().is_empty());
    assert!(!broker.log().contains("ERROR"), "{}", broker.log());
}
