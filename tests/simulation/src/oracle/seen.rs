//! What consumers saw: deliveries, who holds what, and which settlements were confirmed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_core::effect::{Delivery, Taker};
use sluice_core::input::{Action, ConnectionId, RequestId, SubscriptionId};
use sluice_log::record::{Change, CursorId, Operated, Operation};
use sluice_protocol::ids::{Pass, QueueIndex};

use super::asked::{Asked, Key};
use super::book::Book;
use super::cursor::Held;
use super::dealings::{each, offsets_of};
use crate::laws::{Court, Law};

/// The consumers' side of the story, over all crashes.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    deliveries: BTreeMap<Key, u32>,
    pub(super) acknowledged: BTreeSet<Key>,
    pub(super) not_before_ms: BTreeMap<Key, u64>,
    pub(super) holds: BTreeMap<Key, Hold>,
    ended: BTreeSet<SubscriptionId>,
    /// Streams whose messages went to another, which is right only if they are ended before the core is told anything further.
    suspects: Vec<(SubscriptionId, String)>,
    pub(super) streams: BTreeMap<SubscriptionId, Stream>,
    pub(super) handles: BTreeMap<Bytes, (Key, u16)>,
    /// How many messages each receive asks for, and for how long.
    receives: BTreeMap<RequestId, (u64, u64)>,
    pub(super) settlements: BTreeMap<RequestId, Settlement>,
    /// A crash may lose a delivery whose lease it keeps.
    crashes: u32,
    /// When the broker last gave records to the disk: grants that are not in the book are not older.
    pub written_mono_ms: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Hold {
    pub(super) taker: Holder,
    pub(super) attempt: u16,
    /// The lease runs at least so long.
    pub(super) until_mono_ms: u64,
    /// The ends that extensions under way ask for; they may be sooner.
    pub(super) extensions: Vec<u64>,
}

impl Hold {
    /// The log says when the lease ends; an extension under way may end it sooner.
    fn recorded(&mut self, expires_mono_ms: u64) {
        let soonest = self.extensions.iter().copied().min().unwrap_or(u64::MAX);
        self.until_mono_ms = expires_mono_ms.min(soonest);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Stream(SubscriptionId),
    Receive(RequestId),
}

#[derive(Clone, Debug)]
pub(super) struct Stream {
    connection: ConnectionId,
    invisible_ms: u64,
    pub(super) pushed: BTreeMap<(QueueIndex, Pass), Vec<(Key, u16)>>,
}

#[derive(Clone, Debug)]
pub(super) struct Settlement {
    /// For handles one entry each, in order, and none for a handle that the broker never made; for a stream whatever it names. The flag
    /// says that the lease surely ran.
    pub(super) keys: Vec<Option<(Key, u16, bool)>>,
    pub(super) by_handle: bool,
    pub(super) action: Action,
    pub(super) asked_mono_ms: u64,
}

impl Seen {
    /// All effects so far were heard: no stream may have lost a message to another without having been ended.
    pub fn settle_suspicions(&mut self, court: &mut Court) {
        for (_, facts) in self.suspects.drain(..) {
            court.require(Law::OneHolder, false, || facts);
        }
    }

    /// A stream is asked for.
    pub fn subscribes(&mut self, subscription: SubscriptionId, connection: ConnectionId, invisible_ms: u64) {
        self.streams.insert(
            subscription,
            Stream {
                connection,
                invisible_ms,
                pushed: BTreeMap::new(),
            },
        );
    }

    /// A receive is asked for.
    pub fn receives(&mut self, request: RequestId, max: u64, invisible_ms: u64) {
        self.receives.insert(request, (max, invisible_ms));
    }

    /// The broker hears that a connection is gone.
    pub fn disconnected(&mut self, connection: ConnectionId, court: &mut Court) {
        let gone: Vec<SubscriptionId> = self
            .streams
            .iter()
            .filter(|(_, stream)| stream.connection == connection)
            .map(|(id, _)| *id)
            .collect();
        for subscription in gone {
            if self.closed(subscription) > 0 {
                court.exercise(Law::ConnectionLostWithLeases);
            }
        }
    }

    /// A stream is over: its leases are nobody's. Returns how many there were.
    pub fn closed(&mut self, subscription: SubscriptionId) -> usize {
        self.ended.insert(subscription);
        self.suspects.retain(|(suspect, _)| *suspect != subscription);
        let before = self.holds.len();
        self.holds.retain(|_, hold| hold.taker != Holder::Stream(subscription));
        before - self.holds.len()
    }

    /// Deliveries leave the broker.
    pub fn delivered(&mut self, mono_ms: u64, delivery: &Delivery, book: &Book, asked: &mut Asked, court: &mut Court) {
        let keys: Vec<(Key, u16)> = each(&delivery.leases)
            .map(|(offset, attempt)| {
                (
                    Key {
                        cursor: delivery.cursor,
                        pass: delivery.pass,
                        offset,
                    },
                    attempt,
                )
            })
            .collect();
        let (taker, invisible_ms) = match &delivery.taker {
            Taker::Receive { request, handles } => {
                court.demand(Law::DeliveryIsRecorded, handles.len() == keys.len(), || {
                    format!("{request:?}: a handle for each message")
                });
                self.handles.extend(handles.iter().cloned().zip(keys.iter().copied()));
                let asked = self.receives.get(request).copied();
                let kept = asked.is_none_or(|(max, _)| keys.len() as u64 <= max);
                court.demand(Law::DemandIsKept, kept, || format!("{request:?} of {asked:?} got {}", keys.len()));
                (Holder::Receive(*request), asked.map(|(_, invisible_ms)| invisible_ms))
            }
            Taker::Stream {
                subscription,
                first_number,
            } => {
                let stream = self.streams.get_mut(subscription);
                let invisible_ms = stream.as_ref().map(|stream| stream.invisible_ms);
                if let Some(stream) = stream {
                    let pushed = stream.pushed.entry((delivery.cursor.queue.index, delivery.pass)).or_default();
                    let next = pushed.len() as u64 + 1;
                    court.demand(Law::NumbersAreContiguous, *first_number == next, || {
                        format!("{subscription:?} {:?}: number {first_number} instead of {next}", delivery.cursor)
                    });
                    pushed.extend(&keys);
                }
                (Holder::Stream(*subscription), invisible_ms)
            }
        };
        court.demand(Law::DeliveryIsRecorded, invisible_ms.is_some(), || {
            format!("{taker:?} never asked for anything")
        });
        for (key, attempt) in keys {
            self.one(mono_ms, key, attempt, taker, invisible_ms.unwrap_or(0), book, court);
            asked.delivered(key, attempt, invisible_ms.unwrap_or(0), court);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one delivered message and what it is judged by")]
    fn one(&mut self, mono_ms: u64, key: Key, attempt: u16, taker: Holder, invisible_ms: u64, book: &Book, court: &mut Court) {
        court.demand(Law::AckedNeverAgain, !self.acknowledged.contains(&key), || {
            format!("{key:?} was acknowledged, and comes again")
        });
        if let Some(not_before) = self.not_before_ms.remove(&key) {
            court.require(Law::NackDelayIsKept, mono_ms >= not_before, || {
                format!("{key:?} comes at {mono_ms} instead of {not_before}")
            });
        }
        let count = self.deliveries.entry(key).or_default();
        *count += 1;
        let cursor = book.cursors.get(&key.cursor).filter(|cursor| cursor.pass == key.pass);
        let base = cursor.map_or(0, |cursor| u32::from(cursor.base(key.offset)));
        let most = *count + self.crashes + base;
        court.demand(Law::AttemptsAreBounded, u32::from(attempt) <= most, || {
            format!("{key:?} is attempt {attempt}, seen {count} times")
        });
        self.holds_now(mono_ms, key, attempt, taker, invisible_ms, book, court);
    }

    /// A message has a new holder: the one before must have no right to it any more.
    #[allow(clippy::too_many_arguments, reason = "one delivered message and what it is judged by")]
    fn holds_now(&mut self, mono_ms: u64, key: Key, attempt: u16, taker: Holder, invisible_ms: u64, book: &Book, court: &mut Court) {
        let cursor = book.cursors.get(&key.cursor).filter(|cursor| cursor.pass == key.pass);
        let known = cursor.and_then(|cursor| cursor.held.get(&key.offset));
        let over = match known {
            Some(Held::Leased { attempt: now, .. } | Held::Waiting { attempt: now, .. }) => *now > attempt,
            None => false,
        };
        // A grant that is not recorded yet is not older than the last write; the lease in the book may be the one before.
        let unrecorded_ms = self.written_mono_ms + invisible_ms;
        let until_mono_ms = match known {
            Some(Held::Leased {
                attempt: now,
                expires_mono_ms,
                ..
            }) if *now == attempt => unrecorded_ms.min(*expires_mono_ms),
            Some(Held::Leased { .. } | Held::Waiting { .. }) | None => unrecorded_ms,
        };
        match taker {
            Holder::Stream(subscription) => {
                court.require(Law::DeliveryIsRecorded, !self.ended.contains(&subscription), || {
                    format!("{key:?} is pushed on {subscription:?}, which has ended")
                });
                if over {
                    // It waited for a sync until its lease was over; its number and its credit are counted all the same.
                    return;
                }
            }
            Holder::Receive(_) => court.require(Law::DeliveryIsRecorded, !over, || {
                format!("{key:?} is received as attempt {attempt}, which is over: {known:?}")
            }),
        }
        let next = Hold {
            taker,
            attempt,
            until_mono_ms,
            extensions: Vec::new(),
        };
        let Some(before) = self.holds.insert(key, next) else { return };
        if mono_ms < before.until_mono_ms {
            let facts = format!("{key:?} goes to {taker:?} at {mono_ms} while {before:?}");
            match before.taker {
                Holder::Stream(subscription) => self.suspects.push((subscription, facts)),
                Holder::Receive(_) => court.require(Law::OneHolder, false, || facts),
            }
        }
    }

    /// A record is on its way to the disk: it says how long leases run, and which are over.
    pub fn recorded(&mut self, change: &Change) {
        let key = |cursor: &CursorId, pass: &Pass, offset: u64| Key {
            cursor: *cursor,
            pass: *pass,
            offset,
        };
        match change {
            Change::Granted {
                cursor,
                pass,
                leases,
                expires_mono_ms,
                ..
            } => {
                for (offset, attempt) in each(leases) {
                    let hold = self
                        .holds
                        .get_mut(&key(cursor, pass, offset))
                        .filter(|hold| hold.attempt == attempt);
                    if let Some(hold) = hold {
                        hold.recorded(*expires_mono_ms);
                    }
                }
            }
            Change::Extended {
                cursor,
                pass,
                offsets,
                expires_mono_ms,
            } => {
                for offset in offsets_of(offsets) {
                    if let Some(hold) = self.holds.get_mut(&key(cursor, pass, offset)) {
                        let asked = hold.extensions.iter().position(|end| end == expires_mono_ms);
                        asked.map(|place| hold.extensions.remove(place));
                        hold.recorded(*expires_mono_ms);
                    }
                }
            }
            Change::Returned { cursor, pass, leases, .. } => {
                for (offset, attempt) in each(leases) {
                    let key = key(cursor, pass, offset);
                    if self.holds.get(&key).is_some_and(|hold| hold.attempt == attempt) {
                        self.holds.remove(&key);
                    }
                }
            }
            Change::Settled { cursor, pass, offsets } => offsets_of(offsets).for_each(|offset| {
                self.holds.remove(&key(cursor, pass, offset));
            }),
            Change::Operated(Operated {
                operation: Operation::Skipped { cursor, pass, offset },
                ..
            }) => drop(self.holds.remove(&key(cursor, pass, offset.0))),
            Change::Operated(Operated {
                operation: Operation::DeadLettersDealt { back, .. },
                ..
            }) => {
                for (sent, (offset, _)) in back
                    .iter()
                    .flat_map(|sent| each(&sent.messages).map(move |message| (sent, message)))
                {
                    self.acknowledged.remove(&key(&sent.cursor, &sent.pass, offset));
                    self.not_before_ms.remove(&key(&sent.cursor, &sent.pass, offset));
                }
            }
            Change::Opened { .. }
            | Change::Operated(_)
            | Change::TopicCreated { .. }
            | Change::TopicDeleted { .. }
            | Change::GroupCreated { .. }
            | Change::GroupDeleted { .. }
            | Change::Subscribed { .. }
            | Change::PluginBound { .. }
            | Change::Appended { .. }
            | Change::FrontierMoved { .. }
            | Change::DeadLettered { .. }
            | Change::Sought { .. }
            | Change::Trimmed { .. }
            | Change::ProducerForgotten { .. }
            | Change::CulpritDecided { .. }
            | Change::SubscriptionHeld { .. }
            | Change::SubscriptionResumed { .. }
            | Change::Delayed { .. }
            | Change::Released { .. }
            | Change::Recalled { .. }
            | Change::Prioritized { .. }
            | Change::Expiring { .. }
            | Change::DeadlinesFound { .. }
            | Change::Expired { .. }
            | Change::Transaction(_)
            | Change::GivenIds(_)
            | Change::Restored(_)
            | Change::Parts(_) => {}
        }
    }

    /// The broker hears that these handles never reached their client.
    pub fn undelivered(&mut self, handles: &[Bytes]) {
        for (key, attempt) in handles.iter().filter_map(|handle| self.handles.get(handle)) {
            if self.holds.get(key).is_some_and(|hold| hold.attempt == *attempt) {
                self.holds.remove(key);
            }
        }
    }

    /// The broker started again and its log says `book`.
    pub fn recovered(&mut self, book: &Book) {
        self.crashes += 1;
        self.suspects.clear();
        self.streams.clear();
        self.receives.clear();
        self.settlements.clear();
        self.holds.retain(|key, hold| {
            let held = book.cursors.get(&key.cursor).filter(|cursor| cursor.pass == key.pass).and_then(|cursor| cursor.held.get(&key.offset));
            matches!((held, hold.taker), (Some(Held::Leased { attempt, stream: false, .. }), Holder::Receive(_)) if *attempt == hold.attempt)
        });
    }

    /// A crash lost what counted as durable: what was confirmed holds as far as the log still says so.
    pub fn lost(&mut self, book: &Book) {
        self.not_before_ms.clear();
        self.acknowledged.retain(|key| {
            let cursor = book.cursors.get(&key.cursor);
            cursor.is_some_and(|cursor| cursor.pass > key.pass || cursor.pass == key.pass && cursor.settled.contains_key(&key.offset))
        });
    }

    /// The message and attempt that a handle stands for.
    pub fn handle(&self, handle: &Bytes) -> Option<(Key, u16)> {
        self.handles.get(handle).copied()
    }
}
