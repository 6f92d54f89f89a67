//! Letting go of segments that nobody keeps anything of.

use std::sync::Arc;

use sluice_protocol::ids::{QueueId, QueueOffset};

use crate::error::LogError;
use crate::index::QueueSpan;
use crate::limits::SPARE_SEGMENTS_MAX;
use crate::planted::{self, Bug};
use crate::segment::{SEGMENT_HEADER_BYTES, Segment, segment_name, sidecar_name};
use crate::writer::LogWriter;

impl LogWriter {
    /// Removes, or keeps to be written again, each sealed segment that lies behind the newest checkpoint and holds nothing at or after
    /// the logical start of any queue. `starts` tells a queue's logical start; `None` means that its topic is gone. Returns how many
    /// segments went. Starts must be durable: told from trim and delete records that are synced. None goes while a snapshot is read.
    ///
    /// # Errors
    /// The disk failed; the writer is stopped.
    pub fn retain(&mut self, starts: impl Fn(QueueId) -> Option<QueueOffset>) -> Result<usize, LogError> {
        self.guarded(|writer| {
            if writer.holds.any() && !planted::is(Bug::SnapshotNotHeld) {
                return Ok(0);
            }
            let replay_from = writer.replay_from();
            let sealed = writer.shared.view().sealed.clone();
            let mut gone = 0;
            for segment in sealed.into_iter().filter(|segment| segment.end <= replay_from) {
                let kept =
                    |span: &QueueSpan| starts(span.queue).is_some_and(|start| start < span.end) && !planted::is(Bug::RetentionTooFar);
                // Most segments are kept by the queue that kept them before.
                if writer.keepers.get(&segment.base).is_some_and(kept) {
                    continue;
                }
                let spans = match writer.shared.spans(&segment) {
                    // Nobody can tell what it holds: it is kept, and a restart makes its sidecar again.
                    Err(LogError::Damaged { .. }) => continue,
                    spans => spans?,
                };
                if let Some(keeper) = spans.into_iter().find(kept) {
                    writer.keepers.insert(segment.base, keeper);
                    continue;
                }
                writer.keepers.remove(&segment.base);
                writer.shared.view_mut().sealed.retain(|other| other.base != segment.base);
                writer.let_go(segment)?;
                gone += 1;
            }
            Ok(gone)
        })
    }

    /// Frees the file of a segment that no reader can find any more.
    fn let_go(&mut self, segment: Arc<Segment>) -> Result<(), LogError> {
        let has_sidecar = self.shared.forget(&segment);
        let storage = Arc::clone(&self.shared.storage);
        // First the sidecar, durably: one without its segment means that a segment was lost.
        if has_sidecar {
            self.remove(&sidecar_name(segment.base))?;
        }
        let name = segment_name(segment.number);
        storage.sync_directory().map_err(LogError::io("syncing", &name))?;
        // A reader that still holds the segment is reading its file, which must then keep its bytes: removed files do.
        let unread = Arc::strong_count(&segment) == 1;
        if unread && segment.bytes == self.config.segment_bytes && self.spares.len() < SPARE_SEGMENTS_MAX {
            let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
            let cleared = file
                .write_at(0, &[&[0; SEGMENT_HEADER_BYTES as usize]])
                .and_then(|()| file.sync_data());
            match cleared.map_err(LogError::room("clearing", &name)) {
                Ok(()) => {
                    self.keep_spare(segment.number, true);
                    return Ok(());
                }
                // Removing it makes room.
                Err(LogError::NoRoom { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.remove(&name)?;
        storage.sync_directory().map_err(LogError::io("syncing", &name))
    }
}
