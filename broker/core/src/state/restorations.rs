//! The entry of the restorations: each time that this log went on from a backup, and how far it was then.

use sluice_log::record::{Restoration, put_restoration, take_restoration};
use sluice_protocol::ids::Position;
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::limits::RESTORATIONS_MAX;

/// The newest restorations of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restorations {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The newest ones, in their order.
    pub newest: Vec<Restoration>,
    /// Whether there were more.
    pub more: bool,
}

impl Restorations {
    /// Whether this log was never restored.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    pub(super) fn apply(&mut self, position: Position, restoration: &Restoration) {
        if self.reflects >= position {
            return;
        }
        self.reflects = position;
        self.newest.push(restoration.clone());
        if self.newest.len() > RESTORATIONS_MAX {
            self.newest.remove(0);
            self.more = true;
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).u8(self.more.into()).count(self.newest.len());
        self.newest.iter().for_each(|restoration| put_restoration(to, restoration));
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let reflects = Position(from.u64()?);
        let more = match from.u8()? {
            0 => false,
            1 => true,
            _ => return Err(WireError::Impossible("flag")),
        };
        let count = from.count(24)?;
        let newest = (0..count).map(|_| take_restoration(from)).collect::<Result<_, _>>()?;
        Ok(Self { reflects, newest, more })
    }
}
