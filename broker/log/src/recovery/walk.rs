//! Following the frames from where replay begins to the end of the log.

use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::ids::{Epoch, Position};
use sluice_protocol::units::Now;

use super::damage::Reached;
use super::directory::{Found, Listing};
use crate::checkpoint::Checkpoint;
use crate::error::LogError;
use crate::format::Secrets;
use crate::index::{Producers, SegmentIndex};
use crate::reader::Unwritten;
use crate::record::peek;
use crate::scan::{Scan, frame_records};
use crate::segment::{Segment, file_offset};
use crate::sidecar::{self, Sidecar};
use crate::storage::Storage;
use crate::writer::write_sidecar;

/// What a walk along the frames has come to.
pub(super) struct Walk {
    /// The segments walked, the active one last, each with its base and its size.
    pub(super) chain: Vec<Segment>,
    /// The index of the last of them.
    pub(super) index: SegmentIndex,
    pub(super) end: Position,
    pub(super) floor: Epoch,
    pub(super) stamp: Option<Now>,
    /// Where replay begins: the segment's place in the chain and the frame's position.
    pub(super) replay: Option<(usize, Position)>,
    /// The indexes of segments for whose sidecars there is no room.
    pub(super) unwritten: Unwritten,
    replay_from: Position,
    /// The floor of the checkpoint, which holds from `replay_from` on; that of a segment holds from its beginning.
    replay_floor: Epoch,
}

/// Follows the frames from the segment where replay begins to the end of the log. Sidecars of segments that it passes are made if missing.
pub(super) fn walk(
    storage: &dyn Storage,
    secrets: &Secrets,
    found: &[Found],
    newest: Option<&Checkpoint>,
    listing: &Listing,
) -> Result<Walk, LogError> {
    let facts = newest.map(|checkpoint| checkpoint.facts);
    let replay_from = facts.map_or(Position(0), |facts| facts.replay_from);
    let live = |base: Position| {
        found
            .iter()
            .filter_map(move |file| file.live().filter(|(_, header)| header.base == base))
    };
    let bases = found.iter().filter_map(|file| Some(file.header?.base));
    let first = bases.filter(|base| *base <= replay_from).max();
    let mut walk = Walk {
        chain: Vec::new(),
        index: SegmentIndex::default(),
        end: first.unwrap_or(replay_from),
        floor: Epoch(0),
        stamp: facts.map(|facts| facts.stamp),
        replay: None,
        unwritten: Unwritten::new(),
        replay_from,
        replay_floor: facts.map_or(Epoch(0), |facts| facts.epoch_floor),
    };
    let mut next = first.and_then(|base| live(base).next());
    while let Some((file, header)) = next {
        if let Some(before) = walk.chain.last_mut() {
            let index = std::mem::take(&mut walk.index);
            *before = before.sealed(walk.end, &index);
            let (base, end) = (before.base, before.end);
            if !has_sidecar(storage, listing, base, end)? {
                walk.index_again(storage, base, end, index)?;
            }
        }
        walk.chain.push(Segment {
            number: file.number,
            base: header.base,
            end: header.base,
            bytes: file.bytes,
            summary: None,
            producers: Producers::told(None),
            keys: 0,
            stored_wall_ms: None,
        });
        walk.floor = walk.floor.max(header.epoch);
        walk.segment(Scan::open(storage, secrets.frame, file.number)?, header.base)?;
        next = live(walk.end).find(|(next, _)| next.number != file.number);
    }
    walk.floor = walk.floor.max(walk.replay_floor);
    if let Some(last) = walk.chain.last_mut() {
        last.end = walk.end;
    }
    Ok(walk)
}

impl Walk {
    /// How far it came.
    pub(super) fn reached(&self) -> Reached {
        Reached {
            first: self.chain.first().map(|segment| segment.base),
            last: self.chain.last().map(|segment| (segment.number, segment.base)),
            end: self.end,
            floor: self.floor,
        }
    }

    /// Writes the sidecar of a sealed segment, or keeps its index in memory when there is no room.
    pub(super) fn index_again(
        &mut self,
        storage: &dyn Storage,
        base: Position,
        end: Position,
        index: SegmentIndex,
    ) -> Result<(), LogError> {
        match write_sidecar(storage, base, &sidecar::encode(&index, base, end)) {
            Err(LogError::NoRoom { .. }) => {
                self.unwritten.insert(base, (end, Arc::new(index)));
                Ok(())
            }
            written => written,
        }
    }

    /// Follows the frames of the last segment in the chain.
    fn segment(&mut self, mut scan: Scan, base: Position) -> Result<(), LogError> {
        loop {
            if self.end >= self.replay_from {
                self.floor = self.floor.max(self.replay_floor);
            }
            let Some((frame, payload)) = scan.next(file_offset(base, self.end), self.end, self.floor)? else {
                return Ok(());
            };
            if self.replay.is_none() && frame.end() > self.replay_from {
                self.replay = Some((self.chain.len() - 1, frame.position));
            }
            for (position, record) in frame_records(&frame, &payload)? {
                self.take(frame.position, position, &record)?;
            }
            self.floor = frame.epoch;
            self.end = frame.end();
        }
    }

    fn take(&mut self, frame: Position, position: Position, record: &Bytes) -> Result<(), LogError> {
        let (_, stamp) = peek(record).map_err(|source| LogError::Unreadable { position, source })?;
        self.stamp = Some(stamp);
        self.index.take(frame, position, record)
    }
}

/// Whether a sealed segment has a good sidecar.
fn has_sidecar(storage: &dyn Storage, listing: &Listing, base: Position, end: Position) -> Result<bool, LogError> {
    let there = listing.sidecars.binary_search(&base.0).is_ok();
    Ok(there && Sidecar::open(storage, base)?.is_ok_and(|there| there.head.header.end == end))
}
