//! Giving up: messages that had their last attempt go to the group's dead-letter topic, or stay held where they are.

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, LeaseRange, OnExhausted, ReturnReason, TopicSettings};
use sluice_protocol::ids::{Pass, Position, QueueId, QueueIndex, QueueOffset};
use sluice_protocol::names::DEAD_LETTER_PREFIX;

use super::{LaneRun, ReadingKey, cursor_of, is_current, key_of};
use crate::broker::Core;
use crate::effect::{Copied, DeadLetter, Effect, FetchId};
use crate::limits::{FETCH_AGAIN_MS, FETCHES_MAX};
use crate::ranges::range;
use crate::state::group::is_last;
use crate::state::lane::NEVER_MONO_MS;

/// A message that is being fetched for the dead-letter topic.
#[derive(Clone, Copy, Debug)]
pub(super) struct GivingUp {
    pub(super) cursor: CursorId,
    pub(super) pass: Pass,
    pub(super) priority: u8,
    pub(super) offset: QueueOffset,
    pub(super) why: Why,
}

/// Why a message is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It had its last attempt.
    Exhausted,
    /// A plugin failed on it.
    Culprit,
}

/// A reason as the dead letter says it.
fn reason_text(reason: ReturnReason) -> &'static str {
    match reason {
        ReturnReason::Nacked => "the consumer asked for another delivery",
        ReturnReason::Expired => "the consumer did not settle it in time",
        ReturnReason::ConnectionLost => "the consumer's connection was lost",
        ReturnReason::Closed => "the consumer left",
        ReturnReason::Outlived => "expired",
    }
}

impl Core {
    /// Asks for the messages of a lane that had their last attempt or expired, some at a time. What fails in a group that reads a dead-letter topic
    /// stays there, held.
    pub(super) fn give_up(&mut self, cursor: CursorId, lane: &mut LaneRun) {
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        let Some(durable) = entry.level(lane.priority) else { return };
        if durable.retries.latest() != Some(NEVER_MONO_MS) || lane.fetch_again_mono_ms.is_some_and(|time| self.now.mono_ms < time) {
            return;
        }
        lane.fetch_again_mono_ms = None;
        let (Some(topic), Some(group)) = (self.state.topics.get(&cursor.queue.topic), self.state.groups.get(&cursor.group)) else {
            return;
        };
        if topic.name.starts_with(DEAD_LETTER_PREFIX) {
            return;
        }
        // What expired goes where its topic says, whatever the group does with what it failed on.
        let holds = group.settings.on_exhausted == OnExhausted::Hold;
        let given_up = |reason| !holds || reason == ReturnReason::Outlived;
        let (pass, priority) = (entry.pass, lane.priority);
        let exhausted = durable.retries.due(NEVER_MONO_MS, NEVER_MONO_MS);
        for (offsets, retry) in exhausted.filter(|(_, retry)| given_up(retry.reason)) {
            for offset in offsets.first.0..offsets.end.0 {
                if lane.giving_up.len() >= FETCHES_MAX {
                    return;
                }
                if lane.giving_up.insert(offset) {
                    let fetch = FetchId(self.consuming.next_id());
                    self.consuming.fetches.insert(
                        fetch,
                        GivingUp {
                            cursor,
                            pass,
                            priority,
                            offset: QueueOffset(offset),
                            why: Why::Exhausted,
                        },
                    );
                    let dead = DeadLetter {
                        topic: topic.name.clone(),
                        group: group.name.clone(),
                        attempts: retry.attempts.0,
                        reason: reason_text(retry.reason).to_owned(),
                        plugin: None,
                    };
                    let (source, offset) = (cursor.queue, QueueOffset(offset));
                    self.journal.release(
                        Position::default(),
                        Effect::Fetch {
                            fetch,
                            source,
                            offset,
                            copy: Copied::DeadLetter(dead),
                        },
                    );
                }
            }
        }
    }

    /// Stores the copy and settles the origin in one record. What retention took meanwhile is settled and counted.
    pub(crate) fn fetched(&mut self, fetch: FetchId, batch: Option<Bytes>) {
        let Some(given_up) = self.consuming.fetches.remove(&fetch) else {
            return;
        };
        match given_up.why {
            Why::Exhausted => self.fetched_exhausted(given_up, batch),
            Why::Culprit => self.fetched_culprit(fetch, given_up, batch),
        }
    }

    fn fetched_exhausted(&mut self, given_up: GivingUp, batch: Option<Bytes>) {
        let GivingUp {
            cursor,
            pass,
            priority,
            offset,
            ..
        } = given_up;
        let Some(entry) = self.state.cursors.get(&cursor).filter(|entry| entry.pass == pass) else {
            return;
        };
        if let Some(lane) = self.consuming.lane_mut(cursor, priority) {
            lane.giving_up.remove(&offset.0);
        }
        self.consuming.wake(key_of(cursor));
        if entry.retry(offset.0).is_none_or(|retry| retry.due_mono_ms != NEVER_MONO_MS) {
            return;
        }
        let ending = self.ending(cursor, &[range(offset.0, offset.0 + 1)]);
        let Some(batch) = batch else {
            self.counters.lost_to_retention += 1;
            let position = self.record(Change::Settled {
                cursor,
                pass,
                offsets: vec![range(offset.0, offset.0 + 1)],
            });
            return self.ended(cursor, ending, position);
        };
        let Some(to) = self.dead_letter_queue(cursor) else { return };
        let at_offset = self.state.queues.get(&to).map_or(QueueOffset(0), |queue| queue.end);
        self.note_uses_of(to, at_offset, &batch);
        let position = self.record(Change::DeadLettered {
            cursor,
            pass,
            offset,
            to,
            at_offset,
            batch,
        });
        self.ended(cursor, ending, position);
        self.counters.dead_lettered += 1;
    }

    /// The message is there and could not be read: it stays where it is, and is asked for again after a while.
    pub(crate) fn fetch_failed(&mut self, fetch: FetchId) {
        let Some(GivingUp {
            cursor,
            pass,
            priority,
            offset,
            why,
        }) = self.consuming.fetches.remove(&fetch)
        else {
            return;
        };
        let again_mono_ms = self.now.mono_ms + FETCH_AGAIN_MS;
        if is_current(&self.state, cursor, pass)
            && let Some(lane) = self.consuming.lane_mut(cursor, priority)
        {
            match why {
                Why::Exhausted => drop(lane.giving_up.remove(&offset.0)),
                Why::Culprit => lane.fetch_culprit_again(offset, fetch),
            }
            lane.fetch_again_mono_ms = Some(again_mono_ms);
            self.consuming.wake(key_of(cursor));
        }
    }

    /// The queue of the group's dead-letter topic, which is created when it is needed first.
    pub(super) fn dead_letter_queue(&mut self, cursor: CursorId) -> Option<QueueId> {
        let name = self.state.letters_name(cursor.group)?;
        let topic = match self.state.topic_named(&name) {
            Some(topic) => topic,
            None => {
                let topic = self.state.meta.next_topic;
                let settings = TopicSettings {
                    queues: 1,
                    ttl_ms: 0,
                    ..self.config.topic
                };
                self.record(Change::TopicCreated { topic, name, settings });
                topic
            }
        };
        Some(QueueId {
            topic,
            index: QueueIndex(0),
        })
    }

    /// Sets aside what had its last attempt on a stream of the broker's last life.
    pub(super) fn mark_exhausted(&mut self, key: ReadingKey) {
        let Some(attempts_max) = self.state.groups.get(&key.1).map(|group| group.settings.attempts_max) else {
            return;
        };
        let lanes = self.consuming.readings.get(&key).map_or(0, |reading| reading.lanes.len());
        for cursor in (0..lanes).map(|index| cursor_of(key, index)) {
            let Some(entry) = self.state.cursors.get(&cursor) else { continue };
            let pass = entry.pass;
            let due = entry
                .levels()
                .flat_map(|(_, lane)| lane.retries.due(0, NEVER_MONO_MS - 1))
                // What left in good order, or was sent back, has its next round before it.
                .filter(|(_, retry)| is_last(retry.attempts.0, attempts_max) && retry.reason != ReturnReason::Closed);
            let exhausted: Vec<_> = due
                .map(|(offsets, retry)| {
                    (
                        LeaseRange {
                            offsets,
                            attempt: retry.attempts,
                        },
                        retry.reason,
                    )
                })
                .collect();
            for (lease, reason) in exhausted {
                self.record(Change::Returned {
                    cursor,
                    pass,
                    leases: vec![lease],
                    due_mono_ms: NEVER_MONO_MS,
                    reason,
                });
            }
        }
    }
}
