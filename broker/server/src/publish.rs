//! A producer's stream: publishes are admitted and asked as they come, confirms are written in the same order, many together.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use quinn::SendStream;
use sluice_core::effect::Answer;
use sluice_core::input::Input;
use sluice_protocol::batch::{self, Admission, AdmissionLimits, Batch};
use sluice_protocol::control::{PublishStart, RefusedMessage};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::FrameKind;
use sluice_protocol::limits::BATCH_MESSAGES_MAX;
use sluice_protocol::names;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::connection::{Client, unexpected};
use crate::frames::{self, Broken, FrameReader};
use crate::serving::shutting_down;
use crate::shard::Numbered;
use crate::{answers, limits};

/// What the reading half tells the writing half, in the order of the publishes.
#[derive(Debug)]
enum Told {
    /// A publish was taken.
    Publish(Slot),
    /// No further publish is read: every open one is confirmed, then the stream ends, with the refusal if there is one.
    End(Option<Refusal>),
}

/// One publish and what is known of its confirm.
#[derive(Debug)]
struct Slot {
    /// All messages of the batch.
    count: u32,
    /// What admission took out.
    refused: Vec<RefusedMessage>,
    /// The rest: first sequence and count of neighbours.
    asked: Vec<(u64, u32)>,
    /// What became of the rest; `None` until the core says.
    answer: Option<Result<Answer, Refusal>>,
    /// Its part of what may be without a confirm: whoever does not read confirms gets no further publish read.
    _room: OwnedSemaphorePermit,
}

/// Serves a producer's stream until the client ends it or the broker drains.
///
/// # Errors
/// A bad topic name; a malformed or misplaced frame, after the confirms of all publishes before it.
pub(crate) async fn run(client: &Arc<Client>, send: &mut SendStream, reader: &mut FrameReader, start: PublishStart) -> Result<(), Broken> {
    names::check_user_name(&start.topic)?;
    let (told, to_write) = mpsc::unbounded_channel();
    let (answers, answered) = mpsc::unbounded_channel();
    let unconfirmed = AtomicU32::new(0);
    let intake = Intake {
        client,
        topic: start.topic.into(),
        told,
        answers,
        unconfirmed: &unconfirmed,
        room: Arc::new(Semaphore::new(unwritten_max(client.serving.config.limits.unconfirmed) as usize)),
        next: 0,
    };
    let writer = Writer {
        slots: VecDeque::new(),
        first: 0,
        unconfirmed: &unconfirmed,
        ended: None,
    };
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
    unconfirmed: &'a AtomicU32,
    /// Messages that may be without a confirm, refused ones too.
    room: Arc<Semaphore>,
    next: u64,
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
                Ok(Some((FrameKind::Publish, frame))) => self.publish(frame.payload).await,
                Ok(Some((kind, _))) => Err(unexpected(kind)),
                Ok(None) => break None,
                Err(broken) => Err(broken),
            };
            match taken {
                Ok(()) => {}
                Err(Broken::Refused(refusal)) => break Some(refusal),
                Err(Broken::Gone) => break None,
            }
        };
        // The writer ends when it is told, or has ended because the client is gone.
        let _ = self.told.send(Told::End(end));
    }

    /// Takes one publish. Messages that are refused are confirmed as refused in their turn; what ends the stream is a batch that is none,
    /// or breaks what the welcome and the hello said.
    async fn publish(&mut self, payload: Bytes) -> Result<(), Broken> {
        let serving = &self.client.serving;
        let bounds = AdmissionLimits {
            body_bytes_max: serving.config.limits.body_bytes as usize,
            ..AdmissionLimits::default()
        };
        let Admission { batch, refused } = batch::admit(payload, self.client.producer, &bounds)?;
        serving.metrics.messages_refused.add(refused.len() as u64);
        let count = batch.count() + u32::try_from(refused.len()).expect("a batch has a bounded number of messages");
        let room = self.room.clone().acquire_many_owned(count.max(1));
        let room = tokio::select! {
            room = room => room.expect("the room of a stream is never closed"),
            () = self.told.closed() => return Err(Broken::Gone),
        };
        let answer = match batch.is_empty() {
            true => Some(Ok(Answer::Stored { runs: Vec::new() })),
            false => self.ask(&batch).err().map(Err),
        };
        let refused = refused
            .into_iter()
            .map(|row| refused_message(row.sequence.0, row.refusal))
            .collect();
        self.unconfirmed.fetch_add(count, Ordering::Relaxed);
        self.next += 1;
        let slot = Slot {
            count,
            refused,
            asked: sequences(&batch),
            answer,
            _room: room,
        };
        self.told.send(Told::Publish(slot)).map_err(|_| Broken::Gone)
    }

    /// Hands the batch to the shard.
    fn ask(&self, batch: &Batch) -> Result<(), Refusal> {
        let serving = &self.client.serving;
        let count = batch.count();
        let unconfirmed = self.unconfirmed.load(Ordering::Relaxed);
        if unconfirmed + count > serving.config.limits.unconfirmed {
            let text = format!(
                "{unconfirmed} messages are unconfirmed, {count} more exceed {}",
                serving.config.limits.unconfirmed
            );
            return Err(Refusal::new(ErrorCode::TooManyUnconfirmed, text));
        }
        let room = serving
            .shard
            .room(batch.bytes().len())
            .inspect_err(|_| serving.metrics.publishes_refused.one())?;
        serving.metrics.messages_admitted.add(u64::from(count));
        let (topic, batch) = (self.topic.clone(), batch.clone());
        serving.shard.ask_numbered(
            |request| Input::Publish { request, topic, batch },
            self.next,
            self.answers.clone(),
            room,
        );
        Ok(())
    }
}

/// First sequence and count of the neighbours of a batch.
fn sequences(batch: &Batch) -> Vec<(u64, u32)> {
    batch.attributes().runs().map(|run| (run.first_sequence.0, run.rows)).collect()
}

fn refused_message(sequence: u64, refusal: Refusal) -> RefusedMessage {
    RefusedMessage {
        sequence,
        refused: Some(refusal.into()),
    }
}

/// The writing half.
struct Writer<'a> {
    /// Publishes not yet confirmed, oldest first.
    slots: VecDeque<Slot>,
    /// The number of the oldest.
    first: u64,
    unconfirmed: &'a AtomicU32,
    ended: Option<Option<Refusal>>,
}

impl Writer<'_> {
    async fn run(
        mut self,
        send: &mut SendStream,
        mut told: UnboundedReceiver<Told>,
        mut answered: UnboundedReceiver<Numbered>,
    ) -> Result<(), Broken> {
        let mut out = BytesMut::new();
        loop {
            // Neither receive loses anything when the other comes first.
            let first = tokio::select! {
                Some(news) = told.recv() => { self.learn(news); None }
                Some(answer) = answered.recv() => Some(answer),
                else => return Err(shutting_down().into()),
            };
            // The reading half shares this task, so all publishes that were asked are told by now.
            while let Ok(news) = told.try_recv() {
                self.learn(news);
            }
            if let Some((number, answer)) = first {
                self.answer(number, answer);
            }
            while let Ok((number, answer)) = answered.try_recv() {
                self.answer(number, answer);
            }
            loop {
                self.confirm(&mut out);
                if out.is_empty() {
                    break;
                }
                frames::write(send, out.split().freeze()).await?;
            }
            if self.slots.is_empty()
                && let Some(end) = self.ended.take()
            {
                return match end {
                    Some(refusal) => Err(refusal.into()),
                    None => {
                        frames::finish(send).await;
                        Ok(())
                    }
                };
            }
        }
    }

    fn learn(&mut self, news: Told) {
        match news {
            Told::Publish(slot) => self.slots.push_back(slot),
            Told::End(refusal) => self.ended = Some(refusal),
        }
    }

    fn answer(&mut self, number: u64, answer: Result<Answer, Refusal>) {
        let place = usize::try_from(number - self.first).expect("slots are numbered within a bounded window");
        if let Some(slot) = self.slots.get_mut(place) {
            slot.answer = Some(answer);
        }
    }

    /// Encodes the confirms of all publishes at the front whose answer is known.
    fn confirm(&mut self, out: &mut BytesMut) {
        while out.len() < limits::WRITE_BYTES_MAX
            && let Some(Slot { answer: Some(_), .. }) = self.slots.front()
            && let Some(slot) = self.slots.pop_front()
        {
            self.first += 1;
            self.unconfirmed.fetch_sub(slot.count, Ordering::Relaxed);
            slot.encode(out);
        }
    }
}

impl Slot {
    fn encode(self, out: &mut BytesMut) {
        let Self {
            mut refused,
            asked,
            answer,
            ..
        } = self;
        match answer {
            Some(Ok(Answer::Stored { runs })) => answers::confirm(&runs, refused, out),
            Some(Err(refusal)) => {
                let rest = asked
                    .into_iter()
                    .flat_map(|(first, count)| (0..u64::from(count)).map(move |place| first.wrapping_add(place)));
                refused.extend(rest.map(|sequence| refused_message(sequence, refusal.clone())));
                answers::confirm(&[], refused, out);
            }
            Some(Ok(_)) | None => unreachable!("the core answers a publish with what it stored, and only answered slots are written"),
        }
    }
}
