//! The entry of one dead-letter topic: which of its messages were dealt with.

use sluice_log::record::OffsetRange;
use sluice_protocol::ids::{Position, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::planted::{self, Bug};
use crate::ranges::OffsetSet;

/// The messages of a dead-letter queue that were sent back to their group or discarded. What retention took is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Letters {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// What was dealt with.
    pub dealt: OffsetSet,
}

impl Letters {
    pub(super) fn deal(&mut self, position: Position, dealt: &[OffsetRange]) {
        if self.reflects < position {
            self.reflects = position;
            if planted::is(Bug::ResendTwice) {
                return;
            }
            dealt.iter().for_each(|range| self.dealt.insert(range.first.0, range.end.0));
        }
    }

    pub(super) fn trimmed(&mut self, position: Position, start: QueueOffset) {
        if self.reflects < position {
            self.reflects = position;
            self.dealt.drop_below(start.0);
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).count(self.dealt.iter().count());
        for range in self.dealt.iter() {
            to.u64(range.first.0).u64(range.end.0);
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let (reflects, count) = (Position(from.u64()?), from.count(16)?);
        let mut dealt = OffsetSet::default();
        for _ in 0..count {
            let (first, end) = (from.u64()?, from.u64()?);
            if first >= end {
                return Err(WireError::Impossible("range"));
            }
            dealt.insert(first, end);
        }
        Ok(Self { reflects, dealt })
    }
}
