//! Storing what a case reads, by the ordinary publish path.

use anyhow::{Context, Result};
use sluice_client::{Client, NewMessage, ProducerConfig};

use crate::child::Broker;

/// Publishes `messages`, the one with the number `n` as `make(n)`. Each batch is confirmed before the next is sent, so that batches are stored
/// as they are sent.
///
/// # Errors
/// A message was not stored.
pub(super) async fn publish(
    broker: &Broker,
    topic: &str,
    messages: u64,
    batch: u32,
    mut make: impl FnMut(u64) -> NewMessage,
) -> Result<()> {
    let client = Client::connect(broker.endpoint().client_name("bench-store")).await?;
    let config = ProducerConfig {
        batch_messages: batch,
        // So many that the messages alone decide when a batch is full.
        batch_bytes: sluice_protocol::limits::FRAME_BYTES_MAX,
        linger_ms: 1000,
        ..ProducerConfig::default()
    };
    let producer = client.producer(topic, config);
    let mut next = 0;
    while next < messages {
        let mut confirmations = Vec::new();
        for number in next..messages.min(next + u64::from(batch)) {
            confirmations.push(producer.enqueue(make(number)).await?);
        }
        next += confirmations.len() as u64;
        for confirmation in confirmations {
            confirmation.await.context("a message was not stored")?;
        }
    }
    producer.close().await?;
    client.close().await;
    Ok(())
}
