//! What operators do: topics, groups, seeks, bindings. What they ask is answered in `shown`.

use sluice_log::record::{
    Backoff, Change, Filter, GroupSettings, OnFailure, PluginLimits, Restoration, Sharing, StartPoint, TopicSettings,
};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Digest, GroupId, Position, TopicId};
use sluice_protocol::limits::INVISIBLE_MS_MAX;
use sluice_protocol::names::check_user_name;

use crate::broker::Core;
use crate::consume::Seek;
use crate::effect::Answer;
use crate::input::{Admin, RequestId};
use crate::limits::{ATTEMPTS_MAX, BACKOFF_WAITS_MAX, BINDINGS_MAX, QUEUES_MAX, QUEUES_TOTAL_MAX};

/// An answer and the record that it waits for.
pub(crate) type Outcome = Result<(Position, Answer), Refusal>;

impl Core {
    /// Does or answers what an operator asks. Answers to questions wait for what they show.
    pub(crate) fn administrate(&mut self, request: RequestId, admin: Admin) {
        let shown = self.journal.last();
        let outcome = match admin {
            Admin::CreateTopic { name, settings } => self.create_topic_asked(name, settings),
            Admin::DeleteTopic { name } => self.delete_topic(&name),
            Admin::ListTopics { from } => Ok((shown, self.list_topics(from))),
            Admin::ListKept { from } => Ok((shown, self.list_kept(from))),
            Admin::NameTopic { topic } => Ok((shown, self.name_topic(topic))),
            Admin::DescribeTopic { name } => self.describe_topic(&name).map(|answer| (shown, answer)),
            Admin::CreateGroup { name, settings } => self.create_group_asked(name, settings),
            Admin::DeleteGroup { name } => self.delete_group(&name),
            Admin::ListGroups { from } => Ok((shown, self.list_groups(from))),
            Admin::DescribeGroup { name, from } => self.describe_group(&name, from).map(|answer| (shown, answer)),
            Admin::Seek { group, topic, queue, to } => {
                return self.seek(
                    Seek {
                        request,
                        group,
                        topic,
                        queue,
                        to,
                    },
                    None,
                );
            }
            Admin::BindPlugin {
                name,
                digest,
                limits,
                on_failure,
            } => self.bind_plugin(name, digest, limits, on_failure),
            Admin::GrowTopic { name, queues, by } => self.grow_topic(&name, queues, by),
            Admin::PauseGroup { name, topic, by } => self.pause_group(&name, topic.as_deref(), by),
            Admin::ResumeGroup { name, topic, by } => self.resume_group(&name, topic.as_deref(), by),
            Admin::SkipMessage {
                group,
                topic,
                queue,
                offset,
                by,
            } => self.skip_message(&group, &topic, queue, offset, by),
            Admin::PurgeGroup { group, topic } => return self.purge_group(request, group, topic),
            Admin::FindDeadLetters { group, from, to } => self.find_letters(&group, from, to).map(|answer| (shown, answer)),
            Admin::ResendDeadLetters { group, letters, by } => self.resend_letters(&group, &letters, by),
            Admin::DiscardDeadLetters { group, from, to, most, by } => self.discard_letters(&group, from, to, most, by),
            Admin::ListLeases { group, topic, from } => self.list_leases(&group, topic.as_deref(), from).map(|answer| (shown, answer)),
            Admin::Explain {
                group,
                queue,
                offset,
                priority,
                due_ms,
                parts,
            } => self
                .explain(&group, queue, offset, priority, (due_ms, &parts))
                .map(|answer| (shown, answer)),
            Admin::ListTransactions { topic, from } => self.list_transactions(&topic, from).map(|answer| (shown, answer)),
            Admin::Restored { mark } => Ok((self.restored(mark), Answer::Done)),
            Admin::ListPlugins => Ok((shown, self.list_plugins())),
        };
        match outcome {
            Ok((depends, answer)) => self.answer(depends, request, answer),
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    /// Notes that this log goes on from a backup, unless it was noted at a start before: what somebody else hands out who goes on from there is
    /// told from what is handed out here.
    fn restored(&mut self, mark: [u8; 16]) -> Position {
        if self.state.restorations.newest.iter().any(|restoration| restoration.mark == mark) {
            return self.journal.last();
        }
        let numbers = self.state.calendars.after(None).map(|(topic, calendar)| (topic, calendar.next));
        let restoration = Restoration {
            mark,
            epoch: self.epoch,
            numbers: numbers.collect(),
        };
        let position = self.record(Change::Restored(restoration));
        self.receipts.follow(&self.state.restorations);
        position
    }

    /// Creates a topic. Its name was checked.
    pub(crate) fn create_topic(&mut self, name: String, settings: TopicSettings) -> Result<(TopicId, Position), Refusal> {
        if !(1..=QUEUES_MAX).contains(&settings.queues) {
            let text = format!("a topic has 1 to {QUEUES_MAX} queues, not {}", settings.queues);
            return Err(Refusal::new(ErrorCode::BadSetting, text));
        }
        if self.state.queues.len() + usize::from(settings.queues) > QUEUES_TOTAL_MAX {
            let text = format!("there are {QUEUES_TOTAL_MAX} queues at most, over all topics");
            return Err(Refusal::new(ErrorCode::LimitExceeded, text));
        }
        let topic = self.state.meta.next_topic;
        let position = self.record(Change::TopicCreated { topic, name, settings });
        Ok((topic, position))
    }

    fn create_topic_asked(&mut self, name: String, settings: TopicSettings) -> Outcome {
        check_user_name(&name)?;
        if self.state.topic_named(&name).is_some() {
            return Err(Refusal::new(ErrorCode::TopicExists, format!("topic {name} exists already")));
        }
        let (_, depends) = self.create_topic(name, settings)?;
        Ok((depends, Answer::Done))
    }

    /// Deletes a topic; its streams end, its receives are refused, and what it held is gone with its cursors.
    fn delete_topic(&mut self, name: &str) -> Outcome {
        let topic = self.topic_id(name)?;
        let groups: Vec<GroupId> = self.state.readers_of(topic).collect();
        self.counters.delays_dropped += self.state.calendars.get(topic).map_or(0, |calendar| calendar.len() as u64);
        self.counters.undecided_dropped += self.state.transactions.get(topic).map_or(0, |waiting| waiting.len() as u64);
        self.releasing.forget(topic);
        self.asking.forget(topic);
        let depends = self.record(Change::TopicDeleted { topic });
        let refusal = Refusal::new(ErrorCode::TopicDeleted, format!("topic {name} was deleted"));
        for group in groups {
            self.end_members((topic, group), depends, None, &refusal);
            self.consuming.drop_reading((topic, group));
        }
        self.visible.forget(topic);
        Ok((depends, Answer::Done))
    }

    fn create_group_asked(&mut self, name: String, settings: GroupSettings) -> Outcome {
        check_user_name(&name)?;
        check_group_settings(&settings)?;
        if self.state.group_named(&name).is_some() {
            return Err(Refusal::new(ErrorCode::GroupExists, format!("group {name} exists already")));
        }
        let (_, depends) = self.create_group(name, settings)?;
        Ok((depends, Answer::Done))
    }

    /// Deletes a group; its members are refused and its cursors are gone, those of the members of a broadcast group before its own name.
    fn delete_group(&mut self, name: &str) -> Outcome {
        let group = self.group_id(name)?;
        let refusal = Refusal::new(ErrorCode::NoSuchGroup, format!("group {name} was deleted"));
        let members: Vec<GroupId> = self.state.members_of(group).collect();
        for member in members {
            self.drop_group(member, &refusal);
        }
        Ok((self.drop_group(group, &refusal), Answer::Done))
    }

    /// Drops a group that has no members with groups of their own; its streams end and its receives are refused.
    pub(crate) fn drop_group(&mut self, group: GroupId, refusal: &Refusal) -> Position {
        let topics: Vec<TopicId> = self.state.topics_of(group).collect();
        let depends = self.record(Change::GroupDeleted { group });
        for topic in topics {
            self.end_members((topic, group), depends, None, refusal);
            self.consuming.drop_reading((topic, group));
        }
        depends
    }

    /// Serves a name by a version of a plugin; what it judges is judged anew from the recorded frontiers on, and so is what was held for
    /// a failure.
    fn bind_plugin(&mut self, name: String, digest: Digest, limits: PluginLimits, on_failure: OnFailure) -> Outcome {
        check_user_name(&name)?;
        let PluginLimits {
            fuel_per_run,
            fuel_per_message,
            run_ms,
            memory_bytes,
        } = limits;
        if fuel_per_run == 0 || fuel_per_message == 0 || run_ms == 0 || memory_bytes == 0 {
            return Err(Refusal::new(ErrorCode::BadSetting, "a plugin's limits are all greater than zero"));
        }
        if !self.state.bindings.contains_key(&name) && self.state.bindings.len() >= BINDINGS_MAX {
            return Err(Refusal::new(
                ErrorCode::LimitExceeded,
                format!("there are {BINDINGS_MAX} bound plugins at most"),
            ));
        }
        let mut depends = self.record(Change::PluginBound {
            name: name.clone(),
            digest,
            limits,
            on_failure,
        });
        let judged: Vec<_> = self
            .state
            .subscriptions
            .iter()
            .filter(|(_, subscription)| matches!(&subscription.ruling, Filter::Plugin { plugin, .. } if *plugin == name))
            .map(|(&(group, topic), _)| (topic, group))
            .collect();
        for key in judged {
            depends = self.resume(key).unwrap_or(depends);
            self.rule_anew(key, depends);
        }
        Ok((depends, Answer::Done))
    }

    pub(crate) fn topic_id(&self, name: &str) -> Result<TopicId, Refusal> {
        self.state
            .topic_named(name)
            .ok_or_else(|| Refusal::new(ErrorCode::NoSuchTopic, format!("there is no topic {name}")))
    }

    pub(crate) fn group_id(&self, name: &str) -> Result<GroupId, Refusal> {
        self.state
            .group_named(name)
            .ok_or_else(|| Refusal::new(ErrorCode::NoSuchGroup, format!("there is no group {name}")))
    }
}

fn check_group_settings(settings: &GroupSettings) -> Result<(), Refusal> {
    let bad = |text: String| Err(Refusal::new(ErrorCode::BadSetting, text));
    if !(1..=ATTEMPTS_MAX).contains(&settings.attempts_max) {
        return bad(format!("a message has 1 to {ATTEMPTS_MAX} attempts, not {}", settings.attempts_max));
    }
    let longest_ms = match &settings.backoff {
        Backoff::Table { waits_ms } if waits_ms.is_empty() || waits_ms.len() > BACKOFF_WAITS_MAX => {
            return bad(format!(
                "a back-off table has 1 to {BACKOFF_WAITS_MAX} waits, not {}",
                waits_ms.len()
            ));
        }
        Backoff::Table { waits_ms } => waits_ms.iter().copied().max().unwrap_or(0),
        Backoff::Exponential { first_ms, max_ms } => *first_ms.max(max_ms),
        Backoff::Fixed { wait_ms } => *wait_ms,
    };
    if longest_ms > INVISIBLE_MS_MAX {
        return bad(format!("a wait is {INVISIBLE_MS_MAX} milliseconds at most, not {longest_ms}"));
    }
    if settings.sharing == Sharing::Broadcast && settings.start != StartPoint::Latest {
        return bad("a new member of a broadcast group starts at the end of each queue: the group starts nowhere else".to_owned());
    }
    Ok(())
}
