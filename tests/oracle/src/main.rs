//! `sluice-sql-oracle --pairs N --seed S`: compares as many generated pairs of expression and message as are asked for.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use sluice_sql_oracle::{Compared, Generated, Sandbox, compare};

/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(3);

/// Mismatches that are printed; the others are counted.
const PRINTED_MAX: u64 = 100;

/// Compares the SQL filter inside Wasm with the oracle in Python.
#[derive(Parser)]
struct Arguments {
    /// Pairs of expression and message.
    #[arg(long, default_value_t = 100_000)]
    pairs: u64,
    /// What the pairs follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Default)]
struct Totals {
    expressions: u64,
    pairs: u64,
    failed: u64,
    pruned: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { pairs, seed } = Arguments::parse();
    println!("seed {seed}, {pairs} pairs");
    let (begun, mut told) = (Instant::now(), Instant::now());
    let mut sandbox = Sandbox::new()?;
    let mut generated = Generated::start(pairs, seed)?;
    let mut totals = Totals::default();
    while let Some(case) = generated.next_case()? {
        let compared = compare(&mut sandbox, &case);
        totals.add(&compared, seed, &case.expression);
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let Totals { pairs: done, failed, .. } = totals;
            eprintln!("{done} of {pairs} pairs, {failed} failed, {} s", begun.elapsed().as_secs());
        }
    }
    anyhow::ensure!(totals.pairs >= pairs, "only {} of {pairs} pairs were generated", totals.pairs);
    let seconds = begun.elapsed().as_secs();
    println!(
        "{} expressions, {} messages dropped by hints, {seconds} s",
        totals.expressions, totals.pruned
    );
    println!("{} passed, {} failed", totals.pairs - totals.failed, totals.failed);
    Ok(if totals.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Totals {
    fn add(&mut self, compared: &Compared, seed: u64, expression: &str) {
        self.expressions += 1;
        self.pairs += compared.pairs;
        self.pruned += compared.pruned;
        for mismatch in &compared.mismatches {
            self.failed += 1;
            if self.failed <= PRINTED_MAX {
                println!("mismatch\n  seed       {seed}\n  expression {expression:?}\n{mismatch}");
            }
        }
    }
}
