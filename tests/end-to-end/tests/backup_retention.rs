//! A backup that is open while retention takes all that it may: what was listed is there until it was read, and goes afterwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::fs::{self, File};
use std::io::Write as _;
use std::time::{Duration, Instant};

use sluice_client::admin::TopicSettings;
use sluice_client::{Backup, Client, ConsumerConfig, NewMessage, Producer, ProducerConfig};
use sluice_end_to_end::Broker;
use sluice_end_to_end::scene::wall_ms;

/// Carries out retention again and again, without waiting for its minute.
const HOLDING: &str = env!("CARGO_BIN_EXE_sluice-holding");
/// Small segments, and what is due in two seconds is far off.
const SETTINGS: &str = "segment_bytes = 1048576\n[delays]\nnear_ms = 1000\n";
/// More than the log and the files take.
const ROOM_BYTES: u64 = 1 << 30;
/// How long the test goes on looking; only a broken broker comes near it.
const PATIENCE: Duration = Duration::from_secs(60);
const BODY_BYTES: usize = 100_000;
/// What a topic keeps: a few segments.
const KEPT_BYTES: u64 = 3 << 20;

/// The names of the log's files that begin so.
fn files(broker: &Broker, beginning: &str) -> Vec<String> {
    let entries = fs::read_dir(broker.data().join("log")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(beginning)).collect()
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
        retention_ms: 0,
        retention_bytes: KEPT_BYTES,
        ..TopicSettings::default()
    };
    client.create_topic(name, Some(settings)).await.unwrap();
}

/// Where the only queue of a topic begins and ends.
async fn bounds(client: &Client, name: &str) -> (u64, u64) {
    let topic = client.topic(name).await.unwrap();
    (topic.queues[0].start, topic.queues[0].end)
}

async fn fill(filler: &Producer) {
    filler.send(NewMessage::new(vec![7; BODY_BYTES])).await.unwrap();
}

async fn read(backup: &mut Backup, place: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    if backup.files()[place].bytes > 0 {
        let mut pieces = backup.read(place).await.unwrap();
        while let Some(piece) = pieces.next().await.unwrap() {
            bytes.extend(piece);
        }
    }
    bytes
}

/// Lays the files out as the data of a broker that was not started yet.
async fn lay_out(backup: &mut Backup, broker: &Broker) {
    for directory in ["log", "plugins"] {
        fs::create_dir_all(broker.data().join(directory)).unwrap();
    }
    for (place, of) in backup.files().to_vec().into_iter().enumerate() {
        let mut file = File::create(broker.data().join(&of.path)).unwrap();
        file.write_all(&read(backup, place).await).unwrap();
        file.set_len(of.room_bytes).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_takes_nothing_of_a_backup_before_it_is_read_and_all_of_it_afterwards() {
    let mut broker = Broker::start_with_room(HOLDING, SETTINGS, ROOM_BYTES);
    let client = broker.client().await;
    for name in ["reminders", "others"] {
        topic(&client, name).await;
    }
    let reminders = client.producer("reminders", ProducerConfig::default());
    let due_ms = wall_ms() + 3_600_000;
    for number in 0..5_u8 {
        let message = NewMessage::new(vec![number]).deliver_at_ms(due_ms);
        reminders.send(message).await.unwrap();
    }
    // A start puts what is far off into a part.
    broker.kill();
    broker.serve_with_room(HOLDING);
    let client = broker.client().await;
    until("no part was written", async || !files(&broker, "part-").is_empty()).await;
    let others = client.producer("others", ProducerConfig::default());
    until("nothing is let go", async || {
        fill(&others).await;
        bounds(&client, "others").await.0 > 0
    })
    .await;

    let mut backup = client.backup().await.unwrap();
    let at_cut = bounds(&client, "others").await.1;
    // Each goes with its segment, and its name is never used again.
    let mut sidecars: Vec<String> = backup.files().iter().map(|file| file.path.clone()).collect();
    sidecars.retain(|path| path.starts_with("log/index-"));
    assert!(!sidecars.is_empty());
    // All that was there at the cut is let go as far as clients see. Who neither asks nor takes would be given up.
    until("retention does not move the start", async || {
        fill(&others).await;
        read(&mut backup, 0).await;
        bounds(&client, "others").await.0 > at_cut
    })
    .await;
    let gone = |broker: &Broker| sidecars.iter().filter(|path| !broker.data().join(path).exists()).count();
    assert_eq!(gone(&broker), 0, "retention waits");
    let restored = {
        let mut restored = Broker::stopped_with(SETTINGS);
        lay_out(&mut backup, &restored).await;
        restored.serve();
        restored
    };
    backup.finish().await.unwrap();
    until("what is no longer held stays", async || {
        fill(&others).await;
        gone(&broker) == sidecars.len()
    })
    .await;
    assert!(broker.page("/metrics").contains("sluice_backups_sent_total 1"), "{}", broker.log());

    let now = restored.client().await;
    assert_eq!(
        bounds(&now, "others").await.1,
        at_cut,
        "all that was confirmed before, and nothing else"
    );
    assert_eq!(now.topic("reminders").await.unwrap().delayed, 5);
    let started_at = bounds(&now, "others").await.0;
    let consumer = now.consumer(ConsumerConfig::new("others", "g"));
    for _ in started_at..at_cut {
        let received = consumer.receive(1, Duration::from_secs(20)).await.unwrap();
        assert_eq!(received[0].body().len(), BODY_BYTES);
        consumer.ack(&received).await.unwrap().pop().unwrap().unwrap();
    }
}
