//! The open messages of an ordered group in one queue, by message group: which of them may be handed out, and which wait for one before them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use sluice_log::record::Parked;
use sluice_protocol::ids::QueueOffset;

/// The highest priority.
const PRIORITY_MAX: u8 = 9;

/// An open message: parked, handed out, retrying or held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The hash of its message group; 0 when it has none.
    pub group: u64,
    /// Its priority.
    pub priority: u8,
    /// Whether it matched; if not, it is to be decided about or judged again, and those behind it wait.
    pub judged: bool,
}

/// Every open message that was found, and of those that nobody was given the first of each message group: the heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    rows: BTreeMap<u64, Row>,
    groups: BTreeMap<u64, BTreeSet<u64>>,
    /// The heads that wait for nothing but a member, the highest priority first.
    ready: BTreeSet<(u8, u64)>,
    /// Messages that are not judged.
    unjudged: u64,
}

impl Order {
    /// Whether no message is open.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What is known of an open message.
    pub fn get(&self, offset: u64) -> Option<Row> {
        self.rows.get(&offset).copied()
    }

    /// How many are open.
    pub fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// How many of these are to be judged or decided about.
    pub fn unjudged(&self) -> u64 {
        self.unjudged
    }

    /// The open messages of a range, ascending.
    pub fn within(&self, offsets: Range<u64>) -> impl Iterator<Item = (u64, Row)> + '_ {
        let offsets = offsets.start..offsets.end.max(offsets.start);
        self.rows.range(offsets).map(|(&offset, &row)| (offset, row))
    }

    /// How many messages may be handed out now.
    pub fn ready(&self) -> u64 {
        self.ready.len() as u64
    }

    /// Messages that may be handed out now and whose message group does not wait for anything else: as many as asked for by rank, and as many
    /// of each priority by offset, so that whichever has its turn is among them.
    pub fn ready_heads<'a>(&'a self, most: usize, waits: &'a dyn Fn(u64) -> bool) -> impl Iterator<Item = (u8, u64)> + 'a {
        let of_rank = move |rank: u8| {
            let ranked = self.ready.range((rank, 0)..=(rank, u64::MAX));
            ranked
                .filter(|(_, offset)| !self.get(*offset).is_some_and(|row| waits(row.group)))
                .take(most)
        };
        (0..=PRIORITY_MAX)
            .flat_map(of_rank)
            .map(|&(rank, offset)| (PRIORITY_MAX - rank, offset))
    }

    /// Whether a message of a message group is open.
    pub fn has_group(&self, group: u64) -> bool {
        self.groups.contains_key(&group)
    }

    /// The lowest open message.
    pub fn first(&self) -> Option<u64> {
        self.rows.first_key_value().map(|(&offset, _)| offset)
    }

    /// One past the highest message that is judged; 0 when there is none.
    pub fn judged_end(&self) -> u64 {
        let judged = self.rows.iter().rev().find(|(_, row)| row.judged);
        judged.map_or(0, |(&offset, _)| offset + 1)
    }

    /// Whether a message is the first of its message group that is open.
    pub fn is_head(&self, offset: u64) -> bool {
        let Some(row) = self.rows.get(&offset) else { return true };
        row.group == 0 || self.head(row.group) == Some(offset)
    }

    fn head(&self, group: u64) -> Option<u64> {
        self.groups.get(&group)?.first().copied()
    }

    /// Takes in a message that was found, or found again. `is_free` says whether nobody has it.
    pub(super) fn park(&mut self, message: &Parked, is_free: impl Fn(u64) -> bool) {
        let Parked {
            offset: QueueOffset(offset),
            group,
            priority,
            judged,
        } = *message;
        self.remove(offset, &is_free);
        let priority = priority.min(PRIORITY_MAX);
        let before = self.head(group).filter(|_| group != 0);
        self.rows.insert(offset, Row { group, priority, judged });
        self.unjudged += u64::from(!judged);
        if group != 0 {
            self.groups.entry(group).or_default().insert(offset);
        }
        if let Some(before) = before {
            self.refresh(before, &is_free);
        }
        self.refresh(offset, &is_free);
    }

    /// Forgets a message that is over; the next of its message group takes its place.
    pub(super) fn remove(&mut self, offset: u64, is_free: impl Fn(u64) -> bool) {
        let Some(row) = self.rows.remove(&offset) else { return };
        self.ready.remove(&(PRIORITY_MAX - row.priority, offset));
        self.unjudged -= u64::from(!row.judged);
        let Some(group) = self.groups.get_mut(&row.group) else { return };
        group.remove(&offset);
        match group.first().copied() {
            Some(next) => self.refresh(next, is_free),
            None => drop(self.groups.remove(&row.group)),
        }
    }

    /// Forgets what lies below `start`.
    pub(super) fn drop_below(&mut self, start: u64, is_free: impl Fn(u64) -> bool) {
        while let Some(first) = self.first().filter(|first| *first < start) {
            self.remove(first, &is_free);
        }
    }

    /// Forgets those below the frontier that were to be judged again: they were, and do not match.
    pub(super) fn passed(&mut self, from: u64, frontier: u64, is_open: impl Fn(u64) -> bool, is_free: impl Fn(u64) -> bool) {
        if self.unjudged == 0 {
            return;
        }
        let passed: Vec<u64> = self
            .within(from..frontier)
            .filter(|(offset, row)| !row.judged && !is_open(*offset))
            .map(|(offset, _)| offset)
            .collect();
        for offset in passed {
            self.remove(offset, &is_free);
        }
    }

    /// A message may be handed out now, or no longer.
    pub(super) fn refresh(&mut self, offset: u64, is_free: impl Fn(u64) -> bool) {
        let Some(row) = self.get(offset) else { return };
        let entry = (PRIORITY_MAX - row.priority, offset);
        if row.judged && self.is_head(offset) && is_free(offset) {
            self.ready.insert(entry);
        } else {
            self.ready.remove(&entry);
        }
    }

    /// A message that a plugin failed on is delivered as if it matched.
    pub(super) fn accept(&mut self, offset: u64, is_free: impl Fn(u64) -> bool) {
        if let Some(row) = self.rows.get_mut(&offset).filter(|row| !row.judged) {
            row.judged = true;
            self.unjudged -= 1;
            self.refresh(offset, is_free);
        }
    }

    /// Every open message, ascending, as a checkpoint holds it.
    pub(super) fn parked(&self) -> Vec<Parked> {
        let parked = self.rows.iter().map(|(&offset, row)| Parked {
            offset: QueueOffset(offset),
            group: row.group,
            priority: row.priority,
            judged: row.judged,
        });
        parked.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(offset: u64, group: u64, priority: u8) -> Parked {
        Parked {
            offset: QueueOffset(offset),
            group,
            priority,
            judged: true,
        }
    }

    fn ready(order: &Order) -> Vec<(u8, u64)> {
        order.ready_heads(9, &|_| false).collect()
    }

    #[test]
    fn the_heads_of_message_groups_compete_by_priority() {
        let mut order = Order::default();
        for message in [parked(1, 7, 0), parked(2, 7, 9), parked(3, 8, 5), parked(4, 0, 5)] {
            order.park(&message, |_| true);
        }
        assert_eq!(ready(&order), [(5, 3), (5, 4), (0, 1)]);
        order.remove(1, |_| true);
        assert_eq!(ready(&order), [(9, 2), (5, 3), (5, 4)], "the next of its group took its place");
    }

    #[test]
    fn one_that_is_to_be_judged_again_holds_those_behind_it() {
        let mut order = Order::default();
        order.park(
            &Parked {
                judged: false,
                ..parked(1, 7, 0)
            },
            |_| true,
        );
        order.park(&parked(2, 7, 0), |_| true);
        assert_eq!(ready(&order), []);
        order.passed(0, 2, |_| false, |_| true);
        assert_eq!(ready(&order), [(0, 2)], "it was passed over");
    }
}
