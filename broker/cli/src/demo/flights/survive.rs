//! The demonstration's crash: half is consumed, the broker is killed and started again, and the rest arrives, all of it and once.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sluice_client::{Client, StreamConfig};
use sluice_protocol::ids::MessageId;

use super::data::{Flight, Question};
use super::groups;
use crate::child::Broker;

/// The group that lives through it.
const GROUP: &str = "survivor";

/// How long the rest may be silent before the group's lag is asked for.
const SILENCE: Duration = Duration::from_millis(50);

/// Reads half of what a question asks for, kills the broker, starts it again on the same files and reads the rest.
///
/// # Errors
/// Something is lost, or something that was acknowledged came back.
pub(super) async fn half_kill_rest(
    client: Client,
    broker: Broker,
    folder: &Path,
    flights: &[Flight],
    ids: &[MessageId],
    question: &Question,
) -> Result<Broker> {
    let wanted: BTreeSet<MessageId> = groups::scan(flights, ids, question).into_iter().collect();
    let before = read_half(&client, question, wanted.len() / 2).await?;
    println!(
        "   {} of {} read and acknowledged by group {GROUP}; kill -9 {}",
        before.len(),
        wanted.len(),
        broker.pid()
    );
    broker.kill()?;
    let begun = Instant::now();
    let broker = Broker::start(folder, &[]).await?;
    println!("   serving again after {} ms, replay included", begun.elapsed().as_millis());
    client.close().await;
    let client = Client::connect(broker.endpoint().client_name("demo")).await?;
    let after = read_rest(&client, question).await?;
    let lost = wanted.iter().filter(|id| !before.contains(id) && !after.contains(id)).count();
    let again = after.intersection(&before).count();
    let unwanted = after.difference(&wanted).count();
    println!(
        "   {} more arrived; lost {lost}, acknowledged and delivered again {again}",
        after.len()
    );
    ensure!(lost == 0, "{lost} messages were lost across the kill");
    ensure!(again == 0, "{again} acknowledged messages were delivered again");
    ensure!(unwanted == 0, "{unwanted} messages arrived that the filter does not want");
    client.close().await;
    Ok(broker)
}

fn subscription(question: &Question) -> StreamConfig {
    StreamConfig {
        group: GROUP.to_owned(),
        ..groups::subscription(question)
    }
}

/// Reads and acknowledges `half` messages, then stops with more on their way.
async fn read_half(client: &Client, question: &Question, half: usize) -> Result<BTreeSet<MessageId>> {
    let mut stream = client
        .stream(subscription(question))
        .await
        .context("the group could not subscribe")?;
    let mut read = BTreeSet::new();
    while read.len() < half {
        let Some(message) = stream.next().await.context("the stream was lost")? else {
            bail!("the stream ended before half was read")
        };
        stream.ack(&message).await.context("an acknowledgement was refused")?;
        read.insert(message.id());
    }
    Ok(read)
}

/// Reads until the group has nothing left.
async fn read_rest(client: &Client, question: &Question) -> Result<BTreeSet<MessageId>> {
    let mut stream = client
        .stream(subscription(question))
        .await
        .context("the group could not subscribe again")?;
    let mut read = BTreeSet::new();
    loop {
        match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(message) => {
                let Some(message) = message.context("the stream was lost")? else {
                    bail!("the stream ended before all was read")
                };
                stream.ack(&message).await.context("an acknowledgement was refused")?;
                read.insert(message.id());
            }
            Err(_silence) => {
                if client.group(GROUP).await?.lag == 0 {
                    break;
                }
            }
        }
    }
    stream.close().await;
    Ok(read)
}
