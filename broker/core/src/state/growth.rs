//! The entry of one topic's growth: which queue each of its slots goes to, and where the slots that were moved went before.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use sluice_log::record::CursorId;
use sluice_protocol::ids::{GroupId, Position, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::State;
use super::cursor::Cursor;
use super::queue::Queue;
use crate::limits::{QUEUES_MAX, SLOTS};
use crate::planted::{self, Bug};

/// Which queue each slot of a topic goes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slots {
    /// As many queues as the topic was created with: by the remainder.
    Even(u16),
    /// The queue of each slot of a topic that grew.
    Grown(Arc<[u16]>),
}

impl Slots {
    /// The queue of a slot.
    pub fn queue(&self, slot: u64) -> QueueIndex {
        QueueIndex(match self {
            Self::Even(queues) => (slot % u64::from((*queues).max(1))) as u16,
            Self::Grown(table) => table.get(slot as usize).copied().unwrap_or(0),
        })
    }
}

/// The slot of a number by which messages choose their queue: the hash of a message group, or what is made of an id.
pub fn slot_of(mut mixed: u64) -> u64 {
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input moves every bit of the result.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) % SLOTS
}

/// How a topic came to have more queues than it was created with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// The last record that this entry holds.
    pub reflects: Position,
    steps: Vec<Step>,
    /// The queue of each slot; follows from the steps, as does the next.
    table: Arc<[u16]>,
    /// Where a slot went before, and where that queue ended when it was moved.
    before: BTreeMap<u64, Vec<(QueueIndex, QueueOffset)>>,
}

/// One time that a topic grew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Step {
    /// Where the queues ended that it had.
    ends: Vec<QueueOffset>,
    /// How many it has since.
    queues: u16,
}

impl Growth {
    /// How often the topic grew.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Where messages of a message group with this hash were stored before, the first place first, and where that queue ended then.
    pub fn before(&self, group: u64) -> &[(QueueIndex, QueueOffset)] {
        self.before.get(&slot_of(group)).map_or(&[], Vec::as_slice)
    }

    fn grow(&mut self, ends: &[QueueOffset], queues: u16) {
        if self.table.is_empty() {
            let even = Slots::Even(ends.len() as u16);
            self.table = (0..SLOTS).map(|slot| even.queue(slot).0).collect();
        }
        let next = dealt_out(&self.table, queues);
        for (slot, (was, is)) in (0..).zip(self.table.iter().zip(&next)) {
            if was != is {
                let end = ends.get(usize::from(*was)).copied().unwrap_or_default();
                self.before.entry(slot).or_default().push((QueueIndex(*was), end));
            }
        }
        self.table = next.into();
        let ends = ends.to_vec();
        self.steps.push(Step { ends, queues });
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).count(self.steps.len());
        for Step { ends, queues } in &self.steps {
            to.u16(*queues).count(ends.len());
            for end in ends {
                to.u64(end.0);
            }
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut growth = Self {
            reflects: Position(from.u64()?),
            ..Self::default()
        };
        for _ in 0..from.count(6)? {
            let (queues, count) = (from.u16()?, from.count(8)?);
            let ends: Vec<QueueOffset> = (0..count).map(|_| Ok(QueueOffset(from.u64()?))).collect::<Result<_, WireError>>()?;
            let goes_on = growth.steps.last().is_none_or(|last| usize::from(last.queues) == count);
            if !goes_on || count == 0 || count >= usize::from(queues) || queues > QUEUES_MAX {
                return Err(WireError::Impossible("growth"));
            }
            growth.grow(&ends, queues);
        }
        Ok(growth)
    }
}

/// The slots dealt out to more queues: each gets its share, and what moves moves to a new queue. A queue keeps its lowest slots.
fn dealt_out(table: &[u16], queues: u16) -> Vec<u16> {
    let share = |queue: u16| SLOTS / u64::from(queues) + u64::from(u64::from(queue) < SLOTS % u64::from(queues));
    let mut open: Vec<u64> = (0..queues).map(share).collect();
    let mut next = table.to_vec();
    let mut surplus = Vec::new();
    for (slot, queue) in table.iter().enumerate() {
        match open.get_mut(usize::from(*queue)) {
            Some(open) if *open > 0 => *open -= 1,
            Some(_) | None => surplus.push(slot),
        }
    }
    let takers = (0..queues)
        .zip(&open)
        .flat_map(|(queue, open)| std::iter::repeat_n(queue, *open as usize));
    for (slot, queue) in surplus.into_iter().zip(takers) {
        next[slot] = queue;
    }
    next
}

impl State {
    /// Which queue each slot of a topic goes to.
    pub fn slots_of(&self, topic: TopicId) -> Slots {
        match self.growths.get(&topic) {
            Some(growth) => Slots::Grown(Arc::clone(&growth.table)),
            None => Slots::Even(self.topics.get(&topic).map_or(1, |topic| topic.settings.queues)),
        }
    }

    /// The new queues, and the cursors of those who read the topic, begin with nothing. What was deleted since is deleted again later on.
    pub(super) fn grow_topic(&mut self, position: Position, topic: TopicId, ends: &[QueueOffset], queues: u16, groups: &[GroupId]) {
        let growth = self.growths.entry(topic).or_default();
        if growth.reflects < position {
            growth.reflects = position;
            growth.grow(ends, queues);
        }
        if let Some(entry) = self.topics.get_mut(&topic) {
            entry.grown(position, queues);
        }
        let new: Range<u16> = ends.len() as u16..queues;
        for index in new.map(QueueIndex) {
            let queue = QueueId { topic, index };
            self.queues.entry(queue).or_insert_with(|| Queue::new(position));
            for &group in groups {
                let start = QueueOffset(u64::from(planted::is(Bug::GrowthSkipsTheFirst)));
                let cursor = CursorId { group, queue };
                self.cursors.entry(cursor).or_insert_with(|| Cursor::new(position, start));
                self.readers.add(topic, group);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(table: &[u16], queues: u16) -> Vec<usize> {
        (0..queues).map(|queue| table.iter().filter(|of| **of == queue).count()).collect()
    }

    #[test]
    fn each_queue_has_its_share_and_slots_move_to_new_queues_alone() {
        for steps in [&[1, 2, 3, 1_024][..], &[4, 8, 12], &[600, 700, 1_000], &[1, 1_024], &[7, 512, 513]] {
            let mut growth = Growth::default();
            for step in steps.windows(2) {
                let ends = vec![QueueOffset(9); usize::from(step[0])];
                let before: Vec<u16> = (0..SLOTS).map(|slot| (slot % u64::from(steps[0])) as u16).collect();
                let before = if growth.table.is_empty() { before } else { growth.table.to_vec() };
                growth.grow(&ends, step[1]);
                let moved = before.iter().zip(&*growth.table).filter(|(was, is)| was != is);
                assert!(moved.map(|(_, is)| *is).all(|is| is >= step[0]), "{steps:?}");
                let shares = shares(&growth.table, step[1]);
                let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
                assert!(most - least <= 1, "{steps:?}: {shares:?}");
            }
        }
    }

    #[test]
    fn a_slot_that_moved_twice_was_in_both_places() {
        let mut growth = Growth::default();
        growth.grow(&[QueueOffset(5)], 2);
        growth.grow(&[QueueOffset(6), QueueOffset(7)], 1_024);
        let twice = growth.before.values().filter(|places| places.len() == 2).count();
        assert_eq!(twice, 511, "but for the one slot that the second queue keeps");
        let places = growth.before.values().find(|places| places.len() == 2).unwrap();
        assert_eq!(places, &[(QueueIndex(0), QueueOffset(5)), (QueueIndex(1), QueueOffset(7))]);
    }
}
