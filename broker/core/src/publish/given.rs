//! Publishing messages that carry an id of their own: one whose id was stored within ten minutes is answered as it was then.

use sluice_log::record::{Change, GivenId as Recorded, GivenIds};
use sluice_protocol::batch::{Attributes, GivenId, Run as BatchRun};
use sluice_protocol::ids::{QueueId, QueueOffset, TopicId};

use super::{Part, Plan, Span};
use crate::broker::Core;
use crate::effect::StoredRun;
use crate::planted::{self, Bug};
use crate::receipt::Scope;
use crate::state::given_ids::Place;
use crate::state::producer::{Seen, Waits};

/// A message of a published batch that carries an id, alone.
pub(super) struct Identified<'a> {
    pub(super) id: GivenId<'a>,
    pub(super) part: Part,
    /// Its producer and sequence.
    pub(super) run: BatchRun,
    pub(super) waits: Waits,
}

impl Core {
    /// Decides about one message that carries an id. Its sequence is looked at first: what that knows is the first try itself.
    pub(super) fn plan_given(
        &mut self,
        plan: &mut Plan,
        topic: TopicId,
        message: Identified<'_>,
        grouped: Option<&Attributes>,
        runs: &mut Vec<StoredRun>,
    ) {
        let Identified { id, part, run, waits } = message;
        let (producer, sequence) = (run.producer, run.first_sequence);
        let scope = match id.scope {
            0 => Scope::Producer(producer),
            shared => Scope::Shared(shared),
        };
        let hash = self.receipts.given_id(topic, scope, id.id);
        let is_new = !matches!(self.known(plan, producer).seen(sequence), Seen::Stored { .. });
        if is_new && let Some(place) = self.given(plan, hash) {
            self.counters.duplicates += 1;
            runs.push(StoredRun {
                first_sequence: sequence,
                count: 1,
                queue: place.queue,
                first_offset: place.offset,
                duplicate: true,
                recall: self.recall_of(topic, place.offset, place.waits),
                transaction: self.transaction_of(topic, place.offset, place.waits),
            });
            return;
        }
        let is_at_once = waits.due_ms <= self.now.wall_ms && !waits.prepared;
        if is_at_once {
            let span = Span {
                producer,
                first: sequence,
                count: 1,
                bytes: part.bytes,
                parts: vec![part],
            };
            self.plan_span(plan, topic, &span, grouped, runs);
        } else {
            let stored = self.plan_waiting(plan, topic, (producer, sequence), part, waits);
            runs.push(stored);
        }
        if let Some(last) = runs.last().filter(|_| is_new) {
            let place = Place {
                queue: last.queue,
                offset: QueueOffset(last.first_offset.0 + u64::from(last.count) - 1),
                waits: (!is_at_once).then_some(waits),
            };
            plan.given.insert(hash, place);
            self.publishing.given.entry(place.queue).or_default().push_back(Recorded {
                hash,
                offset: place.offset,
                due_ms: place.waits.map_or(0, |waits| waits.due_ms),
            });
        }
    }

    fn given(&self, plan: &Plan, hash: u128) -> Option<Place> {
        if planted::is(Bug::GivenIdForgotten) {
            return None;
        }
        let of_turn = plan.given.get(&hash).copied();
        of_turn.or_else(|| self.state.given_ids.find(hash, self.stamp().mono_ms))
    }

    /// Records the ids of those messages of a turn that lie before `end` in a queue: of what the last record stored.
    pub(super) fn note_given(&mut self, queue: QueueId, end: QueueOffset, prepared: bool) {
        let Some(of_queue) = self.publishing.given.get_mut(&queue) else {
            return;
        };
        let count = of_queue.partition_point(|id| id.offset < end);
        let ids: Vec<Recorded> = of_queue.drain(..count).collect();
        if of_queue.is_empty() {
            self.publishing.given.remove(&queue);
        }
        if !ids.is_empty() {
            self.record_beside(Change::GivenIds(GivenIds::Stored { queue, prepared, ids }));
        }
    }
}
