//! Releasing messages that were delayed: they are read while they are nearly due, and stored in their queue when they are.

use std::collections::{BTreeMap, BTreeSet};

use sluice_log::record::{Change, Due};
use sluice_protocol::batch::{Batch, BatchMerger, Uses};
use sluice_protocol::ids::{Position, QueueId, TopicId};
use sluice_protocol::limits::BATCH_MESSAGES_MAX;

use crate::broker::Core;
use crate::effect::{Effect, FetchId};
use crate::limits::{
    DUE_AGAIN_MS, DUE_AHEAD_MS, DUE_BYTES_MAX, DUE_FETCH_MAX, DUE_FETCHES_MAX, FETCH_AGAIN_MS, MERGED_BATCH_BYTES_MAX, RELEASED_MAX,
};
use crate::planted::{self, Bug};
use crate::publish::queue_of_row;

/// What is read ahead of the calendars.
#[derive(Debug, Default)]
pub(crate) struct Releasing {
    topics: BTreeMap<TopicId, Ahead>,
    fetches: BTreeMap<FetchId, (TopicId, Vec<Due>)>,
    /// What is kept ahead of all topics.
    ready_bytes: usize,
}

/// What is read ahead of one calendar. Nothing of it is durable: all is made anew from the calendar.
#[derive(Debug, Default)]
struct Ahead {
    /// The calendar was looked at up to and including this message; what comes later and is due earlier is told.
    looked: Option<Due>,
    /// To be asked for.
    unasked: BTreeSet<Due>,
    /// Asked for.
    asked: BTreeSet<Due>,
    /// Read.
    ready: BTreeMap<Due, Ready>,
    /// Could not be read; on the monotonic clock when it is asked for again. Nothing waits for these.
    unreadable: BTreeMap<Due, u64>,
    /// When the topic is gone on with after something could not be read, on the monotonic clock.
    again_mono_ms: u64,
}

/// A message that was read, in a batch with others.
#[derive(Debug)]
struct Ready {
    batch: Batch,
    row: u32,
    bytes: usize,
}

impl Releasing {
    /// A topic is gone.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        if let Some(ahead) = self.topics.remove(&topic) {
            self.ready_bytes -= ahead.ready.values().map(|ready| ready.bytes).sum::<usize>();
        }
    }

    /// Messages come into a calendar, or come back from a part: perhaps the last that was looked at.
    pub(crate) fn came(&mut self, topic: TopicId, due: impl Iterator<Item = Due>) {
        let Some(ahead) = self.topics.get_mut(&topic) else { return };
        let looked = ahead.looked;
        let late = due.filter(|due| Some(*due) <= looked && !planted::is(Bug::DueForgotten));
        ahead.unasked.extend(late);
    }

    /// A message was recalled, or waits in a part from now on.
    pub(crate) fn withdraw(&mut self, topic: TopicId, due: Due) {
        let Some(ahead) = self.topics.get_mut(&topic) else { return };
        ahead.unasked.remove(&due);
        ahead.asked.remove(&due);
        ahead.unreadable.remove(&due);
        if let Some(ready) = ahead.ready.remove(&due) {
            self.ready_bytes -= ready.bytes;
        }
    }
}

impl Ahead {
    /// Nothing behind this message is released before it: it is still to be read.
    fn blocked(&self) -> Option<Due> {
        let (unasked, asked) = (self.unasked.first(), self.asked.first());
        unasked.into_iter().chain(asked).min().copied()
    }

    /// The first message that may be released when it is due.
    fn first_ready(&self) -> Option<Due> {
        let blocked = self.blocked();
        let first = self.ready.first_key_value().map(|(due, _)| *due);
        first.filter(|due| blocked.is_none_or(|blocked| *due < blocked))
    }

    /// Whether there is room to look further.
    fn may_look(&self) -> bool {
        self.unasked.len() < DUE_FETCH_MAX * DUE_FETCHES_MAX
    }
}

impl Core {
    /// Stores what is due, and asks for what is nearly.
    pub(crate) fn release_due(&mut self) {
        let near_ms = self.now.wall_ms.saturating_add(DUE_AHEAD_MS / 2);
        let near = self.state.calendars.by_due().take_while(|(due_ms, _)| *due_ms <= near_ms);
        let topics: Vec<TopicId> = near.map(|(_, topic)| topic).collect();
        for topic in topics {
            // Taken out meanwhile, since storing needs all of the core.
            let mut ahead = self.releasing.topics.remove(&topic).unwrap_or_default();
            self.look_ahead(topic, &mut ahead, near_ms);
            self.release_ready(topic, &mut ahead);
            self.ask_due(topic, &mut ahead);
            if self
                .state
                .calendars
                .get(topic)
                .is_some_and(|calendar| calendar.first_ms().is_some())
            {
                self.releasing.topics.insert(topic, ahead);
            }
        }
    }

    /// Notes what is due soon when some of it is due sooner.
    fn look_ahead(&self, topic: TopicId, ahead: &mut Ahead, near_ms: i64) {
        let Some(calendar) = self.state.calendars.get(topic) else { return };
        let is_near = calendar.after(ahead.looked).next().is_some_and(|due| due.at_ms <= near_ms);
        if !is_near || !ahead.may_look() {
            return;
        }
        let far_ms = self.now.wall_ms.saturating_add(DUE_AHEAD_MS);
        let soon = calendar.after(ahead.looked).take_while(|due| due.at_ms <= far_ms);
        for due in soon.take(DUE_FETCH_MAX * DUE_FETCHES_MAX) {
            ahead.unasked.insert(due);
            ahead.looked = Some(due);
        }
    }

    /// Stores the messages that are due and were read, each in its queue and in the order in which they are due.
    fn release_ready(&mut self, topic: TopicId, ahead: &mut Ahead) {
        if !self.state.topics.contains_key(&topic) {
            return;
        }
        let slots = self.state.slots_of(topic);
        let now_ms = self.now.wall_ms + i64::from(planted::is(Bug::ReleasedEarly));
        let mut released: BTreeMap<QueueId, Vec<(Due, Ready)>> = BTreeMap::new();
        for _ in 0..RELEASED_MAX {
            let Some(due) = ahead.first_ready().filter(|due| due.at_ms <= now_ms) else {
                break;
            };
            let Some(ready) = ahead.ready.remove(&due) else { break };
            self.releasing.ready_bytes -= ready.bytes;
            let row = ready.batch.row(ready.row).expect("a message is ready in a batch that has it");
            let queue = queue_of_row(topic, &slots, &row);
            released.entry(queue).or_default().push((due, ready));
        }
        for (queue, messages) in released {
            self.append_released(queue, messages);
        }
    }

    /// Stores released messages at the end of their queue, in as few records as hold them.
    fn append_released(&mut self, queue: QueueId, messages: Vec<(Due, Ready)>) {
        let (mut merger, mut released, mut uses) = (BatchMerger::new(), Vec::new(), Uses::default());
        for (due, ready) in messages {
            let fits = merger.len() < BATCH_MESSAGES_MAX && merger.total_bytes() + ready.bytes <= MERGED_BATCH_BYTES_MAX;
            let rows = ready.row..ready.row + 1;
            if !(merger.is_empty() || fits) || merger.add_batch(&ready.batch, rows.clone()).is_err() {
                self.append_merged_release(queue, &mut merger, &mut released, std::mem::take(&mut uses));
                merger
                    .add_batch(&ready.batch, rows)
                    .expect("a message of one batch fits into an empty one");
            }
            ready.batch.row(ready.row).iter().for_each(|row| uses.add(row));
            released.push(due);
        }
        self.append_merged_release(queue, &mut merger, &mut released, uses);
    }

    fn append_merged_release(&mut self, queue: QueueId, merger: &mut BatchMerger, released: &mut Vec<Due>, uses: Uses) {
        let (batch, due) = (merger.take().into_bytes(), std::mem::take(released));
        let first = self.state.stored_end(queue).unwrap_or_default();
        self.counters.released += due.len() as u64;
        self.note_uses(queue, first, due.len() as u64, uses);
        self.record(Change::Released { queue, first, due, batch });
    }

    /// Asks for messages that are due soon and durable, the first due first.
    fn ask_due(&mut self, topic: TopicId, ahead: &mut Ahead) {
        if ahead.again_mono_ms > self.now.mono_ms {
            return;
        }
        let again = ahead
            .unreadable
            .extract_if(.., |_, again_mono_ms| *again_mono_ms <= self.now.mono_ms);
        ahead.unasked.extend(again.map(|(due, _)| due));
        let durable = self.visible_end(topic.calendar());
        while self.releasing.fetches.len() < DUE_FETCHES_MAX {
            let is_full = self.releasing.ready_bytes >= DUE_BYTES_MAX;
            let until_ms = self.now.wall_ms.saturating_add(if is_full { 0 } else { DUE_AHEAD_MS });
            let soon = ahead.unasked.iter().take_while(|due| due.at_ms <= until_ms);
            let due: Vec<Due> = soon.filter(|due| due.number < durable).take(DUE_FETCH_MAX).copied().collect();
            if due.is_empty() {
                return;
            }
            for due in &due {
                ahead.unasked.remove(due);
                ahead.asked.insert(*due);
            }
            let fetch = FetchId(self.consuming.next_id());
            let read = Effect::FetchDue {
                fetch,
                calendar: topic.calendar(),
                messages: due.clone(),
                parts: self.parts_of(topic, &due),
            };
            self.releasing.fetches.insert(fetch, (topic, due));
            self.journal.release(Position::default(), read);
        }
    }

    /// Messages that are due soon were read, or the first of those that were asked for could not be.
    pub(crate) fn due_fetched(&mut self, fetch: FetchId, batch: Option<Batch>) {
        let Some((topic, due)) = self.releasing.fetches.remove(&fetch) else {
            return;
        };
        let Some(ahead) = self.releasing.topics.get_mut(&topic) else {
            return;
        };
        let batch = batch.filter(|batch| !batch.is_empty());
        let read = batch.as_ref().map_or(0, |batch| (batch.count() as usize).min(due.len()));
        for (due, row) in due.iter().zip(0..).take(read) {
            let Some(batch) = &batch else { break };
            let is_wanted = ahead.asked.remove(due);
            if let Some(row) = batch.row(row).filter(|_| is_wanted || planted::is(Bug::RecalledFetchedFires)) {
                let bytes = row.attribute_bytes() + row.body_len();
                self.releasing.ready_bytes += bytes;
                let (batch, row) = (batch.clone(), row.index());
                ahead.ready.insert(*due, Ready { batch, row, bytes });
            }
        }
        let mut unread = due[read..].iter().filter(|due| ahead.asked.remove(due));
        if batch.is_none() {
            self.counters.due_unreadable += 1;
            ahead.again_mono_ms = self.now.mono_ms + DUE_AGAIN_MS;
            let again_mono_ms = self.now.mono_ms + FETCH_AGAIN_MS;
            ahead.unreadable.extend(unread.next().map(|due| (*due, again_mono_ms)));
        }
        ahead.unasked.extend(unread.copied());
    }

    /// When something is to be released or asked for, in milliseconds on the monotonic clock.
    pub(crate) fn next_release(&self) -> Option<u64> {
        let now = self.now;
        let in_ms = |wall_ms: i64| {
            now.mono_ms
                .saturating_add(wall_ms.saturating_sub(now.wall_ms).max(0).unsigned_abs())
        };
        let mut next: Option<u64> = None;
        let mut sooner = |mono_ms: u64| next = Some(next.map_or(mono_ms, |next| next.min(mono_ms)));
        for (due_ms, topic) in self.state.calendars.by_due() {
            let near_ms = due_ms.saturating_sub(DUE_AHEAD_MS / 2);
            if near_ms > now.wall_ms {
                sooner(in_ms(near_ms));
                break;
            }
            let Some(ahead) = self.releasing.topics.get(&topic) else {
                sooner(now.mono_ms);
                continue;
            };
            if let Some(due) = ahead.first_ready() {
                sooner(in_ms(due.at_ms));
            }
            let calendar = self.state.calendars.get(topic);
            if let Some(due) = calendar
                .and_then(|calendar| calendar.after(ahead.looked).next())
                .filter(|_| ahead.may_look())
            {
                sooner(in_ms(due.at_ms.saturating_sub(DUE_AHEAD_MS / 2)));
            }
            if let Some(again_mono_ms) = ahead.unreadable.values().min() {
                sooner(*again_mono_ms);
            }
            if ahead.again_mono_ms > now.mono_ms {
                sooner(ahead.again_mono_ms);
            }
        }
        next
    }
}
