//! A snapshot of the log while it is written: every file that counts at one synced position, kept as it is until it was read.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use sluice_protocol::ids::{Epoch, Position};

use crate::error::LogError;
use crate::planted::{self, Bug};
use crate::segment::{checkpoint_name, file_offset, number_in, segment_name, sidecar_name};
use crate::storage::{Entry, LOCK_NAME, Storage, StorageFile};
use crate::writer::LogWriter;

/// The files of a log at its cut, and the right to read them as they were then.
///
/// While it lives, retention takes nothing and no segment is written anew; when the disk is short of room that right is lost, and reading
/// fails with [`LogError::SnapshotLost`].
pub struct Snapshot {
    /// Up to where the log is in it: all that was durable when it was taken, and nothing else.
    pub cut: Position,
    /// The start of the broker in which it was taken.
    pub epoch: Epoch,
    /// Its files, the newest checkpoint and whatever is small before the segments.
    pub files: Vec<SnapshotFile>,
    storage: Arc<dyn Storage>,
    hold: Arc<Hold>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("Snapshot");
        shown
            .field("cut", &self.cut)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

/// A file of a snapshot.
pub struct SnapshotFile {
    /// Its name in the log's directory.
    pub name: String,
    /// How much of it belongs to the snapshot, in bytes from its beginning.
    pub bytes: u64,
    /// How large the file must be in a directory that a log goes on in: what follows is zeros.
    pub room_bytes: u64,
    /// Of a sealed segment the position at which it begins: what it holds never changes while this log goes on.
    pub sealed: Option<Position>,
    /// What was opened with the snapshot, since it may be removed from its directory before it is read.
    open: Option<Arc<dyn StorageFile>>,
}

/// The right to find files as they were.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    lost: AtomicBool,
}

impl Snapshot {
    /// Opens one of the files, by its place in the list.
    ///
    /// # Errors
    /// The snapshot is lost, or the disk failed.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn open(&self, file: usize) -> Result<SnapshotReader, LogError> {
        let SnapshotFile { name, bytes, open, .. } = &self.files[file];
        let opened = match open {
            Some(open) => Ok(Arc::clone(open)),
            None => self.storage.open(name),
        };
        self.still_held()?;
        Ok(SnapshotReader {
            file: opened.map_err(LogError::io("opening", name))?,
            name: name.clone(),
            bytes: *bytes,
            hold: Arc::clone(&self.hold),
        })
    }

    /// What all files hold together, in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    fn still_held(&self) -> Result<(), LogError> {
        self.hold.check()
    }
}

/// Reads one file of a snapshot.
pub struct SnapshotReader {
    file: Arc<dyn StorageFile>,
    name: String,
    bytes: u64,
    hold: Arc<Hold>,
}

impl SnapshotReader {
    /// How much there is to read.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes from `offset` on, at most `bytes_max` of them; none at the end.
    ///
    /// # Errors
    /// The snapshot is lost, or the disk failed.
    pub fn read(&self, offset: u64, bytes_max: usize) -> Result<Vec<u8>, LogError> {
        let bytes = self.bytes.saturating_sub(offset).min(bytes_max as u64);
        let mut piece = vec![0; bytes as usize];
        let read = self.file.read_at(offset, &mut piece);
        // Looked at when they are read: until then nobody wrote over them.
        self.hold.check()?;
        read.map_err(LogError::io("reading", &self.name))?;
        Ok(piece)
    }
}

impl Hold {
    fn check(&self) -> Result<(), LogError> {
        match self.lost.load(Ordering::SeqCst) {
            true => Err(LogError::SnapshotLost),
            false => Ok(()),
        }
    }
}

/// The snapshots that somebody reads.
#[derive(Debug, Default)]
pub(crate) struct Holds(Vec<Weak<Hold>>);

impl Holds {
    /// Whether there is one.
    pub(crate) fn any(&mut self) -> bool {
        self.0.retain(|hold| hold.strong_count() > 0);
        !self.0.is_empty()
    }

    fn add(&mut self) -> Arc<Hold> {
        let hold = Arc::new(Hold::default());
        self.0.push(Arc::downgrade(&hold));
        hold
    }

    fn lose(&mut self) -> usize {
        let held = self.0.drain(..).filter_map(|hold| hold.upgrade());
        held.map(|hold| hold.lost.store(true, Ordering::SeqCst)).count()
    }
}

impl LogWriter {
    /// Takes a snapshot of what is durable now. The files are listed and those that may go are opened; nothing is read or written.
    ///
    /// Everything in the directory belongs to it but what is known not to count: the lock, segments that are not in use, and checkpoints
    /// other than the newest. So a kind of file that this knows nothing of is in it, too.
    ///
    /// # Errors
    /// The directory cannot be listed or a file cannot be opened; the writer goes on.
    pub fn snapshot(&mut self) -> Result<Snapshot, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        let hold = self.holds.add();
        let mut segments = self.segments_in_use();
        let checkpoint = self.checkpoint.map(|facts| checkpoint_name(facts.number));
        let (mut files, mut large) = (Vec::new(), Vec::new());
        let listed = self.shared.storage.list();
        for entry in listed.map_err(LogError::io("listing", &self.shared.storage.describe()))? {
            if let Some(number) = number_in(&entry.name, "segment-") {
                large.extend(segments.remove(&number));
            } else if self.is_of_sealed(&entry.name) {
                large.push(SnapshotFile {
                    name: entry.name,
                    bytes: entry.bytes,
                    room_bytes: entry.bytes,
                    sealed: None,
                    open: None,
                });
            } else if planted::is(Bug::SnapshotLeavesParts) && entry.name.starts_with("part-") {
                // As if nobody had thought of them.
            } else if entry.name != LOCK_NAME
                && (number_in(&entry.name, "checkpoint-").is_none() || checkpoint.as_ref() == Some(&entry.name))
            {
                files.extend(self.opened(entry)?);
            }
        }
        if let Some((_, missing)) = segments.pop_first() {
            return Err(LogError::io("finding", &missing.name)(io::ErrorKind::NotFound.into()));
        }
        files.append(&mut large);
        Ok(Snapshot {
            cut: self.synced,
            epoch: self.epoch,
            files,
            storage: Arc::clone(&self.shared.storage),
            hold,
        })
    }

    /// Takes the right to find their files from all snapshots, so that retention can make room. Says how many lost it.
    pub fn lose_snapshots(&mut self) -> usize {
        self.holds.lose()
    }

    /// The segments of the log up to where it is synced, by number.
    fn segments_in_use(&self) -> BTreeMap<u64, SnapshotFile> {
        let file = |number, bytes, room_bytes, sealed| SnapshotFile {
            name: segment_name(number),
            bytes,
            room_bytes,
            sealed,
            open: None,
        };
        let mut segments: BTreeMap<u64, SnapshotFile> = BTreeMap::new();
        for segment in &self.shared.view().sealed {
            let bytes = segment.offset(segment.end);
            segments.insert(segment.number, file(segment.number, bytes, bytes, Some(segment.base)));
        }
        let active = &self.active;
        let to = if planted::is(Bug::SnapshotToTheEnd) {
            self.end()
        } else {
            self.synced
        };
        let written = file_offset(active.base, to);
        segments.insert(active.number, file(active.number, written, active.bytes, None));
        segments
    }

    /// Whether a file is the sidecar of a sealed segment, which stays as long as that.
    fn is_of_sealed(&self, name: &str) -> bool {
        let Some(base) = number_in(name, "index-") else { return false };
        let view = self.shared.view();
        view.sealed
            .binary_search_by_key(&base, |segment| segment.base.0)
            .is_ok_and(|at| name == sidecar_name(view.sealed[at].base))
    }

    /// A file that may be removed before it is read; `None` when it is gone already.
    fn opened(&self, Entry { name, bytes }: Entry) -> Result<Option<SnapshotFile>, LogError> {
        match self.shared.storage.open(&name) {
            Ok(open) => Ok(Some(SnapshotFile {
                name,
                bytes,
                room_bytes: bytes,
                sealed: None,
                open: Some(open),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(LogError::io("opening", &name)(error)),
        }
    }
}
