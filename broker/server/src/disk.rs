//! The disk's thread: appends and syncs what the core asks to write, writes checkpoints, removes what is no longer kept. When the disk is full
//! it goes on in the log's reserve and says so; when that is used up it keeps the write under way until there is room.

mod room;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_core::input::Input;
use sluice_log::record::PartId;
use sluice_log::{LogError, LogWriter};
use sluice_protocol::ids::Position;

use crate::config::Durability;
use crate::limits;
use crate::metrics::Metrics;
use crate::retention::Starts;
use crate::shard::{Shard, SnapshotReply, StorageRoom};

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
    /// Remove a part of the calendar.
    RemovePart { part: PartId },
    /// Take a snapshot.
    Snapshot { reply: SnapshotReply },
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
    writer: LogWriter,
    work: Receiver<DiskWork>,
    shard: Shard,
    durability: Durability,
    metrics: Arc<Metrics>,
    /// The write for which there was no room. Nothing is written to the log before it.
    kept: Option<Kept>,
    /// When it was last tried to get the room that is missing.
    tried: Instant,
    checkpoint: Checkpoint,
    /// Where queues began when retention asked last: what may go as soon as a checkpoint allows it, or room is wanted.
    starts: Option<Starts>,
    /// Since when the log holds what is not synced, where that is allowed.
    unsynced_since: Option<Instant>,
    /// Whether what the next write goes into is prepared.
    prepared: bool,
}

/// A write that waits for room.
struct Kept {
    position: Position,
    records: Vec<Bytes>,
}

/// The checkpoint under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Checkpoint {
    /// None, or it is being written.
    Written,
    /// There was no room for it: what still comes of it is dropped.
    GivenUp,
    /// All of it is written. It reflects the write that is kept, so its end waits for that.
    Waiting,
}

impl DiskThread {
    pub(crate) fn new(writer: LogWriter, work: Receiver<DiskWork>, shard: Shard, durability: Durability, metrics: Arc<Metrics>) -> Self {
        Self {
            writer,
            work,
            shard,
            durability,
            metrics,
            kept: None,
            tried: Instant::now(),
            checkpoint: Checkpoint::Written,
            starts: None,
            unsynced_since: None,
            prepared: false,
        }
    }

    /// Works until the shard has ended, then syncs what is left. After a failure nothing is written any more: the shard is told.
    pub(crate) fn run(mut self) {
        self.tell_room();
        if let Err(error) = self.serve() {
            self.shard.storage_failed(error.to_string());
        }
    }

    fn serve(&mut self) -> Result<(), LogError> {
        loop {
            match self.work.recv_timeout(self.wait()) {
                Ok(work) => self.carry_out(work)?,
                Err(RecvTimeoutError::Timeout) => self.idle()?,
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            if self.is_short() && self.tried.elapsed() >= limits::FULL_RETRY_INTERVAL {
                self.retry()?;
            }
            if self
                .unsynced_since
                .is_some_and(|since| since.elapsed() >= limits::ASYNC_SYNC_INTERVAL)
            {
                self.sync()?;
            }
        }
    }

    /// How long there may be nothing to do but to wait for work.
    fn wait(&self) -> Duration {
        let retry = self
            .is_short()
            .then(|| limits::FULL_RETRY_INTERVAL.saturating_sub(self.tried.elapsed()));
        let sync = self
            .unsynced_since
            .map(|since| limits::ASYNC_SYNC_INTERVAL.saturating_sub(since.elapsed()));
        let prepare = (!self.prepared).then_some(limits::DISK_IDLE);
        [retry, sync, prepare].into_iter().flatten().min().unwrap_or(limits::DISK_SLEEP_MAX)
    }

    /// Prepares for the next write, unless the disk is full: then there is nothing to prepare with.
    fn idle(&mut self) -> Result<(), LogError> {
        if !std::mem::replace(&mut self.prepared, true) && self.kept.is_none() {
            unless_full(self.writer.prepare())?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.unsynced_since = None;
        let begun = Instant::now();
        let synced = self.writer.sync().map(drop);
        self.metrics.syncs.one();
        self.metrics.sync_seconds.observe(begun.elapsed().as_secs_f64());
        synced
    }

    fn carry_out(&mut self, work: DiskWork) -> Result<(), LogError> {
        match work {
            DiskWork::Write { position, records } => self.write(position, records),
            DiskWork::CheckpointBegin { replay_from } => {
                self.checkpoint = Checkpoint::Written;
                let begun = self.writer.begin_checkpoint(replay_from);
                self.checkpoint_step(begun).map(drop)
            }
            DiskWork::CheckpointSlice { .. } if self.checkpoint == Checkpoint::GivenUp => Ok(()),
            DiskWork::CheckpointSlice { entries } => {
                let added = self.writer.checkpoint_slice(&entries);
                self.checkpoint_step(added).map(drop)
            }
            DiskWork::CheckpointFinish => self.finish_checkpoint(),
            DiskWork::Retain { starts } => {
                // What moved the starts is written, and may not be synced yet.
                self.sync()?;
                self.starts = Some(starts);
                self.retain()
            }
            DiskWork::RemovePart { part } => self.writer.remove_part(part),
            DiskWork::Snapshot { reply } => self.snapshot(reply),
        }
    }

    fn write(&mut self, position: Position, records: Vec<Bytes>) -> Result<(), LogError> {
        let Some(end) = unless_full(self.writer.append(position, &records))? else {
            self.kept = Some(Kept { position, records });
            self.tried = Instant::now();
            self.tell_room();
            return self.retain();
        };
        self.prepared = false;
        self.metrics.frames_written.one();
        let bytes: u64 = records.iter().map(|record| record.len() as u64).sum();
        self.metrics.record_bytes_written.add(bytes);
        self.metrics.commit_bytes.observe(bytes as f64);
        self.metrics.commit_records.observe(records.len() as f64);
        match self.durability {
            Durability::Sync => self.sync()?,
            Durability::Async => {
                self.writer.expose();
                self.unsynced_since.get_or_insert_with(Instant::now);
            }
        }
        self.shard.tell(Input::Synced { end });
        // Once it is known to be short, room is looked for from time to time only.
        if !self.writer.has_reserve() && self.shard.storage_room() == StorageRoom::Enough {
            self.replenish()?;
        }
        Ok(())
    }

    fn finish_checkpoint(&mut self) -> Result<(), LogError> {
        if self.checkpoint != Checkpoint::GivenUp {
            if self.kept.is_some() {
                self.checkpoint = Checkpoint::Waiting;
                return Ok(());
            }
            let finished = self.writer.finish_checkpoint();
            if self.checkpoint_step(finished)? {
                self.unsynced_since = None;
                self.retain()?;
            }
        }
        // Also of one that was given up: the next one is begun when it is due, and until then a start replays more.
        self.shard.tell(Input::Checkpointed);
        Ok(())
    }

    /// Notes what became of a step of the checkpoint; whether it was done.
    fn checkpoint_step(&mut self, done: Result<(), LogError>) -> Result<bool, LogError> {
        let done = unless_full(done)?.is_some();
        if !done {
            tracing::warn!("there is no room for a checkpoint; the one before still counts");
            self.checkpoint = Checkpoint::GivenUp;
        }
        Ok(done)
    }

    /// Lets go of what lies before the starts that retention told last. A backup makes it wait, but not when the disk is full.
    fn retain(&mut self) -> Result<(), LogError> {
        if self.is_short() && self.writer.lose_snapshots() > 0 {
            tracing::warn!("a backup is given up, so that retention can make room on the full disk");
        }
        match &self.starts {
            Some(starts) => self.writer.retain(|queue| starts.of(queue)).map(drop),
            None => Ok(()),
        }
    }
}

/// `None` when there was no room: then nothing was done.
fn unless_full<T>(done: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(LogError::NoRoom { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread::{self, JoinHandle};

    use sluice_log::record::{Change, Record};
    use sluice_log::{FaultyStorage, Log, LogConfig, Start, frame_bytes};
    use sluice_protocol::ids::TopicId;
    use sluice_protocol::units::Now;

    use super::*;
    use crate::shard::Mail;

    const WALL_MS: i64 = 1_000;
    const START: Start = Start {
        wall_ms: WALL_MS,
        random: [7; 24],
    };

    /// A disk's thread on a disk in memory, and the shard's end of its channels.
    struct Rig {
        disk: Disk,
        shard: Shard,
        mail: Receiver<Mail>,
        thread: JoinHandle<()>,
        end: Position,
    }

    impl Rig {
        fn new(storage: &FaultyStorage) -> Self {
            let (thread, disk, mail) = disk_thread(storage);
            Self {
                disk,
                shard: thread.shard.clone(),
                mail,
                end: thread.writer.end(),
                thread: thread::spawn(move || thread.run()),
            }
        }

        fn write(&mut self, topics: std::ops::Range<u64>) {
            let records: Vec<_> = topics.map(record).collect();
            let position = self.end;
            self.end.0 += frame_bytes(records.iter().map(Bytes::len));
            self.disk.send(DiskWork::Write { position, records });
        }

        fn checkpoint(&self) {
            self.disk.send(DiskWork::CheckpointBegin { replay_from: self.end });
            let entries = vec![record(0)];
            self.disk.send(DiskWork::CheckpointSlice { entries: entries.clone() });
            self.disk.send(DiskWork::CheckpointSlice { entries });
            self.disk.send(DiskWork::CheckpointFinish);
        }

        /// What the disk's thread tells next.
        fn told(&self) -> Input {
            match self.mail.recv().unwrap() {
                Mail::Tell(input) => input,
                other => panic!("{other:?}"),
            }
        }

        fn synced(&self) -> Position {
            match self.told() {
                Input::Synced { end } => end,
                other => panic!("{other:?}"),
            }
        }

        fn end(self) {
            drop(self.disk);
            self.thread.join().unwrap();
        }
    }

    /// A disk's thread that is not running, on a small log.
    fn disk_thread(storage: &FaultyStorage) -> (DiskThread, Disk, Receiver<Mail>) {
        let config = LogConfig {
            segment_bytes: 8 << 10,
            fill_ahead_bytes: 512,
            tail_cache_bytes: 0,
        };
        let opened = Log::open(Arc::new(storage.clone()), config, START).unwrap();
        let (sender, work) = mpsc::channel();
        let (shard, mail) = Shard::new(1 << 20);
        let thread = DiskThread::new(opened.writer, work, shard, Durability::Sync, Arc::default());
        (thread, Disk(sender), mail)
    }

    fn record(topic: u64) -> Bytes {
        let at = Now {
            wall_ms: WALL_MS,
            mono_ms: 0,
        };
        let change = Change::TopicDeleted { topic: TopicId(topic) };
        Record { at, change }.encode()
    }

    fn stored(storage: &FaultyStorage) -> Vec<u64> {
        storage.restart();
        let opened = Log::open(Arc::new(storage.clone()), LogConfig::default(), START).unwrap();
        let topics = opened.recovery.replay.filter_map(|record| match record.unwrap().1.change {
            Change::TopicDeleted { topic } => Some(topic.0),
            _ => None,
        });
        topics.collect()
    }

    #[test]
    fn a_write_without_room_is_kept_until_there_is_and_nothing_is_published_meanwhile() {
        let storage = FaultyStorage::new(1);
        let mut rig = Rig::new(&storage);
        rig.write(0..3);
        assert_eq!(rig.synced(), rig.end);
        storage.full_after(Some(0));
        rig.write(3..200);
        // The checkpoint is given up, which is told when the write has been tried and kept.
        rig.checkpoint();
        assert!(matches!(rig.told(), Input::Checkpointed));
        assert_eq!(rig.shard.storage_room(), StorageRoom::Nothing);
        rig.disk.send(DiskWork::Retain { starts: Starts::default() });
        storage.full_after(None);
        assert_eq!(rig.synced(), rig.end);
        rig.write(200..202);
        assert_eq!(rig.synced(), rig.end);
        rig.end();
        assert_eq!(stored(&storage), (0..202).collect::<Vec<_>>());
    }

    #[test]
    fn the_reserve_takes_writes_when_the_disk_is_full_and_is_made_good_when_there_is_room() {
        let storage = FaultyStorage::new(1);
        let (mut thread, _disk, _mail) = disk_thread(&storage);
        let mut written = 0;
        let mut write = |thread: &mut DiskThread| {
            let position = thread.writer.end();
            let records = vec![record(written)];
            written += 1;
            thread.carry_out(DiskWork::Write { position, records }).unwrap();
        };
        storage.limit(Some(0));
        while thread.shard.storage_room() == StorageRoom::Enough {
            write(&mut thread);
        }
        assert_eq!(thread.shard.storage_room(), StorageRoom::Reserve);
        while thread.kept.is_none() {
            write(&mut thread);
        }
        assert_eq!(thread.shard.storage_room(), StorageRoom::Nothing);
        storage.limit(None);
        thread.retry().unwrap();
        assert_eq!(thread.shard.storage_room(), StorageRoom::Enough);
        drop(thread);
        assert_eq!(stored(&storage), (0..written).collect::<Vec<_>>());
    }

    #[test]
    fn a_checkpoint_ends_after_the_write_that_it_reflects() {
        let storage = FaultyStorage::new(1);
        let (mut thread, _disk, mail) = disk_thread(&storage);
        let position = thread.writer.end();
        storage.full_after(Some(0));
        let records = vec![record(1)];
        thread.carry_out(DiskWork::Write { position, records }).unwrap();
        assert!(thread.kept.is_some());
        storage.full_after(None);
        thread.carry_out(DiskWork::CheckpointBegin { replay_from: position }).unwrap();
        thread.carry_out(DiskWork::CheckpointSlice { entries: vec![record(0)] }).unwrap();
        thread.carry_out(DiskWork::CheckpointFinish).unwrap();
        assert!(mail.try_recv().is_err(), "it waits");
        thread.retry().unwrap();
        assert!(matches!(mail.try_recv(), Ok(Mail::Tell(Input::Synced { .. }))), "first the write");
        assert!(
            matches!(mail.try_recv(), Ok(Mail::Tell(Input::Checkpointed))),
            "then the checkpoint"
        );
        assert_eq!(thread.writer.replay_from(), position);
    }

    #[test]
    fn a_failed_sync_stops_the_disk_and_is_told() {
        let storage = FaultyStorage::new(1);
        let mut rig = Rig::new(&storage);
        storage.fail_next_sync();
        rig.write(0..1);
        assert!(matches!(rig.mail.recv().unwrap(), Mail::StorageFailed { .. }));
        rig.end();
    }
}
