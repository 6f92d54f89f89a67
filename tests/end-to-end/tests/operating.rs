//! What an operator does with a group on the real broker: pause and resume, skip, purge, leases, policies.

use std::time::Duration;

use serde_json::Value;
use sluice_client::{Client, Consumer, ConsumerConfig};
use sluice_end_to_end::Broker;

fn json(printed: &str) -> Value {
    serde_json::from_str(printed.trim()).expect("it prints one JSON object")
}

fn lines(printed: &str) -> Vec<Value> {
    printed.lines().map(json).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_group_waits_across_a_kill_and_goes_on_when_it_is_resumed() {
    let mut broker = Broker::start();
    broker.produce("numbers", 0, 10);
    broker.run(&["consume", "numbers", "--group", "g", "--count", "2"]);
    let paused = json(&broker.run(&["--json", "group", "pause", "g"]));
    assert_eq!(
        (&paused["group"], &paused["topic"], &paused["paused"]),
        (&"g".into(), &Value::Null, &true.into())
    );
    broker.kill();
    broker.serve();
    let client = broker.client().await;
    let consumer = client.consumer(ConsumerConfig::new("numbers", "g"));
    let got = consumer.receive(32, Duration::from_millis(300)).await.expect("it may wait");
    assert_eq!(got.len(), 0, "nothing is handed out");
    let shown = broker.run(&["group", "describe", "g"]);
    assert!(shown.contains("PAUSED         all topics since "), "{shown}");
    let shown = json(&broker.run(&["--json", "group", "describe", "g"]));
    assert!(
        shown["pauses"][0]["since_ms"].is_i64() && shown["pauses"][0]["by"].is_string(),
        "{shown}"
    );
    assert_eq!(json(&broker.run(&["--json", "group", "list"]))["paused"], true);
    let (code, text) = broker.fail(&["group", "resume", "g", "--topic", "numbers"]);
    assert!(code == 1 && text.contains("paused in all topics"), "{text}");
    broker.run(&["group", "resume", "g"]);
    assert_eq!(broker.consume("numbers", "g", &[]).len(), 8);
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leased_message_is_listed_with_its_holder_and_skipped() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "numbers", "--queues", "1"]);
    broker.produce("numbers", 0, 3);
    let client = broker.client().await;
    let consumer = client.consumer(ConsumerConfig {
        member: Some("till-3".to_owned()),
        ..ConsumerConfig::new("numbers", "g")
    });
    let got = consumer.receive(1, Duration::from_secs(10)).await.expect("there are messages");
    assert_eq!(got.len(), 1);
    let listed = lines(&broker.run(&["--json", "group", "leases", "g", "--topic", "numbers"]));
    let [lease] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(
        (&lease["state"], &lease["member"], &lease["first"]),
        (&"leased".into(), &"till-3".into(), &0.into())
    );
    let place = ["--topic", "numbers", "--queue", "0", "--offset"];
    let skip = |offset| json(&broker.run(&[&["--json", "group", "skip", "g"][..], &place, &[offset]].concat()));
    assert_eq!(skip("0")["was"], "leased");
    assert_eq!(skip("2")["was"], "not handed out yet");
    assert_eq!(skip("2")["was"], "settled or passed over already");
    let acked = consumer.ack(&got).await.expect("it is answered");
    assert!(acked[0].is_err(), "the handle is stale");
    let (code, text) = broker.fail(&[&["group", "skip", "g"][..], &place, &["3"]].concat());
    assert!(code == 1 && text.contains("holds the offsets 0 to 3"), "{text}");
    assert_eq!(broker.consume("numbers", "g", &[]), [1]);
    client.close().await;
}

#[test]
fn a_purge_passes_over_what_is_stored_for_one_group_alone() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 100);
    broker.run(&["consume", "numbers", "--group", "g", "--count", "30"]);
    let purged = json(&broker.run(&["--json", "group", "purge", "g", "--topic", "numbers"]));
    assert_eq!(purged["passed_over"], 70);
    broker.produce("numbers", 100, 103);
    assert_eq!(broker.consume("numbers", "g", &[]), [100, 101, 102]);
    assert_eq!(broker.consume("numbers", "other", &[]).len(), 103);
}

#[test]
fn a_group_shows_the_policy_that_it_was_created_with() {
    let broker = Broker::start();
    for (name, backoff) in [("table", "1s,5s,10s"), ("doubling", "100ms..1m"), ("fixed", "5s")] {
        broker.run(&[
            "group",
            "create",
            name,
            "--backoff",
            backoff,
            "--attempts",
            "3",
            "--start",
            "latest",
        ]);
        let shown = json(&broker.run(&["--json", "group", "describe", name]));
        assert_eq!(
            (&shown["backoff"], &shown["attempts_max"], &shown["start"]),
            (&backoff.into(), &3.into(), &"latest".into())
        );
    }
    let (code, _) = broker.fail(&["group", "create", "bad", "--backoff", "5"]);
    assert_eq!(code, 2);
}

/// Five messages in one queue that group g gave up, and the consumer that did.
async fn given_up(broker: &Broker, client: &Client) -> Consumer {
    broker.run(&["topic", "create", "numbers", "--queues", "1"]);
    broker.run(&["group", "create", "g", "--attempts", "1", "--backoff", "0ms"]);
    broker.produce("numbers", 0, 5);
    let consumer = client.consumer(ConsumerConfig::new("numbers", "g"));
    let mut given_up = 0;
    while given_up < 5 {
        let got = consumer.receive(32, Duration::from_secs(10)).await.expect("there are messages");
        given_up += got.len();
        for nacked in consumer.nack(&got, None).await.expect("it is answered") {
            nacked.expect("they are held");
        }
    }
    while listed(broker).len() < 5 {
        // Their copies are on the way.
        tokio::task::yield_now().await;
    }
    consumer
}

fn listed(broker: &Broker) -> Vec<Value> {
    lines(&broker.run(&["--json", "group", "dead-letters", "list", "g"]))
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_and_sent_back_to_their_group_alone() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let consumer = given_up(&broker, &client).await;
    let letters = listed(&broker);
    // Their copies are fetched side by side, so they lie in any order.
    let origins = |letters: &[Value]| {
        let mut offsets: Vec<u64> = letters.iter().filter_map(|letter| letter["origin_offset"].as_u64()).collect();
        offsets.sort_unstable();
        offsets
    };
    assert_eq!(origins(&letters), [0, 1, 2, 3, 4]);
    for letter in &letters {
        assert_eq!(
            (&letter["topic"], &letter["queue"], &letter["attempts"], &letter["reason"]),
            (
                &"numbers".into(),
                &0.into(),
                &1.into(),
                &"the consumer asked for another delivery".into()
            )
        );
    }
    let sent = json(&broker.run(&["--json", "group", "dead-letters", "resend", "g", "--from", "1", "--to", "3"]));
    assert_eq!((&sent["sent_back"], &sent["gone"]), (&3.into(), &0.into()));
    assert_eq!(listed(&broker).len(), 2);
    broker.kill();
    broker.serve();
    assert_eq!(listed(&broker).len(), 2, "what was dealt with survives a kill");
    let mut got = Vec::new();
    while got.len() < 3 {
        got.extend(consumer.receive(32, Duration::from_secs(10)).await.expect("they come back"));
    }
    let id = |letter: &Value| letter["id"].as_str().expect("it has an id").to_owned();
    let mut expected: Vec<(String, u16)> = letters[1..=3].iter().map(|letter| (id(letter), 2)).collect();
    let mut seen: Vec<(String, u16)> = got.iter().map(|message| (message.id().to_string(), message.attempt())).collect();
    expected.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, expected, "each once, under its own id, as a further attempt");
    let again = json(&broker.run(&["--json", "group", "dead-letters", "resend", "g", "--from", "1", "--to", "3"]));
    assert_eq!(again["sent_back"], 0);
    assert_eq!(
        broker.consume("numbers", "other", &[]),
        [0, 1, 2, 3, 4],
        "another group gets each once"
    );
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_discarded_with_their_number() {
    let broker = Broker::start();
    let client = broker.client().await;
    given_up(&broker, &client).await;
    let (code, _) = broker.fail(&["group", "dead-letters", "discard", "g"]);
    assert_eq!(code, 2, "which ones must be said");
    let discard = |which: &[&str]| json(&broker.run(&[&["--json", "group", "dead-letters", "discard", "g"], which].concat()));
    assert_eq!(discard(&["--all", "--limit", "2"])["discarded"], 2);
    assert_eq!(discard(&["--all"])["discarded"], 3);
    assert_eq!(listed(&broker).len(), 0);
    assert_eq!(broker.consume("%DLQ%g", "morgue", &[]).len(), 5, "the copies stay in their topic");
    client.close().await;
}
