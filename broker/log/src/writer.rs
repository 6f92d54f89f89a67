//! Writing the log: frames at the end of the active segment, the next segment when that is full, checkpoints beside.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::ids::{Epoch, Position};
use sluice_protocol::units::Now;

use crate::checkpoint::{CheckpointFacts, Draft};
use crate::error::LogError;
use crate::frame::{FRAME_ALIGNMENT, FrameHeader, frame_bytes, record_positions};
use crate::index::{Producers, QueueSpan};
use crate::limits::{
    FILL_AHEAD_BYTES_DEFAULT, FILLED_FRAME_BYTES_MAX, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, TAIL_CACHE_BYTES_DEFAULT,
};
use crate::planted::{self, Bug};
use crate::reader::Shared;
use crate::record::{CursorId, OffsetRange, dealt, peek};
use crate::reserve::Spare;
use crate::scan::{Indexed, indexed};
use crate::segment::{Segment, checkpoint_name, file_offset, segment_name, sidecar_name};
use crate::sidecar::{self, SIDECAR_HEADER_BYTES};
use crate::snapshot::Holds;
use crate::storage::{Storage, StorageFile, StorageLock};

/// How a log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The size of a segment file, in bytes: 4 KiB to 1 GiB, a multiple of 8. A frame that is larger gets a segment of its own size.
    pub segment_bytes: u64,
    /// How far new files are filled with zeros ahead of what is written, in bytes.
    pub fill_ahead_bytes: u64,
    /// Bound on the newest batches kept in memory, in bytes.
    pub tail_cache_bytes: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            fill_ahead_bytes: FILL_AHEAD_BYTES_DEFAULT,
            tail_cache_bytes: TAIL_CACHE_BYTES_DEFAULT,
        }
    }
}

impl LogConfig {
    /// Whether a frame of this size is to be written into zeros.
    pub(crate) fn fills_ahead_of(&self, frame_bytes: u64) -> bool {
        frame_bytes < self.fill_ahead_bytes.min(FILLED_FRAME_BYTES_MAX)
    }

    pub(crate) fn check(&self) -> Result<(), LogError> {
        let in_range = (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&self.segment_bytes);
        if in_range && self.segment_bytes.is_multiple_of(FRAME_ALIGNMENT) {
            return Ok(());
        }
        let wanted = format!("a multiple of 8 from {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}");
        Err(LogError::Setting(format!(
            "segment_bytes is {}: set it to {wanted}",
            self.segment_bytes
        )))
    }
}

/// The one writer of a log, owned by its disk thread. After an error other than [`LogError::NoRoom`] every call answers `Stopped`.
pub struct LogWriter {
    pub(crate) shared: Arc<Shared>,
    pub(crate) config: LogConfig,
    pub(crate) epoch: Epoch,
    /// Where this epoch's opening frame is.
    pub(crate) opened_at: Position,
    pub(crate) end: Position,
    pub(crate) synced: Position,
    pub(crate) active: Active,
    /// Segments that are not in use; the reserve is among them.
    pub(crate) spares: Vec<Spare>,
    pub(crate) next_number: u64,
    /// Appended and not yet shown to readers.
    pub(crate) pending: Vec<Indexed>,
    /// The same of what groups did, with the frame that says it.
    pub(crate) pending_dealings: Vec<(Position, CursorId, OffsetRange)>,
    pub(crate) last_stamp: Now,
    /// The newest checkpoint that counts.
    pub(crate) checkpoint: Option<CheckpointFacts>,
    pub(crate) next_checkpoint: u64,
    pub(crate) draft: Option<Draft>,
    /// Of each sealed segment that retention looked at, a queue that keeps it, by base.
    pub(crate) keepers: BTreeMap<Position, QueueSpan>,
    /// The snapshots that somebody reads.
    pub(crate) holds: Holds,
    pub(crate) stopped: bool,
    pub(crate) _lock: StorageLock,
}

/// The segment that is written.
pub(crate) struct Active {
    pub(crate) number: u64,
    pub(crate) base: Position,
    pub(crate) bytes: u64,
    pub(crate) file: Arc<dyn StorageFile>,
    /// Up to where the file has been written, with frames or zeros.
    pub(crate) filled: u64,
    /// Whether the room of all of it is taken.
    pub(crate) allocated: bool,
}

impl LogWriter {
    /// The epoch of this start.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where the next frame goes.
    pub fn end(&self) -> Position {
        self.end
    }

    /// Up to where everything is durable.
    pub fn synced(&self) -> Position {
        self.synced
    }

    /// Writes one frame with these encoded records, which are durable and readable only after `sync`. Returns where it ends.
    ///
    /// # Errors
    /// [`LogError::NoRoom`]: the frame is not in the log, whose end is where it was, and the writer goes on. Otherwise the disk failed;
    /// the writer is stopped.
    ///
    /// # Panics
    /// When `position` is not the log's end: core and log would count positions differently.
    pub fn append(&mut self, position: Position, records: &[Bytes]) -> Result<Position, LogError> {
        assert_eq!(position, self.end, "a frame goes to the end of the log");
        self.guarded(|writer| writer.append_frame(records))
    }

    /// Makes everything appended durable and shows it to readers. Returns up to where the log is synced.
    ///
    /// # Errors
    /// The disk failed; the writer is stopped, since a sync that failed cannot be made good by another.
    pub fn sync(&mut self) -> Result<Position, LogError> {
        self.guarded(Self::sync_active)
    }

    /// Shows readers what was appended though it is not durable: for `durability = "async"`, which says so.
    pub fn expose(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let dealings = self.pending_dealings.drain(..);
        let mut tail = self.shared.tail();
        let mut view = self.shared.view_mut();
        for Indexed {
            place,
            attributes,
            origin,
            batch,
        } in pending
        {
            tail.push(place.position, batch);
            view.active_index.add(place, &attributes, origin);
        }
        for (frame, cursor, offsets) in dealings {
            view.active_index.dealings.note(frame, cursor, offsets);
        }
        view.visible = self.end;
    }

    /// Prepares a little of what is to be written into, so that an append need not: to be called when the disk is idle.
    ///
    /// # Errors
    /// The disk failed; the writer is stopped.
    pub fn prepare(&mut self) -> Result<(), LogError> {
        self.guarded(|writer| {
            let offset = file_offset(writer.active.base, writer.end);
            writer.active.fill_ahead(offset, writer.config.fill_ahead_bytes)
        })
    }

    /// Begins a checkpoint whose replay begins at `replay_from`. One that was begun before and not finished is given up.
    ///
    /// # Errors
    /// [`LogError::NoRoom`]: the checkpoint is given up, and another may be begun. Otherwise the disk failed; the writer is stopped.
    pub fn begin_checkpoint(&mut self, replay_from: Position) -> Result<(), LogError> {
        self.guarded(|writer| {
            if let Some(draft) = writer.draft.take() {
                writer.remove(&checkpoint_name(draft.facts.number))?;
            }
            // A frame at or after this start's opening is of this epoch. Before it, there is one that is synced: nothing stale can follow.
            let epoch_floor = if replay_from >= writer.opened_at { writer.epoch } else { Epoch(0) };
            let facts = CheckpointFacts {
                number: writer.next_checkpoint,
                replay_from,
                epoch_floor,
                stamp: writer.last_stamp,
            };
            writer.next_checkpoint += 1;
            let draft = Draft::begin(&*writer.shared.storage, writer.shared.secret, facts);
            writer.draft = Some(writer.unless_full(facts.number, draft)?);
            Ok(())
        })
    }

    /// Adds encoded entries to the checkpoint that was begun.
    ///
    /// # Errors
    /// [`LogError::NoRoom`]: the checkpoint is given up, and another may be begun. Otherwise the disk failed; the writer is stopped.
    ///
    /// # Panics
    /// When no checkpoint was begun.
    pub fn checkpoint_slice(&mut self, entries: &[Bytes]) -> Result<(), LogError> {
        self.guarded(|writer| {
            let mut draft = writer.draft.take().expect("a slice follows a begin");
            let added = draft.slice(entries);
            writer.unless_full(draft.facts.number, added)?;
            writer.draft = Some(draft);
            Ok(())
        })
    }

    /// Makes the checkpoint durable and removes the one before. The caller sees to it that every record that an entry reflects has been
    /// appended; what is appended is synced here if it is not.
    ///
    /// # Errors
    /// [`LogError::NoRoom`]: the checkpoint is given up, and another may be begun. Otherwise the disk failed; the writer is stopped.
    ///
    /// # Panics
    /// When no checkpoint was begun.
    pub fn finish_checkpoint(&mut self) -> Result<(), LogError> {
        self.guarded(|writer| {
            writer.sync_active()?;
            let draft = writer.draft.take().expect("a finish follows a begin");
            let number = draft.facts.number;
            let finished = draft.finish(&*writer.shared.storage, writer.synced);
            let facts = writer.unless_full(number, finished)?;
            if let Some(before) = writer.checkpoint.replace(facts) {
                writer.remove(&checkpoint_name(before.number))?;
            }
            Ok(())
        })
    }

    /// Where replay would begin after a crash now: at the newest checkpoint's `replay_from`, or at 0.
    pub fn replay_from(&self) -> Position {
        self.checkpoint.map_or(Position(0), |facts| facts.replay_from)
    }

    /// Runs `act` unless an earlier call failed, and remembers whether this one did. For want of room nothing is left half done.
    pub(crate) fn guarded<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, LogError>) -> Result<T, LogError> {
        if self.stopped {
            return Err(LogError::Stopped);
        }
        // Set during the call, so that a panic within it stops the writer too.
        self.stopped = true;
        let done = act(self);
        self.stopped = !matches!(done, Ok(_) | Err(LogError::NoRoom { .. }));
        done
    }

    /// Removes the file of a checkpoint for which there is no room.
    fn unless_full<T>(&self, number: u64, done: Result<T, LogError>) -> Result<T, LogError> {
        if let Err(LogError::NoRoom { .. }) = &done {
            discard(&*self.shared.storage, &checkpoint_name(number))?;
        }
        done
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), LogError> {
        match self.shared.storage.remove(name) {
            // Somebody else was first.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => removed.map_err(LogError::io("removing", name)),
        }
    }

    fn append_frame(&mut self, records: &[Bytes]) -> Result<Position, LogError> {
        let lengths = || records.iter().map(Bytes::len);
        let bytes = frame_bytes(lengths());
        let stored = record_positions(self.end, lengths())
            .zip(records)
            .map(|(position, record)| indexed(position, record));
        let stored: Vec<_> = stored.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        let position = self.end;
        let unreadable = |source| LogError::Unreadable { position, source };
        let stamp = records.last().map(|last| peek(last)).transpose().map_err(unreadable)?;
        if file_offset(self.active.base, self.end) + bytes > self.active.bytes {
            self.roll(bytes)?;
        }
        match self.write_frame(bytes, records) {
            Err(LogError::NoRoom { .. }) if planted::is(Bug::NoRoomCounts) => {}
            written => written?,
        }
        self.pending.extend(stored);
        for record in records {
            let noted = dealt(record, |cursor, offsets| self.pending_dealings.push((self.end, cursor, offsets)));
            noted.map_err(unreadable)?;
        }
        self.last_stamp = stamp.map_or(self.last_stamp, |(_, stamp)| stamp);
        self.end.0 += bytes;
        Ok(self.end)
    }

    /// Writes a frame of `bytes` behind the end. When it fails for want of room, what it left is no frame, and the next one goes over it.
    fn write_frame(&mut self, bytes: u64, records: &[Bytes]) -> Result<(), LogError> {
        let header = FrameHeader::seal(self.shared.secret, self.end, self.synced, self.epoch, records);
        let lengths: Vec<[u8; 4]> = records.iter().map(|record| (record.len() as u32).to_le_bytes()).collect();
        let mut slices: Vec<&[u8]> = Vec::with_capacity(2 + 2 * records.len());
        slices.push(&header);
        for (length, record) in lengths.iter().zip(records) {
            slices.push(length);
            slices.push(record);
        }
        let written: usize = slices.iter().map(|slice| slice.len()).sum();
        slices.push(&[0; FRAME_ALIGNMENT as usize][..bytes as usize - written]);
        let offset = file_offset(self.active.base, self.end);
        if offset + bytes > self.active.filled && self.config.fills_ahead_of(bytes) {
            match self.active.fill_ahead(offset, self.config.fill_ahead_bytes) {
                // There may be room for the frame alone.
                Ok(()) | Err(LogError::NoRoom { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let name = segment_name(self.active.number);
        self.active
            .file
            .write_at(offset, &slices)
            .map_err(LogError::room("writing", &name))?;
        self.active.filled = self.active.filled.max(offset + bytes);
        Ok(())
    }

    pub(crate) fn sync_active(&mut self) -> Result<Position, LogError> {
        if self.synced < self.end {
            if !(planted::is(Bug::SyncSkipped) && self.end.0 % 64 == 8) {
                let name = segment_name(self.active.number);
                self.active.file.sync_data().map_err(LogError::io("syncing", &name))?;
            }
            self.synced = self.end;
            self.expose();
        }
        Ok(self.synced)
    }

    /// Seals the active segment and begins the next, with room for a frame of `bytes`. Without room for the sidecar the index stays in memory.
    fn roll(&mut self, bytes: u64) -> Result<(), LogError> {
        self.sync_active()?;
        let storage = Arc::clone(&self.shared.storage);
        let encoded = sidecar::encode(&self.shared.view().active_index, self.active.base, self.end);
        let written = match write_sidecar(&*storage, self.active.base, &encoded) {
            Ok(()) => true,
            Err(LogError::NoRoom { .. }) => false,
            Err(error) => return Err(error),
        };
        let sealed = {
            let view = self.shared.view();
            Arc::new(view.active.sealed(self.end, &view.active_index))
        };
        self.begin_segment(bytes)?;
        let active = self.active.segment();
        let mut view = self.shared.view_mut();
        let index = std::mem::take(&mut view.active_index);
        if !written {
            self.shared.keep_index(&sealed, index);
        }
        view.sealed.push(sealed);
        view.active = Arc::new(active);
        Ok(())
    }
}

impl Active {
    /// Fills with zeros what lies behind `offset` and has not been written, up to `ahead` bytes.
    pub(crate) fn fill_ahead(&mut self, offset: u64, ahead: u64) -> Result<(), LogError> {
        let from = self.filled.max(offset);
        let to = (offset + ahead).min(self.bytes);
        if from < to {
            let zeros = vec![0; (to - from) as usize];
            let name = segment_name(self.number);
            self.file.write_at(from, &[&zeros]).map_err(LogError::room("writing", &name))?;
            self.filled = to;
        }
        Ok(())
    }

    /// The segment as readers know it.
    pub(crate) fn segment(&self) -> Segment {
        Segment {
            number: self.number,
            base: self.base,
            end: self.base,
            bytes: self.bytes,
            summary: None,
            producers: Producers::told(None),
            keys: 0,
            stored_wall_ms: None,
        }
    }
}

/// Writes a sealed segment's sidecar and makes it durable; one that is there already is replaced. For want of room none is left. The header
/// is written when all the rest is durable: wherever a crash falls, a sidecar whose head is sound is whole.
pub(crate) fn write_sidecar(storage: &dyn Storage, base: Position, encoded: &Bytes) -> Result<(), LogError> {
    let name = sidecar_name(base);
    match storage.remove(&name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(LogError::io("removing", &name)(error)),
        Ok(()) | Err(_) => {}
    }
    let write = || {
        let file = storage.create(&name, encoded.len() as u64)?;
        let (header, rest) = encoded.split_at(SIDECAR_HEADER_BYTES);
        if planted::is(Bug::SidecarAtOnce) {
            file.write_at(0, &[encoded])?;
            return file.sync_data();
        }
        file.write_at(SIDECAR_HEADER_BYTES as u64, &[rest])?;
        file.sync_data()?;
        file.write_at(0, &[header])?;
        file.sync_data()
    };
    let written = write().map_err(LogError::room("writing", &name));
    if let Err(LogError::NoRoom { .. }) = &written {
        discard(storage, &name)?;
    }
    written?;
    storage.sync_directory().map_err(LogError::io("syncing", &name))
}

/// Removes, durably, a file for whose contents there is no room; it need not be there.
pub(crate) fn discard(storage: &dyn Storage, name: &str) -> Result<(), LogError> {
    match storage.remove(name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(LogError::io("removing", name)(error)),
        Ok(()) | Err(_) => {}
    }
    storage.sync_directory().map_err(LogError::io("syncing", name))
}
