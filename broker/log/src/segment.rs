//! Segment files: their names, their header, and where in a file a position of the log is.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::checksum;
use sluice_protocol::ids::{Epoch, Position, QueueId};
use sluice_protocol::wire::{Reader, Writer};

use crate::frame::FrameSecret;
use crate::index::{Producers, QueueSpan, SegmentIndex};
use crate::limits::SUMMARY_QUEUES_MAX;

/// The size of a segment's header; its first frame follows.
pub(crate) const SEGMENT_HEADER_BYTES: u64 = 64;

const MAGIC: [u8; 4] = *b"SLS1";
const VERSION: u16 = 1;
const CHECKSUM_AT: usize = 60;

/// What the header of a segment in use says. A spare segment's header is all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// The position of its first frame.
    pub(crate) base: Position,
    /// The epoch in which it was begun: no frame in it is of an earlier one.
    pub(crate) epoch: Epoch,
    /// The size of the file.
    pub(crate) bytes: u64,
}

impl SegmentHeader {
    /// The header as the file holds it.
    pub(crate) fn encode(&self, secret: FrameSecret) -> [u8; SEGMENT_HEADER_BYTES as usize] {
        let mut out = Writer::with_capacity(SEGMENT_HEADER_BYTES as usize);
        out.bytes(&MAGIC)
            .u16(VERSION)
            .u16(0)
            .u64(secret.0)
            .u64(self.base.0)
            .u64(self.bytes)
            .u32(self.epoch.0)
            .bytes(&[0; 24]);
        let sum = checksum(Crc32Iscsi, &out.take()[..]) as u32;
        out.bytes(&MAGIC)
            .u16(VERSION)
            .u16(0)
            .u64(secret.0)
            .u64(self.base.0)
            .u64(self.bytes)
            .u32(self.epoch.0)
            .bytes(&[0; 24])
            .u32(sum);
        let mut header = [0; SEGMENT_HEADER_BYTES as usize];
        header.copy_from_slice(&out.finish());
        header
    }

    /// Reads a header of this log; `None` when these bytes are none.
    pub(crate) fn decode(secret: FrameSecret, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (magic, version, _reserved, own) = (
            reader.array::<4>().ok()?,
            reader.u16().ok()?,
            reader.u16().ok()?,
            reader.u64().ok()?,
        );
        let (base, size, epoch) = (reader.u64().ok()?, reader.u64().ok()?, reader.u32().ok()?);
        reader.bytes(24).ok()?;
        let sum = reader.u32().ok()?;
        let sound = magic == MAGIC && version == VERSION && own == secret.0 && sum == checksum(Crc32Iscsi, &bytes[..CHECKSUM_AT]) as u32;
        sound.then_some(Self {
            base: Position(base),
            epoch: Epoch(epoch),
            bytes: size,
        })
    }
}

/// A segment of the log, in use.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// The number in its file's name; says nothing of the order.
    pub(crate) number: u64,
    /// The position of its first frame.
    pub(crate) base: Position,
    /// Where its last frame ends; for the active segment as far as it could be read when it was opened.
    pub(crate) end: Position,
    /// The size of the file.
    pub(crate) bytes: u64,
    /// Which offsets of which queues it holds, by queue; `None` when there are too many to keep.
    pub(crate) summary: Option<Vec<QueueSpan>>,
    /// Which message ids it may hold.
    pub(crate) producers: Producers,
    /// How many keys its messages have.
    pub(crate) keys: u32,
    /// When its first and its last batch were stored (wall clock, milliseconds); `None` when it holds none, or is still written.
    pub(crate) stored_wall_ms: Option<(i64, i64)>,
}

impl Segment {
    /// The offsets of `queue` in here as far as known without its sidecar: `Err` when only that can tell.
    pub(crate) fn span(&self, queue: QueueId) -> Result<Option<QueueSpan>, NotInMemory> {
        let summary = self.summary.as_ref().ok_or(NotInMemory)?;
        let found = summary.binary_search_by_key(&queue, |span| span.queue).ok();
        Ok(found.map(|at| summary[at]))
    }

    /// The segment that was written with this index, sealed at `end`.
    pub(crate) fn sealed(&self, end: Position, index: &SegmentIndex) -> Self {
        Self {
            end,
            summary: (index.queues.len() <= SUMMARY_QUEUES_MAX).then(|| index.spans().collect()),
            producers: index.producers(),
            keys: index.keys.len() as u32,
            stored_wall_ms: index.stored_wall_ms,
            ..self.clone()
        }
    }

    /// Where in the file a position of the log is.
    pub(crate) fn offset(&self, position: Position) -> u64 {
        file_offset(self.base, position)
    }
}

/// The summary of a segment is not kept.
#[derive(Debug)]
pub(crate) struct NotInMemory;

/// Where in the file of the segment with this base a position of the log is.
pub(crate) fn file_offset(base: Position, position: Position) -> u64 {
    SEGMENT_HEADER_BYTES + (position.0 - base.0)
}

/// The name of a segment's file.
pub(crate) fn segment_name(number: u64) -> String {
    format!("segment-{number:016x}")
}

/// The name of the sidecar of the segment with this base.
pub(crate) fn sidecar_name(base: Position) -> String {
    format!("index-{:016x}", base.0)
}

/// The name of a checkpoint's file.
pub(crate) fn checkpoint_name(number: u64) -> String {
    format!("checkpoint-{number:016x}")
}

/// The number in a name that was made by one of the functions above, with this beginning.
pub(crate) fn number_in(name: &str, beginning: &str) -> Option<u64> {
    let digits = name.strip_prefix(beginning)?;
    (digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))).then_some(())?;
    u64::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segments_header_survives_and_shows_every_changed_bit() {
        let header = SegmentHeader {
            base: Position(1 << 40),
            epoch: Epoch(7),
            bytes: 64 << 20,
        };
        let secret = FrameSecret(99);
        let bytes = header.encode(secret);
        assert_eq!(SegmentHeader::decode(secret, &bytes), Some(header));
        assert_eq!(SegmentHeader::decode(FrameSecret(1), &bytes), None);
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(secret, &bytes), None, "bit {bit}");
        }
    }

    #[test]
    fn names_give_back_their_numbers() {
        assert_eq!(number_in(&segment_name(0xabc), "segment-"), Some(0xabc));
        assert_eq!(number_in(&sidecar_name(Position(77)), "index-"), Some(77));
        assert_eq!(number_in("segment-12", "segment-"), None);
        assert_eq!(number_in("lock", "segment-"), None);
    }
}
