//! `sluice-simulation --seeds N --from S [--bug NAME] [--verbose]`: runs seeds, each twice, and prints what was put to the test.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Parser;
use sluice_simulation::laws::Tally;
use sluice_simulation::{BUGS, SEEDS_TO_FIND, plant, run, run_twice};

#[derive(Parser)]
#[command(about = "The broker's core and log under a seed: faults, an oracle, laws, and hashes that must agree")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Plant this bug, or `all` of them in turn, and demand that it is found.
    #[arg(long)]
    bug: Option<String>,
    /// Print every event of every seed.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.bug {
        None => laws(&arguments),
        Some(bug) if bug == "all" => BUGS.iter().try_for_each(|bug| hunt(bug, &arguments)),
        Some(bug) => hunt(bug, &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the seeds and demands that every law holds and was put to the test often enough.
fn laws(arguments: &Arguments) -> Result<()> {
    let (from, until) = (arguments.from, arguments.from + arguments.seeds);
    println!("seeds {from} to {}", until - 1);
    let (begun, mut tally) = (Instant::now(), Tally::default());
    for seed in from..until {
        if arguments.verbose {
            println!("seed {seed}");
            run(seed, true);
        }
        let outcome = run_twice(seed).map_err(|violation| anyhow!("seed {seed} breaks {:?}: {}", violation.law, violation.text))?;
        tally.add(&outcome.tally);
    }
    let seconds = begun.elapsed().as_secs_f64();
    print!("{tally}");
    println!(
        "{} seeds, each twice, in {seconds:.1} s: {:.1} seeds a second",
        arguments.seeds,
        arguments.seeds as f64 / seconds
    );
    let neglected = tally.neglected(arguments.seeds);
    if !neglected.is_empty() {
        bail!("laws that were not put to the test often enough (law, count, minimum): {neglected:?}");
    }
    Ok(())
}

/// Plants a bug and demands that one of the seeds finds it.
fn hunt(bug: &str, arguments: &Arguments) -> Result<()> {
    plant(Some(bug)).map_err(|text| anyhow!(text))?;
    let seeds = arguments.seeds.max(SEEDS_TO_FIND);
    for seed in arguments.from..arguments.from + seeds {
        if let Some(violation) = run(seed, arguments.verbose).violation {
            println!("{bug}: found by seed {seed}: {:?}: {}", violation.law, violation.text);
            return Ok(());
        }
    }
    bail!("{bug}: not found within {seeds} seeds")
}
