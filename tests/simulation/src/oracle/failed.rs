//! What the records say of a plugin's failures: messages that were decided about, groups that are held and that go on.

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Fate, Filter, OnFailure, Record};
use sluice_protocol::ids::{Digest, GroupId};

use super::asked::Asked;
use super::book::Book;
use crate::laws::{Court, Law};
use crate::rows;

impl Book {
    /// Takes in a record of one of these kinds.
    pub(super) fn failed(&mut self, frame: u64, record: &Record, asked: &mut Asked, court: &mut Court) {
        let mono_ms = record.at.mono_ms;
        if let Change::CulpritDecided {
            cursor,
            pass,
            offset,
            digest,
            reason,
            fate,
            ..
        } = &record.change
        {
            self.demand_fate(*cursor, *digest, fate, court);
            asked.trials.decided(mono_ms, *cursor, offset.0, *digest, reason, court);
            if let Fate::DeadLettered { to, at_offset, batch } = fate {
                self.demand_culprits_origin(*cursor, offset.0, *digest, reason, batch, court);
                self.copied(frame, *cursor, offset.0, *to, at_offset.0, batch, court);
            }
            match self.cursors.get_mut(cursor) {
                Some(model) => {
                    court.require(Law::SeekEndsThePass, model.pass == *pass, || {
                        format!("{cursor:?} is in {:?}: {record:?}", model.pass)
                    });
                    model.decided(frame, *cursor, offset.0, fate, mono_ms, court);
                }
                None => court.require(Law::NoFailureOfItsOwn, false, || format!("there is no such cursor: {record:?}")),
            }
        } else if let Change::SubscriptionHeld { group, topic, .. } = &record.change {
            asked.trials.holds((*group, *topic), court);
            self.alarms.insert((*group, *topic));
        } else if let Change::SubscriptionResumed { group, topic } = &record.change {
            asked.trials.resumes(mono_ms, (*group, *topic), court);
            self.alarms.remove(&(*group, *topic));
            let queues = &self.queues;
            let ordered = self.groups.get(group).is_some_and(|group| group.settings.ordered);
            let cursors = self.cursors.iter_mut();
            let those = cursors.filter(|(id, _)| id.group == *group && id.queue.topic == *topic);
            for (id, cursor) in those {
                let priority = |offset: u64| match queues.get(&id.queue) {
                    Some(queue) if !ordered => queue.priority(offset),
                    Some(_) | None => 0,
                };
                cursor.resumed(priority, court);
            }
        }
    }

    /// The group that has this name.
    pub fn group_named(&self, name: &str) -> Option<GroupId> {
        self.groups.iter().find(|(_, group)| group.name == name).map(|(id, _)| *id)
    }

    /// Only the version that rules fails on a message, its binding says what becomes of that, and nothing is decided in a held group.
    fn demand_fate(&self, cursor: CursorId, digest: Digest, fate: &Fate, court: &mut Court) {
        let reading = (cursor.group, cursor.queue.topic);
        let plugin = match self.rules.get(&reading) {
            Some(Filter::Plugin { plugin, .. }) => Some(plugin),
            Some(Filter::All) | None => None,
        };
        let bound = plugin.and_then(|plugin| self.bindings.get(plugin));
        let stays = self.topics.get(&cursor.queue.topic).is_some_and(|name| name.starts_with("%DLQ%"));
        let said = plugin.and_then(|plugin| self.on_failure.get(plugin)).map(|said| match said {
            OnFailure::DeadLetter if stays => OnFailure::Hold,
            said => *said,
        });
        let got = match fate {
            Fate::DeadLettered { .. } => OnFailure::DeadLetter,
            Fate::Held => OnFailure::Hold,
            Fate::Delivered => OnFailure::Deliver,
            Fate::Skipped => OnFailure::Skip,
        };
        let lawful = said == Some(got) && bound == Some(&digest) && !self.alarms.contains(&reading);
        court.demand(Law::FateAsBound, lawful, || {
            format!(
                "{cursor:?}: {got:?} for {digest:?}, bound is {bound:?} with {said:?}, held are {:?}",
                self.alarms
            )
        });
    }

    /// The copy says which version failed on it, and how.
    fn demand_culprits_origin(&self, from: CursorId, offset: u64, digest: Digest, reason: &str, batch: &Bytes, court: &mut Court) {
        let name = |name: Option<&String>| name.cloned().unwrap_or_default();
        let expected = [
            ("origin-topic", name(self.topics.get(&from.queue.topic))),
            ("origin-queue", from.queue.index.0.to_string()),
            ("origin-offset", offset.to_string()),
            ("origin-group", name(self.groups.get(&from.group).map(|group| &group.name))),
            ("attempts", "0".to_owned()),
            ("reason", reason.to_owned()),
            ("plugin", digest.to_string()),
        ];
        let found = rows::origin(batch);
        let same = expected
            .iter()
            .all(|(name, value)| found.iter().any(|(key, found)| key == name && found == value));
        court.require(Law::FateAsBound, same, || {
            format!("{from:?} {offset}: {found:?} instead of {expected:?}")
        });
    }
}
