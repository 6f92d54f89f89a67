//! Prepared messages that their producer forgot: another one is asked, nobody knows and an operator does, all of it over kills.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;
use sluice_client::{
    Answer, Client, Decision, ErrorCode, MessageStream, NewMessage, ProducerConfig, StreamConfig, StreamMessage, TransactionHandle,
    TransactionInfo, Undecided,
};
use sluice_end_to_end::Broker;
use tokio::sync::mpsc;

/// Asked soon, and as often as it takes.
const PATIENT: &str = "[transactions]\nask_first_ms = 1\nask_interval_ms = 20\nasks_max = 1000\n";
/// Asked soon, and given up soon.
const IMPATIENT: &str = "[transactions]\nask_first_ms = 1\nask_interval_ms = 20\nasks_max = 3\n";
const ROLLED_BACK: &str = "%SYS%rolled-back";

async fn next(stream: &mut MessageStream) -> StreamMessage {
    let message = stream.next().await.unwrap().unwrap();
    stream.ack(&message).await.unwrap();
    message
}

/// The listed transactions of `orders`, once they are as they should be.
async fn listed_when(client: &Client, is_so: impl Fn(&[TransactionInfo]) -> bool) -> Vec<TransactionInfo> {
    loop {
        let listed = client.transactions("orders").await.unwrap();
        if is_so(&listed) {
            return listed;
        }
        tokio::task::yield_now().await;
    }
}

async fn unknown(_: Undecided) -> Answer {
    Answer::Unknown
}

#[tokio::test(flavor = "multi_thread")]
async fn another_producer_decides_when_the_first_one_is_gone() {
    let broker = Broker::start_with(PATIENT);
    let produced = broker.succeed(
        &["produce", "orders", "--jsonl", "-", "--json", "--prepare"],
        "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n",
    );
    assert!(produced.contains("transaction"), "{produced}");
    let client = broker.client().await;
    let (heard, mut asked) = mpsc::unbounded_channel();
    let producer = client.answering_producer("orders", ProducerConfig::default(), move |undecided| {
        let heard = heard.clone();
        async move {
            let order: Value = serde_json::from_slice(&undecided.message.body()).unwrap();
            heard.send(order["n"].as_u64().unwrap()).unwrap();
            match order["n"].as_u64() {
                Some(2) => Answer::RollBack,
                _ => Answer::Commit,
            }
        }
    });
    let mut stream = client.stream(StreamConfig::new("orders", "g")).await.unwrap();
    let mut bodies = [next(&mut stream).await.body(), next(&mut stream).await.body()];
    bodies.sort();
    assert_eq!(bodies, ["{\"n\":1}", "{\"n\":3}"]);
    listed_when(&client, <[_]>::is_empty).await;
    let numbers: BTreeSet<u64> = std::iter::from_fn(|| asked.try_recv().ok()).collect();
    assert_eq!(numbers, BTreeSet::from([1, 2, 3]));
    let last = producer.send(NewMessage::new("last")).await.unwrap();
    assert_eq!(next(&mut stream).await.id(), last.id, "nothing came twice");
    stream.close().await;
    producer.close().await.unwrap();
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_given_up_and_an_operator_commits_it_once() {
    let broker = Broker::start_with(IMPATIENT);
    let client = broker.client().await;
    let producer = client.answering_producer("orders", ProducerConfig::default(), unknown);
    let message = NewMessage::new("order 7")
        .key("7")
        .property("price", "3")
        .time_to_live(Duration::from_secs(3_600));
    let prepared = producer.prepare(message).await.unwrap();
    let listed = listed_when(&client, |listed| listed.iter().any(|transaction| transaction.given_up)).await;
    assert_eq!((listed.len(), &listed[0].handle), (1, &prepared.handle().0));
    assert_eq!((listed[0].asks, listed[0].next_ask_wall_ms), (0, 0), "nobody is asked any more");
    let refused = prepared.commit().await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::AlreadyRolledBack));

    let mut copies = client.stream(StreamConfig::new(ROLLED_BACK, "registry")).await.unwrap();
    let copy = next(&mut copies).await;
    assert_eq!((copy.body(), copy.id()), ("order 7".into(), prepared.receipt().id));
    assert_eq!(copy.property("sluice.origin.topic"), Some("orders"));
    assert_eq!(copy.property("sluice.asks"), Some("3"));
    let handle = copy.property("sluice.origin.transaction").unwrap();
    assert_eq!(handle, prepared.handle().to_string());
    let id = prepared.receipt().id.to_string();
    let explained = |group: &str| broker.run(&["message", "explain", &id, "--group", group]);
    let told = explained("registry");
    assert!(
        told.contains("\nstep      given up\n") && told.contains(" rolled back, since nobody decided about it"),
        "{told}"
    );

    broker.run(&["transaction", "commit", handle]);
    broker.run(&["transaction", "commit", handle]);
    prepared.commit().await.unwrap();
    let mut stream = client.stream(StreamConfig::new("orders", "g")).await.unwrap();
    let delivered = next(&mut stream).await;
    assert_eq!((delivered.body(), delivered.id()), ("order 7".into(), prepared.receipt().id));
    assert_eq!(delivered.ttl_ms(), Some(3_600_000));
    let properties: Vec<(&str, &str)> = delivered.properties().collect();
    assert_eq!(properties, [("price", "3")], "it is what was sent");
    let last = producer.send(NewMessage::new("last")).await.unwrap();
    assert_eq!(next(&mut stream).await.id(), last.id, "it came once");
    let told = explained("g");
    assert!(
        told.contains("\nstep      settled\n") && told.contains("\ntopic     orders\n"),
        "{told}"
    );
    copies.close().await;
    stream.close().await;
    producer.close().await.unwrap();
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asks_are_counted_over_kills_and_so_is_what_becomes_of_the_message() {
    let mut broker = Broker::start_with(IMPATIENT);
    let client = broker.client().await;
    let producer = client.answering_producer("orders", ProducerConfig::default(), unknown);
    let handle = producer.prepare(NewMessage::new("order 7")).await.unwrap().handle().clone();
    let before = listed_when(&client, |listed| listed[0].asks > 0 || listed[0].given_up).await;
    broker.kill();
    broker.serve();
    // The client comes back by itself, and so does the producer that can be asked.
    let after = client_after(&broker, client).await;
    let again = after.answering_producer("orders", ProducerConfig::default(), unknown);
    let listed = after.transactions("orders").await.unwrap();
    assert!(listed[0].given_up || listed[0].asks >= before[0].asks, "{before:?} {listed:?}");
    listed_when(&after, |listed| listed[0].given_up).await;
    drop((producer, again));
    broker.kill();
    broker.serve();
    let client = client_after(&broker, after).await;
    commit_as_operator(&client, &handle).await;
    broker.kill();
    broker.serve();
    let client = client_after(&broker, client).await;
    commit_as_operator(&client, &handle).await;
    let mut stream = client.stream(StreamConfig::new("orders", "g")).await.unwrap();
    assert_eq!(next(&mut stream).await.body(), "order 7");
    let producer = client.producer("orders", ProducerConfig::default());
    let last = producer.send(NewMessage::new("last")).await.unwrap();
    assert_eq!(next(&mut stream).await.id(), last.id, "it came once");
    stream.close().await;
    client.close().await;
}

/// A client of the broker as it is now, which has another address.
async fn client_after(broker: &Broker, before: Client) -> Client {
    before.close().await;
    broker.client().await
}

async fn commit_as_operator(client: &Client, handle: &TransactionHandle) {
    client
        .decide_as_operator(std::slice::from_ref(handle), Decision::Commit)
        .await
        .unwrap();
}

fn undelivered(broker: &Broker) -> u64 {
    let page = broker.page("/metrics");
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix("sluice_transaction_asks_undelivered_total "));
    value.unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_be_asked_nothing_counts() {
    let broker = Broker::start_with(IMPATIENT);
    let client = broker.client().await;
    let producer = client.producer("orders", ProducerConfig::default());
    let elsewhere = client.answering_producer("others", ProducerConfig::default(), unknown);
    let prepared = producer.prepare(NewMessage::new("order 7")).await.unwrap();
    while undelivered(&broker) < 2 {
        tokio::task::yield_now().await;
    }
    let listed = client.transactions("orders").await.unwrap();
    assert_eq!((listed[0].asks, listed[0].given_up), (0, false));
    prepared.commit().await.unwrap();
    drop(elsewhere);
    client.close().await;
}
