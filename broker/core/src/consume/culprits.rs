//! Messages on which a plugin fails: whether the fault is theirs or the plugin's, and what becomes of them.

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Fate, OnFailure};
use sluice_protocol::ids::{Digest, Position, QueueOffset};
use sluice_protocol::names::DEAD_LETTER_PREFIX;

use super::give_up::{GivingUp, Why};
use super::{LaneRun, Reading, ReadingKey, cursor_of, key_of};
use crate::broker::Core;
use crate::effect::{Copied, DeadLetter, Effect, FetchId};
use crate::input::{CulpritKind, Verdicts};
use crate::limits::{CULPRIT_MS_MAX, CULPRITS_HELD_MAX, CULPRITS_MAX, REASON_BYTES_MAX, STOPS_MAX};
use crate::planted::{self, Bug};
use crate::ranges::range;

/// How a plugin did for one subscription since the broker started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trial {
    /// The messages that it was asked about ...
    evaluated: u64,
    /// ... and those of them on which it failed.
    failed: u64,
}

/// A message that is set aside. Those judged with it are the ones of the stretch in which it was found and all after these.
#[derive(Clone, Debug)]
pub(crate) struct Suspect {
    /// How the plugin had done before that stretch.
    before: Trial,
    since_mono_ms: u64,
    digest: Digest,
    reason: String,
    /// It is decided about once its copy for the dead-letter topic is here.
    fetch: Option<FetchId>,
}

/// What is to be said of a message that is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Finding {
    /// Too little was judged with it yet.
    Open,
    /// The message's fault.
    Message,
    /// The plugin's fault.
    Plugin,
}

impl Suspect {
    /// Which version failed on it, and how.
    pub(super) fn told(&self) -> (Digest, String) {
        (self.digest, self.reason.clone())
    }

    fn finding(&self, now: Trial, quorum: u64, now_mono_ms: u64) -> Finding {
        let (evaluated, failed) = (now.evaluated - self.before.evaluated, now.failed - self.before.failed);
        if planted::is(Bug::CulpritAtOnce) {
            return Finding::Message;
        }
        let heard = evaluated >= quorum || now_mono_ms >= self.since_mono_ms + CULPRIT_MS_MAX;
        if planted::is(Bug::BrokenPluginDeadLetters) {
            return if heard { Finding::Message } else { Finding::Open };
        }
        // At most so many of each quorum: what is judged goes on while a decision waits for its copy.
        if failed > CULPRITS_MAX.max(evaluated.saturating_mul(CULPRITS_MAX) / quorum.max(1)) {
            Finding::Plugin
        } else if !heard {
            Finding::Open
        } else if evaluated - failed > failed {
            Finding::Message
        } else {
            Finding::Plugin
        }
    }
}

impl LaneRun {
    /// A message that is set aside could not be read: it is decided about later.
    pub(super) fn fetch_culprit_again(&mut self, offset: QueueOffset, fetch: FetchId) {
        let asked = self.aside.get_mut(&offset.0).filter(|suspect| suspect.fetch == Some(fetch));
        if let Some(suspect) = asked {
            suspect.fetch = None;
        }
    }
}

impl Core {
    /// Counts what was judged, and sets aside what the plugin failed on unless it was handed out or settled before.
    pub(super) fn set_aside(&mut self, cursor: CursorId, priority: u8, verdicts: Verdicts) {
        for culprit in &verdicts.culprits {
            *match culprit.kind {
                CulpritKind::Trap => &mut self.counters.culprits_trapped,
                CulpritKind::Fuel => &mut self.counters.culprits_out_of_fuel,
                CulpritKind::Memory => &mut self.counters.culprits_out_of_memory,
                CulpritKind::Answer => &mut self.counters.culprits_bad_answer,
            } += 1;
        }
        let Some(durable) = self.state.cursors.get(&cursor).and_then(|entry| entry.level(priority)) else {
            return;
        };
        let Some(reading) = self.consuming.readings.get_mut(&key_of(cursor)) else {
            return;
        };
        let before = reading.trial;
        reading.trial.evaluated += u64::from(verdicts.evaluated);
        reading.trial.failed += verdicts.culprits.len() as u64;
        let index = usize::from(cursor.queue.index.0);
        let lane = match priority {
            0 => reading.lanes.get_mut(index),
            _ => reading.upper.get_mut(&(index, priority)),
        };
        let (Some(rule), Some(lane)) = (&reading.rule, lane) else { return };
        for culprit in verdicts.culprits {
            assert!(
                (verdicts.from..verdicts.to).contains(&culprit.offset),
                "a plugin fails on what it judges"
            );
            if durable.is_free(culprit.offset.0) {
                let suspect = Suspect {
                    before,
                    since_mono_ms: self.now.mono_ms,
                    digest: rule.digest,
                    reason: cut(culprit.reason),
                    fetch: None,
                };
                lane.aside.insert(culprit.offset.0, suspect);
            }
        }
    }

    /// Decides about what is set aside in a reading, as far as enough was judged with it - or holds all of it where the plugin is at fault.
    pub(super) fn try_culprits(&mut self, key: ReadingKey, reading: &mut Reading) {
        let quiet = reading.runs().all(|(_, lane)| lane.aside.is_empty() && lane.stops < STOPS_MAX);
        if quiet || self.has_alarm(key) {
            return;
        }
        let Some(rule) = &reading.rule else { return };
        let digest = rule.digest;
        let stopped = reading.runs().find(|(_, lane)| lane.stops >= STOPS_MAX);
        if let Some(held) = stopped.and_then(|(_, lane)| lane.held.as_ref()) {
            let reason = held.reason.clone();
            return self.hold_subscription(key, digest, reason);
        }
        let mut found = Vec::new();
        let mut again = false;
        for (index, lane) in reading.runs() {
            for (&offset, suspect) in lane.aside.iter().filter(|(_, suspect)| suspect.fetch.is_none()) {
                match suspect.finding(reading.trial, self.config.culprit_quorum, self.now.mono_ms) {
                    Finding::Open => {}
                    Finding::Message if lane.fetch_again_mono_ms.is_some_and(|time| self.now.mono_ms < time) => {}
                    Finding::Message => found.push((index, lane.priority, offset)),
                    Finding::Plugin if self.was_attended(reading) => {
                        let reason = suspect.reason.clone();
                        return self.hold_subscription(key, digest, reason);
                    }
                    // While nobody reads nothing is judged that could speak for the plugin: it is tried again when somebody does.
                    Finding::Plugin => again = true,
                }
            }
        }
        if again {
            return self.try_again(key, reading);
        }
        for (index, priority, offset) in found {
            let lane = match priority {
                0 => reading.lanes.get_mut(index),
                _ => reading.upper.get_mut(&(index, priority)),
            };
            if let Some(lane) = lane {
                self.decide(cursor_of(key, index), lane, offset);
            }
        }
    }

    /// When something that is set aside has waited long enough.
    pub(super) fn next_trial(&self, cursor: CursorId, lane: &LaneRun) -> Option<u64> {
        if self.has_alarm(key_of(cursor)) {
            return None;
        }
        let waiting = lane.aside.values().filter(|suspect| suspect.fetch.is_none());
        waiting.map(|suspect| suspect.since_mono_ms + CULPRIT_MS_MAX).min()
    }

    /// Whether nothing is judged for a subscription before it is resumed.
    pub(super) fn has_alarm(&self, (topic, group): ReadingKey) -> bool {
        let subscription = self.state.subscriptions.get(&(group, topic));
        subscription.is_some_and(|subscription| subscription.alarm.is_some())
    }

    /// Resumes a subscription that is held, or of which messages are; says where the record of that is.
    pub(crate) fn resume(&mut self, key: ReadingKey) -> Option<Position> {
        let (topic, group) = key;
        let mut cursors = self.state.cursors_on(group, topic);
        let held = self.has_alarm(key) || cursors.any(|(_, entry)| entry.levels().any(|(_, lane)| !lane.held.is_empty()));
        drop(cursors);
        held.then(|| self.record(Change::SubscriptionResumed { group, topic }))
    }

    /// Takes the copy of a message that a plugin failed on: with it the decision is made, unless it was overtaken meanwhile.
    pub(super) fn fetched_culprit(&mut self, fetch: FetchId, given_up: GivingUp, batch: Option<Bytes>) {
        let GivingUp {
            cursor,
            pass,
            priority,
            offset,
            ..
        } = given_up;
        let key = key_of(cursor);
        let durable = self.state.cursors.get(&cursor).and_then(|entry| entry.level(priority));
        let free = durable.is_some_and(|durable| durable.is_free(offset.0));
        let alarmed = self.has_alarm(key);
        let (quorum, now_mono_ms) = (self.config.culprit_quorum, self.now.mono_ms);
        let trial = self.consuming.readings.get(&key).map(|reading| reading.trial).unwrap_or_default();
        let Some(lane) = self.consuming.lane_mut(cursor, priority) else {
            return;
        };
        let Some(suspect) = lane.aside.get_mut(&offset.0).filter(|suspect| suspect.fetch == Some(fetch)) else {
            return;
        };
        // What was judged while the copy was fetched may speak against the plugin.
        let found = suspect.finding(trial, quorum, now_mono_ms);
        if alarmed || free && found != Finding::Message {
            suspect.fetch = None;
            self.consuming.wake(key);
            return;
        }
        let Some(suspect) = lane.aside.remove(&offset.0).filter(|_| free) else {
            return;
        };
        self.consuming.wake(key);
        let Some(batch) = batch else {
            self.counters.lost_to_retention += 1;
            let offsets = vec![range(offset.0, offset.0 + 1)];
            let ending = self.ending(cursor, &offsets);
            let position = self.record(Change::Settled { cursor, pass, offsets });
            self.ended(cursor, ending, position);
            return;
        };
        let Some(to) = self.dead_letter_queue(cursor) else { return };
        let at_offset = self.state.queues.get(&to).map_or(QueueOffset(0), |queue| queue.end);
        self.note_uses_of(to, at_offset, &batch);
        let fate = Fate::DeadLettered { to, at_offset, batch };
        let (groups, position) = self.record_fate(cursor, priority, offset, suspect, fate);
        self.ended(cursor, groups, position);
        self.counters.dead_lettered += 1;
    }

    /// Whether somebody reads, or did within the time in which something set aside waits.
    fn was_attended(&self, reading: &Reading) -> bool {
        reading.has_members() || self.now.mono_ms < reading.seen_mono_ms + CULPRIT_MS_MAX
    }

    /// Has everything judged again from the recorded frontiers on.
    fn try_again(&self, key: ReadingKey, reading: &mut Reading) {
        for (index, lane) in reading.runs_mut() {
            let entry = self.state.cursors.get(&cursor_of(key, index));
            if let Some(durable) = entry.and_then(|entry| entry.level(lane.priority)) {
                lane.rewind(durable, durable.frontier);
            }
        }
    }

    /// The fault is the plugin's. What is set aside stays so, that the frontier does not pass it, until it is judged again.
    fn hold_subscription(&mut self, (topic, group): ReadingKey, digest: Digest, reason: String) {
        self.counters.alarms += 1;
        self.record(Change::SubscriptionHeld {
            group,
            topic,
            digest,
            reason: cut(reason),
        });
    }

    /// Gives a message that is set aside what the binding says; for a dead letter its copy is fetched first.
    fn decide(&mut self, cursor: CursorId, lane: &mut LaneRun, offset: u64) {
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        let (pass, priority) = (entry.pass, lane.priority);
        let Some(durable) = entry.level(priority) else { return };
        if !durable.is_free(offset) {
            lane.aside.remove(&offset);
            return;
        }
        let fate = match self.on_failure(cursor) {
            OnFailure::DeadLetter => {
                let fetch = FetchId(self.consuming.next_id());
                if let (Some(suspect), Some(topic), Some(group)) = (
                    lane.aside.get_mut(&offset),
                    self.state.topics.get(&cursor.queue.topic),
                    self.state.groups.get(&cursor.group),
                ) {
                    suspect.fetch = Some(fetch);
                    let dead = DeadLetter {
                        topic: topic.name.clone(),
                        group: group.name.clone(),
                        attempts: 0,
                        reason: suspect.reason.clone(),
                        plugin: Some(suspect.digest),
                    };
                    let (source, offset) = (cursor.queue, QueueOffset(offset));
                    let why = Why::Culprit;
                    let given_up = GivingUp {
                        cursor,
                        pass,
                        priority,
                        offset,
                        why,
                    };
                    self.consuming.fetches.insert(fetch, given_up);
                    let wanted = Effect::Fetch {
                        fetch,
                        source,
                        offset,
                        copy: Copied::DeadLetter(dead),
                    };
                    self.journal.release(Position::default(), wanted);
                }
                return;
            }
            OnFailure::Hold if durable.held.count() >= CULPRITS_HELD_MAX => {
                let held = lane.aside.get(&offset).map(|suspect| (suspect.digest, suspect.reason.clone()));
                if let Some((digest, reason)) = held {
                    self.hold_subscription(key_of(cursor), digest, reason);
                }
                return;
            }
            OnFailure::Hold => Fate::Held,
            OnFailure::Deliver => Fate::Delivered,
            OnFailure::Skip => Fate::Skipped,
        };
        if let Some(suspect) = lane.aside.remove(&offset) {
            let (groups, position) = self.record_fate(cursor, priority, QueueOffset(offset), suspect, fate);
            lane.ended(groups, position);
        }
    }

    /// What the binding says; what fails in a group that reads a dead-letter topic stays there.
    pub(super) fn on_failure(&self, cursor: CursorId) -> OnFailure {
        let topic = self.state.topics.get(&cursor.queue.topic);
        let said = self
            .state
            .subscriptions
            .get(&(cursor.group, cursor.queue.topic))
            .map(|subscription| {
                let binding = match &subscription.ruling {
                    sluice_log::record::Filter::All => None,
                    sluice_log::record::Filter::Plugin { plugin, .. } => self.state.bindings.get(plugin),
                };
                binding.map_or(OnFailure::Hold, |binding| binding.on_failure)
            });
        let said = said.unwrap_or(OnFailure::Hold);
        let ends_here = topic.is_none_or(|topic| topic.name.starts_with(DEAD_LETTER_PREFIX));
        if ends_here && said == OnFailure::DeadLetter {
            OnFailure::Hold
        } else {
            said
        }
    }

    /// Says what became of a message; returns the message groups that it was in, and where the record is that they wait for.
    fn record_fate(&mut self, cursor: CursorId, priority: u8, offset: QueueOffset, suspect: Suspect, fate: Fate) -> (Vec<u64>, Position) {
        let Some(pass) = self.state.cursors.get(&cursor).map(|entry| entry.pass) else {
            return Default::default();
        };
        self.counters.culprits_decided += 1;
        let ending = self.ending(cursor, &[range(offset.0, offset.0 + 1)]);
        let position = self.record(Change::CulpritDecided {
            cursor,
            pass,
            priority,
            offset,
            digest: suspect.digest,
            reason: suspect.reason,
            fate,
        });
        (ending, position)
    }
}

/// A reason that is not too long.
fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(REASON_BYTES_MAX));
    reason
}
