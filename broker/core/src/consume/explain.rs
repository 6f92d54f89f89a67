//! What became of one message for one group, out of state and of what its lane waits for. Nothing is kept for this.

use sluice_log::record::{CursorId, Due, FarOff, Filter, PartId};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{GroupId, QueueId, QueueIndex, QueueOffset, TopicId};

use super::{Reading, key_of};
use crate::broker::Core;
use crate::effect::Answer;
use crate::leases::held_from;
use crate::standing::{Ruling, Standing, Step, Waiting};
use crate::state::transaction::Known;

impl Core {
    /// Which step decided about a message for a group. Where it is one of a calendar, `due` says when it is due and which parts hold it.
    pub(crate) fn explain(
        &self,
        name: &str,
        queue: QueueId,
        offset: QueueOffset,
        priority: u8,
        due: (i64, &[PartId]),
    ) -> Result<Answer, Refusal> {
        let topic = self.state.topics.get(&queue.topic).map(|topic| topic.name.clone());
        let group = self.state.group_named(name);
        group.map_or(Ok(()), |group| self.one_reader(group, name))?;
        let cursor = group.map(|group| CursorId { group, queue });
        Ok(Answer::Standing(Box::new(Standing {
            topic,
            group,
            step: match cursor {
                None => Step::NoGroup,
                Some(_) if queue.index == QueueIndex::CALENDAR => self.calendar_step(queue.topic, offset, due),
                Some(cursor) => self.step(cursor, offset, priority),
            },
            ruling: cursor.and_then(|cursor| self.ruling(cursor)),
            letters: group.and_then(|group| self.stored_letters(group)),
        })))
    }

    /// The same for a message that was delayed or prepared and has, as far as the index knows, no place in a queue.
    fn calendar_step(&self, topic: TopicId, number: QueueOffset, (due_ms, parts): (i64, &[PartId])) -> Step {
        let known = self.state.transactions.get(topic).map_or(Known::Nothing, |of| of.known(number));
        let due = Due { at_ms: due_ms, number };
        let is_near = self.state.calendars.get(topic).is_some_and(|calendar| calendar.holds(due));
        let mut parts = parts.iter().filter_map(|part| self.state.parts.get(*part));
        let waits = is_near || parts.any(|part| part.may_hold(FarOff::new(topic, due)));
        match known {
            Known::Undecided(_) => Step::Waiting(Waiting::Decision),
            _ if waits => Step::Waiting(Waiting::Due { at_wall_ms: due_ms }),
            Known::Committed | Known::RolledBack | Known::GivenUp(..) | Known::Nothing => Step::Left,
        }
    }

    fn ruling(&self, cursor: CursorId) -> Option<Ruling> {
        let subscription = self.state.subscriptions.get(&(cursor.group, cursor.queue.topic))?;
        let bound = match &subscription.ruling {
            Filter::All => None,
            Filter::Plugin { plugin, .. } => self.state.bindings.get(plugin),
        };
        Some(Ruling {
            filter: subscription.ruling.clone(),
            rule: self.rule_of(&subscription.ruling).ok().flatten(),
            superseded: !subscription.superseded.is_empty(),
            on_failure: self.on_failure(cursor),
            bound_wall_ms: bound.map_or(0, |bound| bound.bound_wall_ms),
            pass: self.state.cursors.get(&cursor)?.pass,
        })
    }

    fn stored_letters(&self, group: GroupId) -> Option<(QueueId, QueueOffset, QueueOffset)> {
        let queue = self.letters_of(group)?;
        let start = self.state.queues.get(&queue)?.start;
        Some((queue, start, self.visible_end(queue)))
    }

    fn step(&self, cursor: CursorId, offset: QueueOffset, priority: u8) -> Step {
        let (group, queue) = (cursor.group, cursor.queue);
        let (Some(subscription), Some(stored), Some(entry)) = (
            self.state.subscriptions.get(&(group, queue.topic)),
            self.state.queues.get(&queue),
            self.state.cursors.get(&cursor),
        ) else {
            return Step::NeverRead;
        };
        if offset < stored.start {
            return Step::Gone { start: stored.start };
        }
        let (held, _) = held_from(entry, offset.0, 1, self.now);
        if let Some((_, state)) = held.into_iter().find(|(offsets, _)| offsets.first == offset) {
            return Step::Open(state);
        }
        // An ordered group has one lane; one that is not there yet begins where that of priority 0 stands.
        let is_ordered = self.state.groups.get(&group).is_some_and(|group| group.settings.ordered);
        let level = entry.level(priority).filter(|_| !is_ordered);
        let (lane, priority) = level.map_or((&entry.lane, 0), |lane| (lane, priority));
        let is_parked = lane.order.get(offset.0).is_some();
        if is_parked || lane.is_free(offset.0) {
            return self.free_step(cursor, offset, priority, is_parked);
        }
        match subscription.begins.get(&queue.index) {
            Some(&start) if offset < start => Step::BeforeStart { pass: entry.pass, start },
            Some(_) | None => Step::Over,
        }
    }

    /// The same for a message that the recorded frontier has not passed: what is known of the lane beyond it says more.
    fn free_step(&self, cursor: CursorId, offset: QueueOffset, priority: u8, is_parked: bool) -> Step {
        let key = key_of(cursor);
        let (topic, group) = key;
        let reading = self.consuming.readings.get(&key);
        let lane = self.consuming.lane(cursor, priority);
        let alarm = self.alarm(group, topic);
        if let Some(suspect) = lane.and_then(|lane| lane.aside.get(&offset.0)) {
            // What the plugin fails on throughout is not decided before someone ends the alarm.
            return alarm.map_or_else(
                || {
                    let (digest, reason) = suspect.told();
                    Step::SetAside { digest, reason }
                },
                |alarm| Step::Waiting(Waiting::Alarm(alarm)),
            );
        }
        let is_matched = lane.is_some_and(|lane| lane.matched.iter().any(|range| (range.first..range.end).contains(&offset)));
        if !is_matched && !is_parked && lane.is_some_and(|lane| offset < lane.judged) {
            return Step::Over;
        }
        let paused = |group| self.pause(group, None).or_else(|| self.pause(group, Some(topic)));
        let pause = paused(group).or_else(|| self.state.parent_of(group).and_then(paused));
        let failed = lane.and_then(|lane| lane.held.as_ref());
        Step::Waiting(if let Some(pause) = pause {
            Waiting::Paused(pause)
        } else if let Some(alarm) = alarm {
            Waiting::Alarm(alarm)
        } else if reading.is_none_or(|reading| !reading.has_members()) {
            Waiting::Members
        } else if reading.is_some_and(|reading| self.is_gated(cursor, reading, offset)) {
            Waiting::Growth
        } else if is_parked {
            Waiting::Order
        } else if is_matched {
            Waiting::Demand
        } else if let Some(failed) = failed {
            Waiting::Retrial {
                reason: failed.reason.clone(),
            }
        } else {
            Waiting::Verdict
        })
    }

    /// Whether a message of an ordered group waits for one of its message group in a queue where that was before the topic grew.
    fn is_gated(&self, cursor: CursorId, reading: &Reading, offset: QueueOffset) -> bool {
        let parked = self.state.cursors.get(&cursor).and_then(|entry| entry.lane.order.get(offset.0));
        parked.is_some_and(|row| self.gate(cursor, reading).is_closed(row.group))
    }
}
