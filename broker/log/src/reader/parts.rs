//! Finding what the index knows of one queue: in the segments that hold something of it, and in no other.

use std::sync::Arc;

use sluice_protocol::ids::{MessageId, Position, QueueId, QueueOffset};

use super::{LogReader, Shared};
use crate::error::LogError;
use crate::index::{QueueEntries, QueueSpan};
use crate::segment::Segment;
use crate::sidecar::{Sidecar, lost};

impl Shared {
    /// The sidecar of a sealed segment, opened if it is not; `None` when retention has taken the segment since the caller looked.
    pub(crate) fn sidecar(&self, segment: &Segment) -> Result<Option<Arc<Sidecar>>, LogError> {
        if let Some(sidecar) = self.sidecars().get(&segment.base) {
            return Ok(Some(sidecar));
        }
        let Some(sidecar) = Sidecar::of_running(&*self.storage, segment.base)? else {
            return if self.holds(segment) { Err(lost(segment.base)) } else { Ok(None) };
        };
        let sidecar = Arc::new(sidecar);
        self.sidecars().put(segment.base, 1, Arc::clone(&sidecar));
        Ok(Some(sidecar))
    }

    /// Which offsets of which queues a sealed segment holds, by queue.
    pub(crate) fn spans(&self, segment: &Segment) -> Result<Vec<QueueSpan>, LogError> {
        if let Some(spans) = &segment.summary {
            return Ok(spans.clone());
        }
        if let Some(index) = self.index_kept(segment) {
            return Ok(index.spans().collect());
        }
        let sidecar = self.sidecar(segment)?;
        sidecar.map_or_else(|| Ok(Vec::new()), |sidecar| sidecar.spans())
    }

    /// Which offsets of `queue` a sealed segment holds.
    pub(super) fn span(&self, segment: &Segment, queue: QueueId) -> Result<Option<QueueSpan>, LogError> {
        if let Ok(span) = segment.span(queue) {
            return Ok(span);
        }
        if let Some(index) = self.index_kept(segment) {
            return Ok(index.spans().find(|span| span.queue == queue));
        }
        let Some(sidecar) = self.sidecar(segment)? else { return Ok(None) };
        Ok(sidecar.entry(queue)?.map(|entry| entry.span))
    }

    /// Where the message with this id is, if a sealed segment holds it.
    pub(super) fn find(&self, segment: &Segment, id: MessageId) -> Result<Option<(QueueId, QueueOffset)>, LogError> {
        if let Some(index) = self.index_kept(segment) {
            return Ok(index.find(id));
        }
        let sidecar = self.sidecar(segment)?;
        sidecar.map_or(Ok(None), |sidecar| sidecar.find(id))
    }

    /// What the index of a sealed segment knows of a queue.
    pub(super) fn part(&self, segment: &Segment, queue: QueueId) -> Result<Option<Arc<QueueEntries>>, LogError> {
        let key = (segment.base, queue);
        if let Some(part) = self.parts().get(&key) {
            return Ok(Some(part));
        }
        if let Some(index) = self.index_kept(segment) {
            return Ok(index.queues.get(&queue).cloned().map(Arc::new));
        }
        let Some(sidecar) = self.sidecar(segment)? else { return Ok(None) };
        let Some(entry) = sidecar.entry(queue)? else { return Ok(None) };
        let part = Arc::new(sidecar.part(&entry)?);
        self.parts().put(key, part.memory_bytes(), Arc::clone(&part));
        Ok(Some(part))
    }
}

impl LogReader {
    /// Calls `each` with what the index knows of `queue` in each segment that holds offsets in the range, oldest first, until it answers
    /// false.
    pub(super) fn each_part(
        &self,
        queue: QueueId,
        from: QueueOffset,
        to: QueueOffset,
        each: impl FnMut(&QueueEntries) -> bool,
    ) -> Result<(), LogError> {
        self.each_part_behind(Position(0), queue, from, to, each)
    }

    /// As `each_part`, leaving out the segments that end at or before a position.
    pub(super) fn each_part_behind(
        &self,
        behind: Position,
        queue: QueueId,
        from: QueueOffset,
        to: QueueOffset,
        mut each: impl FnMut(&QueueEntries) -> bool,
    ) -> Result<(), LogError> {
        let (candidates, base) = {
            let view = self.shared.view();
            let active = view.active_index.queues.get(&queue);
            // Live traffic is in the active segment alone, and most calls are for live traffic.
            if let Some(active) = active.filter(|part| part.batches.first().is_some_and(|batch| batch.first <= from)) {
                each(active);
                return Ok(());
            }
            let possible = |segment: &&Arc<Segment>| match segment.span(queue) {
                Ok(span) => span.is_some_and(|span| span.first < to && from < span.end),
                // Only its sidecar knows.
                Err(_) => true,
            };
            let sealed = view.sealed.iter().filter(|segment| segment.end > behind);
            (sealed.filter(possible).map(Arc::clone).collect::<Vec<_>>(), view.active.base)
        };
        let first = self.first_beyond(&candidates, queue, from)?;
        for segment in &candidates[first..] {
            let Some(part) = self.shared.part(segment, queue)? else { continue };
            let beyond = part.batches.first().is_none_or(|batch| batch.first >= to);
            if beyond || !each(&part) {
                return Ok(());
            }
        }
        self.each_part_since(base, queue, each)
    }

    /// The active segment, and what was sealed since the segment at `base` was active.
    fn each_part_since(&self, mut base: Position, queue: QueueId, mut each: impl FnMut(&QueueEntries) -> bool) -> Result<(), LogError> {
        loop {
            let sealed_since: Vec<_> = {
                let view = self.shared.view();
                let sealed_since = view.sealed.iter().filter(|segment| segment.base >= base);
                let sealed_since = sealed_since.map(Arc::clone).collect::<Vec<_>>();
                if sealed_since.is_empty() {
                    view.active_index.queues.get(&queue).map(each);
                    return Ok(());
                }
                sealed_since
            };
            for segment in sealed_since {
                base = segment.end;
                let Some(part) = self.shared.part(&segment, queue)? else { continue };
                if !each(&part) {
                    return Ok(());
                }
            }
        }
    }

    /// The place of the first of these segments that holds offsets of `queue` at or after `from`: found by halving, since offsets grow
    /// along the log. Segments without anything of the queue may come before it.
    fn first_beyond(&self, segments: &[Arc<Segment>], queue: QueueId, from: QueueOffset) -> Result<usize, LogError> {
        let (mut low, mut high) = (0, segments.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let mut at = middle;
            let span = loop {
                match self.shared.span(&segments[at], queue)? {
                    Some(span) => break Some(span),
                    None if at + 1 < high => at += 1,
                    None => break None,
                }
            };
            match span {
                Some(span) if span.end <= from => low = at + 1,
                Some(_) | None => high = middle,
            }
        }
        Ok(low)
    }
}
