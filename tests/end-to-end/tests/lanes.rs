//! Priorities and ordered groups on the real broker, by its commands and by its client.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sluice_client::{ConsumerConfig, Filter};
use sluice_end_to_end::Broker;

/// Publishes rows with a number, a priority and a message group.
fn produce(broker: &Broker, topic: &str, rows: impl Iterator<Item = (u64, u8, String)>) {
    let rows: String = rows
        .map(|(number, priority, group)| format!("{{\"n\":{number},\"p\":{priority},\"g\":\"{group}\"}}\n"))
        .collect();
    let columns = ["--priority-column", "p", "--group-column", "g", "--property", "n"];
    broker.succeed(&[&["produce", topic, "--jsonl", "-"], &columns[..]].concat(), &rows);
}

/// The bodies that a group gets, in the order in which it gets them.
fn consume(broker: &Broker, topic: &str, arguments: &[&str]) -> Vec<(u64, u64, String)> {
    let printed = broker.run(&[&["consume", topic, "--until-empty", "--json"], arguments].concat());
    let row = |line: &str| {
        let message: Value = serde_json::from_str(line).expect("each line is JSON");
        let body: Value = serde_json::from_str(message["body"].as_str().expect("the body is text")).expect("the body is JSON");
        let text = body["g"].as_str().expect("a group").to_owned();
        (body["n"].as_u64().expect("a number"), body["p"].as_u64().expect("a priority"), text)
    };
    printed.lines().map(row).collect()
}

#[test]
fn of_a_backlog_the_highest_priority_comes_first_and_each_in_its_order() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "jobs", "--queues", "1"]);
    broker.run(&["group", "create", "strict", "--oldest-every", "0"]);
    produce(&broker, "jobs", (0..400).map(|n| (n, [0, 9, 0, 5][n as usize % 4], String::new())));
    for filter in [&["--group", "strict"][..], &["--group", "filtered", "--sql", "n >= 0"]] {
        let got = consume(&broker, "jobs", filter);
        assert_eq!(got.len(), 400);
        for priority in [0, 5, 9] {
            let of: Vec<u64> = got.iter().filter(|row| row.1 == priority).map(|row| row.0).collect();
            assert!(of.is_sorted(), "{filter:?}: those of {priority} came as {of:?}");
        }
        if filter.len() == 2 {
            assert!(got.is_sorted_by_key(|row| 9 - row.1), "{got:?}");
        }
    }
}

#[test]
fn one_delivery_in_so_many_goes_to_the_longest_waiting() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "jobs", "--queues", "1"]);
    broker.run(&["group", "create", "fair", "--oldest-every", "4"]);
    produce(&broker, "jobs", (0..40).map(|n| (n, if n < 20 { 0 } else { 9 }, String::new())));
    let got = consume(&broker, "jobs", &["--group", "fair"]);
    let low: Vec<usize> = got
        .iter()
        .enumerate()
        .filter(|(_, row)| row.1 == 0)
        .map(|(place, _)| place)
        .collect();
    assert_eq!(low[..5], [3, 7, 11, 15, 19], "{got:?}");
}

#[test]
fn a_member_that_gives_back_and_forgets_does_not_break_the_order_of_a_message_group() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "accounts", "--queues", "2"]);
    broker.run(&["group", "create", "ledger", "--ordered", "--backoff", "20ms", "--attempts", "100"]);
    produce(
        &broker,
        "accounts",
        (0..200).map(|n| (n, (n % 3) as u8, format!("account-{}", n % 7))),
    );
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let seen = runtime.block_on(async {
        let client = broker.client().await;
        let config = ConsumerConfig::new("accounts", "ledger").filter(Filter::Sql("n <> 5".to_owned()));
        let consumer = client.consumer(config);
        let mut seen: Vec<(u64, bool)> = Vec::new();
        let mut round = 0_u64;
        loop {
            let messages = consumer.receive(8, Duration::from_millis(500)).await.expect("messages");
            if messages.is_empty() {
                break;
            }
            for message in messages {
                round += 1;
                let body: Value = serde_json::from_slice(&message.body()).expect("JSON");
                let number = body["n"].as_u64().expect("a number");
                let done = !round.is_multiple_of(5);
                seen.push((number, done));
                let one = [message];
                let result = if done {
                    consumer.ack(&one).await
                } else {
                    consumer.nack(&one, Some(Duration::ZERO)).await
                };
                result.expect("settled").remove(0).expect("held");
            }
        }
        client.close().await;
        seen
    });
    let mut of: BTreeMap<u64, Vec<(u64, bool)>> = BTreeMap::new();
    for (number, done) in seen {
        of.entry(number % 7).or_default().push((number, done));
    }
    for (account, came) in of {
        let expected: Vec<u64> = (0..200).filter(|n| n % 7 == account && *n != 5).collect();
        let done: Vec<u64> = came.iter().filter(|(_, done)| *done).map(|(number, _)| *number).collect();
        assert_eq!(done, expected, "account {account}");
        assert!(came.is_sorted_by_key(|(number, _)| *number), "account {account} came as {came:?}");
    }
    assert!(broker.run(&["group", "describe", "ledger"]).contains("by message group"));
}

#[test]
fn what_a_group_holds_after_the_last_attempt_stops_its_message_group_alone() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "steps", "--queues", "1"]);
    let group = [
        "group",
        "create",
        "worker",
        "--ordered",
        "--on-exhausted",
        "hold",
        "--attempts",
        "1",
    ];
    broker.run(&group);
    produce(&broker, "steps", (0..6).map(|n| (n, 0, ["a", "b"][n as usize % 2].to_owned())));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let done = runtime.block_on(async {
        let client = broker.client().await;
        let consumer = client.consumer(ConsumerConfig::new("steps", "worker"));
        let mut done = Vec::new();
        loop {
            let messages = consumer.receive(4, Duration::from_millis(300)).await.expect("messages");
            if messages.is_empty() {
                break;
            }
            for message in messages {
                let body: Value = serde_json::from_slice(&message.body()).expect("JSON");
                let number = body["n"].as_u64().expect("a number");
                let one = [message];
                if number == 0 {
                    consumer.nack(&one, None).await.expect("given back");
                } else {
                    consumer.ack(&one).await.expect("acknowledged");
                    done.push(number);
                }
            }
        }
        client.close().await;
        done
    });
    assert_eq!(done, [1, 3, 5]);
}
