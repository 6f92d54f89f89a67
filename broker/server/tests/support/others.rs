//! What must not change for others while a client does not do its part: they are served, and the broker's memory stays what it was.

#![allow(dead_code, reason = "each test file takes what it needs")]

use std::time::Duration;

use sluice_client::{Client, ConsumerConfig, NewMessage, ProducerConfig};
use sluice_server::ProcessUsage;

/// Publishes and consumes as if nothing else went on.
pub(crate) async fn goes_on(client: &Client, group: &str) {
    let producer = client.producer("good", ProducerConfig::default());
    for number in 0..20 {
        producer.send(NewMessage::new(format!("{number}"))).await.unwrap();
    }
    producer.close().await.unwrap();
    let consumer = client.consumer(ConsumerConfig::new("good", group));
    let mut got = 0;
    while got < 20 {
        let messages = consumer.receive(32, Duration::from_secs(10)).await.unwrap();
        assert!(consumer.ack(&messages).await.unwrap().iter().all(Result::is_ok));
        got += messages.len();
    }
}

/// The memory that this process has resident; `None` where the system does not tell.
pub(crate) fn resident_mib() -> Option<u64> {
    Some(ProcessUsage::read()?.resident_bytes >> 20)
}

/// Demands that memory has not grown by more since, and prints by how much it has: `cargo test` runs other brokers in this process at the
/// same time, `--test-threads=1` one after the other.
pub(crate) fn grown_by_at_most(before: Option<u64>, mib: u64) {
    if let (Some(before), Some(now)) = (before, resident_mib()) {
        println!("resident memory: {before} MiB before, {now} MiB now, at most {mib} more are allowed");
        assert!(now <= before + mib, "{before} MiB before, {now} MiB now");
    }
}
