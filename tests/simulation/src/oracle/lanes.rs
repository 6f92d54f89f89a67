//! What the broker must know of priorities and of message groups: which verdicts it heard, so what it could have handed out and when.

use std::collections::BTreeMap;

use sluice_core::effect::{Among, Delivery, JudgeId};
use sluice_core::input::Verdicts;
use sluice_log::record::CursorId;
use sluice_protocol::ids::Pass;
use sluice_protocol::units::Now;

use super::book::Book;
use super::cursor::{Cursor, Held};
use super::dealings::each;
use crate::laws::{Court, Law};

/// A verdict is believed to be known for so long: whatever the broker may forget by itself it forgets later.
const KNOWN_MS: u64 = 3_000;

/// The verdicts that the broker surely knows, and how often it handed out something else first.
#[derive(Clone, Debug, Default)]
pub struct Known {
    asked: BTreeMap<JudgeId, CursorId>,
    /// What matched, and since when that is known.
    found: BTreeMap<CursorId, BTreeMap<u64, u64>>,
    turns: BTreeMap<(CursorId, Pass), Turns>,
    /// Starts of the broker, each of which counts turns anew.
    starts: u64,
}

/// The grants of one cursor in one pass.
#[derive(Clone, Copy, Debug, Default)]
struct Turns {
    /// Messages handed out.
    granted: u64,
    /// Of these, such that a higher priority could have gone first.
    passed_over: u64,
    /// Messages handed out one after the other while an older one of a lower priority could have been.
    waited: u64,
}

impl Known {
    /// The broker asks.
    pub fn asks(&mut self, judge: JudgeId, cursor: CursorId) {
        self.asked.insert(judge, cursor);
    }

    /// It is answered.
    pub fn hears(&mut self, mono_ms: u64, judge: JudgeId, verdicts: &Verdicts) {
        if let Some(cursor) = self.asked.remove(&judge) {
            let found = self.found.entry(cursor).or_default();
            found.extend(verdicts.deliver.iter().map(|offset| (offset.0, mono_ms)));
        }
    }

    /// Something happens for which the broker may forget verdicts.
    pub fn disturbed(&mut self) {
        self.asked.clear();
        self.found.clear();
    }

    /// The broker went down.
    pub fn crashed(&mut self) {
        self.disturbed();
        self.starts += 1;
        self.turns.values_mut().for_each(|turns| turns.waited = 0);
    }

    /// One message was handed out by a record: was there one of a higher priority to go first, and had the longest waiting its turn?
    pub fn granted(&mut self, id: CursorId, model: &Cursor, offset: u64, at: Now, book: &Book, court: &mut Court) {
        let Some(group) = book.groups.get(&id.group) else { return };
        let every = u64::from(group.settings.oldest_every);
        let priority = book.priority(id, offset);
        let mut higher = None;
        let mut older = false;
        for other in self.deliverable(id, model, at, book) {
            let its = book.priority(id, other);
            if its > priority {
                higher = Some(other);
            }
            older |= other < offset && its < priority;
        }
        let turns = self.turns.entry((id, model.pass)).or_default();
        turns.granted += 1;
        turns.passed_over += u64::from(higher.is_some());
        turns.waited = if older { turns.waited + 1 } else { 0 };
        let allowed = match every {
            0 => 0,
            every => turns.granted / every + 1 + self.starts,
        };
        let turns = *turns;
        if higher.is_some() || priority > 0 {
            court.demand(Law::HigherPriorityFirst, turns.passed_over <= allowed, || {
                format!("{id:?} {offset} of {priority} went before {higher:?}: {turns:?}, 1 in {every}")
            });
        }
        if older && every > 0 {
            court.demand(Law::OldestHasItsTurn, turns.waited < 2 * every + 64, || {
                format!("{id:?} {offset}: {turns:?}, 1 in {every}")
            });
        }
    }

    /// What could be handed out just before this time.
    fn deliverable<'a>(&'a self, id: CursorId, model: &'a Cursor, at: Now, book: &'a Book) -> impl Iterator<Item = u64> + 'a {
        let mono_ms = at.mono_ms;
        let start = book.queues.get(&id.queue).map_or(0, |queue| queue.start);
        let known = self.found.get(&id).into_iter().flatten();
        let fresh = known.filter(move |(_, since_ms)| **since_ms < mono_ms && mono_ms < **since_ms + KNOWN_MS);
        let untouched = fresh
            .map(|(&offset, _)| offset)
            .filter(move |offset| *offset >= start && !model.is_touched(*offset));
        let retries = model.held.iter().filter_map(move |(&offset, held)| match held {
            Held::Waiting { due_mono_ms, .. } if *due_mono_ms < mono_ms => Some(offset),
            Held::Waiting { .. } | Held::Leased { .. } => None,
        });
        // What ended a message in this frame or in the one before it was perhaps not synced yet when the grant was made.
        let first = move |offset: &u64| {
            model.is_head(id, *offset, book) && model.follows(id, *offset, book.frames.0, book) && book.gate_is_open(id, *offset)
        };
        let lives = move |offset: &u64| !model.has_expired(id, *offset, at.wall_ms, book);
        untouched.chain(retries).filter(first).filter(lives)
    }
}

/// What comes in one delivery could all have gone first: of so many one after the other one goes to the longest waiting.
pub fn in_turn(delivery: &Delivery, book: &Book, court: &mut Court) {
    let id = delivery.cursor;
    let every = book.groups.get(&id.group).map_or(0, |group| group.settings.oldest_every);
    if every == 0 {
        return;
    }
    let came: Vec<(u64, u8)> = each(&delivery.leases)
        .map(|(offset, _)| (offset, book.priority(id, offset)))
        .collect();
    for (place, &(offset, priority)) in came.iter().enumerate() {
        let before = came[..place].iter().rev();
        let passed = before.take_while(|(other, its)| *other > offset && *its > priority).count();
        if passed > 0 {
            court.demand(Law::OldestHasItsTurn, passed < usize::from(every), || {
                format!("{id:?} {offset} had to wait for {passed} of 1 in {every}: {came:?}")
            });
        }
    }
}

/// In an ordered group nothing is delivered before the end of the message before it in its message group is synced.
pub fn in_order(delivery: &Delivery, book: &Book, synced: u64, court: &mut Court) {
    let id = delivery.cursor;
    if !book.is_ordered(id) {
        return;
    }
    let Some(model) = book.cursors.get(&id).filter(|model| model.pass == delivery.pass) else {
        return;
    };
    for (offset, _) in each(&delivery.leases) {
        let Some(group) = book.message_group(id, offset) else { continue };
        let before = model.ended.range(..offset);
        let mut same = before.filter(|(other, _)| book.message_group(id, **other).as_ref() == Some(&group));
        let unsynced = same.find(|(_, frame)| **frame >= synced);
        court.demand(Law::OrderPerGroup, unsynced.is_none(), || {
            format!("{id:?} {offset} is delivered before the end of {unsynced:?} is synced, which is to {synced}")
        });
        court.require(Law::OrderPerGroup, model.is_head(id, offset, book), || {
            let (chained, ended) = (&model.chained, &model.ended);
            format!("{id:?} {offset} is delivered while one before it in {group} is open: {chained:?}, {ended:?}")
        });
    }
}

/// Whether a question is about a message of this priority.
pub fn is_meant(among: Among, priority: u8) -> bool {
    match among {
        Among::All | Among::Ordered => true,
        Among::Priority(asked) => asked == priority,
    }
}
