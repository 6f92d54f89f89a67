//! The file that says which format a directory has, and keeps the secrets of its log.

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::checksum;
use sluice_protocol::wire::{Reader, Writer};

use crate::error::LogError;
use crate::frame::FrameSecret;
use crate::storage::Storage;

/// The version of the directory's format that this program writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// The name of the file.
pub(crate) const FORMAT_NAME: &str = "format";

const MAGIC: [u8; 8] = *b"SLUICELG";
const BYTES: usize = 40;

/// The secrets of a log, made once when its directory is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secrets {
    /// Marks the frames.
    pub(crate) frame: FrameSecret,
    /// For the core's receipt handles.
    pub(crate) core: [u8; 16],
}

impl Secrets {
    /// The secrets that 24 random bytes give.
    pub(crate) fn from_random(random: [u8; 24]) -> Self {
        let mut reader = Reader::new(&random);
        let frame = FrameSecret(reader.u64().expect("24 bytes hold 8"));
        Self {
            frame,
            core: reader.array().expect("24 bytes hold 8 and 16"),
        }
    }

    pub(crate) fn encode(&self) -> [u8; BYTES] {
        let mut out = Writer::with_capacity(BYTES);
        out.bytes(&MAGIC).u32(FORMAT_VERSION).u64(self.frame.0).bytes(&self.core);
        let body = out.take();
        out.bytes(&body).u32(checksum(Crc32Iscsi, &body) as u32);
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(&out.finish());
        bytes
    }
}

/// What the file holds.
pub(crate) enum Format {
    /// There is none, or one whose writing was cut short: nothing was ever confirmed here.
    New,
    /// A log of this version.
    Known(Secrets),
}

/// Reads the file.
///
/// # Errors
/// Another version, a file that is damaged although a log lies beside it, the disk.
pub(crate) fn read(storage: &dyn Storage, has_log: bool) -> Result<Format, LogError> {
    let damaged = || LogError::Damaged {
        file: FORMAT_NAME.to_string(),
        position: sluice_protocol::ids::Position(0),
        bytes: BYTES as u64,
        reason: "the file that keeps the log's secrets cannot be read",
    };
    let file = match storage.open(FORMAT_NAME) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return if has_log { Err(damaged()) } else { Ok(Format::New) },
        Err(error) => return Err(LogError::io("opening", FORMAT_NAME)(error)),
    };
    let mut bytes = [0; BYTES];
    let length = file.len().map_err(LogError::io("reading", FORMAT_NAME))?.min(BYTES as u64) as usize;
    file.read_at(0, &mut bytes[..length])
        .map_err(LogError::io("reading", FORMAT_NAME))?;
    let mut reader = Reader::new(&bytes);
    let (magic, version) = (
        reader.array::<8>().expect("there are 40 bytes"),
        reader.u32().expect("there are 40 bytes"),
    );
    if magic == MAGIC && version != FORMAT_VERSION && version != 0 {
        return Err(LogError::FormatVersion {
            directory: storage.describe(),
            found: version,
            known: FORMAT_VERSION,
        });
    }
    let sum = u32::from_le_bytes([bytes[36], bytes[37], bytes[38], bytes[39]]);
    if magic != MAGIC || sum != checksum(Crc32Iscsi, &bytes[..36]) as u32 {
        return if has_log { Err(damaged()) } else { Ok(Format::New) };
    }
    let mut random = [0; 24];
    random.copy_from_slice(&bytes[12..36]);
    Ok(Format::Known(Secrets::from_random(random)))
}

/// Writes the file of a new log and makes it durable.
pub(crate) fn write(storage: &dyn Storage, secrets: &Secrets) -> Result<(), LogError> {
    match storage.remove(FORMAT_NAME) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(LogError::io("removing", FORMAT_NAME)(error)),
        Ok(()) | Err(_) => {}
    }
    let file = storage.create(FORMAT_NAME, 0).map_err(LogError::io("creating", FORMAT_NAME))?;
    file.write_at(0, &[&secrets.encode()])
        .map_err(LogError::io("writing", FORMAT_NAME))?;
    file.sync_data().map_err(LogError::io("syncing", FORMAT_NAME))?;
    storage.sync_directory().map_err(LogError::io("syncing", FORMAT_NAME))
}
