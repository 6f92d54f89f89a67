//! Picking: which messages of a queue are handed out next, and in which order.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sluice_log::record::{LeaseRange, OffsetRange};
use sluice_protocol::ids::Attempt;

use super::gate::Gate;
use super::lanes::{ByPriority, Lanes, by_priority};
use super::{LaneRun, Reading};
use crate::limits::CURSOR_OPEN_MAX;
use crate::planted::{self, Bug};
use crate::ranges::{len, range};
use crate::state::cursor::Cursor;
use crate::state::lane::Lane;

/// What is handed out.
#[derive(Debug, Default)]
pub(super) struct Picked {
    /// In the order of delivery.
    pub(super) leases: Vec<LeaseRange>,
    /// The same lane by lane; empty where there is but one.
    pub(super) by_priority: ByPriority,
}

/// Takes up to `max` messages of a queue.
pub(super) fn pick(entry: &Cursor, reading: &Reading, lanes: &mut Lanes, gate: &Gate<'_>, max: u64, now_mono_ms: u64) -> Picked {
    if reading.ordered {
        let leases = pick_heads(&entry.lane, &mut lanes.base, gate, reading.oldest_every, max, now_mono_ms);
        return Picked {
            leases,
            by_priority: ByPriority::new(),
        };
    }
    if lanes.are_several() {
        return pick_levels(entry, lanes, reading.oldest_every, max, now_mono_ms);
    }
    Picked {
        leases: pick_one(&entry.lane, &mut lanes.base, max, now_mono_ms),
        by_priority: ByPriority::new(),
    }
}

/// Of a lane that is alone: those whose retry is due first, then what matched, all in the order of their offsets.
fn pick_one(durable: &Lane, lane: &mut LaneRun, max: u64, now_mono_ms: u64) -> Vec<LeaseRange> {
    let mut leases = due(durable, max, now_mono_ms);
    let retrying: u64 = leases.iter().map(|lease| len(lease.offsets)).sum();
    let mut left = (max - retrying).min(CURSOR_OPEN_MAX.saturating_sub(durable.open()));
    while left > 0 {
        let Some(next) = next_matched(durable, lane, left) else { break };
        left -= len(next);
        leases.push(LeaseRange {
            offsets: next,
            attempt: Attempt(1),
        });
    }
    lane.place = lane.matched.front().map_or(lane.judged, |next| next.first);
    leases
}

/// Up to `max` messages whose retry is due, by offset.
fn due(durable: &Lane, max: u64, now_mono_ms: u64) -> Vec<LeaseRange> {
    let mut leases: Vec<LeaseRange> = Vec::new();
    let mut left = max;
    for (offsets, retry) in durable.retries.due(0, now_mono_ms) {
        let count = len(offsets).min(left);
        if count == 0 {
            break;
        }
        let offsets = range(offsets.first.0, offsets.first.0 + count);
        leases.push(LeaseRange {
            offsets,
            attempt: Attempt(retry.attempts.0 + 1),
        });
        left -= count;
    }
    leases.sort_unstable_by_key(|lease| lease.offsets);
    leases
}

/// Takes the first messages that matched and are free, `most` at most.
fn next_matched(durable: &Lane, lane: &mut LaneRun, most: u64) -> Option<OffsetRange> {
    loop {
        let next = if planted::is(Bug::NewestFirst) {
            lane.matched.pop_back()
        } else {
            lane.matched.pop_front()
        }?;
        let Some(next) = free_part(durable, lane, next) else { continue };
        let middle = next.first.0 + len(next).min(most);
        if middle < next.end.0 {
            lane.matched.push_front(range(middle, next.end.0));
        }
        return Some(range(next.first.0, middle));
    }
}

/// The first part of a matched range that was neither handed out nor settled nor held; what follows it goes back to the lane.
fn free_part(durable: &Lane, lane: &mut LaneRun, next: OffsetRange) -> Option<OffsetRange> {
    if durable.ahead.is_empty() && next.first.0 >= lane.taken_end {
        return Some(next);
    }
    let mut gaps = durable.free_within(next).into_iter();
    let first = gaps.next();
    for gap in gaps.rev() {
        lane.matched.push_front(gap);
    }
    first
}

/// Counts deliveries, so that one in so many goes to the message that has waited longest.
struct Turns {
    every: u64,
    since: u64,
}

impl Turns {
    fn new(every: u8, lane: &LaneRun) -> Self {
        let every = if planted::is(Bug::OldestForgotten) { 0 } else { every };
        Self {
            every: every.into(),
            since: lane.since_oldest.into(),
        }
    }

    /// Whether it is the turn of the one that has waited longest.
    fn is_oldest(&self) -> bool {
        self.every > 0 && self.since + 1 >= self.every
    }

    /// How many may go by priority before that.
    fn before_oldest(&self) -> u64 {
        match self.every {
            0 => u64::MAX,
            every => (every - 1).saturating_sub(self.since),
        }
    }

    fn count(&mut self, messages: u64, oldest: bool) {
        self.since = if oldest { 0 } else { (self.since + messages).min(u8::MAX.into()) };
    }
}

/// What a lane has to hand out.
struct Level<'a> {
    durable: &'a Lane,
    run: &'a mut LaneRun,
    due: VecDeque<LeaseRange>,
    /// The first range that matched, taken out of the lane.
    free: Option<OffsetRange>,
}

impl Level<'_> {
    /// The lowest offset that it has, and whether that waits for another delivery.
    fn oldest(&mut self, room: bool) -> Option<(u64, bool)> {
        let retry = self.due.front().map(|lease| (lease.offsets.first.0, true));
        let free = self.free(room).map(|free| (free.first.0, false));
        retry.into_iter().chain(free).min()
    }

    fn free(&mut self, room: bool) -> Option<OffsetRange> {
        if !room {
            return None;
        }
        if self.free.is_none() {
            self.free = next_matched(self.durable, self.run, u64::MAX);
        }
        self.free
    }

    /// Takes up to `most` messages: of those that wait for another delivery, or else of those that matched.
    fn take(&mut self, retry: bool, most: u64) -> Option<LeaseRange> {
        if retry {
            let lease = self.due.pop_front()?;
            let (taken, rest) = cut(lease.offsets, most);
            if let Some(rest) = rest {
                self.due.push_front(LeaseRange { offsets: rest, ..lease });
            }
            return Some(LeaseRange { offsets: taken, ..lease });
        }
        let (taken, rest) = cut(self.free.take()?, most);
        self.free = rest;
        Some(LeaseRange {
            offsets: taken,
            attempt: Attempt(1),
        })
    }
}

fn cut(offsets: OffsetRange, most: u64) -> (OffsetRange, Option<OffsetRange>) {
    let middle = offsets.first.0 + len(offsets).min(most);
    let rest = (middle < offsets.end.0).then(|| range(middle, offsets.end.0));
    (range(offsets.first.0, middle), rest)
}

/// Of several lanes: by priority, within one as of a lane that is alone; and in between the message that has waited longest. A lane waits for
/// the verdicts under way of those above it: what they find was stored by then and goes first.
fn pick_levels(entry: &Cursor, lanes: &mut Lanes, every: u8, max: u64, now_mono_ms: u64) -> Picked {
    let mut turns = Turns::new(every, &lanes.base);
    let asking = lanes.iter().filter(|lane| lane.asked.is_some()).map(|lane| lane.priority).max();
    let open: u64 = entry.levels().map(|(_, lane)| lane.open()).sum();
    let mut room = CURSOR_OPEN_MAX.saturating_sub(open);
    let levels = lanes.iter_mut().rev().filter_map(|run| {
        let durable = entry.level(run.priority)?;
        let due = due(durable, max, now_mono_ms).into();
        Some(Level {
            durable,
            run,
            due,
            free: None,
        })
    });
    let mut levels: Vec<Level<'_>> = levels.collect();
    let mut picked: Vec<(u8, LeaseRange)> = Vec::new();
    let mut left = max;
    while left > 0 {
        let oldest = turns.is_oldest();
        let chosen = if oldest {
            let all = levels.iter_mut().enumerate();
            let firsts = all.filter_map(|(nth, level)| level.oldest(room > 0).map(|(offset, retry)| (offset, nth, retry)));
            firsts.min().map(|(_, nth, retry)| (nth, retry, 1))
        } else {
            let above = |level: &Level<'_>| level.run.priority >= asking.unwrap_or(0);
            let most = left.min(turns.before_oldest());
            let mut all = levels.iter_mut().enumerate().filter(|(_, level)| above(level));
            if planted::is(Bug::PriorityForgotten) {
                lowest(&mut levels, room, most)
            } else {
                all.find_map(|(nth, level)| {
                    let retry = !level.due.is_empty();
                    (retry || level.free(room > 0).is_some()).then_some((nth, retry, most))
                })
            }
        };
        let Some((nth, retry, most)) = chosen else { break };
        let most = if retry { most } else { most.min(room) };
        let Some(lease) = levels[nth].take(retry, most) else { break };
        let count = len(lease.offsets);
        turns.count(count, oldest);
        left -= count;
        room -= if retry { 0 } else { count };
        push(&mut picked, levels[nth].run.priority, lease);
    }
    for level in levels {
        if let Some(rest) = level.free {
            level.run.matched.push_front(rest);
        }
        level.run.place = level.run.matched.front().map_or(level.run.judged, |next| next.first);
    }
    lanes.base.since_oldest = turns.since as u8;
    let by_priority = by_priority(&picked);
    Picked {
        leases: picked.into_iter().map(|(_, lease)| lease).collect(),
        by_priority,
    }
}

/// The lowest lane that has something.
fn lowest(levels: &mut [Level<'_>], room: u64, most: u64) -> Option<(usize, bool, u64)> {
    let mut all = levels.iter_mut().enumerate().rev();
    all.find_map(|(nth, level)| level.oldest(room > 0).map(|(_, retry)| (nth, retry, most)))
}

/// Appends a lease, joined to the last one when it goes on from there.
fn push(picked: &mut Vec<(u8, LeaseRange)>, priority: u8, next: LeaseRange) {
    match picked.last_mut() {
        Some((of, last)) if *of == priority && last.attempt == next.attempt && last.offsets.end == next.offsets.first => {
            last.offsets.end = next.offsets.end;
        }
        Some(_) | None => picked.push((priority, next)),
    }
}

/// Of an ordered group: the first open message of each message group, by priority, and in between the one that has waited longest.
fn pick_heads(durable: &Lane, lane: &mut LaneRun, gate: &Gate<'_>, every: u8, max: u64, now_mono_ms: u64) -> Vec<LeaseRange> {
    let mut turns = Turns::new(every, lane);
    let mut heads: BTreeMap<u64, (u8, Attempt)> = BTreeMap::new();
    for (offsets, retry) in durable.retries.due(0, now_mono_ms) {
        for offset in offsets.first.0..offsets.end.0 {
            let row = durable.order.get(offset);
            // One before it may have been judged anew since it was handed out, and passed over by a record that is not durable yet.
            if durable.order.is_head(offset) && !row.is_some_and(|row| lane.awaits(row.group)) {
                let priority = row.map_or(0, |row| row.priority);
                heads.insert(offset, (priority, Attempt(retry.attempts.0 + 1)));
            }
        }
    }
    // At the bound only what is open already goes out again.
    let most = max.min(CURSOR_OPEN_MAX.saturating_sub(durable.open())) as usize;
    let waits = |group: u64| lane.awaits(group) || gate.is_closed(group);
    let ready = durable.order.ready_heads(most, &waits);
    heads.extend(ready.map(|(priority, offset)| (offset, (priority, Attempt(1)))));
    let mut ranked: BTreeSet<(u8, u64)> = heads.iter().map(|(&offset, &(priority, _))| (u8::MAX - priority, offset)).collect();
    let mut picked = Vec::new();
    let mut left = max;
    while left > 0 {
        let oldest = turns.is_oldest();
        let next = if oldest {
            heads.first_key_value().map(|(&offset, _)| offset)
        } else {
            ranked.first().map(|&(_, offset)| offset)
        };
        let Some((offset, (priority, attempt))) = next.and_then(|offset| heads.remove_entry(&offset)) else {
            break;
        };
        ranked.remove(&(u8::MAX - priority, offset));
        turns.count(1, oldest);
        left -= 1;
        let offsets = range(offset, offset + 1);
        push(&mut picked, 0, LeaseRange { offsets, attempt });
    }
    lane.since_oldest = turns.since as u8;
    picked.into_iter().map(|(_, lease)| lease).collect()
}
