//! The file that says that a log was restored from a backup, so that what its original handed out after the cut is told apart.

use std::io;

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::checksum;
use sluice_protocol::ids::Position;
use sluice_protocol::wire::{Reader, Writer};

use crate::error::LogError;
use crate::storage::Storage;

/// The name of the file in the log's directory.
pub const RESTORED_NAME: &str = "restored";

const MAGIC: [u8; 4] = *b"SLRS";
const VERSION: u16 = 1;
const BYTES: usize = 44;
const CHECKSUM_AT: usize = BYTES - 4;

/// What is known of the newest restoration of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Random, so that no two restorations of one backup are taken for one another.
    pub mark: [u8; 16],
    /// Where the log was cut.
    pub cut: Position,
    /// When it was restored (wall clock, milliseconds).
    pub wall_ms: i64,
}

impl Restored {
    /// The file's bytes.
    pub fn encode(&self) -> Bytes {
        let mut out = Writer::with_capacity(BYTES);
        out.bytes(&MAGIC).u16(VERSION).u16(0).bytes(&self.mark);
        out.u64(self.cut.0).i64(self.wall_ms);
        let body = out.take();
        out.bytes(&body).u32(checksum(Crc32Iscsi, &body) as u32);
        out.finish()
    }

    /// Reads the file's bytes; `None` when they are none.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let body = bytes.get(..CHECKSUM_AT)?;
        let mut from = Reader::new(bytes);
        let known = from.array::<4>().ok()? == MAGIC && from.u16().ok()? == VERSION && from.u16().ok()? == 0;
        let restored = Self {
            mark: from.array().ok()?,
            cut: Position(from.u64().ok()?),
            wall_ms: from.i64().ok()?,
        };
        let sound = from.u32().ok()? == checksum(Crc32Iscsi, body) as u32 && from.remaining() == 0;
        (known && sound).then_some(restored)
    }

    /// Writes the file, durably, in place of one that is there.
    ///
    /// # Errors
    /// The disk failed.
    pub fn write(&self, storage: &dyn Storage) -> Result<(), LogError> {
        match storage.remove(RESTORED_NAME) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(LogError::io("removing", RESTORED_NAME)(error)),
            Ok(()) | Err(_) => {}
        }
        let write = || {
            let file = storage.create(RESTORED_NAME, 0)?;
            file.write_at(0, &[&self.encode()])?;
            file.sync_data()?;
            storage.sync_directory()
        };
        write().map_err(LogError::io("writing", RESTORED_NAME))
    }

    /// Reads the file of a log; `None` when it was never restored.
    ///
    /// # Errors
    /// The file is damaged: without it, handles of what came after the cut would pass for this log's. Or the disk failed.
    pub fn read(storage: &dyn Storage) -> Result<Option<Self>, LogError> {
        let read = || {
            let file = storage.open(RESTORED_NAME)?;
            let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX).min(BYTES + 1)];
            file.read_at(0, &mut bytes)?;
            Ok::<_, io::Error>(bytes)
        };
        let bytes = match read() {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(LogError::io("reading", RESTORED_NAME)(error)),
        };
        let damaged = || LogError::Damaged {
            file: RESTORED_NAME.to_string(),
            position: Position(0),
            bytes: BYTES as u64,
            reason: "the file that tells this log from the one it was restored from cannot be read",
        };
        Self::decode(&bytes).map(Some).ok_or_else(damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restoration_survives_and_shows_every_changed_bit() {
        let restored = Restored {
            mark: *b"sixteen of these",
            cut: Position(1 << 40),
            wall_ms: 1_800_000_000_000,
        };
        let bytes = restored.encode();
        assert_eq!(bytes.len(), BYTES);
        assert_eq!(Restored::decode(&bytes), Some(restored));
        assert_eq!(Restored::decode(&bytes[..BYTES - 1]), None);
        assert_eq!(Restored::decode(&[&bytes[..], b"x"].concat()), None);
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Restored::decode(&changed), None, "bit {bit}");
        }
    }
}
