//! Seeds that are run for ever, and the planted bugs that prove that runs find bugs.

use sluice_simulation::run_twice;

/// Seeds to begin with; those that found a bug are in `seeds.txt`.
const SEEDS: std::ops::Range<u64> = 1..26;

#[test]
fn every_law_holds_and_two_runs_of_a_seed_are_the_same() {
    for seed in SEEDS {
        run_twice(seed).unwrap_or_else(|violation| panic!("seed {seed} breaks {:?}: {}", violation.law, violation.text));
    }
}

#[test]
fn a_seed_that_once_found_a_bug_finds_none_any_more() {
    let lines = include_str!("../seeds.txt").lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let seed = line
            .split_whitespace()
            .next()
            .and_then(|seed| seed.parse().ok())
            .expect("a line begins with a seed");
        run_twice(seed).unwrap_or_else(|violation| panic!("seed {seed} breaks {:?}: {}", violation.law, violation.text));
    }
}

#[cfg(feature = "planted-bugs")]
#[test]
fn every_planted_bug_is_found() {
    for bug in sluice_simulation::BUGS {
        sluice_simulation::hunt(&bug).unwrap_or_else(|text| panic!("{text}"));
    }
}
