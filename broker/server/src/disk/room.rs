//! What the disk's thread does about room, and a snapshot when a client asks for one.

use std::time::Instant;

use sluice_log::LogError;

use super::{Checkpoint, DiskThread, Kept, unless_full};
use crate::shard::{SnapshotReply, StorageRoom};

impl DiskThread {
    /// Whether there is less room than there should be.
    pub(super) fn is_short(&self) -> bool {
        self.kept.is_some() || !self.writer.has_reserve()
    }

    /// Tries to make the reserve whole, and has removed what may go when that is not possible.
    pub(super) fn replenish(&mut self) -> Result<(), LogError> {
        self.tried = Instant::now();
        let whole = unless_full(self.writer.replenish())?.is_some();
        self.tell_room();
        if whole { Ok(()) } else { self.retain() }
    }

    /// Tells the shard how much room there is, and the operator when that has changed.
    pub(super) fn tell_room(&self) {
        let room = match (&self.kept, self.writer.has_reserve()) {
            (Some(_), _) => StorageRoom::Nothing,
            (None, false) => StorageRoom::Reserve,
            (None, true) => StorageRoom::Enough,
        };
        if self.shard.set_storage_room(room) == room {
            return;
        }
        match room {
            StorageRoom::Enough => tracing::info!("there is room on the disk again"),
            StorageRoom::Reserve => tracing::error!(
                "the disk is full: nothing is published until there is room; consumers go on in the log's reserve, and what was confirmed is safe"
            ),
            StorageRoom::Nothing => tracing::error!(
                "the disk is full and the log's reserve is used up: consumers are refused too until there is room; what was confirmed is safe"
            ),
        }
    }

    /// Tries the kept write again, and what waits for it.
    pub(super) fn retry(&mut self) -> Result<(), LogError> {
        self.tried = Instant::now();
        if let Some(Kept { position, records, .. }) = self.kept.take() {
            self.write(position, records)?;
        }
        if self.kept.is_none() {
            self.replenish()?;
        }
        if self.kept.is_none() && self.checkpoint == Checkpoint::Waiting {
            self.checkpoint = Checkpoint::Written;
            self.finish_checkpoint()?;
        }
        Ok(())
    }

    /// Takes a snapshot of all that was written. Who asked for it may be gone.
    pub(super) fn snapshot(&mut self, reply: SnapshotReply) -> Result<(), LogError> {
        if self.unsynced_since.is_some() {
            self.sync()?;
        }
        let _ = reply.send(self.writer.snapshot());
        Ok(())
    }
}
