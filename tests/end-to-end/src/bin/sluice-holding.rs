//! The broker over a storage that holds unsynced writes back, so that a killed process loses them: the same server code as `sluice serve`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use sluice_end_to_end::holding::HoldingStorage;
use sluice_log::FileStorage;
use sluice_server::{Config, Running, Server, log_directory};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "Serve a broker whose unsynced writes die with its process")]
struct Arguments {
    /// Configuration file, with the data directory
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Decides which unsynced writes reach the files
    #[arg(long)]
    seed: u64,
    /// Once it serves, say that files are synced and do not sync them
    #[arg(long)]
    never_sync: bool,
    /// A file that says how many bytes the log's files may take; it may be changed at any time
    #[arg(long, value_name = "FILE")]
    room: Option<PathBuf>,
    /// Carry out a round of retention this often, in milliseconds, instead of every minute
    #[arg(long, default_value_t = 50)]
    retain_ms: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_ansi(false).with_writer(std::io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("take the signal")?;
    let config = Config::read(&arguments.config).context("read the configuration")?;
    let drain = Duration::from_millis(config.drain_ms);
    let real = FileStorage::new(log_directory(&config.data_dir)).context("make the directory of the log")?;
    let storage = HoldingStorage::with_room(real, arguments.seed, arguments.room).context("open the files of the log")?;
    let running = Server::start_on(Arc::new(storage.clone()), config).await.context("start")?;
    if arguments.never_sync {
        storage.stop_syncing();
    }
    let retaining = retain(&running, Duration::from_millis(arguments.retain_ms));
    tokio::select! {
        failed = running.wait() => bail!("the broker failed: {failed}"),
        () = retaining => {}
        _ = terminate.recv() => {}
    }
    running.stop(drain).await.context("stop")
}

/// Carries out retention again and again.
async fn retain(running: &Running, every: Duration) {
    let mut rounds = tokio::time::interval(every);
    loop {
        rounds.tick().await;
        // A broker that fails or stops refuses; the others of its tasks say so.
        let _ = running.retain().await;
    }
}
