//! The fixed parts of a batch: its header and runs, and the functions that its checksums and hashes are made with.

use crc_fast::{CrcAlgorithm, Digest};

use crate::errors::{ErrorCode, Refusal};
use crate::ids::{ProducerId, Sequence};
use crate::limits::{BATCH_BYTES_MAX, BATCH_NAMES_MAX};

/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Bytes of one run.
pub const RUN_BYTES: usize = 32;
/// Bytes that every row begins with.
pub const ROW_FIXED_BYTES: usize = 40;

const MAGIC: [u8; 4] = *b"SLB1";
const VERSION: u16 = 1;
/// Where the checksum of the attributes is; it is computed with these four bytes zero.
pub(super) const CHECKSUM_AT: usize = 36;

/// Bytes that are not a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// It does not begin with `SLB1`.
    #[error("the bytes are not a batch")]
    NotABatch,
    /// Another version.
    #[error("the batch has version {0}, this side knows version {VERSION}")]
    UnsupportedVersion(u16),
    /// A flag or reserved field that has no meaning in this version.
    #[error("the batch uses a reserved field")]
    Reserved,
    /// Larger than [`BATCH_BYTES_MAX`], or with more names than [`BATCH_NAMES_MAX`].
    #[error("the batch is larger than any may be")]
    TooLarge,
    /// The bytes end before the section that is needed does, or go on after the batch.
    #[error("the batch announces another length than it has")]
    Length,
    /// Sections, counts and lengths contradict each other.
    #[error("the sections of the batch do not add up")]
    Sections,
    /// A name is empty, too long, not UTF-8 or there twice.
    #[error("the property name {0} of the batch is not valid or there twice")]
    Name(u16),
    /// The structure of a row is broken.
    #[error("row {0} of the batch is broken")]
    Row(u32),
    /// The attributes are not what was sent or stored.
    #[error("the checksum of the batch's attributes does not match")]
    Checksum,
    /// A body is not what was sent or stored.
    #[error("the checksum of the body of row {0} does not match")]
    BodyChecksum(u32),
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Self {
        let code = match error {
            BatchError::Checksum | BatchError::BodyChecksum(_) => ErrorCode::BadChecksum,
            BatchError::TooLarge => ErrorCode::LimitExceeded,
            BatchError::NotABatch
            | BatchError::UnsupportedVersion(_)
            | BatchError::Reserved
            | BatchError::Length
            | BatchError::Sections
            | BatchError::Name(_)
            | BatchError::Row(_) => ErrorCode::MalformedFrame,
        };
        Self::new(code, error.to_string())
    }
}

/// CRC-32C (Castagnoli), as iSCSI and RFC 3720 have it: `crc32c(b"123456789") == 0xe306_9283`.
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// The hash of a tag's text as rows and indexes hold it: its CRC-32C, and 1 where that is 0, since 0 means no tag.
pub fn tag_hash(tag: &str) -> u32 {
    crc32c(tag.as_bytes()).max(1)
}

/// The hash of a key as indexes hold it: its CRC-32C.
pub fn key_hash(key: &[u8]) -> u32 {
    crc32c(key)
}

/// The hash of a message group's text: its CRC-64/NVME, and 1 where that is 0, since 0 means no message group.
pub fn group_hash(group: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, group).max(1)
}

/// The checksum over a batch's attributes: the header with its checksum field zero, then all up to the bodies.
pub(super) fn attributes_checksum(header: &[u8; HEADER_BYTES], rest: &[u8]) -> u32 {
    let mut zeroed = *header;
    zeroed[CHECKSUM_AT..CHECKSUM_AT + 4].fill(0);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&zeroed);
    digest.update(rest);
    digest.finalize() as u32
}

/// What the header says, its parts in agreement with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) count: u32,
    pub(super) runs: u32,
    pub(super) names: u16,
    pub(super) names_bytes: u32,
    pub(super) rows_bytes: u32,
    pub(super) bodies_bytes: u32,
    pub(super) checksum: u32,
    pub(super) base_ms: i64,
}

impl Header {
    /// Reads a header and checks all that it says by itself.
    pub(super) fn read(bytes: &[u8; HEADER_BYTES]) -> Result<Self, BatchError> {
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..4] != MAGIC {
            return Err(BatchError::NotABatch);
        }
        if u16_at(4) != VERSION {
            return Err(BatchError::UnsupportedVersion(u16_at(4)));
        }
        if u16_at(6) != 0 || u16_at(22) != 0 || bytes[48..].iter().any(|&byte| byte != 0) {
            return Err(BatchError::Reserved);
        }
        let header = Self {
            count: u32_at(12),
            runs: u32_at(16),
            names: u16_at(20),
            names_bytes: u32_at(24),
            rows_bytes: u32_at(28),
            bodies_bytes: u32_at(32),
            checksum: u32_at(CHECKSUM_AT),
            base_ms: i64::from(u32_at(40)) | i64::from(u32_at(44)) << 32,
        };
        if header.total() > BATCH_BYTES_MAX as u64 || usize::from(header.names) > BATCH_NAMES_MAX {
            return Err(BatchError::TooLarge);
        }
        let rows_fit = u64::from(header.count) * ROW_FIXED_BYTES as u64 <= u64::from(header.rows_bytes);
        let names_fit = u32::from(header.names) * 2 <= header.names_bytes;
        let runs_fit = header.runs <= header.count && (header.count == 0 || header.runs > 0);
        if header.total() != u64::from(u32_at(8)) || !rows_fit || !names_fit || !runs_fit {
            return Err(BatchError::Sections);
        }
        Ok(header)
    }

    /// The header's bytes with the checksum over itself and `rest`, which is what follows up to the bodies.
    pub(super) fn seal(&self, rest: &[u8]) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &MAGIC);
        put(4, &VERSION.to_le_bytes());
        put(8, &(self.total() as u32).to_le_bytes());
        put(12, &self.count.to_le_bytes());
        put(16, &self.runs.to_le_bytes());
        put(20, &self.names.to_le_bytes());
        put(24, &self.names_bytes.to_le_bytes());
        put(28, &self.rows_bytes.to_le_bytes());
        put(32, &self.bodies_bytes.to_le_bytes());
        put(40, &self.base_ms.to_le_bytes());
        let checksum = attributes_checksum(&bytes, rest);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn total(&self) -> u64 {
        self.attributes() + u64::from(self.bodies_bytes)
    }

    fn attributes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.runs) * RUN_BYTES as u64 + u64::from(self.names_bytes) + u64::from(self.rows_bytes)
    }

    /// Bytes up to the bodies.
    pub(super) fn attribute_bytes(&self) -> usize {
        self.attributes() as usize
    }

    /// Bytes of the whole batch.
    pub(super) fn total_bytes(&self) -> usize {
        self.total() as usize
    }

    /// Where the names begin.
    pub(super) fn names_at(&self) -> usize {
        HEADER_BYTES + self.runs as usize * RUN_BYTES
    }

    /// Where the rows begin.
    pub(super) fn rows_at(&self) -> usize {
        self.names_at() + self.names_bytes as usize
    }
}

/// Neighbouring rows of one producer with ascending sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Who sent them.
    pub producer: ProducerId,
    /// The sequence of the first.
    pub first_sequence: Sequence,
    /// How many; at least 1.
    pub rows: u32,
}

impl Run {
    /// Reads a run; `None` when it is empty, runs past the last sequence or uses its reserved bytes.
    pub(super) fn read(bytes: &[u8; RUN_BYTES]) -> Option<Self> {
        let (producer, rest) = bytes.split_first_chunk::<16>()?;
        let (first, rest) = rest.split_first_chunk::<8>()?;
        let (rows, reserved) = rest.split_first_chunk::<4>()?;
        let run = Self {
            producer: ProducerId(u128::from_le_bytes(*producer)),
            first_sequence: Sequence(u64::from_le_bytes(*first)),
            rows: u32::from_le_bytes(*rows),
        };
        let ends = run.first_sequence.0.checked_add(u64::from(run.rows));
        (run.rows > 0 && ends.is_some() && reserved == [0; 4]).then_some(run)
    }

    pub(super) fn bytes(&self) -> [u8; RUN_BYTES] {
        let mut bytes = [0; RUN_BYTES];
        bytes[..16].copy_from_slice(&self.producer.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.first_sequence.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.rows.to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(tag_hash(""), 1);
        assert_eq!(tag_hash("123456789"), 0xe306_9283);
        assert_eq!(group_hash(b"123456789"), 0xae8b_1486_0a79_9888);
    }
}
