//! What records say of messages that live for a time, and how that is written and read.

use sluice_protocol::ids::{Pass, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::codec::RecordError;
use super::fields::{put_cursor, put_leases, put_queue, put_range, take_cursor, take_leases, take_queue, take_range};
use super::{Change, OffsetRange, TopicSettings, kind};

/// What becomes of a message that expired before it was settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExpired {
    /// It is settled.
    #[default]
    Skip,
    /// It goes to the group's dead-letter topic.
    DeadLetter,
}

/// Neighbouring messages that expire together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The messages.
    pub offsets: OffsetRange,
    /// From when on they are not handed out any more: wall clock, milliseconds.
    pub expires_ms: i64,
}

impl TopicSettings {
    /// Whether any of what version 2 added is not as it was before.
    pub fn is_extended(&self) -> bool {
        (self.ttl_ms, self.on_expired) != (0, OnExpired::Skip)
    }
}

/// Writes what version 2 of a topic's settings adds.
pub fn put_lifetime(out: &mut Writer, settings: &TopicSettings) {
    put_fate(out.u64(settings.ttl_ms), settings.on_expired);
}

/// Reads what version 2 of a topic's settings adds.
///
/// # Errors
/// [`WireError`] when it is cut short or says what it cannot.
pub fn take_lifetime(from: &mut Reader<'_>, settings: &mut TopicSettings) -> Result<(), WireError> {
    settings.ttl_ms = from.u64()?;
    settings.on_expired = take_fate(from)?;
    Ok(())
}

/// Writes deadlines.
pub fn put_deadlines(out: &mut Writer, deadlines: &[Deadline]) {
    out.count(deadlines.len());
    for deadline in deadlines {
        put_range(out, deadline.offsets);
        out.i64(deadline.expires_ms);
    }
}

/// Reads deadlines.
///
/// # Errors
/// [`WireError`] when they are cut short or say what they cannot.
pub fn take_deadlines(from: &mut Reader<'_>) -> Result<Vec<Deadline>, WireError> {
    let count = from.count(24)?;
    (0..count)
        .map(|_| {
            Ok(Deadline {
                offsets: take_range(from)?,
                expires_ms: from.i64()?,
            })
        })
        .collect()
}

fn put_fate(out: &mut Writer, fate: OnExpired) {
    out.u8(match fate {
        OnExpired::Skip => 1,
        OnExpired::DeadLetter => 2,
    });
}

fn take_fate(from: &mut Reader<'_>) -> Result<OnExpired, WireError> {
    match from.u8()? {
        1 => Ok(OnExpired::Skip),
        2 => Ok(OnExpired::DeadLetter),
        _ => Err(WireError::Impossible("what becomes of an expired message")),
    }
}

/// Writes the fields of a change that concerns expiry; nothing for any other.
pub(super) fn put_expiry(change: &Change, out: &mut Writer) {
    // Only these three kinds have fields here.
    if let Change::Expiring { queue, first, end } = change {
        put_queue(out, *queue).u64(first.0).u64(end.0);
    } else if let Change::DeadlinesFound {
        cursor,
        pass,
        priority,
        deadlines,
    } = change
    {
        put_cursor(out, *cursor).u32(pass.0).u8(*priority);
        put_deadlines(out, deadlines);
    } else if let Change::Expired {
        cursor,
        pass,
        priority,
        messages,
        fate,
    } = change
    {
        put_cursor(out, *cursor).u32(pass.0).u8(*priority);
        put_fate(out, *fate);
        put_leases(out, messages);
    }
}

/// Reads the fields of a change that concerns expiry.
pub(super) fn take_expiry(number: u16, from: &mut Reader<'_>) -> Result<Change, RecordError> {
    Ok(match number {
        kind::EXPIRING => Change::Expiring {
            queue: take_queue(from)?,
            first: QueueOffset(from.u64()?),
            end: QueueOffset(from.u64()?),
        },
        kind::DEADLINES_FOUND => Change::DeadlinesFound {
            cursor: take_cursor(from)?,
            pass: Pass(from.u32()?),
            priority: from.u8()?,
            deadlines: take_deadlines(from)?,
        },
        kind::EXPIRED => {
            let (cursor, pass, priority) = (take_cursor(from)?, Pass(from.u32()?), from.u8()?);
            let fate = take_fate(from)?;
            Change::Expired {
                cursor,
                pass,
                priority,
                messages: take_leases(from)?,
                fate,
            }
        }
        unknown => return Err(RecordError::Kind(unknown)),
    })
}
