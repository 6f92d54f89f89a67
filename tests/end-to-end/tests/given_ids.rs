//! Messages with ids of their own, on the real broker: sent again they are stored once, whoever sends them, over kills and restarts of clients.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::Duration;

use sluice_client::{NewMessage, ProducerConfig};
use sluice_end_to_end::Broker;

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_another_client_sends_again_after_a_kill_is_stored_once() {
    let mut broker = Broker::start();
    let client = broker.client().await;
    let producer = client.producer("orders", ProducerConfig::default());
    let order = || NewMessage::new("order 1").given_id_within("shop", "order-1");
    let first = producer.send(order()).await.unwrap();
    let other_scope = producer
        .send(NewMessage::new("order 1").given_id_within("till", "order-1"))
        .await
        .unwrap();
    let own = producer.send(NewMessage::new("order 1").given_id("order-1")).await.unwrap();
    assert!([&first, &other_scope, &own].iter().all(|receipt| !receipt.duplicate));
    let delayed = || {
        NewMessage::new("timeout 1")
            .given_id_within("shop", "timeout-1")
            .deliver_after(Duration::from_secs(3_600))
    };
    let waits = producer.send(delayed()).await.unwrap();
    broker.kill();
    broker.serve();
    client.close().await;

    let restarted = broker.client().await;
    let producer = restarted.producer("orders", ProducerConfig::default());
    let again = producer.send(order()).await.unwrap();
    assert!(again.duplicate);
    assert_eq!((again.queue, again.offset), (first.queue, first.offset));
    let waits_again = producer.send(delayed()).await.unwrap();
    assert!(waits_again.duplicate);
    assert_eq!(
        waits_again.delayed, waits.delayed,
        "the first time counts, and one handle recalls it"
    );
    // The id is this client's own, and this one is another.
    let own = producer.send(NewMessage::new("order 1").given_id("order-1")).await.unwrap();
    assert!(!own.duplicate);
    let long = producer.send(NewMessage::new("").given_id("x".repeat(129))).await.unwrap_err();
    assert!(long.to_string().contains("given id has 1 to 128 bytes"), "{long}");
    restarted.close().await;
}

#[test]
fn by_the_command_a_file_that_is_published_again_is_stored_once_and_found_by_its_ids() {
    let broker = Broker::start();
    let rows = "{\"id\":\"a\",\"n\":1}\n{\"id\":\"b\",\"n\":2}\n{\"id\":\"a\",\"n\":3}\n{\"id\":\"\",\"n\":4}\n";
    let publish = |rows: &str| broker.succeed(&["produce", "orders", "--jsonl", "-", "--id-column", "id", "--json"], rows);
    publish(rows);
    publish(rows);
    let stored = |id: &str| broker.run(&["message", "search", "orders", "--key", id, "--json"]).lines().count();
    assert_eq!([stored("a"), stored("b"), stored("c")], [1, 1, 0]);
    let got = broker.consume("orders", "g", &[]);
    assert_eq!(got, [1, 2, 4, 4], "what has no id is stored each time");
}
