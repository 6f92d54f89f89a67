//! The entry of one topic.

use sluice_log::record::{OnExpired, TopicSettings, put_lifetime, take_lifetime};
use sluice_protocol::ids::Position;
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, WireError, Writer};

/// One incarnation of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: TopicSettings,
    /// When it was created (wall clock, milliseconds).
    pub created_wall_ms: i64,
}

impl Topic {
    pub(super) fn new(name: &str, settings: TopicSettings, at: Now) -> Self {
        Self {
            reflects: Position::default(),
            name: name.to_owned(),
            settings,
            created_wall_ms: at.wall_ms,
        }
    }

    /// It has so many queues from the record at `position` on.
    pub(super) fn grown(&mut self, position: Position, queues: u16) {
        if self.reflects < position {
            self.reflects = position;
            self.settings.queues = queues;
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        let TopicSettings {
            queues,
            retention_ms,
            retention_bytes,
            ..
        } = self.settings;
        to.u64(self.reflects.0)
            .text(&self.name)
            .u16(queues)
            .u64(retention_ms)
            .u64(retention_bytes)
            .i64(self.created_wall_ms);
        if self.settings.is_extended() {
            put_lifetime(to, &self.settings);
        }
    }

    /// In version 1 nothing expired.
    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let mut topic = Self {
            reflects: Position(from.u64()?),
            name: from.text()?.to_owned(),
            settings: TopicSettings {
                queues: from.u16()?,
                retention_ms: from.u64()?,
                retention_bytes: from.u64()?,
                ttl_ms: 0,
                on_expired: OnExpired::Skip,
            },
            created_wall_ms: from.i64()?,
        };
        if version > 1 {
            take_lifetime(from, &mut topic.settings)?;
        }
        Ok(topic)
    }
}
