//! A broker as its clients know it: publish, filter, deliver, settle, restart.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::time::Duration;

use sluice_client::{Client, ConsumerConfig, Error, ErrorCode, Filter, NewMessage, ProducerConfig, Receipt, StreamConfig};
use support::{STOP_BOUND, config, connect, start};

mod support;

const WAIT: Duration = Duration::from_secs(10);

/// Publishes `count` messages whose region is eu for every third one and whose tag says whether their number is even.
async fn publish(client: &Client, topic: &str, count: u32) -> Vec<Receipt> {
    let producer = client.producer(topic, ProducerConfig::default());
    let mut confirmations = Vec::new();
    for number in 0..count {
        let message = NewMessage::new(format!("body {number}"))
            .tag(if number % 2 == 0 { "even" } else { "odd" })
            .key(number.to_string())
            .property("region", if number % 3 == 0 { "eu" } else { "us" })
            .property("number", number.to_string());
        confirmations.push(producer.enqueue(message).await.unwrap());
    }
    let mut receipts = Vec::new();
    for confirmation in confirmations {
        receipts.push(confirmation.await.unwrap());
    }
    producer.close().await.unwrap();
    receipts
}

/// Takes `count` messages off a stream, acknowledges them and returns their bodies.
async fn take(client: &Client, config: StreamConfig, count: usize) -> BTreeSet<String> {
    let mut stream = client.stream(config).await.unwrap();
    let mut bodies = BTreeSet::new();
    while bodies.len() < count {
        let message = tokio::time::timeout(WAIT, stream.next())
            .await
            .expect("a message comes in time")
            .unwrap()
            .unwrap();
        assert!(bodies.insert(String::from_utf8(message.body().to_vec()).unwrap()), "delivered once");
        stream.ack(&message).await.unwrap();
    }
    stream.close().await;
    bodies
}

fn bodies(numbers: impl Iterator<Item = u32>) -> BTreeSet<String> {
    numbers.map(|number| format!("body {number}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_message_is_delivered_once_and_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    publish(&client, "t", 1_000).await;
    assert_eq!(take(&client, StreamConfig::new("t", "g"), 1_000).await, bodies(0..1_000));
    assert_eq!(client.group("g").await.unwrap().lag, 0);
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_gets_what_its_filter_wants() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    publish(&client, "t", 600).await;
    let tagged = StreamConfig::new("t", "by-tag").filter(Filter::Tag("even || none".into()));
    let chosen = StreamConfig::new("t", "by-sql").filter(Filter::Sql("region = 'eu' AND number >= 300".into()));
    let (tagged, chosen) = tokio::join!(take(&client, tagged, 300), take(&client, chosen, 100));
    assert_eq!(tagged, bodies((0..600).filter(|number| number % 2 == 0)));
    assert_eq!(chosen, bodies((300..600).filter(|number| number % 3 == 0)));
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_expression_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    publish(&client, "t", 1).await;
    let refused = client
        .stream(StreamConfig::new("t", "g").filter(Filter::Sql("region = = 'eu'".into())))
        .await
        .err()
        .unwrap();
    let Error::Refused(refusal) = refused else {
        panic!("refused, not {refused:?}")
    };
    assert_eq!(refusal.code, ErrorCode::BadExpression);
    assert!(refusal.at.is_some(), "{refusal:?}");
    let unknown = Filter::Plugin {
        name: "nobody".into(),
        expression: String::new(),
    };
    let refused = client.stream(StreamConfig::new("t", "g").filter(unknown)).await.err().unwrap();
    assert!(
        matches!(&refused, Error::Refused(refusal) if refusal.code == ErrorCode::NoSuchPlugin),
        "{refused:?}"
    );
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn received_messages_are_settled_by_their_handles() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    publish(&client, "t", 20).await;
    let consumer = client.consumer(ConsumerConfig::new("t", "g"));
    let mut seen = BTreeSet::new();
    while seen.len() < 20 {
        let messages = consumer.receive(32, WAIT).await.unwrap();
        assert!(!messages.is_empty(), "{} came before the wait was over", seen.len());
        seen.extend(messages.iter().map(|message| String::from_utf8(message.body().to_vec()).unwrap()));
        assert!(consumer.ack(&messages).await.unwrap().iter().all(Result::is_ok));
        assert!(
            consumer.ack(&messages[..1]).await.unwrap()[0].is_err(),
            "a settled message is not settled again"
        );
    }
    assert_eq!(seen, bodies(0..20));
    assert!(consumer.receive(1, Duration::ZERO).await.unwrap().is_empty());
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_found_by_its_id() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    let receipts = publish(&client, "t", 10).await;
    let found = client.message(&receipts[7].id.to_string()).await.unwrap();
    assert_eq!(
        (found.topic(), found.queue(), found.offset()),
        ("t", receipts[7].queue, receipts[7].offset)
    );
    assert_eq!(found.body(), "body 7");
    assert_eq!(found.property("number"), Some("7"));
    let missing = client.message(&"0".repeat(32)).await.err().unwrap();
    assert!(
        matches!(&missing, Error::Refused(refusal) if refusal.code == ErrorCode::NoSuchMessage),
        "{missing:?}"
    );
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_messages_cursors_and_the_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    let receipts = publish(&client, "t", 100).await;
    let sql = || StreamConfig::new("t", "g").filter(Filter::Sql("number < 10".into()));
    assert_eq!(take(&client, sql(), 10).await, bodies(0..10));
    let fingerprint = running.certificate_sha256();
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();

    let running = start(directory.path()).await;
    assert_eq!(running.certificate_sha256(), fingerprint);
    let client = connect(&running).await;
    assert_eq!(client.message(&receipts[99].id.to_string()).await.unwrap().body(), "body 99");
    assert_eq!(take(&client, StreamConfig::new("t", "fresh"), 100).await, bodies(0..100));
    publish(&client, "t", 5).await;
    assert_eq!(take(&client, sql(), 5).await, bodies(0..5), "only what came since");
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let refused = sluice_server::Server::start(config(directory.path()))
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("in use"), "{refused}");
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_beyond_the_limit_is_refused_and_the_rest_stored() {
    let directory = tempfile::tempdir().unwrap();
    let mut small = config(directory.path());
    small.limits.body_bytes = 2_048;
    let running = sluice_server::Server::start(small).await.unwrap();
    let client = connect(&running).await;
    let producer = client.producer("t", ProducerConfig::default());
    let (large, fits) = tokio::join!(
        producer.send(NewMessage::new(vec![7; 4_096])),
        producer.send(NewMessage::new("fits"))
    );
    assert!(large.is_err());
    fits.unwrap();
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}
