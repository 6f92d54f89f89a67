//! The disk's thread: appends and syncs what the core asks to write, writes checkpoints, removes what is no longer kept.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Instant;

use bytes::Bytes;
use sluice_core::input::Input;
use sluice_log::{LogError, LogWriter};
use sluice_protocol::ids::Position;

use crate::config::Durability;
use crate::limits;
use crate::metrics::Metrics;
use crate::retention::Starts;
use crate::shard::Shard;

/// The way to the disk's thread.
#[derive(Clone, Debug)]
pub(crate) struct Disk(pub(crate) Sender<DiskWork>);

/// What the core asks of the disk, in order.
#[derive(Debug)]
pub(crate) enum DiskWork {
    /// Append these records as one frame and sync it.
    Write { position: Position, records: Vec<Bytes> },
    /// A checkpoint begins.
    CheckpointBegin { replay_from: Position },
    /// Part of it.
    CheckpointSlice { entries: Vec<Bytes> },
    /// It ends; make it durable.
    CheckpointFinish,
    /// Remove what lies before these starts, where whole segments do.
    Retain { starts: Starts },
}

impl Disk {
    /// Hands over work. The core has at most one write and one checkpoint under way.
    pub(crate) fn send(&self, work: DiskWork) {
        // When the disk's thread has ended it has said why to the shard.
        let _ = self.0.send(work);
    }
}

/// Everything that the disk's thread owns.
pub(crate) struct DiskThread {
    pub(crate) writer: LogWriter,
    pub(crate) work: Receiver<DiskWork>,
    pub(crate) shard: Shard,
    pub(crate) durability: Durability,
    pub(crate) metrics: Arc<Metrics>,
}

impl DiskThread {
    /// Works until the shard has ended, then syncs what is left. After a failure nothing is written any more: the shard is told.
    pub(crate) fn run(mut self) {
        if let Err(error) = self.serve() {
            self.shard.storage_failed(error.to_string());
        }
    }

    fn serve(&mut self) -> Result<(), LogError> {
        let mut unsynced_since: Option<Instant> = None;
        loop {
            let until_sync = unsynced_since.map(|since| limits::ASYNC_SYNC_INTERVAL.saturating_sub(since.elapsed()));
            match self.work.recv_timeout(until_sync.unwrap_or(limits::DISK_SLEEP_MAX)) {
                Ok(work) => {
                    self.carry_out(work)?;
                    if self.durability == Durability::Async {
                        unsynced_since.get_or_insert_with(Instant::now);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            if unsynced_since.is_some_and(|since| since.elapsed() >= limits::ASYNC_SYNC_INTERVAL) {
                self.sync()?;
                unsynced_since = None;
            }
        }
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.metrics.syncs.one();
        self.writer.sync().map(drop)
    }

    fn carry_out(&mut self, work: DiskWork) -> Result<(), LogError> {
        match work {
            DiskWork::Write { position, records } => self.write(position, &records),
            DiskWork::CheckpointBegin { replay_from } => self.writer.begin_checkpoint(replay_from),
            DiskWork::CheckpointSlice { entries } => self.writer.checkpoint_slice(&entries),
            DiskWork::CheckpointFinish => {
                self.writer.finish_checkpoint()?;
                self.shard.tell(Input::Checkpointed);
                Ok(())
            }
            DiskWork::Retain { starts } => self.writer.retain(|queue| starts.of(queue)).map(drop),
        }
    }

    fn write(&mut self, position: Position, records: &[Bytes]) -> Result<(), LogError> {
        let end = self.writer.append(position, records)?;
        self.metrics.frames_written.one();
        self.metrics
            .record_bytes_written
            .add(records.iter().map(|record| record.len() as u64).sum());
        match self.durability {
            Durability::Sync => self.sync()?,
            Durability::Async => self.writer.expose(),
        }
        self.shard.tell(Input::Synced { end });
        Ok(())
    }
}
