//! How the records of ids that producers gave their messages are written and read.

use sluice_protocol::ids::{QueueId, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::codec::RecordError;
use super::fields::{put_queue, take_queue};

const STORED: u16 = 60;
const FORGOTTEN: u16 = 61;
/// What one id takes.
const GIVEN_BYTES: usize = 32;

/// What is remembered of the ids that producers gave their messages, so that a send that is tried again is recognised by its id.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GivenIds {
    /// The messages that the record before this one stored in a queue or numbered in a calendar have these ids. Both lie in one frame, so that
    /// a crash leaves both or none.
    Stored { queue: QueueId, prepared: bool, ids: Vec<GivenId> },
    /// Ids of this minute of the monotonic clock and of all before it are forgotten, because all together took too much memory.
    Forgotten { minute: u64 },
}

/// A message with an id of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenId {
    /// What the id is known by: a keyed hash of topic, scope and id.
    pub hash: u128,
    /// The message's offset, or its number in a calendar.
    pub offset: QueueOffset,
    /// When it is due there (wall clock, milliseconds); 0 for at once.
    pub due_ms: i64,
}

/// The number of a change's kind.
pub(super) fn number(given: &GivenIds) -> u16 {
    match given {
        GivenIds::Stored { .. } => STORED,
        GivenIds::Forgotten { .. } => FORGOTTEN,
    }
}

/// What a kind's number stands for, for reports; `None` when it is none of these.
pub(super) fn kind_name(number: u16) -> Option<&'static str> {
    match number {
        STORED => Some("given-ids"),
        FORGOTTEN => Some("given-ids-forgotten"),
        _ => None,
    }
}

/// Whether a kind is one of these.
pub(super) fn is_given_ids(number: u16) -> bool {
    (STORED..=FORGOTTEN).contains(&number)
}

/// Bytes of what is not written in few.
pub(super) fn large_bytes(given: &GivenIds) -> usize {
    match given {
        GivenIds::Stored { ids, .. } => GIVEN_BYTES * ids.len(),
        GivenIds::Forgotten { .. } => 0,
    }
}

pub(super) fn put_given_ids(out: &mut Writer, given: &GivenIds) {
    match given {
        GivenIds::Stored { queue, prepared, ids } => {
            put_queue(out, *queue).u8((*prepared).into()).count(ids.len());
            for id in ids {
                out.u128(id.hash).u64(id.offset.0).i64(id.due_ms);
            }
        }
        GivenIds::Forgotten { minute } => {
            out.u64(*minute);
        }
    }
}

pub(super) fn take_given_ids(kind: u16, from: &mut Reader<'_>) -> Result<GivenIds, RecordError> {
    Ok(match kind {
        STORED => GivenIds::Stored {
            queue: take_queue(from)?,
            prepared: match from.u8()? {
                0 => false,
                1 => true,
                _ => return Err(WireError::Impossible("flag").into()),
            },
            ids: (0..from.count(GIVEN_BYTES)?).map(|_| take_given(from)).collect::<Result<_, _>>()?,
        },
        FORGOTTEN => GivenIds::Forgotten { minute: from.u64()? },
        unknown => return Err(RecordError::Kind(unknown)),
    })
}

fn take_given(from: &mut Reader<'_>) -> Result<GivenId, WireError> {
    Ok(GivenId {
        hash: from.u128()?,
        offset: QueueOffset(from.u64()?),
        due_ms: from.i64()?,
    })
}
