//! Transactions against a real broker: committed, rolled back, over a kill, with every other kind of message.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sluice_client::{
    Client, Decision, ErrorCode, MessageStream, NewMessage, ProducerConfig, StreamConfig, StreamMessage, TransactionHandle,
};
use sluice_end_to_end::Broker;

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_millis() as i64
}

/// The next message, acknowledged.
async fn next(stream: &mut MessageStream) -> StreamMessage {
    let message = stream.next().await.unwrap().unwrap();
    stream.ack(&message).await.unwrap();
    message
}

async fn refusal(client: &Client, handle: &TransactionHandle, decision: Decision) -> Option<ErrorCode> {
    let refused = client.decide(std::slice::from_ref(handle), decision).await.unwrap_err();
    refused.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_message_is_delivered_and_one_that_was_rolled_back_is_not() {
    let broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("orders", ProducerConfig::default());
    let committed = producer.prepare(NewMessage::new("committed")).await.unwrap();
    let rolled_back = producer.prepare(NewMessage::new("rolled back")).await.unwrap();
    let undecided = producer.prepare(NewMessage::new("undecided")).await.unwrap();
    let mut stream = client.stream(StreamConfig::new("orders", "g")).await.unwrap();
    rolled_back.roll_back().await.unwrap();
    committed.commit().await.unwrap();
    committed.commit().await.unwrap();
    producer.send(NewMessage::new("plain")).await.unwrap();
    let mut bodies = [next(&mut stream).await.body(), next(&mut stream).await.body()];
    bodies.sort();
    assert_eq!(bodies, ["committed", "plain"]);
    assert_eq!(
        refusal(&client, rolled_back.handle(), Decision::Commit).await,
        Some(ErrorCode::AlreadyRolledBack)
    );
    assert_eq!(
        refusal(&client, committed.handle(), Decision::RollBack).await,
        Some(ErrorCode::AlreadyCommitted)
    );
    let waiting = client.transactions("orders").await.unwrap();
    assert_eq!(waiting.len(), 1);
    assert_eq!(
        (&waiting[0].handle, &waiting[0].id),
        (&undecided.handle().0, &undecided.receipt().id.to_string())
    );
    let topic = client.topic("orders").await.unwrap();
    assert_eq!((topic.messages, topic.undecided), (2, 1));
    stream.close().await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_decisions_at_once_a_wrong_one_fails_alone() {
    let broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("orders", ProducerConfig::default());
    let mut prepared = Vec::new();
    for nth in 0..40 {
        prepared.push(producer.prepare(NewMessage::new(format!("{nth}"))).await.unwrap());
    }
    for wrong in [7, 23] {
        prepared[wrong].roll_back().await.unwrap();
    }
    let mut commits = tokio::task::JoinSet::new();
    for (nth, transaction) in prepared.into_iter().enumerate() {
        commits.spawn(async move { (nth, transaction.commit().await) });
    }
    let mut refused: Vec<(usize, Option<ErrorCode>)> = Vec::new();
    for (nth, outcome) in commits.join_all().await {
        refused.extend(outcome.err().map(|error| (nth, error.code())));
    }
    refused.sort_unstable_by_key(|(nth, _)| *nth);
    let code = Some(ErrorCode::AlreadyRolledBack);
    assert_eq!(refused, [(7, code), (23, code)]);
    let mut stream = client.stream(StreamConfig::new("orders", "g")).await.unwrap();
    let mut bodies = Vec::new();
    for _ in 0..38 {
        bodies.push(next(&mut stream).await.body());
    }
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!(bodies.len(), 38);
    let topic = client.topic("orders").await.unwrap();
    assert_eq!((topic.undecided, topic.messages), (0, 38));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_prepared_waits_over_a_kill_and_what_was_decided_stays_so() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("orders", ProducerConfig::default());
    let mut handles = Vec::new();
    for number in 0..9_u8 {
        handles.push(producer.prepare(NewMessage::new(vec![number])).await.unwrap().handle().clone());
    }
    client.decide(&handles[..3], Decision::Commit).await.unwrap();
    client.decide(&handles[3..6], Decision::RollBack).await.unwrap();
    broker.kill();
    broker.serve();
    client.close().await;
    let client = broker.client().await;
    let refused = client.decide(&handles[2..8], Decision::Commit).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::AlreadyRolledBack), "all of them or none");
    client.decide(&handles[6..], Decision::Commit).await.unwrap();
    let mut stream = client.stream(StreamConfig::new("orders", "g")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 6 {
        seen.push(next(&mut stream).await.body()[0]);
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2, 6, 7, 8]);
    assert!(client.transactions("orders").await.unwrap().is_empty());
    stream.close().await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_transaction_waits_for_its_commit_and_then_for_its_time() {
    let broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("orders", ProducerConfig::default());
    let due_ms = wall_ms() + 800;
    let late = producer.prepare(NewMessage::new("late").deliver_at_ms(due_ms)).await.unwrap();
    let recalled = producer.prepare(NewMessage::new("recalled").deliver_at_ms(due_ms)).await.unwrap();
    let past = producer
        .prepare(NewMessage::new("past").deliver_after(Duration::from_millis(1)))
        .await
        .unwrap();
    let recall = recalled.receipt().delayed.clone().unwrap().recall;
    let too_early = client.recall(&recall).await.unwrap_err();
    assert_eq!(too_early.code(), Some(ErrorCode::NotWaiting), "it is not committed");
    for transaction in [&late, &recalled, &past] {
        transaction.commit().await.unwrap();
    }
    client.recall(&recall).await.unwrap();
    let mut stream = client.stream(StreamConfig::new("orders", "g")).await.unwrap();
    assert_eq!(next(&mut stream).await.body(), "past");
    assert_eq!(next(&mut stream).await.body(), "late");
    assert!(wall_ms() >= due_ms, "it came early");
    let last = producer.send(NewMessage::new("last")).await.unwrap();
    let message = next(&mut stream).await;
    assert_eq!((message.body(), message.id()), ("last".into(), last.id));
    stream.close().await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_message_has_its_priority_and_its_place_in_its_message_group() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "orders", "--queues", "1"]);
    broker.run(&["group", "create", "ordered", "--ordered"]);
    let client = broker.client().await;
    let producer = client.producer("orders", ProducerConfig::default());
    let of = |body: &'static str, priority| NewMessage::new(body).group("customer-7").priority(priority);
    let first = producer.prepare(of("third", 9)).await.unwrap();
    let second = producer.prepare(NewMessage::new("urgent").priority(9)).await.unwrap();
    producer.send(of("first", 0)).await.unwrap();
    producer.send(of("second", 0)).await.unwrap();
    client
        .decide(&[first.handle().clone(), second.handle().clone()], Decision::Commit)
        .await
        .unwrap();
    while client.topic("orders").await.unwrap().messages < 4 {
        tokio::task::yield_now().await;
    }
    let one_by_one = |group| StreamConfig {
        credit: 1,
        ..StreamConfig::new("orders", group)
    };
    let mut stream = client.stream(one_by_one("by-priority")).await.unwrap();
    let bodies = [next(&mut stream).await.body(), next(&mut stream).await.body()];
    assert_eq!(bodies, ["third", "urgent"], "the larger priority goes first");
    stream.close().await;
    let mut stream = client.stream(one_by_one("ordered")).await.unwrap();
    let mut of_group = Vec::new();
    for _ in 0..4 {
        let message = next(&mut stream).await;
        of_group.extend(message.group().map(|_| message.body()));
    }
    assert_eq!(of_group, ["first", "second", "third"], "its place is that of its commit");
    stream.close().await;
    client.close().await;
}

#[test]
fn the_command_line_prepares_lists_commits_and_rolls_back() {
    let broker = Broker::start();
    let told = broker.succeed(
        &["produce", "orders", "--jsonl", "-", "--json", "--prepare"],
        "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n",
    );
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let handles: Vec<&str> = told.iter().filter_map(|line| line["transaction"].as_str()).collect();
    assert_eq!(handles.len(), 3, "{told:?}");
    let listed = || {
        let printed = broker.run(&["transaction", "list", "orders", "--json"]);
        let lines = printed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["handle"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(), handles);
    assert_eq!(broker.consume("orders", "before", &[]), Vec::<u64>::new());
    broker.run(&["transaction", "rollback", handles[1]]);
    broker.run(&["transaction", "commit", handles[0], handles[2]]);
    let (_, said) = broker.fail(&["transaction", "commit", handles[1]]);
    assert!(said.contains("AlreadyRolledBack"), "{said}");
    let (_, said) = broker.fail(&["transaction", "commit", "xyz"]);
    assert!(said.contains("hexadecimal"), "{said}");
    assert_eq!(listed(), Vec::<String>::new());
    let consumed = broker.run(&["consume", "orders", "--group", "g", "--count", "2", "--json"]);
    assert_eq!(sluice_end_to_end::numbers(&consumed), [1, 3]);
}
