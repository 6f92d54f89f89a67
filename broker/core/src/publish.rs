//! Publishing: which messages are new, which queue each goes to, and the batches that a turn's messages are merged into.

use std::collections::BTreeMap;
use std::ops::Range;

use sluice_log::record::Change;
use sluice_protocol::batch::{Batch, BatchMerger, MergeError};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Position, ProducerId, QueueId, QueueIndex, QueueOffset, Sequence, TopicId};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;
use sluice_protocol::names::check_user_name;

use crate::broker::Core;
use crate::effect::{Answer, StoredRun};
use crate::input::RequestId;
use crate::limits::{MERGED_BATCH_BYTES_MAX, PRODUCER_WINDOW, SLOT_BLOCK_BITS, SLOTS};
use crate::planted::{self, Bug};
use crate::state::producer::{Run, Seen, Window};

/// What was published in this turn.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    pending: Vec<Pending>,
    merger: BatchMerger,
}

/// One publish that waits for the end of the turn.
#[derive(Debug)]
struct Pending {
    request: RequestId,
    topic: TopicId,
    batch: Batch,
}

/// The rows of one publish that go side by side into a batch.
#[derive(Debug)]
struct Part {
    /// Which of the turn's publishes.
    publish: usize,
    rows: Range<u32>,
}

/// A batch that is to be appended.
#[derive(Debug)]
struct Planned {
    queue: QueueId,
    first: QueueOffset,
    count: u32,
    bytes: usize,
    parts: Vec<Part>,
}

/// Where all messages of a turn go.
#[derive(Debug, Default)]
struct Plan {
    batches: Vec<Planned>,
    /// The batch of each queue that takes more.
    open: BTreeMap<QueueId, usize>,
    /// What the turn adds to the windows of its producers.
    windows: BTreeMap<ProducerId, Window>,
}

/// What is known of a producer in the middle of a turn.
struct Known<'a> {
    /// Its window as it was before the turn.
    stored: Option<&'a Window>,
    /// What the turn stores.
    turn: Window,
}

impl Known<'_> {
    /// What became of `sequence`.
    fn seen(&self, sequence: Sequence) -> Seen {
        if planted::is(Bug::DedupOff) {
            return Seen::New;
        }
        match (
            self.turn.seen(sequence),
            self.stored.map_or(Seen::New, |stored| stored.seen(sequence)),
        ) {
            (found @ Seen::Stored { .. }, _) | (_, found @ Seen::Stored { .. }) => found,
            (Seen::TooOld, _) | (_, Seen::TooOld) => Seen::TooOld,
            (Seen::New, Seen::New) => Seen::New,
        }
    }

    /// How many sequences from `sequence` on are new, at most `count`; at least 1 when that one is.
    fn new_run(&self, sequence: Sequence, count: u32) -> u32 {
        if planted::is(Bug::DedupOff) {
            return count;
        }
        let count = self.turn.new_run(sequence, count);
        self.stored.map_or(count, |stored| stored.new_run(sequence, count))
    }
}

impl Publishing {
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }
}

/// The queue of a message: neighbouring sequences share a slot, so that a batch stays a batch, and a slot never changes.
fn choose_queue(topic: TopicId, queues: u16, producer: ProducerId, sequence: Sequence) -> QueueId {
    let mut mixed = (producer.0 as u64) ^ ((producer.0 >> 64) as u64).rotate_left(32) ^ (sequence.0 >> SLOT_BLOCK_BITS);
    // The finalizer of SplitMix64 (Steele, Lea, Flood 2014): every bit of the input moves every bit of the result.
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let slot = (mixed ^ (mixed >> 31)) % SLOTS;
    QueueId {
        topic,
        index: QueueIndex((slot % u64::from(queues.max(1))) as u16),
    }
}

impl Plan {
    /// Gives rows of a publish the next offsets of a queue.
    fn place(&mut self, queue: QueueId, end: QueueOffset, publish: usize, rows: Range<u32>, bytes: usize) -> QueueOffset {
        let count = rows.len() as u32;
        let mut first = QueueOffset(end.0 + u64::from(planted::is(Bug::OffsetGap) && end.0 % 16 == 5));
        if let Some(&open) = self.open.get(&queue) {
            let batch = &mut self.batches[open];
            first = QueueOffset(batch.first.0 + u64::from(batch.count));
            if (batch.count + count) as usize <= BATCH_MESSAGES_MAX && batch.bytes + bytes <= MERGED_BATCH_BYTES_MAX {
                batch.count += count;
                batch.bytes += bytes;
                match batch.parts.last_mut() {
                    Some(last) if last.publish == publish && last.rows.end == rows.start => last.rows.end = rows.end,
                    Some(_) | None => batch.parts.push(Part { publish, rows }),
                }
                return first;
            }
        }
        self.open.insert(queue, self.batches.len());
        self.batches.push(Planned {
            queue,
            first,
            count,
            bytes,
            parts: vec![Part { publish, rows }],
        });
        first
    }
}

impl Core {
    /// Takes a publish into the turn, and creates its topic when that is allowed.
    pub(crate) fn publish(&mut self, request: RequestId, topic: &str, batch: Batch) {
        match check_runs(&batch).and_then(|()| self.topic_to_publish(topic)) {
            Ok(topic) => self.publishing.pending.push(Pending { request, topic, batch }),
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    fn topic_to_publish(&mut self, name: &str) -> Result<TopicId, Refusal> {
        check_user_name(name)?;
        match self.state.topic_named(name) {
            Some(topic) => Ok(topic),
            None if self.config.auto_create_topics => self.create_topic(name.to_owned(), self.config.topic).map(|(topic, _)| topic),
            None => Err(Refusal::new(
                ErrorCode::NoSuchTopic,
                format!("there is no topic {name}, and publishing creates none here"),
            )),
        }
    }

    /// Stores what was published in this turn: de-duplicated, by queue, in batches.
    pub(crate) fn store_published(&mut self) {
        if self.publishing.pending.is_empty() {
            return;
        }
        let pending = std::mem::take(&mut self.publishing.pending);
        let mut plan = Plan::default();
        let outcomes: Vec<_> = pending
            .iter()
            .enumerate()
            .map(|(nth, publish)| self.plan(&mut plan, nth, publish))
            .collect();
        let mut depends = vec![Position::default(); pending.len()];
        for batch in plan.batches {
            self.append_planned(&pending, batch, &mut depends);
        }
        for ((publish, outcome), depends) in pending.iter().zip(outcomes).zip(depends) {
            match outcome {
                Ok(runs) => {
                    // The first try of a duplicate may not be durable yet: everything so far is waited for.
                    let depends = if runs.iter().any(|run| run.duplicate) && !planted::is(Bug::DuplicateBeforeSync) {
                        self.journal.last()
                    } else {
                        depends
                    };
                    self.answer(depends, publish.request, Answer::Stored { runs });
                }
                Err(refusal) => self.refuse(publish.request, refusal),
            }
        }
        self.limit_producers();
    }

    /// Decides what becomes of each message of a publish: refused as a whole, or stored run by run.
    fn plan(&mut self, plan: &mut Plan, nth: usize, publish: &Pending) -> Result<Vec<StoredRun>, Refusal> {
        let settings = self
            .state
            .topics
            .get(&publish.topic)
            .ok_or_else(|| Refusal::plain(ErrorCode::TopicDeleted))?
            .settings;
        let attributes = publish.batch.attributes();
        let Some(first) = attributes.runs().next() else {
            return Ok(Vec::new());
        };
        let mut known = Known {
            stored: self.state.producers.window(first.producer),
            turn: plan.windows.remove(&first.producer).unwrap_or_default(),
        };
        if known.seen(first.first_sequence) == Seen::TooOld {
            plan.windows.insert(first.producer, known.turn);
            let text = format!(
                "sequence {} lies before the producer's window of {PRODUCER_WINDOW}",
                first.first_sequence.0
            );
            return Err(Refusal::new(ErrorCode::SequenceTooOld, text));
        }
        let mut runs: Vec<StoredRun> = Vec::new();
        let row_bytes = attributes.total_bytes() / (attributes.count() as usize).max(1);
        let mut row = 0;
        for run in attributes.runs() {
            let end = row + run.rows;
            let mut sequence = run.first_sequence;
            while row < end {
                let seen = known.seen(sequence);
                let (queue, first_offset, count) = match seen {
                    Seen::Stored { queue, offset, count } => (queue, offset, count.min(end - row)),
                    Seen::New | Seen::TooOld => {
                        let block = (1 << SLOT_BLOCK_BITS) - (sequence.0 & ((1 << SLOT_BLOCK_BITS) - 1));
                        let count = known.new_run(sequence, (end - row).min(block as u32));
                        let queue = choose_queue(publish.topic, settings.queues, run.producer, sequence);
                        let queue_end = self.state.queues.get(&queue).map_or(QueueOffset(0), |entry| entry.end);
                        let offset = plan.place(queue, queue_end, nth, row..row + count, row_bytes * count as usize);
                        known.turn.store(
                            sequence,
                            Run {
                                count,
                                queue,
                                first_offset: offset,
                            },
                        );
                        (queue, offset, count)
                    }
                };
                let duplicate = matches!(seen, Seen::Stored { .. });
                push_run(
                    &mut runs,
                    StoredRun {
                        first_sequence: sequence,
                        count,
                        queue,
                        first_offset,
                        duplicate,
                    },
                );
                let counted = if duplicate {
                    &mut self.counters.duplicates
                } else {
                    &mut self.counters.published
                };
                *counted += u64::from(count);
                row += count;
                sequence.0 += u64::from(count);
            }
        }
        plan.windows.insert(first.producer, known.turn);
        Ok(runs)
    }

    /// Appends a planned batch, as one record unless the merged batch would be too large.
    fn append_planned(&mut self, pending: &[Pending], planned: Planned, depends: &mut [Position]) {
        if let [part] = planned.parts.as_slice()
            && part.rows == (0..pending[part.publish].batch.count())
        {
            let batch = pending[part.publish].batch.bytes().clone();
            depends[part.publish] = self.record(Change::Appended {
                queue: planned.queue,
                first: planned.first,
                batch,
            });
            return;
        }
        let mut first = planned.first;
        let mut since = 0;
        for (nth, part) in planned.parts.iter().enumerate() {
            let source = &pending[part.publish].batch;
            if self.publishing.merger.add_batch(source, part.rows.clone()) == Err(MergeError::Full) {
                first = self.append_merged(planned.queue, first, &planned.parts[since..nth], depends);
                since = nth;
                self.publishing
                    .merger
                    .add_batch(source, part.rows.clone())
                    .expect("a part of one batch fits into an empty one");
            }
        }
        self.append_merged(planned.queue, first, &planned.parts[since..], depends);
    }

    fn append_merged(&mut self, queue: QueueId, first: QueueOffset, parts: &[Part], depends: &mut [Position]) -> QueueOffset {
        let count: u64 = parts.iter().map(|part| part.rows.len() as u64).sum();
        assert_eq!(
            self.publishing.merger.len() as u64,
            count,
            "every planned row was merged, for each has its offset"
        );
        let batch = self.publishing.merger.take().into_bytes();
        let position = self.record(Change::Appended { queue, first, batch });
        for part in parts {
            depends[part.publish] = depends[part.publish].max(position);
        }
        QueueOffset(first.0 + count)
    }

    /// Forgets the producers that stored nothing for the longest while all of them take more than they may.
    fn limit_producers(&mut self) {
        while self.state.producers.memory_bytes() > self.config.producer_memory_bytes && self.state.producers.count() > 1 {
            let Some(producer) = self.state.producers.least_recently_used() else {
                break;
            };
            self.record(Change::ProducerForgotten { producer });
            self.counters.producers_forgotten += 1;
        }
    }
}

/// A publish is of one producer, its sequences ascend (with gaps where admission took messages out) and lie within one window.
fn check_runs(batch: &Batch) -> Result<(), Refusal> {
    let mut runs = batch.attributes().runs();
    let Some(first) = runs.next() else { return Ok(()) };
    let mut end = first.first_sequence.0 + u64::from(first.rows);
    for run in runs {
        if run.producer != first.producer || run.first_sequence.0 < end {
            return Err(Refusal::new(
                ErrorCode::BadMessage,
                "the messages of a publish have one producer and ascending sequences",
            ));
        }
        end = run.first_sequence.0 + u64::from(run.rows);
    }
    if end - first.first_sequence.0 > PRODUCER_WINDOW {
        let text = format!("the sequences of one publish lie within {PRODUCER_WINDOW} of each other");
        return Err(Refusal::new(ErrorCode::TooManyUnconfirmed, text));
    }
    Ok(())
}

fn push_run(runs: &mut Vec<StoredRun>, next: StoredRun) {
    match runs.last_mut() {
        Some(last)
            if last.queue == next.queue
                && last.duplicate == next.duplicate
                && last.first_sequence.0 + u64::from(last.count) == next.first_sequence.0
                && last.first_offset.0 + u64::from(last.count) == next.first_offset.0 =>
        {
            last.count += next.count;
        }
        Some(_) | None => runs.push(next),
    }
}
