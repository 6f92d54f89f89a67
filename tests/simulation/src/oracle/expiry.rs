//! Until when messages live, computed from what was sent and when it was stored, and what may become of those that expired.

use sluice_log::record::{CursorId, Deadline, LeaseRange, OnExpired, ReturnReason};
use sluice_protocol::ids::QueueId;

use super::book::Book;
use super::cursor::{Cursor, Held};
use super::dealings::each;
use crate::content::{self, Verdict};
use crate::laws::{Court, Law};

impl Book {
    /// From when on a stored message is not handed out any more. A copy in a dead-letter topic has no time to live of its own.
    pub fn expires_ms(&self, queue: QueueId, offset: u64) -> Option<i64> {
        let row = self.queues.get(&queue)?.rows.get(offset as usize)?;
        let own = if row.copy {
            0
        } else {
            content::content(row.producer, row.sequence).ttl_ms
        };
        let topic = self.lifetimes.get(&queue.topic).map_or(0, |(ttl_ms, _)| *ttl_ms);
        let shortest = [own, topic].into_iter().filter(|ttl_ms| *ttl_ms > 0).min()?;
        Some(row.stored_wall_ms + shortest as i64)
    }
}

impl Cursor {
    /// Whether a message is not to be handed out any more. What an operator sent back lives on.
    pub fn has_expired(&self, id: CursorId, offset: u64, wall_ms: i64, book: &Book) -> bool {
        let expired = book.expires_ms(id.queue, offset).is_some_and(|expires_ms| expires_ms <= wall_ms);
        expired && !self.rounds.contains_key(&offset)
    }

    /// A record hands a message out.
    pub(super) fn lives(&self, id: CursorId, offset: u64, wall_ms: i64, book: &Book, court: &mut Court) {
        if book.expires_ms(id.queue, offset).is_some() {
            court.demand(Law::ExpiredIsNotGranted, !self.has_expired(id, offset, wall_ms, book), || {
                let expires_ms = book.expires_ms(id.queue, offset);
                format!("{id:?} {offset} is granted at {wall_ms} and expired at {expires_ms:?}")
            });
        }
    }

    /// A record says until when messages live.
    pub(super) fn dated(id: CursorId, deadlines: &[Deadline], book: &Book, court: &mut Court) {
        for Deadline { offsets, expires_ms } in deadlines {
            for offset in offsets.first.0..offsets.end.0 {
                let expected = book.expires_ms(id.queue, offset);
                court.require(Law::ExpiredIsNotGranted, expected == Some(*expires_ms), || {
                    format!("{id:?} {offset} is said to live until {expires_ms} instead of {expected:?}")
                });
            }
        }
    }

    /// A record ends messages because they expired.
    #[allow(clippy::too_many_arguments, reason = "one record and what it is judged by")]
    pub(super) fn expired(
        &mut self,
        frame: u64,
        id: CursorId,
        messages: &[LeaseRange],
        fate: OnExpired,
        wall_ms: i64,
        book: &Book,
        court: &mut Court,
    ) {
        let bound = book.lifetimes.get(&id.queue.topic).map(|(_, fate)| *fate);
        for (offset, attempts) in each(messages) {
            court.demand(Law::OnlyExpiredEnds, self.has_expired(id, offset, wall_ms, book), || {
                let expires_ms = book.expires_ms(id.queue, offset);
                format!("{id:?} {offset} is ended at {wall_ms} and expires at {expires_ms:?}")
            });
            court.require(Law::ExpiredGetsItsFate, bound == Some(fate), || {
                format!("{id:?} {offset}: {fate:?} instead of {bound:?}")
            });
            self.was_waiting(id, offset, attempts, book, court);
            match fate {
                OnExpired::Skip => {
                    self.held.remove(&offset);
                    self.settled.insert(offset, frame);
                    self.end(offset, frame);
                }
                OnExpired::DeadLetter => {
                    court.exercise(Law::ExpiredGetsItsFate);
                    let given_up = Held::Waiting {
                        attempt: attempts + 1,
                        due_mono_ms: u64::MAX,
                        reason: ReturnReason::Outlived,
                    };
                    self.held.insert(offset, given_up);
                }
            }
        }
    }

    /// What expires was found and nobody has it: a lease is not cut short.
    fn was_waiting(&self, id: CursorId, offset: u64, attempts: u16, book: &Book, court: &mut Court) {
        let lawful = match self.held.get(&offset) {
            Some(Held::Waiting { attempt, due_mono_ms, .. }) => {
                court.exercise(Law::ExpiredAfterReturn);
                *attempt == attempts + 1 && *due_mono_ms != u64::MAX
            }
            Some(Held::Leased { .. }) => false,
            None if book.is_ordered(id) => attempts == 0 && self.chained.get(&offset) == Some(&true),
            None => attempts == 0 && !self.is_touched(offset) && book.ruling(id, offset) == Some(Verdict::Deliver),
        };
        court.require(Law::OnlyExpiredEnds, lawful, || {
            let (held, chained) = (self.held.get(&offset), self.chained.get(&offset));
            format!("{id:?} {offset} expired after {attempts} attempts while {held:?}, {chained:?}")
        });
    }
}
