//! Answers of the core as frames.

use bytes::Bytes;
use sluice_core::effect::{self, Answer};
use sluice_log::record::{
    Backoff, Filter, GroupSettings, OnExhausted, OnExpired, OnFailure, PluginLimits, Sharing, StartPoint, TopicSettings,
};
use sluice_protocol::control;
use sluice_protocol::errors::Refusal;
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::{QueueId, QueueIndex};

use crate::operate;

/// The frame that answers a request with what the core said. `built_in` says which plugins the broker carries.
pub(crate) fn frame_of(answer: Answer, built_in: impl Fn(&effect::PluginInfo) -> bool) -> Bytes {
    match answer {
        Answer::Settled { results } => frame::message(FrameKind::Settled, &settled(0, results)),
        Answer::NothingReceived => frame::message(FrameKind::NothingReceived, &control::NothingReceived {}),
        Answer::Done => frame::message(FrameKind::Done, &control::Empty {}),
        Answer::Topics { topics, next } => {
            let topics = topics.into_iter().map(|topic| topic_info(topic, Vec::new())).collect();
            let next = next.map_or(0, |topic| topic.0);
            frame::message(FrameKind::Topics, &control::Topics { topics, next })
        }
        Answer::Topic { topic, queues } => frame::message(FrameKind::Topic, &topic_info(topic, queues)),
        Answer::Groups { groups, next } => {
            let groups = groups
                .into_iter()
                .map(|group| group_info(group, Vec::new(), Vec::new(), 0))
                .collect();
            let next = next.map_or(0, |group| group.0);
            frame::message(FrameKind::Groups, &control::Groups { groups, next })
        }
        Answer::Group {
            group,
            cursors,
            members,
            next,
        } => {
            let next = next.map_or(0, |topic| topic.0);
            frame::message(FrameKind::Group, &group_info(*group, cursors, members, next))
        }
        Answer::Plugins { plugins } => {
            let plugins = plugins.into_iter().map(|plugin| plugin_info(&plugin, built_in(&plugin))).collect();
            frame::message(FrameKind::Plugins, &control::Plugins { plugins })
        }
        Answer::Skipped { was } => operate::skipped(was),
        Answer::Purged { messages } => frame::message(FrameKind::Purged, &control::Purged { messages }),
        Answer::Leases { leases, next } => operate::leases(leases, next),
        Answer::Standing(_) => unreachable!("those who ask for an explanation put it together"),
        Answer::Stored { .. } | Answer::Subscribed { .. } => unreachable!("streams answer these themselves"),
        Answer::OpenLetters { .. } | Answer::LettersDealt { .. } | Answer::LettersDiscarded { .. } => {
            unreachable!("those who ask for dead letters put their answers together")
        }
        Answer::Transactions { .. } => unreachable!("those who ask for transactions put their answers together"),
        Answer::Kept { .. } | Answer::TopicName { .. } => unreachable!("no client asks for these"),
    }
}

/// The results of a settlement under the number that the client gave it.
pub(crate) fn settled(request: u64, results: Vec<Result<(), Refusal>>) -> control::Settled {
    let results = results
        .into_iter()
        .map(|result| control::SettleResult {
            refused: result.err().map(control::Refused::from),
        })
        .collect();
    control::Settled { request, results }
}

/// A run of stored messages as a confirm has it.
pub(crate) fn stored(run: &effect::StoredRun) -> control::Stored {
    let stored = control::Stored {
        first_sequence: run.first_sequence.0,
        count: run.count,
        topic: run.queue.topic.0,
        queue: run.queue.index.0.into(),
        first_offset: run.first_offset.0,
        duplicate: run.duplicate,
        deliver_at_ms: 0,
        recall: Bytes::new(),
        transaction: Bytes::new(),
    };
    if run.recall.is_none() && run.transaction.is_none() {
        return stored;
    }
    // Its queue and offset are those of the calendar, which is the broker's affair.
    control::Stored {
        queue: 0,
        first_offset: 0,
        deliver_at_ms: run.recall.map_or(0, |recall| recall.due_ms),
        recall: run.recall.map_or_else(Bytes::new, |recall| Bytes::copy_from_slice(&recall.handle)),
        transaction: run.transaction.map_or_else(Bytes::new, |handle| Bytes::copy_from_slice(&handle)),
        ..stored
    }
}

/// A binding as clients see it.
pub(crate) fn plugin_info(plugin: &effect::PluginInfo, built_in: bool) -> control::PluginInfo {
    let PluginLimits {
        fuel_per_run,
        fuel_per_message,
        run_ms,
        memory_bytes,
    } = plugin.limits;
    control::PluginInfo {
        name: plugin.name.clone(),
        digest: Bytes::copy_from_slice(&plugin.digest.0),
        limits: Some(control::PluginLimits {
            fuel_per_run,
            fuel_per_message,
            run_ms,
            memory_bytes,
        }),
        bound_wall_ms: plugin.bound_wall_ms,
        built_in,
        on_failure: match plugin.on_failure {
            OnFailure::DeadLetter => control::OnFailure::DeadLetter,
            OnFailure::Hold => control::OnFailure::Hold,
            OnFailure::Deliver => control::OnFailure::Deliver,
            OnFailure::Skip => control::OnFailure::Skip,
        }
        .into(),
    }
}

fn topic_info(topic: effect::TopicInfo, queues: Vec<effect::QueueInfo>) -> control::TopicInfo {
    let TopicSettings {
        queues: count,
        retention_ms,
        retention_bytes,
        ttl_ms,
        on_expired,
    } = topic.settings;
    let queue_info = |info: effect::QueueInfo| control::QueueInfo {
        queue: index(info.queue),
        start: info.start.0,
        end: info.end.0,
    };
    control::TopicInfo {
        id: topic.id.0,
        name: topic.name,
        settings: Some(control::TopicSettings {
            queues: count.into(),
            retention_ms,
            retention_bytes,
            ttl_ms,
            dead_letter_expired: on_expired == OnExpired::DeadLetter,
        }),
        created_wall_ms: topic.created_wall_ms,
        messages: topic.messages,
        delayed: topic.delayed,
        undecided: topic.undecided,
        queues: queues.into_iter().map(queue_info).collect(),
    }
}

fn index(queue: QueueId) -> u32 {
    let QueueIndex(index) = queue.index;
    index.into()
}

fn group_info(
    group: effect::GroupInfo,
    cursors: Vec<effect::CursorInfo>,
    members: Vec<effect::MemberInfo>,
    next: u64,
) -> control::GroupInfo {
    let subscription = |(topic, filter)| control::Subscription {
        topic,
        filter: Some(self::filter(filter)),
    };
    let member = |info: effect::MemberInfo| control::MemberInfo {
        name: info.name,
        topic: info.topic,
        leased: info.leased,
        lag: info.lag,
        absent_since_wall_ms: info.absent_since_wall_ms,
    };
    control::GroupInfo {
        name: group.name,
        settings: Some(group_settings(group.settings)),
        subscriptions: group.subscriptions.into_iter().map(subscription).collect(),
        member_count: group.members,
        lag: group.lag,
        cursors: cursors.into_iter().map(cursor_info).collect(),
        members: members.into_iter().map(member).collect(),
        next,
        subscription_count: group.subscription_count,
        alarms: group.alarms.into_iter().map(alarm).collect(),
        pauses: group.pauses.into_iter().map(operate::pause).collect(),
    }
}

pub(crate) fn alarm(info: effect::AlarmInfo) -> control::Alarm {
    control::Alarm {
        topic: info.topic,
        digest: Bytes::copy_from_slice(&info.digest.0),
        reason: info.reason,
        since_wall_ms: info.since_wall_ms,
    }
}

fn cursor_info(info: effect::CursorInfo) -> control::CursorInfo {
    control::CursorInfo {
        queue: index(info.queue),
        topic: info.topic,
        pass: info.pass.0,
        cursor: info.cursor.0,
        frontier: info.frontier.0,
        end: info.end.0,
        leased: info.leased,
        retrying: info.retrying,
        parked: info.parked,
        matched: info.matched,
        failed: info.failed,
        expired: info.expired,
        lost: info.lost,
        held: info.held.unwrap_or_default(),
        set_aside: info.set_aside,
        culprits_held: info.culprits_held,
    }
}

pub(crate) fn filter(filter: Filter) -> control::Filter {
    match filter {
        Filter::All => control::Filter::default(),
        Filter::Plugin { plugin, expression } => control::Filter { plugin, expression },
    }
}

fn group_settings(settings: GroupSettings) -> control::GroupSettings {
    let kind = match settings.backoff {
        Backoff::Table { waits_ms } => control::backoff::Kind::Table(control::backoff::Table { waits_ms }),
        Backoff::Exponential { first_ms, max_ms } => {
            control::backoff::Kind::Exponential(control::backoff::Exponential { first_ms, max_ms })
        }
        Backoff::Fixed { wait_ms } => control::backoff::Kind::FixedMs(wait_ms),
    };
    let at = match settings.start {
        StartPoint::Earliest => control::start_point::At::Earliest(true),
        StartPoint::Latest => control::start_point::At::Latest(true),
        StartPoint::Time { wall_ms } => control::start_point::At::WallMs(wall_ms),
    };
    control::GroupSettings {
        attempts_max: settings.attempts_max.into(),
        backoff: Some(control::Backoff { kind: Some(kind) }),
        start: Some(control::StartPoint { at: Some(at) }),
        ordered: settings.ordered,
        hold_exhausted: settings.on_exhausted == OnExhausted::Hold,
        oldest_every: settings.oldest_every.max(1).into(),
        broadcast: settings.sharing == Sharing::Broadcast,
    }
}
