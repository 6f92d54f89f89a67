//! A sidecar that is open: what it says of one queue or of one id, without reading the rest.

use std::io;
use std::sync::Arc;

use sluice_protocol::ids::{MessageId, Position, QueueId, QueueOffset};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;
use sluice_protocol::wire::WireError;

use super::{DirectoryEntry, Head, SIDECAR_HEADER_BYTES, SidecarError, SidecarHeader};
use crate::error::LogError;
use crate::index::{QueueEntries, QueueSpan};
use crate::keys::{KeyFilter, KeyedRange};
use crate::segment::sidecar_name;
use crate::storage::{Storage, StorageFile};

/// A sidecar's file with its head in memory.
pub(crate) struct Sidecar {
    name: String,
    file: Arc<dyn StorageFile>,
    pub(crate) head: Head,
}

impl Sidecar {
    /// Opens the sidecar of the segment with this base; the inner error says why it cannot be used.
    pub(crate) fn open(storage: &dyn Storage, base: Position) -> Result<Result<Self, SidecarError>, LogError> {
        let name = sidecar_name(base);
        let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
        let bytes = file.len().map_err(LogError::io("reading", &name))?;
        let read = |length: u64| {
            let mut beginning = vec![0; length.min(bytes) as usize];
            file.read_at(0, &mut beginning).map_err(LogError::io("reading", &name))?;
            Ok(beginning)
        };
        let header = match SidecarHeader::decode(&read(SIDECAR_HEADER_BYTES as u64)?) {
            Ok(header) if header.file_bytes() == bytes && header.base == base => header,
            Ok(_) => return Ok(Err(WireError::Truncated.into())),
            Err(error) => return Ok(Err(error)),
        };
        let head = Head::decode(&read(header.head_bytes())?);
        Ok(head.map(|head| Self { name, file, head }))
    }

    /// The sidecar of a segment of a running log; `None` when there is none.
    pub(crate) fn of_running(storage: &dyn Storage, base: Position) -> Result<Option<Self>, LogError> {
        match Self::open(storage, base) {
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(Ok(sidecar)) => Ok(Some(sidecar)),
            Ok(Err(_)) => Err(changed(&sidecar_name(base), base)),
        }
    }

    /// What the directory says of a queue; `None` when the segment holds nothing of it.
    pub(crate) fn entry(&self, queue: QueueId) -> Result<Option<DirectoryEntry>, LogError> {
        let after = self.head.queues.partition_point(|fence| fence.0 <= queue);
        let Some(nth) = after.checked_sub(1) else { return Ok(None) };
        let entries = self.queue_block(nth)?;
        let found = entries.binary_search_by_key(&queue, |entry| entry.span.queue).ok();
        Ok(found.map(|at| entries[at]))
    }

    /// The batches and tags of a queue.
    pub(crate) fn part(&self, entry: &DirectoryEntry) -> Result<QueueEntries, LogError> {
        let header = &self.head.header;
        let at = header.parts_at() + u64::from(entry.part_at);
        if at + entry.part_bytes() > header.runs_at() {
            return Err(self.changed());
        }
        let bytes = self.read(at, entry.part_bytes() as usize)?;
        entry.part(&bytes).map_err(|_| self.changed())
    }

    /// Which offsets of which queues the segment holds, by queue.
    pub(crate) fn spans(&self) -> Result<Vec<QueueSpan>, LogError> {
        let mut spans = Vec::with_capacity(self.head.header.queues as usize);
        for nth in 0..self.head.queues.len() {
            spans.extend(self.queue_block(nth)?.iter().map(|entry| entry.span));
        }
        Ok(spans)
    }

    /// Where the message with this id is.
    pub(crate) fn find(&self, id: MessageId) -> Result<Option<(QueueId, QueueOffset)>, LogError> {
        let blocks = self.head.runs.partition_point(|fence| fence.0 <= (id.producer, id.sequence));
        // What a forgotten producer sent again overlaps with what it sent before: a later run may be the shorter one.
        for nth in (0..blocks).rev() {
            let (at, length) = self.head.run_block(nth);
            let bytes = self.read(at, length)?;
            let runs = self.head.block_runs(nth, &bytes).map_err(|_| self.changed())?;
            for run in runs.iter().rev().filter(|run| run.key <= (id.producer, id.sequence)) {
                let row = id.sequence.0.wrapping_sub(run.key.1.0);
                if run.key.0 != id.producer || row >= BATCH_MESSAGES_MAX as u64 {
                    return Ok(None);
                }
                if row < u64::from(run.rows) {
                    let queue = self.numbered(run.queue as usize)?;
                    return Ok(Some((queue, QueueOffset(run.first.0 + row))));
                }
            }
        }
        Ok(None)
    }

    /// Appends the offsets that are wanted by their key to `out`, ascending, until it has as many as are wanted.
    pub(crate) fn keyed(&self, wanted: &KeyedRange, out: &mut Vec<QueueOffset>) -> Result<(), LogError> {
        let before = self.head.keys.partition_point(|fence| fence.0 <= wanted.first());
        let beyond = self.head.keys.partition_point(|fence| fence.0 < wanted.end());
        for nth in before.saturating_sub(1)..beyond {
            let (at, length) = self.head.key_block(nth);
            let keys = self.head.block_keys(nth, &self.read(at, length)?).map_err(|_| self.changed())?;
            for key in wanted.among(&keys) {
                if out.len() >= wanted.max {
                    return Ok(());
                }
                // A message may have a key twice, or two of one hash.
                if out.last() != Some(&key.offset) {
                    out.push(key.offset);
                }
            }
        }
        Ok(())
    }

    /// The filter of the keys.
    pub(crate) fn key_filter(&self) -> Result<KeyFilter, LogError> {
        let header = &self.head.header;
        let bytes = self.read(header.filter_at(), header.filter_bytes())?;
        self.head.filter(&bytes).map_err(|_| self.changed())
    }

    /// The queue at a place of the directory.
    fn numbered(&self, number: usize) -> Result<QueueId, LogError> {
        if number >= self.head.header.queues as usize {
            return Err(self.changed());
        }
        let block = self.queue_block(number / super::BLOCK_QUEUES)?;
        let entry = block.get(number % super::BLOCK_QUEUES).ok_or_else(|| self.changed())?;
        Ok(entry.span.queue)
    }

    fn queue_block(&self, nth: usize) -> Result<Vec<DirectoryEntry>, LogError> {
        let (at, length) = self.head.queue_block(nth);
        self.head.entries(nth, &self.read(at, length)?).map_err(|_| self.changed())
    }

    pub(super) fn read(&self, at: u64, length: usize) -> Result<Vec<u8>, LogError> {
        let mut bytes = vec![0; length];
        self.file.read_at(at, &mut bytes).map_err(LogError::io("reading", &self.name))?;
        Ok(bytes)
    }

    pub(super) fn changed(&self) -> LogError {
        changed(&self.name, self.head.header.base)
    }
}

fn changed(name: &str, base: Position) -> LogError {
    LogError::Damaged {
        file: name.to_owned(),
        position: base,
        bytes: 0,
        reason: "the sidecar changed while the broker ran; remove it, and a restart makes it again from its segment",
    }
}

/// What is wrong when a segment of a running log has no sidecar.
pub(crate) fn lost(base: Position) -> LogError {
    LogError::Damaged {
        file: sidecar_name(base),
        position: base,
        bytes: 0,
        reason: "the sidecar is gone while the broker ran; a restart makes it again from its segment",
    }
}
