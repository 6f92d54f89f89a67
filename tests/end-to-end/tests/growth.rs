//! Topics that grow while messages flow: nothing lost, every reader has the new queues, and ordered groups keep their order.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use sluice_client::{Client, Consumer, ConsumerConfig, NewMessage, ProducerConfig, StreamConfig};
use sluice_end_to_end::Broker;

const ACCOUNTS: u64 = 17;

/// Publishes these numbers, each in the message group of its account, and waits until all are stored.
async fn publish(client: &Client, numbers: std::ops::Range<u64>) {
    let producer = client.producer("accounts", ProducerConfig::default());
    for number in numbers {
        let account = format!("account-{}", number % ACCOUNTS);
        let message = NewMessage::new(number.to_string()).group(account);
        producer.send(message).await.unwrap();
    }
}

/// What was acknowledged, by account, and the queues from which it came.
#[derive(Default)]
struct Done {
    numbers: BTreeMap<u64, Vec<u64>>,
    count: usize,
    queues: BTreeSet<u16>,
}

/// Receives until `enough` are acknowledged in all, and gives every seventh back the first time.
async fn settle(consumer: &Consumer, done: &mut Done, enough: usize) {
    let mut given_back = BTreeSet::new();
    while done.count < enough {
        for message in consumer.receive(8, Duration::from_secs(20)).await.unwrap() {
            let number: u64 = std::str::from_utf8(&message.body()).unwrap().parse().unwrap();
            done.queues.insert(message.queue());
            let one = [message];
            if number.is_multiple_of(7) && given_back.insert(number) {
                consumer.nack(&one, Some(Duration::ZERO)).await.unwrap().remove(0).unwrap();
            } else {
                consumer.ack(&one).await.unwrap().remove(0).unwrap();
                done.numbers.entry(number % ACCOUNTS).or_default().push(number);
                done.count += 1;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordered_group_keeps_its_order_while_its_topic_grows_and_after_a_kill() {
    let mut broker = Broker::start();
    broker.run(&["topic", "create", "accounts", "--queues", "2"]);
    broker.run(&["group", "create", "ledger", "--ordered", "--backoff", "5ms", "--attempts", "100"]);
    let client = broker.client().await;
    // The group reads before the topic grows, and has a backlog in the old queues when it does.
    publish(&client, 0..100).await;
    let consumer = client.consumer(ConsumerConfig::new("accounts", "ledger"));
    let mut done = Done::default();
    settle(&consumer, &mut done, 30).await;
    broker.run(&["topic", "grow", "accounts", "--queues", "5"]);
    tokio::join!(publish(&client, 100..300), settle(&consumer, &mut done, 150));
    client.grow_topic("accounts", 8).await.unwrap();
    publish(&client, 300..400).await;
    broker.kill();
    broker.serve();
    let client = broker.client().await;
    publish(&client, 400..450).await;
    let consumer = client.consumer(ConsumerConfig::new("accounts", "ledger"));
    settle(&consumer, &mut done, 450).await;
    for (account, numbers) in done.numbers {
        let expected: Vec<u64> = (0..450).filter(|number| number % ACCOUNTS == account).collect();
        assert_eq!(numbers, expected, "account {account}");
    }
    assert!(done.queues.iter().any(|queue| *queue >= 5), "{:?}", done.queues);
    let topic: Value = serde_json::from_str(&broker.run(&["topic", "describe", "accounts", "--json"])).unwrap();
    assert_eq!(topic["queues"].as_array().unwrap().len(), 8);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_message_of_before_the_growth_says_so() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "accounts", "--queues", "1"]);
    broker.run(&["group", "create", "ledger", "--ordered"]);
    let client = broker.client().await;
    let mut stream = client.stream(StreamConfig::new("accounts", "ledger")).await.unwrap();
    publish(&client, 0..ACCOUNTS).await;
    let mut held = Vec::new();
    for _ in 0..ACCOUNTS {
        held.push(stream.next().await.unwrap().unwrap());
    }
    broker.run(&["topic", "grow", "accounts", "--queues", "6"]);
    publish(&client, ACCOUNTS..2 * ACCOUNTS).await;
    let listed = broker.run(&["--json", "message", "list", "accounts"]);
    let messages = listed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let moved = messages.filter(|message| message["queue"] != 0).collect::<Vec<_>>();
    assert!(!moved.is_empty(), "{listed}");
    for message in &moved {
        let id = message["id"].as_str().unwrap();
        loop {
            // It says that it is not judged yet until it is found.
            let told: Value = serde_json::from_str(&broker.run(&["--json", "message", "explain", id, "--group", "ledger"])).unwrap();
            assert_eq!(told["step"], "waiting", "{told}");
            if told["details"]["for"] == "growth" {
                break;
            }
            assert_eq!(told["details"]["for"], "verdict", "{told}");
        }
    }
    for message in &held {
        stream.ack(message).await.unwrap();
    }
    for _ in 0..ACCOUNTS {
        stream.next().await.unwrap().unwrap();
    }
    stream.close().await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_stream_takes_the_new_queues_in_by_itself() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "accounts", "--queues", "1"]);
    let client = broker.client().await;
    let mut stream = client.stream(StreamConfig::new("accounts", "open")).await.unwrap();
    publish(&client, 0..20).await;
    broker.run(&["topic", "grow", "accounts", "--queues", "6"]);
    publish(&client, 20..120).await;
    let (mut numbers, mut queues) = (BTreeSet::new(), BTreeSet::new());
    while numbers.len() < 120 {
        let message = stream.next().await.unwrap().unwrap();
        queues.insert(message.queue());
        let number: u64 = std::str::from_utf8(&message.body()).unwrap().parse().unwrap();
        assert!(numbers.insert(number), "{number} came twice");
        stream.ack(&message).await.unwrap();
    }
    assert!(queues.len() > 3, "{queues:?}");
    stream.close().await;
    client.close().await;
}

#[test]
fn a_topic_never_gets_fewer_queues_and_growth_may_be_asked_again() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--queues", "3"]);
    let (_, said) = broker.fail(&["topic", "grow", "t", "--queues", "2"]);
    assert!(said.contains("FewerQueues"), "{said}");
    let (_, said) = broker.fail(&["topic", "grow", "t", "--queues", "1025"]);
    assert!(said.contains("BadSetting"), "{said}");
    let (_, said) = broker.fail(&["topic", "grow", "nowhere", "--queues", "4"]);
    assert!(said.contains("NoSuchTopic"), "{said}");
    for _ in 0..2 {
        let told = broker.run(&["topic", "grow", "t", "--queues", "1024"]);
        assert_eq!(told.trim(), "topic t has 1024 queues");
    }
}
