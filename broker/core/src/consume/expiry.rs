//! Expiry: until when what was found lives, and what becomes of what nobody took until then.

use std::collections::VecDeque;

use sluice_log::record::{Change, CursorId, Deadline, LeaseRange, OffsetRange, OnExpired};
use sluice_protocol::ids::{Attempt, QueueId, QueueOffset};

use super::lanes::Lanes;
use super::{LaneRun, key_of};
use crate::broker::Core;
use crate::effect::TopicTtl;
use crate::input::Verdicts;
use crate::limits::EXPIRED_MAX;
use crate::planted::{self, Bug};
use crate::ranges::{OffsetSet, len, range};
use crate::state::lane::{Lane, NEVER_MONO_MS};

impl Core {
    /// Between which offsets of a queue messages lie that may expire. Of the others nobody asks until when they live.
    pub(super) fn expiring(&self, queue: QueueId) -> Option<OffsetRange> {
        match self.topic_ttl(queue) {
            TopicTtl(0) => self.state.queues.get(&queue)?.expiring,
            TopicTtl(_) => Some(range(0, u64::MAX)),
        }
    }

    /// How long the messages of a queue live unless they say that they live shorter.
    pub(super) fn topic_ttl(&self, queue: QueueId) -> TopicTtl {
        TopicTtl(self.state.topics.get(&queue.topic).map_or(0, |topic| topic.settings.ttl_ms))
    }

    /// Keeps until when those of some verdicts live that a lane has yet to hand out, before any of them is.
    pub(super) fn keep_deadlines(&mut self, cursor: CursorId, priority: u8, verdicts: &Verdicts) {
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        let Some(lane) = entry.level(priority) else { return };
        let matched = verdicts.deliver.iter().zip(&verdicts.links);
        let failed = verdicts.culprits.iter().map(|culprit| (&culprit.offset, &culprit.link));
        let mut dated: Vec<(QueueOffset, i64)> = matched
            .chain(failed)
            .filter_map(|(offset, link)| Some((*offset, link.expires_ms?)))
            .filter(|(offset, _)| lane.is_free(offset.0))
            .collect();
        dated.sort_unstable();
        let mut deadlines: Vec<Deadline> = Vec::new();
        for (offset, expires_ms) in dated {
            match deadlines.last_mut() {
                Some(last) if last.offsets.end == offset && last.expires_ms == expires_ms => last.offsets.end.0 += 1,
                Some(_) | None => deadlines.push(Deadline {
                    offsets: range(offset.0, offset.0 + 1),
                    expires_ms,
                }),
            }
        }
        if !deadlines.is_empty() {
            let pass = entry.pass;
            self.record(Change::DeadlinesFound {
                cursor,
                pass,
                priority,
                deadlines,
            });
        }
    }

    /// Ends what expired of a queue and what nobody has, by the stamp that its record gets: before anything is handed out, so that whatever is
    /// lives then.
    pub(super) fn expire_messages(&mut self, cursor: CursorId, lanes: &mut Lanes) {
        let mut groups = Vec::new();
        for lane in lanes.iter_mut() {
            groups.extend(self.expire_lane(cursor, lane));
        }
        let Some((groups, position)) = groups.into_iter().reduce(|(mut all, _), (more, last)| {
            all.extend(more);
            (all, last)
        }) else {
            return;
        };
        lanes.base.ended(groups, position);
    }

    /// The message groups of what expired in a lane, and the record that says so.
    fn expire_lane(&mut self, cursor: CursorId, lane: &mut LaneRun) -> Option<(Vec<u64>, sluice_protocol::ids::Position)> {
        let stamp_ms = self.stamp().wall_ms;
        let wall_ms = stamp_ms + i64::from(planted::is(Bug::ExpiresEarly)) - 20 * i64::from(planted::is(Bug::ExpiresLate));
        let entry = self.state.cursors.get(&cursor)?;
        let durable = entry.level(lane.priority)?;
        durable.lifetimes.over(wall_ms).next()?;
        let messages = expired(durable, lane, wall_ms);
        let count: u64 = messages.iter().map(|message| len(message.offsets)).sum();
        if count == 0 {
            return None;
        }
        if count >= EXPIRED_MAX {
            self.consuming.wake(key_of(cursor));
        }
        let buries = planted::is(Bug::ExpiredNotBuried);
        let on_expired = self.state.topics.get(&cursor.queue.topic).map(|topic| topic.settings.on_expired);
        let fate = on_expired.filter(|_| !buries).unwrap_or_default();
        let (pass, priority) = (entry.pass, lane.priority);
        let offsets: Vec<OffsetRange> = messages.iter().map(|message| message.offsets).collect();
        let ending = match fate {
            OnExpired::Skip => self.ending(cursor, &offsets),
            // Those behind it wait until its copy is stored.
            OnExpired::DeadLetter => Vec::new(),
        };
        lane.pass_over(&offsets);
        lane.expired += count;
        self.counters.expired += count;
        let position = self.record(Change::Expired {
            cursor,
            pass,
            priority,
            messages,
            fate,
        });
        if fate == OnExpired::DeadLetter {
            self.consuming.wake(key_of(cursor));
        }
        Some((ending, position))
    }
}

/// What a lane would hand out sooner or later and what expired, with the deliveries that each had. What is set aside is left to be decided
/// about, and what was found under a rule that changed since to be judged anew.
fn expired(durable: &Lane, lane: &LaneRun, wall_ms: i64) -> Vec<LeaseRange> {
    let mut matched = OffsetSet::default();
    lane.matched.iter().for_each(|piece| matched.insert(piece.first.0, piece.end.0));
    let attempts = |offset: u64| match durable.retries.get(offset) {
        Some(_) if planted::is(Bug::RetriesOutlive) => None,
        Some(retry) => Some(retry.attempts).filter(|_| retry.due_mono_ms != NEVER_MONO_MS),
        None if durable.order.get(offset).is_some_and(|row| row.judged) || matched.contains(offset) => Some(Attempt(0)),
        None => None,
    };
    let each = durable.lifetimes.over(wall_ms).flat_map(|offsets| offsets.first.0..offsets.end.0);
    let mut found: Vec<(u64, Attempt)> = each
        .filter_map(|offset| Some((offset, attempts(offset)?)))
        .take(EXPIRED_MAX as usize)
        .collect();
    found.sort_unstable();
    let mut messages: Vec<LeaseRange> = Vec::new();
    for (offset, attempt) in found {
        match messages.last_mut() {
            Some(last) if last.offsets.end.0 == offset && last.attempt == attempt => last.offsets.end.0 += 1,
            Some(_) | None => messages.push(LeaseRange {
                offsets: range(offset, offset + 1),
                attempt,
            }),
        }
    }
    messages
}

impl LaneRun {
    /// These do not wait to be handed out any more.
    fn pass_over(&mut self, offsets: &[OffsetRange]) {
        let mut over = OffsetSet::default();
        offsets.iter().for_each(|piece| over.insert(piece.first.0, piece.end.0));
        let left: VecDeque<OffsetRange> = self.matched.iter().flat_map(|piece| over.gaps(*piece)).collect();
        self.matched = left;
        self.place = self.matched.front().map_or(self.judged, |next| next.first);
    }
}
