//! What the project does to itself: `cargo xtask tidy | test | demo | simulate | crash | sql-oracle | plugins`.

mod run;
mod tidy;
mod toolchain;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Everything the project does to itself")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check the arrows between crates, the bans in the core, the opening sentence and the length of each file, and the table of kinds together.
    Tidy,
    /// Run every test, installing what they need.
    Test,
    /// Format, lint and tidy; what continuous integration demands besides the tests.
    Lint,
    /// Build all and show the main job on real input; with `shop`, a shop's day with every kind of message.
    Demo {
        /// Passed on to `sluice demo`: `flights`, `shop`, and their options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Run the simulation, each seed twice.
    Simulate {
        /// How many seeds.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Plant every bug of the list in turn instead, and demand that each is caught within its seeds.
        #[arg(long)]
        mutants: bool,
    },
    /// Kill the real broker under load, again and again, and check what it confirmed.
    Crash {
        /// Passed on to `sluice-crash`: `--rounds`, `--seed`, `--state DIR`, `--resume`, `--minutes`, `--never-sync`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        rest: Vec<String>,
    },
    /// Compare the SQL filter inside Wasm with an oracle written apart from it.
    SqlOracle {
        /// How many generated pairs of expression and message.
        #[arg(long, default_value_t = 1_000_000)]
        pairs: u64,
        /// The seed of the generator.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Compile the guests' native unit tests and the built-in plugins' components.
    Plugins,
}

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Command {
    fn run(self) -> Result<()> {
        match self {
            Self::Tidy => tidy::check(&root()),
            Self::Test => run::test(),
            Self::Lint => run::lint(),
            Self::Demo { rest } => run::demo(&rest),
            Self::Simulate { mutants: true, .. } => run::mutants(),
            Self::Simulate { seeds, from, .. } => run::simulate(seeds, from, &[]),
            Self::Crash { rest } => run::crash(&rest),
            Self::SqlOracle { pairs, seed } => run::sql_oracle(pairs, seed),
            Self::Plugins => run::plugins(),
        }
    }
}

/// The root of the checkout.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the root")
        .to_path_buf()
}
