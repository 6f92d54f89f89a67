//! The seam to the disk: the one trait through which bytes are kept, so that a faulty disk can take its place.

mod conformance;
mod faulty;
mod files;
mod loss;

use std::any::Any;
use std::io;
use std::sync::Arc;

pub use conformance::conformance;
pub use faulty::{FaultyStorage, SECTOR_BYTES};
pub use files::FileStorage;
pub(crate) use files::LOCK_NAME;

/// A directory of files without subdirectories: the only way in which this crate touches a disk.
///
/// Names are plain (no separators). What is created or removed is certain to survive a crash only after `sync_directory`.
pub trait Storage: Send + Sync {
    /// The files there are, in no particular order.
    fn list(&self) -> io::Result<Vec<Entry>>;
    /// Creates a file of `bytes` zeros, which need not occupy space yet. Fails with `AlreadyExists`.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens an existing file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Removes a file; who holds it open can still read it.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Takes the directory for this process alone, until the lock is dropped. Fails with `WouldBlock` when another has it.
    fn lock(&self) -> io::Result<StorageLock>;
    /// What to call this directory in an error.
    fn describe(&self) -> String;
}

/// One open file.
pub trait StorageFile: Send + Sync {
    /// Fills `into` from `offset` on. Fails with `UnexpectedEof` when the file ends before.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
    /// The same where the bytes are in memory, so that nothing waits for a disk; `false` where they are not, or where nobody can tell. Then
    /// `into` may hold anything.
    fn read_in_memory(&self, _offset: u64, _into: &mut [u8]) -> io::Result<bool> {
        Ok(false)
    }
    /// Whoever reads through this handle says itself what it reads next: nothing is to be read ahead unasked. A hint, which cannot fail.
    fn reads_as_asked(&self) {}
    /// These bytes are read soon: what reads ahead may begin with them. A hint, which cannot fail.
    fn will_read(&self, _offset: u64, _bytes: u64) {}
    /// The first place from `offset` on that may hold something else than zeros; `None` when there is none. May always answer `offset`.
    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        Ok(Some(offset))
    }
    /// The first place from `offset` on behind which, up to the next data, there are zeros; the end of the file when there is none. May always
    /// answer the end.
    fn next_hole(&self, _offset: u64) -> io::Result<u64> {
        self.len()
    }
    /// Writes the slices one after the other from `offset` on; grows the file where it ends before.
    fn write_at(&self, offset: u64, slices: &[&[u8]]) -> io::Result<()>;
    /// Takes the room of the bytes from `from` up to `to`, so that writing them does not fail for want of it. What they are is of no interest:
    /// they are as before or zeros afterwards. Grows the file where it ends before. A file system that writes nothing in its place (a copying
    /// or a compressing one) cannot promise as much.
    fn allocate(&self, from: u64, to: u64) -> io::Result<()>;
    /// Makes what was written durable. When it fails, what was written since the last success may be lost for good, so a caller must not
    /// ask again and believe the answer.
    fn sync_data(&self) -> io::Result<()>;
    /// The size of the file in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether there is nothing in it.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// A file as `Storage::list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// Holds a directory for one process; dropping it lets go.
pub struct StorageLock {
    _held: Box<dyn Any + Send + Sync>,
}

impl StorageLock {
    /// Wraps whatever releases the lock when it is dropped.
    pub fn new(held: impl Any + Send + Sync) -> Self {
        Self { _held: Box::new(held) }
    }
}
