//! The disk thread's work, one step at a time: append, sync, checkpoints, retention, and what it does when there is no room.

use sluice_core::effect::CheckpointStep;
use sluice_core::input::Input;
use sluice_log::{LogError, frame_bytes};
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset};

use crate::laws::Law;
use crate::shell::DiskJob;
use crate::world::World;

impl World {
    /// Does one step of the disk's work, if there is any: append, sync, or a part of a checkpoint.
    pub(crate) fn disk(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        match shell.disk.front_mut() {
            None if !shell.writer.has_reserve() => self.replenish(),
            None => {}
            Some(DiskJob::Write {
                position,
                records,
                appended,
            }) if !*appended => {
                let reserve = shell.writer.reserve_segments();
                match shell.writer.append(*position, records) {
                    Ok(_) => {
                        *appended = true;
                        if !shell.writer.has_reserve() {
                            self.oracle.court.exercise(Law::ReserveTakesTheRest);
                            self.replenish();
                        }
                    }
                    Err(error) => {
                        let bytes = frame_bytes(records.iter().map(|record| record.len()));
                        if matches!(error, LogError::NoRoom { .. }) && self.storage.is_limited() && bytes + 64 <= self.segment_bytes {
                            let text = || format!("{error}, with {reserve} segments in reserve");
                            self.oracle.court.demand(Law::ReserveTakesTheRest, reserve == 0, text);
                        }
                        self.disk_failed("append", &error);
                    }
                }
            }
            Some(DiskJob::Write { .. }) if self.lazy => self.written_lazily(),
            Some(DiskJob::Write { .. }) => {
                let synced = shell.writer.sync();
                shell.disk.pop_front();
                match synced {
                    Ok(end) => self.turn(vec![Input::Synced { end }]),
                    Err(error) => self.disk_failed("sync", &error),
                }
            }
            Some(DiskJob::Checkpoint(_)) => self.checkpoint(),
            Some(DiskJob::RemovePart(part)) => {
                let part = *part;
                shell.disk.pop_front();
                self.remove_part(part);
            }
        }
    }

    /// Takes what room there is, as the disk's thread does from time to time.
    pub(crate) fn replenish(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        match shell.writer.replenish() {
            Ok(()) | Err(LogError::NoRoom { .. }) => {}
            Err(error) => self.disk_failed("replenish", &error),
        }
    }

    /// What is written is shown and told to be durable; now and then it is made so.
    fn written_lazily(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        shell.disk.pop_front();
        shell.writer.expose();
        let end = shell.writer.end();
        if self.random.chance(1, 30)
            && let Err(error) = shell.writer.sync()
        {
            return self.disk_failed("sync", &error);
        }
        self.turn(vec![Input::Synced { end }]);
    }

    fn checkpoint(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let Some(DiskJob::Checkpoint(step)) = shell.disk.pop_front() else {
            return;
        };
        let finish = step == CheckpointStep::Finish;
        let result = match step {
            CheckpointStep::Begin { replay_from } => {
                shell.checkpoint_given_up = false;
                shell.writer.begin_checkpoint(replay_from)
            }
            CheckpointStep::Slice { .. } | CheckpointStep::Finish if shell.checkpoint_given_up => Ok(()),
            CheckpointStep::Slice { entries } => shell.writer.checkpoint_slice(&entries),
            CheckpointStep::Finish => shell.writer.finish_checkpoint(),
        };
        match result {
            Ok(()) => {}
            Err(LogError::NoRoom { .. }) => shell.checkpoint_given_up = true,
            Err(error) => return self.disk_failed("checkpoint", &error),
        }
        if finish {
            self.turn(vec![Input::Checkpointed]);
        }
    }

    /// Lets the log go of what no queue keeps. The starts must be durable, so it waits for a moment when everything is.
    pub(crate) fn retain(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        if !self.oracle.is_all_synced() || shell.writer.synced() != shell.writer.end() {
            return;
        }
        let (queues, state) = (&self.oracle.book.queues, shell.core.state());
        let start_of = |queue: QueueId| match queue.index {
            // What is kept for what waits is the broker's to say.
            QueueIndex::CALENDAR => queues.get(&queue).and(state.calendar_start(queue.topic)),
            _ => queues.get(&queue).map(|model| QueueOffset(model.start)),
        };
        match shell.writer.retain(start_of) {
            Ok(segments) => {
                (0..segments).for_each(|_| self.oracle.court.exercise(Law::SegmentRetired));
                self.look_for_waiting(segments > 0);
            }
            Err(error) => self.disk_failed("retain", &error),
        }
    }

    /// What the shell does when the disk refuses. Without room, what was to be written is tried again later; after a failure the shard
    /// stops and the broker is started again. The disk fails only when it was told to.
    pub(crate) fn disk_failed(&mut self, doing: &str, error: &LogError) {
        if matches!(error, LogError::NoRoom { .. }) {
            self.oracle.court.exercise(Law::DiskFull);
            self.history.note("no room", &doing);
        } else if is_simulated(error) {
            self.oracle.court.exercise(Law::FailedSync);
            self.history.note("disk failed", &doing);
            self.crash();
        } else {
            self.broken(&format!("{doing}: {error}"));
        }
    }
}

/// Whether the simulated disk failed because it was told to.
pub(crate) fn is_simulated(error: &LogError) -> bool {
    matches!(error, LogError::Io { source, .. } if source.to_string().ends_with("was to fail"))
}
