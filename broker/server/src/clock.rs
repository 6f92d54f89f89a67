//! The two clocks of the broker: the system's wall clock, and a monotonic one that goes on across restarts.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_protocol::units::Now;

/// Reads the time as the core counts it. The monotonic clock goes on from the stamp with which the log was opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    mono_base_ms: u64,
}

impl Clock {
    /// A clock whose monotonic reading is `opened.mono_ms` now.
    pub(crate) fn from_opened(opened: Now) -> Self {
        Self {
            started: Instant::now(),
            mono_base_ms: opened.mono_ms,
        }
    }

    /// The time now.
    pub(crate) fn now(&self) -> Now {
        Now {
            wall_ms: wall_ms(),
            mono_ms: self.mono_base_ms + millis(self.started.elapsed()),
        }
    }

    /// How long it is until the monotonic clock reads `mono_ms`; zero when that has passed.
    pub(crate) fn until(&self, mono_ms: u64) -> Duration {
        let due = Duration::from_millis(mono_ms.saturating_sub(self.mono_base_ms));
        due.saturating_sub(self.started.elapsed())
    }
}

/// Milliseconds since the Unix epoch by the system's clock; negative before it.
pub(crate) fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_goes_on_from_where_the_log_was_opened() {
        let clock = Clock::from_opened(Now {
            wall_ms: 0,
            mono_ms: 5_000,
        });
        let first = clock.now();
        assert!(first.mono_ms >= 5_000 && first.mono_ms < 65_000);
        assert!(clock.now().mono_ms >= first.mono_ms);
        assert_eq!(clock.until(4_000), Duration::ZERO);
        assert!(clock.until(1_005_000) > Duration::from_secs(900));
    }
}
