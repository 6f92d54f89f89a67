//! Dispatch: what falls due, which messages go to which member, and when to look again.

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Holder, LeaseRange, ReturnReason};
use sluice_protocol::ids::{Pass, Position, QueueOffset};
use sluice_protocol::wire::Writer;

use super::lanes::Lanes;
use super::pick::{Picked, pick};
use super::settle::Sent;
use super::{Awaited, Consuming, LaneRun, MemberRef, Reading, ReadingKey, Timer, cursor_of, key_of};
use crate::broker::Core;
use crate::effect::{Answer, Delivery, Effect, Taker};
use crate::input::{RequestId, SubscriptionId};
use crate::limits::{FRONTIER_MESSAGES_MAX, FRONTIER_MS_MAX, SUPERSEDED_REST_MS};
use crate::planted::{self, Bug};
use crate::ranges::len;
use crate::receipt::{HANDLE_BYTES, Receipt};
use crate::state::lane::NEVER_MONO_MS;

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
                Timer::Member(group) => self.look_for_member(group),
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
        self.look_for_those_who_left();
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
                .flat_map(|reading| reading.runs().map(move |(_, lane)| (reading, lane)))
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

    /// Serves every lane of a reading, another queue first each time, so that none starves.
    fn serve(&mut self, key: ReadingKey, reading: &mut Reading) {
        let paused = self.is_paused(key);
        self.try_culprits(key, reading);
        let mut wake = None;
        let queues = reading.lanes.len();
        for nth in 0..queues {
            let index = (reading.next_lane + nth) % queues;
            let cursor = cursor_of(key, index);
            let mut lanes = reading.take_lanes(index);
            self.open_levels(cursor, reading, &mut lanes);
            self.expire(cursor);
            for lane in lanes.iter_mut() {
                self.give_up(cursor, lane);
                self.drop_idle_window(cursor, reading, lane);
            }
            if !paused {
                lanes.iter_mut().for_each(|lane| self.extend_window(cursor, reading, lane));
                self.expire_messages(cursor, &mut lanes);
                self.ask_before(cursor, reading, &mut lanes);
                while self.grant(cursor, reading, &mut lanes) {}
                self.ask_after(cursor, reading, &mut lanes);
            } else if planted::is(Bug::PauseSparesRetries) {
                while self.grant(cursor, reading, &mut lanes) {}
            }
            for lane in lanes.iter_mut() {
                self.record_frontier(cursor, lane);
                wake = self.wake_of(cursor, reading, lane).into_iter().chain(wake).min();
            }
            reading.put_lanes(index, lanes);
        }
        reading.next_lane = (reading.next_lane + 1) % queues.max(1);
        self.consuming.set_wake(key, reading, wake);
    }

    /// Gives back what was held too long.
    fn expire(&mut self, cursor: CursorId) {
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        let until_mono_ms = self.expired_mono_ms();
        let due = entry.levels().flat_map(|(_, lane)| lane.leases.due(0, until_mono_ms));
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

    /// Hands messages of a queue to the member whose turn it is; says whether there is more to do.
    fn grant(&mut self, cursor: CursorId, reading: &mut Reading, lanes: &mut Lanes) -> bool {
        let Some(&member) = reading.waiting.front() else { return false };
        let Some((demand, invisible_ms, holder)) = self.demand(member) else {
            reading.waiting.pop_front();
            return true;
        };
        self.await_freed(cursor, &mut lanes.base);
        let Some(entry) = self.state.cursors.get(&cursor) else {
            return false;
        };
        let pass = entry.pass;
        // A lease that ran while its delivery waits for the sync of a seek would use up attempts that nobody saw.
        let barrier = barrier_of(reading, &lanes.base);
        if !self.journal.is_durable(barrier) {
            self.consuming.behind.insert((barrier, key_of(cursor)));
            return false;
        }
        let Picked { leases, by_priority } = pick(entry, reading, lanes, &self.gate(cursor, reading), demand, self.now.mono_ms);
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
        let several = !by_priority.is_empty();
        if several {
            for (priority, leases) in by_priority {
                let frontier = lanes.level(priority).map_or(QueueOffset(0), LaneRun::frontier);
                self.record(Change::Granted {
                    cursor,
                    pass,
                    priority,
                    holder: holder.clone(),
                    leases,
                    frontier,
                    expires_mono_ms,
                });
            }
        } else {
            let frontier = lanes.base.frontier();
            let passed = self.passing(cursor, frontier, &[]);
            let position = self.record(Change::Granted {
                cursor,
                pass,
                priority: 0,
                holder,
                leases: leases.clone(),
                frontier,
                expires_mono_ms,
            });
            lanes.base.ended(passed, position);
        }
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
                self.hand_over(request, cursor, pass, &leases, several)
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
    fn push(&mut self, subscription: SubscriptionId, cursor: CursorId, pass: Pass, leases: &[LeaseRange]) -> Taker {
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
    fn hand_over(&self, request: RequestId, cursor: CursorId, pass: Pass, leases: &[LeaseRange], several: bool) -> Taker {
        let mut to = Writer::new();
        for lease in leases {
            for offset in lease.offsets.first.0..lease.offsets.end.0 {
                let receipt = Receipt {
                    priority: if several { self.priority_of(cursor, offset) } else { 0 },
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
        let Some(durable) = entry.level(lane.priority) else { return };
        let frontier = lane.frontier();
        let ahead = frontier.0.saturating_sub(durable.frontier.0);
        if ahead == 0 {
            lane.moved_mono_ms = None;
            return;
        }
        let moved = *lane.moved_mono_ms.get_or_insert(self.now.mono_ms);
        if ahead >= FRONTIER_MESSAGES_MAX || self.now.mono_ms >= moved + FRONTIER_MS_MAX {
            let pass = entry.pass;
            let frontier = QueueOffset(frontier.0 + u64::from(planted::is(Bug::FrontierTooFar)));
            let passed = self.passing(cursor, frontier, &[]);
            let position = self.record(Change::FrontierMoved {
                cursor,
                pass,
                priority: lane.priority,
                frontier,
                parked: Vec::new(),
            });
            if !passed.is_empty() {
                lane.ended(passed, position);
                self.consuming.behind.insert((position, key_of(cursor)));
            }
            lane.moved_mono_ms = None;
        }
    }

    /// When a lane is to be looked at again though nothing happens.
    fn wake_of(&self, cursor: CursorId, reading: &Reading, lane: &LaneRun) -> Option<u64> {
        let durable = self.state.cursors.get(&cursor)?.level(lane.priority)?;
        let early = self.expired_mono_ms() - self.now.mono_ms;
        let lease = durable.leases.earliest().map(|time| time - early);
        let retry = durable
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
