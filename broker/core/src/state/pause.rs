//! The entry of one pause: a group to which nothing is handed out, in one topic or in all.

use sluice_protocol::ids::{GroupId, Position, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

/// What an operator paused: a group in one topic, or in all that it reads or will read.
pub type PauseId = (GroupId, Option<TopicId>);

/// Since when a group is paused, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pause {
    /// The record that began it.
    pub reflects: Position,
    /// Since when (wall clock, milliseconds).
    pub since_wall_ms: i64,
    /// The name that the operator's client gave.
    pub by: String,
}

impl Pause {
    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).i64(self.since_wall_ms).text(&self.by);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            reflects: Position(from.u64()?),
            since_wall_ms: from.i64()?,
            by: from.text()?.to_owned(),
        })
    }
}

pub(super) fn put_id(to: &mut Writer, (group, topic): PauseId) -> &mut Writer {
    to.u64(group.0).u8(u8::from(topic.is_some())).u64(topic.map_or(0, |topic| topic.0))
}

pub(super) fn take_id(from: &mut Reader<'_>) -> Result<PauseId, WireError> {
    let (group, one, topic) = (GroupId(from.u64()?), from.u8()?, TopicId(from.u64()?));
    match (one, topic.0) {
        (0, 0) => Ok((group, None)),
        (1, _) => Ok((group, Some(topic))),
        _ => Err(WireError::Impossible("scope of a pause")),
    }
}
