//! What a broker keeps across a kill and a stop, and what its clients notice.

use sluice_client::{NewMessage, ProducerConfig, StreamConfig};
use sluice_end_to_end::Broker;

#[test]
fn what_is_confirmed_survives_a_kill() {
    let mut broker = Broker::start();
    broker.produce("numbers", 0, 500);
    broker.kill();
    broker.serve();
    broker.produce("numbers", 500, 600);
    assert_eq!(broker.consume("numbers", "g", &[]), (0..600).collect::<Vec<_>>());
}

#[test]
fn what_is_acknowledged_is_not_delivered_again_after_a_kill() {
    let mut broker = Broker::start();
    broker.produce("numbers", 0, 400);
    let first = broker.run(&["consume", "numbers", "--group", "g", "--count", "150", "--json"]);
    let first = sluice_end_to_end::numbers(&first);
    assert_eq!(first.len(), 150);
    broker.kill();
    broker.serve();
    let rest = broker.consume("numbers", "g", &[]);
    let mut all = [first.clone(), rest.clone()].concat();
    all.sort_unstable();
    assert_eq!(
        all,
        (0..400).collect::<Vec<_>>(),
        "each once: {} before the kill, {} after",
        first.len(),
        rest.len()
    );
}

#[test]
fn a_stop_in_good_order_keeps_everything() {
    let mut broker = Broker::start();
    broker.produce("numbers", 0, 100);
    assert!(broker.terminate(), "{}", broker.log());
    broker.serve();
    assert_eq!(broker.consume("numbers", "g", &[]), (0..100).collect::<Vec<_>>());
}

#[test]
fn a_seek_delivers_again() {
    let broker = Broker::start();
    broker.produce("numbers", 0, 50);
    assert_eq!(broker.consume("numbers", "g", &[]).len(), 50);
    assert_eq!(broker.consume("numbers", "g", &[]).len(), 0);
    broker.run(&["group", "seek", "g", "--topic", "numbers", "--earliest"]);
    assert_eq!(broker.consume("numbers", "g", &[]).len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_and_a_stream_live_through_a_kill() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("numbers", ProducerConfig::default());
    let mut confirmations = Vec::new();
    for number in 0..2_000_u32 {
        confirmations.push(producer.enqueue(NewMessage::new(number.to_le_bytes().to_vec())).await.unwrap());
        if number == 1_000 {
            broker.kill();
            broker.serve();
        }
    }
    let mut ids = std::collections::HashSet::new();
    for confirmation in confirmations {
        assert!(ids.insert(confirmation.await.unwrap().id));
    }
    let mut stream = client.stream(StreamConfig::new("numbers", "g")).await.unwrap();
    let mut seen = std::collections::HashMap::new();
    while seen.len() < 2_000 {
        let message = stream.next().await.unwrap().expect("the stream goes on");
        assert!(ids.contains(&message.id()));
        *seen.entry(message.id()).or_insert(0) += 1;
        stream.ack(&message).await.unwrap();
    }
    assert!(seen.values().all(|times| *times == 1), "a message was stored twice");
    stream.close().await;
    client.close().await;
}
