//! What operators are shown: topics, groups and bindings, page by page where there may be many, so that no answer outgrows a frame or stalls a turn.

use std::collections::{BTreeMap, BTreeSet};

use sluice_log::record::{CursorId, Filter, Holder};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{GroupId, QueueOffset, TopicId};
use sluice_protocol::names::member_of;

use crate::broker::Core;
use crate::consume::LaneRun;
use crate::effect::{AlarmInfo, Answer, CursorInfo, GroupInfo, KeptTopic, MemberInfo, PauseInfo, PluginInfo, QueueInfo, TopicInfo};
use crate::limits::{LISTED_MAX, LISTED_SUBSCRIPTIONS_MAX, PAGE_MEMBERS_MAX, PAGE_WEIGHT_MAX};
use crate::ranges::{OffsetSet, len, range};
use crate::state::cursor::Cursor;
use crate::state::lane::Lane;

/// What a page of a group's description is about.
#[derive(Debug, Default)]
struct Part {
    topics: Vec<TopicId>,
    subscriptions: Vec<(String, Filter)>,
    alarms: Vec<AlarmInfo>,
    pauses: Vec<PauseInfo>,
    next: Option<TopicId>,
}

impl Core {
    /// Topics from this number on, as many as a page holds.
    pub(crate) fn list_topics(&self, from: TopicId) -> Answer {
        let mut ids = self.state.topics.range(from..).map(|(&id, _)| id);
        let topics = ids.by_ref().take(LISTED_MAX).filter_map(|id| self.topic_info(id)).collect();
        Answer::Topics { topics, next: ids.next() }
    }

    /// What retention must know of the topics from this number on, as many as a page holds.
    pub(crate) fn list_kept(&self, from: TopicId) -> Answer {
        let mut all = self.state.topics.range(from..);
        let kept = all.by_ref().take(LISTED_MAX).map(|(&id, topic)| KeptTopic {
            id,
            settings: topic.settings,
            starts: self.state.queues_of(id).map(|(_, queue)| queue.start).collect(),
            calendar_start: self.state.calendar_start(id).unwrap_or_default(),
        });
        let topics = kept.collect();
        Answer::Kept {
            topics,
            next: all.next().map(|(&id, _)| id),
        }
    }

    /// The name of a topic.
    pub(crate) fn name_topic(&self, topic: TopicId) -> Answer {
        let name = self.state.topics.get(&topic).map(|topic| topic.name.clone());
        Answer::TopicName { name }
    }

    /// Groups from this number on, as many as a page holds; a group that reads very many topics fills one alone.
    pub(crate) fn list_groups(&self, from: GroupId) -> Answer {
        let mut groups = Vec::new();
        let (mut next, mut weight) = (None, 0);
        for &id in self.state.groups.range(from..).map(|(id, _)| id) {
            // The groups of members are shown with the group whose members they are.
            if self.state.parent_of(id).is_some() {
                continue;
            }
            if groups.len() == LISTED_MAX || weight >= PAGE_WEIGHT_MAX {
                next = Some(id);
                break;
            }
            let listed = self.state.topics_of(id).take(LISTED_SUBSCRIPTIONS_MAX);
            let subscriptions: Vec<_> = listed.filter_map(|topic| self.subscription(id, topic)).collect();
            let read = self.state.topics_of(id).count() + self.state.members_of(id).count();
            weight += subscriptions.iter().map(weight_of).sum::<usize>() + read;
            let part = Part {
                subscriptions,
                pauses: self.pause(id, None).into_iter().collect(),
                ..Part::default()
            };
            groups.extend(self.group_info(id, part, self.state.topics_of(id)));
        }
        Answer::Groups { groups, next }
    }

    /// A group with the part of its description that begins at this topic.
    pub(crate) fn describe_group(&self, name: &str, from: TopicId) -> Result<Answer, Refusal> {
        let id = self.group_id(name)?;
        if self.state.is_broadcast(id) {
            return Ok(self.describe_broadcast(id, from));
        }
        let mut part = self.part_of(id, from);
        let topics = std::mem::take(&mut part.topics);
        let cursors = topics.iter().flat_map(|&topic| self.state.cursors_on(id, topic));
        let cursors = cursors.filter_map(|(cursor, entry)| self.cursor_info(cursor, entry)).collect();
        let members = self.member_infos(id, &topics);
        let next = part.next;
        let group = self.group_info(id, part, topics.iter().copied());
        Ok(Answer::Group {
            group: Box::new(group.expect("a group with a name has an entry")),
            cursors,
            members,
            next,
        })
    }

    /// A broadcast group with the part of its description that begins at this topic: what its members ask, and those that are furthest behind.
    fn describe_broadcast(&self, id: GroupId, from: TopicId) -> Answer {
        let mut part = Part {
            pauses: self
                .state
                .pauses_of(id)
                .filter_map(|((_, topic), _)| self.pause(id, topic))
                .collect(),
            ..Part::default()
        };
        let topics: BTreeSet<TopicId> = self.state.members_of(id).flat_map(|member| self.state.topics_of(member)).collect();
        if from > TopicId::default() {
            part.pauses.clear();
        }
        let (mut members, mut lag, mut weight) = (Vec::new(), 0, 0);
        for &topic in topics.range(from..) {
            if weight >= PAGE_WEIGHT_MAX {
                part.next = Some(topic);
                break;
            }
            let mut infos: Vec<MemberInfo> = self
                .members_on(id, topic)
                .filter_map(|member| self.broadcast_member(member, topic))
                .collect();
            lag += infos.iter().map(|info| info.lag).sum::<u64>();
            infos.sort_by(|one, other| (other.lag, &one.name).cmp(&(one.lag, &other.name)));
            infos.truncate(PAGE_MEMBERS_MAX);
            weight += infos.iter().map(|info| 64 + info.name.len() + info.topic.len()).sum::<usize>();
            members.append(&mut infos);
            let first = self.members_on(id, topic).next();
            part.subscriptions.extend(first.and_then(|member| self.subscription(member, topic)));
            part.alarms
                .extend(self.members_on(id, topic).find_map(|member| self.alarm(member, topic)));
            part.topics.push(topic);
        }
        let next = part.next;
        let info = self
            .group_info(id, part, std::iter::empty())
            .expect("a group with a name has an entry");
        Answer::Group {
            group: Box::new(GroupInfo { lag, ..info }),
            cursors: Vec::new(),
            members,
            next,
        }
    }

    fn broadcast_member(&self, member: GroupId, topic: TopicId) -> Option<MemberInfo> {
        let reading = self.consuming.readings.get(&(topic, member))?;
        let absent_ms = (!reading.has_members()).then(|| self.now.mono_ms.saturating_sub(reading.seen_mono_ms));
        let cursors = || self.state.cursors_on(member, topic);
        let leased = cursors().flat_map(|(_, entry)| entry.levels().map(|(_, lane)| lane.leases.count()));
        Some(MemberInfo {
            name: member_of(&self.state.groups.get(&member)?.name)?.to_owned(),
            topic: self.state.topics.get(&topic)?.name.clone(),
            leased: leased.sum(),
            lag: cursors().map(|(cursor, entry)| self.lag(cursor, entry)).sum(),
            absent_since_wall_ms: absent_ms.map(|ms| self.now.wall_ms.saturating_sub_unsigned(ms)),
        })
    }

    fn part_of(&self, group: GroupId, from: TopicId) -> Part {
        let (mut part, mut weight) = (Part::default(), 0);
        part.pauses.extend(self.pause(group, None));
        let all = (group, from)..=(group, TopicId(u64::MAX));
        for &(_, topic) in self.state.subscriptions.range(all).map(|(key, _)| key) {
            if weight >= PAGE_WEIGHT_MAX {
                part.next = Some(topic);
                break;
            }
            let subscription = self.subscription(group, topic);
            let queues = self.state.topics.get(&topic).map_or(0, |topic| usize::from(topic.settings.queues));
            weight += subscription.as_ref().map_or(0, weight_of) * (1 + queues);
            part.topics.push(topic);
            part.subscriptions.extend(subscription);
            let alarm = self.alarm(group, topic);
            weight += alarm.as_ref().map_or(0, |alarm| 64 + alarm.topic.len() + alarm.reason.len());
            part.alarms.extend(alarm);
            part.pauses.extend(self.pause(group, Some(topic)));
        }
        part
    }

    fn subscription(&self, group: GroupId, topic: TopicId) -> Option<(String, Filter)> {
        let ruling = self.state.subscriptions.get(&(group, topic))?.ruling.clone();
        Some((self.state.topics.get(&topic)?.name.clone(), ruling))
    }

    pub(crate) fn alarm(&self, group: GroupId, topic: TopicId) -> Option<AlarmInfo> {
        let alarm = self.state.subscriptions.get(&(group, topic))?.alarm.clone()?;
        Some(AlarmInfo {
            topic: self.state.topics.get(&topic)?.name.clone(),
            digest: alarm.digest,
            reason: alarm.reason,
            since_wall_ms: alarm.since_wall_ms,
        })
    }

    pub(crate) fn pause(&self, group: GroupId, topic: Option<TopicId>) -> Option<PauseInfo> {
        let pause = self.state.pauses.get(&(group, topic))?;
        let name = |topic: &TopicId| self.state.topics.get(topic).map(|topic| topic.name.clone());
        Some(PauseInfo {
            topic: topic.as_ref().and_then(name),
            since_wall_ms: pause.since_wall_ms,
            by: pause.by.clone(),
        })
    }

    pub(crate) fn describe_topic(&self, name: &str) -> Result<Answer, Refusal> {
        let id = self.topic_id(name)?;
        let queues = self
            .state
            .queues_of(id)
            .map(|(queue, entry)| QueueInfo {
                queue,
                start: entry.start,
                end: entry.end,
            })
            .collect();
        let topic = self.topic_info(id).expect("a topic with a name has an entry");
        Ok(Answer::Topic { topic, queues })
    }

    pub(crate) fn list_plugins(&self) -> Answer {
        let plugins = self.state.bindings.iter().map(|(name, bound)| PluginInfo {
            name: name.clone(),
            digest: bound.digest,
            limits: bound.limits,
            on_failure: bound.on_failure,
            bound_wall_ms: bound.bound_wall_ms,
        });
        Answer::Plugins {
            plugins: plugins.collect(),
        }
    }

    fn topic_info(&self, id: TopicId) -> Option<TopicInfo> {
        let topic = self.state.topics.get(&id)?;
        let messages = self
            .state
            .queues_of(id)
            .map(|(_, queue)| queue.end.0.saturating_sub(queue.start.0))
            .sum();
        let (name, settings, created_wall_ms) = (topic.name.clone(), topic.settings, topic.created_wall_ms);
        Some(TopicInfo {
            id,
            name,
            settings,
            created_wall_ms,
            messages,
            delayed: self.state.calendars.get(id).map_or(0, |calendar| calendar.len() as u64),
            undecided: self.state.transactions.get(id).map_or(0, |waiting| waiting.len() as u64),
        })
    }

    /// A group; its lag is that on these topics.
    fn group_info(&self, id: GroupId, part: Part, topics: impl Iterator<Item = TopicId>) -> Option<GroupInfo> {
        let group = self.state.groups.get(&id)?;
        let of_members = self.state.members_of(id).flat_map(|member| self.state.cursors_of(member));
        let cursors = topics.flat_map(|topic| self.state.cursors_on(id, topic)).chain(of_members);
        let lag = cursors.map(|(cursor, entry)| self.lag(cursor, entry)).sum();
        let connected = |group| self.consuming.member_names(group, self.state.topics_of(group)).len();
        let members = connected(id) + self.state.members_of(id).filter(|member| connected(*member) > 0).count();
        let subscriptions = part.subscriptions.len().max(self.state.topics_of(id).count());
        Some(GroupInfo {
            name: group.name.clone(),
            settings: group.settings.clone(),
            subscriptions: part.subscriptions,
            subscription_count: subscriptions as u32,
            members: members as u32,
            lag,
            alarms: part.alarms,
            pauses: part.pauses,
        })
    }

    /// The messages of a cursor that are neither settled nor skipped.
    pub(crate) fn lag(&self, cursor: CursorId, entry: &Cursor) -> u64 {
        let mut free = OffsetSet::default();
        let mut others = 0;
        for (priority, lane) in entry.levels() {
            let run = self.consuming.lane(cursor, priority);
            let place = run.map_or(lane.frontier, |run| run.place).0;
            let end = self.end_of(cursor, priority).max(place);
            for piece in lane.free_within(range(place, end)) {
                free.insert(piece.first.0, piece.end.0);
            }
            let aside = run.map_or(0, |run| run.aside.range(..place).count() as u64);
            others += aside + lane.held.count() + lane.open() + lane.parked();
        }
        // What a higher lane has is not what that of priority 0 has yet to come to; what it has settled there nobody knows.
        for (_, lane) in entry.levels().skip(1) {
            let leased = lane.leases.iter().map(|(piece, _)| piece);
            let retrying = lane.retries.iter().map(|(piece, _)| piece);
            let taken = leased.chain(retrying).chain(lane.held.iter()).chain(lane.ahead.iter());
            taken.for_each(|piece| free.remove(piece.first.0, piece.end.0));
        }
        free.count() + others
    }

    /// One past the last message that the lane of a priority has to come to.
    fn end_of(&self, cursor: CursorId, priority: u8) -> u64 {
        let Some(queue) = self.state.queues.get(&cursor.queue) else {
            return 0;
        };
        match priority {
            0 => queue.end.0,
            _ => queue.priorities.get(&priority).map_or(0, |offsets| offsets.end.0),
        }
    }

    fn cursor_info(&self, cursor: CursorId, entry: &Cursor) -> Option<CursorInfo> {
        let run = |priority| self.consuming.lane(cursor, priority);
        let runs = || entry.levels().filter_map(|(priority, _)| run(priority));
        let mut frontier = run(0).map_or(entry.lane.frontier, LaneRun::frontier);
        for (priority, lane) in entry.levels().skip(1) {
            let own = run(priority).map_or(lane.frontier, LaneRun::frontier);
            if own.0 < self.end_of(cursor, priority) {
                frontier = frontier.min(own);
            }
        }
        let open = |(_, lane): (u8, &Lane)| {
            let first = [lane.leases.first(), lane.retries.first(), lane.held.first(), lane.order.first()];
            first.into_iter().flatten().min()
        };
        let lowest = entry.levels().filter_map(open).fold(frontier.0, u64::min);
        let sum = |count: fn(&Lane) -> u64| entry.levels().map(|(_, lane)| count(lane)).sum::<u64>();
        Some(CursorInfo {
            topic: self.state.topics.get(&cursor.queue.topic)?.name.clone(),
            queue: cursor.queue,
            pass: entry.pass,
            cursor: QueueOffset(lowest),
            frontier,
            end: self.state.queues.get(&cursor.queue)?.end,
            leased: sum(|lane| lane.leases.count()),
            retrying: sum(|lane| lane.retries.count()),
            matched: runs().map(LaneRun::matched).sum(),
            parked: sum(Lane::parked),
            failed: runs().map(|run| run.failed).sum(),
            expired: runs().map(|run| run.expired).sum(),
            lost: entry.lost,
            set_aside: runs().map(|run| run.aside.len() as u64).sum(),
            culprits_held: sum(|lane| lane.held.count()),
            held: runs().find_map(|run| run.held.as_ref()).map(|held| held.reason.clone()),
        })
    }

    /// Who is connected or holds something on these topics, by topic and name.
    fn member_infos(&self, group: GroupId, topics: &[TopicId]) -> Vec<MemberInfo> {
        let connected = self.consuming.member_names(group, topics.iter().copied());
        let mut leased: BTreeMap<(TopicId, &str), u64> = connected.into_iter().map(|key| (key, 0)).collect();
        for (cursor, entry) in topics.iter().flat_map(|&topic| self.state.cursors_on(group, topic)) {
            for (offsets, lease) in entry.levels().flat_map(|(_, lane)| lane.leases.iter()) {
                let (Holder::Stream { member } | Holder::Receive { member }) = &*lease.holder;
                *leased.entry((cursor.queue.topic, member)).or_default() += len(offsets);
            }
        }
        let infos = leased.into_iter().take(PAGE_MEMBERS_MAX).filter_map(|((topic, name), leased)| {
            Some(MemberInfo {
                name: name.to_owned(),
                topic: self.state.topics.get(&topic)?.name.clone(),
                leased,
                lag: 0,
                absent_since_wall_ms: None,
            })
        });
        infos.collect()
    }
}

/// About how many bytes a subscription takes in an answer.
fn weight_of((topic, filter): &(String, Filter)) -> usize {
    let expression = match filter {
        Filter::All => 0,
        Filter::Plugin { plugin, expression } => plugin.len() + expression.len(),
    };
    64 + topic.len() + expression
}
