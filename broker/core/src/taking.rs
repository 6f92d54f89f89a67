//! Taking messages in from parts when they are nearly due, and recalling what is in a part.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_log::record::{Change, Due, FarOff, PartChange, PartId};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Position, TopicId};

use crate::broker::Core;
use crate::effect::{Answer, Effect};
use crate::input::RequestId;
use crate::limits::{PART_AGAIN_MS, PART_READS_MAX, TAKEN_IN_MAX};
use crate::parts::{FoundIn, PartJobId, PartRead, PartWork};
use crate::planted::{self, Bug};
use crate::state::transaction::Known;

/// Questions about parts that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct Taking {
    /// The parts that are read.
    reads: BTreeMap<PartJobId, PartId>,
    /// Parts that could not be read, and when it is tried again on the monotonic clock.
    unreadable: BTreeMap<PartId, u64>,
    /// Recalls that look for their message, and where.
    finds: BTreeMap<PartJobId, Find>,
}

#[derive(Debug)]
struct Find {
    request: RequestId,
    message: FarOff,
    parts: Vec<PartId>,
}

impl Taking {
    fn is_busy(&self, part: PartId) -> bool {
        self.unreadable.contains_key(&part) || self.reads.values().any(|read| *read == part)
    }
}

impl Core {
    /// Asks for what is nearly due of the parts.
    pub(crate) fn take_in(&mut self) {
        let (near_ms, until_ms) = (self.near_ms(), self.take_until_ms());
        let mono_ms = self.now.mono_ms;
        let taking = &mut self.parting.taking;
        taking.unreadable.retain(|_, again_mono_ms| *again_mono_ms > mono_ms);
        let room = PART_READS_MAX.saturating_sub(taking.reads.len());
        let near = self.state.parts.by_next().take_while(|(next_ms, _)| *next_ms <= near_ms);
        let near = near.map(|(_, part)| part).filter(|part| !taking.is_busy(*part));
        for part in near.take(room).collect::<Vec<_>>() {
            let job = PartJobId(self.consuming.next_id());
            self.parting.taking.reads.insert(job, part);
            let after = self.state.parts.get(part).and_then(|part| part.point);
            let read = PartWork::Read {
                job,
                part,
                after,
                until_ms,
                most: TAKEN_IN_MAX,
            };
            self.journal.release(Position::default(), Effect::Parts(read));
        }
    }

    /// When a part is to be read next, in milliseconds on the monotonic clock.
    pub(crate) fn next_take_in(&self) -> Option<u64> {
        let taking = &self.parting.taking;
        let mut later = self.state.parts.by_next().filter(|(_, part)| !taking.is_busy(*part));
        let next = later.next().filter(|_| taking.reads.len() < PART_READS_MAX).map(|(next_ms, _)| {
            let in_ms = next_ms.saturating_sub(self.near_ms()).max(0);
            self.now.mono_ms.saturating_add(in_ms.unsigned_abs())
        });
        next.into_iter().chain(taking.unreadable.values().copied()).min()
    }

    /// What is nearly due of a part was read: from here on it waits in memory, but for what is dead.
    pub(crate) fn part_read(&mut self, job: PartJobId, found: Option<PartRead>) {
        let Some(part) = self.parting.taking.reads.remove(&job) else {
            return;
        };
        // It may have been merged into another one meanwhile, which is read then.
        let Some(entry) = self.state.parts.get(part).filter(|entry| entry.next_ms.is_some()) else {
            return;
        };
        let Some(PartRead {
            messages,
            lost,
            point,
            next_ms,
        }) = found
        else {
            self.counters.due_unreadable += 1;
            let again_mono_ms = self.now.mono_ms + PART_AGAIN_MS;
            self.parting.taking.unreadable.insert(part, again_mono_ms);
            return;
        };
        let point = if next_ms.is_none() { Some(entry.facts.last) } else { point };
        let Some(point) = point else { return };
        self.counters.due_unreadable += u64::from(lost > 0);
        let passed = (messages.len() as u64 + lost).min(entry.facts.messages - entry.passed);
        let lives = |message: &FarOff| self.state.topics.contains_key(&message.topic) && !entry.dead.contains(message);
        let taken: Vec<FarOff> = messages.into_iter().filter(lives).collect();
        for message in &taken {
            self.releasing.came(message.topic, std::iter::once(message.due()));
        }
        self.counters.taken_in += taken.len() as u64;
        self.record(Change::Parts(PartChange::TakenIn {
            part,
            taken,
            passed,
            point,
            next_ms,
        }));
    }

    /// The parts out of which these messages may have been taken in.
    pub(crate) fn parts_of(&self, topic: TopicId, due: &[Due]) -> Vec<PartId> {
        let Some(calendar) = self.state.calendars.get(topic) else {
            return Vec::new();
        };
        let taken = due
            .iter()
            .filter(|due| calendar.is_taken(**due))
            .map(|due| FarOff::new(topic, *due));
        let taken: Vec<FarOff> = taken.collect();
        let held = |of: &crate::state::parts::Part| taken.iter().any(|message| of.may_have_held(*message));
        let parts = self.state.parts.iter().filter(|(_, of)| !taken.is_empty() && held(of));
        parts.map(|(part, _)| part).collect()
    }

    /// Takes a message out of its calendar. That it is there no more is said when it is durable, since a crash might bring it back.
    pub(crate) fn recall(&mut self, request: RequestId, handle: &Bytes) {
        match self.receipts.read_recall(handle) {
            Ok((topic, due)) => self.recall_message(request, topic, due, &[]),
            Err(not_ours) => self.refuse(request, not_ours.refusal(ErrorCode::BadRecallHandle)),
        }
    }

    /// The same, after the message was looked for in these parts in vain.
    fn recall_message(&mut self, request: RequestId, topic: TopicId, due: Due, searched: &[PartId]) {
        if !self.state.topics.contains_key(&topic) {
            return self.refuse_after(self.journal.last(), request, Refusal::plain(ErrorCode::TopicDeleted));
        }
        if self.state.calendars.get(topic).is_some_and(|calendar| calendar.holds(due)) {
            let depends = self.record(Change::Recalled { topic, due });
            self.counters.recalled += 1;
            if !planted::is(Bug::RecalledFetchedFires) {
                self.releasing.withdraw(topic, due);
            }
            return self.answer(depends, request, Answer::Done);
        }
        let message = FarOff::new(topic, due);
        let may_hold = self.state.parts.iter().filter(|(_, part)| part.may_hold(message));
        let parts: Vec<PartId> = may_hold.map(|(part, _)| part).filter(|part| !searched.contains(part)).collect();
        if parts.is_empty() {
            return self.refuse_after(self.journal.last(), request, self.not_waiting(topic, due));
        }
        let job = PartJobId(self.consuming.next_id());
        let find = PartWork::Find {
            job,
            message,
            parts: parts.clone(),
        };
        let parts = parts.into_iter().chain(searched.iter().copied()).collect();
        let waiting = Find { request, message, parts };
        self.parting.taking.finds.insert(job, waiting);
        self.journal.release(Position::default(), Effect::Parts(find));
    }

    fn not_waiting(&self, topic: TopicId, due: Due) -> Refusal {
        let transactions = self.state.transactions.get(topic);
        let undecided = transactions.is_some_and(|transactions| matches!(transactions.known(due.number), Known::Undecided(_)));
        let what = if undecided {
            "the message was not committed yet: roll it back instead"
        } else if due.at_ms <= self.now.wall_ms {
            "the message was due and was released, unless it was recalled before"
        } else {
            "the message was recalled or rolled back before"
        };
        Refusal::new(ErrorCode::NotWaiting, what)
    }

    /// A message that is to be recalled was looked for in the parts. What happened since counts: it may be in memory by now, or elsewhere.
    pub(crate) fn far_found(&mut self, job: PartJobId, found: FoundIn) {
        let Some(Find { request, message, parts }) = self.parting.taking.finds.remove(&job) else {
            return;
        };
        match found {
            FoundIn::Part(part) if self.state.parts.get(part).is_some_and(|part| part.may_hold(message)) => {
                if !self.state.topics.contains_key(&message.topic) {
                    return self.refuse_after(self.journal.last(), request, Refusal::plain(ErrorCode::TopicDeleted));
                }
                let depends = self.record(Change::Parts(PartChange::Recalled { part, message }));
                if self.state.parts.get(part).is_some_and(|part| part.left() == 0) {
                    // Nothing is left in it to wait for.
                    self.parting.request();
                }
                self.counters.recalled += 1;
                self.answer(depends, request, Answer::Done);
            }
            FoundIn::Part(_) | FoundIn::None => self.recall_message(request, message.topic, message.due(), &parts),
            FoundIn::Unreadable => {
                let text = "the message is far off, and the file in which it may be cannot be read";
                self.refuse(request, Refusal::new(ErrorCode::Internal, text));
            }
        }
    }
}
