//! The numbers of the messages sent: given out in order, and never further ahead of the oldest unconfirmed one than the broker remembers.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use sluice_protocol::ids::Sequence;
use tokio::sync::Notify;

/// The sequences of one producer identity, over all its topics.
pub(crate) struct Sequences {
    span_max: u32,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Default)]
struct State {
    next: u64,
    /// The first sequence of each unconfirmed batch, and how many it holds.
    unconfirmed: BTreeMap<u64, u32>,
}

impl State {
    fn room(&self, span_max: u32) -> u32 {
        let lowest = self.unconfirmed.keys().next().copied().unwrap_or(self.next);
        u64::from(span_max).saturating_sub(self.next - lowest) as u32
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

    /// Takes up to `wanted` neighbouring numbers: the first and how many. `None` while there is no room for one.
    pub(crate) fn take(&self, wanted: u32) -> Option<(Sequence, u32)> {
        let mut state = self.lock();
        let count = wanted.min(state.room(self.span_max));
        if count == 0 {
            return None;
        }
        let first = state.next;
        state.next += u64::from(count);
        state.unconfirmed.insert(first, count);
        Some((Sequence(first), count))
    }

    /// Gives back a batch: it is confirmed, refused or given up.
    pub(crate) fn settle(&self, first: Sequence) {
        self.lock().unconfirmed.remove(&first.0);
        self.freed.notify_waiters();
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
        sequences.settle(Sequence(6));
        assert_eq!(sequences.take(1), None, "the first batch is still open");
        sequences.settle(Sequence(0));
        assert_eq!(sequences.take(20), Some((Sequence(10), 10)));
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
                    sequences.settle(Sequence(first));
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
