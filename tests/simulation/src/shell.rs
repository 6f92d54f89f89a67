//! The broker while it is up: its core, its log, and what the shell around them has to do yet.

use std::collections::VecDeque;

use bytes::Bytes;
use sluice_core::Core;
use sluice_core::effect::{AskId, CheckpointStep, Delivery, Effect, Taker};
use sluice_core::input::SubscriptionId;
use sluice_log::record::PartId;
use sluice_log::{LogError, LogReader, LogWriter};
use sluice_protocol::batch::Batch;
use sluice_protocol::ids::{Position, QueueId, QueueOffset};

/// A broker that is up.
pub struct Shell {
    /// The core.
    pub core: Core,
    /// The log's writing side.
    pub writer: LogWriter,
    /// The log's reading side.
    pub reader: LogReader,
    /// What the disk thread has to do, in order.
    pub disk: VecDeque<DiskJob>,
    /// What the others have to do.
    pub jobs: Vec<Effect>,
    /// Asks that were delivered, which the core does not know yet.
    pub delivered: Vec<AskId>,
    /// There was no room for the checkpoint under way: what still comes of it is dropped.
    pub checkpoint_given_up: bool,
}

/// Work of the disk thread.
#[derive(Debug)]
pub enum DiskJob {
    /// Write a frame, then sync it.
    Write {
        /// Where it goes.
        position: Position,
        /// What it holds.
        records: Vec<Bytes>,
        /// Whether it is written and only the sync is left.
        appended: bool,
    },
    /// Part of a checkpoint.
    Checkpoint(CheckpointStep),
    /// Remove a part of the calendar.
    RemovePart(PartId),
}

/// Effects with the same lane are acted on in order: those of one stream. The others go in any order.
pub fn lane_of(effect: &Effect) -> Option<SubscriptionId> {
    match effect {
        Effect::Deliver(Delivery {
            taker: Taker::Stream { subscription, .. },
            ..
        })
        | Effect::StreamReset { subscription, .. }
        | Effect::StreamEnded { subscription, .. } => Some(*subscription),
        Effect::Deliver(_)
        | Effect::Judge { .. }
        | Effect::Fetch { .. }
        | Effect::FetchDue { .. }
        | Effect::Parts(_)
        | Effect::Ask(_)
        | Effect::Locate { .. }
        | Effect::Answer { .. }
        | Effect::Write { .. }
        | Effect::Checkpoint(_) => None,
    }
}

impl Shell {
    /// The batch that holds a stored message, and the message's row in it; `None` when it is not there.
    pub fn read(&self, queue: QueueId, offset: u64) -> Result<Option<(Batch, u32)>, LogError> {
        let places = self.reader.batches(queue, QueueOffset(offset), QueueOffset(offset + 1))?;
        let Some(place) = places.first() else { return Ok(None) };
        let batch = self.reader.batch(place)?;
        Ok(Some((batch, (offset - place.first.0) as u32)))
    }
}
