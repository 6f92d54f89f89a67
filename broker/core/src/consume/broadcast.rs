//! Broadcast groups: each named member reads all, by a group of its own under the rule of all, and is forgotten when it was absent for long.

use sluice_log::record::{Change, CursorId, Filter, GroupSettings, OffsetRange, Operation, QueueStart, Sharing, StartPoint};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{GroupId, Position, QueueId, QueueOffset, TopicId};
use sluice_protocol::names::{check_user_name, member_group};

use super::subscribe::superseded;
use super::{Reading, ReadingKey, Timer};
use crate::broker::Core;
use crate::input::{Consume, NamedBy};
use crate::limits::{BROADCAST_CURSORS_MAX, BROADCAST_MEMBERS_MAX, CURSORS_MAX, MEMBERS_MAX, SUPERSEDED_REST_MS};
use crate::planted::{self, Bug};

/// By whom it is recorded that members are absent.
const BROKER: &str = "broker";

impl Core {
    /// Lets a member of a broadcast group in: it goes on at its own cursors, or begins at the end of every queue. What it gets waits for the
    /// record that is named.
    pub(super) fn enter_member(&mut self, parent: GroupId, topic: TopicId, ask: &Consume) -> Result<(ReadingKey, Position), Refusal> {
        if ask.named_by == NamedBy::Client {
            let text = format!("group {} keeps a place for each member under its name: name the member", ask.group);
            return Err(Refusal::new(ErrorCode::BroadcastGroup, text));
        }
        check_user_name(&ask.member)?;
        let name = member_group(&ask.group, &ask.member);
        let known = self.state.group_named(&name);
        let reads = known.filter(|group| self.state.subscriptions.contains_key(&(*group, topic)));
        if let Some(group) = reads {
            self.check_room_of_member((topic, group))?;
        } else {
            self.check_members(parent, known.is_none(), self.state.queues_of(topic).count())?;
        }
        let mut depends = self.rule_of_all(parent, topic, reads, ask)?;
        let group = match reads {
            Some(group) => group,
            None => {
                let (group, position) = self.add_member(parent, known, name, topic, ask)?;
                depends = depends.max(position);
                group
            }
        };
        if let Some(reading) = self.consuming.readings.get_mut(&(topic, group)) {
            reading.seen_mono_ms = self.now.mono_ms;
            depends = depends.max(reading.barrier);
        }
        if self.state.groups.get(&group).is_some_and(|entry| entry.absent_mono_ms.is_some()) {
            depends = self.note_presence((topic, group));
        }
        Ok(((topic, group), depends))
    }

    /// Decides whether the filter that a member asks for rules all of them, will rule, or is refused: as in a group that shares its messages.
    ///
    /// The member that has read the topic for longest says what rules. A change is recorded of it first, so where a crash cuts a change short
    /// it rules already, and is made good when the next member comes.
    fn rule_of_all(&mut self, parent: GroupId, topic: TopicId, own: Option<GroupId>, ask: &Consume) -> Result<Position, Refusal> {
        let Some(members) = self.consuming.broadcast.get(&(parent, topic)) else {
            return Ok(Position::default());
        };
        let ruling = |group: &GroupId| self.state.subscriptions.get(&(*group, topic)).map(|entry| &entry.ruling);
        let Some(subscription) = members.first().and_then(|first| self.state.subscriptions.get(&(*first, topic))) else {
            return Ok(Position::default());
        };
        let rules = subscription.ruling == ask.filter;
        if rules && own.as_ref().is_none_or(|own| ruling(own) == Some(&ask.filter)) {
            return Ok(Position::default());
        }
        let now_mono_ms = self.now.mono_ms;
        let lately = |reading: &Reading| reading.has_members() || now_mono_ms < reading.seen_mono_ms + SUPERSEDED_REST_MS;
        let mut readings = members.iter().filter_map(|group| self.consuming.readings.get(&(topic, *group)));
        if !rules && subscription.superseded.contains(&ask.filter) && readings.any(lately) {
            return Err(superseded(&subscription.ruling));
        }
        let others: Vec<GroupId> = members.iter().copied().filter(|group| ruling(group) != Some(&ask.filter)).collect();
        let others = others
            .into_iter()
            .take(if planted::is(Bug::RuleOfOneMember) { 1 } else { usize::MAX });
        let positions = others.map(|group| self.supersede((topic, group), &ask.filter));
        Ok(positions.fold(Position::default(), Position::max))
    }

    /// A member that was absent is there again; nothing is handed out to it before that is durable.
    fn note_presence(&mut self, key: ReadingKey) -> Position {
        let (group, since_mono_ms) = (key.1, None);
        if planted::is(Bug::AbsenceKept) {
            return self.journal.last();
        }
        let depends = self.operate(BROKER.to_owned(), Operation::Absent { group, since_mono_ms });
        if let Some(reading) = self.consuming.readings.get_mut(&key) {
            reading.barrier = depends;
        }
        depends
    }

    fn supersede(&mut self, key: ReadingKey, filter: &Filter) -> Position {
        let (topic, group) = key;
        let (filter, starts) = (filter.clone(), Vec::new());
        let depends = self.record(Change::Subscribed {
            group,
            topic,
            filter: filter.clone(),
            starts,
        });
        self.rule_anew(key, depends);
        self.end_members(key, depends, Some(&filter), &superseded(&filter));
        depends
    }

    fn check_room_of_member(&self, key: ReadingKey) -> Result<(), Refusal> {
        let reading = self.consuming.readings.get(&key).expect("every subscription has its reading");
        if reading.streams.len() + reading.receives < MEMBERS_MAX {
            return Ok(());
        }
        let text = format!("the member has {MEMBERS_MAX} streams and receives on this topic");
        Err(Refusal::new(ErrorCode::TooManyMembers, text))
    }

    fn add_member(
        &mut self,
        parent: GroupId,
        known: Option<GroupId>,
        name: String,
        topic: TopicId,
        ask: &Consume,
    ) -> Result<(GroupId, Position), Refusal> {
        let starts: Vec<QueueStart> = self.starts(topic, |_, entry| {
            if planted::is(Bug::MemberFromEarliest) {
                entry.start
            } else {
                entry.end
            }
        });
        let group = match (known, self.state.groups.get(&parent)) {
            (Some(group), _) => group,
            (None, entry) => {
                let common = entry.map_or(self.config.group.clone(), |entry| entry.settings.clone());
                let settings = GroupSettings {
                    start: StartPoint::Latest,
                    sharing: Sharing::MemberOf(parent),
                    ..common
                };
                let (group, _) = self.create_group(name, settings)?;
                self.look_later(group, self.now.mono_ms + self.rest_ms());
                group
            }
        };
        let filter = ask.filter.clone();
        let depends = self.record(Change::Subscribed {
            group,
            topic,
            filter,
            starts,
        });
        self.start_reading((topic, group), depends);
        Ok((group, depends))
    }

    /// Whether there is room for so many further cursors of a broadcast group, and for a further member.
    pub(crate) fn check_members(&self, parent: GroupId, further: bool, cursors: usize) -> Result<(), Refusal> {
        let full = |code, text: String| Err(Refusal::new(code, text));
        if further && self.state.members_of(parent).count() >= BROADCAST_MEMBERS_MAX {
            return full(ErrorCode::TooManyMembers, format!("the group has {BROADCAST_MEMBERS_MAX} members"));
        }
        let all = (parent, TopicId(0))..=(parent, TopicId(u64::MAX));
        let queues = |topic: &TopicId| self.state.topics.get(topic).map_or(0, |topic| usize::from(topic.settings.queues));
        let of_topics = self.consuming.broadcast.range(all);
        let wanted = cursors + of_topics.map(|((_, topic), members)| members.len() * queues(topic)).sum::<usize>();
        if wanted > BROADCAST_CURSORS_MAX {
            let text = format!("the members of a group have {BROADCAST_CURSORS_MAX} places in queues at most, this would be {wanted}");
            return full(ErrorCode::LimitExceeded, text);
        }
        if self.state.cursors.len() + cursors > CURSORS_MAX {
            return full(ErrorCode::LimitExceeded, format!("there are {CURSORS_MAX} cursors at most"));
        }
        Ok(())
    }

    /// The members of a broadcast group that read a topic, in the order in which they came.
    pub(crate) fn members_on(&self, parent: GroupId, topic: TopicId) -> impl Iterator<Item = GroupId> + '_ {
        self.consuming.broadcast.get(&(parent, topic)).into_iter().flatten().copied()
    }

    /// Where retention goes that is asked to go to `start`: there, whatever members have yet to read. A planted bug lets them hold it back.
    pub(super) fn trimmed_to(&self, queue: QueueId, start: QueueOffset) -> QueueOffset {
        if !planted::is(Bug::AbsentHoldsRetention) {
            return start;
        }
        let cursors = self.state.cursors.iter();
        let of_members = cursors.filter(|(id, _)| id.queue == queue && self.state.parent_of(id.group).is_some());
        of_members.map(|(_, entry)| entry.lane.frontier).fold(start, QueueOffset::min)
    }

    /// Lets an acknowledgement count for the other members, too. Nothing does but a planted bug.
    pub(super) fn settle_for_all(&mut self, cursor: CursorId, offsets: &[OffsetRange]) {
        let Some(parent) = self.state.parent_of(cursor.group) else { return };
        let members: Vec<GroupId> = self.members_on(parent, cursor.queue.topic).collect();
        for group in members.into_iter().filter(|group| *group != cursor.group) {
            let cursor = CursorId { group, ..cursor };
            if let Some(pass) = self.state.cursors.get(&cursor).map(|entry| entry.pass) {
                let offsets = offsets.to_vec();
                self.record(Change::Settled { cursor, pass, offsets });
            }
        }
    }

    /// After so long without a stream or a receive it is noted that a member is absent: not each time that one leaves.
    fn rest_ms(&self) -> u64 {
        (self.config.member_absent_ms / 4).clamp(1, SUPERSEDED_REST_MS)
    }

    /// Has it looked for a member at this time.
    pub(super) fn look_later(&mut self, group: GroupId, mono_ms: u64) {
        let next = self.consuming.looks.entry(group).or_default();
        if next.is_some_and(|next| next <= mono_ms) {
            return;
        }
        if let Some(next) = next.replace(mono_ms) {
            self.consuming.timers.remove(&(next, Timer::Member(group)));
        }
        self.consuming.timers.insert((mono_ms, Timer::Member(group)));
    }

    /// Has it looked, after a while, for the members of which a stream or a receive ended.
    pub(super) fn look_for_those_who_left(&mut self) {
        for group in std::mem::take(&mut self.consuming.left) {
            self.look_later(group, self.now.mono_ms + self.rest_ms());
        }
    }

    /// Looks whether a member is there: notes that it is not, and forgets one that was not for long. Time enters state by these records. A
    /// start gives members whose time is over a while to come back, since they could not while the broker was down.
    pub(super) fn look_for_member(&mut self, group: GroupId) {
        let Some(entry) = self.state.groups.get(&group) else {
            self.consuming.looks.remove(&group);
            return;
        };
        self.consuming.looks.insert(group, None);
        let (now_mono_ms, rest_ms, absent) = (self.now.mono_ms, self.rest_ms(), entry.absent_mono_ms);
        let topics = self.state.topics_of(group);
        let readings = topics.filter_map(|topic| self.consuming.readings.get(&(topic, group)));
        let (mut here, mut seen_mono_ms) = (false, 0);
        for reading in readings {
            here |= reading.has_members();
            seen_mono_ms = seen_mono_ms.max(reading.seen_mono_ms);
        }
        here &= !planted::is(Bug::PresentExpires);
        if here {
            return;
        }
        if now_mono_ms < seen_mono_ms.saturating_add(rest_ms) {
            return self.look_later(group, seen_mono_ms + rest_ms);
        }
        let since_mono_ms = absent.unwrap_or(seen_mono_ms);
        let until_mono_ms = since_mono_ms.saturating_add(self.config.member_absent_ms);
        if now_mono_ms >= until_mono_ms {
            if planted::is(Bug::AbsentStays) {
                return;
            }
            let refusal = Refusal::new(ErrorCode::NoSuchGroup, "the member was absent for too long");
            self.drop_group(group, &refusal);
            self.consuming.looks.remove(&group);
            return;
        }
        if absent.is_none() {
            let since_mono_ms = Some(since_mono_ms);
            self.operate(BROKER.to_owned(), Operation::Absent { group, since_mono_ms });
        }
        self.look_later(group, until_mono_ms);
    }
}
