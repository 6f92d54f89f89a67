//! Putting far-off messages into parts, so that they take no memory and keep no segment; merging parts, and letting go of them.

use std::collections::{BTreeMap, BTreeSet};

use sluice_log::record::{Change, Due, FarOff, PartChange, PartFacts, PartId};
use sluice_protocol::ids::Position;

use crate::broker::Core;
use crate::effect::Effect;
use crate::limits::{MERGE_AGAIN_MS, NEAR_MS, PART_AGAIN_MS, PART_MERGED_BYTES_MAX, PART_MERGED_MESSAGES_MAX};
use crate::parts::{PartDone, PartSource, PartWork};
use crate::planted::{self, Bug};
use crate::state::parts::Part;
use crate::taking::Taking;

/// What is under way with parts. Nothing of it is durable: whatever a crash cuts short is begun anew.
#[derive(Debug, Default)]
pub(crate) struct Parting {
    /// The part that is written.
    order: Option<(PartId, PartSource)>,
    /// Something may be there to be put into a part.
    requested: bool,
    /// How many far-off messages came since the last look.
    came: usize,
    /// The number of the newest part that was asked for.
    newest: u64,
    /// Nothing is begun before, on the monotonic clock: what was begun before failed.
    again_mono_ms: u64,
    /// Nothing is merged before, on the monotonic clock: what was to be merged could not be.
    merge_again_mono_ms: u64,
    /// What is being taken in and looked for.
    pub(crate) taking: Taking,
}

impl Parting {
    /// What came before may be far off.
    pub(crate) fn request(&mut self) {
        self.requested = true;
    }

    /// When a part may be begun that could not be before, on the monotonic clock.
    fn next_try(&self, now_mono_ms: u64) -> Option<u64> {
        let waits = self.requested && self.order.is_none() && self.again_mono_ms > now_mono_ms;
        waits.then_some(self.again_mono_ms)
    }
}

impl Core {
    /// Messages are put into a calendar that are due at these times.
    pub(crate) fn note_far(&mut self, due_ms: impl Iterator<Item = i64>) {
        let Some(far_ms) = self.far_ms() else { return };
        self.parting.came += due_ms.filter(|due_ms| *due_ms > far_ms).count();
    }

    /// What is due later than this goes into a part.
    fn far_ms(&self) -> Option<i64> {
        let near_ms = self.config.near_ms?;
        Some(self.now.wall_ms.saturating_add(near_ms.saturating_mul(2)))
    }

    /// What is due until then waits in memory. Where nothing goes into parts, what is in some still comes back in time.
    pub(crate) fn near_ms(&self) -> i64 {
        self.now.wall_ms.saturating_add(self.config.near_ms.unwrap_or(NEAR_MS))
    }

    /// When a part has something that is due within [`Core::near_ms`], what is due up to here is taken out of it together, so that one whose
    /// messages are due one after the other is not read for each of them.
    pub(crate) fn take_until_ms(&self) -> i64 {
        self.near_ms().saturating_add(self.config.near_ms.unwrap_or(NEAR_MS) / 2)
    }

    /// Of a part whose next message is due later than this nothing is taken in soon.
    fn idle_ms(&self) -> Option<i64> {
        let near_ms = self.config.near_ms?;
        Some(self.near_ms().saturating_add(near_ms / 4))
    }

    /// Goes on with the parts: lets go of those that are done with, takes in what is nearly due, and begins a new one.
    pub(crate) fn step_parts(&mut self) {
        self.drop_parts();
        self.take_in();
        self.begin_part();
    }

    /// When something is to be done with the parts, in milliseconds on the monotonic clock.
    pub(crate) fn next_part_step(&self) -> Option<u64> {
        [self.parting.next_try(self.now.mono_ms), self.next_take_in()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Lets go of parts of which nothing is needed any more: all was taken in or is in another one, and all that was taken in before what is
    /// taken in now is released or recalled. The file goes when that is durable.
    fn drop_parts(&mut self) {
        let first_taken_ms = self.state.calendars.first_taken_ms();
        let is_done = |part: &Part| match part.point {
            Some(point) => first_taken_ms.is_none_or(|first_ms| first_ms > point.at_ms) || planted::is(Bug::PartDroppedEarly),
            None => true,
        };
        let ended = self.state.parts.ended().filter(|(_, part)| is_done(part));
        for part in ended.map(|(part, _)| part).collect::<Vec<_>>() {
            let depends = self.record(Change::Parts(PartChange::Dropped { part }));
            self.counters.parts_dropped += 1;
            self.journal.release(depends, Effect::Parts(PartWork::Remove { part }));
        }
    }

    fn begin_part(&mut self) {
        let parting = &self.parting;
        let is_wanted = parting.requested || parting.came >= self.config.part_messages;
        if !is_wanted || parting.order.is_some() || parting.again_mono_ms > self.now.mono_ms {
            return;
        }
        (self.parting.requested, self.parting.came) = (false, 0);
        let Some(source) = self.far_in_log().or_else(|| self.parts_to_merge()) else {
            return;
        };
        // A number that no part has, or had since the start, whatever became of it.
        let named = self.state.parts.iter().next_back().map_or(0, |(part, _)| part.0 + 1);
        let number = (self.parting.newest + 1).max(named).max(self.journal.frame_position().0);
        self.parting.newest = number;
        let part = PartId(number);
        self.parting.order = Some((part, source.clone()));
        self.journal
            .release(Position::default(), Effect::Parts(PartWork::Write { part, source }));
    }

    /// Far-off messages that the log holds, as many as a part is to have.
    fn far_in_log(&self) -> Option<PartSource> {
        let (far_ms, most) = (self.far_ms()?.checked_add(1)?, self.config.part_messages);
        let mut messages = Vec::new();
        for (topic, calendar) in self.state.calendars.after(None) {
            let durable = self.visible_end(topic.calendar());
            let far = calendar.in_log_from(far_ms).filter(|due| due.number < durable);
            messages.extend(far.take(most - messages.len()).map(|due| FarOff::new(topic, due)));
            if messages.len() >= most {
                break;
            }
        }
        messages.sort_unstable();
        (!messages.is_empty()).then_some(PartSource::Log { messages })
    }

    /// Parts that make one together: several of about the same size, or one of which most is gone. None of them is nearly due, so that
    /// nothing is taken in from it meanwhile. What is so large already that several of its kind exceed what a part may have stays as it is.
    fn parts_to_merge(&self) -> Option<PartSource> {
        if self.parting.merge_again_mono_ms > self.now.mono_ms {
            return None;
        }
        let idle_ms = self.idle_ms()?;
        let mut tiers: BTreeMap<u32, Vec<(PartId, &Part)>> = BTreeMap::new();
        for (id, part) in self.state.parts.iter() {
            if part.next_ms.is_none_or(|next_ms| next_ms <= idle_ms) {
                continue;
            }
            let is_worth = part.facts.messages >= self.config.part_messages as u64 || part.left() == 0;
            if is_worth && part.left() * 2 < part.facts.messages {
                return Some(self.merged(vec![(id, part)]));
            }
            let alike = self.config.merged_parts as u64;
            if part.facts.messages <= PART_MERGED_MESSAGES_MAX / alike && part.facts.bytes <= PART_MERGED_BYTES_MAX / alike {
                let tier = part.facts.messages.max(1).ilog2() / 3;
                tiers.entry(tier).or_default().push((id, part));
            }
        }
        tiers.into_values().find_map(|mut alike| {
            alike.truncate(self.config.merged_parts);
            (alike.len() == self.config.merged_parts).then(|| self.merged(alike))
        })
    }

    fn merged(&self, parts: Vec<(PartId, &Part)>) -> PartSource {
        PartSource::Parts {
            dead: parts.iter().flat_map(|(_, part)| part.dead.iter().copied()).collect(),
            parts: parts.into_iter().map(|(id, part)| (id, part.point)).collect(),
            topics: self.state.topics.keys().copied().collect(),
        }
    }

    /// Something asked about parts was done.
    pub(crate) fn part_done(&mut self, done: PartDone) {
        match done {
            PartDone::Written { part, facts, left_out } => self.part_written(part, facts, &left_out),
            PartDone::Read { job, found } => self.part_read(job, found),
            PartDone::Found { job, found } => self.far_found(job, found),
        }
    }

    /// A part was written and synced, or not: only from its record on it counts.
    fn part_written(&mut self, part: PartId, facts: Option<PartFacts>, left_out: &[FarOff]) {
        let Some((_, source)) = self.parting.order.take_if(|(ordered, _)| *ordered == part) else {
            return;
        };
        self.parting.requested = true;
        let Some(facts) = facts else {
            self.counters.parts_failed += 1;
            self.parting.again_mono_ms = self.now.mono_ms + PART_AGAIN_MS;
            if matches!(source, PartSource::Parts { .. }) {
                self.parting.merge_again_mono_ms = self.now.mono_ms + MERGE_AGAIN_MS;
            }
            return;
        };
        let change = match source {
            PartSource::Log { messages } => self.moved_into(part, facts, messages, left_out),
            PartSource::Parts { parts, dead, .. } => self.absorbed_into(part, facts, &parts, &dead),
        };
        match change {
            Some(change) => {
                if let PartChange::Written { moved, .. } = &change {
                    // The clock may have been set forward, so that some were read ahead.
                    moved
                        .iter()
                        .for_each(|message| self.releasing.withdraw(message.topic, message.due()));
                }
                self.record(Change::Parts(change));
                self.counters.parts_written += 1;
            }
            None => {
                // Something was taken in from what was merged, as it may be again.
                self.parting.merge_again_mono_ms = self.now.mono_ms + PART_AGAIN_MS;
                self.journal.release(Position::default(), Effect::Parts(PartWork::Remove { part }));
            }
        }
        if !left_out.is_empty() {
            // What cannot be read is not to be tried again at once.
            self.parting.again_mono_ms = self.now.mono_ms + PART_AGAIN_MS;
        }
    }

    /// What the log need not keep any more; `None` when nothing that is in the part waits still.
    fn moved_into(&self, part: PartId, facts: PartFacts, messages: Vec<FarOff>, left_out: &[FarOff]) -> Option<PartChange> {
        let left_out: BTreeSet<&FarOff> = left_out.iter().collect();
        let waits = |message: &FarOff| {
            let calendar = self.state.calendars.get(message.topic);
            let due: Due = message.due();
            calendar.is_some_and(|calendar| calendar.holds(due) && !calendar.is_taken(due))
        };
        let inside = messages.into_iter().filter(|message| !left_out.contains(message));
        let (moved, mut dead): (Vec<_>, Vec<_>) = inside.partition(waits);
        if planted::is(Bug::DeadInPartFires) {
            dead.clear();
        }
        (!moved.is_empty()).then_some(PartChange::Written {
            part,
            facts,
            moved,
            absorbed: Vec::new(),
            dead,
        })
    }

    /// The parts that the new one stands for; `None` when something was taken in from one of them meanwhile.
    fn absorbed_into(
        &self,
        part: PartId,
        facts: PartFacts,
        parts: &[(PartId, Option<FarOff>)],
        dead_before: &BTreeSet<FarOff>,
    ) -> Option<PartChange> {
        let mut dead = Vec::new();
        for (absorbed, point) in parts {
            let absorbed = self.state.parts.get(*absorbed)?;
            if absorbed.point != *point || absorbed.next_ms.is_none() {
                return None;
            }
            dead.extend(absorbed.dead.difference(dead_before).copied());
        }
        if planted::is(Bug::DeadInPartFires) {
            dead.clear();
        }
        let mut absorbed: Vec<PartId> = parts.iter().map(|(part, _)| *part).collect();
        if planted::is(Bug::AbsorbedStays) {
            absorbed.pop();
        }
        Some(PartChange::Written {
            part,
            facts,
            moved: Vec::new(),
            absorbed,
            dead,
        })
    }
}
