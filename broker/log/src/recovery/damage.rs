//! Telling damage from a torn tail: what is confirmed and cannot be read must never be cut.

use sluice_protocol::ids::{Epoch, Position};

use super::directory::Found;
use crate::checkpoint::Checkpoint;
use crate::error::LogError;
use crate::format::Secrets;
use crate::scan::Scan;
use crate::segment::{SEGMENT_HEADER_BYTES, checkpoint_name, file_offset, segment_name};
use crate::storage::Storage;

/// How far the frames of a log could be followed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reached {
    /// The base of the first segment followed; none when the log has none.
    pub(crate) first: Option<Position>,
    /// The number and the base of the last one.
    pub(crate) last: Option<(u64, Position)>,
    /// Where the last frame ends.
    pub(crate) end: Position,
    /// No frame that follows is of an earlier epoch.
    pub(crate) floor: Epoch,
}

impl Reached {
    /// The file in which the next frame would be.
    fn file(&self) -> String {
        let nowhere = || format!("the segment at position {}", self.end.0);
        self.last.map_or_else(nowhere, |(number, _)| segment_name(number))
    }

    fn damaged(&self, bytes: u64, reason: &'static str) -> LogError {
        LogError::Damaged {
            file: self.file(),
            position: self.end,
            bytes,
            reason,
        }
    }
}

/// Refuses a log in which something that was confirmed cannot be read any more.
pub(crate) fn refuse_damage(
    storage: &dyn Storage,
    secrets: &Secrets,
    found: &[Found],
    newest: Option<&Checkpoint>,
    broken: &[u64],
    reached: &Reached,
) -> Result<(), LogError> {
    let bad = reached.end;
    for file in found {
        let own = reached.last.filter(|(number, _)| *number == file.number);
        // A frame of a segment that begins before the bad place and is sealed proves nothing about it.
        if own.is_none() && file.header.is_some_and(|header| header.base < bad) {
            continue;
        }
        let from = own.map_or(SEGMENT_HEADER_BYTES, |(_, base)| file_offset(base, bad));
        let mut scan = Scan::open(storage, secrets.frame, file.number)?;
        if let Some(proof) = scan.proof_of_damage(from, bad, reached.floor)? {
            let bytes = proof.position.0.saturating_sub(bad.0).min(proof.synced.0 - bad.0);
            return Err(reached.damaged(bytes, "a later frame says that the log was synced beyond it"));
        }
    }
    if let Some(checkpoint) = newest.filter(|checkpoint| checkpoint.covers > bad) {
        let bytes = checkpoint.covers.0 - bad.0;
        return Err(reached.damaged(bytes, "the checkpoint says that the log was synced beyond it"));
    }
    let starts_late = reached.first.is_none_or(|base| base > Position(0)) && found.iter().any(|file| file.header.is_some());
    if newest.is_none() && (starts_late || (!broken.is_empty() && reached.first.is_none())) {
        let the_checkpoint = || "the checkpoint".to_string();
        return Err(LogError::Damaged {
            file: broken.first().map_or_else(the_checkpoint, |number| checkpoint_name(*number)),
            position: Position(0),
            bytes: 0,
            reason: "without it the log does not begin at 0",
        });
    }
    Ok(())
}
