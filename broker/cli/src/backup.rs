//! `sluice backup`: take a backup of a broker that serves, verify one, restore one into a new data directory.

mod create;
mod files;
mod restore;
mod verify;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::connect::Broker;
use crate::failure::Failure;
use crate::output::Output;

/// Backups.
#[derive(Subcommand)]
pub(crate) enum Backup {
    /// Take a backup of a broker while it serves
    #[command(after_help = "Examples:
  sluice backup create /backup/monday
  sluice backup create /backup/tuesday --base /backup/monday
  sluice backup create /backup/whole --identity /var/lib/sluice
  sluice --server broker:9470 --ca broker.pem backup create /backup/remote --rate 20")]
    Create(Create),
    /// Check every file of a backup, and that its log is readable to its end
    #[command(after_help = "Example:
  sluice backup verify /backup/monday")]
    Verify(Verify),
    /// Verify a backup and lay out a new data directory from it
    #[command(after_help = "Example:
  sluice backup restore /backup/monday --data /var/lib/sluice-new
  sluice serve --data /var/lib/sluice-new")]
    Restore(Restore),
}

/// Of a backup that is taken.
#[derive(Args)]
pub(crate) struct Create {
    /// Where the backup goes, on this machine: a directory that is empty or does not exist
    #[arg(value_name = "DIR")]
    to: PathBuf,
    /// An earlier backup of the same broker: segments that it has are not sent again but linked, or copied where that is not possible
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// The broker's data directory, on this machine: its certificate and key go into the backup, too. The broker itself never sends its key
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    /// Take no more than so many MiB a second, so that the broker's disk is left to its clients
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
}

/// Of a backup that is verified.
#[derive(Args)]
pub(crate) struct Verify {
    /// The backup
    #[arg(value_name = "DIR")]
    backup: PathBuf,
}

/// Of a backup that is restored.
#[derive(Args)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "DIR")]
    backup: PathBuf,
    /// The data directory that is made: one that is empty or does not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

impl Backup {
    /// Does what was asked.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(broker, output).await,
            Self::Verify(verify) => verify.run(output),
            Self::Restore(restore) => restore.run(output),
        }
    }
}
