//! Receiving: messages are asked for, leased for a while, and settled by receipt handles.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::control;
use sluice_protocol::delivery::{DeliveredRange, Received};
use sluice_protocol::frame::FrameKind;

use crate::error::Error;
use crate::event::Event;
use crate::filter::{Filter, Start};
use crate::limits;
use crate::link::{Link, jittered};
use crate::message::Message;
use crate::settle::{self, Settlement, millis};
use crate::wire::{self, Frame};

/// What a consumer reads, and for which group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerConfig {
    /// The topic.
    pub topic: String,
    /// The consumer group, created with the first receive where the broker allows it.
    pub group: String,
    /// Which messages the group wants.
    pub filter: Filter,
    /// How long a received message is invisible to the other members; `None` takes the broker's default. 1 s to 12 h.
    pub invisible: Option<Duration>,
    /// Where the group begins if it does not exist yet; `None` takes the broker's default.
    pub start: Option<Start>,
    /// The member's name; `None` takes the client's, except in a broadcast group, which refuses that.
    pub member: Option<String>,
}

impl ConsumerConfig {
    /// Every message of `topic` for `group`.
    pub fn new(topic: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            group: group.into(),
            filter: Filter::All,
            invisible: None,
            start: None,
            member: None,
        }
    }

    /// The same as the member of this name. A broadcast group, which each member gets all of, keeps the member's places under it: every member
    /// needs one of its own.
    pub fn member(mut self, name: impl Into<String>) -> Self {
        self.member = Some(name.into());
        self
    }

    /// The same with this filter.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = filter;
        self
    }
}

/// A message that was received and not yet settled. It is delivered again when its invisible time is over.
#[derive(Clone)]
pub struct ReceivedMessage {
    message: Message,
    handle: Bytes,
}

impl ReceivedMessage {
    /// The receipt handle, by which any client may settle the message.
    pub fn handle(&self) -> &Bytes {
        &self.handle
    }
}

impl Deref for ReceivedMessage {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl fmt::Debug for ReceivedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)
    }
}

/// Receives the messages of one topic for one group.
pub struct Consumer {
    link: Arc<Link>,
    config: ConsumerConfig,
    topic: Arc<str>,
}

impl Consumer {
    pub(crate) fn new(link: Arc<Link>, config: ConsumerConfig) -> Self {
        let topic = config.topic.as_str().into();
        Self { link, config, topic }
    }

    /// Takes up to `max` messages (1 to 32), waiting up to `wait` (at most 20 s) for the first. An empty answer means that the wait is
    /// over. When the connection is lost meanwhile the question is asked again over the next one.
    ///
    /// Dropping the future takes the question back; messages that were already on their way come again when their invisible time is
    /// over.
    ///
    /// # Errors
    /// `Error::Refused` for what the broker refuses, `Error::Unreachable` without a connection.
    pub async fn receive(&self, max: u16, wait: Duration) -> Result<Vec<ReceivedMessage>, Error> {
        let ask = control::Receive {
            topic: self.config.topic.clone(),
            group: self.config.group.clone(),
            filter: Some(self.config.filter.to_wire()),
            max: max.into(),
            wait_ms: u32::try_from(wait.as_millis()).unwrap_or(u32::MAX),
            invisible_ms: self.config.invisible.map_or(0, millis),
            start: self.config.start.map(Start::to_wire),
            member: self.config.member.clone().unwrap_or_default(),
        };
        loop {
            match self.link.ask(FrameKind::Receive, &ask, wait).await {
                // What was on its way comes again; asking again is safe. The wait lets the loss be noticed, so that the next question goes
                // to the next connection.
                Err(Error::Unknown { .. }) => tokio::time::sleep(jittered(limits::RETRY_FIRST)).await,
                Err(error) => return Err(error),
                Ok(Frame {
                    kind: FrameKind::NothingReceived,
                    ..
                }) => return Ok(Vec::new()),
                Ok(Frame {
                    kind: FrameKind::Received,
                    payload,
                }) => return self.received(payload).await,
                Ok(frame) => return Err(wire::unexpected(&frame)),
            }
        }
    }

    async fn received(&self, payload: Bytes) -> Result<Vec<ReceivedMessage>, Error> {
        let received = Received::decode(payload).map_err(wire::protocol)?;
        let (queue, batch) = (received.queue.0, &received.batch);
        let (mut good, mut bad) = (Vec::with_capacity(received.handles.len()), Vec::new());
        for (row, ((offset, range), handle)) in spread(&received.ranges).zip(&received.handles).enumerate() {
            let message = Message {
                topic: self.topic.clone(),
                queue,
                offset,
                attempt: range.attempt.0,
                stored_ms: range.stored_wall_ms,
                batch: batch.clone(),
                row: row as u32,
            };
            if message.verify() {
                good.push(ReceivedMessage {
                    message,
                    handle: handle.clone(),
                });
            } else {
                self.link.tell(Event::BadBody {
                    topic: self.topic.to_string(),
                    queue,
                    offset,
                });
                bad.push(handle.clone());
            }
        }
        // Where they cannot be given back now, their leases end by themselves; the good ones are here all the same.
        if !bad.is_empty()
            && let Err(error) = self.settle(bad, Settlement::Nack(None)).await
        {
            tracing::debug!(topic = &*self.topic, %error, "damaged messages could not be given back");
        }
        Ok(good)
    }

    /// Acknowledges messages: they are never delivered to the group again. One result for each, in order; a message whose lease is over
    /// is refused with `StaleHandle`.
    ///
    /// Dropped before the answer, the acknowledgement may have been done or not.
    ///
    /// # Errors
    /// `Error::Unknown` when the connection was lost before the answer: acknowledging again is safe.
    pub async fn ack(&self, messages: &[ReceivedMessage]) -> Result<Vec<Result<(), Error>>, Error> {
        self.settle(handles(messages), Settlement::Ack).await
    }

    /// Gives messages back, to be delivered again after `delay` or, when not given, by the group's back-off. Results as for `ack`.
    ///
    /// # Errors
    /// As for [`Consumer::ack`].
    pub async fn nack(&self, messages: &[ReceivedMessage], delay: Option<Duration>) -> Result<Vec<Result<(), Error>>, Error> {
        self.settle(handles(messages), Settlement::Nack(delay)).await
    }

    /// Keeps messages invisible for so long from now. Results as for `ack`.
    ///
    /// # Errors
    /// As for [`Consumer::ack`].
    pub async fn extend(&self, messages: &[ReceivedMessage], invisible: Duration) -> Result<Vec<Result<(), Error>>, Error> {
        self.settle(handles(messages), Settlement::Extend(invisible)).await
    }

    async fn settle(&self, handles: Vec<Bytes>, action: Settlement) -> Result<Vec<Result<(), Error>>, Error> {
        if handles.is_empty() {
            return Ok(Vec::new());
        }
        let asked = handles.len();
        let ask = control::SettleHandles {
            handles,
            action: Some(action.to_wire()),
        };
        let frame = self.link.ask(FrameKind::SettleHandles, &ask, Duration::ZERO).await?;
        let results = settle::results(wire::expect(frame, FrameKind::Settled)?);
        if results.len() != asked {
            return Err(Error::Protocol(format!(
                "{asked} handles were settled with {} results",
                results.len()
            )));
        }
        Ok(results)
    }
}

fn handles(messages: &[ReceivedMessage]) -> Vec<Bytes> {
    messages.iter().map(|message| message.handle.clone()).collect()
}

/// Each message's offset and the range it belongs to, in the order of delivery.
pub(crate) fn spread(ranges: &[DeliveredRange]) -> impl Iterator<Item = (u64, &DeliveredRange)> {
    ranges
        .iter()
        .flat_map(|range| (0..u64::from(range.count)).map(move |place| (range.first_offset.0 + place, range)))
}
