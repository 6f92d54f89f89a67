//! The entry of one topic's calendar: the messages that wait for their time.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use sluice_log::record::{Due, FarOff, PartChange, Prepared};
use sluice_protocol::ids::{Position, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::planted::{self, Bug};

/// Messages that are due within so many milliseconds, as a power of two, share an entry of a checkpoint.
const PAGE_BITS: u32 = 10;
/// Numbers of a calendar that are counted together, as a power of two.
const BLOCK_BITS: u32 = 12;

/// Messages due within about a second, which one entry of a checkpoint holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Page(i64);

impl Page {
    fn of(due_ms: i64) -> Self {
        Self(due_ms >> PAGE_BITS)
    }

    fn first_ms(self) -> i64 {
        self.0 << PAGE_BITS
    }

    fn last_ms(self) -> i64 {
        self.first_ms() | ((1 << PAGE_BITS) - 1)
    }
}

/// The messages of one topic that wait for their time: in memory those that are nearly due or came of late, in parts the others.
///
/// What waits is put in once and taken out once, and its number is never used again. So whichever of the records behind a checkpoint its
/// pages hold already, a replay of all of them makes the same: only the next number and a count need to know what they reflect. For this,
/// what comes back from a part is kept apart from what the log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    /// The last record that gave a number which this entry holds.
    pub reflects: Position,
    /// The number that the next message gets.
    pub next: QueueOffset,
    /// What the log holds, in the order of release: 16 bytes a message, and what a B-tree takes beside.
    waiting: BTreeSet<Due>,
    /// How many messages of each block of numbers wait so.
    blocks: BTreeMap<u64, u32>,
    /// What parts hold and is nearly due, in the same order.
    taken: BTreeSet<Due>,
    /// How many messages are in parts and not taken in.
    far: u64,
    /// The last record that changed this number.
    far_reflects: Position,
}

impl Calendar {
    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.taken.len() + self.far as usize
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether this message waits in memory.
    pub fn holds(&self, due: Due) -> bool {
        self.waiting.contains(&due) || self.taken.contains(&due)
    }

    /// Whether this message waits in memory and is to be read from a part.
    pub fn is_taken(&self, due: Due) -> bool {
        self.taken.contains(&due)
    }

    /// The messages that wait in memory behind this one, or all, in the order of release.
    pub fn after(&self, last: Option<Due>) -> impl Iterator<Item = Due> + '_ {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut waiting = self.waiting.range((from, Bound::Unbounded)).copied().peekable();
        let mut taken = self.taken.range((from, Bound::Unbounded)).copied().peekable();
        std::iter::from_fn(move || match (waiting.peek(), taken.peek()) {
            (Some(one), Some(other)) if other < one => taken.next(),
            (Some(_), _) => waiting.next(),
            (None, _) => taken.next(),
        })
    }

    /// The messages that the log holds and that are due at this time or later.
    pub fn in_log_from(&self, from_ms: i64) -> impl Iterator<Item = Due> + '_ {
        self.waiting.range(first_at(from_ms)..).copied()
    }

    /// When the next message that waits in memory is due.
    pub fn first_ms(&self) -> Option<i64> {
        let first = self.waiting.first().into_iter().chain(self.taken.first()).min();
        first.map(|due| due.at_ms)
    }

    /// When the next message is due that was taken in.
    pub fn first_taken_ms(&self) -> Option<i64> {
        self.taken.first().map(|due| due.at_ms)
    }

    /// Below this no number's message waits, so that the log need not keep it.
    pub fn start(&self) -> QueueOffset {
        let first = self.blocks.first_key_value().map(|(block, _)| QueueOffset(block << BLOCK_BITS));
        first.filter(|_| !planted::is(Bug::CalendarNotKept)).unwrap_or(self.next)
    }

    fn put(&mut self, due: Due) {
        if self.waiting.insert(due) {
            *self.blocks.entry(due.number.0 >> BLOCK_BITS).or_default() += 1;
        }
    }

    /// Changes how many messages are in parts, once.
    fn count_far(&mut self, position: Position, change: impl FnOnce(u64) -> u64) {
        if self.far_reflects < position {
            self.far_reflects = position;
            self.far = change(self.far);
        }
    }

    fn take(&mut self, due: Due) {
        self.taken.remove(&due);
        let block = due.number.0 >> BLOCK_BITS;
        if self.waiting.remove(&due)
            && let Some(count) = self.blocks.get_mut(&block)
        {
            *count -= 1;
            if *count == 0 {
                self.blocks.remove(&block);
            }
        }
    }
}

fn first_at(at_ms: i64) -> Due {
    Due {
        at_ms,
        number: QueueOffset(0),
    }
}

/// The calendars of all topics, and when the first message of each is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calendars {
    entries: BTreeMap<TopicId, Calendar>,
    by_due: BTreeSet<(i64, TopicId)>,
    /// The same of what was taken in.
    by_taken: BTreeSet<(i64, TopicId)>,
    count: u64,
}

/// One of the two sets of a calendar, for a checkpoint: what the log holds, or what was taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Log,
    Parts,
}

impl Held {
    fn from(self, calendar: &Calendar, from_ms: i64) -> impl Iterator<Item = Due> + '_ {
        let set = match self {
            Self::Log => &calendar.waiting,
            Self::Parts => &calendar.taken,
        };
        set.range(first_at(from_ms)..).copied()
    }
}

impl Calendars {
    /// The calendar of a topic, if a message ever waited there.
    pub fn get(&self, topic: TopicId) -> Option<&Calendar> {
        self.entries.get(&topic)
    }

    /// How many messages wait in all of them.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The topics with messages that wait, by when their first is due.
    pub fn by_due(&self) -> impl Iterator<Item = (i64, TopicId)> + '_ {
        self.by_due.iter().copied()
    }

    /// The calendars of topics after `last`, or of all.
    pub fn after(&self, last: Option<TopicId>) -> impl Iterator<Item = (TopicId, &Calendar)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries
            .range((from, Bound::Unbounded))
            .map(|(topic, calendar)| (*topic, calendar))
    }

    /// When the next message is due that was taken in.
    pub fn first_taken_ms(&self) -> Option<i64> {
        self.by_taken.first().map(|(due_ms, _)| *due_ms)
    }

    /// What happens to parts does this to the calendars of topics. A topic that is gone has none, and gets none that stays.
    pub(super) fn parted(&mut self, position: Position, change: &PartChange) {
        match change {
            PartChange::Written { moved, .. } => self.count_far(position, moved, |far, count| far + count),
            PartChange::TakenIn { taken, .. } => self.count_far(position, taken, u64::saturating_sub),
            PartChange::Recalled { message, .. } => self.count_far(position, &[*message], u64::saturating_sub),
            PartChange::Dropped { .. } => {}
        }
        if let PartChange::Written { moved, .. } = change {
            for message in moved {
                self.update(message.topic, |calendar| calendar.take(message.due()));
            }
        } else if let PartChange::TakenIn { taken, .. } = change {
            for message in taken {
                self.update(message.topic, |calendar| {
                    calendar.taken.insert(message.due());
                });
            }
        }
    }

    fn count_far(&mut self, position: Position, messages: &[FarOff], change: impl Fn(u64, u64) -> u64) {
        let mut counts: BTreeMap<TopicId, u64> = BTreeMap::new();
        messages.iter().for_each(|message| *counts.entry(message.topic).or_default() += 1);
        for (topic, count) in counts {
            self.update(topic, |calendar| calendar.count_far(position, |far| change(far, count)));
        }
    }

    pub(super) fn delayed(&mut self, position: Position, topic: TopicId, first: QueueOffset, due_ms: &[i64]) {
        self.update(topic, |calendar| {
            for (&at_ms, number) in due_ms.iter().zip(first.0..) {
                let number = QueueOffset(number);
                calendar.put(Due { at_ms, number });
            }
            if calendar.reflects < position {
                calendar.reflects = position;
                calendar.next = QueueOffset(first.0 + due_ms.len() as u64);
            }
        });
    }

    /// Messages got numbers that do not wait for their time yet.
    pub(super) fn numbered(&mut self, position: Position, topic: TopicId, first: QueueOffset, count: usize) {
        self.update(topic, |calendar| {
            if calendar.reflects < position {
                calendar.reflects = position;
                calendar.next = QueueOffset(first.0 + count as u64);
            }
        });
    }

    /// Messages that have their numbers wait for their time from now on.
    pub(super) fn committed(&mut self, messages: &[Prepared]) {
        for message in messages {
            self.update(message.topic, |calendar| calendar.put(message.due));
        }
    }

    pub(super) fn left(&mut self, topic: TopicId, due: &[Due]) {
        if self.entries.contains_key(&topic) && !planted::is(Bug::ReleasedStaysDue) {
            self.update(topic, |calendar| due.iter().for_each(|due| calendar.take(*due)));
        }
    }

    pub(super) fn recalled(&mut self, topic: TopicId, due: Due) {
        if self.entries.contains_key(&topic) && !planted::is(Bug::RecallForgotten) {
            self.update(topic, |calendar| calendar.take(due));
        }
    }

    pub(super) fn delete(&mut self, topic: TopicId) {
        self.update(topic, |calendar| *calendar = Calendar::default());
        self.entries.remove(&topic);
    }

    /// Changes a calendar, which is made if there is none, and keeps what is known of all in step.
    fn update(&mut self, topic: TopicId, change: impl FnOnce(&mut Calendar)) {
        let calendar = self.entries.entry(topic).or_default();
        let (first_ms, taken_ms, count) = (calendar.first_ms(), calendar.first_taken_ms(), calendar.len() as u64);
        change(calendar);
        self.count = self.count + calendar.len() as u64 - count;
        if calendar.first_ms() != first_ms {
            first_ms.map(|first_ms| self.by_due.remove(&(first_ms, topic)));
            calendar.first_ms().map(|first_ms| self.by_due.insert((first_ms, topic)));
        }
        if calendar.first_taken_ms() != taken_ms {
            taken_ms.map(|first_ms| self.by_taken.remove(&(first_ms, topic)));
            calendar.first_taken_ms().map(|first_ms| self.by_taken.insert((first_ms, topic)));
        }
    }

    /// The topic after `last` that has a calendar, or the first.
    pub(super) fn topic_after(&self, last: Option<TopicId>) -> Option<TopicId> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded)).next().map(|(&topic, _)| topic)
    }

    /// The page after `last` on which something waits, or the first.
    pub(super) fn page_after(&self, held: Held, last: Option<(TopicId, Page)>) -> Option<(TopicId, Page)> {
        let page_of = |calendar: &Calendar, from_ms| held.from(calendar, from_ms).next().map(|due| Page::of(due.at_ms));
        if let Some((topic, page)) = last
            && let Some(calendar) = self.entries.get(&topic)
            && let Some(next) = page.last_ms().checked_add(1).and_then(|from_ms| page_of(calendar, from_ms))
        {
            return Some((topic, next));
        }
        let from = last.map_or(Bound::Unbounded, |(topic, _)| Bound::Excluded(topic));
        let mut topics = self.entries.range((from, Bound::Unbounded));
        topics.find_map(|(&topic, calendar)| Some((topic, page_of(calendar, i64::MIN)?)))
    }

    pub(super) fn encode(&self, topic: TopicId, to: &mut Writer) -> Option<()> {
        let calendar = self.entries.get(&topic)?;
        to.u64(topic.0).u64(calendar.reflects.0).u64(calendar.next.0);
        if self.version(topic) > 1 {
            to.u64(calendar.far).u64(calendar.far_reflects.0);
        }
        Some(())
    }

    /// The version in which a calendar's entry is written: 2 where a message was ever in a part.
    pub(super) fn version(&self, topic: TopicId) -> u8 {
        let parted = self
            .entries
            .get(&topic)
            .is_some_and(|calendar| calendar.far_reflects > Position::default());
        1 + u8::from(parted)
    }

    pub(super) fn decode(&mut self, from: &mut Reader<'_>, version: u8) -> Result<(), WireError> {
        let topic = TopicId(from.u64()?);
        let (reflects, next) = (Position(from.u64()?), QueueOffset(from.u64()?));
        let (far, far_reflects) = match version {
            1 => (0, Position::default()),
            _ => (from.u64()?, Position(from.u64()?)),
        };
        // So many that even the sum over all topics can be counted.
        if far > u64::from(u32::MAX) << 16 || (far > 0 && far_reflects == Position::default()) {
            return Err(WireError::Impossible("count of a calendar"));
        }
        self.update(topic, |calendar| {
            (calendar.reflects, calendar.next) = (reflects, next);
            (calendar.far, calendar.far_reflects) = (far, far_reflects);
        });
        Ok(())
    }

    pub(super) fn encode_page(&self, held: Held, topic: TopicId, page: Page, to: &mut Writer) -> Option<()> {
        let calendar = self.entries.get(&topic)?;
        let mut due: Vec<Due> = held
            .from(calendar, page.first_ms())
            .take_while(|due| due.at_ms <= page.last_ms())
            .collect();
        if held == Held::Parts && planted::is(Bug::TakenForgotten) {
            due.pop();
        }
        if due.is_empty() {
            return None;
        }
        to.u64(topic.0).i64(page.0).count(due.len());
        for due in due {
            to.u16((due.at_ms - page.first_ms()) as u16).u64(due.number.0);
        }
        Some(())
    }

    pub(super) fn decode_page(&mut self, held: Held, from: &mut Reader<'_>) -> Result<(), WireError> {
        let (topic, page) = (TopicId(from.u64()?), from.i64()?);
        let first_ms = page.checked_mul(1 << PAGE_BITS).ok_or(WireError::Impossible("page"))?;
        let mut due = Vec::new();
        for _ in 0..from.count(10)? {
            let (within, number) = (i64::from(from.u16()?), QueueOffset(from.u64()?));
            if within >> PAGE_BITS != 0 {
                return Err(WireError::Impossible("time of a page"));
            }
            due.push(Due {
                at_ms: first_ms + within,
                number,
            });
        }
        self.update(topic, |calendar| match held {
            Held::Log => due.into_iter().for_each(|due| calendar.put(due)),
            Held::Parts => calendar.taken.extend(due),
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId(3);

    fn due(at_ms: i64, number: u64) -> Due {
        Due {
            at_ms,
            number: QueueOffset(number),
        }
    }

    #[test]
    fn the_log_keeps_what_waits_and_whatever_came_after() {
        let mut calendars = Calendars::default();
        let late: Vec<i64> = (0..5_000).collect();
        calendars.delayed(Position(1), TOPIC, QueueOffset(0), &late);
        calendars.delayed(Position(2), TOPIC, QueueOffset(5_000), &[7]);
        let start = |calendars: &Calendars| calendars.get(TOPIC).unwrap().start().0;
        assert_eq!(start(&calendars), 0);
        let gone: Vec<Due> = (0..5_000).map(|number| due(number as i64, number)).collect();
        calendars.left(TOPIC, &gone[..4_500]);
        assert_eq!(start(&calendars), 4_096, "to the block");
        calendars.left(TOPIC, &gone);
        assert_eq!(start(&calendars), 4_096, "the last one waits");
        calendars.recalled(TOPIC, due(7, 5_000));
        assert_eq!(start(&calendars), 5_001);
        assert_eq!((calendars.count(), calendars.by_due().next()), (0, None));
    }

    #[test]
    fn a_deleted_calendar_leaves_nothing() {
        let mut calendars = Calendars::default();
        calendars.delayed(Position(1), TOPIC, QueueOffset(0), &[5, 3]);
        calendars.delete(TOPIC);
        assert_eq!(calendars, Calendars::default());
    }
}
