//! `sluice demo`: the main job on real input, and a shop's day with every kind of message; each on a broker of its own, each checked.

mod flights;
mod shop;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Subcommand;

use crate::failure::Failure;
use crate::output::Output;

/// Show what a broker does, on one of its own, and check it: without a scenario, the flights.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Demo {
    #[command(flatten)]
    flights: flights::Flights,
    #[command(subcommand)]
    scenario: Option<Scenario>,
}

#[derive(Subcommand)]
enum Scenario {
    /// The main job: publish 20,000 real flights, filter them six ways, kill the broker half-way, lose nothing
    Flights(flights::Flights),
    /// A shop: services decoupled and added later, orders in transactions with timeouts that are recalled, a sale that is absorbed
    Shop(shop::Shop),
}

impl Demo {
    /// Runs the demonstration. Fails when anything differs from what was expected, or is lost.
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        if output.is_json() {
            return Err(Failure::Usage("the demonstration is for people; it prints no JSON".to_owned()));
        }
        let shown = match self.scenario {
            Some(Scenario::Shop(shop)) => shop.show().await,
            Some(Scenario::Flights(flights)) => flights.show().await,
            None => self.flights.show().await,
        };
        shown.map_err(|error| Failure::from_error(&error))
    }
}

/// Where the demonstration's data lies.
enum Folder {
    Kept(PathBuf),
    Passing(tempfile::TempDir),
}

impl Folder {
    fn open(keep: Option<PathBuf>) -> Result<Self> {
        let Some(folder) = keep else {
            return Ok(Self::Passing(tempfile::tempdir().context("make a folder for the data")?));
        };
        std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self::Kept(folder))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Passing(folder) => folder.path(),
        }
    }
}
