//! What became of dead letters, as the records say it: each dealt with once and only if somebody asked, and what is sent back comes back.

use std::collections::BTreeSet;

use sluice_core::input::{Admin, Letter};
use sluice_log::record::{CursorId, OffsetRange, SentBack};
use sluice_protocol::ids::{QueueId, QueueOffset};

use super::book::Book;
use super::dealings::{each, offsets_of};
use crate::laws::{Court, Law};
use crate::random::Random;

/// A dead letter of the model.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    from: CursorId,
    /// The name of the group that gave it up.
    group: String,
    offset: u64,
    attempts: u16,
}

/// What operators asked to be done with dead letters, by group.
#[derive(Clone, Debug, Default)]
pub(super) struct LetterOrders {
    resends: BTreeSet<(String, u64)>,
    discards: Vec<(String, u64, u64)>,
}

impl LetterOrders {
    /// The broker is handed what an operator asks.
    pub(super) fn hears(&mut self, admin: &Admin) {
        if let Admin::ResendDeadLetters { group, letters, .. } = admin {
            self.resends.extend(letters.iter().map(|letter| (group.clone(), letter.offset.0)));
        } else if let Admin::DiscardDeadLetters { group, from, to, .. } = admin {
            self.discards.push((group.clone(), from.0, to.map_or(u64::MAX, |to| to.0)));
        }
    }

    fn resends(&self, group: &str, offset: u64) -> bool {
        self.resends.contains(&(group.to_owned(), offset))
    }

    fn discards(&self, group: &str, offset: u64) -> bool {
        self.discards
            .iter()
            .any(|(other, from, to)| other == group && (*from..*to).contains(&offset))
    }
}

impl Book {
    /// Some dead letters of one group, as an operator may have listed them - those that were dealt with, too.
    pub(crate) fn some_letters(&self, random: &mut Random) -> Option<(String, Vec<Letter>)> {
        let queues: BTreeSet<QueueId> = self.letters.keys().map(|(queue, _)| *queue).collect();
        let queue = *queues.iter().nth(random.index(queues.len().max(1)))?;
        let group = self.topics.get(&queue.topic)?.strip_prefix("%DLQ%")?.to_owned();
        let of_queue = self.letters.range((queue, 0)..=(queue, u64::MAX));
        let picked = of_queue.filter(|_| random.chance(2, 3)).map(|((_, offset), letter)| Letter {
            offset: QueueOffset(*offset),
            group: letter.group.clone(),
            queue: letter.from.queue,
            origin: QueueOffset(letter.offset),
            attempts: letter.attempts,
            priority: self.priority(letter.from, letter.offset),
        });
        Some((group, picked.collect()))
    }

    /// A copy was stored in a dead-letter queue.
    pub(super) fn buried(&mut self, from: CursorId, offset: u64, attempts: u16, place: (QueueId, u64)) {
        let group = self.groups.get(&from.group).map(|group| group.name.clone()).unwrap_or_default();
        let letter = DeadLetter {
            from,
            group,
            offset,
            attempts,
        };
        self.letters.insert(place, letter);
    }

    /// Dead letters were dealt with.
    pub(super) fn dealt(&mut self, from: QueueId, dealt: &[OffsetRange], back: &[SentBack], orders: &LetterOrders, court: &mut Court) {
        let group = self
            .topics
            .get(&from.topic)
            .and_then(|name| name.strip_prefix("%DLQ%"))
            .unwrap_or_default()
            .to_owned();
        let returned: BTreeSet<(CursorId, u64)> = back
            .iter()
            .flat_map(|sent| each(&sent.messages).map(move |(offset, _)| (sent.cursor, offset)))
            .collect();
        for offset in offsets_of(dealt) {
            let asked = orders.resends(&group, offset) || orders.discards(&group, offset);
            court.demand(Law::DealtAsAsked, asked, || {
                format!("nobody asked to deal with {offset} of {group}")
            });
            court.demand(Law::DealtOnce, self.dealt.insert((from, offset)), || {
                format!("{offset} of {group} was dealt with twice")
            });
            let Some(letter) = self.letters.get(&(from, offset)) else {
                court.require(Law::DealtAsAsked, false, || format!("{from} has no letter {offset}"));
                continue;
            };
            // A member that was forgotten and came anew has another number and the same name.
            let reader = self.group_named(&letter.group).unwrap_or(letter.from.group);
            let origin = (
                CursorId {
                    group: reader,
                    ..letter.from
                },
                letter.offset,
            );
            if orders.discards(&group, offset) {
                continue;
            }
            let comes = returned.contains(&origin) || self.is_before(origin);
            court.demand(Law::ResentComesBack, comes, || {
                format!("{letter:?} was dealt with and is not before its group")
            });
        }
        for sent in back {
            for (offset, attempts) in each(&sent.messages) {
                let known = offsets_of(dealt).any(|place| {
                    self.letters
                        .get(&(from, place))
                        .is_some_and(|letter| self.came_from(letter, sent.cursor, offset))
                });
                court.require(Law::DealtAsAsked, known, || {
                    format!("{:?} {offset} was sent back without a letter", sent.cursor)
                });
                let before = self.is_before((sent.cursor, offset));
                court.require(Law::OneHolder, !before, || {
                    format!("{:?} {offset} was sent back though the group has it", sent.cursor)
                });
                self.send_back(sent, offset, attempts, court);
            }
        }
    }

    fn came_from(&self, letter: &DeadLetter, cursor: CursorId, offset: u64) -> bool {
        let name = self.groups.get(&cursor.group).map(|group| &group.name);
        (name, letter.from.queue, letter.offset) == (Some(&letter.group), cursor.queue, offset)
    }

    fn send_back(&mut self, sent: &SentBack, offset: u64, attempts: u16, court: &mut Court) {
        let attempts_max = self.groups.get(&sent.cursor.group).map_or(1, |group| group.settings.attempts_max);
        let letters = self.letters.values();
        let had = letters.filter(|letter| self.came_from(letter, sent.cursor, offset));
        let had = had.map(|letter| letter.attempts).min().unwrap_or(0);
        let goes_on = attempts >= had && attempts.is_multiple_of(attempts_max);
        court.demand(Law::ResentGoesOn, goes_on, || {
            format!("{:?} {offset} had {had} attempts and goes on after {attempts}", sent.cursor)
        });
        let due_mono_ms = self.stamp.mono_ms;
        let priority = self.priority(sent.cursor, offset);
        if let Some(model) = self.cursors.get_mut(&sent.cursor) {
            court.require(Law::HigherPriorityFirst, sent.priority == priority, || {
                format!("{:?} {offset} of {priority} was sent back as of {}", sent.cursor, sent.priority)
            });
            court.demand(Law::SeekEndsThePass, model.pass == sent.pass, || {
                format!("{:?} is in {:?}: {sent:?}", sent.cursor, model.pass)
            });
            model.sent_back(offset, attempts, due_mono_ms);
        }
    }

    /// Whether a message is before its group: held, or not come to yet.
    fn is_before(&self, (cursor, offset): (CursorId, u64)) -> bool {
        self.cursors
            .get(&cursor)
            .is_some_and(|model| model.is_before(self.lane(cursor, offset), offset))
    }
}
