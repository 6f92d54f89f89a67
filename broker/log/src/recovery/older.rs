//! What lies beside the walked segments: sealed ones behind the checkpoint, and files that are no part of the log.

use std::io;

use sluice_protocol::ids::Position;

use super::directory::{Found, Listing};
use super::walk::Walk;
use crate::error::LogError;
use crate::format::Secrets;
use crate::index::{Producers, SegmentIndex};
use crate::limits::{SPARE_SEGMENTS_MAX, SUMMARY_QUEUES_MAX};
use crate::reserve::Spare;
use crate::scan::{Scan, frame_records};
use crate::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, file_offset, segment_name};
use crate::sidecar::Sidecar;
use crate::storage::{Storage, StorageFile};
use crate::writer::LogConfig;

/// The sealed segments before those that were walked, with their summaries; sidecars that cannot be used are made again.
pub(super) fn older_segments(
    storage: &dyn Storage,
    secrets: &Secrets,
    found: &[Found],
    walk: &mut Walk,
    listing: &Listing,
) -> Result<Vec<Segment>, LogError> {
    let first = walk.chain.first().map_or(Position(0), |segment| segment.base);
    let mut older = Vec::new();
    for file in found {
        let Some(header) = file.header.filter(|header| header.base < first) else {
            continue;
        };
        let there = listing.sidecars.binary_search(&header.base.0).is_ok();
        let segment = Segment {
            number: file.number,
            base: header.base,
            end: header.base,
            bytes: file.bytes,
            summary: None,
            producers: Producers::told(None),
            keys: 0,
            stored_wall_ms: None,
        };
        let known = if there { known(storage, &segment)? } else { None };
        older.push(match known {
            Some(known) => known,
            None => {
                let (end, index) = index_of(storage, secrets, file.number, &header)?;
                let segment = segment.sealed(end, &index);
                walk.index_again(storage, header.base, end, index)?;
                segment
            }
        });
    }
    older.sort_by_key(|segment| segment.base);
    let live = |base: &u64| found.iter().any(|file| file.header.is_some_and(|header| header.base.0 == *base));
    match listing.sidecars.iter().find(|base| !live(base)) {
        None => Ok(older),
        Some(base) => Err(LogError::Damaged {
            file: format!("the segment at position {base}"),
            position: Position(*base),
            bytes: 0,
            reason: "its sidecar is there and it is not, or its header cannot be read",
        }),
    }
}

/// The segment as the head of its sidecar tells it, and the directory where that is short; `None` when the sidecar cannot be used.
fn known(storage: &dyn Storage, segment: &Segment) -> Result<Option<Segment>, LogError> {
    let Ok(sidecar) = Sidecar::open(storage, segment.base)? else {
        return Ok(None);
    };
    let header = &sidecar.head.header;
    let summary = match header.queues as usize <= SUMMARY_QUEUES_MAX {
        true => match sidecar.spans() {
            Err(LogError::Damaged { .. }) => return Ok(None),
            spans => Some(spans?),
        },
        false => None,
    };
    Ok(Some(Segment {
        end: header.end,
        summary,
        producers: sidecar.head.producers.clone(),
        keys: header.keys,
        stored_wall_ms: header.stored(),
        ..segment.clone()
    }))
}

/// The end and the index of a sealed segment, from its frames.
fn index_of(storage: &dyn Storage, secrets: &Secrets, number: u64, header: &SegmentHeader) -> Result<(Position, SegmentIndex), LogError> {
    let mut scan = Scan::open(storage, secrets.frame, number)?;
    let (mut index, mut end, mut floor) = (SegmentIndex::default(), header.base, header.epoch);
    while let Some((frame, payload)) = scan.next(file_offset(header.base, end), end, floor)? {
        for (position, record) in frame_records(&frame, &payload)? {
            index.take(frame.position, position, &record)?;
        }
        (end, floor) = (frame.end(), frame.epoch);
    }
    if let Some(proof) = scan.proof_of_damage(file_offset(header.base, end), end, floor)? {
        let bytes = proof.position.0.saturating_sub(end.0);
        let reason = "a later frame says that the log was synced beyond it";
        return Err(LogError::Damaged {
            file: segment_name(number),
            position: end,
            bytes,
            reason,
        });
    }
    Ok((end, index))
}

/// Keeps a few files as spares and removes the others that are no part of the log: what was cut off, and what was never begun.
pub(super) fn clear_the_rest(
    storage: &dyn Storage,
    config: &LogConfig,
    found: &[Found],
    walk: &Walk,
    sealed: &[Segment],
) -> Result<Vec<Spare>, LogError> {
    let used = |number| walk.chain.iter().chain(sealed).any(|segment| segment.number == number);
    let mut spares = Vec::new();
    for file in found.iter().filter(|file| !used(file.number)) {
        let name = segment_name(file.number);
        let mut spare = false;
        if file.bytes == config.segment_bytes && spares.len() < SPARE_SEGMENTS_MAX {
            let opened = storage.open(&name).map_err(LogError::io("opening", &name))?;
            match clear(&*opened, file.bytes).map_err(LogError::room("clearing", &name)) {
                Ok(()) => spare = true,
                Err(LogError::NoRoom { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        match spare {
            true => spares.push(Spare {
                number: file.number,
                written: false,
            }),
            false => storage.remove(&name).map_err(LogError::io("removing", &name))?,
        }
    }
    storage.sync_directory().map_err(LogError::io("syncing", &storage.describe()))?;
    Ok(spares)
}

/// Makes an empty segment of a file whose contents nobody wants, durably, and takes the room of all of it.
fn clear(file: &dyn StorageFile, bytes: u64) -> io::Result<()> {
    file.write_at(0, &[&[0; SEGMENT_HEADER_BYTES as usize]])?;
    file.allocate(SEGMENT_HEADER_BYTES, bytes)?;
    file.sync_data()
}
