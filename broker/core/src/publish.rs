//! Publishing: which messages are new, which queue each goes to, and the batches that a turn's messages are merged into.

mod checks;
mod delayed;
mod given;
mod memory;
mod queues;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use sluice_log::record::{Change, GivenId};
use sluice_protocol::batch::{Attributes, Batch, BatchMerger, MergeError, Run as BatchRun, Uses};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Position, ProducerId, QueueId, QueueOffset, Sequence, TopicId};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;
use sluice_protocol::names::check_user_name;

use self::checks::{check_runs, too_old};
use self::delayed::Waiting;
pub(crate) use self::queues::queue_of_row;
use crate::broker::Core;
use crate::effect::{Answer, StoredRun};
use crate::input::RequestId;
use crate::limits::{MERGED_BATCH_BYTES_MAX, WHOLE_BATCH_BYTES_MIN, WHOLE_BATCH_MESSAGES_MIN};
use crate::planted::{self, Bug};
use crate::state::given_ids::Place;
use crate::state::producer::{Run, Seen, Window};

/// What was published in this turn.
#[derive(Debug, Default)]
pub(crate) struct Publishing {
    pending: Vec<Pending>,
    merger: BatchMerger,
    /// The ids of what the turn stores and that were not recorded yet, by queue and offset.
    given: BTreeMap<QueueId, VecDeque<GivenId>>,
}

/// One request that waits for the end of the turn.
#[derive(Debug)]
struct Pending {
    request: RequestId,
    topic: TopicId,
    batches: Vec<Batch>,
    /// The batches that cannot be stored, by number.
    refused: Vec<(u32, Refusal)>,
}

/// One of a turn's batches: which request, and which of its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Source {
    pending: usize,
    batch: usize,
}

impl Source {
    fn batch(self, pending: &[Pending]) -> &Batch {
        &pending[self.pending].batches[self.batch]
    }
}

/// The rows of one published batch that go side by side into a stored one.
#[derive(Clone, Debug)]
struct Part {
    source: Source,
    rows: Range<u32>,
    /// How many rows that batch has.
    of: u32,
    bytes: usize,
}

impl Part {
    fn is_whole(&self) -> bool {
        self.rows == (0..self.of)
    }

    /// Whether these are all rows of a batch that is large enough to be stored as it is.
    fn stays(&self) -> bool {
        self.is_whole() && (self.of >= WHOLE_BATCH_MESSAGES_MIN || self.bytes >= WHOLE_BATCH_BYTES_MIN)
    }
}

/// A batch that is to be appended.
#[derive(Debug)]
struct Planned {
    queue: QueueId,
    first: QueueOffset,
    count: u32,
    bytes: usize,
    parts: Vec<Part>,
    /// Whether it takes no more.
    closed: bool,
}

/// Where all messages of a turn go.
#[derive(Debug, Default)]
struct Plan {
    batches: Vec<Planned>,
    /// The last one of each queue.
    last: BTreeMap<QueueId, usize>,
    /// What goes into the calendar of each topic.
    waiting: BTreeMap<TopicId, Waiting>,
    /// What the turn adds to the windows of its producers.
    windows: BTreeMap<ProducerId, Window>,
    /// The messages with an id that the turn stores.
    given: BTreeMap<u128, Place>,
}

/// What is known of a producer in the middle of a turn.
struct Known<'a> {
    /// Its window as it was before the turn.
    stored: Option<&'a Window>,
    /// What the turn stores.
    turn: &'a Window,
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

impl Plan {
    /// Gives `count` messages the next offsets of a queue: those of the parts, side by side.
    fn place(&mut self, queue: QueueId, end: QueueOffset, count: u32, parts: impl Iterator<Item = Part>) -> QueueOffset {
        let parts: Vec<Part> = parts.collect();
        let bytes: usize = parts.iter().map(|part| part.bytes).sum();
        let mut first = QueueOffset(end.0 + u64::from(planted::is(Bug::OffsetGap) && end.0 % 16 == 5));
        let stays = matches!(parts.as_slice(), [only] if only.stays());
        if let Some(&last) = self.last.get(&queue) {
            let batch = &mut self.batches[last];
            first = QueueOffset(batch.first.0 + u64::from(batch.count));
            let takes = !batch.closed && !stays;
            if takes && (batch.count + count) as usize <= BATCH_MESSAGES_MAX && batch.bytes + bytes <= MERGED_BATCH_BYTES_MAX {
                batch.count += count;
                batch.bytes += bytes;
                for part in parts {
                    batch.push(part);
                }
                return first;
            }
        }
        self.last.insert(queue, self.batches.len());
        self.batches.push(Planned {
            queue,
            first,
            count,
            bytes,
            parts,
            closed: stays,
        });
        first
    }
}

impl Planned {
    fn push(&mut self, part: Part) {
        match self.parts.last_mut() {
            Some(last) if last.source == part.source && last.rows.end == part.rows.start => last.rows.end = part.rows.end,
            Some(_) | None => self.parts.push(part),
        }
    }
}

/// Neighbouring sequences of one producer, which may come from several batches of a request: looked up and placed as if they came from one.
#[derive(Debug)]
struct Span {
    producer: ProducerId,
    first: Sequence,
    count: u32,
    bytes: usize,
    parts: Vec<Part>,
}

impl Span {
    /// Takes a run in that continues the span, unless the span is large enough.
    fn takes(&mut self, run: &BatchRun, part: &Part) -> bool {
        let continues = run.producer == self.producer && run.first_sequence.0 == self.first.0 + u64::from(self.count);
        let fits = self.bytes + part.bytes <= MERGED_BATCH_BYTES_MAX && (self.count + run.rows) as usize <= BATCH_MESSAGES_MAX;
        let fits = fits && !part.stays() && !self.parts.first().is_some_and(Part::stays);
        if continues && fits {
            self.count += run.rows;
            self.bytes += part.bytes;
            self.parts.push(part.clone());
        }
        continues && fits
    }

    /// The parts of the messages `from` up to `to` of the span.
    fn parts(&self, from: u32, to: u32) -> impl Iterator<Item = Part> + '_ {
        let mut at = 0;
        self.parts.iter().filter_map(move |part| {
            let rows = part.rows.len() as u32;
            let (start, end) = (from.max(at), to.min(at + rows));
            let taken = (start < end).then(|| Part {
                source: part.source,
                rows: part.rows.start + (start - at)..part.rows.start + (end - at),
                of: part.of,
                bytes: part.bytes * (end - start) as usize / rows as usize,
            });
            at += rows;
            taken
        })
    }
}

impl Core {
    /// Takes publishes into the turn, and creates their topic when that is allowed.
    pub(crate) fn publish(&mut self, request: RequestId, topic: &str, batches: Vec<Batch>) {
        let checks = batches.iter().map(check_runs).zip(0..);
        let refused: Vec<_> = checks.filter_map(|(check, nth)| Some((nth, check.err()?))).collect();
        if refused.len() == batches.len() {
            self.counters.refused += refused.len() as u64;
            return self.answer(Position::default(), request, Answer::Stored { runs: Vec::new(), refused });
        }
        match self.topic_to_publish(topic) {
            Ok(topic) => self.publishing.pending.push(Pending {
                request,
                topic,
                batches,
                refused,
            }),
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
        let mut pending = std::mem::take(&mut self.publishing.pending);
        let mut plan = Plan::default();
        let outcomes: Vec<_> = (0..pending.len()).map(|nth| self.plan(&mut plan, nth, &mut pending[nth])).collect();
        let mut depends = vec![Position::default(); pending.len()];
        for batch in plan.batches {
            self.append_planned(&pending, batch, &mut depends);
        }
        for (topic, waiting) in plan.waiting {
            self.append_waiting(&pending, topic, waiting, &mut depends);
        }
        for ((Pending { request, refused, .. }, outcome), depends) in pending.into_iter().zip(outcomes).zip(depends) {
            match outcome {
                Ok(runs) => {
                    self.counters.refused += refused.len() as u64;
                    // The first try of a duplicate may not be durable yet: everything so far is waited for.
                    let depends = if runs.iter().any(|run| run.duplicate) && !planted::is(Bug::DuplicateBeforeSync) {
                        self.journal.last()
                    } else {
                        depends
                    };
                    self.answer(depends, request, Answer::Stored { runs, refused });
                }
                Err(refusal) => self.refuse(request, refusal),
            }
        }
        self.limit_producers();
        self.limit_given_ids();
    }

    /// Decides what becomes of each message of a request: stored run by run, its batch refused, or everything refused.
    fn plan(&mut self, plan: &mut Plan, nth: usize, pending: &mut Pending) -> Result<Vec<StoredRun>, Refusal> {
        if !self.state.topics.contains_key(&pending.topic) {
            return Err(Refusal::plain(ErrorCode::TopicDeleted));
        }
        let unsound = std::mem::take(&mut pending.refused);
        let mut unsound = unsound.into_iter().peekable();
        let mut runs = Vec::new();
        let mut span: Option<Span> = None;
        let batches = pending.batches.iter().map(|batch| (batch.attributes(), batch.uses()));
        for (batch, (attributes, uses)) in batches.enumerate() {
            if let Some(refused) = unsound.next_if(|(unsound, _)| *unsound as usize == batch) {
                pending.refused.push(refused);
                continue;
            }
            if attributes.has_delays() || uses.prepared || uses.given_ids {
                if let Some(full) = span.take() {
                    self.plan_span(plan, pending.topic, &full, None, &mut runs);
                }
                let source = Source { pending: nth, batch };
                if let Err(refusal) = self.plan_delays(plan, pending.topic, source, (attributes, uses), &mut runs) {
                    pending.refused.push((batch as u32, refusal));
                }
                continue;
            }
            let row_bytes = attributes.total_bytes() / (attributes.count() as usize).max(1);
            let grouped = uses.groups.then_some(attributes);
            let mut row = 0;
            for run in attributes.runs() {
                let part = Part {
                    source: Source { pending: nth, batch },
                    rows: row..row + run.rows,
                    of: attributes.count(),
                    bytes: row_bytes * run.rows as usize,
                };
                row += run.rows;
                if grouped.is_none() && span.as_mut().is_some_and(|span| span.takes(&run, &part)) {
                    continue;
                }
                if let Some(full) = span.take() {
                    self.plan_span(plan, pending.topic, &full, None, &mut runs);
                }
                // What continues a span comes after sequences that are not too old, and so is not either; nor is the rest of a batch.
                if part.rows.start == 0 && self.known(plan, run.producer).seen(run.first_sequence) == Seen::TooOld {
                    pending.refused.push((batch as u32, too_old(run.first_sequence)));
                    break;
                }
                let next = Span {
                    producer: run.producer,
                    first: run.first_sequence,
                    count: run.rows,
                    bytes: part.bytes,
                    parts: vec![part],
                };
                match grouped {
                    Some(attributes) => self.plan_span(plan, pending.topic, &next, Some(attributes), &mut runs),
                    None => span = Some(next),
                }
            }
        }
        if let Some(last) = span {
            self.plan_span(plan, pending.topic, &last, None, &mut runs);
        }
        Ok(runs)
    }

    fn known<'a>(&'a self, plan: &'a mut Plan, producer: ProducerId) -> Known<'a> {
        Known {
            stored: self.state.producers.window(producer),
            turn: plan.windows.entry(producer).or_default(),
        }
    }

    /// Decides where the messages of a span go, and adds that to `runs`. Those of `grouped` are looked at for their message group.
    fn plan_span(&mut self, plan: &mut Plan, topic: TopicId, span: &Span, grouped: Option<&Attributes>, runs: &mut Vec<StoredRun>) {
        let slots = self.state.slots_of(topic);
        let mut at = 0;
        while at < span.count {
            let (sequence, rest) = (Sequence(span.first.0 + u64::from(at)), span.count - at);
            let known = self.known(plan, span.producer);
            let seen = known.seen(sequence);
            let (queue, first_offset, count, waits) = match seen {
                Seen::Stored {
                    queue,
                    offset,
                    count,
                    waits,
                } => (queue, offset, if waits.is_some() { 1 } else { count.min(rest) }, waits),
                Seen::New | Seen::TooOld => {
                    let (queue, neighbours) = span.queue_of(topic, &slots, at, grouped);
                    let count = known.new_run(sequence, rest.min(neighbours));
                    let queue_end = self.state.queues.get(&queue).map_or(QueueOffset(0), |entry| entry.end);
                    let first_offset = plan.place(queue, queue_end, count, span.parts(at, at + count));
                    let run = Run {
                        count,
                        queue,
                        first_offset,
                        waits: None,
                    };
                    plan.windows.entry(span.producer).or_default().store(sequence, run);
                    (queue, first_offset, count, None)
                }
            };
            let duplicate = matches!(seen, Seen::Stored { .. });
            let run = StoredRun {
                first_sequence: sequence,
                count,
                queue,
                first_offset,
                duplicate,
                recall: self.recall_of(queue.topic, first_offset, waits),
                transaction: self.transaction_of(queue.topic, first_offset, waits),
            };
            push_run(runs, run);
            let counted = match duplicate {
                true => &mut self.counters.duplicates,
                false => &mut self.counters.published,
            };
            *counted += u64::from(count);
            at += count;
        }
    }

    /// Appends a planned batch, as one record unless the merged batch would be too large.
    fn append_planned(&mut self, pending: &[Pending], planned: Planned, depends: &mut [Position]) {
        if let [part] = planned.parts.as_slice()
            && part.is_whole()
        {
            let source = part.source.batch(pending);
            let (batch, uses) = (source.bytes().clone(), source.uses());
            self.note_uses(planned.queue, planned.first, planned.count.into(), uses);
            depends[part.source.pending] = self.record(Change::Appended {
                queue: planned.queue,
                first: planned.first,
                batch,
            });
            let end = QueueOffset(planned.first.0 + u64::from(planned.count));
            self.note_given(planned.queue, end, false);
            return;
        }
        let mut uses = Uses::default();
        let parts = planned.parts.iter();
        parts.for_each(|part| uses.join(part.source.batch(pending).uses()));
        self.note_uses(planned.queue, planned.first, planned.count.into(), uses);
        let mut first = planned.first;
        let mut since = 0;
        for (nth, part) in planned.parts.iter().enumerate() {
            let source = part.source.batch(pending);
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
        self.note_given(queue, QueueOffset(first.0 + count), false);
        for part in parts {
            let depends = &mut depends[part.source.pending];
            *depends = position.max(*depends);
        }
        QueueOffset(first.0 + count)
    }
}

fn push_run(runs: &mut Vec<StoredRun>, next: StoredRun) {
    let is_plain = |run: &StoredRun| run.recall.is_none() && run.transaction.is_none();
    match runs.last_mut() {
        Some(last)
            if last.queue == next.queue
                && last.duplicate == next.duplicate
                && is_plain(last)
                && is_plain(&next)
                && last.first_sequence.0 + u64::from(last.count) == next.first_sequence.0
                && last.first_offset.0 + u64::from(last.count) == next.first_offset.0 =>
        {
            last.count += next.count;
        }
        Some(_) | None => runs.push(next),
    }
}
