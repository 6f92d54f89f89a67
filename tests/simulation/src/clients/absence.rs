//! When a member of a broadcast group is there: not before its group, and now and then away for a while, or for good.

use super::{Surroundings, Wish};

/// Until when a member is away.
#[derive(Debug, Default)]
pub struct Absence {
    until_ms: u64,
}

/// What a member does in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// It acts.
    Here,
    /// It leaves without a word.
    Leaves,
    /// It does nothing.
    Away,
}

impl Absence {
    /// Whether a member is there, leaves, or is away. Members of groups that share their messages always are there.
    pub fn now(&mut self, wish: usize, around: &mut Surroundings<'_>) -> Whereabouts {
        let Wish { broadcast, open, .. } = around.wishes[wish];
        if !broadcast {
            return Whereabouts::Here;
        }
        if !open || around.now_ms < self.until_ms && (!around.healed || self.is_gone()) {
            return Whereabouts::Away;
        }
        if around.healed || !around.random.chance(1, 40) {
            return Whereabouts::Here;
        }
        self.until_ms = match around.random.chance(1, 8) {
            true => u64::MAX,
            false => around.now_ms + around.random.below(12_000),
        };
        Whereabouts::Leaves
    }

    /// Whether it never comes back.
    pub fn is_gone(&self) -> bool {
        self.until_ms == u64::MAX
    }
}
