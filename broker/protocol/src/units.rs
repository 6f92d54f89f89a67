//! Time as the broker counts it: a wall clock for dates, a monotonic one for durations, both in milliseconds.

/// The two clocks at one instant, as the shell reads them and the core is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the Unix epoch; may jump. For deliver-at times, retention and what people read.
    pub wall_ms: i64,
    /// Milliseconds on a clock that never falls, across restarts too. For leases and back-off.
    pub mono_ms: u64,
}
