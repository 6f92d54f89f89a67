//! Prints what a group is pushed and acknowledges it, until interrupted: `stream [TOPIC [SQL]]`, at the broker whose ready file
//! SLUICE_READY_FILE names.

use sluice_client::{Client, Endpoint, Filter, StreamConfig};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let topic = arguments.next().unwrap_or_else(|| "greetings".to_owned());
    let filter = arguments.next().map_or(Filter::All, Filter::Sql);
    let ready_file = std::env::var("SLUICE_READY_FILE").unwrap_or_else(|_| "sluice-data/ready.json".to_owned());
    let client = Client::connect(Endpoint::ready_file(ready_file)).await?;

    let mut events = client.events();
    tokio::spawn(async move {
        while let Ok(event) = events.recv().await {
            eprintln!("{event:?}");
        }
    });
    let mut stream = client.stream(StreamConfig::new(topic, "stream-example").filter(filter)).await?;
    loop {
        tokio::select! {
            message = stream.next() => {
                let Some(message) = message? else { break };
                println!("{}/{}: {}", message.queue(), message.offset(), String::from_utf8_lossy(&message.body()));
                stream.ack(&message).await?;
            }
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    stream.close().await;
    client.close().await;
    Ok(())
}
