//! `sluice-fuzz TARGET --seconds N --seed S`: feeds one decoder for as long as is asked.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use sluice_fuzz::{Fuzzer, TARGETS};

/// Feeds a decoder damaged inputs until the time is over or it panics.
#[derive(Parser)]
struct Arguments {
    /// The decoder; `list` names them all.
    target: String,
    /// How long, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// What the inputs follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this one execution of the seed, to see a failure again.
    #[arg(long)]
    only: Option<u64>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if arguments.target == "list" {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return Ok(());
    }
    let target = TARGETS
        .iter()
        .find(|target| target.name == arguments.target)
        .context("no such target; `list` names them all")?;
    println!("target {} seed {}", target.name, arguments.seed);
    let fuzzer = Fuzzer::new(target, arguments.seed);
    let (begun, bound) = (Instant::now(), Duration::from_secs(arguments.seconds));
    let mut executions = 0;
    let first = arguments.only.unwrap_or(0);
    for execution in first.. {
        if let Err(failure) = fuzzer.execute(execution) {
            eprintln!("input ({} bytes): {:02x?}", failure.input.len(), failure.input);
            bail!(
                "execution {execution} failed; see it again with: sluice-fuzz {} --seed {} --only {execution}",
                target.name,
                failure.seed
            );
        }
        executions += 1;
        let over = execution.is_multiple_of(256) && begun.elapsed() >= bound;
        if arguments.only.is_some() || over {
            break;
        }
    }
    println!("{executions} executions in {:.1} s, none failed", begun.elapsed().as_secs_f64());
    Ok(())
}
