//! Consuming: who reads what, up to where it was judged, and what each stream was given. All of it is forgotten by a restart.

mod broadcast;
mod culprits;
mod dispatch;
mod expiry;
mod explain;
mod gate;
mod give_up;
mod judge;
mod lanes;
mod locate;
mod members;
mod pick;
mod rest;
mod settle;
mod subscribe;
mod trim;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use sluice_log::record::{CursorId, Filter, Holder, OffsetRange};
use sluice_protocol::ids::{GroupId, Pass, Position, QueueId, QueueIndex, QueueOffset, TopicId};

use self::culprits::{Suspect, Trial};
use self::give_up::GivingUp;
use self::judge::Asked;
use self::locate::Locating;
pub(crate) use self::locate::Seek;
use self::settle::Sent;
use crate::effect::{FetchId, JudgeId, Rule};
use crate::input::{ConnectionId, RequestId, SubscriptionId};
use crate::limits::WINDOWS_MAX;
use crate::planted::{self, Bug};
use crate::state::State;
use crate::state::lane::Lane;

/// One group's reading of one topic.
pub(crate) type ReadingKey = (TopicId, GroupId);

/// Everything about consuming that is not durable.
#[derive(Debug, Default)]
pub(crate) struct Consuming {
    pub(crate) readings: BTreeMap<ReadingKey, Reading>,
    pub(crate) streams: BTreeMap<SubscriptionId, Stream>,
    pub(crate) receives: BTreeMap<RequestId, Receive>,
    /// The members that end with each connection.
    by_connection: BTreeSet<(ConnectionId, MemberRef)>,
    /// Readings to be served at the end of the turn.
    dirty: BTreeSet<ReadingKey>,
    timers: BTreeSet<(u64, Timer)>,
    judges: BTreeMap<JudgeId, Asked>,
    /// The lanes that have verdicts or asked for some.
    windows: BTreeSet<CursorId>,
    /// Readings with a lane that waits for a window.
    without_window: BTreeSet<ReadingKey>,
    /// Which of those was served last; the next one in order has the next turn.
    window_turn: ReadingKey,
    /// Receives whose time is over and that wait for what is under way.
    patient: BTreeSet<RequestId>,
    /// Readings with a lane of which nothing is handed out before the record at this position is durable.
    behind: BTreeSet<(Position, ReadingKey)>,
    fetches: BTreeMap<FetchId, GivingUp>,
    /// When it is to be looked for each member of a broadcast group next, if at all.
    looks: BTreeMap<GroupId, Option<u64>>,
    /// The members of which a stream or a receive ended in this turn.
    left: BTreeSet<GroupId>,
    /// The members of each broadcast group that read a topic.
    broadcast: BTreeMap<(GroupId, TopicId), BTreeSet<GroupId>>,
    locating: Locating,
    last_id: u64,
}

/// What wakes the core by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A lease ends, a retry falls due, a judge may be asked again, or a frontier is to be recorded.
    Reading(ReadingKey),
    /// A receive has waited long enough.
    Receive(RequestId),
    /// It is to be looked whether a member of a broadcast group is there.
    Member(GroupId),
}

/// A group's reading of a topic: its members and its lanes, one a queue.
#[derive(Debug)]
pub(crate) struct Reading {
    /// The broadcast group whose member reads here.
    parent: Option<GroupId>,
    /// What judges; `None` takes every message.
    rule: Option<Rule>,
    /// The last record that what is handed out here depends on.
    pub(crate) barrier: Position,
    pub(crate) streams: Vec<SubscriptionId>,
    pub(crate) receives: usize,
    /// Members with demand, the next to be served first.
    waiting: VecDeque<MemberRef>,
    /// When a member was seen last.
    pub(crate) seen_mono_ms: u64,
    pub(crate) lanes: Vec<LaneRun>,
    /// The lanes of the higher priorities, by queue.
    pub(crate) upper: BTreeMap<(usize, u8), LaneRun>,
    /// Whether the messages of one message group go one after the other.
    ordered: bool,
    /// One delivery in so many goes to the message that has waited longest; 0 for none.
    oldest_every: u8,
    /// How the plugin did here.
    trial: Trial,
    /// The lane that is served first.
    next_lane: usize,
    wake_mono_ms: Option<u64>,
}

/// A member that takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MemberRef {
    Stream(SubscriptionId),
    Receive(RequestId),
}

/// What is known of a lane beyond its durable state.
#[derive(Debug, Default)]
pub(crate) struct LaneRun {
    /// Whose lane it is.
    pub(crate) priority: u8,
    /// Deliveries since the message that had waited longest had its turn. Counted in the lane of priority 0 for all.
    since_oldest: u8,
    /// Verdicts came in this turn: what matched is handed out before more is asked. Noted in the lane of priority 0 for all.
    answered: bool,
    /// In an ordered group, the records that ended the message before in each message group, until they are durable.
    freed: BTreeMap<u64, Position>,
    /// The first offset neither handed out nor skipped; the recorded frontier follows it.
    pub(crate) place: QueueOffset,
    /// One past the last offset judged.
    judged: QueueOffset,
    /// What matched and waits to be handed out, ascending.
    matched: VecDeque<OffsetRange>,
    /// The question under way.
    asked: Option<JudgeId>,
    /// When the place first went ahead of the recorded frontier.
    moved_mono_ms: Option<u64>,
    /// Evaluation errors since the start.
    pub(crate) failed: u64,
    /// Messages that expired since the start.
    pub(crate) expired: u64,
    /// Why nothing is judged.
    pub(crate) held: Option<Held>,
    /// What a plugin failed on and is to be decided about. The recorded frontier does not pass it.
    pub(crate) aside: BTreeMap<u64, Suspect>,
    /// Runs that the wall-clock backstop stopped since one was judged.
    stops: u32,
    /// One past what was handed out, settled or held beyond the place when judging began anew.
    taken_end: u64,
    /// The last seek, which the messages handed out depend on too.
    barrier: Position,
    /// What is being fetched for the dead-letter topic.
    giving_up: BTreeSet<u64>,
    /// When the next may be fetched, after one could not be read.
    fetch_again_mono_ms: Option<u64>,
}

/// A judge failed: nothing is asked before a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) reason: String,
    until_mono_ms: u64,
    wait_ms: u64,
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) connection: ConnectionId,
    pub(crate) key: ReadingKey,
    pub(crate) holder: Arc<Holder>,
    filter: Filter,
    invisible_ms: u64,
    credit: u64,
    /// What was pushed, by queue.
    sent: BTreeMap<QueueIndex, Sent>,
}

/// A receive that waits.
#[derive(Debug)]
pub(crate) struct Receive {
    connection: ConnectionId,
    pub(crate) key: ReadingKey,
    pub(crate) holder: Holder,
    filter: Filter,
    max: u64,
    until_mono_ms: u64,
    /// Up to when it waits for what is under way when its time is over.
    patient_until_mono_ms: u64,
    /// That, once its time was over.
    awaits: Option<Awaited>,
    invisible_ms: u64,
}

/// What a receive waits for whose time is over.
#[derive(Debug)]
struct Awaited {
    /// The verdicts under way.
    judges: Vec<JudgeId>,
    /// What was recorded here must be durable.
    synced: Position,
}

impl LaneRun {
    fn starting_at(priority: u8, place: QueueOffset) -> Self {
        Self {
            priority,
            place,
            judged: place,
            ..Self::default()
        }
    }

    /// Throws verdicts away: all that is free in the lane is judged anew from `place` on.
    fn rewind(&mut self, durable: &Lane, place: QueueOffset) {
        self.place = place;
        self.judged = place;
        self.taken_end = durable.taken_end();
        self.matched.clear();
        self.aside.clear();
        self.stops = 0;
        if planted::is(Bug::StaleVerdicts) {
            return;
        }
        self.asked = None;
        self.held = None;
    }

    /// The first offset neither handed out, skipped nor set aside; what a crash goes back to once it is recorded.
    pub(crate) fn frontier(&self) -> QueueOffset {
        if planted::is(Bug::SetAsideForgotten) {
            return self.place;
        }
        let aside = self.aside.first_key_value().map(|(&offset, _)| QueueOffset(offset));
        aside.map_or(self.place, |aside| aside.min(self.place))
    }

    /// One past the last offset judged.
    pub(crate) fn judged(&self) -> QueueOffset {
        self.judged
    }

    /// How many ranges hold what matched and waits.
    pub(crate) fn matched_ranges(&self) -> usize {
        self.matched.len()
    }

    /// Messages that matched and wait.
    pub(crate) fn matched(&self) -> u64 {
        self.matched.iter().map(|range| crate::ranges::len(*range)).sum()
    }
}

impl Reading {
    /// Every lane with the number of its queue.
    fn runs(&self) -> impl Iterator<Item = (usize, &LaneRun)> {
        let upper = self.upper.iter().map(|(&(index, _), lane)| (index, lane));
        self.lanes.iter().enumerate().chain(upper)
    }

    /// Every lane with the number of its queue.
    fn runs_mut(&mut self) -> impl Iterator<Item = (usize, &mut LaneRun)> {
        let upper = self.upper.iter_mut().map(|(&(index, _), lane)| (index, lane));
        self.lanes.iter_mut().enumerate().chain(upper)
    }

    pub(crate) fn has_members(&self) -> bool {
        !self.streams.is_empty() || self.receives > 0
    }

    /// The receives that wait here: each of them has demand until it is answered.
    fn waiting_receives(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.waiting.iter().filter_map(|member| match member {
            MemberRef::Receive(request) => Some(*request),
            MemberRef::Stream(_) => None,
        })
    }
}

impl Consuming {
    /// Has a reading served at the end of the turn.
    fn wake(&mut self, key: ReadingKey) {
        self.dirty.insert(key);
    }

    /// The log is durable up to `end`: what waited for that is served at the end of the turn.
    pub(crate) fn synced(&mut self, end: Position) {
        while let Some((position, key)) = self.behind.first().copied().filter(|(position, _)| *position < end) {
            self.behind.remove(&(position, key));
            self.wake(key);
        }
    }

    /// Has every reading of a topic served at the end of the turn.
    pub(crate) fn wake_topic(&mut self, topic: TopicId) {
        let keys = self
            .readings
            .range((topic, GroupId(0))..=(topic, GroupId(u64::MAX)))
            .map(|(key, _)| *key);
        self.dirty.extend(keys);
    }

    /// When the first timer falls due.
    pub(crate) fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|&(time, _)| time)
    }

    /// A number for the next question to the shell.
    pub(crate) fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// What is known of a lane beyond its durable state.
    pub(crate) fn lane(&self, cursor: CursorId, priority: u8) -> Option<&LaneRun> {
        let (reading, index) = (self.readings.get(&key_of(cursor))?, usize::from(cursor.queue.index.0));
        match priority {
            0 => reading.lanes.get(index),
            _ => reading.upper.get(&(index, priority)),
        }
    }

    /// The connected members of a group on these topics, by topic and name.
    pub(crate) fn member_names(&self, group: GroupId, topics: impl Iterator<Item = TopicId>) -> BTreeSet<(TopicId, &str)> {
        let readings = topics.filter_map(|topic| Some((topic, self.readings.get(&(topic, group))?)));
        let holders = readings.flat_map(|(topic, reading)| {
            let streams = reading
                .streams
                .iter()
                .filter_map(|id| self.streams.get(id))
                .map(|stream| &*stream.holder);
            let receives = reading
                .waiting_receives()
                .filter_map(|id| self.receives.get(&id))
                .map(|receive| &receive.holder);
            streams.chain(receives).map(move |holder| (topic, holder))
        });
        holders
            .map(|(topic, holder)| {
                let (Holder::Stream { member } | Holder::Receive { member }) = holder;
                (topic, member.as_str())
            })
            .collect()
    }

    /// What a connection has open: its streams and its receives that wait.
    fn members_of(&self, connection: ConnectionId) -> Vec<MemberRef> {
        let least = MemberRef::Stream(SubscriptionId(0));
        let from = self.by_connection.range((connection, least)..);
        from.take_while(|(other, _)| *other == connection)
            .map(|&(_, member)| member)
            .collect()
    }

    fn add_stream(&mut self, subscription: SubscriptionId, stream: Stream) {
        self.by_connection.insert((stream.connection, MemberRef::Stream(subscription)));
        self.streams.insert(subscription, stream);
    }

    fn remove_stream(&mut self, subscription: SubscriptionId) -> Option<Stream> {
        let stream = self.streams.remove(&subscription)?;
        self.by_connection.remove(&(stream.connection, MemberRef::Stream(subscription)));
        self.note_end(stream.key);
        Some(stream)
    }

    /// Has a receive wait, and be looked at when its time is over.
    fn add_receive(&mut self, request: RequestId, receive: Receive) {
        self.timers.insert((receive.until_mono_ms, Timer::Receive(request)));
        self.by_connection.insert((receive.connection, MemberRef::Receive(request)));
        self.receives.insert(request, receive);
    }

    fn remove_receive(&mut self, request: RequestId) -> Option<Receive> {
        let receive = self.receives.remove(&request)?;
        self.timers.remove(&(receive.until_mono_ms, Timer::Receive(request)));
        self.by_connection.remove(&(receive.connection, MemberRef::Receive(request)));
        self.note_end(receive.key);
        Some(receive)
    }

    fn note_end(&mut self, (_, group): ReadingKey) {
        if self.looks.contains_key(&group) {
            self.left.insert(group);
        }
    }

    /// Forgets a reading whose topic or group is gone; its members were ended before.
    pub(crate) fn drop_reading(&mut self, key: ReadingKey) {
        let Some(mut reading) = self.readings.remove(&key) else { return };
        self.set_wake(key, &mut reading, None);
        self.without_window.remove(&key);
        if let Some(parent) = reading.parent
            && let Some(members) = self.broadcast.get_mut(&(parent, key.0))
        {
            members.remove(&key.1);
            if members.is_empty() {
                self.broadcast.remove(&(parent, key.0));
            }
        }
        for index in 0..reading.lanes.len() {
            self.free_window(cursor_of(key, index));
        }
    }

    fn lane_mut(&mut self, cursor: CursorId, priority: u8) -> Option<&mut LaneRun> {
        let (reading, index) = (self.readings.get_mut(&key_of(cursor))?, usize::from(cursor.queue.index.0));
        match priority {
            0 => reading.lanes.get_mut(index),
            _ => reading.upper.get_mut(&(index, priority)),
        }
    }

    /// A window is free again.
    fn free_window(&mut self, cursor: CursorId) {
        self.windows.remove(&cursor);
    }

    /// The next reading to be served in this turn: one where something changed, or else one that waits for a window while one is free.
    fn next_to_serve(&mut self) -> Option<ReadingKey> {
        if let Some(key) = self.dirty.pop_first() {
            return Some(key);
        }
        if self.windows.len() >= WINDOWS_MAX {
            return None;
        }
        let after = (Bound::Excluded(self.window_turn), Bound::Unbounded);
        let next = self.without_window.range(after).next().or(self.without_window.first()).copied()?;
        self.without_window.remove(&next);
        self.window_turn = next;
        Some(next)
    }

    /// Sets or moves the timer of a reading.
    fn set_wake(&mut self, key: ReadingKey, reading: &mut Reading, wake: Option<u64>) {
        if reading.wake_mono_ms == wake {
            return;
        }
        if let Some(time) = reading.wake_mono_ms {
            self.timers.remove(&(time, Timer::Reading(key)));
        }
        if let Some(time) = wake {
            self.timers.insert((time, Timer::Reading(key)));
        }
        reading.wake_mono_ms = wake;
    }
}

pub(crate) fn key_of(cursor: CursorId) -> ReadingKey {
    (cursor.queue.topic, cursor.group)
}

fn cursor_of(key: ReadingKey, lane: usize) -> CursorId {
    CursorId {
        group: key.1,
        queue: QueueId {
            topic: key.0,
            index: QueueIndex(lane as u16),
        },
    }
}

/// Whether a request may name this pass of a cursor.
fn is_current(state: &State, cursor: CursorId, pass: Pass) -> bool {
    state.cursors.get(&cursor).is_some_and(|entry| entry.pass == pass)
}
