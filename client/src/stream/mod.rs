//! Streaming: the broker pushes a group's messages as far as credit reaches; they are settled by number.

mod queue;
mod task;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sluice_protocol::delivery::Delivery;
use tokio::sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::event::Event;
use crate::filter::{Filter, Start};
use crate::limits;
use crate::link::Link;
use crate::message::Message;
use crate::settle::Settlement;
use queue::Passes;

/// What a stream reads, and how far ahead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// The topic.
    pub topic: String,
    /// The consumer group, created with the subscription where the broker allows it.
    pub group: String,
    /// Which messages the group wants.
    pub filter: Filter,
    /// How many messages the broker may push ahead of the application. Taking a message makes room for another one; what was taken and is
    /// not settled is bounded by the broker alone.
    pub credit: u32,
    /// How many bytes of them are held here before QUIC's flow control holds the broker back.
    pub buffer_bytes: usize,
    /// How long a message may stay unsettled before it is delivered again; `None` takes the broker's default, 15 minutes.
    pub invisible: Option<Duration>,
    /// Where the group begins if it does not exist yet; `None` takes the broker's default.
    pub start: Option<Start>,
    /// The member's name; `None` takes the client's, except in a broadcast group, which refuses that.
    pub member: Option<String>,
}

impl StreamConfig {
    /// Every message of `topic` for `group`.
    pub fn new(topic: impl Into<String>, group: impl Into<String>) -> Self {
        Self {
            topic: topic.into(),
            group: group.into(),
            filter: Filter::All,
            credit: limits::STREAM_CREDIT_DEFAULT,
            buffer_bytes: limits::STREAM_BUFFER_BYTES_DEFAULT,
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

/// Where a delivery stands: which connection, queue, pass and number it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) session: u64,
    pub(crate) queue: u16,
    pub(crate) pass: u32,
    pub(crate) number: u64,
}

/// A message that was pushed and not yet settled.
#[derive(Clone)]
pub struct StreamMessage {
    message: Message,
    place: Place,
}

impl Deref for StreamMessage {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl fmt::Debug for StreamMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)
    }
}

/// The messages of one delivery frame, on their way to the application.
pub(crate) struct Chunk {
    session: u64,
    queue: u16,
    pass: u32,
    delivery: Delivery,
    /// Holds the room that the frame takes in the buffer.
    _room: OwnedSemaphorePermit,
}

/// What the task sends to the application.
pub(crate) enum Pushed {
    Chunk(Chunk),
    /// The broker ended the subscription; nothing follows.
    Ended(Error),
}

/// What the application and the task share.
pub(crate) struct Shared {
    /// The connection that deliveries come over at present; 0 for none.
    pub(crate) session: AtomicU64,
    /// The newest pass of each queue.
    pub(crate) passes: Passes,
    /// Messages taken since credit was last given.
    pub(crate) taken: AtomicU32,
    pub(crate) credit_due: Notify,
    pub(crate) credit: u32,
}

impl Shared {
    /// Counts a message as taken, and has credit given again when half of it is used up.
    fn took(&self, messages: u32) {
        let taken = self.taken.fetch_add(messages, Ordering::AcqRel) + messages;
        if taken >= self.credit.div_ceil(2) {
            self.credit_due.notify_one();
        }
    }
}

/// What the application asks of the task.
pub(crate) enum Command {
    Settle {
        place: Place,
        numbers: Numbers,
        action: Settlement,
        reply: oneshot::Sender<Result<(), Error>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}

/// Which deliveries of a queue are settled.
pub(crate) enum Numbers {
    UpTo(u64),
    Each(Vec<u64>),
}

/// A group's messages, pushed by the broker.
pub struct MessageStream {
    pushed: mpsc::Receiver<Pushed>,
    settler: Settler,
    link: Arc<Link>,
    shared: Arc<Shared>,
    topic: Arc<str>,
    /// The chunk being handed out and the row that is next.
    current: Option<(Chunk, u32)>,
    task: JoinHandle<()>,
}

impl MessageStream {
    pub(crate) async fn open(link: Arc<Link>, config: StreamConfig) -> Result<Self, Error> {
        let session = link.session_within(link.endpoint.answer_within).await?;
        let credit = config.credit.clamp(1, session.limits.credit_messages_max.max(1));
        let topic: Arc<str> = config.topic.as_str().into();
        let shared = Arc::new(Shared {
            session: AtomicU64::new(0),
            passes: Passes::default(),
            taken: AtomicU32::new(0),
            credit_due: Notify::new(),
            credit,
        });
        let (push, pushed) = mpsc::channel(limits::STREAM_FRAMES_READ_AHEAD);
        let (commands, asked) = mpsc::channel(limits::SETTLEMENTS_QUEUED);
        let (opened, first) = oneshot::channel();
        let task = tokio::spawn(task::run(link.clone(), config, shared.clone(), push, asked, opened));
        first.await.unwrap_or(Err(Error::Closed))?;
        Ok(Self {
            pushed,
            settler: Settler { commands },
            link,
            shared,
            topic,
            current: None,
            task,
        })
    }

    /// The next message; `None` after the stream was closed here. Cancel safe: nothing is lost when the future is dropped.
    ///
    /// A lost connection is not an error: the stream subscribes again over the next one, and `Event::Resubscribed` says so. What was
    /// delivered before and not settled is delivered again, its attempt one higher. After a seek the messages of the old pass that wait
    /// here are dropped, and `Event::Reset` says so. A message whose body does not fit its checksum goes back to the broker.
    ///
    /// # Errors
    /// The broker ended the subscription for good, for example because a newer filter of the group rules: `Error::Refused`.
    pub async fn next(&mut self) -> Result<Option<StreamMessage>, Error> {
        loop {
            while let Some(message) = self.step() {
                if message.verify() {
                    return Ok(Some(message));
                }
                self.give_back(message);
            }
            match self.pushed.recv().await {
                Some(Pushed::Chunk(chunk)) => self.current = Some((chunk, 0)),
                Some(Pushed::Ended(error)) => return Err(error),
                None => return Ok(None),
            }
        }
    }

    /// The messages that are here already and follow one another in one queue, at most `max` of them; waits for the first. An empty
    /// answer comes after the stream was closed. With `ack_up_to` on the last of them, whole runs are settled at once. Cancel safe.
    ///
    /// # Errors
    /// As for [`MessageStream::next`].
    pub async fn next_run(&mut self, max: usize) -> Result<Vec<StreamMessage>, Error> {
        let Some(first) = self.next().await? else { return Ok(Vec::new()) };
        let more = self.left().min(u32::try_from(max.saturating_sub(1)).unwrap_or(u32::MAX));
        let mut run = Vec::with_capacity(1 + more as usize);
        run.push(first);
        for _ in 0..more {
            match self.take_row() {
                Some(message) if message.verify() => run.push(message),
                Some(message) => self.give_back(message),
                None => break,
            }
        }
        self.shared.took(more);
        Ok(run)
    }

    /// Settles from other tasks, or while `next` is awaited.
    pub fn settler(&self) -> Settler {
        self.settler.clone()
    }

    /// As [`Settler::ack`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack(&self, message: &StreamMessage) -> Result<(), Error> {
        self.settler.ack(message).await
    }

    /// As [`Settler::ack_up_to`].
    ///
    /// # Errors
    /// As there.
    pub async fn ack_up_to(&self, message: &StreamMessage) -> Result<(), Error> {
        self.settler.ack_up_to(message).await
    }

    /// As [`Settler::nack`].
    ///
    /// # Errors
    /// As there.
    pub async fn nack(&self, message: &StreamMessage, delay: Option<Duration>) -> Result<(), Error> {
        self.settler.nack(message, delay).await
    }

    /// As [`Settler::extend`].
    ///
    /// # Errors
    /// As there.
    pub async fn extend(&self, message: &StreamMessage, invisible: Duration) -> Result<(), Error> {
        self.settler.extend(message, invisible).await
    }

    /// Ends the subscription in good order: what was delivered and not settled goes back without counting an attempt. Settlements that
    /// are under way are answered first. Dropping the stream instead does the same without waiting for it.
    pub async fn close(mut self) {
        let (reply, closed) = oneshot::channel();
        if self.settler.commands.send(Command::Close { reply }).await.is_ok() {
            // Nobody reads what is still pushed, so that the task cannot wait for room.
            self.pushed.close();
            let _ = tokio::time::timeout(limits::CLOSE_WITHIN, closed).await;
        }
        self.task.abort();
    }

    /// The next row of the current chunk, unless it is void by now.
    fn step(&mut self) -> Option<StreamMessage> {
        if self.left() == 0 {
            return None;
        }
        self.shared.took(1);
        self.take_row()
    }

    /// How many rows of the current chunk are to be handed out; a chunk that is void by now is dropped.
    fn left(&mut self) -> u32 {
        let Some((chunk, row)) = &self.current else { return 0 };
        let here = chunk.session == self.shared.session.load(Ordering::Acquire);
        let left = chunk.delivery.batch.count() - *row;
        if left > 0 && here && self.shared.passes.newest(chunk.queue) == Some(chunk.pass) {
            return left;
        }
        if here {
            self.shared.took(left);
        }
        self.current = None;
        0
    }

    /// Hands out a row of the current chunk.
    fn take_row(&mut self) -> Option<StreamMessage> {
        let (chunk, row) = self.current.as_mut()?;
        let (offset, attempt, stored_ms) = locate(&chunk.delivery, *row)?;
        let place = Place {
            session: chunk.session,
            queue: chunk.queue,
            pass: chunk.pass,
            number: chunk.delivery.first_number + u64::from(*row),
        };
        let message = Message {
            topic: self.topic.clone(),
            queue: chunk.queue,
            offset,
            attempt,
            stored_ms,
            batch: chunk.delivery.batch.clone(),
            row: *row,
        };
        *row += 1;
        Some(StreamMessage { message, place })
    }

    /// Returns a message whose body is not what its producer sent.
    fn give_back(&self, message: StreamMessage) {
        self.link.tell(Event::BadBody {
            topic: self.topic.to_string(),
            queue: message.queue(),
            offset: message.offset(),
        });
        let (reply, _) = oneshot::channel();
        let numbers = Numbers::Each(vec![message.place.number]);
        let command = Command::Settle {
            place: message.place,
            numbers,
            action: Settlement::Nack(None),
            reply,
        };
        // Where it cannot be said now, the lease ends by itself.
        let _ = self.settler.commands.try_send(command);
    }
}

/// A row's offset, attempt and time of storing.
fn locate(delivery: &Delivery, row: u32) -> Option<(u64, u16, i64)> {
    let mut before = 0;
    for range in &delivery.ranges {
        if row - before < range.count {
            return Some((
                range.first_offset.0 + u64::from(row - before),
                range.attempt.0,
                range.stored_wall_ms,
            ));
        }
        before += range.count;
    }
    None
}

/// Settles the messages of one stream, from any task. Each answer comes when the settlement is durable.
///
/// A future dropped before its answer leaves it open whether the settlement was done; it is not undone.
#[derive(Clone)]
pub struct Settler {
    commands: mpsc::Sender<Command>,
}

impl Settler {
    /// Acknowledges one message: it is never delivered to the group again.
    ///
    /// # Errors
    /// `Error::LeaseLost` for a message of an earlier connection or pass; `Error::Refused` with `NotLeased` when it was settled or
    /// expired meanwhile; `Error::Unknown` when the connection was lost before the answer.
    pub async fn ack(&self, message: &StreamMessage) -> Result<(), Error> {
        self.settle(message, Numbers::Each(vec![message.place.number]), Settlement::Ack)
            .await
    }

    /// Acknowledges all that this stream still holds of the message's queue up to and including it. What was nacked or has expired
    /// meanwhile is left alone.
    ///
    /// # Errors
    /// As for [`Settler::ack`].
    pub async fn ack_up_to(&self, message: &StreamMessage) -> Result<(), Error> {
        self.settle(message, Numbers::UpTo(message.place.number), Settlement::Ack).await
    }

    /// Gives a message back, to be delivered again after `delay` or, when not given, by the group's back-off.
    ///
    /// # Errors
    /// As for [`Settler::ack`].
    pub async fn nack(&self, message: &StreamMessage, delay: Option<Duration>) -> Result<(), Error> {
        self.settle(message, Numbers::Each(vec![message.place.number]), Settlement::Nack(delay))
            .await
    }

    /// Keeps a message for so long from now.
    ///
    /// # Errors
    /// As for [`Settler::ack`].
    pub async fn extend(&self, message: &StreamMessage, invisible: Duration) -> Result<(), Error> {
        self.settle(message, Numbers::Each(vec![message.place.number]), Settlement::Extend(invisible))
            .await
    }

    async fn settle(&self, message: &StreamMessage, numbers: Numbers, action: Settlement) -> Result<(), Error> {
        let (reply, result) = oneshot::channel();
        let command = Command::Settle {
            place: message.place,
            numbers,
            action,
            reply,
        };
        self.commands.send(command).await.map_err(|_| Error::Closed)?;
        result.await.unwrap_or_else(|_| {
            Err(Error::Unknown {
                reason: "the stream ended".to_owned(),
            })
        })
    }
}
