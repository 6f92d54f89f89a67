//! What consumers asked to settle, and what the broker confirmed of it.

use bytes::Bytes;
use sluice_core::input::{Action, Numbers, RequestId, SubscriptionId};
use sluice_log::record::Backoff;
use sluice_protocol::ids::{Pass, QueueIndex};

use super::asked::{Asked, Key};
use super::book::Book;
use super::seen::{Holder, Seen, Settlement};
use crate::laws::{Court, Law};

impl Seen {
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
            .map(|(key, attempt)| Some((key, attempt, self.surely_holds(mono_ms, key, attempt, taker))))
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
        let known = handles.iter().map(|handle| self.handles.get(handle).copied());
        let keys = known
            .map(|known| known.map(|(key, attempt)| (key, attempt, self.surely_holds(mono_ms, key, attempt, None))))
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
        for (key, _, sure) in settlement.keys.iter().flatten() {
            match settlement.action {
                Action::Ack => asked.settle(*key),
                Action::Nack { .. } => {}
                Action::Extend { invisible_ms } => {
                    if let (true, Some(hold)) = (sure, self.holds.get_mut(key)) {
                        hold.extensions.push(mono_ms + invisible_ms);
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
    pub fn settled(&mut self, request: RequestId, results: &[bool], book: &Book, synced: u64, court: &mut Court) {
        let Some(settlement) = self.settlements.remove(&request) else {
            return;
        };
        for (place, named) in settlement.keys.into_iter().enumerate() {
            let result = if settlement.by_handle {
                results.get(place)
            } else {
                results.first()
            };
            let Some((key, attempt, sure)) = named else {
                court.demand(Law::ForgedHandleIsRefused, result == Some(&false), || {
                    format!("{request:?} settles by a handle that nobody made")
                });
                continue;
            };
            if result != Some(&true) {
                court.exercise(Law::StaleSettlement);
                continue;
            }
            if !sure && !settlement.by_handle {
                continue;
            }
            self.confirmed(key, attempt, settlement.action, settlement.asked_mono_ms, book, synced, court);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one confirmed settlement and what it is judged by")]
    fn confirmed(&mut self, key: Key, attempt: u16, action: Action, asked_ms: u64, book: &Book, synced: u64, court: &mut Court) {
        let cursor = book.cursors.get(&key.cursor).filter(|cursor| cursor.pass == key.pass);
        let lost = book
            .queues
            .get(&key.cursor.queue)
            .is_none_or(|queue| queue.has_lost(key.offset, synced));
        match action {
            Action::Ack => {
                // What was sent back meanwhile is no longer settled.
                let again = cursor.is_some_and(|cursor| cursor.rounds.contains_key(&key.offset));
                if !again {
                    self.acknowledged.insert(key);
                }
                let Some(cursor) = cursor else { return };
                let kept = cursor.settled.get(&key.offset).is_some_and(|frame| *frame < synced) || lost || again;
                court.demand(Law::AckIsKept, kept, || {
                    format!("{key:?} was acknowledged, the synced log does not say so")
                });
            }
            Action::Nack { .. } if lost => {}
            Action::Nack { delay_ms } => {
                let Some(group) = book.groups.get(&key.cursor.group) else { return };
                let in_round = (attempt - 1) % group.settings.attempts_max + 1;
                let wait = delay_ms.unwrap_or_else(|| wait(&group.settings.backoff, in_round));
                let again = cursor.is_some_and(|cursor| cursor.base(key.offset) >= attempt);
                if !again {
                    self.not_before_ms.insert(key, asked_ms + wait);
                }
            }
            Action::Extend { invisible_ms } => {
                let Some(cursor) = cursor else { return };
                let frame = cursor.extended.get(&(key.offset, asked_ms + invisible_ms));
                // What an operator skipped meanwhile is not extended, nor handed out.
                let over = cursor.settled.contains_key(&key.offset);
                let kept = frame.is_some_and(|frame| *frame < synced) || lost || over;
                court.demand(Law::ExtensionIsKept, kept, || {
                    format!("{key:?} was extended at {asked_ms} by {invisible_ms}, the synced log does not say so")
                });
            }
        }
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
