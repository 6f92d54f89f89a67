//! Which messages of which cursors a record deals with: for the index, which must not cost what reading the whole record does.

use bytes::Bytes;
use sluice_protocol::ids::{GroupId, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError};

use super::codec::{RECORD_HEADER_BYTES, RecordError};
use super::fields::take_cursor;
use super::operated::{DEAD_LETTERS_DEALT, SKIPPED};
use super::transaction::{self, Transaction};
use super::{Change, CursorId, Due, OffsetRange, Operation, Prepared, Record, kind};

/// What nothing lies in, and what joins with anything.
const NONE: OffsetRange = OffsetRange {
    first: QueueOffset(u64::MAX),
    end: QueueOffset(0),
};
const ALL: OffsetRange = OffsetRange {
    first: QueueOffset(0),
    end: QueueOffset(u64::MAX),
};

/// The place under which the index has what became of a topic's delayed and prepared messages by their numbers, before any group could have
/// dealt with them: that of no group in the calendar queue.
pub fn before_release(topic: TopicId) -> CursorId {
    CursorId {
        group: GroupId(0),
        queue: topic.calendar(),
    }
}

/// Calls `each` with every cursor that an encoded record deals with, and with two offsets between which its messages lie. Records that only
/// say that messages were looked at deal with none.
///
/// # Errors
/// The record cannot be read.
pub(crate) fn dealt(record: &Bytes, mut each: impl FnMut(CursorId, OffsetRange)) -> Result<(), RecordError> {
    let number = record.get(..2).map_or(0, |number| u16::from_le_bytes([number[0], number[1]]));
    match number {
        kind::GRANTED
        | kind::SETTLED
        | kind::RETURNED
        | kind::EXTENDED
        | kind::DEAD_LETTERED
        | kind::CULPRIT_DECIDED
        | kind::EXPIRED
        | SKIPPED => {
            let fields = record.get(RECORD_HEADER_BYTES..).ok_or(WireError::Truncated)?;
            let (cursor, offsets) = of_one(number, &mut Reader::new(fields))?;
            if offsets.first < offsets.end {
                each(cursor, offsets);
            }
        }
        kind::RECALLED | transaction::COMMITTED | transaction::ROLLED_BACK | transaction::GIVEN_UP | transaction::REVIVED => {
            let fields = record.get(RECORD_HEADER_BYTES..).ok_or(WireError::Truncated)?;
            let from = &mut Reader::new(fields);
            let several = matches!(number, transaction::COMMITTED | transaction::ROLLED_BACK);
            let count = if several { from.count(24)? } else { 1 };
            for _ in 0..count {
                let (topic, _due_ms, first) = (TopicId(from.u64()?), from.i64()?, from.u64()?);
                let offsets = OffsetRange {
                    first: QueueOffset(first),
                    end: QueueOffset(first.saturating_add(1)),
                };
                each(before_release(topic), offsets);
            }
        }
        kind::SOUGHT | DEAD_LETTERS_DEALT => match Record::decode(record)?.change {
            Change::Sought { group, starts, .. } => {
                for start in starts {
                    let queue = start.queue;
                    each(CursorId { group, queue }, ALL);
                }
            }
            Change::Operated(operated) => {
                if let Operation::DeadLettersDealt { back, .. } = operated.operation {
                    for sent in back {
                        each(sent.cursor, sent.messages.iter().map(|lease| lease.offsets).fold(NONE, joined));
                    }
                }
            }
            _ => {}
        },
        _ => {}
    }
    Ok(())
}

fn of_one(number: u16, from: &mut Reader<'_>) -> Result<(CursorId, OffsetRange), WireError> {
    if number == SKIPPED {
        from.text()?;
    }
    let cursor = take_cursor(from)?;
    from.u32()?;
    let offsets = match number {
        kind::GRANTED => {
            from.u8()?;
            from.blob()?;
            from.bytes(16)?;
            span(from, 18)?
        }
        kind::RETURNED => {
            from.bytes(9)?;
            span(from, 18)?
        }
        kind::EXPIRED => {
            from.bytes(2)?;
            span(from, 18)?
        }
        kind::EXTENDED => {
            from.bytes(8)?;
            span(from, 16)?
        }
        kind::SETTLED => span(from, 16)?,
        _ => {
            let first = from.u64()?;
            OffsetRange {
                first: QueueOffset(first),
                end: QueueOffset(first.saturating_add(1)),
            }
        }
    };
    Ok((cursor, offsets))
}

/// Between which offsets the ranges lie that come next, each with its offsets first in `entry_bytes`.
fn span(from: &mut Reader<'_>, entry_bytes: usize) -> Result<OffsetRange, WireError> {
    let count = from.count(entry_bytes)?;
    let mut span = NONE;
    for _ in 0..count {
        let range = OffsetRange {
            first: QueueOffset(from.u64()?),
            end: QueueOffset(from.u64()?),
        };
        from.bytes(entry_bytes - 16)?;
        span = joined(span, range);
    }
    Ok(span)
}

/// From the lower first to the higher end of two.
fn joined(one: OffsetRange, other: OffsetRange) -> OffsetRange {
    OffsetRange {
        first: one.first.min(other.first),
        end: one.end.max(other.end),
    }
}

/// Whether a decoded record deals with one message of a cursor.
pub(crate) fn concerns(change: &Change, wanted: CursorId, offset: QueueOffset) -> bool {
    let among = |ranges: &[OffsetRange]| ranges.iter().any(|range| (range.first..range.end).contains(&offset));
    let waited = |topic: TopicId, due: Due| (before_release(topic), due.number) == (wanted, offset);
    let prepared = |message: &Prepared| waited(message.topic, message.due);
    match change {
        Change::Recalled { topic, due } => waited(*topic, *due),
        Change::Transaction(transaction) => match transaction {
            Transaction::Committed { messages, .. } | Transaction::RolledBack { messages, .. } => messages.iter().any(prepared),
            Transaction::GivenUp { message, .. } | Transaction::Revived { message, .. } => prepared(message),
            Transaction::Prepared { .. } | Transaction::Asked { .. } => false,
        },
        Change::Granted { cursor, leases, .. } | Change::Returned { cursor, leases, .. } => {
            *cursor == wanted && leases.iter().any(|lease| among(&[lease.offsets]))
        }
        Change::Expired { cursor, messages, .. } => *cursor == wanted && messages.iter().any(|lease| among(&[lease.offsets])),
        Change::Settled { cursor, offsets, .. } | Change::Extended { cursor, offsets, .. } => *cursor == wanted && among(offsets),
        Change::DeadLettered { cursor, offset: of, .. } | Change::CulpritDecided { cursor, offset: of, .. } => {
            (*cursor, *of) == (wanted, offset)
        }
        Change::Sought { group, starts, .. } => *group == wanted.group && starts.iter().any(|start| start.queue == wanted.queue),
        Change::Operated(operated) => match &operated.operation {
            Operation::Skipped { cursor, offset: of, .. } => (*cursor, *of) == (wanted, offset),
            Operation::DeadLettersDealt { back, .. } => back
                .iter()
                .any(|sent| sent.cursor == wanted && sent.messages.iter().any(|lease| among(&[lease.offsets]))),
            Operation::Paused { .. } | Operation::Unpaused { .. } | Operation::TopicGrown { .. } | Operation::Absent { .. } => false,
        },
        _ => false,
    }
}
