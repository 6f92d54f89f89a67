//! Bugs that can be let in on purpose, so that the simulation proves it would find them. Compiled only with the feature `planted-bugs`.

use std::cell::Cell;

/// A bug to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Answers and deliveries do not wait for the sync (`confirm-before-sync`).
    ConfirmBeforeSync,
    /// An acknowledgement is answered but not kept (`ack-forgotten`).
    AckForgotten,
    /// A lease ends a second before its time (`expiry-too-early`).
    ExpiryTooEarly,
    /// A retried send is stored again (`dedup-off`).
    DedupOff,
    /// A seek keeps the leases of the pass before (`seek-keeps-leases`).
    SeekKeepsLeases,
    /// Verdicts that were asked under a superseded expression count (`stale-verdicts`).
    StaleVerdicts,
}

impl Bug {
    /// Every bug there is, by name.
    pub const ALL: [(&str, Self); 6] = [
        ("confirm-before-sync", Self::ConfirmBeforeSync),
        ("ack-forgotten", Self::AckForgotten),
        ("expiry-too-early", Self::ExpiryTooEarly),
        ("dedup-off", Self::DedupOff),
        ("seek-keeps-leases", Self::SeekKeepsLeases),
        ("stale-verdicts", Self::StaleVerdicts),
    ];
}

thread_local! {
    static CHOSEN: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Lets a bug in on this thread, or none.
pub fn choose(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

/// Whether this bug was let in.
pub(crate) fn is(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}
