//! Chance from a seed, for loads, moments of kills, and what a disk loses.

use std::sync::atomic::{AtomicU64, Ordering};

/// Numbers from a seed: splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014). May be shared.
#[derive(Debug)]
pub struct Chance(AtomicU64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Chance {
    /// The numbers of this seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut mixed = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    /// True once in so many times.
    pub fn once_in(&self, times: u64) -> bool {
        self.next().is_multiple_of(times)
    }
}
