//! What a client was asked and has not said yet that it heard, with the time by which it must.

use std::collections::VecDeque;

use sluice_core::effect::AskId;
use tokio::time::Instant;

use crate::limits::HEARD_WITHIN;

/// Asks under way to one client, in the order in which they went out, so that the first of them is overdue first.
#[derive(Debug, Default)]
pub(super) struct Unheard {
    asks: VecDeque<(AskId, Instant)>,
}

impl Unheard {
    /// An ask goes out now.
    pub(super) fn asked(&mut self, ask: AskId, now: Instant) {
        self.asks.push_back((ask, now + HEARD_WITHIN));
    }

    /// Takes out an ask that was heard or never went out; `false` of one that is not there, such as one that was overdue before.
    pub(super) fn take(&mut self, ask: AskId) -> bool {
        let place = self.asks.iter().position(|(other, _)| *other == ask);
        place.and_then(|place| self.asks.remove(place)).is_some()
    }

    /// When the next ask is overdue, if nothing is heard until then.
    pub(super) fn next_overdue(&self) -> Option<Instant> {
        self.asks.front().map(|(_, by)| *by)
    }

    /// Takes out an ask that is overdue by now.
    pub(super) fn take_overdue(&mut self, now: Instant) -> Option<AskId> {
        self.asks.pop_front_if(|(_, by)| *by <= now).map(|(ask, _)| ask)
    }

    /// Takes out all asks, heard by nobody.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = AskId> {
        self.asks.drain(..).map(|(ask, _)| ask)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn an_ask_that_is_not_heard_within_the_time_is_overdue_and_not_a_millisecond_before() {
        let (mut unheard, now) = (Unheard::default(), Instant::now());
        assert_eq!(unheard.next_overdue(), None);
        unheard.asked(AskId(1), now);
        unheard.asked(AskId(2), now + MS);
        assert_eq!(unheard.next_overdue(), Some(now + HEARD_WITHIN));
        assert_eq!(unheard.take_overdue(now + HEARD_WITHIN - MS), None);
        assert_eq!(unheard.take_overdue(now + HEARD_WITHIN), Some(AskId(1)));
        assert_eq!(unheard.take_overdue(now + HEARD_WITHIN), None, "the second went out later");
        assert_eq!(unheard.take_overdue(now + HEARD_WITHIN + MS), Some(AskId(2)));
        assert_eq!(unheard.next_overdue(), None);
    }

    #[test]
    fn an_ask_that_was_heard_is_never_overdue() {
        let (mut unheard, now) = (Unheard::default(), Instant::now());
        for number in 1..=3 {
            unheard.asked(AskId(number), now + MS * number as u32);
        }
        assert!(unheard.take(AskId(1)) && unheard.take(AskId(3)), "in any order");
        assert!(!unheard.take(AskId(1)), "it is heard once");
        assert_eq!(unheard.next_overdue(), Some(now + MS * 2 + HEARD_WITHIN));
        assert_eq!(unheard.take_overdue(now + HEARD_WITHIN * 2), Some(AskId(2)));
        assert_eq!(unheard.take_overdue(now + HEARD_WITHIN * 2), None);
    }

    #[test]
    fn what_is_heard_too_late_was_not_heard() {
        let (mut unheard, now) = (Unheard::default(), Instant::now());
        unheard.asked(AskId(1), now);
        assert_eq!(unheard.take_overdue(now + HEARD_WITHIN), Some(AskId(1)));
        assert!(!unheard.take(AskId(1)));
    }

    #[test]
    fn a_client_that_leaves_heard_nothing_of_what_was_under_way() {
        let (mut unheard, now) = (Unheard::default(), Instant::now());
        for number in 1..=3 {
            unheard.asked(AskId(number), now);
        }
        assert!(unheard.take(AskId(2)));
        assert_eq!(unheard.take_all().collect::<Vec<_>>(), [AskId(1), AskId(3)]);
        assert_eq!(unheard.next_overdue(), None);
    }
}
