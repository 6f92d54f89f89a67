//! The entry of the shard itself: the newest stamp, the ids to give next, and where each start of the broker began.

use sluice_log::record::{Change, Record};
use sluice_protocol::ids::{Epoch, GroupId, Position, TopicId};
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::limits::EPOCHS_MAX;

/// What belongs to the shard as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The stamp of that record; no later one is smaller.
    pub stamp: Now,
    /// The id of the next topic.
    pub next_topic: TopicId,
    /// The id of the next group.
    pub next_group: GroupId,
    /// The newest starts and the positions of their records, ascending.
    pub opened: Vec<(Position, Epoch)>,
}

impl Meta {
    pub(super) fn apply(&mut self, position: Position, record: &Record) {
        if self.reflects >= position {
            return;
        }
        self.reflects = position;
        self.stamp = record.at;
        // Only creations and starts matter here.
        if let Change::TopicCreated { topic, .. } = &record.change {
            self.next_topic = self.next_topic.max(TopicId(topic.0 + 1));
        } else if let Change::GroupCreated { group, .. } = &record.change {
            self.next_group = self.next_group.max(GroupId(group.0 + 1));
        } else if let Change::Opened { epoch } = &record.change {
            self.opened.push((position, *epoch));
            if self.opened.len() > EPOCHS_MAX {
                self.opened.remove(0);
            }
        }
    }

    /// The start of the broker that wrote the record at `position`, if it is still known.
    pub fn epoch_of(&self, position: Position) -> Option<Epoch> {
        let after = self.opened.partition_point(|(opened, _)| *opened <= position);
        Some(self.opened.get(after.checked_sub(1)?)?.1)
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0)
            .i64(self.stamp.wall_ms)
            .u64(self.stamp.mono_ms)
            .u64(self.next_topic.0)
            .u64(self.next_group.0);
        to.count(self.opened.len());
        for (position, epoch) in &self.opened {
            to.u64(position.0).u32(epoch.0);
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let reflects = Position(from.u64()?);
        let stamp = Now {
            wall_ms: from.i64()?,
            mono_ms: from.u64()?,
        };
        let (next_topic, next_group) = (TopicId(from.u64()?), GroupId(from.u64()?));
        let count = from.count(12)?;
        let opened = (0..count)
            .map(|_| Ok((Position(from.u64()?), Epoch(from.u32()?))))
            .collect::<Result<_, WireError>>()?;
        Ok(Self {
            reflects,
            stamp,
            next_topic,
            next_group,
            opened,
        })
    }
}
