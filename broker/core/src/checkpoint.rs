//! When a checkpoint is written, and its slices between turns.

use sluice_protocol::ids::Position;

use crate::broker::Core;
use crate::effect::{CheckpointStep, Effect};
use crate::limits::{CHECKPOINT_BYTES_MIN, CHECKPOINT_LOG_RATIO, SLICE_BYTES_MAX};
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
    /// The size of the entries of the newest checkpoint, or of the one under way so far.
    entry_bytes: u64,
}

impl Checkpointing {
    pub(crate) fn started(&mut self, replayed_from: Position) {
        self.begun_at = replayed_from;
    }

    /// An entry of the newest checkpoint was read at the start.
    pub(crate) fn restored(&mut self, entry: &[u8]) {
        self.entry_bytes += entry.len() as u64;
    }

    /// How much log is to lie behind a checkpoint before the next: little, so that a start is quick, but several times what the checkpoint
    /// takes itself.
    fn distance_bytes(&self, most: u64) -> u64 {
        let least = CHECKPOINT_BYTES_MIN.min(most);
        (CHECKPOINT_LOG_RATIO * self.entry_bytes).clamp(least, most)
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
            let distance = self.checkpointing.distance_bytes(self.config.checkpoint_bytes);
            let due = replay_from.0.saturating_sub(self.checkpointing.begun_at.0) >= distance;
            if !due && !self.checkpointing.requested {
                return;
            }
            self.checkpointing.requested = false;
            self.checkpointing.begun_at = replay_from;
            self.checkpointing.entry_bytes = 0;
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
        self.checkpointing.entry_bytes += bytes as u64;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_behind_a_checkpoint_grows_with_what_the_checkpoint_takes_up_to_its_bound() {
        let mut checkpointing = Checkpointing::default();
        let most = 256 << 20;
        assert_eq!(checkpointing.distance_bytes(most), CHECKPOINT_BYTES_MIN);
        assert_eq!(checkpointing.distance_bytes(4_096), 4_096, "a small bound rules");
        checkpointing.restored(&[0; 12 << 20]);
        assert_eq!(checkpointing.distance_bytes(most), 96 << 20);
        checkpointing.restored(&[0; 52 << 20]);
        assert_eq!(checkpointing.distance_bytes(most), most);
    }
}
