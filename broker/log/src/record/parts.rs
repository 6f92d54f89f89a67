//! How the records of a calendar's parts are written and read: messages that are far off go into a file of their own, and come back from it.

use sluice_protocol::ids::{QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::Due;
use super::codec::RecordError;

const WRITTEN: u16 = 25;
const TAKEN_IN: u16 = 26;
const RECALLED: u16 = 27;
const DROPPED: u16 = 28;
/// What the name of a message takes.
const MESSAGE_BYTES: usize = 24;

/// Names a part of the calendar: a file of far-off messages. Never used again for another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartId(pub u64);

/// A message of any topic that waits for its time, in the order in which a part holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FarOff {
    /// When it is due: wall clock, milliseconds.
    pub at_ms: i64,
    /// Its topic.
    pub topic: TopicId,
    /// Its number in the calendar of the topic.
    pub number: QueueOffset,
}

impl FarOff {
    /// The message of a topic's calendar.
    pub fn new(topic: TopicId, due: Due) -> Self {
        let Due { at_ms, number } = due;
        Self { at_ms, topic, number }
    }

    /// What it is in the calendar of its topic.
    pub fn due(self) -> Due {
        Due {
            at_ms: self.at_ms,
            number: self.number,
        }
    }
}

/// What a part holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartFacts {
    /// How many messages; 0 for a part that was not made, since all that was to go into it was dead.
    pub messages: u64,
    /// The size of its file.
    pub bytes: u64,
    /// The first message.
    pub first: FarOff,
    /// The last one.
    pub last: FarOff,
}

/// What happens to the parts of the calendar.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartChange {
    /// A part that is written and synced holds messages from here on.
    Written {
        part: PartId,
        facts: PartFacts,
        /// The messages that the log need not keep any more: those that waited in memory.
        moved: Vec<FarOff>,
        /// Parts of which it holds what they had left.
        absorbed: Vec<PartId>,
        /// Messages in the part that are not to be released: they were recalled, released or deleted while it was written.
        dead: Vec<FarOff>,
    },
    /// Messages are nearly due and wait in memory from here on; the part keeps them until they are released.
    TakenIn {
        part: PartId,
        taken: Vec<FarOff>,
        /// How many messages of the part were passed over to get there, those that are dead included.
        passed: u64,
        /// The last of them.
        point: FarOff,
        /// When the next message of the part is due; `None` when there is none.
        next_ms: Option<i64>,
    },
    /// A message in a part will not be released.
    Recalled { part: PartId, message: FarOff },
    /// Nothing of a part is needed any more.
    Dropped { part: PartId },
}

/// The number of a change's kind.
pub(super) fn number(change: &PartChange) -> u16 {
    match change {
        PartChange::Written { .. } => WRITTEN,
        PartChange::TakenIn { .. } => TAKEN_IN,
        PartChange::Recalled { .. } => RECALLED,
        PartChange::Dropped { .. } => DROPPED,
    }
}

/// What a kind's number stands for, for reports; `None` when it is none of these.
pub(super) fn kind_name(number: u16) -> Option<&'static str> {
    match number {
        WRITTEN => Some("part-written"),
        TAKEN_IN => Some("part-taken-in"),
        RECALLED => Some("part-recalled"),
        DROPPED => Some("part-dropped"),
        _ => None,
    }
}

/// Whether a kind is one of these.
pub(super) fn is_part(number: u16) -> bool {
    (WRITTEN..=DROPPED).contains(&number)
}

/// Bytes of what is not written in few.
pub(super) fn large_bytes(change: &PartChange) -> usize {
    match change {
        PartChange::Written { moved, absorbed, dead, .. } => 128 + MESSAGE_BYTES * (moved.len() + dead.len()) + 8 * absorbed.len(),
        PartChange::TakenIn { taken, .. } => MESSAGE_BYTES * taken.len(),
        PartChange::Recalled { .. } | PartChange::Dropped { .. } => 0,
    }
}

pub(super) fn put_part(out: &mut Writer, change: &PartChange) {
    match change {
        PartChange::Written {
            part,
            facts,
            moved,
            absorbed,
            dead,
        } => {
            out.u64(part.0).u64(facts.messages).u64(facts.bytes);
            put_far_off(out, facts.first);
            put_far_off(out, facts.last);
            put_all(out, moved);
            out.count(absorbed.len());
            absorbed.iter().for_each(|part| {
                out.u64(part.0);
            });
            put_all(out, dead);
        }
        PartChange::TakenIn {
            part,
            taken,
            passed,
            point,
            next_ms,
        } => {
            put_all(out.u64(part.0), taken);
            put_far_off(out.u64(*passed), *point);
            out.bool(next_ms.is_some()).i64(next_ms.unwrap_or(0));
        }
        PartChange::Recalled { part, message } => put_far_off(out.u64(part.0), *message),
        PartChange::Dropped { part } => {
            out.u64(part.0);
        }
    }
}

pub(super) fn take_part(kind: u16, from: &mut Reader<'_>) -> Result<PartChange, RecordError> {
    let part = PartId(from.u64()?);
    Ok(match kind {
        WRITTEN => PartChange::Written {
            part,
            facts: PartFacts {
                messages: from.u64()?,
                bytes: from.u64()?,
                first: take_far_off(from)?,
                last: take_far_off(from)?,
            },
            moved: take_all(from)?,
            absorbed: (0..from.count(8)?)
                .map(|_| Ok(PartId(from.u64()?)))
                .collect::<Result<_, WireError>>()?,
            dead: take_all(from)?,
        },
        TAKEN_IN => PartChange::TakenIn {
            part,
            taken: take_all(from)?,
            passed: from.u64()?,
            point: take_far_off(from)?,
            next_ms: take_time(from)?,
        },
        RECALLED => PartChange::Recalled {
            part,
            message: take_far_off(from)?,
        },
        DROPPED => PartChange::Dropped { part },
        unknown => return Err(RecordError::Kind(unknown)),
    })
}

/// A time that may be missing, which is written as 0 then.
fn take_time(from: &mut Reader<'_>) -> Result<Option<i64>, WireError> {
    match (from.bool()?, from.i64()?) {
        (true, at_ms) => Ok(Some(at_ms)),
        (false, 0) => Ok(None),
        (false, _) => Err(WireError::Impossible("time")),
    }
}

/// Writes the name of a message.
pub fn put_far_off(out: &mut Writer, message: FarOff) {
    out.i64(message.at_ms).u64(message.topic.0).u64(message.number.0);
}

/// Reads the name of a message.
///
/// # Errors
/// [`WireError`] when there are not enough bytes.
pub fn take_far_off(from: &mut Reader<'_>) -> Result<FarOff, WireError> {
    Ok(FarOff {
        at_ms: from.i64()?,
        topic: TopicId(from.u64()?),
        number: QueueOffset(from.u64()?),
    })
}

fn put_all(out: &mut Writer, messages: &[FarOff]) {
    out.count(messages.len());
    messages.iter().for_each(|message| put_far_off(out, *message));
}

fn take_all(from: &mut Reader<'_>) -> Result<Vec<FarOff>, WireError> {
    (0..from.count(MESSAGE_BYTES)?).map(|_| take_far_off(from)).collect()
}
