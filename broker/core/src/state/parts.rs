//! The entries of the calendar's parts: files of messages that are far off, and how much of each was taken in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use sluice_log::record::{FarOff, PartChange, PartFacts, PartId, put_far_off, take_far_off};
use sluice_protocol::ids::Position;
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::State;
use crate::planted::{self, Bug};

/// A part of the calendar. It is made by one record and dropped by one, and its number is never used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// What is in the file.
    pub facts: PartFacts,
    /// How many of its messages were passed over.
    pub passed: u64,
    /// The last of them.
    pub point: Option<FarOff>,
    /// When the next one is due; `None` when nothing is to be taken in from this part any more.
    pub next_ms: Option<i64>,
    /// Messages behind the point that will not be released.
    pub dead: BTreeSet<FarOff>,
}

impl Part {
    /// How many messages are to be taken in, those of deleted topics included.
    pub fn left(&self) -> u64 {
        match self.next_ms {
            Some(_) => (self.facts.messages - self.passed).saturating_sub(self.dead.len() as u64),
            None => 0,
        }
    }

    /// Whether a message may be in this part and was not taken in, as far as one can tell without reading.
    pub fn may_hold(&self, message: FarOff) -> bool {
        let ahead = self.point.is_none_or(|point| point < message) && message <= self.facts.last;
        self.next_ms.is_some_and(|next_ms| next_ms <= message.at_ms) && ahead && !self.dead.contains(&message)
    }

    /// Whether a message may have been taken in out of this part.
    pub fn may_have_held(&self, message: FarOff) -> bool {
        self.facts.first <= message && self.point.is_some_and(|point| message <= point)
    }
}

/// All parts of the calendar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    entries: BTreeMap<PartId, Part>,
    by_next: BTreeSet<(i64, PartId)>,
    ended: BTreeSet<PartId>,
}

impl Parts {
    /// A part by its number.
    pub fn get(&self, part: PartId) -> Option<&Part> {
        self.entries.get(&part)
    }

    /// All parts, by number.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (PartId, &Part)> {
        self.entries.iter().map(|(id, part)| (*id, part))
    }

    /// The parts of which something is to be taken in, by when the next of it is due.
    pub fn by_next(&self) -> impl Iterator<Item = (i64, PartId)> + '_ {
        self.by_next.iter().copied()
    }

    /// The parts of which nothing is to be taken in any more.
    pub fn ended(&self) -> impl Iterator<Item = (PartId, &Part)> {
        self.ended.iter().filter_map(|id| Some((*id, self.entries.get(id)?)))
    }

    /// What a record does to the entries of parts.
    pub(super) fn apply(&mut self, position: Position, change: &PartChange) {
        match change {
            PartChange::Written {
                part,
                facts,
                absorbed,
                dead,
                ..
            } => {
                for part in absorbed {
                    self.update(position, *part, |part| part.next_ms = None);
                }
                if facts.messages > 0 && !self.entries.contains_key(part) {
                    let new = Part {
                        reflects: position,
                        facts: *facts,
                        passed: 0,
                        point: None,
                        next_ms: Some(facts.first.at_ms),
                        dead: dead.iter().copied().collect(),
                    };
                    self.put(*part, new);
                }
            }
            PartChange::TakenIn {
                part,
                passed,
                point,
                next_ms,
                ..
            } => self.update(position, *part, |part| {
                if planted::is(Bug::PointNotMoved) && next_ms.is_some() {
                    return;
                }
                part.passed += passed;
                part.point = Some(*point);
                part.next_ms = *next_ms;
                part.dead = part.dead.split_off(point);
                part.dead.remove(point);
            }),
            PartChange::Recalled { part, message } => self.update(position, *part, |part| {
                if !planted::is(Bug::FarRecallForgotten) {
                    part.dead.insert(*message);
                }
            }),
            PartChange::Dropped { part } => {
                if let Some(gone) = self.entries.remove(part) {
                    self.ended.remove(part);
                    gone.next_ms.map(|next_ms| self.by_next.remove(&(next_ms, *part)));
                }
            }
        }
    }

    fn update(&mut self, position: Position, id: PartId, change: impl FnOnce(&mut Part)) {
        let Some(part) = self.entries.get_mut(&id).filter(|part| part.reflects < position) else {
            return;
        };
        part.reflects = position;
        let before = part.next_ms;
        change(part);
        let after = part.next_ms;
        before.map(|next_ms| self.by_next.remove(&(next_ms, id)));
        self.order(id, after);
    }

    fn put(&mut self, id: PartId, part: Part) {
        self.order(id, part.next_ms);
        self.entries.insert(id, part);
    }

    fn order(&mut self, id: PartId, next_ms: Option<i64>) {
        match next_ms {
            Some(next_ms) => self.by_next.insert((next_ms, id)),
            None => self.ended.insert(id),
        };
    }

    /// The part after `last`, or the first.
    pub(super) fn part_after(&self, last: Option<PartId>) -> Option<PartId> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded)).next().map(|(part, _)| *part)
    }

    pub(super) fn encode(&self, id: PartId, to: &mut Writer) -> Option<()> {
        let part = self.entries.get(&id)?;
        to.u64(id.0).u64(part.reflects.0).u64(part.facts.messages).u64(part.facts.bytes);
        put_far_off(to, part.facts.first);
        put_far_off(to, part.facts.last);
        to.u64(part.passed).bool(part.point.is_some());
        put_far_off(to, part.point.unwrap_or(part.facts.first));
        to.bool(part.next_ms.is_some())
            .i64(part.next_ms.unwrap_or(0))
            .count(part.dead.len());
        part.dead.iter().for_each(|message| put_far_off(to, *message));
        Some(())
    }

    pub(super) fn decode(&mut self, from: &mut Reader<'_>) -> Result<(), WireError> {
        let (id, reflects) = (PartId(from.u64()?), Position(from.u64()?));
        let facts = PartFacts {
            messages: from.u64()?,
            bytes: from.u64()?,
            first: take_far_off(from)?,
            last: take_far_off(from)?,
        };
        let (passed, has_point, point) = (from.u64()?, from.bool()?, take_far_off(from)?);
        let (has_next, next_ms) = (from.bool()?, from.i64()?);
        let dead = (0..from.count(24)?).map(|_| take_far_off(from)).collect::<Result<_, _>>()?;
        if passed > facts.messages || (!has_point && point != facts.first) || (!has_next && next_ms != 0) || self.entries.contains_key(&id)
        {
            return Err(WireError::Impossible("part"));
        }
        let part = Part {
            reflects,
            facts,
            passed,
            point: has_point.then_some(point),
            next_ms: has_next.then_some(next_ms),
            dead,
        };
        self.put(id, part);
        Ok(())
    }
}

impl State {
    /// The part of [`State::apply`] that concerns the parts of the calendar.
    pub(super) fn apply_parts(&mut self, position: Position, change: &PartChange) {
        self.calendars.parted(position, change);
        self.parts.apply(position, change);
    }
}
