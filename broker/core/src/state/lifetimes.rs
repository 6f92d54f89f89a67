//! Until when the messages of a lane live that were found and are not over, as far as they expire at all.

use sluice_log::record::{Deadline, OffsetRange, put_deadlines, take_deadlines};
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::planted::{self, Bug};
use crate::ranges::{Spans, Timed};

/// From when on a message is not handed out any more: wall clock, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ExpiresAt(i64);

impl Timed for ExpiresAt {
    /// Here on the wall clock; nothing was before 1970.
    fn due_mono_ms(&self) -> u64 {
        self.0.max(0).unsigned_abs()
    }
}

/// The deadlines of a lane. What is handed out is kept apart, so that nobody looks through it for what expired: a lease is not cut short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetimes {
    /// Of messages that nobody has.
    free: Spans<ExpiresAt>,
    /// Of messages that are handed out.
    leased: Spans<ExpiresAt>,
}

impl Lifetimes {
    /// Whether no message expires.
    pub fn is_empty(&self) -> bool {
        self.free.ranges() == 0 && self.leased.ranges() == 0
    }

    /// The messages that nobody has and that expired at this time or before, by time and then offset.
    pub fn over(&self, wall_ms: i64) -> impl Iterator<Item = OffsetRange> + '_ {
        let until = wall_ms.max(0).unsigned_abs();
        self.free.due(0, until).map(|(offsets, _)| offsets)
    }

    /// Takes in the deadlines of messages that nobody has.
    pub(super) fn found(&mut self, deadlines: &[Deadline]) {
        for Deadline { offsets, expires_ms } in deadlines {
            self.free.insert(*offsets, ExpiresAt(*expires_ms));
        }
    }

    /// Messages are handed out.
    pub(super) fn lease(&mut self, offsets: OffsetRange) {
        if self.free.ranges() > 0 {
            let leased = &mut self.leased;
            self.free.take(offsets, |piece, at| leased.insert(piece, *at));
        }
    }

    /// Messages come back and will be handed out again.
    pub(super) fn give_back(&mut self, offsets: OffsetRange) {
        if self.leased.ranges() > 0 {
            let free = &mut self.free;
            self.leased.take(offsets, |piece, at| free.insert(piece, *at));
        }
    }

    /// Messages are over, or live on whatever their time to live was.
    pub(super) fn forget(&mut self, offsets: OffsetRange) {
        if !self.is_empty() {
            self.free.take(offsets, |_, _| {});
            self.leased.take(offsets, |_, _| {});
        }
    }

    /// As a checkpoint holds them: of what nobody has, then of what is handed out.
    pub(super) fn encode(&self, to: &mut Writer) {
        for spans in [&self.free, &self.leased] {
            let mut all: Vec<Deadline> = spans.iter().map(|(offsets, at)| Deadline { offsets, expires_ms: at.0 }).collect();
            if planted::is(Bug::DeadlinesForgotten) {
                all.clear();
            }
            put_deadlines(to, &all);
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut lifetimes = Self::default();
        for spans in [&mut lifetimes.free, &mut lifetimes.leased] {
            for Deadline { offsets, expires_ms } in take_deadlines(from)? {
                spans.insert(offsets, ExpiresAt(expires_ms));
            }
        }
        Ok(lifetimes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranges::range;

    #[test]
    fn what_is_handed_out_is_not_looked_through_for_what_expired() {
        let mut lifetimes = Lifetimes::default();
        let deadline = Deadline {
            offsets: range(0, 10),
            expires_ms: 50,
        };
        lifetimes.found(&[deadline]);
        lifetimes.lease(range(8, 10));
        lifetimes.lease(range(2, 4));
        assert_eq!(lifetimes.over(49).count(), 0);
        assert_eq!(lifetimes.over(50).collect::<Vec<_>>(), [range(0, 2), range(4, 8)]);
        lifetimes.give_back(range(3, 4));
        lifetimes.forget(range(0, 2));
        assert_eq!(lifetimes.over(50).collect::<Vec<_>>(), [range(3, 4), range(4, 8)]);
    }
}
