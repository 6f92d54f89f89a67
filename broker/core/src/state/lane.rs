//! How far a group has come in a lane: the frontier, what is leased and retrying behind it, and what was settled ahead of it.

mod codec;

use std::sync::Arc;

use sluice_log::record::{Deadline, Fate, Holder, LeaseRange, OffsetRange, OnExpired, Parked, ReturnReason};
use sluice_protocol::ids::{Attempt, Position, QueueOffset};
use sluice_protocol::units::Now;

use super::lifetimes::Lifetimes;
use super::order::Order;
use crate::planted::{self, Bug};
use crate::ranges::{OffsetSet, Spans, Timed, range};

/// The due time of a message that had its last attempt: it is never handed out again, only dead-lettered or held.
pub const NEVER_MONO_MS: u64 = u64::MAX;

/// Messages that one holder may settle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which delivery this is, from 1.
    pub attempt: Attempt,
    /// When it ends by itself, on the monotonic clock.
    pub expires_mono_ms: u64,
    /// The record that granted it.
    pub granted: Position,
    /// Who has it.
    pub holder: Arc<Holder>,
}

impl Timed for Lease {
    fn due_mono_ms(&self) -> u64 {
        self.expires_mono_ms
    }
}

/// Messages that wait for another delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How many deliveries there were; 0 when the only one was returned in good order.
    pub attempts: Attempt,
    /// When the next may be, on the monotonic clock; [`NEVER_MONO_MS`] after the last.
    pub due_mono_ms: u64,
    /// Why the last was not settled.
    pub reason: ReturnReason,
}

impl Timed for Retry {
    fn due_mono_ms(&self) -> u64 {
        self.due_mono_ms
    }
}

/// One lane. Whatever lies behind the frontier and is neither leased, retrying nor held is settled or was skipped. Messages beyond it
/// may be all of these too, while one that a plugin failed on waits there to be decided about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The first offset neither leased nor skipped.
    pub frontier: QueueOffset,
    /// What is handed out.
    pub leases: Spans<Lease>,
    /// What came back.
    pub retries: Spans<Retry>,
    /// What was settled at or beyond the frontier.
    pub ahead: OffsetSet,
    /// What a plugin failed on and its binding said to hold.
    pub held: OffsetSet,
    /// In an ordered group all that was found and is not over, by message group.
    pub order: Order,
    /// Until when those live that expire.
    pub lifetimes: Lifetimes,
}

impl Lane {
    pub(super) fn starting_at(frontier: QueueOffset) -> Self {
        Self {
            frontier,
            leases: Spans::default(),
            retries: Spans::default(),
            ahead: OffsetSet::default(),
            held: OffsetSet::default(),
            order: Order::default(),
            lifetimes: Lifetimes::default(),
        }
    }

    /// Messages that an ordered group has found and nobody has.
    pub fn parked(&self) -> u64 {
        self.order.count().saturating_sub(self.order.unjudged() + self.open())
    }

    /// Whether an ordered group has found a message and nobody has it.
    pub fn is_parked(&self, offset: u64) -> bool {
        self.leases.get(offset).is_none() && self.retries.get(offset).is_none() && !self.held.contains(offset)
    }

    /// Messages leased or retrying.
    pub fn open(&self) -> u64 {
        self.leases.count() + self.retries.count()
    }

    /// Whether a message was neither handed out nor settled nor decided about.
    pub fn is_free(&self, offset: u64) -> bool {
        offset >= self.frontier.0
            && self.leases.get(offset).is_none()
            && self.retries.get(offset).is_none()
            && !self.ahead.contains(offset)
            && !self.held.contains(offset)
            && self.order.get(offset).is_none_or(|row| !row.judged)
    }

    /// The parts of a range of which nothing is leased, retrying, settled ahead or held, ascending.
    pub fn free_within(&self, within: OffsetRange) -> Vec<OffsetRange> {
        self.taken_within(within).gaps(within)
    }

    /// One past the last message at or beyond the frontier that is not free.
    pub fn taken_end(&self) -> u64 {
        let taken = [self.leases.end(), self.retries.end(), self.ahead.end(), self.held.end()];
        taken.into_iter().chain([self.order.judged_end()]).fold(0, u64::max)
    }

    /// The messages of a range that are leased, retrying, settled ahead or held.
    fn taken_within(&self, within: OffsetRange) -> OffsetSet {
        let mut taken = OffsetSet::default();
        let leased = self.leases.within(within).map(|(piece, _)| piece);
        let retrying = self.retries.within(within).map(|(piece, _)| piece);
        let over = self.ahead.within(within).chain(self.held.within(within));
        leased
            .chain(retrying)
            .chain(over)
            .for_each(|piece| taken.insert(piece.first.0, piece.end.0));
        let parked = self.order.within(within.first.0..within.end.0).filter(|(_, row)| row.judged);
        parked.for_each(|(offset, _)| taken.insert(offset, offset + 1));
        taken
    }

    /// A message on which a plugin failed got what its binding says.
    pub(super) fn decided(&mut self, offset: QueueOffset, fate: &Fate, at: Now) {
        let end = QueueOffset(offset.0 + 1);
        match fate {
            Fate::DeadLettered { .. } | Fate::Skipped => self.settled(offset, end),
            Fate::Held => {
                // It is judged again when it is released, and its deadline found with that.
                self.lifetimes.forget(OffsetRange { first: offset, end });
                self.held.insert(offset.0, end.0);
            }
            Fate::Delivered if self.order.get(offset.0).is_some() => self.accept(offset.0),
            Fate::Delivered => {
                let due = Retry {
                    attempts: Attempt(0),
                    due_mono_ms: at.mono_ms,
                    reason: ReturnReason::Closed,
                };
                self.retries.insert(OffsetRange { first: offset, end }, due);
            }
        }
    }

    /// What is held is to be judged again: the frontier goes back to the first of it, and what is over between is settled ahead.
    pub(super) fn release_held(&mut self) {
        let Some(first) = self.held.first().filter(|first| *first < self.frontier.0) else {
            self.held = OffsetSet::default();
            return;
        };
        let behind = range(first, self.frontier.0);
        for over in self.free_within(behind) {
            self.ahead.insert(over.first.0, over.end.0);
        }
        self.frontier = QueueOffset(first);
        self.held = OffsetSet::default();
    }

    pub(super) fn move_frontier(&mut self, frontier: QueueOffset) {
        let before = self.frontier;
        self.frontier = self.frontier.max(frontier);
        if before < self.frontier && !self.lifetimes.is_empty() {
            let passed = range(before.0, self.frontier.0);
            let over = self.taken_within(passed).gaps(passed);
            over.into_iter().for_each(|piece| self.lifetimes.forget(piece));
        }
        self.ahead.drop_below(self.frontier.0);
        let Self {
            order,
            leases,
            retries,
            held,
            ..
        } = self;
        let is_free = |offset| leases.get(offset).is_none() && retries.get(offset).is_none() && !held.contains(offset);
        order.passed(before.0, self.frontier.0, |offset| !is_free(offset), is_free);
    }

    /// What an ordered group has found: it waits for those before it in its message group, and for a member.
    pub(super) fn park(&mut self, parked: &[Parked]) {
        self.ordering(|order, is_free| parked.iter().for_each(|message| order.park(message, is_free)));
    }

    fn accept(&mut self, offset: u64) {
        self.ordering(|order, is_free| order.accept(offset, is_free));
    }

    /// Changes the order with what says whether nobody has a message.
    fn ordering(&mut self, change: impl FnOnce(&mut Order, &dyn Fn(u64) -> bool)) {
        let Self {
            order,
            leases,
            retries,
            held,
            ..
        } = self;
        change(order, &|offset| {
            leases.get(offset).is_none() && retries.get(offset).is_none() && !held.contains(offset)
        });
    }

    /// Has those of a range seen anew that somebody got or gave back.
    fn refresh(&mut self, offsets: OffsetRange) {
        if self.order.is_empty() {
            return;
        }
        let rows: Vec<u64> = self
            .order
            .within(offsets.first.0..offsets.end.0)
            .map(|(offset, _)| offset)
            .collect();
        self.ordering(|order, is_free| rows.into_iter().for_each(|offset| order.refresh(offset, is_free)));
    }

    /// Forgets those of a range that are over.
    fn forget(&mut self, first: u64, end: u64) {
        if self.order.is_empty() {
            return;
        }
        let rows: Vec<u64> = self.order.within(first..end).map(|(offset, _)| offset).collect();
        self.ordering(|order, is_free| rows.into_iter().for_each(|offset| order.remove(offset, is_free)));
    }

    pub(super) fn granted(
        &mut self,
        granted: Position,
        holder: &Holder,
        leases: &[LeaseRange],
        frontier: QueueOffset,
        expires_mono_ms: u64,
    ) {
        let holder = Arc::new(holder.clone());
        for lease in leases {
            self.retries.take(lease.offsets, |_, _| {});
            self.leases.insert(
                lease.offsets,
                Lease {
                    attempt: lease.attempt,
                    expires_mono_ms,
                    granted,
                    holder: Arc::clone(&holder),
                },
            );
            self.lifetimes.lease(lease.offsets);
            self.refresh(lease.offsets);
        }
        self.move_frontier(frontier);
    }

    pub(super) fn settled(&mut self, first: QueueOffset, end: QueueOffset) {
        let offsets = OffsetRange { first, end };
        self.leases.take(offsets, |_, _| {});
        self.retries.take(offsets, |_, _| {});
        self.held.remove(first.0, end.0);
        self.ahead.insert(first.max(self.frontier).0, end.0);
        self.lifetimes.forget(offsets);
        self.forget(first.0, end.0);
    }

    /// Messages expired that nobody has.
    pub(super) fn expired(&mut self, messages: &[LeaseRange], fate: OnExpired) {
        for LeaseRange { offsets, attempt } in messages {
            match fate {
                OnExpired::Skip => self.settled(offsets.first, offsets.end),
                OnExpired::DeadLetter => {
                    let given_up = Retry {
                        attempts: *attempt,
                        due_mono_ms: NEVER_MONO_MS,
                        reason: ReturnReason::Outlived,
                    };
                    self.retries.insert(*offsets, given_up);
                    self.lifetimes.forget(*offsets);
                    self.refresh(*offsets);
                }
            }
        }
    }

    /// Messages were found that expire.
    pub(super) fn deadlines_found(&mut self, deadlines: &[Deadline]) {
        self.lifetimes.found(deadlines);
    }

    pub(super) fn returned(&mut self, leases: &[LeaseRange], due_mono_ms: u64, reason: ReturnReason) {
        for lease in leases {
            self.leases.take(lease.offsets, |_, _| {});
            let attempts = match reason {
                ReturnReason::Expired if planted::is(Bug::AttemptNotCounted) => Attempt(lease.attempt.0.saturating_sub(1)),
                ReturnReason::Closed => Attempt(lease.attempt.0.saturating_sub(1)),
                ReturnReason::Nacked | ReturnReason::Expired | ReturnReason::ConnectionLost | ReturnReason::Outlived => lease.attempt,
            };
            self.retries.insert(
                lease.offsets,
                Retry {
                    attempts,
                    due_mono_ms,
                    reason,
                },
            );
            match due_mono_ms {
                // What had its last attempt is given up for that reason.
                NEVER_MONO_MS => self.lifetimes.forget(lease.offsets),
                _ => self.lifetimes.give_back(lease.offsets),
            }
            self.refresh(lease.offsets);
            let exhausted = due_mono_ms == NEVER_MONO_MS && planted::is(Bug::ExhaustedLetsPass);
            if planted::is(Bug::OrderLostOnRetry) || exhausted {
                self.forget(lease.offsets.first.0, lease.offsets.end.0);
            }
        }
    }

    /// Messages that were given up are due again, after as many deliveries as each had.
    pub(super) fn sent_back(&mut self, messages: &[LeaseRange], at: Now) {
        for LeaseRange { offsets, attempt } in messages {
            self.leases.take(*offsets, |_, _| {});
            self.held.remove(offsets.first.0, offsets.end.0);
            self.ahead.remove(offsets.first.0, offsets.end.0);
            self.lifetimes.forget(*offsets);
            let due = Retry {
                attempts: *attempt,
                due_mono_ms: at.mono_ms,
                reason: ReturnReason::Closed,
            };
            self.retries.insert(*offsets, due);
        }
    }

    pub(super) fn extended(&mut self, offsets: OffsetRange, expires_mono_ms: u64) {
        if planted::is(Bug::ExtensionNotApplied) {
            return;
        }
        let mut pieces = Vec::new();
        self.leases.take(offsets, |piece, lease| pieces.push((piece, lease.clone())));
        for (piece, lease) in pieces {
            self.leases.insert(piece, Lease { expires_mono_ms, ..lease });
        }
    }

    /// The broker started anew: the streams of its last life are gone, so what they held is due at once.
    pub(super) fn opened(&mut self, at: Now) {
        let held: Vec<LeaseRange> = self
            .leases
            .iter()
            .filter(|(_, lease)| matches!(*lease.holder, Holder::Stream { .. }))
            .map(|(offsets, lease)| LeaseRange {
                offsets,
                attempt: lease.attempt,
            })
            .collect();
        self.returned(&held, at.mono_ms, ReturnReason::ConnectionLost);
    }

    pub(super) fn trimmed(&mut self, start: QueueOffset) {
        let lost = range(0, start.0);
        self.leases.take(lost, |_, _| {});
        self.retries.take(lost, |_, _| {});
        self.held.drop_below(start.0);
        self.lifetimes.forget(lost);
        self.ordering(|order, is_free| order.drop_below(start.0, is_free));
        self.move_frontier(start);
    }
}
