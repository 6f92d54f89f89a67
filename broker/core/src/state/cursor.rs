//! The entry of one cursor: a group's place in one queue, with a lane for each priority that it has met there.

use std::collections::BTreeMap;

use sluice_log::record::{Deadline, Fate, Holder, LeaseRange, OffsetRange, OnExpired, Parked, ReturnReason};
use sluice_protocol::ids::{Pass, Position, QueueOffset};
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::lane::{Lane, Lease, Retry};
use super::lifetimes::Lifetimes;
use crate::planted::{self, Bug};
use crate::ranges::OffsetSet;

/// A group's place in one queue under the present pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The pass; a seek begins the next.
    pub pass: Pass,
    /// How far the group has come among the messages of priority 0. In an ordered group, and where no message has a priority, among all.
    pub lane: Lane,
    /// The same for the higher priorities that the group has met in this queue. One that is not here begins where the lane of priority 0
    /// stands: it is made before that passes the first message of its priority.
    upper: BTreeMap<u8, Lane>,
    /// How many messages retention took before the group was done with them, in all passes.
    pub lost: u64,
}

impl Cursor {
    pub(super) fn new(reflects: Position, start: QueueOffset) -> Self {
        Self {
            reflects,
            pass: Pass(1),
            lane: Lane::starting_at(start),
            upper: BTreeMap::new(),
            lost: 0,
        }
    }

    /// The lane of a priority.
    pub fn level(&self, priority: u8) -> Option<&Lane> {
        match priority {
            0 => Some(&self.lane),
            _ => self.upper.get(&priority),
        }
    }

    /// Every lane, by ascending priority.
    pub fn levels(&self) -> impl DoubleEndedIterator<Item = (u8, &Lane)> {
        let upper = self.upper.iter().map(|(&priority, lane)| (priority, lane));
        std::iter::once((0, &self.lane)).chain(upper)
    }

    /// The lease that runs on a message.
    pub fn lease(&self, offset: u64) -> Option<&Lease> {
        self.levels().find_map(|(_, lane)| lane.leases.get(offset))
    }

    /// What a message waits for that came back.
    pub fn retry(&self, offset: u64) -> Option<&Retry> {
        self.levels().find_map(|(_, lane)| lane.retries.get(offset))
    }

    /// The leases of a range, lane by lane.
    pub fn leases_within(&self, within: OffsetRange) -> impl Iterator<Item = (OffsetRange, &Lease)> {
        self.levels().flat_map(move |(_, lane)| lane.leases.within(within))
    }

    /// Lets a record that this entry does not hold yet change it.
    pub(super) fn update(&mut self, position: Position, change: impl FnOnce(&mut Self)) {
        if self.reflects < position {
            self.reflects = position;
            change(self);
        }
    }

    pub(super) fn seek(&mut self, position: Position, pass: Pass, start: QueueOffset) {
        if self.reflects < position {
            self.reflects = position;
            self.pass = pass;
            if planted::is(Bug::SeekKeepsLeases) {
                self.lane.frontier = start;
                return;
            }
            self.lane = Lane::starting_at(start);
            self.upper.clear();
        }
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Lane> {
        std::iter::once(&mut self.lane).chain(self.upper.values_mut())
    }

    /// The lane of a priority, made to begin at `start` when it is not there yet. What was settled ahead before is settled in it too.
    fn make(&mut self, priority: u8, start: QueueOffset) -> &mut Lane {
        let ahead = &self.lane.ahead;
        let make = || {
            let mut lane = Lane::starting_at(start);
            lane.ahead = ahead.clone();
            lane.ahead.drop_below(start.0);
            lane
        };
        match priority {
            0 => &mut self.lane,
            _ => self.upper.entry(priority).or_insert_with(make),
        }
    }

    pub(super) fn opened(&mut self, at: Now) {
        self.each().for_each(|lane| lane.opened(at));
    }

    pub(super) fn trimmed(&mut self, start: QueueOffset, lost: u64) {
        self.lost = self.lost.saturating_add(lost);
        self.each().for_each(|lane| lane.trimmed(start));
    }

    pub(super) fn release_held(&mut self) {
        self.each().for_each(Lane::release_held);
    }

    pub(super) fn granted(
        &mut self,
        priority: u8,
        granted: Position,
        holder: &Holder,
        leases: &[LeaseRange],
        frontier: QueueOffset,
        expires_mono_ms: u64,
    ) {
        self.make(priority, QueueOffset(0))
            .granted(granted, holder, leases, frontier, expires_mono_ms);
    }

    pub(super) fn move_frontier(&mut self, priority: u8, frontier: QueueOffset, parked: &[Parked]) {
        let lane = self.make(priority, frontier);
        lane.park(parked);
        lane.move_frontier(frontier);
    }

    pub(super) fn decided(&mut self, priority: u8, offset: QueueOffset, fate: &Fate, at: Now) {
        self.make(priority, QueueOffset(0)).decided(offset, fate, at);
    }

    pub(super) fn deadlines_found(&mut self, priority: u8, deadlines: &[Deadline]) {
        self.make(priority, QueueOffset(0)).deadlines_found(deadlines);
    }

    pub(super) fn expired(&mut self, priority: u8, messages: &[LeaseRange], fate: OnExpired) {
        self.make(priority, QueueOffset(0)).expired(messages, fate);
    }

    /// Each message is settled in the lane that has it. One that no lane has, since a crash forgot its lease, is settled ahead in all: where
    /// it does not belong that changes nothing.
    pub(super) fn settled(&mut self, first: QueueOffset, end: QueueOffset) {
        if self.upper.is_empty() {
            return self.lane.settled(first, end);
        }
        let within = OffsetRange { first, end };
        let mut found = OffsetSet::default();
        for lane in self.each() {
            let leased = lane.leases.within(within).map(|(piece, _)| piece);
            let retrying = lane.retries.within(within).map(|(piece, _)| piece);
            let pieces: Vec<OffsetRange> = leased.chain(retrying).chain(lane.held.within(within)).collect();
            for piece in pieces {
                found.insert(piece.first.0, piece.end.0);
                lane.settled(piece.first, piece.end);
            }
        }
        for piece in found.gaps(within) {
            self.each().for_each(|lane| lane.settled(piece.first, piece.end));
        }
    }

    pub(super) fn returned(&mut self, leases: &[LeaseRange], due_mono_ms: u64, reason: ReturnReason) {
        if self.upper.is_empty() {
            return self.lane.returned(leases, due_mono_ms, reason);
        }
        for lane in self.each() {
            let mut own = Vec::new();
            for lease in leases {
                let leased = lane.leases.within(lease.offsets).map(|(piece, _)| piece);
                let retrying = lane.retries.within(lease.offsets).map(|(piece, _)| piece);
                own.extend(leased.chain(retrying).map(|offsets| LeaseRange { offsets, ..*lease }));
            }
            lane.returned(&own, due_mono_ms, reason);
        }
    }

    /// Messages that were given up are due again in their lane.
    pub(super) fn sent_back(&mut self, priority: u8, messages: &[LeaseRange], at: Now) {
        let start = self.lane.frontier;
        self.make(priority, start).sent_back(messages, at);
    }

    pub(super) fn extended(&mut self, offsets: OffsetRange, expires_mono_ms: u64) {
        self.each().for_each(|lane| lane.extended(offsets, expires_mono_ms));
    }

    /// The version that has room for all there is: what knows no priority and no order, nothing that expires and no losses, is written as ever.
    pub(super) fn version(&self) -> u8 {
        if self.lost > 0 {
            5
        } else if self.levels().any(|(_, lane)| lane.has_lifetimes()) {
            4
        } else if !self.upper.is_empty() || !self.lane.order.is_empty() {
            3
        } else {
            2
        }
    }

    pub(super) fn encode(&self, to: &mut Writer, version: u8) {
        to.u64(self.reflects.0).u32(self.pass.0);
        let put_lane = |to: &mut Writer, lane: &Lane| {
            lane.encode(to);
            if version > 2 {
                lane.encode_order(to);
            }
            if version > 3 {
                lane.lifetimes.encode(to);
            }
        };
        put_lane(to, &self.lane);
        if version > 2 {
            to.count(self.upper.len());
            for (priority, lane) in &self.upper {
                put_lane(to.u8(*priority), lane);
            }
        }
        if version > 4 {
            to.u64(self.lost);
        }
    }

    /// Version 4 knew no losses, version 3 nothing that expires, version 2 one lane, without an order; version 1 held nothing.
    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let (reflects, pass) = (Position(from.u64()?), Pass(from.u32()?));
        let take_lane = |from: &mut Reader<'_>| {
            let mut lane = Lane::decode(from, version)?;
            if version > 2 {
                lane.decode_order(from)?;
            }
            if version > 3 {
                lane.lifetimes = Lifetimes::decode(from)?;
            }
            Ok::<_, WireError>(lane)
        };
        let lane = take_lane(from)?;
        let mut upper = BTreeMap::new();
        if version > 2 {
            for _ in 0..from.count(29)? {
                let priority = from.u8()?;
                upper.insert(priority, take_lane(from)?);
            }
        }
        let lost = if version > 4 { from.u64()? } else { 0 };
        Ok(Self {
            reflects,
            pass,
            lane,
            upper,
            lost,
        })
    }
}
