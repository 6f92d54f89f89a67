//! What a message gets that breaks a rule, and a request that asks for too much: a refusal of its own, while others go on. Each is quoted.

use sluice_client::{Client, ConsumerConfig, NewMessage, ProducerConfig, SendError};
use sluice_end_to_end::{Broker, quoted, text};

/// Sends a message between two good ones in one batch: they must be stored, and it must be refused; why.
async fn refused(client: &Client, message: NewMessage) -> String {
    let config = ProducerConfig {
        // They are to share a batch; the last one fills it.
        linger_ms: 10_000,
        batch_messages: 3,
        batch_bytes: 7 << 20,
        ..ProducerConfig::default()
    };
    let producer = client.producer("t", config);
    let open = "the client is not closed";
    let before = producer.enqueue(NewMessage::new("before")).await.expect(open);
    let between = producer.enqueue(message).await.expect(open);
    let after = producer.enqueue(NewMessage::new("after")).await.expect(open);
    before.await.expect("it keeps the rules");
    after.await.expect("it keeps the rules");
    match between.await.expect_err("it breaks a rule") {
        SendError::Refused(refusal) => refusal.to_string(),
        other => panic!("{other}"),
    }
}

fn message() -> NewMessage {
    NewMessage::new("body")
}

fn with_properties(count: usize, value: &str) -> NewMessage {
    (0..count).fold(message(), |message, number| message.property(format!("p{number}"), value))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_breaks_a_rule_is_refused_alone() {
    let broker = Broker::start();
    let client = broker.client().await;
    let mut bad = 0;
    for message in [
        message().tag("t".repeat(129)),
        message().tag(""),
        message().tag("red||green"),
        message().tag("a\nb"),
        (0..17).fold(message(), |message, number| message.key(format!("key {number}"))),
        message().key("k".repeat(129)),
        message().key(""),
        with_properties(129, "v"),
        message().property("n".repeat(129), "v"),
        message().property("", "v"),
        message().property("twice", "1").property("twice", "2"),
        with_properties(2, &"v".repeat(40_000)),
        NewMessage::new(vec![0; (4 << 20) + 1]),
    ] {
        quoted(&refused(&client, message).await);
        bad += 1;
    }
    for good in [
        message().tag("t".repeat(128)),
        (0..16).fold(message(), |message, number| message.key(format!("{number:0128}"))),
        with_properties(128, "v"),
        message().property("n".repeat(128), ""),
        message().property("large", "v".repeat(65_000)),
        NewMessage::new(vec![0; 4 << 20]),
        NewMessage::default(),
    ] {
        let producer = client.producer("t", ProducerConfig::default());
        producer.send(good).await.unwrap();
    }
    let stored: u64 = client
        .topic("t")
        .await
        .unwrap()
        .queues
        .iter()
        .map(|queue| queue.end - queue.start)
        .sum();
    assert_eq!(stored, 2 * bad + 7, "what keeps the rules is stored, at its bounds too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receive_that_asks_for_too_much_is_refused() {
    let broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("t", ProducerConfig::default());
    producer.send(message()).await.unwrap();
    let wait = std::time::Duration::from_secs;
    let consumer = client.consumer(ConsumerConfig::new("t", "g"));
    quoted(&consumer.receive(33, wait(0)).await.unwrap_err().to_string());
    quoted(&consumer.receive(1, wait(21)).await.unwrap_err().to_string());
    let long = ConsumerConfig {
        invisible: Some(wait(13 * 3_600)),
        ..ConsumerConfig::new("t", "g")
    };
    quoted(&client.consumer(long).receive(1, wait(0)).await.unwrap_err().to_string());
    assert_eq!(consumer.receive(1, wait(1)).await.unwrap().len(), 1, "the same consumer goes on");
}

#[test]
fn a_row_that_breaks_a_rule_is_named_by_its_line_and_the_others_are_stored() {
    let broker = Broker::start();
    let rows = format!(
        "{{\"n\":1,\"tag\":\"a\"}}\n{{\"n\":2,\"tag\":\"{}\"}}\n{{\"n\":3,\"tag\":\"c\"}}\n",
        "t".repeat(129)
    );
    let output = broker.run_with(&["produce", "t", "--jsonl", "-", "--tag-column", "tag", "--json"], &rows);
    assert_eq!(output.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["stored"], &told["failed"]), (&2.into(), &1.into()));
    let said = text(&output.stderr);
    assert!(said.contains("line 2"), "{said}");
    assert_eq!(broker.consume("t", "g", &[]), [1, 3]);
}

/// Runs a command that must be refused with 1; what it said.
fn command(broker: &Broker, arguments: &[&str]) -> String {
    let (exit, said) = broker.fail(arguments);
    assert_eq!(exit, 1, "{said}");
    said
}

#[test]
fn a_command_that_cannot_be_carried_out_says_what_to_change() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 3);
    broker.run(&["group", "create", "g"]);
    let module = broker.file("plugin.wasm", "nonsense");
    let long = "n".repeat(128);
    for arguments in [
        &["topic", "create", &long][..],
        &["topic", "create", "a/b"],
        &["topic", "create", "%DLQ%mine"],
        &["topic", "create", "numbers"],
        &["topic", "create", "wide", "--queues", "1025"],
        &["topic", "describe", "nothing"],
        &["topic", "delete", "nothing"],
        &["group", "create", "g"],
        &["group", "describe", "nothing"],
        &["consume", "numbers", "--group", "g", "--until-empty", "--sql", "n >"],
        &[
            "consume",
            "numbers",
            "--group",
            "g",
            "--until-empty",
            "--filter",
            "nothing",
            "--expression",
            "x",
        ],
        &["plugin", "load", module.to_str().unwrap(), "--name", "mine"],
        &["plugin", "describe", "nothing"],
        &["message", "get", "0000"],
        &["message", "get", "00000000000000000000000000000000"],
    ] {
        let answer = command(&broker, arguments);
        let shown: Vec<&str> = arguments
            .iter()
            .map(|argument| match *argument {
                argument if argument == long => "nnn…",
                argument if argument == module.to_str().unwrap() => "plugin.wasm",
                argument => argument,
            })
            .collect();
        quoted(&format!("$ sluice {}\n{answer}", shown.join(" ")));
    }
    assert_eq!(broker.consume("numbers", "g", &[]), [0, 1, 2], "the broker goes on");
}
