//! How the fields that say what becomes of a plugin's failures are written and read.

use bytes::Bytes;
use sluice_protocol::ids::QueueOffset;
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::fields::{put_queue, take_queue};
use super::{Fate, OnFailure};

pub(super) fn put_on_failure(out: &mut Writer, on_failure: OnFailure) {
    out.u8(match on_failure {
        OnFailure::DeadLetter => 1,
        OnFailure::Hold => 2,
        OnFailure::Deliver => 3,
        OnFailure::Skip => 4,
    });
}

pub(super) fn take_on_failure(from: &mut Reader<'_>) -> Result<OnFailure, WireError> {
    match from.u8()? {
        1 => Ok(OnFailure::DeadLetter),
        2 => Ok(OnFailure::Hold),
        3 => Ok(OnFailure::Deliver),
        4 => Ok(OnFailure::Skip),
        _ => Err(WireError::Impossible("failure policy")),
    }
}

/// The fate comes last in its record: a dead letter ends with its batch.
pub(super) fn put_fate(out: &mut Writer, fate: &Fate) {
    match fate {
        Fate::DeadLettered { to, at_offset, batch } => put_queue(out.u8(1), *to).u64(at_offset.0).blob(batch),
        Fate::Held => out.u8(2),
        Fate::Delivered => out.u8(3),
        Fate::Skipped => out.u8(4),
    };
}

pub(super) fn take_fate(from: &mut Reader<'_>, whole: &Bytes) -> Result<Fate, WireError> {
    match from.u8()? {
        1 => Ok(Fate::DeadLettered {
            to: take_queue(from)?,
            at_offset: QueueOffset(from.u64()?),
            batch: whole.slice_ref(from.blob()?),
        }),
        2 => Ok(Fate::Held),
        3 => Ok(Fate::Delivered),
        4 => Ok(Fate::Skipped),
        _ => Err(WireError::Impossible("fate")),
    }
}
