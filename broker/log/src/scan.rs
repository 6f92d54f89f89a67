//! Reading a segment's frames one after the other, and looking for frames where none should be.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::batch::Attributes;
use sluice_protocol::ids::{Epoch, Position};

use crate::error::LogError;
use crate::frame::{FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, FrameSecret, records};
use crate::index::{BatchPlace, SegmentIndex};
use crate::limits::SCAN_BYTES;
use crate::planted::{self, Bug};
use crate::record::{Origin, StoredBatch, dealt, peek, stored};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, segment_name};
use crate::storage::{Storage, StorageFile};

/// A segment's file read in large pieces.
pub(crate) struct Scan {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) bytes: u64,
    secret: FrameSecret,
    buffer: Bytes,
    buffer_at: u64,
}

impl Scan {
    /// Opens a segment's file.
    pub(crate) fn open(storage: &dyn Storage, secret: FrameSecret, number: u64) -> Result<Self, LogError> {
        let name = segment_name(number);
        let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
        let bytes = file.len().map_err(LogError::io("reading", &name))?;
        Ok(Self {
            name,
            file,
            bytes,
            secret,
            buffer: Bytes::new(),
            buffer_at: 0,
        })
    }

    /// The segment's header; `None` for a spare and for one that is damaged.
    pub(crate) fn header(&mut self) -> Result<Option<SegmentHeader>, LogError> {
        let secret = self.secret;
        Ok(self
            .get(0, SEGMENT_HEADER_BYTES)?
            .and_then(|bytes| SegmentHeader::decode(secret, &bytes)))
    }

    /// The whole frame at `offset` of the file; `None` when there is none.
    pub(crate) fn frame(&mut self, offset: u64) -> Result<Option<(FrameHeader, Bytes)>, LogError> {
        let Some(header_bytes) = self.get(offset, FRAME_HEADER_BYTES)? else {
            return Ok(None);
        };
        let Some(header) = FrameHeader::parse(self.secret, &header_bytes) else {
            return Ok(None);
        };
        let Some(payload) = self.get(offset + FRAME_HEADER_BYTES, u64::from(header.payload_bytes))? else {
            return Ok(None);
        };
        Ok(header.verify(self.secret, &header_bytes, &payload).then_some((header, payload)))
    }

    /// The frame at `offset` if it is the log's next: in its place, and of no lower epoch than its predecessor.
    pub(crate) fn next(&mut self, offset: u64, position: Position, floor: Epoch) -> Result<Option<(FrameHeader, Bytes)>, LogError> {
        let fresh = |header: &FrameHeader| header.epoch >= floor || planted::is(Bug::StaleFrame);
        Ok(self
            .frame(offset)?
            .filter(|(header, _)| header.position == position && fresh(header)))
    }

    /// The header of the last frame from `offset` on that was begun behind `end`, whether or not the frame is whole.
    pub(crate) fn last_begun(&mut self, offset: u64, end: Position, floor: Epoch) -> Result<Option<FrameHeader>, LogError> {
        let mut last = None;
        self.each_likely(offset, |scan, at| {
            let header = scan
                .get(at, FRAME_HEADER_BYTES)?
                .and_then(|bytes| FrameHeader::parse(scan.secret, &bytes));
            // Its place tells it from what the file held before.
            let fresh = |header: &FrameHeader| header.epoch >= floor && header.position.0.checked_sub(end.0) == Some(at - offset);
            last = header.filter(fresh).or(last);
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(last)
    }

    /// Looks from `offset` on for a frame which proves that the log was synced beyond `bad`.
    pub(crate) fn proof_of_damage(&mut self, offset: u64, bad: Position, floor: Epoch) -> Result<Option<FrameHeader>, LogError> {
        if planted::is(Bug::DamageCut) {
            return Ok(None);
        }
        let mut proof = None;
        self.each_likely(offset, |scan, at| {
            let proves = |header: &FrameHeader| header.epoch >= floor && header.synced > bad;
            proof = scan.frame(at)?.map(|(header, _)| header).filter(proves);
            Ok(if proof.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        })?;
        Ok(proof)
    }

    /// Calls `each` with every place from `offset` on at which a frame may begin, until it says that this is enough.
    fn each_likely(
        &mut self,
        offset: u64,
        mut each: impl FnMut(&mut Self, u64) -> Result<ControlFlow<()>, LogError>,
    ) -> Result<(), LogError> {
        for part in self.parts_with_data(offset)? {
            if self.each_likely_of(part, &mut each)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    /// The parts of the file from `offset` on that must be looked at: most of a segment that was just allocated is zeros that need not be read.
    /// Found before anything is read, since what was read, and what the system reads ahead, counts as data from then on.
    fn parts_with_data(&self, offset: u64) -> Result<Vec<Range<u64>>, LogError> {
        let mut parts = Vec::new();
        let mut at = offset;
        while at < self.bytes {
            let next = self.file.next_data(at).map_err(LogError::io("searching", &self.name))?;
            let Some(next) = next.filter(|next| *next < self.bytes) else {
                break;
            };
            let hole = self.file.next_hole(next).map_err(LogError::io("searching", &self.name))?;
            at = hole.clamp(next + 1, self.bytes.max(next + 1));
            parts.push(next.max(offset)..at.min(self.bytes));
        }
        Ok(parts)
    }

    fn each_likely_of(
        &mut self,
        part: Range<u64>,
        each: &mut impl FnMut(&mut Self, u64) -> Result<ControlFlow<()>, LogError>,
    ) -> Result<ControlFlow<()>, LogError> {
        // What begins before the part begins with zeros, which no frame does.
        let mut at = part.start.next_multiple_of(FRAME_ALIGNMENT);
        while at < part.end {
            let Some(piece) = self.get(at, (part.end - at).min(SCAN_BYTES as u64))? else {
                break;
            };
            // Almost every place is ruled out by its first bytes.
            let likely = piece
                .chunks(FRAME_ALIGNMENT as usize)
                .enumerate()
                .filter(|(_, place)| place.starts_with(&FRAME_MAGIC));
            for (index, _) in likely {
                if each(self, at + index as u64 * FRAME_ALIGNMENT)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            at += SCAN_BYTES as u64;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// `length` bytes at `offset`, out of what was read ahead where possible; `None` beyond the end of the file.
    fn get(&mut self, offset: u64, length: u64) -> Result<Option<Bytes>, LogError> {
        if offset.checked_add(length).is_none_or(|end| end > self.bytes) {
            return Ok(None);
        }
        let within = offset >= self.buffer_at && offset + length <= self.buffer_at + self.buffer.len() as u64;
        if !within {
            let read = length.max(SCAN_BYTES as u64).min(self.bytes - offset);
            let mut bytes = vec![0; read as usize];
            self.file.read_at(offset, &mut bytes).map_err(LogError::io("reading", &self.name))?;
            self.buffer = bytes.into();
            self.buffer_at = offset;
        }
        let from = (offset - self.buffer_at) as usize;
        Ok(Some(self.buffer.slice(from..from + length as usize)))
    }
}

/// What the index wants to know of a record that stores a batch.
pub(crate) struct Indexed {
    pub(crate) place: BatchPlace,
    pub(crate) attributes: Attributes,
    pub(crate) origin: Origin,
    pub(crate) batch: Bytes,
}

/// What the index wants to know of the record at `position`; `None` when it stores no batch.
pub(crate) fn indexed(position: Position, record: &Bytes) -> Result<Option<Indexed>, LogError> {
    let unreadable = |source| LogError::Unreadable { position, source };
    let Some(StoredBatch {
        queue,
        first,
        batch,
        origin,
    }) = stored(record).map_err(unreadable)?
    else {
        return Ok(None);
    };
    let (_, at) = peek(record).map_err(unreadable)?;
    // The batch is the last field of its record.
    let batch_position = Position(position.0 + crate::frame::RECORD_LENGTH_BYTES + (record.len() - batch.len()) as u64);
    let bad = |reason: String| LogError::BadBatch {
        position: batch_position,
        reason,
    };
    let attributes = Attributes::parse_stored(batch.clone()).map_err(|error| bad(error.to_string()))?;
    if attributes.total_bytes() != batch.len() {
        return Err(bad("its length is not what it says".to_string()));
    }
    let place = BatchPlace {
        queue,
        first,
        count: attributes.count(),
        position: batch_position,
        attribute_bytes: attributes.attribute_bytes() as u32,
        total_bytes: batch.len() as u32,
        stored_wall_ms: at.wall_ms,
    };
    Ok(Some(Indexed {
        place,
        attributes,
        origin,
        batch,
    }))
}

impl SegmentIndex {
    /// Takes in a record of a verified frame.
    pub(crate) fn take(&mut self, frame: Position, position: Position, record: &Bytes) -> Result<(), LogError> {
        if let Some(found) = indexed(position, record)? {
            self.add(found.place, &found.attributes, found.origin);
        }
        let noted = dealt(record, |cursor, offsets| self.dealings.note(frame, cursor, offsets));
        noted.map_err(|source| LogError::Unreadable { position, source })
    }
}

/// The records of a verified frame.
pub(crate) fn frame_records(header: &FrameHeader, payload: &Bytes) -> Result<Vec<(Position, Bytes)>, LogError> {
    let misfit = LogError::Unreadable {
        position: header.position,
        source: sluice_protocol::wire::WireError::Impossible("record length").into(),
    };
    records(header, payload).collect::<Option<Vec<_>>>().ok_or(misfit)
}
