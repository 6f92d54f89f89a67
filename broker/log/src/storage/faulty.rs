//! A disk in memory that forgets what was not synced: for simulations, every fault by an explicit call and from one seed.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::loss::Loss;
use super::{Entry, Storage, StorageFile, StorageLock};

/// What a crash keeps or loses as a whole.
pub const SECTOR_BYTES: u64 = 8;

/// A disk in memory. Clones are the same disk, as it stands in the machine before and after a crash.
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    disk: Arc<Mutex<Disk>>,
}

impl FaultyStorage {
    /// An empty disk whose crashes are decided by `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            disk: Arc::new(Mutex::new(Disk {
                random: seed,
                ..Disk::default()
            })),
        }
    }

    /// The machine stops: of what was not synced a random part is lost, by sectors. Handles and locks taken before are dead.
    pub fn crash(&self) {
        self.disk().crash();
    }

    /// The process ends but the machine goes on: nothing is lost. Handles and locks taken before are dead.
    pub fn restart(&self) {
        let mut disk = self.disk();
        disk.life += 1;
        disk.locked = false;
    }

    /// The next `sync_data` fails, having kept a random part.
    pub fn fail_next_sync(&self) {
        self.disk().fail_sync = true;
    }

    /// The next `write_at` fails, having written a random part.
    pub fn fail_next_write(&self) {
        self.disk().fail_write = true;
    }

    /// After `bytes` further bytes have been written, writes and creations fail as on a full disk; `None` makes room.
    pub fn full_after(&self, bytes: Option<u64>) {
        self.disk().room = bytes;
    }

    /// The files may take so many bytes more than they do, room that was allocated included, as on a file system that writes in place; `None`
    /// lifts the limit. What is removed makes room.
    pub fn limit(&self, bytes: Option<u64>) {
        let mut disk = self.disk();
        disk.capacity = bytes.map(|bytes| disk.used() + bytes);
    }

    /// Whether room is wanting by [`FaultyStorage::limit`] alone, and neither a write nor a sync is to fail.
    pub fn is_limited(&self) -> bool {
        let disk = self.disk();
        disk.capacity.is_some() && disk.room.is_none() && !disk.fail_write && !disk.fail_sync
    }

    /// Damages what is stored, synced or not: the byte at `offset` of the file is combined with `mask` by exclusive or.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        self.change(name, |bytes| {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= mask;
            }
        });
    }

    /// Damages what is stored: these bytes take the place of what was there; a file that ends before grows.
    pub fn overwrite(&self, name: &str, offset: u64, with: &[u8]) {
        self.change(name, |bytes| put(bytes, offset as usize, with));
    }

    /// Damages what is stored: the file ends here.
    pub fn truncate(&self, name: &str, bytes: u64) {
        self.change(name, |held| held.truncate(bytes as usize));
    }

    /// What a reader would see of a file now; `None` when there is no such file.
    pub fn contents(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk();
        disk.names
            .get(name)
            .and_then(|node| disk.nodes.get(node))
            .map(|node| node.current.clone())
    }

    /// A disk of its own with the same contents, as if all were synced and nobody had it open.
    pub fn copy(&self, seed: u64) -> Self {
        let mut disk = self.disk().clone();
        disk.names_durable = disk.names.clone();
        for node in disk.nodes.values_mut() {
            node.durable = node.current.clone();
            node.dirty.clear();
        }
        Self {
            disk: Arc::new(Mutex::new(Disk {
                random: seed,
                locked: false,
                life: 0,
                ..disk
            })),
        }
    }

    /// How many calls of `sync_data` succeeded so far.
    pub fn syncs(&self) -> u64 {
        self.disk().syncs
    }

    fn change(&self, name: &str, how: impl Fn(&mut Vec<u8>)) {
        let mut disk = self.disk();
        let Some(node) = disk.names.get(name).copied() else { return };
        if let Some(node) = disk.nodes.get_mut(&node) {
            how(&mut node.current);
            how(&mut node.durable);
        }
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no call panics while it holds the disk")
    }
}

/// The state of the disk and of the faults asked for.
#[derive(Clone, Debug, Default)]
struct Disk {
    /// The names as a process sees them, and those that survive a crash.
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    nodes: BTreeMap<u64, Node>,
    nodes_made: u64,
    /// Grows with each crash or restart; handles of an earlier life are dead.
    life: u64,
    locked: bool,
    fail_sync: bool,
    fail_write: bool,
    room: Option<u64>,
    /// What all files may take together.
    capacity: Option<u64>,
    random: u64,
    syncs: u64,
}

/// The bytes of one file.
#[derive(Clone, Debug, Default)]
struct Node {
    current: Vec<u8>,
    durable: Vec<u8>,
    /// What was written since the last sync, in order, and where.
    dirty: Vec<(u64, Vec<u8>)>,
    /// Up to where room was taken, by writing or ahead of it.
    allocated: u64,
}

impl Disk {
    /// SplitMix64: small, and the same on every machine.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn crash(&mut self) {
        self.life += 1;
        self.locked = false;
        self.fail_sync = false;
        self.fail_write = false;
        let all: Vec<String> = self.names.keys().chain(self.names_durable.keys()).cloned().collect();
        for name in all {
            let (now, durable) = (self.names.get(&name).copied(), self.names_durable.get(&name).copied());
            if now != durable && self.next_random().is_multiple_of(2) {
                match now {
                    Some(node) => self.names_durable.insert(name, node),
                    None => self.names_durable.remove(&name),
                };
            }
        }
        self.names = self.names_durable.clone();
        let named: Vec<u64> = self.names.values().copied().collect();
        self.nodes.retain(|node, _| named.contains(node));
        for node in named {
            self.keep_random_part(node);
            if let Some(node) = self.nodes.get_mut(&node) {
                node.current = node.durable.clone();
            }
        }
    }

    /// Moves a random part of the unsynced sectors of a file to what survives, and forgets that the others are unsynced.
    fn keep_random_part(&mut self, node: u64) {
        let Some(mut node_held) = self.nodes.remove(&node) else { return };
        // The file's size is not durable before its first sync either.
        if node_held.durable.len() < node_held.current.len() && self.next_random().is_multiple_of(2) {
            node_held.durable.resize(node_held.current.len(), 0);
        }
        let writes = std::mem::take(&mut node_held.dirty);
        let loss = Loss::draw(|| self.next_random(), writes.len());
        for (nth, (start, bytes)) in writes.into_iter().enumerate() {
            let chance = loss.chance(|| self.next_random(), nth);
            let mut at = start;
            while at < start + bytes.len() as u64 {
                let sector_end = (at / SECTOR_BYTES + 1) * SECTOR_BYTES;
                let stop = sector_end.min(start + bytes.len() as u64).min(node_held.durable.len() as u64);
                if self.next_random() % 256 < chance && at < stop {
                    let kept = &bytes[(at - start) as usize..(stop - start) as usize];
                    node_held.durable[at as usize..stop as usize].copy_from_slice(kept);
                }
                at = sector_end;
            }
        }
        self.nodes.insert(node, node_held);
    }

    fn take_room(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.room {
            None => Ok(()),
            Some(room) if *room >= bytes => {
                *room -= bytes;
                Ok(())
            }
            Some(_) => Err(io::ErrorKind::StorageFull.into()),
        }
    }

    /// What all files take.
    fn used(&self) -> u64 {
        let nodes = self.names.values().filter_map(|node| self.nodes.get(node));
        nodes.map(|node| node.allocated).sum()
    }

    /// Takes the room of a file up to `to`, where that is not taken yet.
    fn allocate(&mut self, node: u64, to: u64) -> io::Result<()> {
        let taken = self.nodes.get(&node).map_or(0, |node| node.allocated);
        let used = self.used();
        if self.capacity.is_some_and(|capacity| used + to.saturating_sub(taken) > capacity) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if let Some(node) = self.nodes.get_mut(&node) {
            node.allocated = taken.max(to);
        }
        Ok(())
    }

    fn node_named(&self, name: &str) -> io::Result<u64> {
        self.names
            .get(name)
            .copied()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_string()))
    }
}

impl Storage for FaultyStorage {
    fn list(&self) -> io::Result<Vec<Entry>> {
        let disk = self.disk();
        let bytes = |node: &u64| disk.nodes.get(node).map_or(0, |node| node.current.len() as u64);
        Ok(disk
            .names
            .iter()
            .map(|(name, node)| Entry {
                name: name.clone(),
                bytes: bytes(node),
            })
            .collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.disk();
        if disk.names.contains_key(name) {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, name.to_string()));
        }
        disk.take_room(0)?;
        disk.nodes_made += 1;
        let node = disk.nodes_made;
        disk.nodes.insert(
            node,
            Node {
                current: vec![0; bytes as usize],
                ..Node::default()
            },
        );
        disk.names.insert(name.to_string(), node);
        Ok(Arc::new(FaultyFile {
            storage: self.clone(),
            node,
            life: disk.life,
        }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let disk = self.disk();
        Ok(Arc::new(FaultyFile {
            storage: self.clone(),
            node: disk.node_named(name)?,
            life: disk.life,
        }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.node_named(name)?;
        disk.names.remove(name);
        Ok(())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.names_durable = disk.names.clone();
        Ok(())
    }

    fn lock(&self) -> io::Result<StorageLock> {
        let mut disk = self.disk();
        if disk.locked {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        disk.locked = true;
        Ok(StorageLock::new(FaultyLock {
            storage: self.clone(),
            life: disk.life,
        }))
    }

    fn describe(&self) -> String {
        "simulated disk".to_string()
    }
}

/// Lets go of the directory, unless a crash did so already.
struct FaultyLock {
    storage: FaultyStorage,
    life: u64,
}

impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut disk = self.storage.disk();
        if disk.life == self.life {
            disk.locked = false;
        }
    }
}

/// One open file of the disk in memory.
struct FaultyFile {
    storage: FaultyStorage,
    node: u64,
    life: u64,
}

impl FaultyFile {
    fn with<T>(&self, act: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.storage.disk();
        if disk.life != self.life || !disk.nodes.contains_key(&self.node) {
            return Err(io::Error::other("this handle was opened before the crash"));
        }
        act(&mut disk)
    }
}

impl StorageFile for FaultyFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.with(|disk| {
            let bytes = &disk.nodes[&self.node].current;
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let from = bytes
                .get(start..)
                .and_then(|rest| rest.get(..into.len()))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            into.copy_from_slice(from);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, slices: &[&[u8]]) -> io::Result<()> {
        self.with(|disk| {
            let mut bytes = slices.concat();
            let fails = std::mem::take(&mut disk.fail_write);
            if fails {
                let kept = disk.next_random() % (bytes.len() as u64 + 1);
                bytes.truncate(kept as usize);
            }
            disk.take_room(bytes.len() as u64)?;
            disk.allocate(self.node, offset + bytes.len() as u64)?;
            if let Some(node) = disk.nodes.get_mut(&self.node) {
                put(&mut node.current, offset as usize, &bytes);
                node.dirty.push((offset, bytes));
            }
            if fails {
                Err(io::Error::other("this write was to fail"))
            } else {
                Ok(())
            }
        })
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.with(|disk| {
            disk.take_room(to.saturating_sub(from))?;
            disk.allocate(self.node, to)?;
            if let Some(node) = disk.nodes.get_mut(&self.node) {
                node.current.resize(node.current.len().max(to as usize), 0);
            }
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk| {
            if std::mem::take(&mut disk.fail_sync) {
                // As on Linux: the pages count as clean afterwards, so another sync would lie.
                disk.keep_random_part(self.node);
                return Err(io::Error::other("this sync was to fail"));
            }
            disk.syncs += 1;
            if let Some(node) = disk.nodes.get_mut(&self.node) {
                node.durable.resize(node.current.len(), 0);
                for (start, bytes) in std::mem::take(&mut node.dirty) {
                    put(&mut node.durable, start as usize, &bytes);
                }
            }
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(disk.nodes[&self.node].current.len() as u64))
    }
}

/// Writes `bytes` at `offset`, growing with zeros where needed.
fn put(into: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[offset..end].copy_from_slice(bytes);
}
