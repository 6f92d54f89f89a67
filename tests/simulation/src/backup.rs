//! Backups: a snapshot of the log is begun at some moment, copied piece by piece while all goes on, and restored in a world of its own.

use std::collections::BTreeMap;

use sluice_core::Core;
use sluice_core::state::State;
use sluice_log::record::{PartFacts, PartId};
use sluice_log::{FaultyStorage, LogError, LogReader, Snapshot, Storage as _};
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset};

use crate::laws::Law;
use crate::oracle::{Queue, Row};
use crate::rows;
use crate::shell::DiskJob;
use crate::world::World;

/// A backup that is being taken.
pub(crate) struct Taking {
    snapshot: Snapshot,
    /// The disk that it is copied to.
    to: FaultyStorage,
    /// The file that is read now, by its place, and how much of it was read.
    file: usize,
    offset: u64,
    /// What was durable of each queue when it was begun.
    queues: BTreeMap<QueueId, Kept>,
    /// What the core knew then, when all of that was durable.
    state: Option<State>,
}

/// What was durable of a queue.
struct Kept {
    /// The first offset that retention keeps.
    start: u64,
    /// All messages, by offset.
    rows: Vec<Row>,
}

impl World {
    /// Begins a backup now and then, and goes on with the one that was begun.
    pub(crate) fn back_up(&mut self) {
        match self.taking.take() {
            // What counts as durable without a sync is made so before a snapshot is taken, which would spare it its losses.
            None if !self.lazy && self.backups.chance(1, 100) => self.begin_backup(),
            None => {}
            Some(taking) if self.backups.chance(1, 3) => self.read_backup(taking),
            Some(taking) => self.taking = Some(taking),
        }
    }

    fn begin_backup(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let snapshot = match shell.writer.snapshot() {
            Ok(snapshot) => snapshot,
            Err(error) => return self.broken(&format!("a snapshot: {error}")),
        };
        let cut = snapshot.cut.0;
        let writes = shell.disk.iter().any(|job| matches!(job, DiskJob::Write { .. }));
        let state = (!writes && shell.writer.synced() == shell.writer.end()).then(|| shell.core.state().clone());
        let logged = self
            .oracle
            .book
            .queues
            .iter()
            .filter(|(queue, _)| queue.index != QueueIndex::CALENDAR);
        let queues = logged.map(|(queue, model)| (*queue, Kept::at(cut, model))).collect();
        self.history.note("backup", &cut);
        self.taking = Some(Taking {
            snapshot,
            to: FaultyStorage::new(cut),
            file: 0,
            offset: 0,
            queues,
            state,
        });
    }

    /// Reads one piece. Retention is asked to take what it may, which is nothing.
    fn read_backup(&mut self, mut taking: Taking) {
        let has_room = self.has_room();
        let Some(shell) = &mut self.shell else { return };
        if !has_room {
            shell.writer.lose_snapshots();
            let read = taking.copy(1);
            self.oracle.court.exercise(Law::BackupGivenUp);
            let refused = matches!(read, Err(LogError::SnapshotLost));
            return self.oracle.court.require(Law::BackupIsTheCut, refused, || {
                format!("a backup that was given up is read: {read:?}")
            });
        }
        let bytes = self.backups.within(1..50_000) as usize;
        if let Err(error) = taking.copy(bytes) {
            return self
                .oracle
                .court
                .demand(Law::BackupIsTheCut, false, || format!("a backup cannot be read: {error}"));
        }
        if taking.file == taking.snapshot.files.len() {
            let wrong = self.restore(&taking).err();
            return self.oracle.court.demand(Law::BackupIsTheCut, wrong.is_none(), || {
                format!("the backup up to {}: {wrong:?}", taking.snapshot.cut.0)
            });
        }
        self.taking = Some(taking);
        if self.backups.chance(1, 4) {
            self.retain();
        }
    }

    /// Starts on the copy, and compares what is there with what was durable at the cut.
    fn restore(&self, taking: &Taking) -> Result<(), String> {
        let cut = taking.snapshot.cut;
        let opened = self.open_with(taking.to.clone(), [7; 24]).map_err(|error| error.to_string())?;
        let (mut writer, reader, recovery) = (opened.writer, opened.reader, opened.recovery);
        let mut core = Core::new(self.core_config(), recovery.secret);
        for entry in &recovery.checkpoint_entries {
            core.restore(entry).map_err(|error| error.to_string())?;
        }
        for step in recovery.replay {
            let (position, record) = step.map_err(|error| error.to_string())?;
            // Then comes the opening of this start.
            if position < cut {
                core.replay(position, &record);
            }
        }
        if taking.state.as_ref().is_some_and(|state| state != core.state()) {
            return Err(format!("it is restored to {:?}\n and was {:?}", core.state(), taking.state));
        }
        let named: BTreeMap<PartId, PartFacts> = core.state().parts.iter().map(|(part, of)| (part, of.facts)).collect();
        writer.keep_parts(&named).map_err(|error| error.to_string())?;
        taking.queues.iter().try_for_each(|(queue, kept)| kept.demand(*queue, &reader))
    }
}

impl Taking {
    /// Copies so many bytes at most of the file that is read now.
    fn copy(&mut self, bytes: usize) -> Result<(), LogError> {
        let of = &self.snapshot.files[self.file];
        let piece = self.snapshot.open(self.file)?.read(self.offset, bytes)?;
        let put = || {
            let file = match self.offset {
                0 => self.to.create(&of.name, of.room_bytes)?,
                _ => self.to.open(&of.name)?,
            };
            file.write_at(self.offset, &[&piece])?;
            file.sync_data()?;
            self.to.sync_directory()
        };
        put().expect("the disk that backups are copied to never fails");
        self.offset += piece.len() as u64;
        if self.offset >= of.bytes {
            (self.file, self.offset) = (self.file + 1, 0);
        }
        Ok(())
    }
}

impl Kept {
    fn at(cut: u64, queue: &Queue) -> Self {
        let starts = queue.trims.iter().filter(|(_, frame)| *frame < cut).map(|(start, _)| *start);
        Self {
            start: starts.max().unwrap_or(0),
            rows: queue.rows.iter().take_while(|row| row.frame < cut).cloned().collect(),
        }
    }

    /// Demands that a log has these messages, as they were sent, and no others.
    fn demand(&self, queue: QueueId, reader: &LogReader) -> Result<(), String> {
        let end = self.rows.len() as u64;
        for (row, offset) in self.rows.iter().zip(0..).skip(self.start as usize) {
            Self::demand_one(queue, offset, row, reader)?;
        }
        let beyond = reader.batches(queue, QueueOffset(end), QueueOffset(u64::MAX));
        match beyond.map_err(|error| error.to_string())?.first() {
            None => Ok(()),
            Some(place) => Err(format!("{queue} ended at {end} and has {place:?}")),
        }
    }

    fn demand_one(queue: QueueId, offset: u64, expected: &Row, reader: &LogReader) -> Result<(), String> {
        let failed = |error: LogError| format!("{queue} {offset}: {error}");
        let places = reader
            .batches(queue, QueueOffset(offset), QueueOffset(offset + 1))
            .map_err(failed)?;
        let place = places.first().ok_or_else(|| format!("{queue} {offset} is gone: {expected:?}"))?;
        let batch = reader.batch(place).map_err(failed)?;
        let exact = batch.row((offset - place.first.0) as u32).is_some_and(|row| {
            let same = (row.producer(), row.sequence()) == (expected.producer, expected.sequence);
            same && rows::difference(batch.attributes(), &row, expected.copy).is_none() && rows::body_is_exact(&batch, &row)
        });
        match exact {
            true => Ok(()),
            false => Err(format!("{queue} {offset} is not {expected:?}")),
        }
    }
}
