//! The numbers of the messages sent: given out in order, and never further ahead of the oldest unconfirmed one than the broker remembers.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use sluice_protocol::ids::Sequence;
use tokio::sync::Notify;

use crate::limits;

/// The sequences of one producer identity, over all its topics.
pub(crate) struct Sequences {
    span_max: u32,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    /// The batches from the oldest unconfirmed one on, in the order of their numbers.
    batches: VecDeque<Numbered>,
}

/// A batch that was given numbers.
struct Numbered {
    first: u64,
    open: bool,
}

impl State {
    fn room(&self, span_max: u32) -> u32 {
        let lowest = self.batches.front().map_or(self.next, |oldest| oldest.first);
        u64::from(span_max).saturating_sub(self.next - lowest) as u32
    }

    fn settle(&mut self, first: Sequence) {
        if let Ok(place) = self.batches.binary_search_by_key(&first.0, |batch| batch.first) {
            self.batches[place].open = false;
        }
    }

    /// Forgets the oldest batches as far as they are settled; whether there were any.
    fn forget_settled(&mut self) -> bool {
        let settled = self.batches.iter().take_while(|batch| !batch.open).count();
        self.batches.drain(..settled);
        settled > 0
    }
}

impl Sequences {
    /// Numbers that reach at most `span_max` (1 or more) from the oldest unconfirmed one.
    pub(crate) fn new(span_max: u32) -> Self {
        Self {
            span_max: span_max.max(1),
            state: Mutex::default(),
            freed: Notify::new(),
        }
    }

    /// The largest batch that can ever be numbered.
    pub(crate) fn span_max(&self) -> u32 {
        self.span_max
    }

    /// Takes up to `wanted` neighbouring numbers of one block: the first and how many. `None` while there is no room for one.
    pub(crate) fn take(&self, wanted: u32) -> Option<(Sequence, u32)> {
        let mut state = self.lock();
        let block = limits::SEQUENCE_BLOCK - (state.next % u64::from(limits::SEQUENCE_BLOCK)) as u32;
        let count = wanted.min(block).min(state.room(self.span_max));
        if count == 0 {
            return None;
        }
        let first = state.next;
        state.next += u64::from(count);
        state.batches.push_back(Numbered { first, open: true });
        Some((Sequence(first), count))
    }

    /// Gives back batches: they are confirmed, refused or given up.
    pub(crate) fn settle(&self, firsts: impl IntoIterator<Item = Sequence>) {
        let freed = {
            let mut state = self.lock();
            firsts.into_iter().for_each(|first| state.settle(first));
            state.forget_settled()
        };
        if freed {
            self.freed.notify_waiters();
        }
    }

    /// Waits until there is room for at least one number. Cancel safe.
    pub(crate) async fn room(&self) {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if self.lock().room(self.span_max) > 0 {
                return;
            }
            freed.await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // No code panics while it holds this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_oldest_unconfirmed_batch_holds_the_others_back() {
        let sequences = Sequences::new(10);
        assert_eq!(sequences.take(6), Some((Sequence(0), 6)));
        assert_eq!(sequences.take(6), Some((Sequence(6), 4)));
        assert_eq!(sequences.take(1), None);
        sequences.settle([Sequence(6)]);
        assert_eq!(sequences.take(1), None, "the first batch is still open");
        sequences.settle([Sequence(0)]);
        assert_eq!(sequences.take(20), Some((Sequence(10), 10)));
    }

    #[test]
    fn no_batch_reaches_over_the_bound_of_a_block() {
        let sequences = Sequences::new(1_000);
        assert_eq!(sequences.take(1), Some((Sequence(0), 1)));
        assert_eq!(sequences.take(256), Some((Sequence(1), 255)));
        assert_eq!(sequences.take(256), Some((Sequence(256), 256)));
    }

    proptest! {
        #[test]
        fn numbers_are_given_once_and_stay_within_the_span(steps in prop::collection::vec((1_u32..40, any::<bool>(), any::<usize>()), 1..200)) {
            let sequences = Sequences::new(32);
            let mut open: Vec<(u64, u32)> = Vec::new();
            let mut next = 0;
            for (wanted, settle, which) in steps {
                if settle && !open.is_empty() {
                    let (first, _) = open.remove(which % open.len());
                    sequences.settle([Sequence(first)]);
                } else if let Some((first, count)) = sequences.take(wanted) {
                    prop_assert_eq!(first.0, next);
                    next += u64::from(count);
                    open.push((first.0, count));
                }
                let lowest = open.iter().map(|batch| batch.0).min().unwrap_or(next);
                prop_assert!(next - lowest <= 32);
            }
        }
    }
}
