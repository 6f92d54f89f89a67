//! The lanes of one queue for one group: one alone as a rule, and one for each priority where messages have priorities.

use std::collections::BTreeMap;

use sluice_log::record::{Change, CursorId, LeaseRange, OffsetRange, Parked};
use sluice_protocol::ids::{Position, QueueOffset};

use super::{LaneRun, Reading, key_of};
use crate::broker::Core;
use crate::input::Verdicts;
use crate::planted::{self, Bug};

/// The lanes of one queue, taken out of their reading while it is served.
#[derive(Debug)]
pub(super) struct Lanes {
    /// That of priority 0, or the only one.
    pub(super) base: LaneRun,
    /// Those of higher priorities, ascending.
    pub(super) upper: Vec<LaneRun>,
}

impl Lanes {
    /// Whether there are several.
    pub(super) fn are_several(&self) -> bool {
        !self.upper.is_empty()
    }

    /// Each, by ascending priority.
    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &LaneRun> {
        std::iter::once(&self.base).chain(&self.upper)
    }

    /// Each, by ascending priority.
    pub(super) fn iter_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut LaneRun> {
        std::iter::once(&mut self.base).chain(&mut self.upper)
    }

    /// The lane of a priority.
    pub(super) fn level(&self, priority: u8) -> Option<&LaneRun> {
        self.iter().find(|lane| lane.priority == priority)
    }

    /// Whether any verdicts are under way.
    pub(super) fn is_asking(&self) -> bool {
        self.iter().any(|lane| lane.asked.is_some())
    }
}

impl Reading {
    /// Takes the lanes of a queue out.
    pub(super) fn take_lanes(&mut self, index: usize) -> Lanes {
        let base = std::mem::take(&mut self.lanes[index]);
        let mut upper = Vec::new();
        if !self.upper.is_empty() {
            let mut rest = self.upper.split_off(&(index, 0));
            let mut after = rest.split_off(&(index + 1, 0));
            upper.extend(rest.into_values());
            self.upper.append(&mut after);
        }
        Lanes { base, upper }
    }

    /// Puts them back.
    pub(super) fn put_lanes(&mut self, index: usize, lanes: Lanes) {
        self.lanes[index] = lanes.base;
        self.upper
            .extend(lanes.upper.into_iter().map(|lane| ((index, lane.priority), lane)));
    }

    /// Forgets the lanes of higher priorities of a queue: a new pass makes its own.
    pub(super) fn drop_upper(&mut self, index: usize) {
        self.upper.retain(|(other, _), _| *other != index);
    }
}

impl Core {
    /// Makes the lanes of priorities that are new in a queue. Each begins where that of priority 0 stands in the log, which has passed none
    /// of its messages yet: nothing is judged or handed out in a turn before this.
    pub(super) fn open_levels(&mut self, cursor: CursorId, reading: &Reading, lanes: &mut Lanes) {
        let Some(queue) = self.state.queues.get(&cursor.queue).filter(|queue| !queue.priorities.is_empty()) else {
            return;
        };
        if reading.ordered {
            return;
        }
        let new: Vec<(u8, OffsetRange)> = queue
            .priorities
            .iter()
            .filter(|(priority, _)| lanes.level(**priority).is_none())
            .map(|(&priority, &offsets)| (priority, offsets))
            .collect();
        for (priority, offsets) in new {
            let Some(entry) = self.state.cursors.get(&cursor) else { return };
            let first = if planted::is(Bug::LaneBeginsLate) {
                offsets.end
            } else {
                offsets.first
            };
            let (pass, frontier) = (entry.pass, entry.lane.frontier.max(first));
            let frontier = match entry.level(priority) {
                Some(level) => level.frontier,
                None => {
                    self.record(Change::FrontierMoved {
                        cursor,
                        pass,
                        priority,
                        frontier,
                        parked: Vec::new(),
                    });
                    frontier
                }
            };
            lanes.upper.push(LaneRun::starting_at(priority, frontier));
        }
        lanes.upper.sort_by_key(|lane| lane.priority);
    }

    /// In which lane a message is that was just handed out.
    pub(super) fn priority_of(&self, cursor: CursorId, offset: u64) -> u8 {
        let Some(entry) = self.state.cursors.get(&cursor) else { return 0 };
        let mut levels = entry.levels().rev();
        levels
            .find(|(_, lane)| lane.leases.get(offset).is_some())
            .map_or(0, |(priority, _)| priority)
    }

    /// Parks what was found for an ordered group, durably: its place in the order of its message group holds from here on.
    pub(super) fn park(&mut self, cursor: CursorId, parked: Vec<Parked>) {
        let (Some(entry), Some(lane)) = (self.state.cursors.get(&cursor), self.consuming.lane(cursor, 0)) else {
            return;
        };
        let (pass, frontier) = (entry.pass, lane.frontier());
        if parked.is_empty() && entry.lane.order.unjudged() == 0 {
            return;
        }
        let passed = self.passing(cursor, frontier, &parked);
        let position = self.record(Change::FrontierMoved {
            cursor,
            pass,
            priority: 0,
            frontier,
            parked,
        });
        self.ended(cursor, passed, position);
    }

    /// The message groups of what was to be judged again, does not match, and lies before the frontier to be recorded: what follows there is
    /// not delivered before that is durable, since a crash would have it judged once more.
    pub(super) fn passing(&self, cursor: CursorId, frontier: QueueOffset, parked: &[Parked]) -> Vec<u64> {
        let Some(entry) = self.state.cursors.get(&cursor).filter(|entry| entry.lane.order.unjudged() > 0) else {
            return Vec::new();
        };
        let found = |offset: u64| parked.binary_search_by_key(&offset, |message| message.offset.0).is_ok();
        let rows = entry.lane.order.within(entry.lane.frontier.0..frontier.0);
        rows.filter(|(offset, row)| !row.judged && row.group != 0 && !found(*offset))
            .map(|(_, row)| row.group)
            .collect()
    }

    /// What an ordered group is to park of some verdicts.
    pub(super) fn found(&self, cursor: CursorId, verdicts: &Verdicts) -> Vec<Parked> {
        let Some(entry) = self.state.cursors.get(&cursor) else {
            return Vec::new();
        };
        let matched = verdicts
            .deliver
            .iter()
            .zip(&verdicts.links)
            .map(|(&offset, link)| (offset, link, true));
        let failed = verdicts.culprits.iter().map(|culprit| (culprit.offset, &culprit.link, false));
        let free = matched.chain(failed).filter(|(offset, ..)| entry.lane.is_free(offset.0));
        let mut parked: Vec<Parked> = free
            .map(|(offset, link, judged)| Parked {
                offset,
                group: link.group,
                priority: link.priority,
                judged,
            })
            .collect();
        parked.sort_unstable_by_key(|message| message.offset);
        parked
    }

    /// Notes the message groups of what is about to be ended by the next record: what follows there is not delivered before that is durable.
    pub(crate) fn ending(&self, cursor: CursorId, offsets: &[OffsetRange]) -> Vec<u64> {
        let Some(entry) = self.state.cursors.get(&cursor).filter(|entry| !entry.lane.order.is_empty()) else {
            return Vec::new();
        };
        let rows = offsets.iter().flat_map(|range| entry.lane.order.within(range.first.0..range.end.0));
        rows.map(|(_, row)| row.group).filter(|group| *group != 0).collect()
    }

    /// The record that ended messages of these groups is at `position`.
    pub(crate) fn ended(&mut self, cursor: CursorId, groups: Vec<u64>, position: Position) {
        if let Some(lane) = self.consuming.lane_mut(cursor, 0).filter(|_| !groups.is_empty()) {
            lane.ended(groups, position);
        }
    }

    /// Forgets the ends of messages that are durable by now, and has the reading served when the others are.
    pub(super) fn await_freed(&mut self, cursor: CursorId, lane: &mut LaneRun) {
        if !lane.freed.is_empty() {
            lane.freed.retain(|_, position| !self.journal.is_durable(*position));
            let key = key_of(cursor);
            self.consuming.behind.extend(lane.freed.values().map(|&position| (position, key)));
        }
    }
}

impl LaneRun {
    /// The record that ended messages of these groups is at `position`.
    pub(super) fn ended(&mut self, groups: Vec<u64>, position: Position) {
        if !planted::is(Bug::OrderNotWaited) {
            self.freed.extend(groups.into_iter().map(|group| (group, position)));
        }
    }

    /// Whether a message of this group waits until the end of the one before it is durable.
    pub(super) fn awaits(&self, group: u64) -> bool {
        self.freed.contains_key(&group)
    }
}

/// For each priority the messages of it.
pub(super) type ByPriority = Vec<(u8, Vec<LeaseRange>)>;

/// Sorts leases by the lane that they are of, the highest priority first.
pub(super) fn by_priority(leases: &[(u8, LeaseRange)]) -> ByPriority {
    let mut sorted: BTreeMap<u8, Vec<LeaseRange>> = BTreeMap::new();
    for (priority, lease) in leases {
        sorted.entry(*priority).or_default().push(*lease);
    }
    sorted.into_iter().rev().collect()
}
