//! Real files in one directory, read and written at a place with pread and pwrite.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Advice, FallocateFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use super::{Entry, Storage, StorageFile, StorageLock};

/// The name of the file whose advisory lock stands for the directory.
pub(crate) const LOCK_NAME: &str = "lock";
/// Slices below this size are gathered, so that a group of small records is one system call.
const GATHER_BYTES: usize = 64 << 10;
/// What a file's blocks are counted in, whatever the file system's own are.
const BLOCK_BYTES: u64 = 512;
/// So much is filled with zeros at once.
const FILL_BYTES: u64 = 1 << 20;

/// A directory of real files.
#[derive(Debug)]
pub struct FileStorage {
    directory: PathBuf,
}

impl FileStorage {
    /// The directory at this path, created with its parents, durably, when it does not exist; then it is for this user alone, since the
    /// log's secrets and messages are in it.
    pub fn new(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        let missing: Vec<&Path> = directory.ancestors().take_while(|path| !path.exists()).collect();
        if let Some((own, parents)) = missing.split_first() {
            if let Some(parent) = parents.first() {
                std::fs::create_dir_all(parent)?;
            }
            DirBuilder::new().recursive(true).mode(0o700).create(own)?;
        }
        // A directory is certain to be there after a power cut only when the one that holds it was synced.
        for path in missing {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            File::open(parent.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        Ok(Self { directory })
    }

    /// The directory at this path, which must exist: for those who only look.
    pub fn existing(directory: impl Into<PathBuf>) -> io::Result<Self> {
        let directory = directory.into();
        if !std::fs::metadata(&directory)?.is_dir() {
            return Err(io::Error::new(io::ErrorKind::NotADirectory, directory.display().to_string()));
        }
        Ok(Self { directory })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Storage for FileStorage {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let facts = match entry.metadata() {
                Ok(facts) => facts,
                // Removed while we looked, as retention does beside an inspection.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            // Names that are not text are not ours.
            if let (true, Ok(name)) = (facts.is_file(), entry.file_name().into_string()) {
                entries.push(Entry { name, bytes: facts.len() });
            }
        }
        Ok(entries)
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(self.directory.join(name))?;
        file.set_len(bytes)?;
        Ok(Arc::new(RealFile { file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let path = self.directory.join(name);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            // Whoever may only look still can; a write through this handle fails by itself.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => File::open(&path)?,
            opened => opened?,
        };
        Ok(Arc::new(RealFile { file }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn lock(&self) -> io::Result<StorageLock> {
        let path = self.directory.join(LOCK_NAME);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            // The kernel lets go when the file is closed, so a killed process leaves nothing behind.
            Ok(()) => Ok(StorageLock::new(file)),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn describe(&self) -> String {
        self.directory.display().to_string()
    }
}

/// One open file.
struct RealFile {
    file: File,
}

impl StorageFile for RealFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }

    fn read_in_memory(&self, offset: u64, into: &mut [u8]) -> io::Result<bool> {
        let length = into.len();
        match rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(into)], offset, ReadWriteFlags::NOWAIT) {
            // A part of it is not enough; the end of the file is for the other reading to find.
            Ok(read) => Ok(read == length),
            // It would wait, or the file system cannot tell.
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn reads_as_asked(&self) {
        // Where the file system takes no hints it reads ahead as it likes.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::Random);
    }

    fn will_read(&self, offset: u64, bytes: u64) {
        // Where the file system takes no hints the bytes are read when they are wanted.
        let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(bytes), Advice::WillNeed);
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<u64>> {
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => Ok(Some(data)),
            Err(Errno::NXIO) => Ok(None),
            // The file system does not know.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(Some(offset)),
            Err(error) => Err(error.into()),
        }
    }

    fn next_hole(&self, offset: u64) -> io::Result<u64> {
        match rustix::fs::seek(&self.file, SeekFrom::Hole(offset)) {
            Ok(hole) => Ok(hole),
            Err(Errno::NXIO | Errno::INVAL | Errno::OPNOTSUPP) => self.len(),
            Err(error) => Err(error.into()),
        }
    }

    fn write_at(&self, mut offset: u64, slices: &[&[u8]]) -> io::Result<()> {
        if let [only] = slices {
            return self.file.write_all_at(only, offset);
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut gathered = Vec::with_capacity(total.min(2 * GATHER_BYTES));
        for slice in slices {
            if slice.len() < GATHER_BYTES {
                gathered.extend_from_slice(slice);
            }
            if gathered.len() >= GATHER_BYTES || slice.len() >= GATHER_BYTES {
                self.file.write_all_at(&gathered, offset)?;
                offset += gathered.len() as u64;
                gathered.clear();
            }
            if slice.len() >= GATHER_BYTES {
                self.file.write_all_at(slice, offset)?;
                offset += slice.len() as u64;
            }
        }
        self.file.write_all_at(&gathered, offset)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        if from >= to {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), from, to - from) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.fill(from, to),
            done => Ok(done?),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl RealFile {
    /// Takes room by writing zeros, on a file system that gives none otherwise, unless the file has its blocks already.
    fn fill(&self, mut from: u64, to: u64) -> io::Result<()> {
        let facts = self.file.metadata()?;
        if facts.len() >= to && facts.blocks() * BLOCK_BYTES >= to {
            return Ok(());
        }
        let zeros = vec![0; FILL_BYTES.min(to - from) as usize];
        while from < to {
            let bytes = FILL_BYTES.min(to - from);
            self.file.write_all_at(&zeros[..bytes as usize], from)?;
            from += bytes;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[test]
    fn real_files_do_what_every_storage_must() {
        let directory = tempfile::tempdir().unwrap();
        conformance(&FileStorage::new(directory.path().join("made/here")).unwrap());
    }

    #[test]
    fn room_is_taken_and_not_only_promised() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::new(directory.path()).unwrap();
        let file = storage.create("a", 4 << 20).unwrap();
        file.allocate(0, 4 << 20).unwrap();
        let blocks = std::fs::metadata(directory.path().join("a")).unwrap().blocks();
        assert!(blocks * 512 >= 4 << 20, "{blocks} blocks");
        storage.create("b", 0).unwrap();
        let filled = RealFile {
            file: OpenOptions::new().read(true).write(true).open(directory.path().join("b")).unwrap(),
        };
        filled.fill(3, (1 << 20) + 5).unwrap();
        assert_eq!(filled.len().unwrap(), (1 << 20) + 5);
    }

    #[test]
    fn what_was_written_is_never_taken_for_zeros() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FileStorage::new(directory.path()).unwrap();
        let file = storage.create("a", 4 << 20).unwrap();
        file.allocate(0, 4 << 20).unwrap();
        file.write_at((3 << 20) - 1, &[b"12"]).unwrap();
        let next = file.next_data(8).unwrap().unwrap();
        assert!((8..3 << 20).contains(&next), "{next}");
        assert_eq!(file.next_data(3 << 20).unwrap(), Some(3 << 20));
        assert_eq!(file.next_data(5 << 20).unwrap(), None);
    }

    #[test]
    fn a_directory_that_is_made_is_for_this_user_alone_and_its_parents_are_as_ever() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/here");
        FileStorage::new(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        std::fs::create_dir(directory.path().join("ordinary")).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&directory.path().join("made")), mode(&directory.path().join("ordinary")));
        FileStorage::new(&path).unwrap();
    }

    #[test]
    fn a_missing_directory_is_not_made_by_those_who_only_look() {
        let directory = tempfile::tempdir().unwrap();
        let missing = FileStorage::existing(directory.path().join("missing"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
