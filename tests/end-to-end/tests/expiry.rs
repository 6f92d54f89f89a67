//! Messages that live for a time, on the real broker: skipped or dead-lettered once that is over, whatever happened meanwhile.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::Duration;

use serde_json::Value;
use sluice_client::admin::TopicSettings;
use sluice_client::{ConsumerConfig, ErrorCode, NewMessage, ProducerConfig};
use sluice_end_to_end::Broker;

const WAIT: Duration = Duration::from_secs(20);

fn of_one_queue() -> TopicSettings {
    TopicSettings {
        queues: 1,
        ..TopicSettings::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expired_is_skipped_over_a_kill_and_what_lives_is_delivered() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    client.create_topic("offers", Some(of_one_queue())).await.unwrap();
    let producer = client.producer("offers", ProducerConfig::default());
    for (body, ttl_ms) in [("short", Some(1)), ("long", Some(3_600_000)), ("brief", Some(1)), ("ever", None)] {
        let message = NewMessage {
            ttl_ms,
            ..NewMessage::new(body)
        };
        producer.send(message).await.unwrap();
    }
    broker.kill();
    broker.serve();
    client.close().await;
    let client = broker.client().await;
    let consumer = client.consumer(ConsumerConfig::new("offers", "g"));
    let mut got = Vec::new();
    while got.len() < 2 {
        for message in consumer.receive(8, WAIT).await.unwrap() {
            got.push((message.body(), message.ttl_ms()));
            consumer.ack(&[message]).await.unwrap();
        }
    }
    assert_eq!(got, [("long".into(), Some(3_600_000)), ("ever".into(), None)]);
    let group = client.group("g").await.unwrap();
    assert_eq!((group.lag, group.cursors[0].expired), (0, 2));
    let refused = client.producer("offers", ProducerConfig::default());
    let endless = NewMessage::new("endless").time_to_live(Duration::from_secs(11 * 366 * 86_400));
    let refused = refused.send(endless).await.unwrap_err();
    assert!(refused.to_string().contains("lives"), "{refused} {:?}", ErrorCode::BadTimeToLive);
    client.close().await;
}

#[test]
fn by_the_commands_a_topic_dead_letters_what_expired() {
    let broker = Broker::start();
    let create = [
        "topic",
        "create",
        "offers",
        "--queues",
        "1",
        "--ttl",
        "1ms",
        "--on-expired",
        "dead-letter",
    ];
    broker.run(&create);
    let topic: Value = serde_json::from_str(&broker.run(&["topic", "describe", "offers", "--json"])).unwrap();
    assert_eq!((&topic["ttl_ms"], &topic["dead_letter_expired"]), (&1.into(), &true.into()));
    broker.succeed(&["produce", "offers", "--jsonl", "-", "--ttl", "12h"], "{\"n\":1}\n{\"n\":2}\n");
    assert_eq!(broker.consume("offers", "g", &[]), Vec::<u64>::new());
    assert_eq!(broker.consume("%DLQ%g", "morgue", &[]), [1, 2], "there they live on");
    let letters = broker.run(&["group", "dead-letters", "list", "g", "--json"]);
    let reasons: Vec<Value> = letters
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["reason"].clone())
        .collect();
    assert_eq!(reasons, ["expired", "expired"]);
    let (_, said) = broker.fail(&["topic", "create", "other", "--ttl", "0s"]);
    assert!(said.contains("1ms or more"), "{said}");
    let (_, said) = broker.fail(&["topic", "create", "other", "--ttl", "4000d"]);
    assert!(said.contains("BadSetting"), "{said}");
}
