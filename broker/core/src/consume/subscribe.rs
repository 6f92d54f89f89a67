//! How a group comes to read a topic: its creation, its start, and which expression rules.

use sluice_log::record::{Change, Filter, GroupSettings, QueueStart, StartPoint};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{GroupId, Position, TopicId};
use sluice_protocol::names::check_user_name;

use super::{LaneRun, Reading, ReadingKey};
use crate::broker::Core;
use crate::effect::Rule;
use crate::input::Consume;
use crate::limits::{CURSORS_MAX, MEMBERS_MAX, SUPERSEDED_REST_MS};

/// What comes of asking to consume.
pub(super) enum Entry {
    /// The member may read; what it gets waits for the record at `depends`.
    In { key: ReadingKey, depends: Position },
    /// The group starts at a time: its offsets are to be found first.
    Locate { topic: TopicId, wall_ms: i64 },
}

impl Core {
    /// Lets a member in: creates what has to be created, and decides which expression rules. `located` holds the offsets of a start at
    /// a time.
    pub(super) fn enter(&mut self, ask: &Consume, located: Option<&[QueueStart]>) -> Result<Entry, Refusal> {
        let topic = self.state.topic_named(&ask.topic);
        let topic = topic.ok_or_else(|| Refusal::new(ErrorCode::NoSuchTopic, format!("there is no topic {}", ask.topic)))?;
        self.rule_of(&ask.filter)?;
        let group = self.state.group_named(&ask.group);
        if let Some(parent) = group.filter(|group| self.state.is_broadcast(*group)) {
            let (key, depends) = self.enter_member(parent, topic, ask)?;
            return Ok(Entry::In { key, depends });
        }
        if let Some(group) = group
            && self.state.subscriptions.contains_key(&(group, topic))
        {
            let key = (topic, group);
            let depends = self.settle_rule(key, ask)?;
            return Ok(Entry::In { key, depends });
        }
        let settings = match group.and_then(|group| self.state.groups.get(&group)) {
            Some(entry) => entry.settings.clone(),
            None => self.settings_of_new_group(ask)?,
        };
        let starts = match (settings.start, located) {
            (StartPoint::Earliest, _) => self.starts(topic, |_, entry| entry.start),
            (StartPoint::Latest, _) => self.starts(topic, |_, entry| entry.end),
            (StartPoint::Time { wall_ms }, None) => return Ok(Entry::Locate { topic, wall_ms }),
            // A queue that the topic grew by meanwhile has no place yet, and nothing older.
            (StartPoint::Time { .. }, Some(located)) => self.starts(topic, |queue, entry| {
                let found = located
                    .iter()
                    .find(|start| start.queue == queue)
                    .map_or(entry.start, |start| start.offset);
                found.clamp(entry.start, entry.end)
            }),
        };
        if self.state.cursors.len() + starts.len() > CURSORS_MAX {
            return Err(Refusal::new(
                ErrorCode::LimitExceeded,
                format!("there are {CURSORS_MAX} cursors at most"),
            ));
        }
        let group = match group {
            Some(group) => group,
            None => self.create_group(ask.group.clone(), settings)?.0,
        };
        let depends = self.record(Change::Subscribed {
            group,
            topic,
            filter: ask.filter.clone(),
            starts,
        });
        self.start_reading((topic, group), depends);
        Ok(Entry::In {
            key: (topic, group),
            depends,
        })
    }

    /// Makes the runtime part of every subscription that the log holds, and finds what had its last attempt.
    pub(crate) fn start_readings(&mut self) {
        let keys: Vec<ReadingKey> = self.state.subscriptions.keys().map(|&(group, topic)| (topic, group)).collect();
        for key in keys {
            self.start_reading(key, Position::default());
            self.mark_exhausted(key);
        }
        let members = self.state.groups.iter().filter(|(_, group)| group.parent().is_some());
        let members: Vec<GroupId> = members.map(|(&group, _)| group).collect();
        members.into_iter().for_each(|group| self.look_later(group, self.now.mono_ms));
    }

    /// What is asked of a plugin under this filter.
    pub(super) fn rule_of(&self, filter: &Filter) -> Result<Option<Rule>, Refusal> {
        match filter {
            Filter::All => Ok(None),
            Filter::Plugin { plugin, expression } => match self.state.bindings.get(plugin) {
                Some(bound) => Ok(Some(Rule {
                    digest: bound.digest,
                    limits: bound.limits,
                    expression: expression.clone(),
                })),
                None => Err(Refusal::new(
                    ErrorCode::NoSuchPlugin,
                    format!("no plugin is loaded under the name {plugin}"),
                )),
            },
        }
    }

    /// Judges a reading by what state says rules now: verdicts beyond the recorded frontiers are thrown away.
    pub(crate) fn rule_anew(&mut self, key: ReadingKey, depends: Position) {
        let Some(subscription) = self.state.subscriptions.get(&(key.1, key.0)) else {
            return;
        };
        let rule = self
            .rule_of(&subscription.ruling)
            .expect("a filter rules only when its plugin is bound, and nothing unbinds");
        let Some(reading) = self.consuming.readings.get_mut(&key) else {
            return;
        };
        reading.rule = rule;
        reading.barrier = depends;
        let needs_windows = reading.rule.is_some();
        let lanes = reading.lanes.len();
        for (index, lane) in reading.runs_mut() {
            let entry = self.state.cursors.get(&super::cursor_of(key, index));
            if let Some(durable) = entry.and_then(|entry| entry.level(lane.priority)) {
                lane.rewind(durable, durable.frontier);
            }
        }
        if !needs_windows {
            (0..lanes).for_each(|index| self.consuming.free_window(super::cursor_of(key, index)));
        }
        self.consuming.wake(key);
    }

    fn settings_of_new_group(&self, ask: &Consume) -> Result<GroupSettings, Refusal> {
        if !self.config.auto_create_groups {
            return Err(Refusal::new(
                ErrorCode::NoSuchGroup,
                format!("there is no group {}, and consuming creates none here", ask.group),
            ));
        }
        check_user_name(&ask.group)?;
        Ok(GroupSettings {
            start: ask.start.unwrap_or(self.config.group.start),
            ..self.config.group.clone()
        })
    }

    pub(super) fn start_reading(&mut self, key: ReadingKey, barrier: Position) {
        let cursor_of = |queue| self.state.cursors.get(&sluice_log::record::CursorId { group: key.1, queue });
        let lanes = self
            .state
            .queues_of(key.0)
            .map(|(queue, entry)| LaneRun::starting_at(0, cursor_of(queue).map_or(entry.end, |cursor| cursor.lane.frontier)));
        let upper = self.state.queues_of(key.0).flat_map(|(queue, _)| {
            let levels = cursor_of(queue)
                .into_iter()
                .flat_map(|cursor| cursor.levels().filter(|(priority, _)| *priority > 0));
            levels.map(move |(priority, lane)| {
                (
                    (usize::from(queue.index.0), priority),
                    LaneRun::starting_at(priority, lane.frontier),
                )
            })
        });
        let settings = self.state.groups.get(&key.1).map(|group| &group.settings);
        let parent = self.state.parent_of(key.1);
        if let Some(parent) = parent {
            self.consuming.broadcast.entry((parent, key.0)).or_default().insert(key.1);
        }
        let reading = Reading {
            parent,
            lanes: lanes.collect(),
            upper: upper.collect(),
            ordered: settings.is_some_and(|settings| settings.ordered),
            oldest_every: settings.map_or(0, |settings| settings.oldest_every),
            rule: None,
            barrier,
            streams: Vec::new(),
            receives: 0,
            waiting: Default::default(),
            seen_mono_ms: self.now.mono_ms,
            trial: Default::default(),
            next_lane: 0,
            wake_mono_ms: None,
        };
        self.consuming.readings.insert(key, reading);
        self.rule_anew(key, barrier);
    }

    /// Decides whether the filter that a member of an existing subscription asks for rules, will rule, or is refused.
    ///
    /// The newest expression wins. One that was superseded comes back only when no member of the ruling one was seen for a minute.
    fn settle_rule(&mut self, key: ReadingKey, ask: &Consume) -> Result<Position, Refusal> {
        let (topic, group) = key;
        let subscription = self.state.subscriptions.get(&(group, topic)).expect("the caller found it");
        let reading = self.consuming.readings.get_mut(&key).expect("every subscription has its reading");
        if reading.streams.len() + reading.receives >= MEMBERS_MAX {
            return Err(Refusal::new(
                ErrorCode::TooManyMembers,
                format!("the group has {MEMBERS_MAX} members on this topic"),
            ));
        }
        if subscription.ruling == ask.filter {
            reading.seen_mono_ms = self.now.mono_ms;
            return Ok(reading.barrier);
        }
        let seen_lately = reading.has_members() || self.now.mono_ms < reading.seen_mono_ms + SUPERSEDED_REST_MS;
        if seen_lately && subscription.superseded.contains(&ask.filter) {
            return Err(superseded(&subscription.ruling));
        }
        let ruling = ask.filter.clone();
        let depends = self.record(Change::Subscribed {
            group,
            topic,
            filter: ruling.clone(),
            starts: Vec::new(),
        });
        self.rule_anew(key, depends);
        if let Some(reading) = self.consuming.readings.get_mut(&key) {
            reading.seen_mono_ms = self.now.mono_ms;
        }
        self.end_members(key, depends, Some(&ruling), &superseded(&ruling));
        Ok(depends)
    }

    pub(super) fn starts(
        &self,
        topic: TopicId,
        offset: impl Fn(sluice_protocol::ids::QueueId, &crate::state::queue::Queue) -> sluice_protocol::ids::QueueOffset,
    ) -> Vec<QueueStart> {
        self.state
            .queues_of(topic)
            .map(|(queue, entry)| QueueStart {
                queue,
                offset: offset(queue, entry),
            })
            .collect()
    }

    /// Creates a group. Form and reserved names were checked.
    pub(crate) fn create_group(&mut self, name: String, settings: GroupSettings) -> Result<(GroupId, Position), Refusal> {
        if self.state.groups.len() >= crate::limits::GROUPS_MAX {
            let text = format!("there are {} groups at most", crate::limits::GROUPS_MAX);
            return Err(Refusal::new(ErrorCode::LimitExceeded, text));
        }
        let group = self.state.meta.next_group;
        let position = self.record(Change::GroupCreated { group, name, settings });
        Ok((group, position))
    }
}

/// The refusal of a member whose expression no longer rules.
pub(super) fn superseded(ruling: &Filter) -> Refusal {
    let text = match ruling {
        Filter::All => "the group now takes every message of the topic".to_owned(),
        Filter::Plugin { plugin, expression } => {
            let shown: String = expression.chars().take(200).collect();
            format!("the group's filter for the topic is now {plugin}: {shown}")
        }
    };
    Refusal::new(ErrorCode::SupersededSubscription, text)
}
