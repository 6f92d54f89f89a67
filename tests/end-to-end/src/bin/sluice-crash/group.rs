//! A consumer group that remembers across kills what it was given and what it was promised.

use std::collections::HashSet;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail};
use sluice_client::{Client, Consumer, ConsumerConfig, MessageStream, StreamConfig};
use sluice_protocol::ids::MessageId;

use crate::content::Ledger;

/// How long nothing may come before the group's lag is asked for.
const SILENCE: Duration = Duration::from_millis(200);

/// Short, so that what a kill leaves leased to a receive comes again within the check.
const INVISIBLE: Duration = Duration::from_secs(2);

/// How it takes its messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Stream,
    Receive,
}

/// How a stream's messages are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acks {
    /// One by one, each confirmed before the next.
    Single,
    /// By runs: the last of a run settles all before it.
    Cumulative,
}

/// The group.
pub(crate) struct Group {
    name: &'static str,
    way: Way,
    seen: HashSet<MessageId>,
    acked: HashSet<MessageId>,
}

/// Where its messages come from at present.
enum Source {
    Stream(MessageStream),
    Receive(Consumer),
}

impl Group {
    pub(crate) fn new(name: &'static str, way: Way) -> Self {
        Self {
            name,
            way,
            seen: HashSet::new(),
            acked: HashSet::new(),
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// How many messages were delivered.
    pub(crate) fn seen(&self) -> usize {
        self.seen.len()
    }

    /// How many acknowledgements were confirmed.
    pub(crate) fn acked(&self) -> usize {
        self.acked.len()
    }

    /// Whether the message was ever delivered.
    pub(crate) fn has_seen(&self, id: &MessageId) -> bool {
        self.seen.contains(id)
    }

    /// Takes and acknowledges until the broker is gone.
    ///
    /// # Errors
    /// The broker is gone.
    pub(crate) async fn consume(&mut self, client: &Client, topic: &str, acks: Acks, ledger: &Mutex<Ledger>) -> Result<()> {
        let mut source = self.open(client, topic).await?;
        loop {
            self.take(&mut source, acks, ledger).await?;
        }
    }

    /// Takes and acknowledges until nothing is left.
    ///
    /// # Errors
    /// The broker refused something.
    pub(crate) async fn drain(&mut self, client: &Client, topic: &str, ledger: &Mutex<Ledger>) -> Result<()> {
        let mut source = self.open(client, topic).await?;
        loop {
            let taken = match tokio::time::timeout(SILENCE, self.take(&mut source, Acks::Cumulative, ledger)).await {
                Ok(taken) => taken?,
                Err(_silence) => 0,
            };
            if taken == 0 && self.lag(client).await? == 0 {
                return Ok(());
            }
        }
    }

    /// How many messages the broker still has for the group.
    ///
    /// # Errors
    /// The broker refused to say.
    pub(crate) async fn lag(&self, client: &Client) -> Result<u64> {
        Ok(client.group(self.name).await?.lag)
    }

    async fn open(&self, client: &Client, topic: &str) -> Result<Source> {
        Ok(match self.way {
            Way::Stream => Source::Stream(client.stream(StreamConfig::new(topic, self.name)).await?),
            Way::Receive => {
                let config = ConsumerConfig {
                    invisible: Some(INVISIBLE),
                    ..ConsumerConfig::new(topic, self.name)
                };
                Source::Receive(client.consumer(config))
            }
        })
    }

    /// How many came and were acknowledged.
    async fn take(&mut self, source: &mut Source, acks: Acks, ledger: &Mutex<Ledger>) -> Result<usize> {
        match source {
            Source::Stream(stream) => {
                let run = stream.next_run(if acks == Acks::Single { 1 } else { 256 }).await?;
                let Some(last) = run.last() else { bail!("the stream ended") };
                for message in &run {
                    self.saw(message.id(), &message.body(), ledger);
                }
                stream.ack_up_to(last).await?;
                self.acked.extend(run.iter().map(|message| message.id()));
                Ok(run.len())
            }
            Source::Receive(consumer) => {
                let messages = consumer.receive(32, Duration::from_secs(1)).await?;
                for message in &messages {
                    self.saw(message.id(), &message.body(), ledger);
                }
                for (message, outcome) in messages.iter().zip(consumer.ack(&messages).await?) {
                    if outcome.is_ok() {
                        self.acked.insert(message.id());
                    }
                }
                Ok(messages.len())
            }
        }
    }

    fn saw(&mut self, id: MessageId, body: &[u8], ledger: &Mutex<Ledger>) {
        let mut ledger = ledger.lock().expect("no task panics with the ledger");
        ledger.deliver(id, body);
        if self.acked.contains(&id) {
            ledger.violate(format!(
                "message {id} was delivered to group {} after its acknowledgement was confirmed",
                self.name
            ));
        }
        self.seen.insert(id);
    }
}
