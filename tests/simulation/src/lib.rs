//! The simulation: the real core and the real log in a world of faults, all drawn from one seed, judged by an oracle of its own.

mod backup;
pub mod clients;
pub mod clock;
pub mod content;
pub mod court;
mod disk;
pub mod failing;
pub mod finish;
pub mod fleet;
pub mod histories;
pub mod history;
pub mod jobs;
pub mod laws;
pub mod network;
pub mod oracle;
mod parts;
pub mod planted;
pub mod random;
pub mod rows;
pub mod scenario;
pub mod shell;
pub mod start;
pub mod stub;
pub mod turn;
pub mod world;

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

pub use planted::{BUGS, Planted, hunt, plant};
pub use world::Outcome;

use crate::laws::{Law, Tally, Violation};
use crate::world::World;

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on a panic of the broker is not printed but told, with its place, by the violation that it is.
pub fn remember_panics() {
    set_hook(Box::new(|panic| LAST_PANIC.set(Some(panic.to_string()))));
}

/// Runs the world of a seed once. A panic of the broker counts as a broken law.
pub fn run(seed: u64, verbose: bool) -> Outcome {
    catch_unwind(AssertUnwindSafe(|| World::new(seed, verbose).run())).unwrap_or_else(|_| {
        let text = LAST_PANIC.take().unwrap_or_else(|| "a panic, printed above".to_owned());
        let violation = Violation {
            law: Law::NoFailureOfItsOwn,
            text,
        };
        Outcome {
            hash: 0,
            events: 0,
            tally: Tally::default(),
            violation: Some(violation),
        }
    })
}

/// Runs the world of a seed twice.
///
/// # Errors
/// The law that was broken, or that the two runs differ.
pub fn run_twice(seed: u64) -> Result<Outcome, Violation> {
    let first = run(seed, false);
    if let Some(violation) = first.violation {
        return Err(violation);
    }
    let second = run(seed, false);
    if first.hash != second.hash {
        let text = format!(
            "two runs differ: {} events with hash {:x}, {} with {:x}",
            first.events, first.hash, second.events, second.hash
        );
        return Err(Violation {
            law: Law::NoFailureOfItsOwn,
            text,
        });
    }
    Ok(first)
}
