//! What operators see over HTTP: that the broker is ready, and how far each group is behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::Duration;

use sluice_client::{ConsumerConfig, NewMessage, ProducerConfig};
use sluice_server::config::MetricsListen;
use sluice_server::{Server, StartError};
use support::http::{asked, page, value};
use support::raw::Raw;
use support::{STOP_BOUND, config, connect, start};
use tokio::time::timeout;

mod support;

const WAIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_serves_is_live_and_ready_and_one_that_drains_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    assert_eq!(page(&running, "/live").await, (200, "live\n".to_owned()));
    assert_eq!(page(&running, "/ready").await, (200, "ready\n".to_owned()));
    assert_eq!(page(&running, "/").await.0, 404);
    let address = running.ready().metrics.unwrap();
    // A client that ignores the shutdown keeps the broker draining.
    let raw = Raw::welcomed(&running).await;
    let unfinished = raw.open(&[255, 0, 0, 0, 66, 0, 0, 0, 1]).await;
    let client = connect(&running).await;
    let producer = client.producer("t", ProducerConfig::default());
    producer.send(NewMessage::new("m")).await.unwrap();
    let stopping = tokio::spawn(running.stop(STOP_BOUND));
    let drained = timeout(WAIT, async {
        loop {
            let (status, said) = asked(&address, "/ready").await;
            if status == 503 {
                return said;
            }
        }
    });
    assert_eq!(drained.await.unwrap(), "draining: the broker is stopping\n");
    drop((unfinished, raw, producer, client));
    stopping.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_shows_what_was_stored_and_how_far_a_group_is_behind() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    let producer = client.producer("orders", ProducerConfig::default());
    for number in 0..5 {
        producer.send(NewMessage::new(format!("{number}"))).await.unwrap();
    }
    let consumer = client.consumer(ConsumerConfig::new("orders", "billing"));
    let messages = consumer.receive(2, WAIT).await.unwrap();
    assert!(consumer.ack(&messages[..1]).await.unwrap().iter().all(Result::is_ok));
    assert!(client.topic("nothing").await.is_err());
    let (status, text) = page(&running, "/metrics").await;
    assert_eq!(status, 200);
    let got = messages.len() as f64;
    for (series, expected) in [
        ("sluice_messages_stored_total", 5.0),
        ("sluice_topic_messages{topic=\"orders\"}", 5.0),
        ("sluice_topic_messages_appended_total{topic=\"orders\"}", 5.0),
        (
            "sluice_group_lag_messages{group=\"billing\",topic=\"orders\",part=\"matched\"}",
            5.0 - got,
        ),
        (
            "sluice_group_lag_messages{group=\"billing\",topic=\"orders\",part=\"leased\"}",
            got - 1.0,
        ),
        ("sluice_lag_messages{part=\"retrying\"}", 0.0),
        ("sluice_refusals_total{code=\"NoSuchTopic\"}", 1.0),
        ("sluice_connections", 1.0),
        ("sluice_ready", 1.0),
        ("sluice_core_answered", 1.0),
        ("sluice_metrics_groups_left_out", 0.0),
    ] {
        assert_eq!(value(&text, series), expected, "{series}");
    }
    assert!(value(&text, "sluice_log_sync_seconds_count") >= 5.0);
    assert!(value(&text, "sluice_log_disk_bytes") > 0.0 && value(&text, "process_resident_memory_bytes") > 0.0);
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_visitor_that_asks_nothing_keeps_no_other_waiting() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let address = running.ready().metrics.unwrap();
    let mut silent = Vec::new();
    for _ in 0..31 {
        silent.push(tokio::net::TcpStream::connect(&address).await.unwrap());
    }
    assert_eq!(page(&running, "/live").await.0, 200);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_in_use_is_named_with_its_setting() {
    let directory = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut same = config(directory.path());
    same.metrics_listen = MetricsListen::At(taken.local_addr().unwrap());
    let Err(StartError::Listen(refused)) = Server::start(same).await else {
        panic!("it must not start")
    };
    let said = refused.to_string();
    assert!(
        said.contains("metrics_listen = 127.0.0.1:") && said.contains("set another metrics_listen"),
        "{said}"
    );
    let mut off = config(directory.path());
    off.metrics_listen = MetricsListen::Off;
    let running = Server::start(off).await.unwrap();
    assert_eq!(running.ready().metrics, None);
    running.stop(STOP_BOUND).await.unwrap();
}
