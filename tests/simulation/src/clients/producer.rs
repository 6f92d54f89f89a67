//! A producer: numbers its messages, sends them in batches, and sends again what was not confirmed, cut otherwise than before.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_core::effect::Answer;
use sluice_core::input::{ConnectionId, Decision, Input, RequestId};
use sluice_core::{RECALL_BYTES, TRANSACTION_BYTES};
use sluice_protocol::batch::Batch;
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{ProducerId, Sequence};

use super::Surroundings;
use crate::network::Event;
use crate::random::Random;
use crate::rows;

/// After so long without a confirm a message is sent again.
const RETRY_AFTER_MS: u64 = 400;
/// Messages without a confirm at any time.
const UNCONFIRMED_MAX: usize = 40;

/// What a producer does when it is asked about prepared messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Temper {
    /// It answers, at once or later, though not always knowing.
    Answers,
    /// It hears and never answers.
    Hangs,
    /// It never said that it could be asked.
    Deaf,
}

/// A producer that keeps its identity over all reconnects.
#[derive(Debug)]
pub struct Producer {
    /// Its number among the clients.
    pub client: usize,
    /// Its identity.
    pub id: ProducerId,
    /// Where it sends to.
    pub topics: Vec<String>,
    /// How many messages it has to send yet.
    pub budget: u64,
    /// Its connection.
    pub connection: Option<ConnectionId>,
    temper: Temper,
    /// About what it was asked, its own messages or another's.
    asked: Vec<Bytes>,
    next: u64,
    /// What was sent first, with its topic: sent again when it is long before the window.
    oldest: Vec<(u64, usize)>,
    /// What each request sent: the first sequence and the count of each batch.
    sent: BTreeMap<RequestId, Vec<(u64, u64)>>,
    /// What recalls the messages that it delayed.
    recalls: Vec<[u8; RECALL_BYTES]>,
    /// What decides about the messages that it prepared, and those about which it decided.
    transactions: BTreeSet<Handle>,
    decided: Vec<Handle>,
    /// What each request decides about.
    deciding: BTreeMap<RequestId, Vec<Handle>>,
    unconfirmed: BTreeMap<u64, Unconfirmed>,
}

type Handle = [u8; TRANSACTION_BYTES];

#[derive(Debug)]
struct Unconfirmed {
    topic: usize,
    sent_ms: u64,
}

impl Producer {
    /// A producer that will send `budget` messages.
    pub fn new(client: usize, id: ProducerId, topics: Vec<String>, budget: u64, temper: Temper) -> Self {
        Self {
            client,
            id,
            topics,
            budget,
            connection: None,
            temper,
            asked: Vec::new(),
            next: 0,
            oldest: Vec::new(),
            sent: BTreeMap::new(),
            recalls: Vec::new(),
            transactions: BTreeSet::new(),
            decided: Vec::new(),
            deciding: BTreeMap::new(),
            unconfirmed: BTreeMap::new(),
        }
    }

    /// Connects, sends something new, or sends something again.
    pub fn act(&mut self, around: &mut Surroundings<'_>) {
        let connection = *self.connection.get_or_insert_with(|| around.network.connect());
        if !self.recalls.is_empty() && around.random.chance(1, 12) {
            return self.recall(connection, around);
        }
        if !self.asked.is_empty() && around.random.chance(1, 3) {
            return self.reply(connection, around);
        }
        if !(self.transactions.is_empty() && self.decided.is_empty()) && around.random.chance(1, if around.healed { 2 } else { 5 }) {
            return self.decide(connection, around);
        }
        if self.budget > 0 && self.unconfirmed.len() < UNCONFIRMED_MAX && !around.random.chance(1, 3) {
            let count = around.random.within(1..9).min(self.budget);
            let topic = around.random.index(self.topics.len());
            if around.random.chance(1, 60) {
                self.next += 1_200;
            }
            let first = self.next;
            if self.oldest.len() < 4 {
                self.oldest.push((first, topic));
            }
            self.budget -= count;
            self.next += count;
            self.unconfirmed.extend((first..first + count).map(|sequence| {
                (
                    sequence,
                    Unconfirmed {
                        topic,
                        sent_ms: around.now_ms,
                    },
                )
            }));
            self.send(connection, first, count, around);
        } else if !around.healed && self.next > 1_200 && around.random.chance(1, 20) {
            let (first, topic) = *around.random.pick(&self.oldest);
            self.send_to(connection, topic, first, 1, around);
        } else if let Some((first, count)) = self.overdue(around) {
            self.send(connection, first, count, around);
        }
    }

    /// A run of neighbours to send again: overdue ones, now and then ones that are not.
    fn overdue(&mut self, around: &mut Surroundings<'_>) -> Option<(u64, u64)> {
        let hasty = around.random.chance(1, 10);
        let late = |sent: &Unconfirmed| hasty || sent.sent_ms + RETRY_AFTER_MS <= around.now_ms;
        let first = *self.unconfirmed.iter().find(|(_, sent)| late(sent))?.0;
        let topic = self.unconfirmed[&first].topic;
        let most = around.random.within(1..12);
        let is_neighbour = |sequence: &u64| self.unconfirmed.get(sequence).is_some_and(|sent| sent.topic == topic);
        let count = (first..first + most).take_while(is_neighbour).count() as u64;
        for sequence in first..first + count {
            if let Some(sent) = self.unconfirmed.get_mut(&sequence) {
                sent.sent_ms = around.now_ms;
            }
        }
        Some((first, count))
    }

    fn send(&mut self, connection: ConnectionId, first: u64, count: u64, around: &mut Surroundings<'_>) {
        self.send_to(connection, self.unconfirmed[&first].topic, first, count, around);
    }

    fn send_to(&mut self, connection: ConnectionId, topic: usize, first: u64, count: u64, around: &mut Surroundings<'_>) {
        let request = RequestId(around.network.number());
        let cuts = cut(first, count, around);
        // A send that is tried again may ask for another time: the first one counts.
        let (delays, prepares) = (around.random.chance(1, 3), around.random.chance(1, 4));
        let now_ms = around.wall_ms;
        let batches = cuts.iter().map(|&(first, count)| {
            let batch = rows::batch(self.id, Sequence(first), count, || {
                let prepared = prepares && around.random.chance(2, 3);
                match delays && around.random.chance(2, 3) {
                    true => (now_ms + delay_ms(around.random), prepared),
                    false => (0, prepared),
                }
            });
            Batch::parse(batch).expect("a client sends what it built").looked_at()
        });
        let batches = batches.collect();
        self.sent.insert(request, cuts);
        let topic = self.topics[topic].as_str().into();
        around
            .network
            .request(around.random, self.client, connection, Input::Publish { request, topic, batches });
    }

    /// Hears a confirm.
    pub fn hear(&mut self, event: Event, random: &mut Random) {
        if let (Event::Asked { handle }, Temper::Answers) = (&event, self.temper) {
            self.asked.push(handle.clone());
        }
        let Event::Answered { request, answer } = event else { return };
        let sent = self.sent.remove(&request).unwrap_or_default();
        if let Some(handles) = self.deciding.remove(&request) {
            return self.heard_decision(handles, answer.is_ok());
        }
        let Ok(Answer::Stored { runs, refused }) = answer else { return };
        for run in runs {
            self.recalls.extend(run.recall.map(|recall| recall.handle));
            // At times it forgets what it prepared, and only an ask reminds it.
            self.transactions.extend(run.transaction.filter(|_| !random.chance(1, 3)));
            self.forget(run.first_sequence.0, run.count.into());
        }
        // Whether it was stored nobody can tell any more.
        let too_old = refused.iter().filter(|(_, refusal)| refusal.code == ErrorCode::SequenceTooOld);
        for &(first, count) in too_old.filter_map(|(nth, _)| sent.get(*nth as usize)) {
            self.forget(first, count);
        }
    }

    /// Recalls one of its delayed messages, perhaps one that was released or recalled before, or tries a handle that nobody made.
    fn recall(&mut self, connection: ConnectionId, around: &mut Surroundings<'_>) {
        let place = around.random.index(self.recalls.len());
        let mut handle = match around.random.chance(3, 4) {
            true => self.recalls.swap_remove(place),
            false => self.recalls[place],
        };
        if around.random.chance(1, 6) {
            handle[around.random.within(1..RECALL_BYTES as u64) as usize] ^= 1 << around.random.below(8);
        }
        let (request, handle) = (RequestId(around.network.number()), Bytes::copy_from_slice(&handle));
        around
            .network
            .request(around.random, self.client, connection, Input::Recall { request, handle });
    }

    /// Decides about some messages that it prepared; now and then about those again about which it decided, or with a handle that nobody made.
    fn decide(&mut self, connection: ConnectionId, around: &mut Surroundings<'_>) {
        let count = around.random.within(1..4) as usize;
        let again = self.transactions.is_empty() || (!self.decided.is_empty() && around.random.chance(1, 4));
        let mut handles: Vec<Handle> = match again {
            true => vec![*around.random.pick(&self.decided)],
            false => {
                let from = around.random.index(self.transactions.len());
                self.transactions.iter().skip(from).take(count).copied().collect()
            }
        };
        if !around.healed && around.random.chance(1, 8) {
            handles[0][around.random.within(1..TRANSACTION_BYTES as u64) as usize] ^= 1 << around.random.below(8);
        }
        let decision = match around.random.chance(2, 3) {
            true => Decision::Commit,
            false => Decision::RollBack,
        };
        let request = RequestId(around.network.number());
        let input = Input::Decide {
            request,
            handles: handles.iter().map(|handle| Bytes::copy_from_slice(handle)).collect(),
            decision,
            operator: None,
        };
        self.deciding.insert(request, handles);
        around.network.request(around.random, self.client, connection, input);
    }

    /// The connection on which it can be asked.
    pub fn answering(&self) -> Option<ConnectionId> {
        self.connection.filter(|_| self.temper != Temper::Deaf)
    }

    /// Decides about a message about which it was asked, unless it does not know.
    fn reply(&mut self, connection: ConnectionId, around: &mut Surroundings<'_>) {
        let handle = self.asked.swap_remove(around.random.index(self.asked.len()));
        let decision = match around.random.below(4) {
            0 => return,
            1 => Decision::RollBack,
            _ => Decision::Commit,
        };
        let request = RequestId(around.network.number());
        let input = Input::Decide {
            request,
            handles: vec![handle],
            decision,
            operator: None,
        };
        around.network.request(around.random, self.client, connection, input);
    }

    /// Of several that are refused together each is tried alone, in time.
    fn heard_decision(&mut self, handles: Vec<Handle>, done: bool) {
        if !done && handles.len() > 1 {
            return;
        }
        for handle in handles {
            self.transactions.remove(&handle);
            self.decided.push(handle);
        }
    }

    fn forget(&mut self, first: u64, count: u64) {
        (first..first + count).for_each(|sequence| {
            self.unconfirmed.remove(&sequence);
        });
    }

    /// Whether everything is confirmed.
    pub fn is_done(&self) -> bool {
        self.budget == 0 && self.unconfirmed.is_empty() && self.transactions.is_empty()
    }
}

/// How long a message is delayed: little, some time, or long; now and then less than nothing.
fn delay_ms(random: &mut Random) -> i64 {
    let most = *random.pick(&[50, 2_000, 40_000]);
    random.below(most) as i64 - 10
}

/// Cuts neighbours into batches that are sent together: mostly one, at times each message its own.
fn cut(first: u64, count: u64, around: &mut Surroundings<'_>) -> Vec<(u64, u64)> {
    let most = match around.random.chance(1, 3) {
        true => around.random.within(1..4),
        false => count,
    };
    let starts = (first..first + count).step_by(most.max(1) as usize);
    starts.map(|start| (start, most.min(first + count - start))).collect()
}
