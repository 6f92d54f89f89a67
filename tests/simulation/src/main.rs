//! `sluice-simulation --seeds N --from S`: runs seeds, each twice, and prints what was put to the test; `--mutants` hunts planted bugs.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, anyhow, bail};
use clap::Parser;
use sluice_simulation::fleet::sail;
use sluice_simulation::laws::Tally;
use sluice_simulation::{BUGS, Planted, hunt, plant, remember_panics, run, run_twice};

#[derive(Parser)]
#[command(about = "The broker's core and log under a seed: faults, an oracle, laws, and hashes that must agree")]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Do not demand that every law was put to the test often enough: for seeds that nobody has looked at.
    #[arg(long)]
    anywhere: bool,
    /// Plant every bug in turn, and demand that each is found within its seeds.
    #[arg(long)]
    mutants: bool,
    /// Plant this bug, and print what finds it.
    #[arg(long)]
    bug: Option<String>,
    /// Print every event of every seed.
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    remember_panics();
    let done = match &arguments.bug {
        None if arguments.mutants => mutants(),
        None => laws(&arguments),
        Some(bug) => one(bug, &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the seeds and demands that every law holds, and that each was put to the test often enough unless the seeds are chance.
fn laws(arguments: &Arguments) -> Result<()> {
    let (from, until) = (arguments.from, arguments.from + arguments.seeds);
    println!("seeds {from} to {}", until - 1);
    if arguments.verbose {
        for seed in from..until {
            println!("seed {seed}");
            run(seed, true);
        }
    }
    let begun = Instant::now();
    let (outcomes, failure) = sail(arguments.seeds, |number| run_twice(from + number));
    if let Some((number, violation)) = failure {
        bail!("seed {} breaks {:?}: {}", from + number, violation.law, violation.text);
    }
    let seconds = begun.elapsed().as_secs_f64();
    let mut tally = Tally::default();
    outcomes.iter().for_each(|outcome| tally.add(&outcome.tally));
    print!("{tally}");
    println!(
        "{} seeds, each twice, in {seconds:.1} s: {:.1} seeds a second",
        arguments.seeds,
        arguments.seeds as f64 / seconds
    );
    let neglected = tally.neglected(arguments.seeds);
    if !neglected.is_empty() && !arguments.anywhere {
        bail!("laws that were not put to the test often enough (law, count, minimum): {neglected:?}");
    }
    Ok(())
}

/// Hunts every planted bug and prints a line for each.
fn mutants() -> Result<()> {
    let (begun, width) = (Instant::now(), BUGS.iter().map(|bug| bug.name.len()).max().unwrap_or(0));
    let (hunts, _) = sail(BUGS.len() as u64, |number| Ok::<_, ()>(hunt(&BUGS[number as usize])));
    let mut missed = 0;
    for (Planted { name, seeds, what, .. }, hunt) in BUGS.iter().zip(hunts) {
        match hunt {
            Ok((seed, violation)) => println!("{name:<width$} found by seed {seed:>3} of {seeds:>3}: {:?}", violation.law),
            Err(_) => {
                missed += 1;
                println!("{name:<width$} NOT FOUND in {seeds} seeds: {what}");
            }
        }
    }
    println!("{} planted bugs in {:.1} s", BUGS.len(), begun.elapsed().as_secs_f64());
    if missed > 0 {
        bail!("{missed} planted bugs were not found");
    }
    Ok(())
}

/// Plants one bug and prints what each seed that finds it says.
fn one(bug: &str, arguments: &Arguments) -> Result<()> {
    let seeds = arguments.from..arguments.from + arguments.seeds;
    let (found, _) = sail(arguments.seeds, |number| {
        plant(Some(bug))?;
        Ok::<_, String>(run(arguments.from + number, arguments.verbose).violation)
    });
    if found.is_empty() {
        return plant(Some(bug)).map_err(|text| anyhow!(text));
    }
    let mut times = 0;
    for (seed, violation) in seeds.zip(found) {
        if let Some(violation) = violation {
            times += 1;
            println!("seed {seed}: {:?}: {}", violation.law, violation.text);
        }
    }
    println!("{bug}: found by {times} of {} seeds", arguments.seeds);
    if times == 0 {
        bail!("{bug} was not found");
    }
    Ok(())
}
