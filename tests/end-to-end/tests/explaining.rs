//! What became of a message for a group on the real broker: a case for every step that can decide.

// The guests' source is that of the plugin host's own tests.
#[path = "../../../broker/plugin-host/tests/guests/mod.rs"]
mod guests;

use std::time::Duration;

use guests::{Guest, POISONED, TRAPPING};
use serde_json::{Value, json};
use sluice_client::{Consumer, ConsumerConfig, Filter, ReceivedMessage};
use sluice_end_to_end::{Broker, property_equals};

/// A broker with a topic of one queue that holds the numbers 0 to `count`.
fn started(count: u32) -> Broker {
    let broker = Broker::start();
    broker.run(&["topic", "create", "numbers", "--queues", "1"]);
    broker.produce("numbers", 0, count);
    broker
}

/// The id of the message with this number in its body.
fn id(broker: &Broker, topic: &str, offset: u64) -> String {
    let from = offset.to_string();
    let printed = broker.run(&["--json", "message", "list", topic, "--from-offset", &from, "--limit", "1"]);
    let message: Value = serde_json::from_str(printed.trim()).expect("it prints JSON");
    message["id"].as_str().expect("it has an id").to_owned()
}

fn explain_id(broker: &Broker, id: &str, group: &str) -> Value {
    let printed = broker.run(&["--json", "message", "explain", id, "--group", group]);
    serde_json::from_str(printed.trim()).expect("it prints one JSON object")
}

fn explain(broker: &Broker, offset: u64) -> Value {
    explain_id(broker, &id(broker, "numbers", offset), "g")
}

/// Asks until the step is this one: what a settlement or a verdict causes may take a moment.
fn until(broker: &Broker, offset: u64, step: &str) -> Value {
    loop {
        let told = explain(broker, offset);
        if told["step"] == step {
            return told;
        }
        std::thread::yield_now();
    }
}

/// What the group did with the message, one after the other.
fn what_happened(told: &Value) -> Vec<&str> {
    let history = told["history"].as_array().map_or(&[][..], Vec::as_slice);
    history.iter().filter_map(|event| event["what"].as_str()).collect()
}

fn waits_for(told: &Value, what: &str) {
    assert_eq!(
        (&told["step"], &told["details"]["for"]),
        (&"waiting".into(), &what.into()),
        "{told}"
    );
}

async fn receive(consumer: &Consumer, max: u16) -> Vec<ReceivedMessage> {
    consumer.receive(max, Duration::from_secs(10)).await.expect("there are messages")
}

#[test]
fn what_is_not_stored_or_not_read_is_no_candidate() {
    let broker = started(1);
    let told = explain_id(&broker, &"0".repeat(32), "g");
    assert_eq!((&told["step"], told.get("topic")), (&"not_stored".into(), None));
    assert_eq!(explain(&broker, 0)["step"], "no_group");
    broker.run(&["group", "create", "g"]);
    let told = explain(&broker, 0);
    assert_eq!((&told["step"], told.get("filter")), (&"never_read".into(), None));
    assert_eq!((&told["topic"], &told["offset"]), (&"numbers".into(), &0.into()));
    let (code, text) = broker.fail(&["message", "explain", "12", "--group", "g"]);
    assert!(code == 1 && text.contains("BadMessageId"), "{text}");
}

#[test]
fn a_group_passes_over_what_is_before_its_start_a_seek_or_a_purge() {
    let broker = started(5);
    broker.run(&["group", "create", "g", "--start", "latest"]);
    assert_eq!(broker.consume("numbers", "g", &[]), [0_u64; 0]);
    let told = explain(&broker, 4);
    assert_eq!(
        (&told["step"], &told["details"]["start"], &told["pass"]),
        (&"before_start".into(), &5.into(), &1.into())
    );
    assert!(
        told["why"].as_str().is_some_and(|why| why.contains("the group began behind it")),
        "{told}"
    );
    broker.run(&["group", "seek", "g", "--topic", "numbers", "--offset", "2"]);
    assert_eq!(broker.consume("numbers", "g", &[]), [2, 3, 4]);
    let told = explain(&broker, 1);
    assert_eq!((&told["step"], &told["details"]["start"]), (&"before_start".into(), &2.into()));
    assert_eq!(explain(&broker, 2)["step"], "settled");
    broker.produce("numbers", 5, 7);
    broker.run(&["group", "purge", "g", "--topic", "numbers"]);
    let told = explain(&broker, 6);
    assert_eq!(
        (&told["step"], &told["details"]["start"], &told["pass"]),
        (&"before_start".into(), &7.into(), &3.into())
    );
    let people = broker.run(&["message", "explain", &id(&broker, "numbers", 6), "--group", "g"]);
    assert!(
        people.contains("why       a seek or a purge moved the group past it, in queue 0 of topic numbers at offset 7"),
        "{people}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_followed_from_its_lease_to_the_dead_letters() {
    let broker = started(4);
    broker.run(&["group", "create", "g", "--attempts", "2", "--backoff", "1h"]);
    let client = broker.client().await;
    let consumer = client.consumer(ConsumerConfig {
        member: Some("till-3".to_owned()),
        ..ConsumerConfig::new("numbers", "g")
    });
    let got = receive(&consumer, 3).await;
    let told = explain(&broker, 0);
    assert_eq!(told["step"], "leased");
    assert_eq!(
        (&told["details"]["member"], &told["details"]["by"], &told["details"]["attempt"]),
        (&"till-3".into(), &"receive".into(), &1.into())
    );
    assert!(told["details"]["until_ms"].as_i64() > told["stored_ms"].as_i64(), "{told}");
    assert_eq!(
        (&told["filter"]["plugin"], &told["filter"]["verdict"]),
        (&"".into(), &"deliver".into())
    );
    waits_for(&explain(&broker, 3), "members");
    consumer.ack(&got[..1]).await.expect("it is answered");
    assert_eq!(explain(&broker, 0)["step"], "settled");
    consumer.nack(&got[1..2], None).await.expect("it is answered");
    let told = explain(&broker, 1);
    assert_eq!(told["step"], "retrying");
    assert_eq!(
        (&told["details"]["attempts"], &told["details"]["reason"]),
        (&1.into(), &"the consumer asked for another delivery".into())
    );
    assert!(told["details"]["due_ms"].as_i64() > told["stored_ms"].as_i64(), "{told}");
    broker.run(&["group", "skip", "g", "--topic", "numbers", "--queue", "0", "--offset", "1"]);
    let told = explain(&broker, 1);
    assert_eq!(
        (&told["step"], what_happened(&told)),
        (&"settled".into(), vec!["delivered", "returned", "skipped"])
    );
    let first = &told["history"][0];
    assert_eq!(
        (&first["member"], &first["by"], &first["attempt"]),
        (&"till-3".into(), &"receive".into(), &1.into())
    );
    assert!(first["at_ms"].as_i64() >= told["stored_ms"].as_i64(), "{told}");
    consumer.nack(&got[2..3], Some(Duration::ZERO)).await.expect("it is answered");
    let mut again = receive(&consumer, 1).await;
    while again[0].offset() != 2 {
        again = receive(&consumer, 1).await;
    }
    consumer.nack(&again, Some(Duration::ZERO)).await.expect("it is answered");
    let told = until(&broker, 2, "dead_lettered");
    assert_eq!(
        what_happened(&told),
        ["delivered", "returned", "delivered", "returned", "dead_lettered"]
    );
    let letter = &told["dead_letter"];
    assert_eq!(
        (&letter["topic"], &letter["offset"], &letter["attempts"], &letter["reason"]),
        (
            &"%DLQ%g".into(),
            &0.into(),
            &2.into(),
            &"the consumer asked for another delivery".into()
        )
    );
    client.close().await;
}

#[test]
fn a_filter_is_asked_again_and_says_what_it_saw() {
    let broker = started(6);
    assert_eq!(broker.consume("numbers", "g", &["--sql", "n > 3 AND missing IS NULL"]), [4, 5]);
    let told = explain(&broker, 2);
    assert_eq!(told["step"], "skipped");
    let filter = &told["filter"];
    assert_eq!(filter["columns"], json!({ "property n": "2", "property missing": null }));
    assert_eq!(
        (&filter["plugin"], &filter["expression"], &filter["verdict"], &filter["changed"]),
        (&"sql".into(), &"n > 3 AND missing IS NULL".into(), &"skip".into(), &false.into())
    );
    assert_eq!(filter["digest"].as_str().map(str::len), Some(64));
    let told = explain(&broker, 4);
    assert_eq!((&told["step"], &told["filter"]["verdict"]), (&"settled".into(), &"deliver".into()));
    broker.consume("numbers", "g", &["--tag", "red"]);
    let told = explain(&broker, 0);
    assert_eq!(
        (&told["filter"]["columns"], &told["filter"]["changed"]),
        (&json!({ "tag": "red" }), &true.into())
    );
    let people = broker.run(&["message", "explain", &id(&broker, "numbers", 0), "--group", "g"]);
    assert!(people.contains("as the filter rules now"), "{people}");
}

#[test]
fn an_evaluation_error_is_told_from_a_message_that_does_not_match() {
    let broker = started(3);
    assert_eq!(broker.consume("numbers", "g", &["--sql", "color > 10"]), [0_u64; 0]);
    let told = explain(&broker, 0);
    assert_eq!(
        (&told["step"], &told["filter"]["verdict"], &told["filter"]["columns"]),
        (&"skipped".into(), &"error".into(), &json!({ "property color": "red" }))
    );
    assert!(
        told["why"]
            .as_str()
            .is_some_and(|why| why.contains("the evaluation of the filter fails")),
        "{told}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_group_has_not_come_to_waits_for_something() {
    let broker = started(3);
    broker.run(&["consume", "numbers", "--group", "g", "--count", "1"]);
    waits_for(&explain(&broker, 2), "members");
    let client = broker.client().await;
    let stream = client.stream(sluice_client::StreamConfig {
        credit: 1,
        ..sluice_client::StreamConfig::new("numbers", "g")
    });
    let stream = stream.await.expect("the broker serves");
    until(&broker, 1, "leased");
    waits_for(&explain(&broker, 2), "demand");
    broker.run(&["group", "pause", "g"]);
    let told = explain(&broker, 2);
    waits_for(&told, "resume");
    assert!(
        told["why"].as_str().is_some_and(|why| why.contains("paused in all topics since ")),
        "{told}"
    );
    stream.close().await;
    client.close().await;
}

#[test]
fn a_message_without_a_place_in_a_queue_says_what_it_waits_for() {
    let broker = started(0);
    broker.run(&["group", "create", "g"]);
    let produced = |option: &[&str]| {
        let arguments = [&["--json", "produce", "numbers", "--jsonl", "-"][..], option].concat();
        let printed = broker.succeed(&arguments, "{\"n\":1}\n");
        let first = printed.lines().next().expect("it prints what waits");
        serde_json::from_str::<Value>(first).expect("it prints JSON")
    };
    let text = |value: &Value| value.as_str().expect("it is a text").to_owned();
    let delayed = produced(&["--deliver-after", "1h"]);
    let told = explain_id(&broker, &text(&delayed["id"]), "g");
    waits_for(&told, "time");
    assert_eq!((&told["details"]["due_ms"], told.get("offset")), (&delayed["deliver_at_ms"], None));
    broker.run(&["message", "recall", &text(&delayed["recall"])]);
    let told = explain_id(&broker, &text(&delayed["id"]), "g");
    assert_eq!(
        (&told["step"], what_happened(&told)),
        (&"recalled".into(), vec!["recalled"]),
        "{told}"
    );
    assert_eq!((&told["topic"], told.get("offset")), (&"numbers".into(), None));
    let unwanted = produced(&["--prepare"]);
    broker.run(&["transaction", "rollback", &text(&unwanted["transaction"])]);
    let told = explain_id(&broker, &text(&unwanted["id"]), "g");
    assert_eq!(
        (&told["step"], what_happened(&told)),
        (&"rolled_back".into(), vec!["rolled_back"]),
        "{told}"
    );
    let prepared = produced(&["--prepare"]);
    waits_for(&explain_id(&broker, &text(&prepared["id"]), "g"), "decision");
    broker.run(&["transaction", "commit", &text(&prepared["transaction"])]);
    assert_eq!(broker.consume("numbers", "g", &["--count", "1"]).len(), 1);
    let told = explain_id(&broker, &text(&prepared["id"]), "g");
    assert_eq!(
        (&told["step"], what_happened(&told)),
        (&"settled".into(), vec!["delivered", "acknowledged"])
    );
    let people = broker.run(&["message", "explain", &text(&prepared["id"]), "--group", "g"]);
    assert!(people.contains("acknowledged"), "{people}");
}

#[test]
fn a_message_that_expired_says_so() {
    let broker = started(0);
    let printed = broker.succeed(&["produce", "numbers", "--jsonl", "-", "--ttl", "1ms"], "{\"n\":1}\n");
    assert!(!printed.contains("refused"), "{printed}");
    // The next one is there to be waited for.
    broker.produce("numbers", 1, 2);
    assert_eq!(broker.consume("numbers", "g", &[]), [1]);
    let told = explain(&broker, 0);
    assert_eq!((&told["step"], what_happened(&told)), (&"expired".into(), vec!["expired"]));
}

#[test]
fn a_filter_of_ones_own_is_named_by_its_digest() {
    let broker = started(2);
    let module = property_equals().to_str().expect("its path is text");
    broker.run(&["plugin", "load", module, "--name", "own"]);
    assert_eq!(
        broker.consume("numbers", "g", &["--filter", "own", "--expression", "color=green"]),
        [1]
    );
    let told = explain(&broker, 0);
    assert_eq!((&told["step"], &told["filter"]["plugin"]), (&"skipped".into(), &"own".into()));
    assert_eq!(told["filter"]["columns"], json!({ "property color": "red" }));
}

/// A file that holds a guest.
fn module(broker: &Broker, guest: Guest) -> String {
    let path = broker.file("guest.wasm", "");
    std::fs::write(&path, guest.component()).expect("a file for a test can be written");
    path.display().to_string()
}

fn fails(told: &Value) {
    let filter = &told["filter"];
    assert_eq!(filter["verdict"], "fault");
    assert!(filter["reason"].as_str().is_some_and(|reason| reason.contains("trapped")), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fault_of_a_plugin_is_quoted() {
    let broker = started(40);
    broker.run(&["plugin", "load", &module(&broker, TRAPPING), "--name", "broken"]);
    let client = broker.client().await;
    let consumer = client.consumer(ConsumerConfig::new("numbers", "g").filter(Filter::Plugin {
        name: "broken".to_owned(),
        expression: String::new(),
    }));
    let mut told = Value::Null;
    while told["details"]["for"] != "alarm" {
        let got = consumer.receive(32, Duration::from_millis(500)).await.expect("the group reads");
        assert_eq!(got.len(), 0);
        told = explain(&broker, 7);
    }
    waits_for(&told, "alarm");
    assert!(
        told["details"]["reason"].as_str().is_some_and(|reason| reason.contains("trapped")),
        "{told}"
    );
    fails(&told);
    client.close().await;
}

#[test]
fn what_a_plugin_failed_on_has_the_fate_that_its_binding_says() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "numbers", "--queues", "1"]);
    let tag = |number: u32| if number == 3 { "bad!" } else { "good" };
    let rows: String = (0..1_500)
        .map(|number| format!("{{\"n\":{number},\"tag\":\"{}\"}}\n", tag(number)))
        .collect();
    broker.succeed(&["produce", "numbers", "--jsonl", "-", "--tag-column", "tag"], &rows);
    let (module, poison) = (module(&broker, POISONED), id(&broker, "numbers", 3));
    let fates = [
        ("hold", "held", "1499"),
        ("skip", "skipped", "1499"),
        ("dead-letter", "dead_lettered", "1499"),
        ("deliver", "settled", "1500"),
    ];
    for (fate, step, count) in fates {
        broker.run(&["plugin", "load", &module, "--name", fate, "--on-failure", fate]);
        let filter = ["--filter", fate, "--expression", "", "--count", count];
        broker.run(&[&["consume", "numbers", "--group", fate][..], &filter].concat());
        let mut told = explain_id(&broker, &poison, fate);
        // It is set aside until enough was judged with it.
        while told["step"] != step {
            assert_eq!(told["step"], "set_aside", "{fate}: {told}");
            fails(&told);
            told = explain_id(&broker, &poison, fate);
        }
        fails(&told);
        assert_eq!(told["filter"]["columns"], json!({ "tag": "bad!" }));
        if fate == "dead-letter" {
            assert!(told["dead_letter"]["plugin"].is_string(), "{told}");
        }
    }
}
