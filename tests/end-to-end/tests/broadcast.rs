//! Broadcast groups over the wire and the command line: each named member gets all, and its place is kept.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_client::{Client, ConsumerConfig, MessageStream, NewMessage, ProducerConfig, StreamConfig};
use sluice_end_to_end::Broker;

/// How long a test goes on asking; only a broken broker comes near it.
const PATIENCE: Duration = Duration::from_secs(60);

async fn publish(client: &Client, numbers: std::ops::Range<u64>) -> Vec<String> {
    let producer = client.producer("news", ProducerConfig::default());
    let mut ids = Vec::new();
    for number in numbers {
        let sent = producer.send(NewMessage::new(number.to_string())).await.unwrap();
        ids.push(sent.id.to_string());
    }
    ids
}

/// Takes as many messages as there are numbers as a member, and acknowledges them.
async fn takes(client: &Client, member: &str, numbers: std::ops::Range<u64>) {
    let mut stream = client.stream(StreamConfig::new("news", "all").member(member)).await.unwrap();
    let got = take(&mut stream, numbers.end - numbers.start).await;
    assert_eq!(got, numbers.collect(), "{member}");
    stream.close().await;
}

/// The numbers of the next messages, of which so many differ, each acknowledged.
async fn take(stream: &mut MessageStream, count: u64) -> BTreeSet<u64> {
    let mut got = BTreeSet::new();
    while (got.len() as u64) < count {
        let message = stream.next().await.unwrap().unwrap();
        got.insert(std::str::from_utf8(&message.body()).unwrap().parse().unwrap());
        stream.ack(&message).await.unwrap();
    }
    got
}

/// A member is known from its first receive on.
async fn joins(client: &Client, member: &str) {
    let consumer = client.consumer(ConsumerConfig::new("news", "all").member(member));
    assert!(consumer.receive(1, Duration::ZERO).await.unwrap().is_empty());
}

fn described(broker: &Broker, group: &str) -> Value {
    serde_json::from_str(&broker.run(&["group", "describe", group, "--json"])).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_gets_all_and_a_kill_keeps_the_place_of_each() {
    let mut broker = Broker::start();
    broker.run(&["topic", "create", "news", "--queues", "3"]);
    broker.run(&["group", "create", "all", "--broadcast"]);
    let client = broker.client().await;
    publish(&client, 0..10).await;
    joins(&client, "one").await;
    joins(&client, "two").await;
    publish(&client, 10..30).await;
    takes(&client, "one", 10..30).await;
    broker.kill();
    broker.serve();
    let client = broker.client().await;
    publish(&client, 30..35).await;
    takes(&client, "two", 10..35).await;
    takes(&client, "one", 30..35).await;
    // A seek of the group begins a new pass for each member.
    broker.run(&["group", "seek", "all", "--topic", "news", "--earliest"]);
    takes(&client, "one", 0..35).await;
    takes(&client, "two", 0..35).await;
    // A new member begins at the end.
    joins(&client, "three").await;
    let ids = publish(&client, 35..40).await;
    takes(&client, "three", 35..40).await;
    let group = described(&broker, "all");
    let members = group["members"].as_array().unwrap().iter();
    let behind: Vec<_> = members
        .map(|member| (member["name"].as_str().unwrap(), member["lag"].as_u64().unwrap()))
        .collect();
    assert_eq!(behind, [("one", 5), ("two", 5), ("three", 0)]);
    assert_eq!(described(&broker, "all/two")["cursors"].as_array().unwrap().len(), 3);
    let listed = broker.run(&["group", "list"]);
    assert!(listed.contains("all") && !listed.contains("all/"), "{listed}");
    let explain = |member: &str| {
        let told = broker.run(&["message", "explain", &ids[0], "--group", "all", "--member", member, "--json"]);
        serde_json::from_str::<Value>(&told).unwrap()["step"].clone()
    };
    assert_eq!((explain("three"), explain("one")), ("settled".into(), "waiting".into()));
    client.close().await;
}

/// The members that the group knows.
fn members(broker: &Broker) -> Vec<String> {
    let group = described(broker, "all");
    let names = group["members"].as_array().unwrap().iter();
    names.map(|member| member["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_absent_for_too_long_is_forgotten_and_begins_at_the_end() {
    let broker = Broker::start_with("member_absent_ms = 1000");
    broker.run(&["topic", "create", "news", "--queues", "3"]);
    broker.run(&["group", "create", "all", "--broadcast"]);
    let client = broker.client().await;
    let member = |name: &str| StreamConfig::new("news", "all").member(name);
    let mut present = client.stream(member("present")).await.unwrap();
    let leaves = client.stream(member("leaves")).await.unwrap();
    publish(&client, 0..5).await;
    assert_eq!(members(&broker).len(), 2);
    leaves.close().await;
    let begun = Instant::now();
    while members(&broker) != ["present"] {
        assert!(
            begun.elapsed() < PATIENCE,
            "still known: {:?}",
            described(&broker, "all")["members"]
        );
    }
    let (_, said) = broker.fail(&["group", "describe", "all/leaves"]);
    assert!(said.contains("NoSuchGroup"), "{said}");
    // It comes back as one that was never there; who was there all the time gets everything.
    let mut again = client.stream(member("leaves")).await.unwrap();
    publish(&client, 5..8).await;
    assert_eq!(take(&mut again, 3).await, (5..8).collect());
    assert_eq!(take(&mut present, 8).await, (0..8).collect());
    for stream in [again, present] {
        stream.close().await;
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broadcast_group_cannot_do_is_refused() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "news"]);
    broker.run(&["group", "create", "all", "--broadcast"]);
    broker.run(&["group", "create", "shared"]);
    let (_, said) = broker.fail(&["consume", "news", "--group", "all", "--until-empty"]);
    assert!(said.contains("BroadcastGroup"), "{said}");
    let (_, said) = broker.fail(&["consume", "news", "--group", "all", "--member", "a/b", "--until-empty"]);
    assert!(said.contains("BadName"), "{said}");
    let (_, said) = broker.fail(&["consume", "news", "--group", "all/one", "--until-empty"]);
    assert!(said.contains("BadName"), "{said}");
    let (_, said) = broker.fail(&["group", "create", "all/one"]);
    assert!(said.contains("BadName"), "{said}");
    let (_, said) = broker.fail(&["group", "describe", "shared/one"]);
    assert!(said.contains("NoSuchGroup"), "{said}");
    broker.run(&["consume", "news", "--group", "all", "--member", "one", "--until-empty"]);
    let (_, said) = broker.fail(&["group", "leases", "all"]);
    assert!(said.contains("BroadcastGroup"), "{said}");
    broker.run(&["group", "leases", "all/one"]);
    broker.run(&["group", "delete", "all"]);
    let (_, said) = broker.fail(&["group", "describe", "all/one"]);
    assert!(said.contains("NoSuchGroup"), "{said}");
}
