//! What operators do with groups, as records: what was done, by whom, and how each is written.

use sluice_protocol::ids::{GroupId, Pass, QueueId, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::codec::RecordError;
use super::fields::{put_cursor, put_leases, put_queue, put_ranges, take_cursor, take_leases, take_queue, take_ranges};
use super::{CursorId, LeaseRange, OffsetRange};

/// An operator's interference with a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operated {
    /// The name that the operator's client gave.
    pub by: String,
    /// What was done.
    pub operation: Operation,
}

/// What an operator does with a group.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Nothing is handed out to the group any more, in one topic or in all that it reads or will read.
    Paused { group: GroupId, topic: Option<TopicId> },
    /// The group goes on, in one topic or in all: whatever was paused there.
    Unpaused { group: GroupId, topic: Option<TopicId> },
    /// A message is settled for the group, whatever its state.
    Skipped { cursor: CursorId, pass: Pass, offset: QueueOffset },
    /// Messages of a dead-letter queue were dealt with. Those that were sent back to their group are due again where they came from.
    DeadLettersDealt {
        from: QueueId,
        dealt: Vec<OffsetRange>,
        back: Vec<SentBack>,
    },
    /// A topic has `queues` queues from here on. Those that it had end at `ends`; these groups read the new ones from their beginning.
    TopicGrown {
        topic: TopicId,
        ends: Vec<QueueOffset>,
        queues: u16,
        groups: Vec<GroupId>,
    },
    /// A member of a broadcast group was seen last at this time (monotonic clock, milliseconds), or is there again.
    Absent { group: GroupId, since_mono_ms: Option<u64> },
}

/// Messages of one lane that are due again after their last attempt. The lanes of one cursor stand side by side in a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentBack {
    /// The group and the queue where they came from.
    pub cursor: CursorId,
    /// The pass.
    pub pass: Pass,
    /// Whose lane they are in.
    pub priority: u8,
    /// The messages and how often each was delivered: deliveries go on being counted from there.
    pub messages: Vec<LeaseRange>,
}

const PAUSED: u16 = 50;
const UNPAUSED: u16 = 51;
pub(super) const SKIPPED: u16 = 52;
pub(super) const DEAD_LETTERS_DEALT: u16 = 53;
const TOPIC_GROWN: u16 = 57;
const MEMBER_ABSENT: u16 = 58;

/// What the number of such a kind stands for.
pub(super) fn kind_name(number: u16) -> Option<&'static str> {
    match number {
        PAUSED => Some("group-paused"),
        UNPAUSED => Some("group-unpaused"),
        SKIPPED => Some("message-skipped"),
        DEAD_LETTERS_DEALT => Some("dead-letters-dealt"),
        TOPIC_GROWN => Some("topic-grown"),
        MEMBER_ABSENT => Some("member-absent"),
        _ => None,
    }
}

/// The number of an operation's kind.
pub(super) fn number(operated: &Operated) -> u16 {
    match operated.operation {
        Operation::Paused { .. } => PAUSED,
        Operation::Unpaused { .. } => UNPAUSED,
        Operation::Skipped { .. } => SKIPPED,
        Operation::DeadLettersDealt { .. } => DEAD_LETTERS_DEALT,
        Operation::TopicGrown { .. } => TOPIC_GROWN,
        Operation::Absent { .. } => MEMBER_ABSENT,
    }
}

pub(super) fn put_operated(out: &mut Writer, operated: &Operated) {
    out.text(&operated.by);
    match &operated.operation {
        Operation::Paused { group, topic } | Operation::Unpaused { group, topic } => put_scope(out, *group, *topic),
        Operation::Skipped { cursor, pass, offset } => {
            put_cursor(out, *cursor).u32(pass.0).u64(offset.0);
        }
        Operation::DeadLettersDealt { from, dealt, back } => {
            put_ranges(put_queue(out, *from), dealt);
            out.count(back.len());
            for sent in back {
                put_cursor(out, sent.cursor).u32(sent.pass.0);
                if needs_version_2(operated) {
                    out.u8(sent.priority);
                }
                put_leases(out, &sent.messages);
            }
        }
        Operation::TopicGrown {
            topic,
            ends,
            queues,
            groups,
        } => {
            out.u64(topic.0).u16(*queues).count(ends.len());
            for end in ends {
                out.u64(end.0);
            }
            out.count(groups.len());
            for group in groups {
                out.u64(group.0);
            }
        }
        Operation::Absent { group, since_mono_ms } => {
            let since = since_mono_ms.unwrap_or_default();
            out.u64(group.0).u8(since_mono_ms.is_some().into()).u64(since);
        }
    }
}

/// Whether some message is sent back into the lane of a priority, for which version 1 has no room.
pub(super) fn needs_version_2(operated: &Operated) -> bool {
    match &operated.operation {
        Operation::Paused { .. }
        | Operation::Unpaused { .. }
        | Operation::Skipped { .. }
        | Operation::TopicGrown { .. }
        | Operation::Absent { .. } => false,
        Operation::DeadLettersDealt { back, .. } => back.iter().any(|sent| sent.priority != 0),
    }
}

pub(super) fn take_operated(number: u16, version: u16, from: &mut Reader<'_>) -> Result<Operated, RecordError> {
    if kind_name(number).is_none() {
        return Err(RecordError::Kind(number));
    }
    let by = from.text()?.to_owned();
    let operation = match number {
        PAUSED => {
            let (group, topic) = take_scope(from)?;
            Operation::Paused { group, topic }
        }
        UNPAUSED => {
            let (group, topic) = take_scope(from)?;
            Operation::Unpaused { group, topic }
        }
        SKIPPED => Operation::Skipped {
            cursor: take_cursor(from)?,
            pass: Pass(from.u32()?),
            offset: QueueOffset(from.u64()?),
        },
        DEAD_LETTERS_DEALT => Operation::DeadLettersDealt {
            from: take_queue(from)?,
            dealt: take_ranges(from)?,
            back: take_back(version, from)?,
        },
        TOPIC_GROWN => {
            let (topic, queues) = (TopicId(from.u64()?), from.u16()?);
            let ends = take_numbers(from)?.into_iter().map(QueueOffset).collect();
            let groups = take_numbers(from)?.into_iter().map(GroupId).collect();
            Operation::TopicGrown {
                topic,
                ends,
                queues,
                groups,
            }
        }
        MEMBER_ABSENT => {
            let (group, one, since) = (GroupId(from.u64()?), from.u8()?, from.u64()?);
            let since_mono_ms = match (one, since) {
                (0, 0) => None,
                (1, since) => Some(since),
                _ => return Err(WireError::Impossible("absence").into()),
            };
            Operation::Absent { group, since_mono_ms }
        }
        unknown => return Err(RecordError::Kind(unknown)),
    };
    Ok(Operated { by, operation })
}

fn take_back(version: u16, from: &mut Reader<'_>) -> Result<Vec<SentBack>, WireError> {
    let count = from.count(26)?;
    (0..count)
        .map(|_| {
            Ok(SentBack {
                cursor: take_cursor(from)?,
                pass: Pass(from.u32()?),
                priority: if version > 1 { from.u8()? } else { 0 },
                messages: take_leases(from)?,
            })
        })
        .collect()
}

fn take_numbers(from: &mut Reader<'_>) -> Result<Vec<u64>, WireError> {
    let count = from.count(8)?;
    (0..count).map(|_| from.u64()).collect()
}

fn put_scope(out: &mut Writer, group: GroupId, topic: Option<TopicId>) {
    out.u64(group.0).u8(u8::from(topic.is_some())).u64(topic.map_or(0, |topic| topic.0));
}

fn take_scope(from: &mut Reader<'_>) -> Result<(GroupId, Option<TopicId>), WireError> {
    let (group, one, topic) = (GroupId(from.u64()?), from.u8()?, TopicId(from.u64()?));
    match (one, topic.0) {
        (0, 0) => Ok((group, None)),
        (1, _) => Ok((group, Some(topic))),
        _ => Err(WireError::Impossible("scope of a pause")),
    }
}
