//! Where laws are put to the test: counts how often, and keeps the first violation.

use crate::laws::{Law, Tally, Violation};

/// Counts, and keeps the first violation.
#[derive(Clone, Debug, Default)]
pub struct Court {
    tally: Tally,
    violation: Option<Violation>,
    /// While set, nothing is counted or judged: what is heard was heard before.
    muted: bool,
}

impl Court {
    /// Notes that a law, or a situation, was met.
    pub fn exercise(&mut self, law: Law) {
        if !self.muted {
            self.tally.count(law);
        }
    }

    /// Puts a law to the test; `facts` are asked for when it does not hold.
    pub fn demand(&mut self, law: Law, holds: bool, facts: impl FnOnce() -> String) {
        self.exercise(law);
        self.require(law, holds, facts);
    }

    /// As [`Court::demand`], for what is but a part of an occasion that is counted elsewhere.
    pub fn require(&mut self, law: Law, holds: bool, facts: impl FnOnce() -> String) {
        if !holds && !self.muted && self.violation.is_none() {
            self.violation = Some(Violation { law, text: facts() });
        }
    }

    /// Hears `matter` without counting or judging.
    pub fn muted(&mut self, matter: impl FnOnce(&mut Self)) {
        self.muted = true;
        matter(self);
        self.muted = false;
    }

    /// The first violation.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The counts so far.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }
}
