//! What is stored of each queue, and where retention by age or size would begin.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_protocol::ids::{Position, QueueId, QueueOffset, TopicId};

use super::LogReader;
use crate::error::LogError;
use crate::index::{QueueEntries, QueueSpan};

/// What is stored of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredQueue {
    /// The first stored offset.
    pub first: QueueOffset,
    /// One past the last.
    pub end: QueueOffset,
    /// The size of its batches.
    pub bytes: u64,
}

impl StoredQueue {
    /// Takes in a span of a later segment.
    pub(crate) fn add(queues: &mut BTreeMap<QueueId, Self>, span: &QueueSpan) {
        let new = Self {
            first: span.first,
            end: span.end,
            bytes: 0,
        };
        let queue = queues.entry(span.queue).or_insert(new);
        queue.first = queue.first.min(span.first);
        queue.end = queue.end.max(span.end);
        queue.bytes += span.bytes;
    }
}

impl LogReader {
    /// The queues of which something is stored, each with the first and one past the last stored offset and the size of its batches, what
    /// is trimmed but not yet removed included. Reads the directories of all sidecars whose segments have many queues.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn queues(&self) -> Result<BTreeMap<QueueId, StoredQueue>, LogError> {
        let mut queues = BTreeMap::new();
        for segment in self.sealed() {
            for span in self.shared.spans(&segment)? {
                StoredQueue::add(&mut queues, &span);
            }
        }
        for span in self.shared.view().active_index.spans() {
            StoredQueue::add(&mut queues, &span);
        }
        Ok(queues)
    }

    /// For every queue of which something was stored before the time that `since` tells for its topic (wall clock, milliseconds), the first
    /// offset stored at that time or later: where retention by age would begin. `latest` is the latest of those times; segments that end
    /// at or before `behind` are not looked at. Of segments that are older as a whole the directories are read, of others nothing.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn expired(
        &self,
        behind: Position,
        latest: i64,
        since: impl Fn(TopicId) -> Option<i64>,
    ) -> Result<BTreeMap<QueueId, QueueOffset>, LogError> {
        let mut expired = BTreeMap::new();
        let kept_from = |part: &QueueEntries, end: QueueOffset, since_ms| part.stored_since(since_ms).unwrap_or(end);
        for segment in self.sealed().iter().filter(|segment| segment.end > behind) {
            let Some((first_ms, last_ms)) = segment.stored_wall_ms else {
                continue;
            };
            if first_ms >= latest {
                return Ok(expired);
            }
            let spans = match self.shared.spans(segment) {
                // Nobody can tell what it holds: it is kept, and a restart makes its sidecar again.
                Err(LogError::Damaged { .. }) => continue,
                spans => spans?,
            };
            for span in spans {
                let Some(since_ms) = since(span.queue.topic).filter(|since_ms| first_ms < *since_ms) else {
                    continue;
                };
                let start = match last_ms < since_ms {
                    true => Some(span.end),
                    false => self
                        .shared
                        .part(segment, span.queue)?
                        .map(|part| kept_from(&part, span.end, since_ms)),
                };
                if let Some(start) = start.filter(|start| *start > span.first) {
                    expired.insert(span.queue, start);
                }
            }
        }
        let view = self.shared.view();
        if view.active_index.stored_wall_ms.is_none_or(|(first_ms, _)| first_ms >= latest) {
            return Ok(expired);
        }
        for span in view.active_index.spans() {
            let part = view.active_index.queues.get(&span.queue);
            if let (Some(since_ms), Some(part)) = (since(span.queue.topic), part) {
                let start = kept_from(part, span.end, since_ms);
                if start > span.first {
                    expired.insert(span.queue, start);
                }
            }
        }
        Ok(expired)
    }

    /// Where the oldest segment begins that holds something stored at `wall_ms` or later, or is still written: what lies before is older.
    pub fn sealed_before(&self, wall_ms: i64) -> Position {
        let view = self.shared.view();
        let newer = |segment: &&Arc<crate::segment::Segment>| segment.stored_wall_ms.is_some_and(|(_, last_ms)| last_ms >= wall_ms);
        view.sealed.iter().find(newer).map_or(view.active.base, |segment| segment.base)
    }

    /// One past the last offset of `queue` in the segments that end at or before `end`; 0 when there is none.
    pub(super) fn last_before(&self, end: Position, queue: QueueId) -> Result<QueueOffset, LogError> {
        for segment in self.sealed().iter().rev().filter(|segment| segment.end <= end) {
            if let Some(span) = self.shared.span(segment, queue)? {
                return Ok(span.end);
            }
        }
        Ok(QueueOffset(0))
    }

    /// The first offset of `queue` such that the batches from it on take at most `keep_bytes`: where retention by size would begin.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn locate_size(&self, queue: QueueId, keep_bytes: u64) -> Result<QueueOffset, LogError> {
        let (sealed, active) = {
            let view = self.shared.view();
            (view.sealed.clone(), view.active_index.queues.get(&queue).cloned())
        };
        let mut left = keep_bytes;
        let mut start = None;
        if let Some(active) = active {
            let (from, done) = newest(&active, &mut left);
            if done {
                return Ok(from);
            }
            start = Some(from);
        }
        for segment in sealed.iter().rev() {
            let Some(span) = self.shared.span(segment, queue)? else { continue };
            if span.bytes <= left {
                left -= span.bytes;
                start = Some(span.first);
                continue;
            }
            let part = self.shared.part(segment, queue)?;
            return Ok(part.map_or(span.end, |part| newest(&part, &mut left).0));
        }
        Ok(start.unwrap_or_default())
    }
}

/// The first offset of the newest batches that take no more than what is left, and whether there are older ones.
fn newest(part: &QueueEntries, left: &mut u64) -> (QueueOffset, bool) {
    let mut start = part.batches.last().map_or(QueueOffset(0), |batch| batch.end());
    for batch in part.batches.iter().rev() {
        match left.checked_sub(u64::from(batch.total_bytes)) {
            Some(less) => *left = less,
            None => return (start, true),
        }
        start = batch.first;
    }
    (start, false)
}
