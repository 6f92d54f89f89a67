//! The entry of one cursor: a group's place in one queue.

use sluice_protocol::ids::{Pass, Position, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::lane::Lane;
use crate::planted::{self, Bug};

/// A group's place in one queue under the present pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The pass; a seek begins the next.
    pub pass: Pass,
    /// How far the group has come. One lane serves all messages of the queue alike.
    pub lane: Lane,
}

impl Cursor {
    pub(super) fn new(reflects: Position, start: QueueOffset) -> Self {
        Self {
            reflects,
            pass: Pass(1),
            lane: Lane::starting_at(start),
        }
    }

    /// Lets a record that this entry does not hold yet change the lane.
    pub(super) fn update(&mut self, position: Position, change: impl FnOnce(&mut Lane, Pass)) {
        if self.reflects < position {
            self.reflects = position;
            change(&mut self.lane, self.pass);
        }
    }

    pub(super) fn seek(&mut self, position: Position, pass: Pass, start: QueueOffset) {
        if self.reflects < position {
            self.reflects = position;
            self.pass = pass;
            if planted::is(Bug::SeekKeepsLeases) {
                self.lane.frontier = start;
                return;
            }
            self.lane = Lane::starting_at(start);
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).u32(self.pass.0);
        self.lane.encode(to);
    }

    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        Ok(Self {
            reflects: Position(from.u64()?),
            pass: Pass(from.u32()?),
            lane: Lane::decode(from, version)?,
        })
    }
}
