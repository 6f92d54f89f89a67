//! Reading stored messages without a group: from any offset or time, page by page, nothing leased and nothing settled.

use std::sync::Arc;
use std::time::Duration;

use sluice_protocol::control::read_messages::{From, To};
use sluice_protocol::control::{Messages, ReadMessages};
use sluice_protocol::frame::FrameKind;
use sluice_protocol::limits::PAGE_MESSAGES_MAX;
use sluice_protocol::page::MessagePage;

use crate::client::Client;
use crate::error::Error;
use crate::filter::Filter;
use crate::message::Message;
use crate::wire;

/// Which stored messages are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The topic.
    pub topic: String,
    /// One of its queues; `None` for all of them.
    pub queue: Option<u16>,
    /// Where it begins.
    pub from: ReadFrom,
    /// Where it ends.
    pub to: ReadTo,
    /// Only messages with this key.
    pub key: Option<String>,
    /// Only messages that it lets pass. What is bound when a page is asked for judges that page.
    pub filter: Filter,
    /// Whether bodies come with the messages.
    pub bodies: bool,
}

/// Where a reading begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadFrom {
    /// At the earliest stored message.
    #[default]
    Earliest,
    /// At this offset of each queue, or the nearest stored one.
    Offset(u64),
    /// At the first message stored at this time (wall clock, milliseconds since 1970) or later.
    Time(i64),
}

/// Where a reading ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadTo {
    /// Where nothing more is stored.
    #[default]
    End,
    /// Before this offset of each queue.
    BeforeOffset(u64),
    /// Before the first message stored at this time (wall clock, milliseconds since 1970) or later.
    BeforeTime(i64),
}

/// Neighbours of a reading.
#[derive(Clone, Debug)]
pub struct Page {
    /// The messages, in the order in which they were stored. There may be none though more follow: a page ends too when the broker has looked at
    /// as many messages as it does for one page.
    pub messages: Vec<Message>,
    /// How many messages the filter was asked about.
    pub judged: u64,
    /// How many of these it failed on; they are left out.
    pub failed: u64,
}

/// A reading that goes on page by page. Messages that are stored meanwhile are met when it comes to them.
#[derive(Clone)]
pub struct Pages {
    client: Client,
    ask: ReadMessages,
    is_over: bool,
}

impl Reading {
    /// All messages of a topic, with their bodies.
    pub fn of(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            bodies: true,
            ..Self::default()
        }
    }

    fn ask(&self) -> ReadMessages {
        ReadMessages {
            topic: self.topic.clone(),
            topic_id: 0,
            one_queue: self.queue.is_some(),
            queue: self.queue.unwrap_or(0).into(),
            from: match self.from {
                ReadFrom::Earliest => None,
                ReadFrom::Offset(offset) => Some(From::Offset(offset)),
                ReadFrom::Time(wall_ms) => Some(From::WallMs(wall_ms)),
            },
            to: match self.to {
                ReadTo::End => None,
                ReadTo::BeforeOffset(offset) => Some(To::BeforeOffset(offset)),
                ReadTo::BeforeTime(wall_ms) => Some(To::BeforeWallMs(wall_ms)),
            },
            key: self.key.clone().unwrap_or_default(),
            filter: Some(self.filter.to_wire()),
            max: 0,
            bodies: self.bodies,
            after: None,
        }
    }
}

impl Client {
    /// Reads stored messages without a group; nothing is asked before [`Pages::next`].
    pub fn read(&self, reading: &Reading) -> Pages {
        Pages {
            client: self.clone(),
            ask: reading.ask(),
            is_over: false,
        }
    }
}

impl Pages {
    /// The next page, of at most so many messages (1,000 at most); `None` when there is none. After an error the same page is asked for again.
    ///
    /// # Errors
    /// `Error::Refused` with `NoSuchTopic`, `TopicDeleted`, `NoSuchQueue`, what is wrong with the filter, or `FilterFailed`; `Error::Protocol` when a
    /// body does not fit its checksum.
    pub async fn next(&mut self, messages_max: usize) -> Result<Option<Page>, Error> {
        if self.is_over {
            return Ok(None);
        }
        self.ask.max = messages_max.clamp(1, PAGE_MESSAGES_MAX) as u32;
        let frame = self.client.link.ask(FrameKind::ReadMessages, &self.ask, Duration::ZERO).await?;
        if frame.kind != FrameKind::Messages {
            return Err(wire::unexpected(&frame));
        }
        let page = MessagePage::decode(frame.payload, self.ask.bodies).map_err(wire::protocol)?;
        let messages = messages(&page, self.ask.bodies)?;
        let Messages {
            topic_id,
            next,
            judged,
            failed,
            ..
        } = page.head;
        self.is_over = next.is_none();
        self.ask.topic_id = topic_id;
        self.ask.after = next;
        Ok(Some(Page { messages, judged, failed }))
    }

    /// Whether there may be more.
    pub fn has_more(&self) -> bool {
        !self.is_over
    }
}

fn messages(page: &MessagePage, bodies: bool) -> Result<Vec<Message>, Error> {
    let Some(batch) = &page.batch else { return Ok(Vec::new()) };
    let topic: Arc<str> = Arc::from(page.head.topic.as_str());
    let each = page.head.places.iter().zip(0..).map(|(place, row)| {
        let message = Message {
            topic: topic.clone(),
            queue: u16::try_from(place.queue).map_err(wire::protocol)?,
            offset: place.offset,
            attempt: 0,
            stored_ms: place.stored_wall_ms,
            batch: batch.clone(),
            row,
        };
        match !bodies || message.verify() {
            true => Ok(message),
            false => Err(Error::Protocol("the body does not fit its checksum".to_owned())),
        }
    });
    each.collect()
}
