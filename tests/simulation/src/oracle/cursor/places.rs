//! How far the lanes of a cursor have come, and what an ordered group has found there.

use sluice_log::record::{CursorId, Parked};

use super::Cursor;
use crate::content::Verdict;
use crate::laws::{Court, Law};
use crate::oracle::asked::Asked;
use crate::oracle::book::Book;

impl Cursor {
    /// Whether it has lanes for higher priorities.
    pub fn has_lanes(&self) -> bool {
        !self.upper.is_empty()
    }

    /// Whether no message before this one in its message group is open; in a group without order whatever it is.
    pub fn is_head(&self, id: CursorId, offset: u64, book: &Book) -> bool {
        if !book.is_ordered(id) {
            return true;
        }
        let Some(group) = book.message_group(id, offset) else { return true };
        let mut before = self.chained.range(..offset);
        !before.any(|(other, _)| book.message_group(id, *other).as_ref() == Some(&group))
    }

    /// Whether whatever is over in the message group of this one was so in a frame before this one.
    pub fn follows(&self, id: CursorId, offset: u64, frame: u64, book: &Book) -> bool {
        let Some(group) = book.message_group(id, offset).filter(|_| book.is_ordered(id)) else {
            return true;
        };
        let mut late = self.ended.iter().chain(&self.passed).filter(|(_, over)| **over >= frame);
        !late.any(|(other, _)| book.message_group(id, *other).as_ref() == Some(&group))
    }

    /// A message of an ordered group is over.
    pub fn end(&mut self, offset: u64, frame: u64) {
        if self.chained.remove(&offset).is_some() {
            self.ended.insert(offset, frame);
        }
    }

    /// An ordered group found a message.
    pub(super) fn found(&mut self, id: CursorId, message: &Parked, book: &Book, court: &mut Court) {
        let offset = message.offset.0;
        let lawful = !message.judged || book.ruling(id, offset) == Some(Verdict::Deliver);
        court.demand(Law::RulingVerdict, lawful && book.is_ordered(id), || {
            format!(
                "{message:?} is parked in {id:?}, the ruling filter says {:?}",
                book.ruling(id, offset)
            )
        });
        let (group, priority) = (book.message_group(id, offset), book.priority(id, offset));
        court.require(
            Law::OrderPerGroup,
            group.is_some() == (message.group != 0) && priority == message.priority,
            || format!("{message:?} is of {group:?} and has priority {priority}"),
        );
        court.require(Law::AckedNeverAgain, !self.is_touched(offset), || {
            format!("{id:?} {message:?} was handed out or is over")
        });
        if !self.is_head(id, offset, book) {
            court.exercise(Law::ParkedBehind);
        }
        self.chained.insert(offset, message.judged);
    }

    /// Where a lane stands. One that is not there yet has all to come to that the one of priority 0 has.
    pub fn frontier_of(&self, lane: u8) -> u64 {
        match lane {
            0 => self.frontier,
            _ => self.upper.get(&lane).copied().unwrap_or(self.start),
        }
    }

    /// How many messages of higher priorities no lane has come to.
    pub fn untouched(&self, id: CursorId, book: &Book) -> u64 {
        let Some(queue) = book.queues.get(&id.queue).filter(|_| !book.is_ordered(id)) else {
            return 0;
        };
        let open = (self.start.max(queue.start)..queue.rows.len() as u64).filter(|offset| {
            let priority = queue.priority(*offset);
            priority > 0 && *offset >= self.frontier_of(priority) && !self.is_touched(*offset)
        });
        open.count() as u64
    }

    #[allow(clippy::too_many_arguments, reason = "one frontier and what it is judged by")]
    pub(super) fn moved(
        &mut self,
        frame: u64,
        id: CursorId,
        lane: u8,
        to: u64,
        mono_ms: u64,
        book: &Book,
        asked: &Asked,
        court: &mut Court,
    ) {
        let before = self.frontier_of(lane);
        court.demand(Law::RulingVerdict, to >= before, || {
            format!("{id:?}: the frontier of lane {lane} fell from {before} to {to}")
        });
        let queue = book.queues.get(&id.queue);
        let (start, end) = queue.map_or((0, 0), |queue| (queue.start, queue.rows.len() as u64));
        court.demand(Law::RulingVerdict, to <= end.max(before), || {
            format!("{id:?}: the frontier {to} lies behind the end {end}")
        });
        let ordered = book.is_ordered(id);
        for offset in before..to.min(end) {
            if !ordered && book.priority(id, offset) != lane {
                continue;
            }
            let over = self.is_touched(offset) || self.chained.get(&offset) == Some(&true);
            if asked.trials.was_reported(id, offset) {
                let lawful = over || offset < start || !asked.trials.is_pending(id, offset, mono_ms);
                court.demand(Law::SetAsideIsNotPassed, lawful, || {
                    format!("{id:?} {offset} is set aside and was passed at {mono_ms}")
                });
            }
            let lawful = over || offset < start || book.ruling(id, offset) != Some(Verdict::Deliver);
            court.demand(Law::RulingVerdict, lawful, || {
                format!("{id:?} {offset} was skipped though it matches")
            });
        }
        match lane {
            0 => self.frontier = self.frontier.max(to),
            _ => drop(self.upper.insert(lane, to.max(before))),
        }
        let passed: Vec<u64> = self
            .chained
            .range(..self.frontier)
            .filter(|(_, judged)| !**judged)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in passed {
            if !self.is_touched(offset) {
                self.chained.remove(&offset);
                self.passed.insert(offset, frame);
            }
        }
    }
}
