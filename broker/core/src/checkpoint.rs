//! When a checkpoint is written, and its slices between turns.

use sluice_protocol::ids::Position;

use crate::broker::Core;
use crate::effect::{CheckpointStep, Effect};
use crate::limits::SLICE_BYTES_MAX;
use crate::planted::{self, Bug};
use crate::state::codec::Key;

/// How far the checkpoint under way has come.
#[derive(Clone, Debug, Default)]
enum Stage {
    /// None is under way.
    #[default]
    Idle,
    /// The entries after this one are to be written.
    Writing(Option<Key>),
    /// All are written; the shell makes them durable.
    Finishing,
}

/// The checkpoints of a core.
#[derive(Debug, Default)]
pub(crate) struct Checkpointing {
    stage: Stage,
    requested: bool,
    /// Where replay would begin now.
    begun_at: Position,
}

impl Checkpointing {
    pub(crate) fn started(&mut self, replayed_from: Position) {
        self.begun_at = replayed_from;
    }

    pub(crate) fn request(&mut self) {
        self.requested = true;
    }

    pub(crate) fn finished(&mut self) {
        self.stage = Stage::Idle;
    }

    pub(crate) fn is_active(&self) -> bool {
        self.requested || !matches!(self.stage, Stage::Idle)
    }

    /// Whether the next turn has something to write for the checkpoint.
    pub(crate) fn has_more_slices(&self) -> bool {
        match self.stage {
            Stage::Idle => self.requested,
            Stage::Writing(_) => true,
            Stage::Finishing => false,
        }
    }
}

impl Core {
    /// One step of a checkpoint: its beginning when one is due, and one slice.
    ///
    /// An entry that changes after its slice is caught up by replay, which begins at the frame that was open at the beginning. The end
    /// waits until every record that an entry reflects is durable.
    pub(crate) fn checkpoint_step(&mut self) {
        if matches!(self.checkpointing.stage, Stage::Idle) {
            let replay_from = self.journal.frame_position();
            let due = replay_from.0.saturating_sub(self.checkpointing.begun_at.0) >= self.config.checkpoint_bytes;
            if !due && !self.checkpointing.requested {
                return;
            }
            self.checkpointing.requested = false;
            self.checkpointing.begun_at = replay_from;
            self.checkpointing.stage = Stage::Writing(None);
            let replay_from = if planted::is(Bug::CheckpointReplaysLate) {
                self.journal.next_frame_position()
            } else {
                replay_from
            };
            self.journal
                .release(Position::default(), Effect::Checkpoint(CheckpointStep::Begin { replay_from }));
        }
        let Stage::Writing(after) = &mut self.checkpointing.stage else {
            return;
        };
        let mut last = after.take();
        let (mut entries, mut bytes) = (Vec::new(), 0);
        let more = loop {
            let Some(key) = self.state.next_key(last.as_ref()) else {
                break false;
            };
            if bytes >= SLICE_BYTES_MAX {
                break true;
            }
            let entry = self.state.encode_entry(&key).expect("a key that state just named has an entry");
            bytes += entry.len();
            entries.push(entry);
            last = Some(key);
        };
        self.journal
            .release(Position::default(), Effect::Checkpoint(CheckpointStep::Slice { entries }));
        if more {
            self.checkpointing.stage = Stage::Writing(last);
        } else {
            self.checkpointing.stage = Stage::Finishing;
            self.journal
                .release(self.journal.last(), Effect::Checkpoint(CheckpointStep::Finish));
        }
    }
}
