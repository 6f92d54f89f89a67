//! Publishing what waits for its time or for a decision, or has an id of its own: which messages of a batch do, and the numbers that they get in the calendar of
//! their topic.

use std::ops::Range;

use sluice_log::record::{Change, Due};
use sluice_protocol::batch::{Attributes, Run as BatchRun, Uses};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{Position, ProducerId, QueueOffset, Sequence, TopicId};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;

use super::given::Identified;
use super::{Part, Pending, Plan, Source, Span, too_old};
use crate::broker::Core;
use crate::effect::{Recall, StoredRun};
use crate::limits::MERGED_BATCH_BYTES_MAX;
use crate::receipt::TRANSACTION_BYTES;
use crate::state::producer::{Run, Seen, Waits};

/// What a turn puts into one calendar queue: messages, whether each is only prepared, and when it is due.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    parts: Vec<(Part, bool)>,
    due_ms: Vec<i64>,
}

impl Waiting {
    fn push(&mut self, part: Part, waits: Waits) {
        self.due_ms.push(waits.due_ms);
        match self.parts.last_mut() {
            Some((last, prepared)) if (last.source, *prepared) == (part.source, waits.prepared) && last.rows.end == part.rows.start => {
                last.rows.end = part.rows.end;
                last.bytes += part.bytes;
            }
            Some(_) | None => self.parts.push((part, waits.prepared)),
        }
    }
}

impl Core {
    /// Decides about a batch some of whose messages have a time of delivery or are only prepared: those that are not due or not committed go
    /// into the calendar queue, the others into queues as ever. A message that was taken before is answered as it was then.
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
            let waits = Waits {
                due_ms: row.deliver_at_ms(),
                prepared: row.is_prepared(),
            };
            if let Some(id) = row.given_id() {
                if let Some(full) = at_once.take() {
                    self.plan_span(plan, topic, &full, grouped, runs);
                }
                self.plan_given(plan, topic, Identified { id, part, run, waits }, grouped, runs);
                continue;
            }
            let at_once_too = waits.due_ms <= self.now.wall_ms && !waits.prepared;
            if at_once_too && grouped.is_none() && at_once.as_mut().is_some_and(|span| span.takes(&run, &part)) {
                continue;
            }
            if let Some(full) = at_once.take() {
                self.plan_span(plan, topic, &full, grouped, runs);
            }
            if !at_once_too {
                let stored = self.plan_waiting(plan, topic, (run.producer, run.first_sequence), part, waits);
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

    /// Gives a message the next number of its calendar queue, unless it was stored before.
    pub(super) fn plan_waiting(
        &mut self,
        plan: &mut Plan,
        topic: TopicId,
        (producer, sequence): (ProducerId, Sequence),
        part: Part,
        waits: Waits,
    ) -> StoredRun {
        let seen = self.known(plan, producer).seen(sequence);
        let (queue, offset, waits) = match seen {
            Seen::Stored { queue, offset, waits, .. } => (queue, offset, waits),
            Seen::New | Seen::TooOld => {
                let next = self.state.stored_end(topic.calendar()).unwrap_or_default();
                let waiting = plan.waiting.entry(topic).or_default();
                let number = QueueOffset(next.0 + waiting.due_ms.len() as u64);
                waiting.push(part, waits);
                let run = Run {
                    count: 1,
                    queue: topic.calendar(),
                    first_offset: number,
                    waits: Some(waits),
                };
                plan.windows.entry(producer).or_default().store(sequence, run);
                (run.queue, number, run.waits)
            }
        };
        let duplicate = matches!(seen, Seen::Stored { .. });
        let counted = match (duplicate, waits.is_some_and(|waits| waits.prepared)) {
            (true, _) => &mut self.counters.duplicates,
            (false, true) => &mut self.counters.prepared,
            (false, false) => &mut self.counters.delayed,
        };
        *counted += 1;
        StoredRun {
            first_sequence: sequence,
            count: 1,
            queue,
            first_offset: offset,
            duplicate,
            recall: self.recall_of(queue.topic, offset, waits),
            transaction: self.transaction_of(queue.topic, offset, waits),
        }
    }

    /// What a delayed message is answered with.
    pub(super) fn recall_of(&self, topic: TopicId, number: QueueOffset, waits: Option<Waits>) -> Option<Recall> {
        let due_ms = waits.map(|waits| waits.due_ms).filter(|due_ms| *due_ms > 0);
        due_ms.map(|due_ms| Recall {
            due_ms,
            handle: self.receipts.recall(topic, Due { at_ms: due_ms, number }),
        })
    }

    /// What commits or rolls back a prepared message.
    pub(super) fn transaction_of(&self, topic: TopicId, number: QueueOffset, waits: Option<Waits>) -> Option<[u8; TRANSACTION_BYTES]> {
        let prepared = waits.is_some_and(|waits| waits.prepared);
        prepared.then(|| self.receipts.transaction(topic, number))
    }

    /// Puts the messages of a turn that wait into the calendar queue of their topic, in as few records as hold them.
    pub(super) fn append_waiting(&mut self, pending: &[Pending], topic: TopicId, waiting: Waiting, depends: &mut [Position]) {
        let Waiting { parts, due_ms } = waiting;
        let (mut since, mut taken) = (0, 0);
        for nth in 0..parts.len() {
            let (part, prepared) = &parts[nth];
            let (source, merger) = (part.source.batch(pending), &mut self.publishing.merger);
            let alike = nth == since || parts[nth - 1].1 == *prepared;
            let fits = alike
                && merger.len() + part.rows.len() <= BATCH_MESSAGES_MAX
                && merger.total_bytes() + part.bytes <= MERGED_BATCH_BYTES_MAX;
            if !(merger.is_empty() || fits) || merger.add_batch(source, part.rows.clone()).is_err() {
                taken = self.append_numbered(topic, &parts[since..nth], &due_ms, taken, depends);
                since = nth;
                let merger = &mut self.publishing.merger;
                merger
                    .add_batch(source, part.rows.clone())
                    .expect("a part of one batch fits into an empty one");
            }
        }
        self.append_numbered(topic, &parts[since..], &due_ms, taken, depends);
    }

    /// Records what was merged; how many of the times are used up then.
    fn append_numbered(&mut self, topic: TopicId, parts: &[(Part, bool)], due_ms: &[i64], taken: usize, depends: &mut [Position]) -> usize {
        let within: Range<usize> = taken..taken + self.publishing.merger.len();
        let batch = self.publishing.merger.take().into_bytes();
        let first = self.state.stored_end(topic.calendar()).unwrap_or_default();
        let due_ms = due_ms[within.clone()].to_vec();
        let (prepared, end) = (
            parts.first().is_some_and(|(_, prepared)| *prepared),
            QueueOffset(first.0 + due_ms.len() as u64),
        );
        let position = if prepared {
            self.prepare(topic, first, due_ms, batch)
        } else {
            let due = due_ms.iter().zip(first.0..).map(|(&at_ms, number)| Due {
                at_ms,
                number: QueueOffset(number),
            });
            self.releasing.came(topic, due);
            self.note_far(due_ms.iter().copied());
            self.record(Change::Delayed {
                topic,
                first,
                due_ms,
                batch,
            })
        };
        self.note_given(topic.calendar(), end, prepared);
        for (part, _) in parts {
            let depends = &mut depends[part.source.pending];
            *depends = position.max(*depends);
        }
        within.end
    }
}
