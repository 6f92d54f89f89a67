//! The disk thread's work, one step at a time, and what is between a crash and the broker's being up again.

use std::sync::Arc;

use sluice_core::effect::CheckpointStep;
use sluice_core::input::Input;
use sluice_core::{Core, CoreConfig};
use sluice_log::record::Record;
use sluice_log::{FRAME_HEADER_BYTES, Log, LogConfig, Start};

use crate::laws::Law;
use crate::shell::{DiskJob, Shell};
use crate::world::World;

impl World {
    /// Does one step of the disk's work, if there is any: append, sync, or a part of a checkpoint.
    pub(crate) fn disk(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        match shell.disk.front_mut() {
            None => {}
            Some(DiskJob::Write {
                position,
                records,
                appended,
            }) if !*appended => match shell.writer.append(*position, records) {
                Ok(_) => *appended = true,
                Err(_) if self.sync_may_fail => self.disk_failed(),
                Err(error) => self.broken(&format!("append: {error}")),
            },
            Some(DiskJob::Write { .. }) => {
                let synced = shell.writer.sync();
                shell.disk.pop_front();
                match synced {
                    Ok(end) => self.turn(vec![Input::Synced { end }]),
                    Err(_) if self.sync_may_fail => self.disk_failed(),
                    Err(error) => self.broken(&format!("sync: {error}")),
                }
            }
            Some(DiskJob::Checkpoint(_)) => self.checkpoint(),
        }
    }

    fn checkpoint(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        let Some(DiskJob::Checkpoint(step)) = shell.disk.pop_front() else {
            return;
        };
        let result = match step {
            CheckpointStep::Begin { replay_from } => shell.writer.begin_checkpoint(replay_from),
            CheckpointStep::Slice { entries } => shell.writer.checkpoint_slice(&entries),
            CheckpointStep::Finish => match shell.writer.finish_checkpoint() {
                Ok(()) => return self.turn(vec![Input::Checkpointed]),
                Err(error) => Err(error),
            },
        };
        match result {
            Ok(()) => {}
            Err(_) if self.sync_may_fail => self.disk_failed(),
            Err(error) => self.broken(&format!("checkpoint: {error}")),
        }
    }

    /// A sync failed: the shard stops, and the broker is started again.
    fn disk_failed(&mut self) {
        self.oracle.court.exercise(Law::FailedSync);
        self.history.note("sync failed", &());
        self.crash();
    }

    /// The machine stops, at once.
    pub(crate) fn crash(&mut self) {
        if self.shell.take().is_none() {
            return;
        }
        self.storage.crash();
        self.sync_may_fail = false;
        if self.oracle.crashed() {
            self.oracle.court.exercise(Law::CrashWithUnsynced);
        }
        self.history.note("crash", &());
        self.network.broker_gone();
        self.routes.clear();
        self.streams.clear();
        for client in &mut self.clients {
            client.disconnect();
        }
        self.up_at_ms = self.clock.true_ms + self.random.below(3_000);
    }

    /// The broker starts on what the disk kept.
    pub(crate) fn start(&mut self) {
        let config = LogConfig {
            segment_bytes: self.segment_bytes,
            fill_ahead_bytes: 4 << 10,
            ..LogConfig::default()
        };
        let mut random = [0; 24];
        random.iter_mut().for_each(|byte| *byte = self.random.bits() as u8);
        let start = Start {
            wall_ms: self.clock.wall_ms(),
            random,
        };
        let opened = match Log::open(Arc::new(self.storage.clone()), config, start) {
            Ok(opened) => opened,
            Err(error) if self.sync_may_fail => {
                self.history.note("start failed", &error.to_string());
                self.sync_may_fail = false;
                self.storage.crash();
                return;
            }
            Err(error) => return self.refused_to_start(&error.to_string()),
        };
        let recovery = opened.recovery;
        let config = CoreConfig {
            checkpoint_bytes: self.checkpoint_bytes,
            ..CoreConfig::default()
        };
        let mut core = Core::new(config, recovery.secret);
        if !recovery.checkpoint_entries.is_empty() {
            self.oracle.court.exercise(Law::RecoveredFromCheckpoint);
        }
        for entry in &recovery.checkpoint_entries {
            if let Err(error) = core.restore(entry) {
                return self.broken(&format!("a checkpoint entry cannot be restored: {error}"));
            }
        }
        let mut replayed: Vec<Record> = Vec::new();
        let mut opened_at = 0;
        for step in recovery.replay {
            let (position, record) = match step {
                Ok(step) => step,
                Err(error) => return self.broken(&format!("replay: {error}")),
            };
            core.replay(position, &record);
            opened_at = position.0.saturating_sub(FRAME_HEADER_BYTES);
            replayed.push(record);
        }
        self.clock.restart(recovery.opened_at.mono_ms);
        core.start(recovery.epoch, recovery.next_position, self.clock.now());
        self.oracle.recovered(opened_at, recovery.next_position.0, &replayed);
        self.history.note("started", &(recovery.epoch, recovery.next_position));
        self.shell = Some(Shell {
            core,
            writer: opened.writer,
            reader: opened.reader,
            disk: std::collections::VecDeque::new(),
            jobs: Vec::new(),
        });
        self.turn(Vec::new());
    }

    fn refused_to_start(&mut self, facts: &str) {
        self.oracle
            .court
            .demand(Law::RecoveryIsExact, false, || format!("the broker refused to start: {facts}"));
    }
}
