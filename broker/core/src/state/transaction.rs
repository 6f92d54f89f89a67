//! The entries of one topic's transactions: the prepared messages that wait for a decision, and what was decided of late.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use sluice_log::record::{Asked, Due, Prepared};
use sluice_protocol::ids::{QueueId, QueueOffset, TopicId};
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::limits::{DECIDED_WORDS_MAX, GIVEN_UP_MAX};
use crate::planted::{self, Bug};

/// Numbers whose waiting messages share an entry of a checkpoint, as a power of two.
const PAGE_BITS: u32 = 10;
/// Numbers that share a word of what was decided, as a power of two.
const WORD_BITS: u32 = 6;
/// Words that share an entry of a checkpoint, as a power of two.
const WORDS_BITS: u32 = 6;

/// What waits was not asked about yet, or was.
const KINDS: [bool; 2] = [false, true];

/// A message that waits for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// When it is due once it is committed: wall clock, milliseconds; 0 for at once.
    pub due_ms: i64,
    /// When it was prepared: wall clock, milliseconds.
    pub prepared_wall_ms: i64,
    /// When it was prepared, or asked about last: monotonic clock, milliseconds.
    pub since_mono_ms: u64,
    /// How often a producer was asked about it.
    pub asks: u16,
}

/// What is known of a prepared message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It waits for a decision.
    Undecided(Undecided),
    /// It was committed.
    Committed,
    /// It was rolled back.
    RolledBack,
    /// It was rolled back because nobody decided; its copy is there.
    GivenUp(QueueId, QueueOffset),
    /// Nothing: it was decided about long ago, or never prepared.
    Nothing,
}

/// What was decided about 64 neighbouring numbers, a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Word {
    committed: u64,
    rolled_back: u64,
}

/// The transactions of one topic. All that is here is keyed by number, which is never used again, and every record says in full what
/// becomes of the numbers it names. So whichever of the records behind a checkpoint its pages hold already, a replay of all of them makes
/// the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transactions {
    undecided: BTreeMap<QueueOffset, Undecided>,
    /// The numbers that wait: whether they were asked about, and since when.
    by_since: BTreeSet<(bool, u64, QueueOffset)>,
    /// Of the highest numbers only, so that it stays bounded.
    decided: BTreeMap<u64, Word>,
    given_up: BTreeMap<QueueOffset, (QueueId, QueueOffset)>,
}

impl Transactions {
    /// How many messages wait for a decision.
    pub fn len(&self) -> usize {
        self.undecided.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.undecided.is_empty()
    }

    /// The lowest number that waits.
    pub fn first(&self) -> Option<QueueOffset> {
        self.undecided.first_key_value().map(|(number, _)| *number)
    }

    /// What is known of a number.
    pub fn known(&self, number: QueueOffset) -> Known {
        if let Some(undecided) = self.undecided.get(&number) {
            return Known::Undecided(*undecided);
        }
        if let Some((queue, offset)) = self.given_up.get(&number) {
            return Known::GivenUp(*queue, *offset);
        }
        let word = self.decided.get(&(number.0 >> WORD_BITS)).copied().unwrap_or_default();
        let bit = bit(number);
        if word.committed & bit != 0 {
            Known::Committed
        } else if word.rolled_back & bit != 0 {
            Known::RolledBack
        } else {
            Known::Nothing
        }
    }

    /// The messages that wait and those that were given up, from this number on.
    pub fn listed(&self, from: QueueOffset) -> impl Iterator<Item = (QueueOffset, Known)> + '_ {
        let mut waiting = self.undecided.range(from..).peekable();
        let mut given_up = self.given_up.range(from..).peekable();
        std::iter::from_fn(move || match (waiting.peek(), given_up.peek()) {
            (Some((number, _)), Some((other, _))) if other < number => given_up.next().map(of_given_up),
            (Some(_), _) => waiting.next().map(|(number, undecided)| (*number, Known::Undecided(*undecided))),
            (None, _) => given_up.next().map(of_given_up),
        })
    }

    /// The messages that wait for the first question, or for another, and since when on the monotonic clock: the longest first.
    pub fn waiting(&self, asked: bool) -> impl Iterator<Item = (u64, QueueOffset)> + '_ {
        let (first, last) = ((asked, 0, QueueOffset(0)), (asked, u64::MAX, QueueOffset(u64::MAX)));
        self.by_since
            .range(first..=last)
            .map(|(_, since_mono_ms, number)| (*since_mono_ms, *number))
    }

    fn oldest(&self, asked: bool) -> Option<u64> {
        self.waiting(asked).next().map(|(since_mono_ms, _)| since_mono_ms)
    }

    fn wait(&mut self, number: QueueOffset, undecided: Undecided) {
        self.stop_waiting(number);
        self.by_since.insert((undecided.asks > 0, undecided.since_mono_ms, number));
        self.undecided.insert(number, undecided);
    }

    fn stop_waiting(&mut self, number: QueueOffset) {
        if let Some(before) = self.undecided.remove(&number) {
            self.by_since.remove(&(before.asks > 0, before.since_mono_ms, number));
        }
    }

    fn decide(&mut self, number: QueueOffset, committed: bool) {
        self.stop_waiting(number);
        self.given_up.remove(&number);
        let word = self.decided.entry(number.0 >> WORD_BITS).or_default();
        word.committed |= bit(number) * u64::from(committed);
        word.rolled_back = (word.rolled_back & !bit(number)) | (bit(number) * u64::from(!committed));
        while self.decided.len() > DECIDED_WORDS_MAX {
            self.decided.pop_first();
        }
    }
}

fn of_given_up((number, (queue, offset)): (&QueueOffset, &(QueueId, QueueOffset))) -> (QueueOffset, Known) {
    (*number, Known::GivenUp(*queue, *offset))
}

fn bit(number: QueueOffset) -> u64 {
    1 << (number.0 & ((1 << WORD_BITS) - 1))
}

/// The transactions of all topics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AllTransactions {
    topics: BTreeMap<TopicId, Transactions>,
    /// The topics in which messages wait: for the first question or for another, and since when the longest does.
    by_oldest: BTreeSet<(bool, u64, TopicId)>,
    count: u64,
}

impl AllTransactions {
    /// The transactions of a topic, if it ever had one.
    pub fn get(&self, topic: TopicId) -> Option<&Transactions> {
        self.topics.get(&topic)
    }

    /// Those of every topic that ever had one.
    pub fn iter(&self) -> impl Iterator<Item = (TopicId, &Transactions)> {
        self.topics.iter().map(|(topic, transactions)| (*topic, transactions))
    }

    /// The topics in which messages wait for the first question, or for another, and since when the longest does on the monotonic clock:
    /// that of the longest first.
    pub fn waiting(&self, asked: bool) -> impl Iterator<Item = (u64, TopicId)> + '_ {
        let (first, last) = ((asked, 0, TopicId(0)), (asked, u64::MAX, TopicId(u64::MAX)));
        self.by_oldest
            .range(first..=last)
            .map(|(_, since_mono_ms, topic)| (*since_mono_ms, *topic))
    }

    /// How many messages wait for a decision in all topics.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn prepared(&mut self, at: Now, topic: TopicId, first: QueueOffset, due_ms: &[i64]) {
        self.update(topic, |transactions| {
            for (&due_ms, number) in due_ms.iter().zip(first.0..) {
                let undecided = Undecided {
                    due_ms,
                    prepared_wall_ms: at.wall_ms,
                    since_mono_ms: at.mono_ms,
                    asks: 0,
                };
                transactions.wait(QueueOffset(number), undecided);
            }
        });
    }

    pub(super) fn decided(&mut self, messages: &[Prepared], committed: bool) {
        for message in messages {
            self.update(message.topic, |transactions| transactions.decide(message.due.number, committed));
        }
    }

    pub(super) fn asked(&mut self, at: Now, topic: TopicId, asked: &[Asked]) {
        self.update(topic, |transactions| {
            for Asked { number, asks } in asked {
                if let Some(undecided) = transactions.undecided.get(number).copied() {
                    let since_mono_ms = at.mono_ms;
                    transactions.wait(
                        *number,
                        Undecided {
                            since_mono_ms,
                            asks: *asks,
                            ..undecided
                        },
                    );
                }
            }
        });
    }

    pub(super) fn given_up(&mut self, message: Prepared, to: QueueId, offset: QueueOffset) {
        let number = message.due.number;
        self.update(message.topic, |transactions| {
            transactions.decide(number, false);
            transactions.given_up.insert(number, (to, offset));
            while transactions.given_up.len() > GIVEN_UP_MAX {
                transactions.given_up.pop_first();
            }
        });
    }

    /// The copies below an offset of a queue are gone.
    pub(super) fn trimmed(&mut self, queue: QueueId, start: QueueOffset) {
        for transactions in self.topics.values_mut() {
            transactions.given_up.retain(|_, (of, offset)| *of != queue || *offset >= start);
        }
    }

    pub(super) fn delete(&mut self, topic: TopicId) {
        self.update(topic, |transactions| *transactions = Transactions::default());
        for transactions in self.topics.values_mut() {
            transactions.given_up.retain(|_, (of, _)| of.topic != topic);
        }
    }

    fn update(&mut self, topic: TopicId, change: impl FnOnce(&mut Transactions)) {
        let transactions = self.topics.entry(topic).or_default();
        let (before, count) = (KINDS.map(|asked| transactions.oldest(asked)), transactions.len() as u64);
        change(transactions);
        self.count = self.count + transactions.len() as u64 - count;
        for (asked, before) in KINDS.into_iter().zip(before) {
            let oldest = transactions.oldest(asked);
            if oldest != before {
                before.map(|since_mono_ms| self.by_oldest.remove(&(asked, since_mono_ms, topic)));
                oldest.map(|since_mono_ms| self.by_oldest.insert((asked, since_mono_ms, topic)));
            }
        }
        // A record that changed nothing leaves nothing behind, since no page of a checkpoint would hold it.
        if *transactions == Transactions::default() {
            self.topics.remove(&topic);
        }
    }

    /// The page of waiting messages after `last`, or the first.
    pub(super) fn page_after(&self, last: Option<(TopicId, u64)>) -> Option<(TopicId, u64)> {
        self.after(last, |transactions, from| {
            let from = QueueOffset(from.checked_mul(1 << PAGE_BITS)?);
            transactions.undecided.range(from..).next().map(|(number, _)| number.0 >> PAGE_BITS)
        })
    }

    /// The page of decisions after `last`, or the first.
    pub(super) fn decided_after(&self, last: Option<(TopicId, u64)>) -> Option<(TopicId, u64)> {
        self.after(last, |transactions, from| {
            let first = QueueOffset(from.checked_mul(1 << (WORDS_BITS + WORD_BITS))?);
            let word = transactions.decided.range(from << WORDS_BITS..).next();
            let word = word.map(|(word, _)| word >> WORDS_BITS);
            let given_up = transactions.given_up.range(first..).next();
            let given_up = given_up.map(|(number, _)| number.0 >> (WORDS_BITS + WORD_BITS));
            word.into_iter().chain(given_up).min()
        })
    }

    fn after(&self, last: Option<(TopicId, u64)>, next: impl Fn(&Transactions, u64) -> Option<u64>) -> Option<(TopicId, u64)> {
        if let Some((topic, page)) = last
            && let Some(page) = self.topics.get(&topic).and_then(|transactions| next(transactions, page + 1))
        {
            return Some((topic, page));
        }
        let from = last.map_or(Bound::Unbounded, |(topic, _)| Bound::Excluded(topic));
        let mut topics = self.topics.range((from, Bound::Unbounded));
        topics.find_map(|(&topic, transactions)| Some((topic, next(transactions, 0)?)))
    }

    pub(super) fn encode_page(&self, topic: TopicId, page: u64, to: &mut Writer) -> Option<()> {
        let first = page << PAGE_BITS;
        let within = QueueOffset(first)..=QueueOffset(first | ((1 << PAGE_BITS) - 1));
        let mut waiting: Vec<_> = self.topics.get(&topic)?.undecided.range(within).collect();
        if waiting.len() > 1 && planted::is(Bug::CheckpointForgetsUndecided) {
            waiting.pop();
        }
        if waiting.is_empty() {
            return None;
        }
        to.u64(topic.0).count(waiting.len());
        for (number, undecided) in waiting {
            to.u64(number.0)
                .i64(undecided.due_ms)
                .i64(undecided.prepared_wall_ms)
                .u64(undecided.since_mono_ms)
                .u16(if planted::is(Bug::CheckpointForgetsAsks) {
                    0
                } else {
                    undecided.asks
                });
        }
        Some(())
    }

    pub(super) fn decode_page(&mut self, from: &mut Reader<'_>) -> Result<(), WireError> {
        let topic = TopicId(from.u64()?);
        let mut waiting = Vec::new();
        for _ in 0..from.count(34)? {
            let number = QueueOffset(from.u64()?);
            let undecided = Undecided {
                due_ms: from.i64()?,
                prepared_wall_ms: from.i64()?,
                since_mono_ms: from.u64()?,
                asks: from.u16()?,
            };
            waiting.push((number, undecided));
        }
        if waiting.is_empty() {
            return Err(WireError::Impossible("page of prepared messages"));
        }
        self.update(topic, |transactions| {
            waiting
                .into_iter()
                .for_each(|(number, undecided)| transactions.wait(number, undecided));
        });
        Ok(())
    }

    pub(super) fn encode_decided(&self, topic: TopicId, page: u64, to: &mut Writer) -> Option<()> {
        let (first, last) = (page << WORDS_BITS, page << WORDS_BITS | ((1 << WORDS_BITS) - 1));
        let transactions = self.topics.get(&topic)?;
        let words: Vec<_> = transactions.decided.range(first..=last).collect();
        let within = QueueOffset(first << WORD_BITS)..=QueueOffset(last << WORD_BITS | ((1 << WORD_BITS) - 1));
        let kept = |_: &_| !planted::is(Bug::CheckpointForgetsGivenUp);
        let given_up: Vec<_> = transactions.given_up.range(within).filter(kept).collect();
        if words.is_empty() && given_up.is_empty() {
            return None;
        }
        to.u64(topic.0).count(words.len());
        for (place, word) in words {
            to.u64(*place).u64(word.committed).u64(word.rolled_back);
        }
        to.count(given_up.len());
        for (number, (queue, offset)) in given_up {
            to.u64(number.0).u64(queue.topic.0).u16(queue.index.0).u64(offset.0);
        }
        Some(())
    }

    pub(super) fn decode_decided(&mut self, from: &mut Reader<'_>) -> Result<(), WireError> {
        let (topic, mut read) = (TopicId(from.u64()?), Transactions::default());
        for _ in 0..from.count(24)? {
            let place = from.u64()?;
            if place > u64::MAX >> WORD_BITS {
                return Err(WireError::Impossible("number of a prepared message"));
            }
            let word = Word {
                committed: from.u64()?,
                rolled_back: from.u64()?,
            };
            read.decided.insert(place, word);
        }
        for _ in 0..from.count(26)? {
            let number = QueueOffset(from.u64()?);
            let queue = super::codec::read_queue_id(from)?;
            read.given_up.insert(number, (queue, QueueOffset(from.u64()?)));
        }
        if read == Transactions::default() {
            return Err(WireError::Impossible("page of decisions"));
        }
        let transactions = self.topics.entry(topic).or_default();
        transactions.decided.extend(read.decided);
        transactions.given_up.extend(read.given_up);
        Ok(())
    }
}

/// What a committed message is in its calendar: one that is due at once comes before all others.
pub(crate) fn due_of(number: QueueOffset, undecided: &Undecided) -> Due {
    Due {
        at_ms: undecided.due_ms,
        number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: TopicId = TopicId(3);
    const AT: Now = Now {
        wall_ms: 1_000,
        mono_ms: 10,
    };

    fn message(number: u64) -> Prepared {
        Prepared {
            topic: TOPIC,
            due: Due {
                at_ms: 0,
                number: QueueOffset(number),
            },
        }
    }

    fn known(all: &AllTransactions, number: u64) -> Known {
        all.get(TOPIC).unwrap().known(QueueOffset(number))
    }

    #[test]
    fn the_highest_decided_numbers_are_remembered_whatever_the_order_of_the_decisions() {
        let mut all = AllTransactions::default();
        let last = (DECIDED_WORDS_MAX as u64) << WORD_BITS;
        all.prepared(AT, TOPIC, QueueOffset(0), &[0]);
        all.decided(&[message(1)], true);
        for word in 1..=DECIDED_WORDS_MAX as u64 {
            all.decided(&[message(word << WORD_BITS)], false);
        }
        assert_eq!(known(&all, 1), Known::Nothing);
        assert_eq!(known(&all, last), Known::RolledBack);
        assert!(matches!(known(&all, 0), Known::Undecided(_)), "what waits is never forgotten");
        all.decided(&[message(0)], true);
        assert_eq!(known(&all, 0), Known::Nothing);
        assert_eq!(all.count(), 0);
    }

    #[test]
    fn what_was_given_up_may_be_committed_until_its_copy_is_gone() {
        let mut all = AllTransactions::default();
        all.prepared(AT, TOPIC, QueueOffset(7), &[0, 9]);
        let queue = QueueId {
            topic: TopicId(8),
            ..QueueId::default()
        };
        all.given_up(message(7), queue, QueueOffset(0));
        all.given_up(message(8), queue, QueueOffset(1));
        assert_eq!(known(&all, 8), Known::GivenUp(queue, QueueOffset(1)));
        all.trimmed(queue, QueueOffset(1));
        assert_eq!(known(&all, 7), Known::RolledBack);
        all.decided(&[message(8)], true);
        assert_eq!(known(&all, 8), Known::Committed);
        assert_eq!(all.get(TOPIC).unwrap().listed(QueueOffset(0)).count(), 0);
    }

    #[test]
    fn a_topic_is_found_by_what_has_waited_in_it_the_longest() {
        let mut all = AllTransactions::default();
        let at = |mono_ms| Now { wall_ms: 1_000, mono_ms };
        let waiting = |all: &AllTransactions, asked| all.waiting(asked).collect::<Vec<_>>();
        all.prepared(at(10), TOPIC, QueueOffset(0), &[0]);
        all.prepared(at(20), TOPIC, QueueOffset(1), &[0]);
        all.prepared(at(15), TopicId(4), QueueOffset(0), &[0]);
        assert_eq!(waiting(&all, false), [(10, TOPIC), (15, TopicId(4))]);
        let asked = Asked {
            number: QueueOffset(0),
            asks: 1,
        };
        all.asked(at(30), TOPIC, &[asked]);
        assert_eq!(
            (waiting(&all, false), waiting(&all, true)),
            (vec![(15, TopicId(4)), (20, TOPIC)], vec![(30, TOPIC)])
        );
        all.decided(&[message(1)], true);
        all.delete(TopicId(4));
        assert_eq!((waiting(&all, false), waiting(&all, true)), (vec![], vec![(30, TOPIC)]));
        all.decided(&[message(0)], false);
        assert_eq!(waiting(&all, true), []);
    }
}
