//! What consumers saw: deliveries, who holds what, and which settlements were confirmed.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_core::effect::{Delivery, Taker};
use sluice_core::input::{Action, ConnectionId, Numbers, RequestId, SubscriptionId};
use sluice_log::record::Backoff;
use sluice_protocol::ids::{Pass, QueueIndex};

use super::asked::{Asked, Key};
use super::book::Book;
use super::cursor::{Held, each};
use crate::laws::{Court, Law};

/// The consumers' side of the story, over all crashes.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    deliveries: BTreeMap<Key, u32>,
    acknowledged: BTreeSet<Key>,
    not_before_ms: BTreeMap<Key, u64>,
    holds: BTreeMap<Key, Hold>,
    ended: BTreeSet<SubscriptionId>,
    /// Streams whose messages went to another, which is right only if they are ended before the core is told anything further.
    suspects: Vec<(SubscriptionId, String)>,
    newest_first: BTreeMap<(sluice_log::record::CursorId, Pass), u64>,
    streams: BTreeMap<SubscriptionId, Stream>,
    handles: BTreeMap<Bytes, (Key, u16)>,
    receives: BTreeMap<RequestId, u64>,
    settlements: BTreeMap<RequestId, Settlement>,
    /// A crash may lose a delivery whose lease it keeps.
    crashes: u32,
    /// When the broker last gave records to the disk: grants that are not in the book are not older.
    pub written_mono_ms: u64,
}

#[derive(Clone, Debug)]
struct Hold {
    taker: Holder,
    attempt: u16,
    /// The lease runs at least so long.
    until_mono_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Stream(SubscriptionId),
    Receive(RequestId),
}

#[derive(Clone, Debug)]
struct Stream {
    connection: ConnectionId,
    invisible_ms: u64,
    pushed: BTreeMap<(QueueIndex, Pass), Vec<(Key, u16)>>,
}

#[derive(Clone, Debug)]
struct Settlement {
    /// For handles one entry each, in order; for a stream whatever it names. The flag says that the lease surely ran.
    keys: Vec<(Key, u16, bool)>,
    by_handle: bool,
    action: Action,
    asked_mono_ms: u64,
}

impl Seen {
    /// All effects so far were heard: no stream may have lost a message to another without having been ended.
    pub fn settle_suspicions(&mut self, court: &mut Court) {
        for (_, facts) in self.suspects.drain(..) {
            court.demand(Law::OneHolder, false, || facts);
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
    pub fn receives(&mut self, request: RequestId, invisible_ms: u64) {
        self.receives.insert(request, invisible_ms);
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
                (Holder::Receive(*request), self.receives.get(request).copied())
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
            court.demand(Law::NackDelayIsKept, mono_ms >= not_before, || {
                format!("{key:?} comes at {mono_ms} instead of {not_before}")
            });
        }
        let count = self.deliveries.entry(key).or_default();
        if *count == 0 && attempt == 1 {
            let newest = self.newest_first.entry((key.cursor, key.pass)).or_default();
            court.demand(Law::FirstDeliveriesInOrder, key.offset + 1 > *newest, || {
                format!("{key:?} comes first after {}", *newest - 1)
            });
            *newest = key.offset + 1;
        }
        *count += 1;
        let most = *count + self.crashes;
        court.demand(Law::AttemptsAreBounded, u32::from(attempt) <= most, || {
            format!("{key:?} is attempt {attempt}, seen {count} times")
        });
        let known = book.cursors.get(&key.cursor).and_then(|cursor| cursor.held.get(&key.offset));
        // A grant that is not recorded yet is not older than the last write; the lease in the book may be the one before.
        let unrecorded_ms = self.written_mono_ms + invisible_ms;
        let until_mono_ms = match known {
            Some(Held::Leased { expires_mono_ms, .. }) => unrecorded_ms.min(*expires_mono_ms),
            // What waited for a sync may come out after its lease was recorded to be over.
            Some(Held::Waiting { attempt: next, .. }) if *next > attempt => 0,
            Some(Held::Waiting { .. }) | None => unrecorded_ms,
        };
        if let Holder::Stream(subscription) = taker
            && self.ended.contains(&subscription)
        {
            // What waited for a sync may come out after its stream ended; nobody holds it then.
            return;
        }
        let before = self.holds.insert(
            key,
            Hold {
                taker,
                attempt,
                until_mono_ms,
            },
        );
        let returned = match known {
            Some(Held::Waiting { .. }) => true,
            // The records are ahead of this delivery: they hold the next lease already.
            Some(Held::Leased { expires_mono_ms, .. }) => before.as_ref().is_some_and(|before| before.until_mono_ms != *expires_mono_ms),
            None => false,
        };
        let over = returned || before.as_ref().is_none_or(|before| mono_ms >= before.until_mono_ms);
        let facts = || format!("{key:?} goes to {taker:?} at {mono_ms} while {before:?}");
        match before.as_ref().map(|before| before.taker) {
            Some(Holder::Stream(subscription)) if !over => self.suspects.push((subscription, facts())),
            Some(_) | None => court.demand(Law::OneHolder, over, facts),
        }
    }

    /// The broker is handed a settlement by numbers.
    #[allow(clippy::too_many_arguments, reason = "the fields of one input, told apart")]
    pub fn settles_numbers(
        &mut self,
        mono_ms: u64,
        request: RequestId,
        subscription: SubscriptionId,
        queue: QueueIndex,
        pass: Pass,
        which: &Numbers,
        action: Action,
        asked: &mut Asked,
    ) {
        let pushed = self.streams.get(&subscription).and_then(|stream| stream.pushed.get(&(queue, pass)));
        let pushed = pushed.map_or(&[][..], Vec::as_slice);
        let named: Vec<(Key, u16)> = match which {
            Numbers::UpTo(number) => pushed[..(*number as usize).min(pushed.len())].to_vec(),
            Numbers::Each(numbers) => numbers
                .iter()
                .filter_map(|number| pushed.get((*number as usize).wrapping_sub(1)).copied())
                .collect(),
        };
        let taker = Some(Holder::Stream(subscription));
        let keys = named
            .into_iter()
            .map(|(key, attempt)| (key, attempt, self.surely_holds(mono_ms, key, attempt, taker)))
            .collect();
        self.asks(
            mono_ms,
            request,
            Settlement {
                keys,
                by_handle: false,
                action,
                asked_mono_ms: mono_ms,
            },
            asked,
        );
    }

    /// The broker is handed a settlement by receipt handles.
    pub fn settles_handles(&mut self, mono_ms: u64, request: RequestId, handles: &[Bytes], action: Action, asked: &mut Asked) {
        let known = handles.iter().filter_map(|handle| self.handles.get(handle).copied());
        let keys = known
            .map(|(key, attempt)| (key, attempt, self.surely_holds(mono_ms, key, attempt, None)))
            .collect();
        self.asks(
            mono_ms,
            request,
            Settlement {
                keys,
                by_handle: true,
                action,
                asked_mono_ms: mono_ms,
            },
            asked,
        );
    }

    fn surely_holds(&self, mono_ms: u64, key: Key, attempt: u16, taker: Option<Holder>) -> bool {
        self.holds
            .get(&key)
            .is_some_and(|hold| hold.attempt == attempt && mono_ms < hold.until_mono_ms && taker.is_none_or(|taker| hold.taker == taker))
    }

    fn asks(&mut self, mono_ms: u64, request: RequestId, settlement: Settlement, asked: &mut Asked) {
        for (key, _, sure) in &settlement.keys {
            match settlement.action {
                Action::Ack => asked.settle(*key),
                Action::Nack { .. } => {}
                Action::Extend { invisible_ms } => {
                    if let (true, Some(hold)) = (sure, self.holds.get_mut(key)) {
                        hold.until_mono_ms = hold.until_mono_ms.min(mono_ms + invisible_ms);
                    }
                    continue;
                }
            }
            if *sure {
                self.holds.remove(key);
            }
        }
        self.settlements.insert(request, settlement);
    }

    /// The broker answered a settlement.
    pub fn settled(&mut self, request: RequestId, results: &[bool], book: &Book, asked: &Asked, synced: u64, court: &mut Court) {
        let Some(settlement) = self.settlements.remove(&request) else {
            return;
        };
        for (place, (key, attempt, sure)) in settlement.keys.into_iter().enumerate() {
            let result = if settlement.by_handle {
                results.get(place)
            } else {
                results.first()
            };
            if result != Some(&true) {
                court.exercise(Law::StaleSettlement);
                continue;
            }
            if !sure && !settlement.by_handle {
                continue;
            }
            self.confirmed(
                key,
                attempt,
                settlement.action,
                settlement.asked_mono_ms,
                book,
                asked,
                synced,
                court,
            );
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one confirmed settlement and what it is judged by")]
    fn confirmed(
        &mut self,
        key: Key,
        attempt: u16,
        action: Action,
        asked_ms: u64,
        book: &Book,
        asked: &Asked,
        synced: u64,
        court: &mut Court,
    ) {
        let cursor = book.cursors.get(&key.cursor).filter(|cursor| cursor.pass == key.pass);
        match action {
            Action::Ack => {
                self.acknowledged.insert(key);
                let Some(cursor) = cursor else { return };
                let start = asked.trims(key.cursor.queue);
                let kept = cursor.settled.get(&key.offset).is_some_and(|frame| *frame < synced) || key.offset < start;
                court.demand(Law::AckIsKept, kept, || {
                    format!("{key:?} was acknowledged, the synced log does not say so")
                });
            }
            Action::Nack { delay_ms } => {
                let Some(group) = book.groups.get(&key.cursor.group) else { return };
                let wait = delay_ms.unwrap_or_else(|| wait(&group.settings.backoff, attempt));
                self.not_before_ms.insert(key, asked_ms + wait);
            }
            // Another may be under way that makes the lease shorter again: how long it runs stays unknown.
            Action::Extend { .. } => {}
        }
    }

    /// The broker started again and its log says `book`.
    pub fn recovered(&mut self, book: &Book) {
        self.crashes += 1;
        self.suspects.clear();
        self.newest_first.clear();
        self.streams.clear();
        self.receives.clear();
        self.settlements.clear();
        self.holds.retain(|key, hold| {
            let held = book.cursors.get(&key.cursor).filter(|cursor| cursor.pass == key.pass).and_then(|cursor| cursor.held.get(&key.offset));
            matches!((held, hold.taker), (Some(Held::Leased { attempt, stream: false, .. }), Holder::Receive(_)) if *attempt == hold.attempt)
        });
    }

    /// The message and attempt that a handle stands for.
    pub fn handle(&self, handle: &Bytes) -> Option<(Key, u16)> {
        self.handles.get(handle).copied()
    }
}

/// The wait after delivery number `attempt`.
fn wait(backoff: &Backoff, attempt: u16) -> u64 {
    let before = usize::from(attempt) - 1;
    match backoff {
        Backoff::Table { waits_ms } => waits_ms[before.min(waits_ms.len() - 1)],
        Backoff::Exponential { first_ms, max_ms } => first_ms.saturating_mul(1 << before.min(40)).min(*max_ms),
        Backoff::Fixed { wait_ms } => *wait_ms,
    }
}
