//! How the changes that messages go through are written and read.

use bytes::Bytes;
use sluice_protocol::ids::{Digest, Pass, QueueOffset};
use sluice_protocol::wire::{Reader, Writer};

use super::codec::RecordError;
use super::failure::{put_fate, take_fate};
use super::fields::{
    put_cursor, put_holder, put_leases, put_queue, put_ranges, reason_number, take_cursor, take_holder, take_leases, take_queue,
    take_ranges, take_reason,
};
use super::lanes::{needs_version_2, put_parked, take_parked};
use super::operated::take_operated;
use super::{Change, kind};

/// Writes the fields of a change that messages go through.
pub(super) fn put_flow(change: &Change, out: &mut Writer) {
    match change {
        Change::Appended { queue, first, batch } => {
            put_queue(out, *queue).u64(first.0).blob(batch);
        }
        Change::Granted {
            cursor,
            pass,
            priority,
            holder,
            leases,
            frontier,
            expires_mono_ms,
        } => {
            put_holder(put_cursor(out, *cursor).u32(pass.0), holder);
            put_leases(out.u64(frontier.0).u64(*expires_mono_ms), leases);
            if needs_version_2(change) {
                out.u8(*priority);
            }
        }
        Change::FrontierMoved {
            cursor,
            pass,
            priority,
            frontier,
            parked,
        } => {
            put_cursor(out, *cursor).u32(pass.0).u64(frontier.0);
            if needs_version_2(change) {
                put_parked(out.u8(*priority), parked);
            }
        }
        Change::Settled { cursor, pass, offsets } => {
            put_ranges(put_cursor(out, *cursor).u32(pass.0), offsets);
        }
        Change::Returned {
            cursor,
            pass,
            leases,
            due_mono_ms,
            reason,
        } => {
            put_cursor(out, *cursor).u32(pass.0).u64(*due_mono_ms).u8(reason_number(*reason));
            put_leases(out, leases);
        }
        Change::Extended {
            cursor,
            pass,
            offsets,
            expires_mono_ms,
        } => {
            put_ranges(put_cursor(out, *cursor).u32(pass.0).u64(*expires_mono_ms), offsets);
        }
        Change::DeadLettered {
            cursor,
            pass,
            offset,
            to,
            at_offset,
            batch,
        } => {
            put_cursor(out, *cursor).u32(pass.0).u64(offset.0);
            put_queue(out, *to).u64(at_offset.0).blob(batch);
        }
        Change::CulpritDecided {
            cursor,
            pass,
            priority,
            offset,
            digest,
            reason,
            fate,
        } => {
            put_cursor(out, *cursor).u32(pass.0).u64(offset.0).bytes(&digest.0).text(reason);
            // A batch ends its record, whatever else there is.
            if needs_version_2(change) {
                out.u8(*priority);
            }
            put_fate(out, fate);
        }
        Change::Opened { .. }
        | Change::TopicCreated { .. }
        | Change::TopicDeleted { .. }
        | Change::GroupCreated { .. }
        | Change::GroupDeleted { .. }
        | Change::Subscribed { .. }
        | Change::PluginBound { .. }
        | Change::Sought { .. }
        | Change::Trimmed { .. }
        | Change::ProducerForgotten { .. }
        | Change::SubscriptionHeld { .. }
        | Change::SubscriptionResumed { .. }
        | Change::Operated(_)
        | Change::Delayed { .. }
        | Change::Released { .. }
        | Change::Recalled { .. }
        | Change::Prioritized { .. }
        | Change::Expiring { .. }
        | Change::DeadlinesFound { .. }
        | Change::Expired { .. }
        | Change::Transaction(_)
        | Change::GivenIds(_)
        | Change::Restored(_)
        | Change::Parts(_) => {}
    }
}

/// Reads the fields of a change that messages go through.
pub(super) fn take_flow(number: u16, version: u16, from: &mut Reader<'_>, whole: &Bytes) -> Result<Change, RecordError> {
    let priority = |from: &mut Reader<'_>| if version > 1 { from.u8() } else { Ok(0) };
    Ok(match number {
        kind::APPENDED => Change::Appended {
            queue: take_queue(from)?,
            first: QueueOffset(from.u64()?),
            batch: whole.slice_ref(from.blob()?),
        },
        kind::GRANTED => {
            let (cursor, pass, holder) = (take_cursor(from)?, Pass(from.u32()?), take_holder(from)?);
            let (frontier, expires_mono_ms) = (QueueOffset(from.u64()?), from.u64()?);
            Change::Granted {
                cursor,
                pass,
                holder,
                leases: take_leases(from)?,
                frontier,
                expires_mono_ms,
                priority: priority(from)?,
            }
        }
        kind::FRONTIER_MOVED => Change::FrontierMoved {
            cursor: take_cursor(from)?,
            pass: Pass(from.u32()?),
            frontier: QueueOffset(from.u64()?),
            priority: priority(from)?,
            parked: if version > 1 { take_parked(from)? } else { Vec::new() },
        },
        kind::SETTLED => Change::Settled {
            cursor: take_cursor(from)?,
            pass: Pass(from.u32()?),
            offsets: take_ranges(from)?,
        },
        kind::RETURNED => {
            let (cursor, pass, due_mono_ms) = (take_cursor(from)?, Pass(from.u32()?), from.u64()?);
            let reason = take_reason(from)?;
            Change::Returned {
                cursor,
                pass,
                leases: take_leases(from)?,
                due_mono_ms,
                reason,
            }
        }
        kind::EXTENDED => {
            let (cursor, pass, expires_mono_ms) = (take_cursor(from)?, Pass(from.u32()?), from.u64()?);
            Change::Extended {
                cursor,
                pass,
                offsets: take_ranges(from)?,
                expires_mono_ms,
            }
        }
        kind::DEAD_LETTERED => Change::DeadLettered {
            cursor: take_cursor(from)?,
            pass: Pass(from.u32()?),
            offset: QueueOffset(from.u64()?),
            to: take_queue(from)?,
            at_offset: QueueOffset(from.u64()?),
            batch: whole.slice_ref(from.blob()?),
        },
        kind::CULPRIT_DECIDED => Change::CulpritDecided {
            cursor: take_cursor(from)?,
            pass: Pass(from.u32()?),
            offset: QueueOffset(from.u64()?),
            digest: Digest(from.array()?),
            reason: from.text()?.to_string(),
            priority: priority(from)?,
            fate: take_fate(from, whole)?,
        },
        other => Change::Operated(take_operated(other, version, from)?),
    })
}
