//! What operators do with dead letters: find those that are open, send some back to their group, or discard them.

use std::collections::{BTreeMap, BTreeSet};

use sluice_log::record::{CursorId, LeaseRange, OffsetRange, Operation, SentBack};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Attempt, GroupId, Pass, Position, QueueId, QueueIndex, QueueOffset};

use crate::admin::Outcome;
use crate::broker::Core;
use crate::consume::key_of;
use crate::effect::{Answer, MessageState};
use crate::input::Letter;
use crate::limits::{CURSOR_OPEN_MAX, LETTERS_DEALT_RANGES_MAX, LISTED_LEASES_MAX};
use crate::operate::state_in;
use crate::planted::{self, Bug};
use crate::ranges::{OffsetSet, len, push, range};
use crate::state::cursor::Cursor;
use crate::state::group::next_round;

/// What becomes of a letter that is to be sent back.
enum Way {
    /// The message is due again at its origin.
    Back { cursor: CursorId, pass: Pass, attempts: u16 },
    /// The group has it before it anyway.
    Before,
    /// It is no longer where it came from.
    Gone,
    /// The group holds as many messages there as it may.
    Left,
}

/// What is to be sent back, by the lane that each message belongs to.
type Back = BTreeMap<(CursorId, u8), (Pass, Vec<LeaseRange>)>;

impl Core {
    /// The dead letters of a group within these offsets that were not dealt with, as ranges, and from where there are more.
    pub(crate) fn find_letters(&self, group: &str, from: QueueOffset, to: Option<QueueOffset>) -> Result<Answer, Refusal> {
        let id = self.buries(group)?;
        let queue = self.letters_of(id);
        let mut ranges = queue.map_or_else(Vec::new, |queue| self.open_letters(queue, from, to));
        let next = ranges.get(LISTED_LEASES_MAX).map(|range| range.first);
        ranges.truncate(LISTED_LEASES_MAX);
        Ok(Answer::OpenLetters { queue, ranges, next })
    }

    /// Has messages whose dead letters these are delivered to their group again, from where they came. One record says what was sent back and
    /// which letters are dealt with, so a letter is sent back once.
    pub(crate) fn resend_letters(&mut self, group: &str, letters: &[Letter], by: String) -> Outcome {
        let id = self.buries(group)?;
        if self.state.groups.get(&id).is_some_and(|group| group.settings.ordered) {
            let text = format!("group {group} is ordered, and what comes back would come after those that it was to come before");
            return Err(Refusal::new(ErrorCode::NotOffered, text));
        }
        let Some(queue) = self.letters_of(id) else {
            return Ok((
                self.journal.last(),
                Answer::LettersDealt {
                    back: 0,
                    under_way: 0,
                    gone: 0,
                    left: 0,
                },
            ));
        };
        let open: OffsetSet = as_set(&self.open_letters(queue, QueueOffset(0), None));
        self.check_room(queue)?;
        let (mut dealt, mut back) = (OffsetSet::default(), Back::new());
        let (mut taken, mut counts) = (BTreeSet::new(), [0_u64; 4]);
        for letter in letters {
            if !open.contains(letter.offset.0) || dealt.contains(letter.offset.0) {
                continue;
            }
            let way = self.way_of(self.reader_of(id, letter), letter, &taken);
            let nth = match &way {
                Way::Back { .. } => 0,
                Way::Before => 1,
                Way::Gone => 2,
                Way::Left => 3,
            };
            counts[nth] += 1;
            if matches!(way, Way::Back { .. } | Way::Before) {
                dealt.insert(letter.offset.0, letter.offset.0 + 1);
            }
            if let Way::Back { cursor, pass, attempts } = way {
                let lane = (cursor, letter.priority);
                taken.insert((cursor, letter.origin.0));
                let attempts = if planted::is(Bug::ResendCountsAnew) { 0 } else { attempts };
                back.entry(lane).or_insert_with(|| (pass, Vec::new())).1.push(LeaseRange {
                    offsets: range(letter.origin.0, letter.origin.0 + 1),
                    attempt: Attempt(attempts),
                });
            }
        }
        let [sent, under_way, gone, left] = counts;
        let answer = Answer::LettersDealt {
            back: sent,
            under_way,
            gone,
            left,
        };
        if dealt.is_empty() {
            return Ok((self.journal.last(), answer));
        }
        if planted::is(Bug::ResendLoses) {
            back.pop_last();
        }
        let depends = self.deal(queue, dealt.iter().collect(), back, by);
        Ok((depends, answer))
    }

    /// Deals with the open dead letters within these offsets without sending them back: `most` of them at most. Says how many, and from where
    /// there are more.
    pub(crate) fn discard_letters(&mut self, group: &str, from: QueueOffset, to: Option<QueueOffset>, most: u64, by: String) -> Outcome {
        let id = self.buries(group)?;
        let Some(queue) = self.letters_of(id) else {
            return Ok((self.journal.last(), Answer::LettersDiscarded { letters: 0, next: None }));
        };
        self.check_room(queue)?;
        let (mut dealt, mut left, mut next) = (Vec::new(), most, None);
        for open in self.open_letters(queue, from, to) {
            let count = len(open).min(left);
            let end = open.first.0 + count;
            if count > 0 && dealt.len() < LISTED_LEASES_MAX {
                push(&mut dealt, range(open.first.0, end));
                left -= count;
            } else {
                next = Some(open.first);
                break;
            }
            if end < open.end.0 {
                next = Some(QueueOffset(end));
                break;
            }
        }
        let letters = most - left;
        if letters == 0 {
            return Ok((self.journal.last(), Answer::LettersDiscarded { letters, next }));
        }
        let depends = self.deal(queue, dealt, BTreeMap::new(), by);
        Ok((depends, Answer::LettersDiscarded { letters, next }))
    }

    fn deal(&mut self, from: QueueId, dealt: Vec<OffsetRange>, back: Back, by: String) -> Position {
        let back: Vec<SentBack> = back
            .into_iter()
            .map(|((cursor, priority), (pass, messages))| SentBack {
                cursor,
                pass,
                priority,
                messages: joined(messages),
            })
            .collect();
        let end_of = |sent: &SentBack| sent.messages.iter().map(|lease| lease.offsets.end.0).fold(0, u64::max);
        let ends: Vec<(CursorId, u8, u64)> = back.iter().map(|sent| (sent.cursor, sent.priority, end_of(sent))).collect();
        let depends = self.operate(by, Operation::DeadLettersDealt { from, dealt, back });
        for (cursor, priority, end) in ends {
            self.take_up_to(cursor, priority, end);
            self.go_on_reading(key_of(cursor), depends);
        }
        depends
    }

    /// A group by name that has dead letters of its own: no member of a broadcast group.
    fn buries(&self, name: &str) -> Result<GroupId, Refusal> {
        let id = self.group_id(name)?;
        match self.state.parent_of(id) {
            None => Ok(id),
            Some(_) => Err(Refusal::new(
                ErrorCode::BroadcastGroup,
                "what a member gives up lies with the dead letters of its group: name the group alone",
            )),
        }
    }

    /// The group that gave a message up: one of the members' in a broadcast group, if that is still there.
    fn reader_of(&self, group: GroupId, letter: &Letter) -> Option<GroupId> {
        if !self.state.is_broadcast(group) {
            return Some(group);
        }
        let named = self.state.group_named(&letter.group);
        named.filter(|member| self.state.parent_of(*member) == Some(group))
    }

    fn way_of(&self, group: Option<GroupId>, letter: &Letter, taken: &BTreeSet<(CursorId, u64)>) -> Way {
        let Some(group) = group else { return Way::Gone };
        let cursor = CursorId {
            group,
            queue: letter.queue,
        };
        let (Some(stored), Some(entry)) = (self.state.queues.get(&letter.queue), self.state.cursors.get(&cursor)) else {
            return Way::Gone;
        };
        if !(stored.start..stored.end).contains(&letter.origin) {
            return Way::Gone;
        }
        if taken.contains(&(cursor, letter.origin.0)) || is_before(entry, letter) {
            return Way::Before;
        }
        let within = (cursor, 0)..=(cursor, u64::MAX);
        if entry.levels().map(|(_, lane)| lane.open()).sum::<u64>() + taken.range(within).count() as u64 >= CURSOR_OPEN_MAX {
            return Way::Left;
        }
        let attempts_max = self.state.groups.get(&group).map_or(1, |group| group.settings.attempts_max);
        match next_round(letter.attempts, attempts_max) {
            Some(attempts) => Way::Back {
                cursor,
                pass: entry.pass,
                attempts,
            },
            None => Way::Gone,
        }
    }

    /// The queue of a group's dead letters, if it has any.
    pub(crate) fn letters_of(&self, group: GroupId) -> Option<QueueId> {
        let topic = self.state.topic_named(&self.state.letters_name(group)?)?;
        Some(QueueId {
            topic,
            index: QueueIndex(0),
        })
    }

    /// The durable letters within these offsets that were not dealt with.
    fn open_letters(&self, queue: QueueId, from: QueueOffset, to: Option<QueueOffset>) -> Vec<OffsetRange> {
        let start = self.state.queues.get(&queue).map_or(QueueOffset(0), |entry| entry.start);
        let end = self.visible_end(queue);
        let (first, end) = (from.max(start).0, to.map_or(end, |to| to.min(end)).0);
        if first >= end {
            return Vec::new();
        }
        match self.state.letters.get(&queue.topic) {
            Some(letters) => letters.dealt.gaps(range(first, end)),
            None => vec![range(first, end)],
        }
    }

    fn check_room(&self, queue: QueueId) -> Result<(), Refusal> {
        let ranges = self
            .state
            .letters
            .get(&queue.topic)
            .map_or(0, |letters| letters.dealt.iter().count());
        if ranges < LETTERS_DEALT_RANGES_MAX {
            return Ok(());
        }
        let text = format!("{LETTERS_DEALT_RANGES_MAX} stretches of dead letters were dealt with: deal with those between them");
        Err(Refusal::new(ErrorCode::LimitExceeded, text))
    }
}

/// Whether a cursor has the message of a letter or has yet to come to it.
fn is_before(entry: &Cursor, letter: &Letter) -> bool {
    let offset = letter.origin.0;
    let held = entry.levels().any(|(_, lane)| {
        let state = state_in(lane, offset);
        !matches!(state, MessageState::Free | MessageState::Over)
    });
    let own = entry.level(letter.priority).unwrap_or(&entry.lane);
    held || state_in(own, offset) != MessageState::Over
}

fn as_set(ranges: &[OffsetRange]) -> OffsetSet {
    let mut set = OffsetSet::default();
    ranges.iter().for_each(|range| set.insert(range.first.0, range.end.0));
    set
}

/// The same messages ascending, neighbours of as many attempts together.
fn joined(mut messages: Vec<LeaseRange>) -> Vec<LeaseRange> {
    messages.sort_unstable_by_key(|message| message.offsets);
    let mut joined: Vec<LeaseRange> = Vec::new();
    for next in messages {
        match joined.last_mut() {
            Some(last) if last.offsets.end == next.offsets.first && last.attempt == next.attempt => last.offsets.end = next.offsets.end,
            Some(_) | None => joined.push(next),
        }
    }
    joined
}
