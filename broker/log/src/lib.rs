//! The bytes that survive: record formats, segments, recovery, checkpoints, sidecar indexes, and the one trait that touches a disk.

mod ahead;
mod cache;
mod checkpoint;
mod dealings;
mod error;
mod format;
pub mod formats;
mod frame;
mod index;
mod inspect;
mod keys;
pub mod limits;
pub mod planted;
mod reader;
pub mod record;
mod recovery;
mod replay;
mod reserve;
mod retention;
mod scan;
mod segment;
mod sidecar;
mod storage;
mod writer;

pub use ahead::ReadAhead;
pub use error::LogError;
pub use format::FORMAT_VERSION;
pub use frame::{FRAME_HEADER_BYTES, RECORD_LENGTH_BYTES, frame_bytes, record_positions};
pub use index::BatchPlace;
pub use inspect::{CheckpointReport, Damage, Ending, Report, SegmentReport, SidecarState, inspect};
pub use keys::KeyedRange;
pub use reader::{History, LogReader, StoredQueue};
pub use recovery::{Log, Opened, Recovery, Start};
pub use replay::Replay;
pub use storage::{Entry, FaultyStorage, FileStorage, SECTOR_BYTES, Storage, StorageFile, StorageLock, conformance};
pub use writer::{LogConfig, LogWriter};
