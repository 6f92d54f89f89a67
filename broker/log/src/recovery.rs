//! Opening a log: finding its end, refusing one that lost what was confirmed, cutting a torn tail, and beginning the next epoch.

pub(crate) mod damage;
pub(crate) mod directory;
mod older;
mod walk;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::ids::{Epoch, Position};
use sluice_protocol::units::Now;

use self::damage::refuse_damage;
use self::directory::{Listing, find_checkpoint, find_segments};
use self::older::{clear_the_rest, older_segments};
use self::walk::{Walk, walk};
use crate::checkpoint::Checkpoint;
use crate::error::LogError;
use crate::format::{self, Format, Secrets};
use crate::planted::{self, Bug};
use crate::reader::{LogReader, Shared, View};
use crate::record::{Change, Record};
use crate::replay::Replay;
use crate::reserve::Spare;
use crate::restored::Restored;
use crate::scan::Scan;
use crate::segment::{Segment, checkpoint_name, segment_name};
use crate::snapshot::Holds;
use crate::storage::{Storage, StorageLock};
use crate::writer::{Active, LogConfig, LogWriter};

/// A log on a storage.
pub struct Log;

/// What only the caller knows at a start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The wall clock, in milliseconds since 1970.
    pub wall_ms: i64,
    /// Random bytes out of which a new log makes its secrets; an existing log keeps its own.
    pub random: [u8; 24],
}

/// A log that is open.
pub struct Opened {
    /// For the disk thread.
    pub writer: LogWriter,
    /// For everyone.
    pub reader: LogReader,
    /// For the core.
    pub recovery: Recovery,
}

/// What a core is rebuilt from: first the entries, then the records.
pub struct Recovery {
    /// This start's epoch.
    pub epoch: Epoch,
    /// The log's secret for receipt handles; the same at every start.
    pub secret: [u8; 16],
    /// Where the first frame of this start goes.
    pub next_position: Position,
    /// From which backup this log was restored, if from any.
    pub restored: Option<Restored>,
    /// The stamp of this start's `Opened` record: time goes on from here.
    pub opened_at: Now,
    /// The entries of the newest checkpoint.
    pub checkpoint_entries: Vec<Bytes>,
    /// The records since, this start's `Opened` record last.
    pub replay: Replay,
}

impl Log {
    /// Opens the log on `storage`, which is new or was left by a stop or a crash, and begins its next epoch.
    ///
    /// # Errors
    /// Another process has it; it has another format; confirmed bytes are damaged; the disk failed. Nothing is changed that was confirmed.
    pub fn open(storage: Arc<dyn Storage>, config: LogConfig, start: Start) -> Result<Opened, LogError> {
        config.check()?;
        let lock = storage.lock().map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => LogError::InUse {
                directory: storage.describe(),
            },
            _ => LogError::io("locking", &storage.describe())(error),
        })?;
        let listing = Listing::read(&*storage)?;
        let secrets = match format::read(&*storage, !listing.segments.is_empty())? {
            Format::Known(secrets) => secrets,
            Format::New => {
                let secrets = Secrets::from_random(start.random);
                format::write(&*storage, &secrets)?;
                secrets
            }
        };
        let restored = Restored::read(&*storage)?;
        let (newest, broken) = find_checkpoint(&*storage, &secrets, &listing.checkpoints)?;
        let found = find_segments(&*storage, &secrets, &listing.segments)?;
        let mut walk = walk(&*storage, &secrets, &found, newest.as_ref(), &listing)?;
        refuse_damage(&*storage, &secrets, &found, newest.as_ref(), &broken, &walk.reached())?;
        let sealed = older_segments(&*storage, &secrets, &found, &mut walk, &listing)?;
        for segment in &walk.chain {
            let file = Scan::open(&*storage, secrets.frame, segment.number)?.file;
            file.sync_data().map_err(LogError::io("syncing", &segment_name(segment.number)))?;
        }
        let spares = clear_the_rest(&*storage, &config, &found, &walk, &sealed)?;
        let kept = newest.as_ref().map(|checkpoint| checkpoint.facts.number);
        for number in listing.checkpoints.iter().filter(|number| Some(**number) != kept) {
            let name = checkpoint_name(*number);
            storage.remove(&name).map_err(LogError::io("removing", &name))?;
        }
        let before = Before {
            secrets,
            restored,
            newest,
            walk,
            sealed,
            spares,
            next_segment: listing.segments.last().map_or(0, |number| number + 1),
            next_checkpoint: listing.checkpoints.last().map_or(0, |number| number + 1),
        };
        before.go_on(storage, config, start, lock)
    }
}

/// What the starts before this one left, made sure of.
struct Before {
    secrets: Secrets,
    restored: Option<Restored>,
    newest: Option<Checkpoint>,
    walk: Walk,
    /// The segments before those that were walked.
    sealed: Vec<Segment>,
    spares: Vec<Spare>,
    next_segment: u64,
    next_checkpoint: u64,
}

impl Before {
    /// Writes and syncs the opening frame, and hands out what was found.
    fn go_on(mut self, storage: Arc<dyn Storage>, config: LogConfig, start: Start, lock: StorageLock) -> Result<Opened, LogError> {
        let epoch = Epoch(self.walk.floor.0 + 1);
        let opened_at = opening_stamp(self.walk.stamp, start.wall_ms);
        let facts = self.newest.as_ref().map(|checkpoint| checkpoint.facts);
        let replay_from = facts.map_or(Position(0), |facts| facts.replay_from);
        let (end, replay) = (self.walk.end, self.walk.replay);
        let chain_at = replay.map_or(self.walk.chain.len().saturating_sub(1), |(place, _)| place);
        let before_replay = self.sealed.len() + chain_at;
        let (active, begun) = self.active(&*storage)?;
        let unwritten = std::mem::take(&mut self.walk.unwritten);
        let mut writer = LogWriter {
            config,
            epoch,
            opened_at: end,
            end,
            synced: end,
            spares: self.spares,
            next_number: self.next_segment,
            pending: Vec::new(),
            pending_dealings: Vec::new(),
            last_stamp: opened_at,
            checkpoint: facts,
            next_checkpoint: self.next_checkpoint,
            draft: None,
            keepers: BTreeMap::new(),
            holds: Holds::default(),
            stopped: false,
            shared: Arc::new(Shared::new(
                storage,
                self.secrets.frame,
                view(self.walk, self.sealed, &active),
                config.tail_cache_bytes,
                unwritten,
            )),
            active,
            _lock: lock,
        };
        if !begun {
            writer.begin_segment(0)?;
            writer.shared.view_mut().active = Arc::new(writer.active.segment());
        }
        let opening = Record {
            at: opened_at,
            change: Change::Opened { epoch },
        };
        writer.append(end, &[opening.encode()])?;
        writer.sync()?;
        // A log goes on without its reserve, and tells so by `has_reserve`.
        match writer.replenish() {
            Ok(()) | Err(LogError::NoRoom { .. }) => {}
            Err(error) => return Err(error),
        }
        let (reader, next_position) = (LogReader::new(Arc::clone(&writer.shared)), writer.end);
        let from = replay.map_or(end, |(_, position)| position);
        let recovery = Recovery {
            epoch,
            secret: self.secrets.core,
            next_position,
            restored: self.restored,
            opened_at,
            checkpoint_entries: self.newest.map_or_else(Vec::new, |checkpoint| checkpoint.entries),
            replay: Replay::new(&writer.shared, before_replay, from, replay_from, next_position),
        };
        Ok(Opened { writer, reader, recovery })
    }

    /// The segment that is written on, and whether there is one: a log without a segment gets its first from the writer.
    fn active(&self, storage: &dyn Storage) -> Result<(Active, bool), LogError> {
        let Some(segment) = self.walk.chain.last() else {
            let nothing = Active {
                number: 0,
                base: self.walk.end,
                bytes: 0,
                file: Arc::new(NoFile),
                filled: 0,
                allocated: false,
            };
            return Ok((nothing, false));
        };
        let active = Active {
            number: segment.number,
            base: segment.base,
            bytes: segment.bytes,
            file: Scan::open(storage, self.secrets.frame, segment.number)?.file,
            filled: segment.offset(self.walk.end),
            allocated: false,
        };
        Ok((active, true))
    }
}

/// Time goes on from the last stamp: both clocks by what the wall clock gained since, and never back.
fn opening_stamp(last: Option<Now>, wall_ms: i64) -> Now {
    let Some(last) = last else {
        return Now { wall_ms, mono_ms: 0 };
    };
    if planted::is(Bug::ClockStartsAnew) {
        return Now { wall_ms, mono_ms: 0 };
    }
    let since = wall_ms.saturating_sub(last.wall_ms).max(0);
    Now {
        wall_ms: last.wall_ms.saturating_add(since),
        mono_ms: last.mono_ms.saturating_add(since as u64),
    }
}

/// What readers see first.
fn view(walk: Walk, sealed: Vec<Segment>, active: &Active) -> View {
    let mut chain = walk.chain;
    chain.pop();
    View {
        sealed: sealed.into_iter().chain(chain).map(Arc::new).collect(),
        active: Arc::new(active.segment()),
        active_index: walk.index,
        visible: walk.end,
    }
}

/// Stands for the file of a log that has no segment yet.
struct NoFile;

impl crate::storage::StorageFile for NoFile {
    fn read_at(&self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn write_at(&self, _: u64, _: &[&[u8]]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn allocate(&self, _: u64, _: u64) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn len(&self) -> std::io::Result<u64> {
        Ok(0)
    }
}
