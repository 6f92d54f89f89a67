//! The seam to the disk: the one trait through which bytes are kept, so that a faulty disk can take its place.

mod faulty;
mod files;
mod loss;

use std::any::Any;
use std::io;
use std::sync::Arc;

pub use faulty::{FaultyStorage, SECTOR_BYTES};
pub use files::FileStorage;

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
    /// Writes the slices one after the other from `offset` on; grows the file where it ends before.
    fn write_at(&self, offset: u64, slices: &[&[u8]]) -> io::Result<()>;
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

/// What every storage must do, run against each of them.
#[cfg(test)]
pub(crate) fn conformance(storage: &dyn Storage) {
    let file = storage.create("a", 16).unwrap();
    assert_eq!(storage.create("a", 16).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(file.len().unwrap(), 16);
    let mut sixteen = [9; 16];
    file.read_at(0, &mut sixteen).unwrap();
    assert_eq!(sixteen, [0; 16], "a created file reads as zeros");

    file.write_at(3, &[b"ab", b"", b"cde"]).unwrap();
    file.read_at(0, &mut sixteen).unwrap();
    assert_eq!(&sixteen, b"\0\0\0abcde\0\0\0\0\0\0\0\0");
    file.write_at(14, &[b"xyz"]).unwrap();
    assert_eq!(file.len().unwrap(), 17, "a write beyond the end grows the file");
    assert!(!file.is_empty().unwrap());
    assert_eq!(file.read_at(15, &mut [0; 3]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    file.sync_data().unwrap();
    storage.sync_directory().unwrap();

    let large = vec![7; 3 << 20];
    file.write_at(1, &[b"12", &large, b"34", &large]).unwrap();
    let mut seen = [0; 4];
    file.read_at(1 + (3 << 20), &mut seen).unwrap();
    assert_eq!(&seen, &[7, 7, b'3', b'4'], "small and large slices keep their order");

    let again = storage.open("a").unwrap();
    again.read_at(3, &mut sixteen[..2]).unwrap();
    assert_eq!(&sixteen[..2], [7, 7], "another handle sees what was written");
    assert_eq!(storage.list().unwrap().iter().filter(|entry| entry.name == "a").count(), 1);
    storage.remove("a").unwrap();
    assert_eq!(storage.open("a").err().unwrap().kind(), io::ErrorKind::NotFound);
    assert_eq!(storage.remove("a").unwrap_err().kind(), io::ErrorKind::NotFound);
    again.read_at(3, &mut sixteen[..2]).unwrap();
    assert!(storage.list().unwrap().iter().all(|entry| entry.name != "a"));

    let lock = storage.lock().unwrap();
    assert_eq!(storage.lock().err().unwrap().kind(), io::ErrorKind::WouldBlock);
    drop(lock);
    drop(storage.lock().unwrap());
}
