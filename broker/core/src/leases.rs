//! What a group holds, message by message: who has it, what waits for another delivery, and what is held; page by page.

use sluice_log::record::{CursorId, OffsetRange};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{GroupId, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::units::Now;

use crate::broker::Core;
use crate::effect::{Answer, LeaseInfo, LeaseState};
use crate::input::LeasePlace;
use crate::limits::{LISTED_LEASES_MAX, SURVEY_ENTRIES_MAX};
use crate::ranges::range;
use crate::state::cursor::Cursor;
use crate::state::lane::NEVER_MONO_MS;

impl Core {
    /// What a group holds from this place on, in one topic or in all, as much as a page takes. A page looks at no more cursors than a turn
    /// has time for, so one may be empty and not the last.
    pub(crate) fn list_leases(&self, group: &str, topic: Option<&str>, from: LeasePlace) -> Result<Answer, Refusal> {
        let id = self.group_id(group)?;
        self.one_reader(id, group)?;
        let topic = topic.map(|topic| self.topic_id(topic)).transpose()?;
        if topic.is_some_and(|topic| !self.state.subscriptions.contains_key(&(id, topic))) {
            let text = format!("group {group} does not read that topic");
            return Err(Refusal::new(ErrorCode::NoSuchGroup, text));
        }
        let (first, last) = bounds(id, topic, from.queue);
        let (mut leases, mut next) = (Vec::new(), None);
        let cursors = (first <= last).then(|| self.state.cursors.range(first..=last));
        for (looked, (cursor, entry)) in cursors.into_iter().flatten().enumerate() {
            let offset = if cursor.queue == from.queue { from.offset.0 } else { 0 };
            let room = LISTED_LEASES_MAX - leases.len();
            if room == 0 || looked >= SURVEY_ENTRIES_MAX {
                next = Some(LeasePlace {
                    queue: cursor.queue,
                    offset: QueueOffset(offset),
                });
                break;
            }
            let Some(name) = self.state.topics.get(&cursor.queue.topic).map(|topic| &topic.name) else {
                continue;
            };
            let (held, further) = held_from(entry, offset, room, self.now);
            leases.extend(held.into_iter().map(|(offsets, state)| LeaseInfo {
                topic: name.clone(),
                queue: cursor.queue,
                offsets,
                state,
            }));
            if let Some(offset) = further {
                next = Some(LeasePlace {
                    queue: cursor.queue,
                    offset,
                });
                break;
            }
        }
        Ok(Answer::Leases { leases, next })
    }
}

/// The cursors of a group from a queue on, in one topic or in all.
fn bounds(group: GroupId, topic: Option<TopicId>, from: QueueId) -> (CursorId, CursorId) {
    let at = |topic, index| CursorId {
        group,
        queue: QueueId {
            topic,
            index: QueueIndex(index),
        },
    };
    let all = (at(TopicId(0), 0), at(TopicId(u64::MAX), u16::MAX));
    let (first, last) = topic.map_or(all, |topic| (at(topic, 0), at(topic, u16::MAX)));
    (first.max(CursorId { group, queue: from }), last)
}

/// What a cursor holds from an offset on: at most `max` ranges, and the offset of the next if there are more.
pub(crate) fn held_from(entry: &Cursor, from: u64, max: usize, now: Now) -> (Vec<(OffsetRange, LeaseState)>, Option<QueueOffset>) {
    let within = range(from, u64::MAX);
    let wall = |mono_ms: u64| {
        let left_ms = mono_ms as i128 - i128::from(now.mono_ms);
        i64::try_from(i128::from(now.wall_ms) + left_ms).unwrap_or(i64::MAX)
    };
    let leased = entry.levels().flat_map(|(_, lane)| lane.leases.within(within).take(max + 1));
    let leased = leased.map(|(offsets, lease)| {
        let state = LeaseState::Leased {
            holder: (*lease.holder).clone(),
            attempt: lease.attempt.0,
            until_wall_ms: wall(lease.expires_mono_ms),
        };
        (offsets, state)
    });
    let retrying = entry.levels().flat_map(|(_, lane)| lane.retries.within(within).take(max + 1));
    let retrying = retrying.map(|(offsets, retry)| {
        let due = (retry.due_mono_ms != NEVER_MONO_MS).then(|| wall(retry.due_mono_ms));
        let state = LeaseState::Retrying {
            attempts: retry.attempts.0,
            due_wall_ms: due,
            reason: retry.reason,
        };
        (offsets, state)
    });
    let held = entry.levels().flat_map(|(_, lane)| lane.held.within(within).take(max + 1));
    let held = held.map(|offsets| (offsets, LeaseState::Held));
    let mut all: Vec<_> = leased.chain(retrying).chain(held).collect();
    all.sort_unstable_by_key(|(offsets, _)| *offsets);
    let further = all.get(max).map(|(offsets, _)| offsets.first);
    all.truncate(max);
    (all, further)
}
