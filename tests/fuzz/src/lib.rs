//! Decoders against bytes of bad intent: every target is fed valid inputs that were damaged, and random bytes.
//!
//! An input follows from the target, the seed and the number of the execution alone, so a failure is replayed by these three.
//! A target fails by panicking: its decoder did, or what it accepted does not keep what decoders promise.

mod mutate;
mod random;
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};

use random::Random;
pub use targets::{TARGETS, Target};

/// An execution that panicked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The seed of the run.
    pub seed: u64,
    /// Which execution of it.
    pub execution: u64,
    /// What was fed.
    pub input: Vec<u8>,
}

/// A target with its valid inputs made.
pub struct Fuzzer {
    target: &'static Target,
    seed: u64,
    valid: Vec<Vec<u8>>,
}

impl Fuzzer {
    /// Makes the valid inputs of a target.
    pub fn new(target: &'static Target, seed: u64) -> Self {
        Self {
            target,
            seed,
            valid: (target.valid)(),
        }
    }

    /// What the execution with this number is fed.
    pub fn input(&self, execution: u64) -> Vec<u8> {
        let mut random = Random::new(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ execution);
        if random.one_in(16) {
            let length = random.below(512);
            return (0..length).map(|_| random.next() as u8).collect();
        }
        let mut input = self.valid[random.below(self.valid.len())].clone();
        let other = &self.valid[random.below(self.valid.len())];
        for _ in 0..=random.below(6) {
            mutate::mutate(&mut input, other, &mut random);
        }
        // Most inputs get past the checksum, so that what lies behind it is met too.
        if !random.one_in(4) {
            (self.target.repair)(&mut input);
        }
        input
    }

    /// Runs one execution.
    ///
    /// # Errors
    /// The [`Failure`] when it panics; the panic's own message was printed by then.
    pub fn execute(&self, execution: u64) -> Result<(), Failure> {
        let input = self.input(execution);
        match catch_unwind(AssertUnwindSafe(|| (self.target.run)(&input))) {
            Ok(()) => Ok(()),
            Err(_) => Err(Failure {
                seed: self.seed,
                execution,
                input,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXECUTIONS: u64 = 20_000;

    #[test]
    fn every_decoder_keeps_its_promises_on_damaged_input() {
        for target in TARGETS {
            let fuzzer = Fuzzer::new(target, 1);
            for execution in 0..EXECUTIONS {
                assert_eq!(fuzzer.execute(execution), Ok(()), "{}", target.name);
            }
        }
    }

    #[test]
    fn every_valid_input_is_accepted() {
        for target in TARGETS {
            for input in (target.valid)() {
                assert!((target.accepts)(&input), "{}", target.name);
            }
        }
    }

    #[test]
    fn damage_is_accepted_now_and_then() {
        // If the mutator broke everything beyond repair, only the first checks would ever be met.
        for target in TARGETS {
            let fuzzer = Fuzzer::new(target, 2);
            let accepted = (0..2_000).filter(|&execution| (target.accepts)(&fuzzer.input(execution))).count();
            assert!((20..1_980).contains(&accepted), "{}: {accepted} of 2000", target.name);
        }
    }

    #[test]
    fn an_execution_is_replayed_by_its_number() {
        for target in TARGETS {
            assert_eq!(Fuzzer::new(target, 3).input(77), Fuzzer::new(target, 3).input(77));
        }
    }
}
