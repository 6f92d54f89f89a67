//! Bugs that can be let in on purpose, so that the simulation proves it would find them. Compiled only with the feature `planted-bugs`.

use std::cell::Cell;

/// A bug to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A frame's checksum is not verified (`checksum-unverified`).
    ChecksumUnverified,
    /// A frame of a lower epoch than its predecessor counts (`stale-frame`).
    StaleFrame,
}

impl Bug {
    /// Every bug there is, by name.
    pub const ALL: [(&str, Self); 2] = [("checksum-unverified", Self::ChecksumUnverified), ("stale-frame", Self::StaleFrame)];
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
