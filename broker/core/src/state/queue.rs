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
    /// Between which offsets those lie that have a time to live of their own.
    pub expiring: Option<OffsetRange>,
}

impl Queue {
    pub(super) fn new(reflects: Position) -> Self {
        Self {
            reflects,
            start: QueueOffset(0),
            end: QueueOffset(0),
            priorities: BTreeMap::new(),
            expiring: None,
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

    pub(super) fn expiring_within(&mut self, position: Position, offsets: OffsetRange) {
        if self.reflects < position {
            self.reflects = position;
            let known = self.expiring.get_or_insert(offsets);
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
            self.expiring = self.expiring.filter(|offsets| offsets.end > start);
        }
    }

    /// The version that has room for all there is.
    pub(super) fn version(&self) -> u8 {
        match (self.expiring, self.priorities.is_empty()) {
            (Some(_), _) => 3,
            (None, false) => 2,
            (None, true) => 1,
        }
    }

    pub(super) fn encode(&self, to: &mut Writer, version: u8) {
        to.u64(self.reflects.0).u64(self.start.0).u64(self.end.0);
        if version > 1 {
            to.count(self.priorities.len());
            for (priority, offsets) in &self.priorities {
                to.u8(*priority).u64(offsets.first.0).u64(offsets.end.0);
            }
        }
        if let (3, Some(offsets)) = (version, self.expiring) {
            to.u64(offsets.first.0).u64(offsets.end.0);
        }
    }

    /// Version 2 knew nothing that expires, version 1 no priorities.
    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let mut queue = Self {
            reflects: Position(from.u64()?),
            start: QueueOffset(from.u64()?),
            end: QueueOffset(from.u64()?),
            priorities: BTreeMap::new(),
            expiring: None,
        };
        if version > 1 {
            for _ in 0..from.count(17)? {
                let (priority, first, end) = (from.u8()?, QueueOffset(from.u64()?), QueueOffset(from.u64()?));
                queue.priorities.insert(priority, OffsetRange { first, end });
            }
        }
        if version > 2 {
            let (first, end) = (QueueOffset(from.u64()?), QueueOffset(from.u64()?));
            queue.expiring = Some(OffsetRange { first, end });
        }
        Ok(queue)
    }
}
