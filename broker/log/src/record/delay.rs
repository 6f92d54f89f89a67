//! How the records of a topic's calendar are written and read: messages that wait for their time, are released, or are recalled.

use bytes::Bytes;
use sluice_protocol::ids::{QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::codec::RecordError;
use super::fields::{put_queue, take_queue};
use super::{Change, Due, kind};

/// Writes the fields of a change to a calendar; nothing for any other.
pub(super) fn put_delay(change: &Change, out: &mut Writer) {
    // Only these three kinds have fields here.
    if let Change::Delayed {
        topic,
        first,
        due_ms,
        batch,
    } = change
    {
        out.u64(topic.0).u64(first.0).count(due_ms.len());
        for due_ms in due_ms {
            out.i64(*due_ms);
        }
        out.blob(batch);
    } else if let Change::Released { queue, first, due, batch } = change {
        put_queue(out, *queue).u64(first.0).count(due.len());
        due.iter().for_each(|due| put_due(out, *due));
        out.blob(batch);
    } else if let Change::Recalled { topic, due } = change {
        put_due(out.u64(topic.0), *due);
    }
}

/// Reads the fields of a change to a calendar.
pub(super) fn take_delay(number: u16, from: &mut Reader<'_>, whole: &Bytes) -> Result<Change, RecordError> {
    Ok(match number {
        kind::DELAYED => Change::Delayed {
            topic: TopicId(from.u64()?),
            first: QueueOffset(from.u64()?),
            due_ms: (0..from.count(8)?).map(|_| from.i64()).collect::<Result<_, _>>()?,
            batch: whole.slice_ref(from.blob()?),
        },
        kind::RELEASED => Change::Released {
            queue: take_queue(from)?,
            first: QueueOffset(from.u64()?),
            due: (0..from.count(16)?).map(|_| take_due(from)).collect::<Result<_, _>>()?,
            batch: whole.slice_ref(from.blob()?),
        },
        kind::RECALLED => Change::Recalled {
            topic: TopicId(from.u64()?),
            due: take_due(from)?,
        },
        unknown => return Err(RecordError::Kind(unknown)),
    })
}

pub(super) fn put_due(out: &mut Writer, due: Due) {
    out.i64(due.at_ms).u64(due.number.0);
}

pub(super) fn take_due(from: &mut Reader<'_>) -> Result<Due, WireError> {
    Ok(Due {
        at_ms: from.i64()?,
        number: QueueOffset(from.u64()?),
    })
}
