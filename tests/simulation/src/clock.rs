//! The clocks of a run: a true one that only the simulation knows, a wall clock that jumps, a monotonic one that never falls.

use sluice_protocol::units::Now;

use crate::random::Random;

/// What the wall clock shows when a run begins.
pub const WALL_AT_START_MS: i64 = 1_750_000_000_000;

/// Time in one run.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds since the run began.
    pub true_ms: u64,
    wall_error_ms: i64,
    /// What to add to the true time; a log whose wall clock had jumped may put the broker behind it.
    mono_error_ms: i64,
}

impl Clock {
    /// The two clocks as the broker reads them.
    pub fn now(&self) -> Now {
        Now {
            wall_ms: self.wall_ms(),
            mono_ms: self.true_ms.saturating_add_signed(self.mono_error_ms),
        }
    }

    /// The wall clock.
    pub fn wall_ms(&self) -> i64 {
        WALL_AT_START_MS + self.true_ms as i64 + self.wall_error_ms
    }

    /// Lets time go on.
    pub fn advance(&mut self, ms: u64) {
        self.true_ms += ms;
    }

    /// The wall clock is set, forth or back by up to a minute.
    pub fn jump(&mut self, random: &mut Random) {
        self.wall_error_ms += random.below(120_000) as i64 - 60_000;
    }

    /// The broker starts: its monotonic clock goes on from `mono_ms`, which its log told.
    pub fn restart(&mut self, mono_ms: u64) {
        self.mono_error_ms = mono_ms as i64 - self.true_ms as i64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_goes_on_from_what_the_log_told() {
        let mut clock = Clock::default();
        clock.advance(100);
        clock.restart(5_000);
        clock.advance(7);
        assert_eq!(clock.now().mono_ms, 5_007);
    }
}
