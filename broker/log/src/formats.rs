//! The formats of a log's files as functions of bytes: each reads bytes of any origin and gives back what this version would write for
//! them, so that fuzzing and tools reach the decoders without a directory. Records have theirs in [`crate::record`].
//!
//! None of them panics or asks for more memory than a small multiple of what it was given. `secret` is the log's frame secret.

use bytes::Bytes;

use crate::checkpoint;
use crate::frame::{FRAME_ALIGNMENT, FRAME_HEADER_BYTES, FrameHeader, FrameSecret};
use crate::part;
use crate::restored::Restored;
use crate::scan::frame_records;
use crate::segment::SegmentHeader;
use crate::sidecar;

/// The header of a segment that `bytes` begins with; `None` when it is no whole header of this log.
pub fn segment_header(secret: u64, bytes: &[u8]) -> Option<Bytes> {
    let header = SegmentHeader::decode(FrameSecret(secret), bytes)?;
    Some(Bytes::copy_from_slice(&header.encode(FrameSecret(secret))))
}

/// The frame that `bytes` begins with; `None` when it is no whole frame of this log.
pub fn frame(secret: u64, bytes: &Bytes) -> Option<Bytes> {
    let secret = FrameSecret(secret);
    let (head, rest) = bytes.split_at_checked(FRAME_HEADER_BYTES as usize)?;
    let header = FrameHeader::parse(secret, head)?;
    let payload = rest.get(..header.payload_bytes as usize)?;
    if !header.verify(secret, head, payload) {
        return None;
    }
    let records: Vec<_> = frame_records(&header, &bytes.slice_ref(payload))
        .ok()?
        .into_iter()
        .map(|(_, record)| record)
        .collect();
    let mut out = FrameHeader::seal(secret, header.position, header.synced, header.epoch, &records).to_vec();
    for record in &records {
        out.extend_from_slice(&(record.len() as u32).to_le_bytes());
        out.extend_from_slice(record);
    }
    out.resize(out.len().next_multiple_of(FRAME_ALIGNMENT as usize), 0);
    Some(out.into())
}

/// A whole sidecar; `None` when `bytes` is none.
pub fn sidecar(bytes: &[u8]) -> Option<Bytes> {
    let (header, index) = sidecar::decode(bytes).ok()?;
    Some(sidecar::encode(&index, header.base, header.end))
}

/// The file that says that a log was restored; `None` when `bytes` is none.
pub fn restored(bytes: &[u8]) -> Option<Bytes> {
    Some(Restored::decode(bytes)?.encode())
}

/// A whole checkpoint, its entries in one slice; `None` when `bytes` is none of this log.
pub fn checkpoint(secret: u64, bytes: &Bytes) -> Option<Bytes> {
    let checkpoint = checkpoint::decode(FrameSecret(secret), bytes).ok()?;
    Some(checkpoint::encode(FrameSecret(secret), &checkpoint))
}

/// A whole part of the calendar; `None` when `bytes` is none of this log.
pub fn part(secret: u64, bytes: &Bytes) -> Option<Bytes> {
    part::rewrite(FrameSecret(secret), bytes)
}
