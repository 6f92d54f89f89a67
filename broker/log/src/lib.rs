//! The bytes that survive: record formats, segments, recovery, checkpoints, sidecar indexes, and the one trait that touches a disk.

mod error;
mod frame;
pub mod limits;
#[cfg(feature = "planted-bugs")]
pub mod planted;
pub mod record;
mod storage;

pub use error::LogError;
pub use frame::{FRAME_HEADER_BYTES, RECORD_LENGTH_BYTES, frame_bytes, record_positions};
pub use storage::{Entry, FaultyStorage, FileStorage, SECTOR_BYTES, Storage, StorageFile, StorageLock};
