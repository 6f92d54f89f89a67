//! Frames: the records of one group commit under one checksum, with the place, the epoch and the synced position they were written at.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use sluice_protocol::ids::{Epoch, Position};
use sluice_protocol::wire::Reader;

use crate::limits::{FRAME_PAYLOAD_BYTES_MAX, FRAME_RECORDS_MAX};
use crate::planted::{self, Bug};

/// The size of a frame's header; an empty frame is nothing else.
pub const FRAME_HEADER_BYTES: u64 = 48;
/// What stands before each record in a frame: its length.
pub const RECORD_LENGTH_BYTES: u64 = 4;
/// Frames begin and end at multiples of this.
pub(crate) const FRAME_ALIGNMENT: u64 = 8;

/// What a frame begins with.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"SLF1";

const VERSION: u16 = 1;
/// Where the checksum stands in the header; it covers what is before it and the payload.
const CHECKSUM_AT: usize = 44;

const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(FRAME_ALIGNMENT));
const _: () = assert!(FRAME_HEADER_BYTES as usize == CHECKSUM_AT + 4);

/// The secret of a log that makes its frames its own: it stands in every frame's header and seeds every frame's checksum, so that neither
/// a frame of another log nor bytes made up by a client pass for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameSecret(pub u64);

/// What a frame's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Where the frame begins.
    pub position: Position,
    /// Up to where the log was synced, as its writer knew it then.
    pub synced: Position,
    /// The start of the broker that wrote it.
    pub epoch: Epoch,
    /// The size of the payload without padding.
    pub payload_bytes: u32,
    /// How many records it holds.
    pub records: u32,
    checksum: u32,
}

/// The size of a frame that holds records of these sizes.
pub fn frame_bytes(record_lengths: impl IntoIterator<Item = usize>) -> u64 {
    let payload: u64 = record_lengths.into_iter().map(|length| RECORD_LENGTH_BYTES + length as u64).sum();
    FRAME_HEADER_BYTES + payload.next_multiple_of(FRAME_ALIGNMENT)
}

/// The positions of records of these sizes in a frame at `frame`, in order.
pub fn record_positions(frame: Position, record_lengths: impl IntoIterator<Item = usize>) -> impl Iterator<Item = Position> {
    record_lengths.into_iter().scan(frame.0 + FRAME_HEADER_BYTES, |next, length| {
        let position = Position(*next);
        *next += RECORD_LENGTH_BYTES + length as u64;
        Some(position)
    })
}

impl FrameHeader {
    /// The header of a frame with these records, checksum included.
    ///
    /// # Panics
    /// When the records are too many or too large for one frame, which the core's bounds exclude.
    pub(crate) fn seal(secret: FrameSecret, position: Position, synced: Position, epoch: Epoch, records: &[Bytes]) -> [u8; 48] {
        let payload: u64 = records.iter().map(|record| RECORD_LENGTH_BYTES + record.len() as u64).sum();
        assert!(
            payload <= u64::from(FRAME_PAYLOAD_BYTES_MAX),
            "a turn's records are bounded far below a frame's payload"
        );
        assert!(
            records.len() <= FRAME_RECORDS_MAX as usize,
            "a turn's records are bounded far below a frame's count"
        );
        let mut header = [0; FRAME_HEADER_BYTES as usize];
        header[0..4].copy_from_slice(&FRAME_MAGIC);
        header[4..6].copy_from_slice(&VERSION.to_le_bytes());
        header[8..16].copy_from_slice(&secret.0.to_le_bytes());
        header[16..24].copy_from_slice(&position.0.to_le_bytes());
        header[24..32].copy_from_slice(&synced.0.to_le_bytes());
        header[32..36].copy_from_slice(&epoch.0.to_le_bytes());
        header[36..40].copy_from_slice(&(payload as u32).to_le_bytes());
        header[40..44].copy_from_slice(&(records.len() as u32).to_le_bytes());
        let mut digest = begin_checksum(secret, &header);
        for record in records {
            digest.update(&(record.len() as u32).to_le_bytes());
            digest.update(record);
        }
        header[CHECKSUM_AT..].copy_from_slice(&(digest.finalize() as u32).to_le_bytes());
        header
    }

    /// Reads a header of this log; `None` when these bytes are none. The checksum is not verified: [`FrameHeader::verify`].
    pub(crate) fn parse(secret: FrameSecret, bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let (magic, version, reserved, own) = (
            reader.array::<4>().ok()?,
            reader.u16().ok()?,
            reader.u16().ok()?,
            reader.u64().ok()?,
        );
        if magic != FRAME_MAGIC || version != VERSION || reserved != 0 || own != secret.0 {
            return None;
        }
        let header = Self {
            position: Position(reader.u64().ok()?),
            synced: Position(reader.u64().ok()?),
            epoch: Epoch(reader.u32().ok()?),
            payload_bytes: reader.u32().ok()?,
            records: reader.u32().ok()?,
            checksum: reader.u32().ok()?,
        };
        let plausible = header.payload_bytes <= FRAME_PAYLOAD_BYTES_MAX
            && header.records <= FRAME_RECORDS_MAX
            && header.position.0.is_multiple_of(FRAME_ALIGNMENT)
            && header.synced <= header.position
            // Its records and the frame after it have positions, too.
            && header.position.0.checked_add(header.frame_bytes()).is_some();
        plausible.then_some(header)
    }

    /// Whether header and payload are what was written. `header` is the header's bytes.
    pub(crate) fn verify(&self, secret: FrameSecret, header: &[u8], payload: &[u8]) -> bool {
        if planted::is(Bug::ChecksumUnverified) {
            return true;
        }
        let mut digest = begin_checksum(secret, header);
        digest.update(payload);
        digest.finalize() as u32 == self.checksum
    }

    /// The size of the frame in the log.
    pub(crate) fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES + u64::from(self.payload_bytes).next_multiple_of(FRAME_ALIGNMENT)
    }

    /// Where the next frame begins.
    pub(crate) fn end(&self) -> Position {
        Position(self.position.0 + self.frame_bytes())
    }
}

fn begin_checksum(secret: FrameSecret, header: &[u8]) -> Digest {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&secret.0.to_le_bytes());
    digest.update(&header[..CHECKSUM_AT.min(header.len())]);
    digest
}

/// The records of a frame with their positions; ends early (and `None` last) where the lengths do not fit, which a verified frame excludes.
pub(crate) fn records(header: &FrameHeader, payload: &Bytes) -> impl Iterator<Item = Option<(Position, Bytes)>> {
    let (payload, first, count) = (payload.clone(), header.position.0 + FRAME_HEADER_BYTES, header.records);
    let mut at = 0;
    let mut failed = false;
    (0..count).map_while(move |_| {
        if failed {
            return None;
        }
        let mut reader = Reader::new(&payload[at..]);
        let Ok(record) = reader.blob() else {
            failed = true;
            return Some(None);
        };
        let position = Position(first + at as u64);
        at += RECORD_LENGTH_BYTES as usize + record.len();
        Some(Some((position, payload.slice_ref(record))))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: FrameSecret = FrameSecret(0x1122_3344_5566_7788);

    fn frame(records: &[Bytes]) -> (Vec<u8>, Vec<u8>) {
        let header = FrameHeader::seal(SECRET, Position(4096), Position(4000), Epoch(3), records);
        let payload = records
            .iter()
            .flat_map(|record| [&(record.len() as u32).to_le_bytes()[..], record].concat())
            .collect();
        (header.to_vec(), payload)
    }

    #[test]
    fn a_frame_gives_back_its_records_and_their_positions() {
        let written = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static(b"three")];
        let (bytes, payload) = frame(&written);
        let header = FrameHeader::parse(SECRET, &bytes).unwrap();
        assert!(header.verify(SECRET, &bytes, &payload));
        let read: Vec<_> = records(&header, &Bytes::from(payload)).map(Option::unwrap).collect();
        let lengths = || written.iter().map(Bytes::len);
        assert_eq!(
            read,
            record_positions(Position(4096), lengths())
                .zip(written.iter().cloned())
                .collect::<Vec<_>>()
        );
        assert_eq!(header.frame_bytes(), frame_bytes(lengths()));
        assert_eq!(header.end(), Position(4096 + 48 + 24));
    }

    #[test]
    fn a_changed_bit_anywhere_is_seen() {
        let (bytes, payload) = frame(&[Bytes::from_static(b"something")]);
        for at in 0..(bytes.len() + payload.len()) * 8 {
            let (mut bytes, mut payload) = (bytes.clone(), payload.clone());
            let header_bits = bytes.len() * 8;
            if at < header_bits {
                bytes[at / 8] ^= 1 << (at % 8)
            } else {
                payload[(at - header_bits) / 8] ^= 1 << (at % 8)
            }
            let seen = FrameHeader::parse(SECRET, &bytes).is_none_or(|header| !header.verify(SECRET, &bytes, &payload));
            assert!(seen, "bit {at}");
        }
    }

    #[test]
    fn a_frame_that_reaches_beyond_the_last_position_is_none() {
        let at = |position| {
            let header = FrameHeader::seal(SECRET, Position(position), Position(0), Epoch(3), &[Bytes::from_static(b"one")]);
            FrameHeader::parse(SECRET, &header)
        };
        assert_eq!(at(u64::MAX - 63).map(|header| header.end()), Some(Position(u64::MAX - 7)));
        assert_eq!(at(u64::MAX - 55), None);
    }

    #[test]
    fn a_frame_of_another_log_is_none_of_ours() {
        let (bytes, _) = frame(&[]);
        assert_eq!(FrameHeader::parse(FrameSecret(1), &bytes), None);
        assert_eq!(FrameHeader::parse(SECRET, &bytes[..47]), None);
    }
}
