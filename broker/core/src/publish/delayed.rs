//! Publishing what waits for its time: which messages of a batch do, and the numbers that they get in the calendar of their topic.

use std::ops::Range;

use sluice_log::record::Change;
use sluice_protocol::batch::{Attributes, Run as BatchRun, Uses};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{Position, ProducerId, QueueOffset, Sequence, TopicId};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;

use super::{Part, Pending, Plan, Source, Span, too_old};
use crate::broker::Core;
use crate::effect::StoredRun;
use crate::limits::MERGED_BATCH_BYTES_MAX;
use crate::state::producer::{Run, Seen};

/// What a turn puts into one calendar: messages, and when each is due.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    parts: Vec<Part>,
    due_ms: Vec<i64>,
}

impl Waiting {
    fn push(&mut self, part: Part, due_ms: i64) {
        self.due_ms.push(due_ms);
        match self.parts.last_mut() {
            Some(last) if last.source == part.source && last.rows.end == part.rows.start => {
                last.rows.end = part.rows.end;
                last.bytes += part.bytes;
            }
            Some(_) | None => self.parts.push(part),
        }
    }
}

impl Core {
    /// Decides about a batch some of whose messages have a time of delivery: those that are not due go into the calendar, the others into
    /// queues as ever. A message that was taken before is answered as it was then.
    pub(super) fn plan_delays(
        &mut self,
        plan: &mut Plan,
        topic: TopicId,
        source: Source,
        (attributes, uses): (&Attributes, Uses),
        runs: &mut Vec<StoredRun>,
    ) -> Result<(), Refusal> {
        if let Some(first) = attributes.runs().next()
            && self.known(plan, first.producer).seen(first.first_sequence) == Seen::TooOld
        {
            return Err(too_old(first.first_sequence));
        }
        let bytes = attributes.total_bytes() / (attributes.count() as usize).max(1);
        let grouped = uses.groups.then_some(attributes);
        let mut at_once: Option<Span> = None;
        for row in attributes.rows() {
            let part = Part {
                source,
                rows: row.index()..row.index() + 1,
                of: attributes.count(),
                bytes,
            };
            let run = BatchRun {
                producer: row.producer(),
                first_sequence: row.sequence(),
                rows: 1,
            };
            let waits = row.deliver_at_ms() > self.now.wall_ms;
            if !waits && grouped.is_none() && at_once.as_mut().is_some_and(|span| span.takes(&run, &part)) {
                continue;
            }
            if let Some(full) = at_once.take() {
                self.plan_span(plan, topic, &full, grouped, runs);
            }
            if waits {
                let stored = self.plan_delayed(plan, topic, (run.producer, run.first_sequence), part, row.deliver_at_ms());
                runs.push(stored);
            } else {
                at_once = Some(Span {
                    producer: run.producer,
                    first: run.first_sequence,
                    count: 1,
                    bytes,
                    parts: vec![part],
                });
            }
        }
        if let Some(last) = at_once {
            self.plan_span(plan, topic, &last, grouped, runs);
        }
        Ok(())
    }

    /// Gives a message the next number of its calendar, unless it was stored before.
    fn plan_delayed(
        &mut self,
        plan: &mut Plan,
        topic: TopicId,
        (producer, sequence): (ProducerId, Sequence),
        part: Part,
        due_ms: i64,
    ) -> StoredRun {
        let seen = self.known(plan, producer).seen(sequence);
        let (queue, offset, due_ms) = match seen {
            Seen::Stored { queue, offset, due_ms, .. } => (queue, offset, due_ms),
            Seen::New | Seen::TooOld => {
                let next = self.state.stored_end(topic.calendar()).unwrap_or_default();
                let waiting = plan.waiting.entry(topic).or_default();
                let number = QueueOffset(next.0 + waiting.due_ms.len() as u64);
                waiting.push(part, due_ms);
                let run = Run {
                    count: 1,
                    queue: topic.calendar(),
                    first_offset: number,
                    due_ms: Some(due_ms),
                };
                plan.windows.entry(producer).or_default().store(sequence, run);
                (run.queue, number, run.due_ms)
            }
        };
        let duplicate = matches!(seen, Seen::Stored { .. });
        let counted = match duplicate {
            true => &mut self.counters.duplicates,
            false => &mut self.counters.delayed,
        };
        *counted += 1;
        StoredRun {
            first_sequence: sequence,
            count: 1,
            queue,
            first_offset: offset,
            duplicate,
            recall: self.recall_of(queue.topic, offset, due_ms),
        }
    }

    /// Puts the turn's delayed messages of a topic into its calendar, in as few records as hold them.
    pub(super) fn append_waiting(&mut self, pending: &[Pending], topic: TopicId, waiting: Waiting, depends: &mut [Position]) {
        let Waiting { parts, due_ms } = waiting;
        let (mut since, mut taken) = (0, 0);
        for nth in 0..parts.len() {
            let part = &parts[nth];
            let (source, merger) = (part.source.batch(pending), &mut self.publishing.merger);
            let fits = merger.len() + part.rows.len() <= BATCH_MESSAGES_MAX && merger.total_bytes() + part.bytes <= MERGED_BATCH_BYTES_MAX;
            if !(merger.is_empty() || fits) || merger.add_batch(source, part.rows.clone()).is_err() {
                taken = self.append_delayed(topic, &parts[since..nth], &due_ms, taken, depends);
                since = nth;
                let merger = &mut self.publishing.merger;
                merger
                    .add_batch(source, part.rows.clone())
                    .expect("a part of one batch fits into an empty one");
            }
        }
        self.append_delayed(topic, &parts[since..], &due_ms, taken, depends);
    }

    /// Records what was merged; how many of the times are used up then.
    fn append_delayed(&mut self, topic: TopicId, parts: &[Part], due_ms: &[i64], taken: usize, depends: &mut [Position]) -> usize {
        let within: Range<usize> = taken..taken + self.publishing.merger.len();
        let batch = self.publishing.merger.take().into_bytes();
        let first = self.state.stored_end(topic.calendar()).unwrap_or_default();
        let due_ms = due_ms[within.clone()].to_vec();
        self.releasing.came(topic, first, &due_ms);
        let position = self.record(Change::Delayed {
            topic,
            first,
            due_ms,
            batch,
        });
        for part in parts {
            let depends = &mut depends[part.source.pending];
            *depends = position.max(*depends);
        }
        within.end
    }
}
