//! Delayed messages: released to the moment, recalled by handle, and kept over a kill.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sluice_client::{ErrorCode, NewMessage, ProducerConfig, RecallHandle, StreamConfig};
use sluice_end_to_end::Broker;

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_millis() as i64
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_messages_come_in_the_order_of_their_times_and_none_before() {
    let broker = Broker::start();
    let client = broker.client().await;
    client.create_topic("reminders", None).await.unwrap();
    let producer = client.producer("reminders", ProducerConfig::default());
    let mut stream = client.stream(StreamConfig::new("reminders", "g")).await.unwrap();
    let begun_ms = wall_ms();
    let late = producer
        .send(NewMessage::new("late").deliver_after(Duration::from_millis(900)))
        .await
        .unwrap();
    let early = producer.send(NewMessage::new("early").deliver_at_ms(begun_ms + 300)).await.unwrap();
    let past = producer.send(NewMessage::new("past").deliver_at_ms(begun_ms - 5)).await.unwrap();
    assert_eq!((past.delayed, past.offset), (None, 0), "it is stored at once");
    let due_ms = early.delayed.unwrap().deliver_at_ms;
    assert_eq!(due_ms, begun_ms + 300);
    let late_due_ms = late.delayed.unwrap().deliver_at_ms;
    assert!(late_due_ms >= begun_ms + 900);
    for (body, due_ms) in [("past", begun_ms - 5), ("early", due_ms), ("late", late_due_ms)] {
        let message = stream.next().await.unwrap().unwrap();
        assert_eq!(message.body(), body);
        assert_eq!(message.deliver_at_ms(), Some(due_ms));
        assert!(wall_ms() >= due_ms, "{body} came early");
        stream.ack(&message).await.unwrap();
    }
    stream.close().await;
    client.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_survives_a_kill_and_what_was_recalled_never_comes() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("reminders", ProducerConfig::default());
    let due_ms = wall_ms() + 2_000;
    let mut receipts = Vec::new();
    for number in 0..20_u8 {
        let message = NewMessage::new(vec![number]).deliver_at_ms(due_ms + i64::from(number));
        receipts.push(producer.send(message).await.unwrap());
    }
    let recall = |place: usize| receipts[place].delayed.clone().unwrap().recall;
    client.recall(&recall(7)).await.unwrap();
    broker.kill();
    broker.serve();
    client.close().await;
    let client = broker.client().await;
    client.recall(&recall(9)).await.unwrap();
    let refused = client.recall(&recall(7)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotWaiting));
    let mut stream = client.stream(StreamConfig::new("reminders", "g")).await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 18 {
        let message = stream.next().await.unwrap().unwrap();
        assert!(wall_ms() >= message.deliver_at_ms().unwrap(), "it came early");
        seen.push(message.body()[0]);
        stream.ack(&message).await.unwrap();
    }
    seen.sort_unstable();
    let expected: Vec<u8> = (0..20).filter(|number| ![7, 9].contains(number)).collect();
    assert_eq!(seen, expected);
    let refused = client.recall(&recall(3)).await.unwrap_err();
    assert_eq!(refused.code(), Some(ErrorCode::NotWaiting));
    stream.close().await;
    client.close().await;
}

#[test]
fn the_command_line_delays_and_recalls() {
    let broker = Broker::start();
    let told = broker.succeed(
        &["produce", "reminders", "--jsonl", "-", "--json", "--deliver-after", "1h"],
        "{\"n\":1}\n{\"n\":2}\n",
    );
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let handles: Vec<&str> = told.iter().filter_map(|line| line["recall"].as_str()).collect();
    assert_eq!(handles.len(), 2, "{told:?}");
    let waiting = || {
        let topic: Value = serde_json::from_str(&broker.run(&["topic", "describe", "reminders", "--json"])).unwrap();
        topic["delayed"].as_u64()
    };
    assert_eq!(waiting(), Some(2));
    broker.run(&["message", "recall", handles[0]]);
    assert_eq!(waiting(), Some(1));
    let (_, said) = broker.fail(&["message", "recall", handles[0]]);
    assert!(said.contains("NotWaiting"), "{said}");
    let forged: RecallHandle = handles[1].parse().unwrap();
    let mut forged = forged.0.to_vec();
    forged[9] ^= 1;
    let (_, said) = broker.fail(&["message", "recall", &RecallHandle(forged.into()).to_string()]);
    assert!(said.contains("BadRecallHandle"), "{said}");
    let (_, said) = broker.fail(&["message", "recall", "xyz"]);
    assert!(said.contains("hexadecimal"), "{said}");
    assert_eq!(broker.consume("reminders", "g", &[]), Vec::<u64>::new());
    let refused = broker.run_with(&["produce", "reminders", "--jsonl", "-", "--deliver-after", "4000d"], "{\"n\":1}\n");
    let said = sluice_end_to_end::text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("DelayTooLong"), "{said}");
}
