//! The entry of one queue.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_log::record::OffsetRange;
use sluice_protocol::ids::{Position, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::producer::batch_count;

/// Where a queue begins and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The first offset that retention has left.
    pub start: QueueOffset,
    /// One past the last offset.
    pub end: QueueOffset,
    /// For each priority but 0 that a message had, between which offsets those of that priority lie.
    pub priorities: BTreeMap<u8, OffsetRange>,
}

impl Queue {
    pub(super) fn new(reflects: Position) -> Self {
        Self {
            reflects,
            start: QueueOffset(0),
            end: QueueOffset(0),
            priorities: BTreeMap::new(),
        }
    }

    /// Between which offsets any message with a priority lies.
    pub fn prioritized(&self) -> Option<OffsetRange> {
        self.priorities.values().copied().reduce(|one, other| OffsetRange {
            first: one.first.min(other.first),
            end: one.end.max(other.end),
        })
    }

    pub(super) fn prioritized_by(&mut self, position: Position, offsets: OffsetRange, priorities: u16) {
        if self.reflects >= position {
            return;
        }
        self.reflects = position;
        for priority in (1..16).filter(|priority| priorities & (1 << priority) != 0) {
            let known = self.priorities.entry(priority).or_insert(offsets);
            known.first = known.first.min(offsets.first);
            known.end = known.end.max(offsets.end);
        }
    }

    pub(super) fn appended(&mut self, position: Position, first: QueueOffset, batch: &Bytes) {
        if self.reflects < position {
            self.reflects = position;
            self.end = QueueOffset(first.0 + u64::from(batch_count(batch)));
        }
    }

    pub(super) fn trimmed(&mut self, position: Position, start: QueueOffset) {
        if self.reflects < position {
            self.reflects = position;
            self.start = self.start.max(start);
            self.priorities.retain(|_, offsets| offsets.end > start);
        }
    }

    /// Whether version 2 is needed to say it all.
    pub(super) fn is_extended(&self) -> bool {
        !self.priorities.is_empty()
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).u64(self.start.0).u64(self.end.0);
        if self.is_extended() {
            to.count(self.priorities.len());
            for (priority, offsets) in &self.priorities {
                to.u8(*priority).u64(offsets.first.0).u64(offsets.end.0);
            }
        }
    }

    /// Version 1 knew no priorities.
    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let mut queue = Self {
            reflects: Position(from.u64()?),
            start: QueueOffset(from.u64()?),
            end: QueueOffset(from.u64()?),
            priorities: BTreeMap::new(),
        };
        if version > 1 {
            for _ in 0..from.count(17)? {
                let (priority, first, end) = (from.u8()?, QueueOffset(from.u64()?), QueueOffset(from.u64()?));
                queue.priorities.insert(priority, OffsetRange { first, end });
            }
        }
        Ok(queue)
    }
}
