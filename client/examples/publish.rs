//! Sends a few messages: `publish [TOPIC]`, to the broker whose ready file SLUICE_READY_FILE names.

use sluice_client::{Client, Endpoint, NewMessage, ProducerConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let topic = std::env::args().nth(1).unwrap_or_else(|| "greetings".to_owned());
    let ready_file = std::env::var("SLUICE_READY_FILE").unwrap_or_else(|_| "sluice-data/ready.json".to_owned());
    let client = Client::connect(Endpoint::ready_file(ready_file)).await?;
    let producer = client.producer(&topic, ProducerConfig::default());

    // Many under way at once, then their confirmations in order.
    let mut confirmations = Vec::new();
    for number in 0..100 {
        let message = NewMessage::new(format!("hello {number}"))
            .tag("hello")
            .property("number", number.to_string());
        confirmations.push(producer.enqueue(message).await?);
    }
    for confirmation in confirmations {
        let receipt = confirmation.await?;
        println!("{} is number {} of queue {}", receipt.id, receipt.offset, receipt.queue);
    }
    producer.close().await?;
    client.close().await;
    Ok(())
}
