//! Prepared messages about which producers are asked: that only delivered asks count, that none comes early or too often, and what becomes of
//! those about which nobody decides.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_core::effect::{Ask, AskId};
use sluice_log::record::{Asked, Prepared};
use sluice_protocol::ids::{QueueId, TopicId};
use sluice_protocol::units::Now;

use super::delayed::Numbered;
use super::{Book, Deciding, Oracle, Row};
use crate::laws::{Court, Law};
use crate::random::Random;
use crate::rows;
use crate::scenario::Asks;

/// A message that was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenUp {
    /// Where its copy is.
    pub place: (QueueId, u64),
    /// The frame that says so.
    pub frame: u64,
}

/// What the broker knows of the asks about each message, with what it has not written yet.
#[derive(Clone, Debug, Default)]
pub struct AsksTold {
    /// What the broker is set to.
    pub asks: Asks,
    under_way: BTreeMap<AskId, Numbered>,
    /// How many were delivered of those about which one was delivered in this life, and when the last was.
    delivered: BTreeMap<Numbered, (u16, u64)>,
}

impl AsksTold {
    /// The broker is gone, and what it had not written.
    pub fn crashed(&mut self) {
        self.under_way.clear();
        self.delivered.clear();
    }

    /// Whether an ask about a message was delivered in this life.
    pub(super) fn was_asked(&self, message: Numbered) -> bool {
        self.delivered.contains_key(&message)
    }
}

impl Deciding {
    /// What commits a message that was given up: mostly one that nobody committed yet.
    pub fn some_given_up(&self, book: &Book, random: &mut Random) -> Option<Bytes> {
        let decisions = &book.decisions;
        let again = random.chance(1, 6);
        let wanted = decisions
            .given_up
            .keys()
            .filter(|message| again || !decisions.revived.contains_key(message));
        let wanted: Vec<Numbered> = wanted.copied().collect();
        let chosen = *wanted.get(random.index(wanted.len().max(1)))?;
        self.handle_of(chosen)
    }
}

impl Book {
    /// Asks were delivered.
    pub(super) fn were_asked(&mut self, topic: TopicId, asked: &[Asked], told: &AsksTold, court: &mut Court) {
        for Asked { number, asks } in asked {
            let message = (topic, number.0);
            let waits = self.decisions.undecided.contains_key(&message);
            court.require(Law::OnlyDeliveredAsksCount, waits, || {
                format!("{message:?} counts as asked about and does not wait for a decision")
            });
            let before = self.decisions.asks.get(&message).map_or(0, |(asks, _)| *asks);
            let delivered = told.delivered.get(&message).map_or(0, |(asks, _)| *asks);
            let lawful = *asks == before + 1 && *asks <= delivered && *asks <= told.asks.max;
            court.demand(Law::OnlyDeliveredAsksCount, lawful, || {
                format!(
                    "{message:?} was asked about {asks} times; before {before}, delivered {delivered}, {:?}",
                    told.asks
                )
            });
            self.decisions.asks.insert(message, (*asks, self.stamp.mono_ms));
        }
    }

    /// A message is given up.
    pub(super) fn given_up(
        &mut self,
        frame: u64,
        message: Prepared,
        (to, at): (QueueId, u64),
        batch: &Bytes,
        told: &AsksTold,
        court: &mut Court,
    ) {
        let named = (message.topic, message.due.number.0);
        let waited = self.decisions.undecided.remove(&named);
        let (asks, since_mono_ms) = self.decisions.asks.get(&named).copied().unwrap_or_default();
        let lawful = waited == Some(message.due.at_ms)
            && asks == told.asks.max
            && since_mono_ms + told.asks.interval_ms <= self.stamp.mono_ms
            && self.topics.get(&to.topic).is_some_and(|name| name == "%SYS%rolled-back");
        court.demand(Law::GivenUpByTheRule, lawful, || {
            format!(
                "{message:?} goes to {to}: it waited {waited:?}, was asked about {asks} times, the last at {since_mono_ms}, now is {:?}, {:?}",
                self.stamp, told.asks
            )
        });
        let topic = self.topics.get(&message.topic).cloned().unwrap_or_default();
        let origin = rows::origin(batch);
        let says = |name: &str, value: &str| origin.iter().any(|(other, found)| other == name && found == value);
        let true_origin = says("origin-topic", &topic) && says("asks", &asks.to_string());
        court.require(Law::GivenUpByTheRule, true_origin, || {
            format!("{named:?} of {topic} is said to come from {origin:?}")
        });
        self.is_copied(named, batch, court);
        self.stored_again(frame, to, at, batch, true, court);
        self.decisions.given_up.insert(named, GivenUp { place: (to, at), frame });
    }

    /// An operator committed a message that was given up.
    pub(super) fn revived(&mut self, frame: u64, message: Prepared, number: u64, batch: &Bytes, deciding: &Deciding, court: &mut Court) {
        let named = (message.topic, message.due.number.0);
        let waits = self.decisions.given_up.contains_key(&named) && !self.decisions.revived.contains_key(&named);
        court.demand(Law::RevivedOnce, waits && deciding.operator_commits(named), || {
            format!("{message:?} is committed as {number} and was not given up, or nobody asked for it, or it was committed before")
        });
        let lawful = rows::are_prepared(batch) && rows::times(batch) == [message.due.at_ms];
        court.require(Law::RevivedOnce, lawful, || {
            format!("{message:?} is due at {:?} by what was sent", rows::times(batch))
        });
        self.is_copied(named, batch, court);
        self.stored_again(frame, message.topic.calendar(), number, batch, false, court);
        self.decisions.revived.insert(named, (number, frame));
        self.delays.waiting.insert((message.topic, number), message.due.at_ms);
    }

    fn is_copied(&self, (topic, number): Numbered, batch: &Bytes, court: &mut Court) {
        let calendar = self.queues.get(&topic.calendar());
        let sent = calendar.and_then(|queue| queue.rows.get(number as usize));
        let sent: Vec<_> = sent.iter().map(|row| (row.producer, row.sequence)).collect();
        let found = rows::identities(batch);
        court.require(Law::GivenUpByTheRule, sent == found, || {
            format!("{topic:?} {number} is {sent:?} and was copied as {found:?}")
        });
    }

    fn stored_again(&mut self, frame: u64, queue: QueueId, at: u64, batch: &Bytes, copy: bool, court: &mut Court) {
        let stored_wall_ms = self.stamp.wall_ms;
        let Some(model) = self.queues.get_mut(&queue) else {
            court.demand(Law::NoFailureOfItsOwn, false, || {
                format!("a message was stored in {queue}, which does not exist")
            });
            return;
        };
        let end = model.rows.len() as u64;
        court.demand(Law::OffsetsAreContiguous, at == end, || {
            format!("{queue} ends at {end}, a message is stored at {at}")
        });
        let stored = rows::identities(batch).into_iter().map(|(producer, sequence)| Row {
            producer,
            sequence,
            frame,
            copy,
            stored_wall_ms,
        });
        model.rows.extend(stored);
    }
}

impl Oracle {
    /// A producer is to be asked about a message.
    pub(super) fn asks(&mut self, now: Now, ask: &Ask) {
        let (queue, number) = ask.place;
        let message = (queue.topic, number.0);
        // Nobody may have heard it before: a crash can lose the confirm of what is kept.
        self.deciding.learns(Bytes::copy_from_slice(&ask.handle), message);
        let (decisions, told) = (&self.book.decisions, &mut self.deciding.asks);
        told.under_way.insert(ask.ask, message);
        let known = decisions.asks.get(&message).copied();
        let (asks, since_mono_ms) = told.delivered.get(&message).copied().or(known).unwrap_or_default();
        let row = self.book.queues.get(&queue).and_then(|queue| queue.rows.get(number.0 as usize));
        let durable = row.is_some_and(|row| row.frame < self.synced);
        let waits = decisions.undecided.contains_key(&message);
        self.court.require(Law::DeliverAfterSync, durable && waits, || {
            format!("{ask:?} is asked about {row:?}, synced is {}", self.synced)
        });
        let counted = ask.undecided.asks == asks && asks < told.asks.max;
        self.court.demand(Law::OnlyDeliveredAsksCount, counted, || {
            format!("{ask:?}, and {asks} were delivered of {:?}", told.asks)
        });
        let wait_ms = if asks > 0 { told.asks.interval_ms } else { told.asks.first_ms };
        self.court.demand(Law::NotAskedEarly, since_mono_ms + wait_ms <= now.mono_ms, || {
            format!("{ask:?} at {}, and the wait began at {since_mono_ms}: {:?}", now.mono_ms, told.asks)
        });
    }

    /// The broker is told that an ask was delivered.
    pub(super) fn ask_delivered(&mut self, now: Now, ask: AskId) {
        let told = &mut self.deciding.asks;
        let Some(message) = told.under_way.remove(&ask) else { return };
        let known = self.book.decisions.asks.get(&message).copied();
        let (asks, _) = told.delivered.get(&message).copied().or(known).unwrap_or_default();
        told.delivered.insert(message, (asks + 1, now.mono_ms));
    }
}
