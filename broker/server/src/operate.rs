//! What operators ask of groups and topics, from frames to the core and back: pause and resume, skip, purge, leases, growth.

use bytes::Bytes;
use sluice_core::effect::{self, LeaseState, MessageState};
use sluice_core::input::{Admin, LeasePlace};
use sluice_log::record::{Holder, ReturnReason};
use sluice_protocol::control::{self, lease_info};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, Frame, FrameKind};
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::names;

use crate::connection::unexpected;
use crate::frames::Broken;

/// What one of these frames asks of the core; `by` is the name of the client that sent it.
///
/// # Errors
/// For a bad name or queue, and for a frame of another kind.
pub(crate) fn admin(by: &str, kind: FrameKind, frame: &Frame) -> Result<Admin, Broken> {
    let by = by.to_owned();
    Ok(match kind {
        FrameKind::PauseGroup => {
            let control::PauseGroup { name, topic } = message(frame, kind)?;
            let (name, topic) = (named_group(name)?, one_topic(topic)?);
            Admin::PauseGroup { name, topic, by }
        }
        FrameKind::ResumeGroup => {
            let control::ResumeGroup { name, topic } = message(frame, kind)?;
            let (name, topic) = (named_group(name)?, one_topic(topic)?);
            Admin::ResumeGroup { name, topic, by }
        }
        FrameKind::SkipMessage => {
            let ask: control::SkipMessage = message(frame, kind)?;
            Admin::SkipMessage {
                group: named_group(ask.group)?,
                topic: named(ask.topic)?,
                queue: queue_index(ask.queue)?,
                offset: QueueOffset(ask.offset),
                by,
            }
        }
        FrameKind::GrowTopic => {
            let control::GrowTopic { name, queues } = message(frame, kind)?;
            let wanted = u16::try_from(queues);
            let queues = wanted.map_err(|_| Refusal::new(ErrorCode::BadSetting, format!("a topic has 1 to 1024 queues, not {queues}")))?;
            let name = named(name)?;
            Admin::GrowTopic { name, queues, by }
        }
        FrameKind::PurgeGroup => {
            let control::PurgeGroup { group, topic } = message(frame, kind)?;
            let (group, topic) = (named_group(group)?, named(topic)?);
            Admin::PurgeGroup { group, topic }
        }
        FrameKind::ListLeases => {
            let control::ListLeases { group, topic, from } = message(frame, kind)?;
            let from = from.unwrap_or_default();
            Admin::ListLeases {
                group: named_group(group)?,
                topic: one_topic(topic)?,
                from: LeasePlace {
                    queue: QueueId {
                        topic: TopicId(from.topic),
                        index: queue_index(from.queue)?,
                    },
                    offset: QueueOffset(from.offset),
                },
            }
        }
        other => return Err(unexpected(other)),
    })
}

/// Says what a message was before it was skipped.
pub(crate) fn skipped(was: MessageState) -> Bytes {
    let was = match was {
        MessageState::Free => control::MessageState::Free,
        MessageState::Leased => control::MessageState::Leased,
        MessageState::Retrying => control::MessageState::Retrying,
        MessageState::Held => control::MessageState::Held,
        MessageState::Over => control::MessageState::Over,
    };
    frame::message(FrameKind::Skipped, &control::Skipped { was: was.into() })
}

/// A page of leases.
pub(crate) fn leases(leases: Vec<effect::LeaseInfo>, next: Option<LeasePlace>) -> Bytes {
    let leases = leases.into_iter().map(lease_info).collect();
    let next = next.map(|place| control::LeasePlace {
        topic: place.queue.topic.0,
        queue: place.queue.index.0.into(),
        offset: place.offset.0,
    });
    frame::message(FrameKind::Leases, &control::Leases { leases, next })
}

/// A pause as clients see it.
pub(crate) fn pause(info: effect::PauseInfo) -> control::Pause {
    control::Pause {
        topic: info.topic.unwrap_or_default(),
        since_wall_ms: info.since_wall_ms,
        by: info.by,
    }
}

fn lease_info(info: effect::LeaseInfo) -> control::LeaseInfo {
    control::LeaseInfo {
        topic: info.topic,
        queue: info.queue.index.0.into(),
        first: info.offsets.first.0,
        end: info.offsets.end.0,
        state: Some(lease_state(info.state)),
    }
}

/// What is known of messages that are not over, as clients see it.
pub(crate) fn lease_state(state: LeaseState) -> lease_info::State {
    match state {
        LeaseState::Leased {
            holder,
            attempt,
            until_wall_ms,
        } => {
            let (member, stream) = match holder {
                Holder::Stream { member } => (member, true),
                Holder::Receive { member } => (member, false),
            };
            lease_info::State::Leased(lease_info::Leased {
                member,
                stream,
                attempt: attempt.into(),
                until_wall_ms,
            })
        }
        LeaseState::Retrying {
            attempts,
            due_wall_ms,
            reason,
        } => lease_info::State::Retrying(lease_info::Retrying {
            attempts: attempts.into(),
            due_wall_ms: due_wall_ms.unwrap_or_default(),
            exhausted: due_wall_ms.is_none(),
            reason: reason_of(reason).into(),
        }),
        LeaseState::Held => lease_info::State::Held(true),
    }
}

pub(crate) fn reason_of(reason: ReturnReason) -> control::ReturnReason {
    match reason {
        ReturnReason::Nacked => control::ReturnReason::Nacked,
        ReturnReason::Expired => control::ReturnReason::Expired,
        ReturnReason::ConnectionLost => control::ReturnReason::ConnectionLost,
        ReturnReason::Closed => control::ReturnReason::Closed,
        ReturnReason::Outlived => control::ReturnReason::Outlived,
    }
}

fn message<M: prost::Message + Default>(frame: &Frame, kind: FrameKind) -> Result<M, Refusal> {
    frame.message(kind).map_err(Refusal::from)
}

fn named_group(name: String) -> Result<String, Refusal> {
    names::check_group(&name).map(|()| name)
}

fn named(name: String) -> Result<String, Refusal> {
    names::owner(&name).map(|_| name)
}

/// A topic, or all where none is named.
fn one_topic(topic: String) -> Result<Option<String>, Refusal> {
    match topic.is_empty() {
        true => Ok(None),
        false => named(topic).map(Some),
    }
}

fn queue_index(queue: u32) -> Result<QueueIndex, Refusal> {
    let index = u16::try_from(queue).map_err(|_| Refusal::new(ErrorCode::NoSuchQueue, format!("there is no queue {queue}")))?;
    Ok(QueueIndex(index))
}
