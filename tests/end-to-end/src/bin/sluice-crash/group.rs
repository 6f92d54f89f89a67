//! A consumer group that remembers across kills what it was given and what it was promised.

use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use sluice_client::admin::{Backoff, GroupSettings, SeekTo};
use sluice_client::{Client, Consumer, ConsumerConfig, Message, MessageStream, StreamConfig};
use sluice_end_to_end::chance::Chance;
use sluice_protocol::control::backoff::Kind;
use sluice_protocol::ids::MessageId;

use crate::audit::{Audit, Delivered, digest};
use crate::decide::wall_ms;
use crate::draw::{NUMBER, POISON, PREPARED};

/// How long nothing may come before the group's lag is asked for.
const SILENCE: Duration = Duration::from_millis(200);

/// Short, so that what a kill leaves leased to a receive comes again within the check.
const INVISIBLE: Duration = Duration::from_secs(2);

/// Deliveries of a message at most.
const ATTEMPTS_MAX: u32 = 16;
/// How long what was given back waits.
const BACKOFF_MS: u64 = 10;
/// One in so many messages is given back the first time it comes, besides those that always are.
const GIVEN_BACK_ONCE_IN: u64 = 61;
/// How often a group that seeks takes messages before it does, at most.
const TAKES_BEFORE_SEEK_MAX: u64 = 8;

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
#[derive(Clone, Copy)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) way: Way,
    /// Whether it keeps the order of message groups.
    pub(crate) ordered: bool,
    /// As which member it reads, of a broadcast group.
    pub(crate) member: Option<&'static str>,
    /// Whether it begins anew in every other round.
    pub(crate) seeks: bool,
}

/// All groups of a run.
pub(crate) const GROUPS: [Group; 5] = [
    Group {
        name: "by-receive",
        way: Way::Receive,
        ordered: false,
        member: None,
        seeks: false,
    },
    Group {
        name: "by-stream",
        way: Way::Stream,
        ordered: false,
        member: None,
        seeks: false,
    },
    Group {
        name: "in-order",
        way: Way::Stream,
        ordered: true,
        member: None,
        seeks: false,
    },
    Group {
        name: "for-all",
        way: Way::Stream,
        ordered: false,
        member: Some("one"),
        seeks: false,
    },
    Group {
        name: "anew",
        way: Way::Stream,
        ordered: false,
        member: None,
        seeks: true,
    },
];

/// Where its messages come from at present.
enum Source {
    Stream(MessageStream),
    Receive(Consumer),
}

impl Group {
    /// Creates it.
    ///
    /// # Errors
    /// The broker refused.
    pub(crate) async fn create(self, client: &Client) -> Result<()> {
        let settings = GroupSettings {
            attempts_max: ATTEMPTS_MAX,
            backoff: Some(Backoff {
                kind: Some(Kind::FixedMs(BACKOFF_MS)),
            }),
            ordered: self.ordered,
            broadcast: self.member.is_some(),
            ..GroupSettings::default()
        };
        Ok(client.create_group(self.name, Some(settings)).await?)
    }

    /// Has its member known, which gets what is published from then on. Other groups read from the beginning and need not be there.
    ///
    /// # Errors
    /// The broker refused.
    pub(crate) async fn join(self, client: &Client, topic: &str) -> Result<()> {
        let Some(member) = self.member else { return Ok(()) };
        let consumer = client.consumer(ConsumerConfig::new(topic, self.name).member(member));
        ensure!(consumer.receive(1, Duration::ZERO).await?.is_empty(), "a new topic holds messages");
        Ok(())
    }

    /// The ids of its dead letters, which are then taken off the list.
    ///
    /// # Errors
    /// The broker refused.
    pub(crate) async fn take_letters(self, client: &Client) -> Result<Vec<MessageId>> {
        let letters = client.dead_letters(self.name, 0, None, usize::MAX).await?;
        client.discard_dead_letters(self.name, 0, None, u64::MAX).await?;
        let origins = letters.iter().map(|letter| Ok(letter.id.parse()?));
        origins.collect()
    }

    /// Takes and acknowledges until the broker is gone; a group that seeks may do so meanwhile.
    ///
    /// # Errors
    /// The broker is gone.
    pub(crate) async fn consume(self, client: &Client, topic: &str, acks: Acks, audit: &Mutex<Audit>, chance: &Chance) -> Result<()> {
        let mut opened_ms = wall_ms();
        let mut source = self.open(client, topic).await?;
        if self.seeks && chance.once_in(2) {
            for _ in 0..chance.between(0, TAKES_BEFORE_SEEK_MAX) {
                self.take(&mut source, opened_ms, acks, audit).await?;
            }
            // Whatever it acknowledged was answered; what it still holds of the pass before it leaves alone.
            drop(source);
            self.audit(audit).seek_asked(self.name);
            client.seek(self.name, topic, None, SeekTo::Earliest).await?;
            self.audit(audit).sought(self.name);
            opened_ms = wall_ms();
            source = self.open(client, topic).await?;
        }
        loop {
            self.take(&mut source, opened_ms, acks, audit).await?;
        }
    }

    /// Takes and acknowledges until nothing is left.
    ///
    /// # Errors
    /// The broker refused something.
    pub(crate) async fn drain(self, client: &Client, topic: &str, audit: &Mutex<Audit>) -> Result<()> {
        let opened_ms = wall_ms();
        let mut source = self.open(client, topic).await?;
        loop {
            let taken = match tokio::time::timeout(SILENCE, self.take(&mut source, opened_ms, Acks::Cumulative, audit)).await {
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
    pub(crate) async fn lag(self, client: &Client) -> Result<u64> {
        let name = match self.member {
            Some(member) => format!("{}/{member}", self.name),
            None => self.name.to_owned(),
        };
        Ok(client.group(&name).await?.lag)
    }

    async fn open(self, client: &Client, topic: &str) -> Result<Source> {
        Ok(match self.way {
            Way::Stream => {
                let config = StreamConfig::new(topic, self.name);
                let config = match self.member {
                    Some(member) => config.member(member),
                    None => config,
                };
                Source::Stream(client.stream(config).await?)
            }
            Way::Receive => {
                let config = ConsumerConfig {
                    invisible: Some(INVISIBLE),
                    ..ConsumerConfig::new(topic, self.name)
                };
                Source::Receive(client.consumer(config))
            }
        })
    }

    /// How many came and were settled.
    async fn take(self, source: &mut Source, opened_ms: i64, acks: Acks, audit: &Mutex<Audit>) -> Result<usize> {
        match source {
            Source::Stream(stream) => {
                let run = stream.next_run(if acks == Acks::Single { 1 } else { 256 }).await?;
                let Some(last) = run.last() else { bail!("the stream ended") };
                self.saw(run.iter().map(|message| &**message), opened_ms, audit);
                for message in run.iter().filter(|message| is_given_back(message)) {
                    stream.nack(message, None).await?;
                }
                let kept = || run.iter().filter(|message| !is_given_back(message)).map(|message| message.id());
                self.audit(audit).ack_asked(self.name, kept());
                // What was given back it leaves alone.
                stream.ack_up_to(last).await?;
                self.audit(audit).acked(self.name, kept());
                Ok(run.len())
            }
            Source::Receive(consumer) => {
                let asked_ms = wall_ms();
                let messages = consumer.receive(32, Duration::from_secs(1)).await?;
                self.saw(messages.iter().map(|message| &**message), asked_ms, audit);
                let (given_back, kept): (Vec<_>, Vec<_>) = messages.into_iter().partition(|message| is_given_back(message));
                consumer.nack(&given_back, None).await?;
                self.audit(audit).ack_asked(self.name, kept.iter().map(|message| message.id()));
                let outcomes = consumer.ack(&kept).await?;
                let done = kept.iter().zip(&outcomes).filter(|(_, outcome)| outcome.is_ok());
                self.audit(audit).acked(self.name, done.map(|(message, _)| message.id()));
                Ok(kept.len() + given_back.len())
            }
        }
    }

    fn audit(self, audit: &Mutex<Audit>) -> std::sync::MutexGuard<'_, Audit> {
        audit.lock().expect("no task panics with the audit")
    }

    /// Notes what came, and what of it is about to be given back.
    fn saw<'a>(self, messages: impl Iterator<Item = &'a Message>, asked_ms: i64, audit: &Mutex<Audit>) {
        let at_ms = wall_ms();
        let mut audit = self.audit(audit);
        for message in messages {
            audit.deliver(self.name, &delivered(message, asked_ms, at_ms));
            audit.nack_asked(self.name, is_given_back(message).then(|| message.id()));
        }
    }
}

fn is_given_back(message: &Message) -> bool {
    message.property(POISON).is_some() || (message.attempt() == 1 && number(message).is_multiple_of(GIVEN_BACK_ONCE_IN))
}

fn number(message: &Message) -> u64 {
    let number = message.property(NUMBER).and_then(|number| number.parse().ok());
    number.unwrap_or_default()
}

fn delivered(message: &Message, asked_ms: i64, at_ms: i64) -> Delivered {
    Delivered {
        id: message.id(),
        place: (message.queue(), message.offset()),
        digest: digest(&message.body(), message.priority(), message.group()),
        prepared: message.property(PREPARED).is_some(),
        due_ms: message.deliver_at_ms(),
        expires_ms: message.ttl_ms().map(|ttl_ms| message.stored_ms() + ttl_ms as i64),
        ordered: message.group().map(|group| (group.to_owned(), number(message))),
        asked_ms,
        at_ms,
    }
}
