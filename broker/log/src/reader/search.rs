//! Finding messages without a group: the next batch of a queue, wherever retention let it begin.

use sluice_protocol::ids::{QueueId, QueueOffset};

use super::LogReader;
use crate::error::LogError;
use crate::index::BatchPlace;

impl LogReader {
    /// The first stored batch of `queue` that holds offsets from `from` up to, not including, `to`.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn first_batch(&self, queue: QueueId, from: QueueOffset, to: QueueOffset) -> Result<Option<BatchPlace>, LogError> {
        let mut first = None;
        self.each_part(queue, from, to, |part| {
            first = part.between(from, to).first().copied();
            first.is_none()
        })?;
        Ok(first)
    }
}
