//! What is left to be done: how much each group has still before it, and that it says so itself.

use sluice_core::effect::{CursorInfo, GroupInfo};
use sluice_log::record::CursorId;
use sluice_protocol::ids::{GroupId, QueueId};

use super::asked::Asked;
use super::book::Book;
use super::{Cursor, Oracle};
use crate::laws::{Court, Law};

impl Oracle {
    /// What each cursor has still before it: messages beyond the frontier, and messages neither settled nor dead-lettered.
    /// Messages that failed in a group of a dead-letter topic stay there and do not count.
    pub fn lags(&self) -> Vec<(CursorId, u64)> {
        let lag = |(id, cursor): (&CursorId, &Cursor)| {
            let end = self.book.queues.get(&id.queue).map_or(0, |queue| queue.rows.len() as u64);
            let stays = self.book.topics.get(&id.queue.topic).is_some_and(|name| name.starts_with("%DLQ%"));
            let stays = stays || self.book.holds_exhausted(*id);
            let waiting = cursor.held.values().filter(|held| !held.is_exhausted());
            let held = if stays { waiting.count() } else { cursor.held.len() };
            // What waits behind one that stays for good stays too.
            let is_head = |offset: u64| cursor.is_head(*id, offset, &self.book) && !self.book.waits_elsewhere(*id, offset);
            let heads = |offset: &&u64| !cursor.held.contains_key(*offset) && cursor.chained[*offset] && is_head(**offset);
            let parked = cursor.chained.keys().filter(heads).count();
            let untouched = cursor.untouched(*id, &self.book);
            (*id, end.saturating_sub(cursor.frontier) + (held + parked) as u64 + untouched)
        };
        self.book.cursors.iter().map(lag).collect()
    }

    /// The members of broadcast groups that are absent for so long that the broker should have forgotten them.
    pub fn overdue(&self, mono_ms: u64) -> Vec<String> {
        self.asked.members.overdue(mono_ms, &self.book)
    }

    /// A group describes itself when all is over: it must say that nothing is left.
    pub fn described(&mut self, group: &GroupInfo, cursors: &[CursorInfo]) {
        let id = self.book.group_named(&group.name);
        let paused = self.book.pauses.iter().filter(|(other, _)| Some(*other) == id).count();
        self.court.require(Law::PauseHolds, group.pauses.len() == paused, || {
            format!("{} says {:?}, {paused} are recorded", group.name, group.pauses)
        });
        for cursor in cursors {
            let id = self.book.group_named(&group.name).map(|group| CursorId {
                group,
                queue: cursor.queue,
            });
            let model = id.and_then(|id| self.book.cursors.get(&id));
            let (parked, lost) = model.map_or((0, 0), |model| (model.parked.len() as u64, model.lost));
            self.court.require(Law::LossesAreTold, cursor.lost == lost, || {
                format!("{} says {cursor:?}, {lost} are recorded as lost", group.name)
            });
            self.court.require(Law::FateAsBound, cursor.culprits_held == parked, || {
                format!("{} says {cursor:?}, {parked} are held", group.name)
            });
        }
        for cursor in cursors.iter().filter(|cursor| !cursor.topic.starts_with("%DLQ%")) {
            let id = self.book.group_named(&group.name).map(|group| CursorId {
                group,
                queue: cursor.queue,
            });
            // What had its last attempt may stay for good, or a culprit, and then so does what waits behind it.
            let stays = id.is_some_and(|id| self.book.holds_exhausted(id));
            let elsewhere = self.book.has_grown(cursor.queue.topic);
            let parked = if cursor.culprits_held > 0 || elsewhere { 0 } else { cursor.parked };
            let open = if stays { 0 } else { cursor.retrying + parked };
            // A lane in which there is no message need not have been looked through by then; that nothing is left there the records say.
            let prioritized = self.book.queues.get(&cursor.queue).is_some_and(|queue| queue.prioritized);
            let behind = if prioritized { 0 } else { cursor.end.0 - cursor.frontier.0 };
            let left = behind + cursor.leased + open + cursor.matched + cursor.set_aside;
            self.court
                .demand(Law::EverythingIsFinished, left == 0, || format!("{} says {cursor:?}", group.name));
        }
    }
}

impl Book {
    /// Retention moves the start of a queue, no further than it was asked to: what it takes from groups that were not done with it is said by the record. At least what a group holds
    /// counts, and at most what it has not finished as far as the records say.
    pub(super) fn count_losses(&mut self, queue: QueueId, start: u64, lost: &[(GroupId, u64)], asked: &mut Asked, court: &mut Court) {
        court.demand(Law::NoFailureOfItsOwn, asked.trims(queue) >= start, || {
            format!("{queue} was trimmed further than asked")
        });
        asked.members.trimmed(queue, start, court);
        for (id, cursor) in self.cursors.iter().filter(|(id, _)| id.queue == queue) {
            let said = lost
                .iter()
                .filter(|(group, _)| *group == id.group)
                .map(|(_, messages)| messages)
                .sum::<u64>();
            let kept_from = self.queues.get(&queue).map_or(0, |model| model.start);
            let held = cursor.held.range(..start).count() + cursor.parked.range(..start).count();
            // In which lane a message is that none has come to the broker does not know, so neither whether it was settled ahead there.
            let open = |offset: &u64| cursor.has_lanes() || cursor.is_before(self.lane(*id, *offset), *offset);
            let open = (kept_from..start).filter(open).count();
            let right = held as u64 <= said && said <= open as u64;
            court.demand(Law::LossesAreTold, right, || {
                format!("{id:?} loses {held} to {open} messages below {start}, the record says {said}")
            });
        }
        for (group, messages) in lost {
            let cursor = self.cursors.get_mut(&CursorId { group: *group, queue });
            court.demand(Law::LossesAreTold, cursor.is_some(), || {
                format!("{group:?} loses messages of {queue}, which it does not read")
            });
            cursor.into_iter().for_each(|cursor| cursor.lost += messages);
        }
    }
}
