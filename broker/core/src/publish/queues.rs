//! Which queue a message goes to, and what a queue is told of what is about to be stored there.

use bytes::Bytes;
use sluice_log::record::Change;
use sluice_protocol::batch::{Attributes, Row, Uses};
use sluice_protocol::ids::{ProducerId, QueueId, QueueOffset, Sequence, TopicId};

use super::Span;
use crate::broker::Core;
use crate::limits::SLOT_BLOCK_BITS;
use crate::state::growth::{Slots, slot_of};

/// The queue of a message without a message group: neighbouring sequences share a slot, so that a batch stays a batch, and the slot of a
/// message never changes.
fn choose_queue(topic: TopicId, slots: &Slots, producer: ProducerId, sequence: Sequence) -> QueueId {
    let mixed = (producer.0 as u64) ^ ((producer.0 >> 64) as u64).rotate_left(32) ^ (sequence.0 >> SLOT_BLOCK_BITS);
    queue_of(topic, slots, mixed)
}

/// The queue of a stored message: by its message group if it has one, else by its id.
pub(crate) fn queue_of_row(topic: TopicId, slots: &Slots, row: &Row<'_>) -> QueueId {
    match row.group_hash() {
        0 => choose_queue(topic, slots, row.producer(), row.sequence()),
        group => queue_of(topic, slots, group),
    }
}

/// The queue of the slot that this is hashed to.
fn queue_of(topic: TopicId, slots: &Slots, mixed: u64) -> QueueId {
    let index = slots.queue(slot_of(mixed));
    QueueId { topic, index }
}

impl Span {
    /// The queue of a message of the span, and how many from it on surely go there.
    pub(super) fn queue_of(&self, topic: TopicId, slots: &Slots, at: u32, grouped: Option<&Attributes>) -> (QueueId, u32) {
        let by_id = |at: u32| choose_queue(topic, slots, self.producer, Sequence(self.first.0 + u64::from(at)));
        let sequence = self.first.0 + u64::from(at);
        let block = (1 << SLOT_BLOCK_BITS) - (sequence & ((1 << SLOT_BLOCK_BITS) - 1)) as u32;
        let (Some(attributes), [part]) = (grouped, self.parts.as_slice()) else {
            return (by_id(at), block);
        };
        let of = |at: u32| match attributes.row(part.rows.start + at).map_or(0, |row| row.group_hash()) {
            0 => by_id(at),
            group => queue_of(topic, slots, group),
        };
        let queue = of(at);
        let neighbours = (at + 1..self.count).take_while(|at| of(*at) == queue).count() as u32;
        (queue, neighbours + 1)
    }
}

impl Core {
    /// Says before messages are stored which priorities they have, unless that is none, and that some live for a time, unless none does.
    pub(crate) fn note_uses(&mut self, queue: QueueId, first: QueueOffset, count: u64, uses: Uses) {
        let end = QueueOffset(first.0 + count);
        let priorities = uses.priorities;
        if priorities > 1 && count > 0 {
            self.record(Change::Prioritized {
                queue,
                first,
                end,
                priorities,
            });
        }
        if uses.ttls && count > 0 {
            self.record(Change::Expiring { queue, first, end });
        }
    }

    /// The same for a batch of which nobody knows what it uses.
    pub(crate) fn note_uses_of(&mut self, queue: QueueId, first: QueueOffset, batch: &Bytes) {
        if let Ok(attributes) = Attributes::parse_stored(batch.clone()) {
            let mut uses = Uses::default();
            attributes.rows().for_each(|row| uses.add(&row));
            self.note_uses(queue, first, attributes.count().into(), uses);
        }
    }
}
