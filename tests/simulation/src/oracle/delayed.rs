//! Delayed messages: that none is released early, twice or after its recall, and that what is told of them is true.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_core::effect::StoredRun;
use sluice_core::input::RequestId;
use sluice_log::record::{Due, PartChange};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{QueueId, TopicId};
use sluice_protocol::units::Now;

use super::{Book, Oracle, Row};
use crate::laws::{Court, Law};
use crate::rows;

/// A message in the calendar of its topic.
pub(super) type Numbered = (TopicId, u64);

/// What the log says of delayed messages.
#[derive(Clone, Debug, Default)]
pub struct Delays {
    /// What waits, and when it is due.
    pub waiting: BTreeMap<Numbered, i64>,
    /// Where each was released to, by the frame that says so.
    pub released: BTreeMap<Numbered, (QueueId, u64, u64)>,
    /// What was recalled, by the frame that says so.
    pub recalled: BTreeMap<Numbered, u64>,
}

/// What was asked and told of delayed messages, over all crashes.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The latest that the wall clock showed at each reading of the monotonic one.
    walls: BTreeMap<u64, i64>,
    handles: BTreeMap<Bytes, Numbered>,
    /// Handles of messages that a crash lost though they counted as durable; another message may have their number by now.
    lost: BTreeMap<Bytes, Numbered>,
    due_ms: BTreeMap<Numbered, i64>,
    recalls: BTreeMap<RequestId, Bytes>,
    confirmed: BTreeSet<Numbered>,
    asked: BTreeSet<Numbered>,
}

impl Told {
    /// A turn begins.
    pub fn clock(&mut self, now: Now) {
        let wall_ms = self.walls.entry(now.mono_ms).or_insert(now.wall_ms);
        *wall_ms = now.wall_ms.max(*wall_ms);
    }

    /// Somebody asks to recall a message.
    pub fn recalls(&mut self, request: RequestId, handle: &Bytes) {
        self.asked.extend(self.handles.get(handle).or(self.lost.get(handle)));
        self.recalls.insert(request, handle.clone());
    }

    /// The broker is gone, and every answer with it.
    pub fn crashed(&mut self) {
        self.recalls.clear();
        self.walls.clear();
    }
}

impl Book {
    /// Messages were put into a calendar.
    pub(super) fn delayed(&mut self, frame: u64, topic: TopicId, first: u64, due_ms: &[i64], batch: &Bytes, court: &mut Court) {
        let exists = self.topics.contains_key(&topic);
        court.demand(Law::NoFailureOfItsOwn, exists, || {
            format!("messages wait in {topic:?}, which does not exist")
        });
        self.queues.entry(topic.calendar()).or_default();
        self.appended(frame, topic.calendar(), first, batch, court);
        let found: Vec<i64> = rows::times(batch);
        court.demand(Law::NothingEarly, found == due_ms, || {
            format!("{topic:?} from {first} on is due at {due_ms:?}, what was sent says {found:?}")
        });
        let waiting = due_ms.iter().zip(first..).map(|(due_ms, number)| ((topic, number), *due_ms));
        self.delays.waiting.extend(waiting);
    }

    /// Messages left a calendar for a queue.
    #[allow(clippy::too_many_arguments, reason = "the fields of one record, told apart")]
    pub(super) fn released(
        &mut self,
        frame: u64,
        at: Now,
        queue: QueueId,
        first: u64,
        due: &[Due],
        batch: &Bytes,
        told: &Told,
        court: &mut Court,
    ) {
        let identities = rows::identities(batch);
        court.demand(Law::ReleasedOnce, identities.len() == due.len(), || {
            format!("{due:?} were released as {identities:?}")
        });
        let wall_ms = told.walls.get(&at.mono_ms).copied().unwrap_or(at.wall_ms);
        let calendar = self.queues.get(&queue.topic.calendar()).cloned().unwrap_or_default();
        let mut last = None;
        for ((due, identity), offset) in due.iter().zip(&identities).zip(first..) {
            let message = (queue.topic, due.number.0);
            let recalled = self.delays.recalled.contains_key(&message);
            court.demand(Law::RecalledNeverFires, !recalled, || {
                format!("{message:?} was recalled and is released to {queue} {offset}")
            });
            self.demand_committed(message, court);
            let waited = self.delays.waiting.remove(&message);
            court.demand(Law::ReleasedOnce, waited == Some(due.at_ms), || {
                format!(
                    "{message:?} is released to {queue} {offset}; before: {waited:?}, {:?}",
                    self.delays.released.get(&message)
                )
            });
            let sent = calendar.rows.get(due.number.0 as usize).map(|row| (row.producer, row.sequence));
            court.require(Law::ReleasedOnce, sent == Some(*identity), || {
                format!("{message:?} is {sent:?} and is released as {identity:?}")
            });
            court.demand(Law::NothingEarly, due.at_ms <= wall_ms, || {
                format!("{message:?} is due at {} and released at {wall_ms}", due.at_ms)
            });
            court.require(Law::ReleasedOnce, last < Some(*due), || {
                format!("{due:?} is released behind {last:?}")
            });
            last = Some(*due);
            self.delays.released.insert(message, (queue, offset, frame));
        }
        let Some(model) = self.queues.get_mut(&queue) else {
            court.demand(Law::NoFailureOfItsOwn, false, || {
                format!("messages were released to {queue}, which does not exist")
            });
            return;
        };
        let end = model.rows.len() as u64;
        court.demand(Law::OffsetsAreContiguous, first == end, || {
            format!("{queue} ends at {end}, a release begins at {first}")
        });
        for ((producer, sequence), offset) in identities.into_iter().zip(first..) {
            model.rows.push(Row {
                producer,
                sequence,
                frame,
                copy: false,
                stored_wall_ms: at.wall_ms,
            });
            self.growth.stored(queue, offset, model.group(offset));
        }
    }

    /// A message was taken out of its calendar.
    pub(super) fn recalled(&mut self, frame: u64, topic: TopicId, due: Due, told: &Told, court: &mut Court) {
        let message = (topic, due.number.0);
        let waited = self.delays.waiting.remove(&message);
        court.demand(Law::RecallIsKept, waited == Some(due.at_ms), || {
            format!("{message:?} is recalled and did not wait: {waited:?}")
        });
        court.require(Law::RecallIsKept, told.asked.contains(&message), || {
            format!("nobody asked to recall {message:?}")
        });
        self.delays.recalled.insert(message, frame);
    }

    /// Messages went into a part of the calendar or came back, which changes nothing for them; or one was recalled there.
    pub(super) fn parted(&mut self, frame: u64, change: &PartChange, told: &Told, court: &mut Court) {
        match change {
            PartChange::Written { moved, absorbed, dead, .. } => {
                court.exercise(if absorbed.is_empty() { Law::PartWritten } else { Law::PartsMerged });
                dead.iter().for_each(|_| court.exercise(Law::DeadInPart));
                for message in moved {
                    let waits = self.delays.waiting.get(&(message.topic, message.number.0));
                    court.require(Law::ReleasedOnce, waits == Some(&message.at_ms), || {
                        format!("{message:?} goes into a part, and waits for {waits:?}")
                    });
                }
            }
            PartChange::TakenIn { taken, .. } => {
                for message in taken {
                    let waits = self.delays.waiting.get(&(message.topic, message.number.0));
                    court.demand(Law::TakenIn, waits == Some(&message.at_ms), || {
                        format!("{message:?} comes from a part, and waits for {waits:?}")
                    });
                }
            }
            PartChange::Recalled { message, .. } => {
                court.exercise(Law::FarRecalled);
                self.recalled(frame, message.topic, message.due(), told, court);
            }
            PartChange::Dropped { .. } => court.exercise(Law::PartDropped),
        }
    }

    /// A topic went with what waits in it.
    pub(super) fn undelayed(&mut self, topic: TopicId) {
        self.delays.waiting.retain(|(other, _), _| *other != topic);
        self.delays.released.retain(|(other, _), _| *other != topic);
        self.delays.recalled.retain(|(other, _), _| *other != topic);
        self.decisions.forget(topic);
    }
}

impl Oracle {
    /// A delayed message was confirmed with what recalls it.
    pub(super) fn told_recall(&mut self, run: &StoredRun) {
        let Some(recall) = run.recall else { return };
        let message = (run.queue.topic, run.first_offset.0);
        self.told.handles.insert(Bytes::copy_from_slice(&recall.handle), message);
        let before = *self.told.due_ms.entry(message).or_insert(recall.due_ms);
        self.court.demand(Law::RetryIsStoredOnce, before == recall.due_ms, || {
            format!("{message:?} is due at {}, and was told to be at {before}", recall.due_ms)
        });
        let waits = self.book.delays.waiting.get(&message).copied();
        self.court
            .require(Law::NothingEarly, waits.is_none_or(|due_ms| due_ms == recall.due_ms), || {
                format!("{message:?} waits until {waits:?}, told is {recall:?}")
            });
    }

    /// A recall was confirmed: the record is durable.
    pub(super) fn recall_done(&mut self, request: RequestId) {
        let Some(handle) = self.told.recalls.remove(&request) else { return };
        let message = self.told.handles.get(&handle).or(self.told.lost.get(&handle)).copied();
        self.court.demand(Law::ForgedHandleIsRefused, message.is_some(), || {
            format!("{handle:?} recalled something")
        });
        let Some(message) = message else { return };
        let frame = self.book.delays.recalled.get(&message).copied();
        let gone = !self.book.topics.contains_key(&message.0);
        let durable = frame.is_some_and(|frame| frame < self.synced) || gone;
        self.court.demand(Law::RecallIsKept, durable, || {
            format!(
                "the recall of {message:?} is confirmed and recorded in {frame:?}, synced is {}",
                self.synced
            )
        });
        self.told.confirmed.insert(message);
    }

    /// A recall was refused; `None` when the request was no recall.
    pub(super) fn recall_refused(&mut self, request: RequestId, refusal: &Refusal) -> Option<()> {
        let handle = self.told.recalls.remove(&request)?;
        let message = self.told.handles.get(&handle).copied();
        let delays = &self.book.delays;
        let lawful = match (refusal.code, message) {
            (ErrorCode::BadRecallHandle, message) => message.is_none(),
            (ErrorCode::NotWaiting | ErrorCode::TopicDeleted, None) => self.told.lost.contains_key(&handle),
            (ErrorCode::NotWaiting, Some(message)) => {
                self.court.exercise(Law::RecallTooLate);
                let released = delays.released.get(&message).map(|(_, _, frame)| *frame);
                let over = released.or(delays.recalled.get(&message).copied());
                // Of a topic that was deleted meanwhile the book knows no more.
                over.is_some_and(|frame| frame < self.synced)
                    || !self.book.topics.contains_key(&message.0)
                    || self.book.decisions.was_prepared(message)
            }
            (ErrorCode::TopicDeleted, Some(message)) => !self.book.topics.contains_key(&message.0),
            _ => false,
        };
        self.court.require(Law::RecallIsKept, lawful, || {
            format!("the recall of {message:?} is refused: {refusal:?}")
        });
        Some(())
    }

    /// The log was read again: what waits goes on waiting, and what was recalled for good is gone.
    pub(super) fn delays_recovered(&mut self, lazy_loss: bool) {
        if !self.book.delays.waiting.is_empty() {
            self.court.exercise(Law::WaitsOverCrash);
        }
        let (book, told) = (&self.book, &mut self.told);
        if lazy_loss {
            let is_kept = |(topic, number): &Numbered| {
                let calendar = book.queues.get(&topic.calendar());
                calendar.is_some_and(|calendar| *number < calendar.rows.len() as u64)
            };
            told.confirmed.retain(|message| book.delays.recalled.contains_key(message));
            told.due_ms.retain(|message, _| is_kept(message));
            told.lost.extend(told.handles.extract_if(.., |_, message| !is_kept(message)));
        }
        let confirmed = &told.confirmed;
        for message in confirmed.iter() {
            let kept = book.delays.recalled.contains_key(message) || !book.topics.contains_key(&message.0);
            self.court.demand(Law::RecallIsKept, kept, || {
                format!("the recall of {message:?} was confirmed and is gone")
            });
        }
    }
}
