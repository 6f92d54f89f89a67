//! What a segment holds, by queue and by message id: in memory while it is written, in its sidecar once it is sealed.

use std::collections::BTreeMap;

use sluice_protocol::batch::{Attributes, key_hash};
use sluice_protocol::ids::{MessageId, Position, QueueId, QueueIndex, QueueOffset, Sequence};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;

use crate::dealings::Dealings;
use crate::keys::{KeyEntry, KeyIndex};
use crate::limits::SUMMARY_PRODUCERS_MAX;
use crate::planted::{self, Bug};
use crate::record::Origin;

/// Where a stored batch is and what is known of it without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchPlace {
    /// The queue it is in.
    pub queue: QueueId,
    /// The offset of its first message.
    pub first: QueueOffset,
    /// How many messages.
    pub count: u32,
    /// The position of its first byte.
    pub position: Position,
    /// The size of all before the bodies.
    pub attribute_bytes: u32,
    /// The size of the whole.
    pub total_bytes: u32,
    /// When it was stored: wall clock, milliseconds.
    pub stored_wall_ms: i64,
}

impl BatchPlace {
    /// One past the offset of its last message.
    pub fn end(&self) -> QueueOffset {
        QueueOffset(self.first.0 + u64::from(self.count))
    }
}

/// The offsets of one queue that a segment holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueSpan {
    pub(crate) queue: QueueId,
    pub(crate) first: QueueOffset,
    /// One past the last.
    pub(crate) end: QueueOffset,
    /// The size of its batches here.
    pub(crate) bytes: u64,
}

/// The batches of one queue in one segment, in offset order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueEntries {
    pub(crate) batches: Vec<BatchPlace>,
    /// For each batch, where the hashes of its messages begin.
    pub(crate) rows_from: Vec<u32>,
    /// One tag hash a message; 0 where there is no tag.
    pub(crate) tags: Vec<u32>,
    pub(crate) bytes: u64,
}

impl QueueEntries {
    /// The batches that hold offsets from `from` up to `to`.
    pub(crate) fn between(&self, from: QueueOffset, to: QueueOffset) -> &[BatchPlace] {
        let first = self.batches.partition_point(|batch| batch.end() <= from);
        let end = self.batches.partition_point(|batch| batch.first < to).max(first);
        &self.batches[first..end]
    }

    /// Appends to `out` the offsets from `from` up to `to` whose tag hash is among `hashes`.
    pub(crate) fn tagged(&self, from: QueueOffset, to: QueueOffset, hashes: &[u32], out: &mut Vec<QueueOffset>) {
        let first = self.batches.partition_point(|batch| batch.end() <= from);
        let batches = self.batches.iter().zip(&self.rows_from).skip(first);
        for (batch, rows_from) in batches.take_while(|(batch, _)| batch.first < to) {
            let skip = from.0.saturating_sub(batch.first.0) as usize;
            let take = (to.0 - batch.first.0).min(u64::from(batch.count)) as usize;
            let rows = *rows_from as usize..*rows_from as usize + batch.count as usize;
            let tags = self.tags.get(rows).and_then(|tags| tags.get(skip..take)).unwrap_or(&[]);
            for (row, tag) in tags.iter().enumerate() {
                if hashes.contains(tag) {
                    out.push(QueueOffset(batch.first.0 + (skip + row) as u64));
                }
            }
        }
    }

    /// The first offset whose batch was stored at `wall_ms` or later.
    pub(crate) fn stored_since(&self, wall_ms: i64) -> Option<QueueOffset> {
        let at = self.batches.partition_point(|batch| batch.stored_wall_ms < wall_ms);
        self.batches.get(at).map(|batch| batch.first)
    }

    /// About how much memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        128 + self.batches.len() * (size_of::<BatchPlace>() + 4) + self.tags.len() * 4
    }
}

/// What neighbouring messages of one producer in one queue are known by: the low half of the producer's identity and the first sequence.
pub(crate) type RunKey = (u64, Sequence);

/// Where neighbouring messages of one producer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerRun {
    pub(crate) rows: u32,
    pub(crate) queue: QueueId,
    pub(crate) first: QueueOffset,
}

/// Which message ids a sealed segment may hold, small enough to stay in memory: for each producer one past its last sequence, and its first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producers(Option<Vec<(u64, Sequence, Sequence)>>);

impl Producers {
    /// Those of a segment, ascending; `None` when there are too many to be told.
    pub(crate) fn told(producers: Option<Vec<(u64, Sequence, Sequence)>>) -> Self {
        Self(producers)
    }

    /// All of them, if they are told.
    pub(crate) fn all(&self) -> Option<&[(u64, Sequence, Sequence)]> {
        self.0.as_deref()
    }

    /// Whether the segment's index must be asked.
    pub(crate) fn may_hold(&self, id: MessageId) -> bool {
        let Some(producers) = &self.0 else { return true };
        let at = producers.binary_search_by_key(&id.producer, |producer| producer.0);
        at.is_ok_and(|at| (producers[at].1..producers[at].2).contains(&id.sequence))
    }
}

/// Under what a message that has no place in a consumed queue yet is indexed: an id means the message's place there, so the bits of the
/// producer, which are random, are inverted.
pub(crate) fn waiting(id: MessageId) -> MessageId {
    MessageId {
        producer: !id.producer,
        ..id
    }
}

/// The index of one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SegmentIndex {
    pub(crate) queues: BTreeMap<QueueId, QueueEntries>,
    pub(crate) runs: BTreeMap<RunKey, ProducerRun>,
    pub(crate) keys: KeyIndex,
    pub(crate) dealings: Dealings,
    /// When the first and the last batch were stored: wall clock, milliseconds.
    pub(crate) stored_wall_ms: Option<(i64, i64)>,
}

impl SegmentIndex {
    /// Takes in one more stored batch; batches of a queue come in offset order.
    pub(crate) fn add(&mut self, place: BatchPlace, attributes: &Attributes, origin: Origin) {
        let entries = self.queues.entry(place.queue).or_default();
        entries.rows_from.push(entries.tags.len() as u32);
        for row in attributes.rows() {
            entries.tags.push(row.tag_hash());
            // What waits in a calendar is found by its keys and the id that its producer gave it once it is in a queue.
            let given_id = row.given_id().map(|given| given.id.as_bytes());
            if (row.key_count() > 0 || given_id.is_some()) && place.queue.index != QueueIndex::CALENDAR {
                let offset = QueueOffset(place.first.0 + u64::from(row.index()));
                if planted::is(Bug::KeyNotIndexed) && offset.0 % 8 == 5 {
                    continue;
                }
                let entry = |key| KeyEntry {
                    hash: key_hash(key),
                    queue: place.queue,
                    offset,
                };
                row.keys().chain(given_id).for_each(|key| self.keys.push(entry(key)));
            }
        }
        entries.bytes += u64::from(place.total_bytes);
        entries.batches.push(place);
        if planted::is(Bug::TagsShifted) && entries.batches.len() % 8 == 7 {
            entries.tags.rotate_right(1);
        }
        let (first_ms, _) = *self.stored_wall_ms.get_or_insert((place.stored_wall_ms, place.stored_wall_ms));
        self.stored_wall_ms = Some((first_ms, place.stored_wall_ms));
        match origin {
            Origin::Producer if planted::is(Bug::IdNotIndexed) && place.first.0 % 16 == 9 => {}
            // A copy keeps the id of its source, and the id means the source.
            Origin::Queue => {}
            Origin::Producer | Origin::Waiting => {
                let mut first = place.first;
                for run in attributes.runs() {
                    let id = MessageId::new(run.producer, run.first_sequence);
                    let producer = if origin == Origin::Waiting {
                        waiting(id).producer
                    } else {
                        id.producer
                    };
                    let place = ProducerRun {
                        rows: run.rows,
                        queue: place.queue,
                        first,
                    };
                    let known = self.runs.entry((producer, run.first_sequence)).or_insert(place);
                    if known.rows < place.rows {
                        *known = place;
                    }
                    first.0 += u64::from(run.rows);
                }
            }
        }
    }

    /// Where the message with this id is.
    pub(crate) fn find(&self, id: MessageId) -> Option<(QueueId, QueueOffset)> {
        // What a forgotten producer sent again overlaps with what it sent before: a later run may be the shorter one.
        let before = self.runs.range(..=(id.producer, id.sequence)).rev();
        let near = before.map_while(|(key, run)| {
            let row = id.sequence.0.checked_sub(key.1.0).filter(|_| key.0 == id.producer)?;
            (row < BATCH_MESSAGES_MAX as u64).then_some((row, run))
        });
        let mut holding = near.filter(|(row, run)| *row < u64::from(run.rows));
        holding.next().map(|(row, run)| (run.queue, QueueOffset(run.first.0 + row)))
    }

    /// Which ids are here; says nothing when there are more producers than may be kept.
    pub(crate) fn producers(&self) -> Producers {
        let mut producers: Vec<(u64, Sequence, Sequence)> = Vec::new();
        for ((producer, first), run) in &self.runs {
            let full = producers.len() == SUMMARY_PRODUCERS_MAX;
            let end = Sequence(first.0.saturating_add(u64::from(run.rows)));
            match producers.last_mut().filter(|last| last.0 == *producer) {
                Some(last) => last.2 = last.2.max(end),
                None if full => return Producers(None),
                None => producers.push((*producer, *first, end)),
            }
        }
        Producers(Some(producers))
    }

    /// Which offsets of which queues are here, by queue.
    pub(crate) fn spans(&self) -> impl Iterator<Item = QueueSpan> + '_ {
        self.queues.iter().filter_map(|(queue, entries)| {
            let (first, last) = (entries.batches.first()?, entries.batches.last()?);
            Some(QueueSpan {
                queue: *queue,
                first: first.first,
                end: last.end(),
                bytes: entries.bytes,
            })
        })
    }
}
