//! CPU time: of this thread by the nanosecond, and medians of several rounds.

use anyhow::{Context, Result};
use cpu_time::ThreadTime;

/// The middle of the values; of an even number the upper of the two.
pub(super) fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Runs `work` once to warm up and then `rounds` times; the median of its CPU nanoseconds divided by `messages`.
///
/// # Errors
/// Those of `work`.
pub(super) fn cpu_ns_a_message(rounds: usize, messages: u64, mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    work()?;
    let mut rounds_ns = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let before = ThreadTime::try_now().context("this system does not count a thread's CPU time")?;
        work()?;
        rounds_ns.push(before.elapsed().as_nanos() as f64 / messages as f64);
    }
    Ok(median(&mut rounds_ns))
}
