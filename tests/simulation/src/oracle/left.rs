//! What is left to be done: how much each group has still before it, and that it says so itself.

use sluice_core::effect::{CursorInfo, GroupInfo};
use sluice_log::record::CursorId;

use super::{Cursor, Oracle};
use crate::laws::Law;

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
            let parked = id
                .and_then(|id| self.book.cursors.get(&id))
                .map_or(0, |model| model.parked.len() as u64);
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
