//! Receives until nothing has come for a second: `receive [TOPIC]`, at the broker whose ready file SLUICE_READY_FILE names.

use std::time::Duration;

use sluice_client::{Client, ConsumerConfig, Endpoint};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let topic = std::env::args().nth(1).unwrap_or_else(|| "greetings".to_owned());
    let ready_file = std::env::var("SLUICE_READY_FILE").unwrap_or_else(|_| "sluice-data/ready.json".to_owned());
    let client = Client::connect(Endpoint::ready_file(ready_file)).await?;

    let consumer = client.consumer(ConsumerConfig::new(topic, "receive-example"));
    loop {
        let messages = consumer.receive(32, Duration::from_secs(1)).await?;
        if messages.is_empty() {
            break;
        }
        for message in &messages {
            println!("attempt {}: {}", message.attempt(), String::from_utf8_lossy(&message.body()));
        }
        for result in consumer.ack(&messages).await? {
            result?;
        }
    }
    client.close().await;
    Ok(())
}
