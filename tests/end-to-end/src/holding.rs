//! Real files behind a memory that holds unsynced writes back: a killed process takes them with it, as a crash of the machine takes the
//! page cache.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use sluice_log::{Entry, FileStorage, Storage, StorageFile, StorageLock};

use crate::chance::Chance;

/// What is lost or kept is lost or kept by pieces of at least so many bytes, at multiples of as many; a real disk writes a sector whole.
const PIECE_BYTES_MIN: u64 = 8;
/// Pieces are at most this large: the size of a page.
const PIECE_BYTES_MAX: u64 = 4 << 10;

/// A directory of real files. What is written stays in this process until it is synced, but for random pieces that go to the files early, in
/// no order; names that are made or removed likewise. Clones are the same directory.
#[derive(Clone)]
pub struct HoldingStorage(Arc<Shared>);

struct Shared {
    real: FileStorage,
    /// Where a file lies until its name is made durable.
    side: PathBuf,
    names: Mutex<Names>,
    made: AtomicU64,
    syncing: AtomicBool,
    /// A file with the number of bytes that all files may take together; without the file there is no limit.
    room: Option<PathBuf>,
    used: AtomicU64,
    chance: Chance,
}

/// The names as this process sees them, and those that outlive it, with the number of the file.
#[derive(Default)]
struct Names {
    now: BTreeMap<String, Arc<Node>>,
    durable: BTreeMap<String, u64>,
}

/// One file.
struct Node {
    number: u64,
    file: File,
    held: Mutex<Held>,
}

/// What this process knows of a file and its disk does not.
struct Held {
    bytes: u64,
    /// What was written since the last sync, in order.
    writes: Vec<(u64, Vec<u8>)>,
    /// Up to where its room is taken.
    allocated: u64,
}

impl HoldingStorage {
    /// The files that `real` holds. What a killed process left in the folder beside it is removed. `seed` decides what goes to the files early.
    ///
    /// # Errors
    /// The files cannot be opened.
    pub fn new(real: FileStorage, seed: u64) -> io::Result<Self> {
        Self::with_room(real, seed, None)
    }

    /// As `new`, on a disk that is full when all files take as many bytes as the file `room` says, which may be changed at any time.
    ///
    /// # Errors
    /// As `new`.
    pub fn with_room(real: FileStorage, seed: u64, room: Option<PathBuf>) -> io::Result<Self> {
        let mut side = real.directory().as_os_str().to_owned();
        side.push("-held");
        let side = PathBuf::from(side);
        match std::fs::remove_dir_all(&side) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => std::fs::create_dir(&side)?,
        }
        let (mut names, mut made, mut used) = (Names::default(), 0, 0);
        for Entry { name, bytes } in real.list()? {
            let file = OpenOptions::new().read(true).write(true).open(real.directory().join(&name))?;
            names.durable.insert(name.clone(), made);
            names.now.insert(name, Arc::new(Node::new(made, file, bytes, bytes)));
            made += 1;
            used += bytes;
        }
        Ok(Self(Arc::new(Shared {
            real,
            side,
            names: Mutex::new(names),
            made: AtomicU64::new(made),
            syncing: AtomicBool::new(true),
            room,
            used: AtomicU64::new(used),
            chance: Chance::new(seed),
        })))
    }

    /// From now on a file is said to be synced and is not: the bug that a check of crashes must find.
    pub fn stop_syncing(&self) {
        self.0.syncing.store(false, Ordering::Relaxed);
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.0.names.lock().expect("no call panics while it holds the names")
    }

    /// Takes the room of a file up to `to`.
    fn take_room(&self, held: &mut Held, to: u64) -> io::Result<()> {
        let more = to.saturating_sub(held.allocated);
        let limit = match &self.0.room {
            Some(room) if more > 0 => std::fs::read_to_string(room).ok().and_then(|text| text.trim().parse().ok()),
            Some(_) | None => None,
        };
        if limit.is_some_and(|limit: u64| self.0.used.load(Ordering::Relaxed) + more > limit) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.used.fetch_add(more, Ordering::Relaxed);
        held.allocated += more;
        held.bytes = held.bytes.max(to);
        Ok(())
    }

    /// Makes a name outlive this process, or its removal.
    fn settle(&self, names: &mut Names, name: &str) -> io::Result<()> {
        let path = self.0.real.directory().join(name);
        let (now, durable) = (names.now.get(name).map(|node| node.number), names.durable.get(name).copied());
        match now {
            _ if now == durable => {}
            Some(number) => {
                // In one step, so that what was synced of the file before is there with its name.
                std::fs::rename(self.0.side.join(number.to_string()), path)?;
                names.durable.insert(name.to_owned(), number);
            }
            None => {
                std::fs::remove_file(path)?;
                names.durable.remove(name);
            }
        }
        Ok(())
    }
}

impl Storage for HoldingStorage {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let entry = |(name, node): (&String, &Arc<Node>)| Entry {
            name: name.clone(),
            bytes: node.held().bytes,
        };
        Ok(self.names().now.iter().map(entry).collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let mut names = self.names();
        if names.now.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, name.to_owned()));
        }
        let number = self.0.made.fetch_add(1, Ordering::Relaxed);
        let path = self.0.side.join(number.to_string());
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let node = Arc::new(Node::new(number, file, bytes, 0));
        names.now.insert(name.to_owned(), node.clone());
        // The size is no more durable than the name before its first sync.
        if self.0.chance.once_in(2) {
            node.file.set_len(bytes)?;
        }
        if self.0.chance.once_in(2) {
            self.settle(&mut names, name)?;
        }
        Ok(self.file(node))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let node = self.names().now.get(name).cloned();
        let missing = || io::Error::new(io::ErrorKind::NotFound, name.to_owned());
        node.ok_or_else(missing).map(|node| self.file(node))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut names = self.names();
        let Some(node) = names.now.remove(name) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, name.to_owned()));
        };
        self.0.used.fetch_sub(node.held().allocated, Ordering::Relaxed);
        match self.0.chance.once_in(2) {
            true => self.settle(&mut names, name),
            false => Ok(()),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut names = self.names();
        let mut all: Vec<String> = names.now.keys().chain(names.durable.keys()).cloned().collect();
        if self.0.chance.once_in(2) {
            all.reverse();
        }
        all.iter().try_for_each(|name| self.settle(&mut names, name))
    }

    fn lock(&self) -> io::Result<StorageLock> {
        self.0.real.lock()
    }

    fn describe(&self) -> String {
        self.0.real.describe()
    }
}

impl HoldingStorage {
    fn file(&self, node: Arc<Node>) -> Arc<dyn StorageFile> {
        Arc::new(HoldingFile {
            storage: self.clone(),
            node,
        })
    }
}

impl Node {
    fn new(number: u64, file: File, bytes: u64, allocated: u64) -> Self {
        let held = Held {
            bytes,
            writes: Vec::new(),
            allocated,
        };
        Self {
            number,
            file,
            held: Mutex::new(held),
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().expect("no call panics while it holds a file")
    }

    /// Sends random pieces of a write to the file.
    fn write_early(&self, chance: &Chance, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // Whole writes are often lost or kept together; a disk that always tore them would hide bugs.
        let kept_of_256 = [0, 16, 128, 240, 256][chance.between(0, 4) as usize];
        match kept_of_256 {
            0 => return Ok(()),
            256 => return self.file.write_all_at(bytes, offset),
            _ => {}
        }
        let (mut at, end) = (offset, offset + bytes.len() as u64);
        while at < end {
            let piece = PIECE_BYTES_MIN << chance.between(0, u64::from((PIECE_BYTES_MAX / PIECE_BYTES_MIN).ilog2()));
            let next = (at / PIECE_BYTES_MIN * PIECE_BYTES_MIN + piece).min(end);
            if chance.next() % 256 < kept_of_256 {
                self.file
                    .write_all_at(&bytes[(at - offset) as usize..(next - offset) as usize], at)?;
            }
            at = next;
        }
        Ok(())
    }
}

/// One open file.
struct HoldingFile {
    storage: HoldingStorage,
    node: Arc<Node>,
}

impl StorageFile for HoldingFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let held = self.node.held();
        let end = offset + into.len() as u64;
        if end > held.bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut filled = 0;
        while filled < into.len() {
            match self.node.file.read_at(&mut into[filled..], offset + filled as u64)? {
                0 => break,
                read => filled += read,
            }
        }
        into[filled..].fill(0);
        for (at, bytes) in &held.writes {
            let (from, to) = (offset.max(*at), end.min(at + bytes.len() as u64));
            if from < to {
                into[(from - offset) as usize..(to - offset) as usize].copy_from_slice(&bytes[(from - at) as usize..(to - at) as usize]);
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, slices: &[&[u8]]) -> io::Result<()> {
        let bytes = slices.concat();
        let mut held = self.node.held();
        self.storage.take_room(&mut held, offset + bytes.len() as u64)?;
        self.node.write_early(&self.storage.0.chance, offset, &bytes)?;
        held.writes.push((offset, bytes));
        Ok(())
    }

    fn allocate(&self, _from: u64, to: u64) -> io::Result<()> {
        self.storage.take_room(&mut self.node.held(), to)
    }

    fn sync_data(&self) -> io::Result<()> {
        if !self.storage.0.syncing.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut held = self.node.held();
        for (offset, bytes) in std::mem::take(&mut held.writes) {
            self.node.file.write_all_at(&bytes, offset)?;
        }
        self.node.file.set_len(held.bytes)?;
        self.node.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.node.held().bytes)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn storage(folder: &TempDir, seed: u64) -> HoldingStorage {
        HoldingStorage::new(FileStorage::new(folder.path().join("log")).unwrap(), seed).unwrap()
    }

    /// What is in the file for whoever comes after the process; `None` when there is no such file.
    fn left(folder: &TempDir, name: &str) -> Option<Vec<u8>> {
        std::fs::read(folder.path().join("log").join(name)).ok()
    }

    #[test]
    fn files_held_back_do_what_every_storage_must() {
        for seed in 0..8 {
            let folder = tempfile::tempdir().unwrap();
            sluice_log::conformance(&storage(&folder, seed));
        }
    }

    #[test]
    fn what_was_synced_is_left_and_of_the_rest_a_random_part() {
        let mut kept = Vec::new();
        for seed in 0..200 {
            let folder = tempfile::tempdir().unwrap();
            let storage = storage(&folder, seed);
            let file = storage.create("a", 8192).unwrap();
            file.write_at(0, &[&[1; 4096]]).unwrap();
            file.sync_data().unwrap();
            storage.sync_directory().unwrap();
            file.write_at(2048, &[&[2; 4096]]).unwrap();
            let left = left(&folder, "a").unwrap();
            assert_eq!((left.len(), &left[..2048], &left[6144..]), (8192, &[1; 2048][..], &[0; 2048][..]));
            for (place, sector) in left.chunks(8).enumerate().take(768).skip(256) {
                let old = if place < 512 { 1 } else { 0 };
                assert!(sector == [2; 8] || sector == [old; 8], "a sector is new or old");
            }
            kept.push(left.iter().filter(|byte| **byte == 2).count());
            let mut seen = [0; 4096];
            file.read_at(2048, &mut seen).unwrap();
            assert_eq!(seen, [2; 4096], "the process itself sees what it wrote");
        }
        assert!(kept.contains(&0) && kept.contains(&4096));
        assert!(
            kept.iter().filter(|bytes| (1..4096).contains(*bytes)).count() > 50,
            "writes are torn"
        );
    }

    #[test]
    fn names_outlive_the_process_when_the_directory_was_synced_and_perhaps_before() {
        let (mut made, mut removed) = (0, 0);
        for seed in 0..100 {
            let folder = tempfile::tempdir().unwrap();
            let storage = storage(&folder, seed);
            storage.create("a", 8).unwrap().sync_data().unwrap();
            made += usize::from(left(&folder, "a").is_some());
            storage.sync_directory().unwrap();
            assert_eq!(left(&folder, "a").unwrap(), [0; 8]);
            storage.remove("a").unwrap();
            removed += usize::from(left(&folder, "a").is_none());
            let file = storage.create("a", 8).unwrap();
            file.write_at(0, &[&[7; 8]]).unwrap();
            file.sync_data().unwrap();
            let left_now = left(&folder, "a");
            assert!(matches!(
                left_now.as_deref(),
                None | Some([0, 0, 0, 0, 0, 0, 0, 0] | [7, 7, 7, 7, 7, 7, 7, 7])
            ));
            storage.sync_directory().unwrap();
            assert_eq!(left(&folder, "a").unwrap(), [7; 8]);
        }
        assert!((20..80).contains(&made) && (20..80).contains(&removed), "{made} {removed}");
    }

    #[test]
    fn a_full_disk_says_so_until_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let room = folder.path().join("room");
        std::fs::write(&room, "16").unwrap();
        let real = FileStorage::new(folder.path().join("log")).unwrap();
        let storage = HoldingStorage::with_room(real, 1, Some(room.clone())).unwrap();
        let file = storage.create("a", 16).unwrap();
        file.allocate(0, 16).unwrap();
        file.write_at(0, &[&[1; 16]]).unwrap();
        assert_eq!(file.write_at(16, &[&[1]]).unwrap_err().kind(), io::ErrorKind::StorageFull);
        std::fs::write(&room, "17").unwrap();
        file.write_at(16, &[&[1]]).unwrap();
        storage.remove("a").unwrap();
        storage.create("b", 0).unwrap().allocate(0, 17).unwrap();
    }

    #[test]
    fn a_storage_that_stopped_syncing_loses_what_it_said_to_be_synced() {
        let lost = (0..50).filter(|seed| {
            let folder = tempfile::tempdir().unwrap();
            let storage = storage(&folder, *seed);
            let file = storage.create("a", 64).unwrap();
            storage.sync_directory().unwrap();
            storage.stop_syncing();
            file.write_at(0, &[&[5; 64]]).unwrap();
            file.sync_data().unwrap();
            left(&folder, "a").unwrap() != [5; 64]
        });
        assert!(lost.count() > 20);
    }
}
