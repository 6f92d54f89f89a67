//! A producer's stream: publishes are admitted as they come, and those that come together are asked together.

use std::sync::Arc;

use bytes::Bytes;
use quinn::SendStream;
use sluice_core::input::Input;
use sluice_protocol::batch::{self, Admission, AdmissionLimits, Batch};
use sluice_protocol::control::{PublishStart, RefusedMessage};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{Frame, FrameKind};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;
use sluice_protocol::names;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::clock::wall_ms;
use crate::confirm::{Group, Told, Unconfirmed, Writer, refused_message};
use crate::connection::{Client, unexpected};
use crate::frames::{Broken, FrameReader};
use crate::limits;
use crate::serving::shutting_down;
use crate::shard::{InboxRoom, Numbered};

/// Serves a producer's stream until the client ends it or the broker drains.
///
/// # Errors
/// A bad topic name; a malformed or misplaced frame, after the confirms of all publishes before it.
pub(crate) async fn run(client: &Arc<Client>, send: &mut SendStream, reader: &mut FrameReader, start: PublishStart) -> Result<(), Broken> {
    names::check_user_name(&start.topic)?;
    let (told, to_write) = mpsc::unbounded_channel();
    let (answers, answered) = mpsc::unbounded_channel();
    let unconfirmed = Unconfirmed::new(unwritten_max(client.serving.config.limits.unconfirmed));
    let intake = Intake {
        client,
        topic: start.topic.as_str().into(),
        told,
        answers,
        unconfirmed: &unconfirmed,
        asking: Asking::default(),
        next: 0,
    };
    let writer = Writer::new(&unconfirmed, &client.serving.metrics.refusals, start.joined_confirms);
    // Both halves run in this one task. When the client is gone the reader sees it, so the writer need not be waited for.
    let (_, written) = tokio::join!(intake.run(reader), writer.run(send, to_write, answered));
    written
}

/// How many messages of a stream may be without a written confirm: as many as a client in good order has, and the largest batch.
fn unwritten_max(unconfirmed_max: u32) -> u32 {
    unconfirmed_max.max(BATCH_MESSAGES_MAX as u32)
}

/// The reading half.
struct Intake<'a> {
    client: &'a Arc<Client>,
    topic: Arc<str>,
    told: UnboundedSender<Told>,
    answers: UnboundedSender<Numbered>,
    unconfirmed: &'a Unconfirmed,
    asking: Asking,
    next: u64,
}

/// Publishes that came together and are about to be asked.
#[derive(Default)]
struct Asking {
    group: Group,
    batches: Vec<Batch>,
    /// Their room in the shard's inbox.
    room: Option<InboxRoom>,
}

impl Intake<'_> {
    async fn run(mut self, reader: &mut FrameReader) {
        let mut draining = self.client.serving.draining();
        let end = loop {
            let next = tokio::select! {
                next = reader.next() => next,
                () = draining.begun() => break Some(shutting_down()),
                () = self.told.closed() => break None,
            };
            let taken = match next {
                Ok(Some(first)) => self.take(first, reader).await,
                Ok(None) => break None,
                Err(broken) => Err(broken),
            };
            // What came whole before a frame that ends the stream is stored all the same.
            let asked = self.ask();
            match taken.and(asked) {
                Ok(()) => {}
                Err(Broken::Refused(refusal)) => break Some(refusal),
                Err(Broken::Gone) => break None,
            }
        };
        // The writer ends when it is told, or has ended because the client is gone.
        let _ = self.told.send(Told::End(end));
    }

    /// Takes the publishes that have come whole, this frame the first.
    async fn take(&mut self, first: (FrameKind, Frame), reader: &mut FrameReader) -> Result<(), Broken> {
        let mut next = Some(first);
        while let Some((kind, frame)) = next {
            if kind != FrameKind::Publish {
                return Err(unexpected(kind));
            }
            self.publish(frame.payload).await?;
            next = match self.asking.group.messages() < limits::GROUP_MESSAGES_MAX {
                true => reader.next_read()?,
                false => None,
            };
        }
        Ok(())
    }

    /// Takes one publish. Messages that are refused are confirmed as refused in their turn; what ends the stream is a batch that is none,
    /// or breaks what the welcome and the hello said.
    async fn publish(&mut self, payload: Bytes) -> Result<(), Broken> {
        let serving = &self.client.serving;
        let bounds = AdmissionLimits {
            body_bytes_max: serving.config.limits.body_bytes as usize,
            wall_ms: wall_ms(),
            ..AdmissionLimits::default()
        };
        let Admission { batch, refused } = batch::admit(payload, self.client.producer, &bounds)?;
        serving.metrics.messages_refused.add(refused.len() as u64);
        let messages = batch.count() + u32::try_from(refused.len()).expect("a batch has a bounded number of messages");
        // One without messages takes a place, too: its confirm is kept until it is read.
        let messages = messages.max(1);
        let confirms = self.room_for_confirms(messages).await?;
        refused.iter().for_each(|row| serving.metrics.refusals.one(row.refusal.code));
        let refused: Vec<RefusedMessage> = refused
            .into_iter()
            .map(|row| refused_message(row.sequence.0, row.refusal))
            .collect();
        let room = match batch.is_empty() {
            true => Ok(None),
            false => self.room(&batch).map(Some),
        };
        self.unconfirmed.add(messages);
        let asked = room.map(|room| self.asking.room = join(self.asking.room.take(), room));
        let is_asked = asked.is_ok() && !batch.is_empty();
        self.asking.group.push(messages, &batch, refused, asked);
        self.asking.group.hold(confirms);
        if is_asked {
            self.asking.batches.push(batch);
        }
        Ok(())
    }

    /// Waits until the stream and its connection have room for the confirms of so many messages.
    async fn room_for_confirms(&mut self, messages: u32) -> Result<OwnedSemaphorePermit, Broken> {
        let outgoing = &self.client.outgoing;
        if self.unconfirmed.has_room(messages)
            && let Some(room) = outgoing.confirms_now(messages)
        {
            return Ok(room);
        }
        // Those before it are among the ones that are to be confirmed.
        self.ask()?;
        let room = async {
            self.unconfirmed.room(messages).await;
            outgoing.take_confirms(messages).await
        };
        tokio::select! {
            room = room => Ok(room),
            () = self.told.closed() => Err(Broken::Gone),
        }
    }

    /// Room in the shard's inbox for a batch.
    fn room(&self, batch: &Batch) -> Result<InboxRoom, Refusal> {
        let serving = &self.client.serving;
        let (count, unconfirmed) = (batch.count(), self.unconfirmed.messages());
        if unconfirmed + count > serving.config.limits.unconfirmed {
            let text = format!(
                "{unconfirmed} messages are unconfirmed, {count} more exceed {}",
                serving.config.limits.unconfirmed
            );
            return Err(Refusal::new(ErrorCode::TooManyUnconfirmed, text));
        }
        serving
            .shard
            .room(batch.bytes().len(), &self.client.share)
            .inspect_err(|_| serving.metrics.publishes_refused.one())
    }

    /// Hands what was taken to the shard, and tells the writer.
    fn ask(&mut self) -> Result<(), Broken> {
        let Asking { mut group, batches, room } = std::mem::take(&mut self.asking);
        if group.is_empty() {
            return Ok(());
        }
        match room {
            Some(room) => {
                let serving = &self.client.serving;
                let messages = batches.iter().map(|batch| u64::from(batch.count())).sum();
                serving.metrics.messages_admitted.add(messages);
                let topic = self.topic.clone();
                serving.shard.ask_numbered(
                    |request| Input::Publish { request, topic, batches },
                    self.next,
                    self.answers.clone(),
                    room,
                );
            }
            None => group.settle(),
        }
        self.next += 1;
        self.told.send(Told::Group(group)).map_err(|_| Broken::Gone)
    }
}

fn join(room: Option<InboxRoom>, more: Option<InboxRoom>) -> Option<InboxRoom> {
    match (room, more) {
        (Some(mut room), Some(more)) => {
            room.merge(more);
            Some(room)
        }
        (room, more) => room.or(more),
    }
}
