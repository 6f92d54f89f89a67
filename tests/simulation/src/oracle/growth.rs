//! Topics that grow: only as asked, with the new queues before every reader, and with the order of message groups kept from queue to queue.

use std::collections::{BTreeMap, BTreeSet};

use sluice_core::effect::Delivery;
use sluice_log::record::CursorId;
use sluice_protocol::ids::{GroupId, QueueId, QueueIndex, QueueOffset, TopicId};

use super::book::{Book, Queue};
use super::cursor::Cursor;
use super::dealings::each;
use super::operated::Orders;
use crate::content::Verdict;
use crate::laws::{Court, Law};

/// What is known of growth, and of the message groups that it moves.
#[derive(Clone, Debug, Default)]
pub struct Growth {
    /// Where the queues of a topic ended that it had when it grew last.
    ends: BTreeMap<TopicId, BTreeMap<QueueIndex, u64>>,
    /// The messages of each message group, in the order in which they were stored.
    groups: BTreeMap<(TopicId, String), Vec<(QueueId, u64)>>,
}

impl Growth {
    /// A message of a message group was stored.
    pub(super) fn stored(&mut self, queue: QueueId, offset: u64, group: Option<String>) {
        if let Some(group) = group.filter(|_| queue.index != QueueIndex::CALENDAR) {
            self.groups.entry((queue.topic, group)).or_default().push((queue, offset));
        }
    }
}

impl Book {
    /// Every reader of the topic, and nobody else, reads the new queues from their beginning.
    pub(super) fn grow(
        &mut self,
        topic: TopicId,
        ends: &[QueueOffset],
        queues: u16,
        groups: &[GroupId],
        orders: &Orders,
        court: &mut Court,
    ) {
        court.exercise(Law::TopicGrown);
        let name = self.topics.get(&topic).cloned().unwrap_or_default();
        let had = self
            .queues
            .iter()
            .filter(|(id, _)| id.topic == topic && id.index != QueueIndex::CALENDAR);
        let had: Vec<u64> = had.map(|(_, queue)| queue.rows.len() as u64).collect();
        let told: Vec<u64> = ends.iter().map(|end| end.0).collect();
        let lawful = orders.grows(&name, queues) && had == told && ends.len() < usize::from(queues);
        court.demand(Law::OperatedAsAsked, lawful, || {
            format!("{name} grew from {told:?} to {queues}, its queues end at {had:?}")
        });
        let readers: BTreeSet<GroupId> = self.rules.keys().filter(|(_, of)| *of == topic).map(|(group, _)| *group).collect();
        let told: BTreeSet<GroupId> = groups.iter().copied().collect();
        court.require(Law::OperatedAsAsked, readers == told, || {
            format!("{name} grew for {told:?}, its readers are {readers:?}")
        });
        let known = self.growth.ends.entry(topic).or_default();
        known.extend((0..).map(QueueIndex).zip(had));
        for index in (ends.len() as u16..queues).map(QueueIndex) {
            let queue = QueueId { topic, index };
            self.queues.insert(queue, Queue::default());
            let new = groups.iter().map(|&group| (CursorId { group, queue }, Cursor::new(0)));
            self.cursors.extend(new);
        }
    }

    /// The messages of the message group of this one that were stored before it in other queues and that retention kept.
    fn before(&self, id: CursorId, offset: u64) -> Vec<(CursorId, u64)> {
        if !self.has_grown(id.queue.topic) || !self.is_ordered(id) {
            return Vec::new();
        }
        let Some(group) = self.message_group(id, offset) else {
            return Vec::new();
        };
        let stored = self.growth.groups.get(&(id.queue.topic, group)).map_or(&[][..], Vec::as_slice);
        let before = stored.iter().take_while(|place| **place != (id.queue, offset));
        let elsewhere = before.filter(|(queue, _)| *queue != id.queue);
        let kept = elsewhere.filter(|(queue, offset)| self.queues.get(queue).is_some_and(|model| *offset >= model.start));
        kept.map(|(queue, offset)| (CursorId { queue: *queue, ..id }, *offset)).collect()
    }

    /// Whether a topic ever grew.
    pub(super) fn has_grown(&self, topic: TopicId) -> bool {
        self.growth.ends.contains_key(&topic)
    }

    /// Whether a message waits for one of its message group that is open in another queue.
    pub(super) fn waits_elsewhere(&self, id: CursorId, offset: u64) -> bool {
        let is_open = |(other, place): &(CursorId, u64)| self.cursors.get(other).is_some_and(|model| model.chained.contains_key(place));
        self.before(id, offset).iter().any(is_open)
    }

    /// Whether a message surely waits for nothing in a queue where its message group was before.
    pub(super) fn gate_is_open(&self, id: CursorId, offset: u64) -> bool {
        let Some(ends) = self.growth.ends.get(&id.queue.topic).filter(|_| self.is_ordered(id)) else {
            return true;
        };
        let others = ends.iter().filter(|(index, _)| **index != id.queue.index);
        let passed = others.into_iter().all(|(index, end)| {
            let mut other = id;
            other.queue.index = *index;
            let trimmed = self.queues.get(&other.queue).and_then(|queue| queue.trims.last());
            let model = self.cursors.get(&other);
            let quiet = model.is_some_and(|model| model.frontier >= *end && (model.pass_frame == 0 || model.pass_frame < self.frames.0));
            quiet && trimmed.is_none_or(|(_, frame)| *frame < self.frames.0)
        });
        let free = |(other, offset): &(CursorId, u64)| {
            let Some(model) = self.cursors.get(other) else { return true };
            let late = [&model.ended, &model.passed].into_iter().filter_map(|over| over.get(offset));
            !model.chained.contains_key(offset) && late.into_iter().all(|frame| *frame < self.frames.0)
        };
        passed && self.before(id, offset).iter().all(free)
    }
}

/// In an ordered group a message comes for the first time when all of its message group that was stored before it in other queues is over,
/// durably, or does not match.
pub(super) fn in_order(delivery: &Delivery, book: &Book, synced: u64, court: &mut Court) {
    let id = delivery.cursor;
    let Some(model) = book.cursors.get(&id).filter(|model| model.pass == delivery.pass) else {
        return;
    };
    for (offset, _) in each(&delivery.leases) {
        // What came before a seek of the other queue alone comes again.
        if model.held.contains_key(&offset) {
            continue;
        }
        for (other, place) in book.before(id, offset) {
            let Some(there) = book.cursors.get(&other) else { continue };
            let ahead = place >= there.frontier && !there.is_touched(place) && !there.ended.contains_key(&place);
            let open = there.chained.contains_key(&place) || ahead && book.ruling(other, place) == Some(Verdict::Deliver);
            let unsynced = there.ended.get(&place).is_some_and(|frame| *frame >= synced);
            court.demand(Law::OrderOverGrowth, !open && !unsynced, || {
                format!("{id:?} {offset} is delivered while {other:?} {place} of its message group is open ({open}) or its end not synced")
            });
        }
    }
}
