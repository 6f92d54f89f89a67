//! The entry of one queue.

use bytes::Bytes;
use sluice_protocol::ids::{Position, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::producer::batch_count;

/// Where a queue begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The first offset that retention has left.
    pub start: QueueOffset,
    /// One past the last offset.
    pub end: QueueOffset,
}

impl Queue {
    pub(super) fn new(reflects: Position) -> Self {
        Self {
            reflects,
            start: QueueOffset(0),
            end: QueueOffset(0),
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
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).u64(self.start.0).u64(self.end.0);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            reflects: Position(from.u64()?),
            start: QueueOffset(from.u64()?),
            end: QueueOffset(from.u64()?),
        })
    }
}
