//! Readers that retention overtakes.

use std::io;

use sluice_protocol::ids::Epoch;
use sluice_protocol::units::Now;

use super::*;
use crate::record::{Change, Record};
use crate::storage::{Entry, StorageFile, StorageLock};
use crate::{FaultyStorage, Log, LogConfig, LogWriter, Opened, Start};

/// A disk on which something happens between the opening of a file and its use.
struct Interrupted {
    disk: FaultyStorage,
    after_open: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Storage for Interrupted {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.disk.list()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        self.disk.create(name, bytes)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let opened = self.disk.open(name);
        let then = self.after_open.lock().unwrap().take();
        then.into_iter().for_each(|then| then());
        opened
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn lock(&self) -> io::Result<StorageLock> {
        self.disk.lock()
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

/// A log of several sealed segments behind a checkpoint, of which nothing need be kept.
fn sealed(storage: Arc<dyn Storage>) -> (LogWriter, LogReader) {
    let config = LogConfig {
        segment_bytes: 4_096,
        fill_ahead_bytes: 512,
        tail_cache_bytes: 0,
    };
    let start = Start {
        wall_ms: 1_000,
        random: [1; 24],
    };
    let Opened { mut writer, reader, .. } = Log::open(storage, config, start).unwrap();
    let record = Record {
        at: Now {
            wall_ms: 1_000,
            mono_ms: 0,
        },
        change: Change::Opened { epoch: Epoch(1) },
    };
    for _ in 0..200 {
        writer.append(writer.end(), &[record.encode()]).unwrap();
    }
    writer.begin_checkpoint(writer.end()).unwrap();
    writer.finish_checkpoint().unwrap();
    (writer, reader)
}

#[test]
fn what_retention_took_since_it_was_found_is_gone() {
    let (mut writer, reader) = sealed(Arc::new(FaultyStorage::new(1)));
    let (from, to) = (Position(0), Position(8));
    let segment = reader.segment_of(from, to).unwrap();
    assert!(writer.retain(|_| None).unwrap() > 0);
    let read = reader.read_segment(&segment, from, to);
    assert!(matches!(read, Err(LogError::Gone { .. })), "{read:?}");
}

#[test]
fn the_file_of_a_segment_that_retention_takes_as_it_is_opened_is_not_kept_open() {
    let storage = Arc::new(Interrupted {
        disk: FaultyStorage::new(1),
        after_open: Mutex::default(),
    });
    let (mut writer, reader) = sealed(storage.clone());
    let (from, to) = (Position(0), Position(8));
    let segment = reader.segment_of(from, to).unwrap();
    *storage.after_open.lock().unwrap() = Some(Box::new(move || assert!(writer.retain(|_| None).unwrap() > 0)));
    assert!(reader.read_segment(&segment, from, to).is_ok(), "who has it open can read it");
    assert!(storage.after_open.lock().unwrap().is_none(), "retention ran meanwhile");
    assert!(reader.shared.files().get(&segment.number).is_none());
}

#[test]
fn the_files_of_segments_that_are_kept_stay_open() {
    let (_writer, reader) = sealed(Arc::new(FaultyStorage::new(1)));
    for from in [Position(0), Position(reader.visible_end().0 - 8)] {
        let segment = reader.segment_of(from, Position(from.0 + 8)).unwrap();
        reader.read_segment(&segment, from, Position(from.0 + 8)).unwrap();
        assert!(reader.shared.files().get(&segment.number).is_some());
    }
}
