//! What a directory holds before anything of it is believed: names, segments' headers, checkpoints, beginnings of sidecars.

use sluice_protocol::ids::Position;

use crate::checkpoint::{self, Checkpoint};
use crate::error::LogError;
use crate::format::Secrets;
use crate::index::SegmentIndex;
use crate::scan::Scan;
use crate::segment::{SegmentHeader, number_in, sidecar_name};
use crate::sidecar::{self, SidecarError, SidecarHeader};
use crate::storage::Storage;

/// The names of a directory, by what they are.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) segments: Vec<u64>,
    pub(crate) sidecars: Vec<u64>,
    pub(crate) checkpoints: Vec<u64>,
    pub(crate) parts: Vec<u64>,
}

impl Listing {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, LogError> {
        let mut listing = Self::default();
        for entry in storage.list().map_err(LogError::io("listing", &storage.describe()))? {
            listing.segments.extend(number_in(&entry.name, "segment-"));
            listing.sidecars.extend(number_in(&entry.name, "index-"));
            listing.checkpoints.extend(number_in(&entry.name, "checkpoint-"));
            listing.parts.extend(number_in(&entry.name, "part-"));
        }
        listing.segments.sort_unstable();
        listing.sidecars.sort_unstable();
        listing.checkpoints.sort_unstable();
        listing.parts.sort_unstable();
        Ok(listing)
    }
}

/// A segment file as it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) header: Option<SegmentHeader>,
}

impl Found {
    /// The file with its header, if it is in use.
    pub(crate) fn live(&self) -> Option<(&Self, SegmentHeader)> {
        Some((self, self.header?))
    }
}

/// The headers of all segment files.
pub(crate) fn find_segments(storage: &dyn Storage, secrets: &Secrets, numbers: &[u64]) -> Result<Vec<Found>, LogError> {
    let found = numbers.iter().map(|number| {
        let mut scan = Scan::open(storage, secrets.frame, *number)?;
        Ok(Found {
            number: *number,
            bytes: scan.bytes,
            header: scan.header()?,
        })
    });
    found.collect()
}

/// The newest checkpoint that is whole, and the numbers of those that are not.
pub(crate) fn find_checkpoint(
    storage: &dyn Storage,
    secrets: &Secrets,
    numbers: &[u64],
) -> Result<(Option<Checkpoint>, Vec<u64>), LogError> {
    let mut broken = Vec::new();
    for number in numbers.iter().rev() {
        match checkpoint::read(storage, secrets.frame, *number)? {
            Ok(checkpoint) => return Ok((Some(checkpoint), broken)),
            Err(_) => broken.push(*number),
        }
    }
    Ok((None, broken))
}

/// A whole sidecar; the inner error says why it cannot be used.
pub(crate) fn read_sidecar(storage: &dyn Storage, base: Position) -> Result<Result<(SidecarHeader, SegmentIndex), SidecarError>, LogError> {
    let name = sidecar_name(base);
    let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
    let mut bytes = vec![0; file.len().map_err(LogError::io("reading", &name))? as usize];
    file.read_at(0, &mut bytes).map_err(LogError::io("reading", &name))?;
    Ok(sidecar::decode(&bytes))
}
