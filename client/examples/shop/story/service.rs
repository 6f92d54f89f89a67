//! A service of the shop: a consumer group of its own, which is pushed its messages and acknowledges them.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use sluice_client::{Client, MessageStream, StreamConfig, StreamMessage};

/// How long the story waits for what must come; only a broken broker comes near it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a group is asked whether it has anything left.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// A service that runs.
pub(crate) struct Service {
    group: String,
    client: Client,
    stream: MessageStream,
}

impl Service {
    /// Subscribes.
    ///
    /// # Errors
    /// The broker refuses the subscription.
    pub(crate) async fn start(client: &Client, config: StreamConfig) -> Result<Self> {
        let group = config.group.clone();
        let stream = client
            .stream(config)
            .await
            .with_context(|| format!("{group} could not subscribe"))?;
        Ok(Self {
            group,
            client: client.clone(),
            stream,
        })
    }

    /// Waits for the next message and acknowledges it.
    ///
    /// # Errors
    /// None came, or its acknowledgement was refused.
    pub(crate) async fn take(&mut self) -> Result<StreamMessage> {
        let message = self.next().await?;
        self.acknowledge(&message).await?;
        Ok(message)
    }

    /// Waits for the next message.
    ///
    /// # Errors
    /// None came.
    pub(crate) async fn next(&mut self) -> Result<StreamMessage> {
        let group = &self.group;
        let Ok(next) = tokio::time::timeout(PATIENCE, self.stream.next()).await else {
            bail!("{group} waited {} s for a message that was expected", PATIENCE.as_secs());
        };
        let next = next.with_context(|| format!("{group} lost its stream"))?;
        next.with_context(|| format!("the stream of {group} ended"))
    }

    /// Acknowledges a message: it is done with.
    ///
    /// # Errors
    /// It was refused.
    pub(crate) async fn acknowledge(&self, message: &StreamMessage) -> Result<()> {
        let acknowledged = self.stream.ack(message).await;
        acknowledged.with_context(|| format!("an acknowledgement of {} was refused", self.group))
    }

    /// Waits for messages that are here together and acknowledges them at once.
    ///
    /// # Errors
    /// None came, or their acknowledgement was refused.
    pub(crate) async fn take_run(&mut self) -> Result<Vec<StreamMessage>> {
        let group = &self.group;
        let Ok(run) = tokio::time::timeout(PATIENCE, self.stream.next_run(256)).await else {
            bail!("{group} waited {} s for messages that were expected", PATIENCE.as_secs());
        };
        let run = run.with_context(|| format!("{group} lost its stream"))?;
        let last = run.last().with_context(|| format!("the stream of {group} ended"))?;
        let acknowledged = self.stream.ack_up_to(last).await;
        acknowledged.with_context(|| format!("an acknowledgement of {group} was refused"))?;
        Ok(run)
    }

    /// Waits until the group has settled or passed over all that its topic holds, then stops.
    ///
    /// # Errors
    /// Something is left that nobody expects.
    pub(crate) async fn stop_when_nothing_is_left(self) -> Result<()> {
        let emptied = tokio::time::timeout(PATIENCE, nothing_is_left(&self.client, &self.group)).await;
        let Ok(emptied) = emptied else {
            bail!("{} has messages left that nobody expects", self.group);
        };
        emptied?;
        self.stream.close().await;
        Ok(())
    }
}

/// Waits until a group has nothing left.
async fn nothing_is_left(client: &Client, group: &str) -> Result<()> {
    while client.group(group).await?.lag > 0 {
        tokio::time::sleep(ASK_EVERY).await;
    }
    Ok(())
}
