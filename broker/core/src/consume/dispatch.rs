//! Dispatch: what falls due, which messages go to which member, and when to look again.

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Holder, LeaseRange, OffsetRange, ReturnReason};
use sluice_protocol::ids::{Attempt, Position, QueueOffset};
use sluice_protocol::wire::Writer;

use super::settle::Sent;
use super::{Awaited, Consuming, LaneRun, MemberRef, Reading, ReadingKey, Timer, cursor_of, key_of};
use crate::broker::Core;
use crate::effect::{Answer, Delivery, Effect, Taker};
use crate::input::{RequestId, SubscriptionId};
use crate::limits::{CURSOR_OPEN_MAX, FRONTIER_MESSAGES_MAX, FRONTIER_MS_MAX, SUPERSEDED_REST_MS};
use crate::planted::{self, Bug};
use crate::ranges::{len, range};
use crate::receipt::{HANDLE_BYTES, Receipt};
use crate::state::lane::{Lane, NEVER_MONO_MS};

impl Core {
    /// Serves every reading where something changed or fell due; then receives that waited long enough get nothing.
    pub(crate) fn serve_readings(&mut self) {
        let mut over = Vec::new();
        while let Some((_, timer)) = self.consuming.timers.first().copied().filter(|(time, _)| *time <= self.now.mono_ms) {
            self.consuming.timers.pop_first();
            match timer {
                Timer::Reading(key) => {
                    if let Some(reading) = self.consuming.readings.get_mut(&key) {
                        reading.wake_mono_ms = None;
                    }
                    self.consuming.wake(key);
                }
                Timer::Receive(request) => over.push(request),
            }
        }
        while let Some(key) = self.consuming.next_to_serve() {
            if let Some(mut reading) = self.consuming.readings.remove(&key) {
                self.serve(key, &mut reading);
                self.consuming.readings.insert(key, reading);
            }
        }
        over.retain(|&request| !self.is_patient(request));
        over.extend(self.done_waiting());
        for request in over {
            if self.forget_receive(request).is_some() {
                self.answer(Position::default(), request, Answer::NothingReceived);
            }
        }
    }

    /// Whether a receive whose time is over goes on waiting: a young one does for the verdicts and the sync that are under way, so that one
    /// that does not wait at all is not told of an empty queue where the broker had no time to answer.
    fn is_patient(&mut self, request: RequestId) -> bool {
        let Some(receive) = self.consuming.receives.get_mut(&request) else {
            return false;
        };
        let reading = self.consuming.readings.get(&receive.key);
        let lanes = || {
            reading
                .into_iter()
                .flat_map(|reading| reading.lanes.iter().map(move |lane| (reading, lane)))
        };
        let awaits = Awaited {
            judges: lanes().filter_map(|(_, lane)| lane.asked).collect(),
            synced: lanes().map(|(reading, lane)| barrier_of(reading, lane)).max().unwrap_or_default(),
        };
        let nothing = awaits.judges.is_empty() && self.journal.is_durable(awaits.synced);
        if nothing || receive.awaits.is_some() || self.now.mono_ms >= receive.patient_until_mono_ms {
            return false;
        }
        receive.awaits = Some(awaits);
        receive.until_mono_ms = receive.patient_until_mono_ms;
        self.consuming.timers.insert((receive.until_mono_ms, Timer::Receive(request)));
        self.consuming.patient.insert(request);
        true
    }

    /// The receives for which what they waited for came, and brought them nothing.
    fn done_waiting(&mut self) -> Vec<RequestId> {
        let journal = &self.journal;
        let Consuming {
            patient, receives, judges, ..
        } = &mut self.consuming;
        let mut done = Vec::new();
        patient.retain(|request| {
            let awaits = receives.get(request).and_then(|receive| receive.awaits.as_ref());
            let is_under_way =
                |awaits: &Awaited| !journal.is_durable(awaits.synced) || awaits.judges.iter().any(|judge| judges.contains_key(judge));
            let waits = awaits.map(is_under_way);
            done.extend((waits == Some(false)).then_some(*request));
            waits == Some(true)
        });
        done
    }

    /// Serves every lane of a reading, another one first each time, so that no queue starves.
    fn serve(&mut self, key: ReadingKey, reading: &mut Reading) {
        let paused = self.is_paused(key);
        self.try_culprits(key, reading);
        let mut wake = None;
        let lanes = reading.lanes.len();
        for nth in 0..lanes {
            let index = (reading.next_lane + nth) % lanes;
            let cursor = cursor_of(key, index);
            let mut lane = std::mem::take(&mut reading.lanes[index]);
            self.expire(cursor);
            self.give_up(cursor, &mut lane);
            self.drop_idle_window(cursor, reading, &mut lane);
            if !paused {
                self.extend_window(cursor, reading, &mut lane);
                while self.grant(cursor, reading, &mut lane) {}
                self.ask_judge(cursor, reading, &mut lane);
            } else if planted::is(Bug::PauseSparesRetries) {
                while self.grant(cursor, reading, &mut lane) {}
            }
            self.record_frontier(cursor, &mut lane);
            wake = self.wake_of(cursor, reading, &lane).into_iter().chain(wake).min();
            reading.lanes[index] = lane;
        }
        reading.next_lane = (reading.next_lane + 1) % lanes.max(1);
        self.consuming.set_wake(key, reading, wake);
    }

    /// Gives back what was held too long.
    fn expire(&mut self, cursor: CursorId) {
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        let due = entry.lane.leases.due(0, self.expired_mono_ms());
        let held: Vec<LeaseRange> = due
            .map(|(offsets, lease)| LeaseRange {
                offsets,
                attempt: lease.attempt,
            })
            .collect();
        if !held.is_empty() {
            self.give_back(cursor, held, None, ReturnReason::Expired);
        }
    }

    /// Leases that end at this time or before are over.
    fn expired_mono_ms(&self) -> u64 {
        self.now.mono_ms + u64::from(planted::is(Bug::ExpiryTooEarly))
    }

    /// Hands messages of a lane to the member whose turn it is; says whether there is more to do.
    fn grant(&mut self, cursor: CursorId, reading: &mut Reading, lane: &mut LaneRun) -> bool {
        let Some(&member) = reading.waiting.front() else { return false };
        let Some((demand, invisible_ms, holder)) = self.demand(member) else {
            reading.waiting.pop_front();
            return true;
        };
        let Some(entry) = self.state.cursors.get(&cursor) else {
            return false;
        };
        let pass = entry.pass;
        // A lease that ran while its delivery waits for the sync of a seek would use up attempts that nobody saw.
        let barrier = barrier_of(reading, lane);
        if !self.journal.is_durable(barrier) {
            self.consuming.behind.insert((barrier, key_of(cursor)));
            return false;
        }
        let leases = pick(&entry.lane, lane, demand, self.now.mono_ms);
        if leases.is_empty() {
            return false;
        }
        reading.waiting.pop_front();
        let granted: u64 = leases.iter().map(|lease| len(lease.offsets)).sum();
        let redelivered: u64 = leases
            .iter()
            .filter(|lease| lease.attempt.0 > 1)
            .map(|lease| len(lease.offsets))
            .sum();
        self.counters.granted += granted;
        self.counters.redelivered += redelivered;
        let expires_mono_ms = self.now.mono_ms + invisible_ms;
        let frontier = lane.frontier();
        self.record(Change::Granted {
            cursor,
            pass,
            holder,
            leases: leases.clone(),
            frontier,
            expires_mono_ms,
        });
        let taker = match member {
            MemberRef::Stream(subscription) => {
                let taker = self.push(subscription, cursor, pass, &leases);
                if self.consuming.streams.get(&subscription).is_some_and(|stream| stream.credit > 0) {
                    reading.waiting.push_back(member);
                }
                taker
            }
            MemberRef::Receive(request) => {
                reading.receives -= 1;
                reading.seen_mono_ms = self.now.mono_ms;
                self.consuming.remove_receive(request);
                self.hand_over(request, cursor, pass, &leases)
            }
        };
        if planted::is(Bug::DeliveryLost) && granted % 4 == 3 {
            return true;
        }
        self.journal.release(
            barrier,
            Effect::Deliver(Delivery {
                taker,
                cursor,
                pass,
                leases,
            }),
        );
        true
    }

    /// How much a member takes at once, and for how long; `None` when it takes nothing.
    fn demand(&self, member: MemberRef) -> Option<(u64, u64, Holder)> {
        match member {
            MemberRef::Stream(subscription) => {
                let stream = self.consuming.streams.get(&subscription).filter(|stream| stream.credit > 0)?;
                Some((
                    stream.credit.min(self.config.grant_messages),
                    stream.invisible_ms,
                    Holder::clone(&stream.holder),
                ))
            }
            MemberRef::Receive(request) => {
                let receive = self.consuming.receives.get(&request)?;
                let max = receive.max + u64::from(planted::is(Bug::OneMessageMore));
                Some((max, receive.invisible_ms, receive.holder.clone()))
            }
        }
    }

    /// Numbers what goes to a stream and takes its credit.
    fn push(&mut self, subscription: SubscriptionId, cursor: CursorId, pass: sluice_protocol::ids::Pass, leases: &[LeaseRange]) -> Taker {
        let granted: u64 = leases.iter().map(|lease| len(lease.offsets)).sum();
        let stream = self.consuming.streams.get_mut(&subscription).expect("a stream with demand is open");
        stream.credit -= granted;
        let mut sent = stream.sent.remove(&cursor.queue.index).unwrap_or_else(|| Sent::new(pass));
        let first_number = sent.push(leases);
        self.sweep(cursor, &mut sent);
        if let Some(stream) = self.consuming.streams.get_mut(&subscription) {
            stream.sent.insert(cursor.queue.index, sent);
        }
        Taker::Stream {
            subscription,
            first_number,
        }
    }

    /// Makes the handles of what goes to a receive: one buffer for all of them.
    fn hand_over(&self, request: RequestId, cursor: CursorId, pass: sluice_protocol::ids::Pass, leases: &[LeaseRange]) -> Taker {
        let mut to = Writer::new();
        for lease in leases {
            for offset in lease.offsets.first.0..lease.offsets.end.0 {
                let receipt = Receipt {
                    cursor,
                    offset: QueueOffset(offset),
                    pass,
                    epoch: self.epoch,
                    attempt: lease.attempt,
                };
                self.receipts.write(&receipt, &mut to);
            }
        }
        let all = to.finish();
        let handles: Vec<Bytes> = (0..all.len() / HANDLE_BYTES)
            .map(|nth| all.slice(nth * HANDLE_BYTES..(nth + 1) * HANDLE_BYTES))
            .collect();
        Taker::Receive { request, handles }
    }

    /// Records the frontier where nothing is handed out for long, so that a crash has little to judge again.
    fn record_frontier(&mut self, cursor: CursorId, lane: &mut LaneRun) {
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        let frontier = lane.frontier();
        let ahead = frontier.0.saturating_sub(entry.lane.frontier.0);
        if ahead == 0 {
            lane.moved_mono_ms = None;
            return;
        }
        let moved = *lane.moved_mono_ms.get_or_insert(self.now.mono_ms);
        if ahead >= FRONTIER_MESSAGES_MAX || self.now.mono_ms >= moved + FRONTIER_MS_MAX {
            let pass = entry.pass;
            let frontier = QueueOffset(frontier.0 + u64::from(planted::is(Bug::FrontierTooFar)));
            self.record(Change::FrontierMoved { cursor, pass, frontier });
            lane.moved_mono_ms = None;
        }
    }

    /// When a lane is to be looked at again though nothing happens.
    fn wake_of(&self, cursor: CursorId, reading: &Reading, lane: &LaneRun) -> Option<u64> {
        let entry = self.state.cursors.get(&cursor)?;
        let early = self.expired_mono_ms() - self.now.mono_ms;
        let lease = entry.lane.leases.earliest().map(|time| time - early);
        let retry = entry
            .lane
            .retries
            .earliest()
            .filter(|due| !reading.waiting.is_empty() && *due != NEVER_MONO_MS);
        let held = lane.held.as_ref().map(|held| held.until_mono_ms).filter(|_| reading.has_members());
        let frontier = lane.moved_mono_ms.map(|moved| moved + FRONTIER_MS_MAX);
        let aside = self.next_trial(cursor, lane);
        let unused = (!reading.has_members() && !lane.matched.is_empty()).then_some(reading.seen_mono_ms + SUPERSEDED_REST_MS);
        [lease, retry, held, frontier, aside, unused, lane.fetch_again_mono_ms]
            .into_iter()
            .flatten()
            .filter(|time| *time > self.now.mono_ms)
            .min()
    }
}

/// The record that must be durable before anything of a lane is handed out: the last subscription, binding or seek that concerns it.
fn barrier_of(reading: &Reading, lane: &LaneRun) -> Position {
    if planted::is(Bug::SeekNotWaited) {
        reading.barrier
    } else {
        reading.barrier.max(lane.barrier)
    }
}

/// Takes up to `max` messages of a lane: those whose retry is due first, then what matched, all in the order of their offsets.
fn pick(durable: &Lane, lane: &mut LaneRun, max: u64, now_mono_ms: u64) -> Vec<LeaseRange> {
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
    left = left.min(CURSOR_OPEN_MAX.saturating_sub(durable.open()));
    while left > 0 {
        let next = if planted::is(Bug::NewestFirst) {
            lane.matched.pop_back()
        } else {
            lane.matched.pop_front()
        };
        let Some(next) = next else { break };
        let free = free_part(durable, lane, next);
        let Some(next) = free else { continue };
        let count = len(next).min(left);
        let middle = next.first.0 + count;
        if middle < next.end.0 {
            lane.matched.push_front(range(middle, next.end.0));
        }
        leases.push(LeaseRange {
            offsets: range(next.first.0, middle),
            attempt: Attempt(1),
        });
        left -= count;
    }
    lane.place = lane.matched.front().map_or(lane.judged, |next| next.first);
    leases
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
