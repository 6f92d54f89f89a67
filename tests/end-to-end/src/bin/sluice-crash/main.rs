//! Kills the real broker under load, again and again, and checks what it confirmed against what it delivers afterwards.

mod broker;
mod content;
mod group;
mod produce;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use sluice_client::Client;
use tokio::sync::watch;
use tokio::task::JoinSet;

use broker::Broker;
use content::{Chance, Ledger};
use group::{Group, Way};

/// The one topic.
const TOPIC: &str = "crash";
/// Producers in each round.
const PRODUCERS: u64 = 3;
/// How long a round lasts before the kill: from a start hardly finished to a log with checkpoints and sealed segments.
const ROUND_MS: (u64, u64) = (50, 900);

#[derive(Parser)]
#[command(about = "Kill the broker under load and check that no confirmed message is lost and no confirmed ack undone")]
struct Arguments {
    /// How many kills.
    #[arg(long, default_value_t = 50)]
    rounds: u32,
    /// Draws the load and the moments of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The broker's binary.
    #[arg(long, value_name = "FILE")]
    sluice: Option<PathBuf>,
    /// Keep the data here instead of in a folder that goes away.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    println!("seed {}, {} rounds", arguments.seed, arguments.rounds);
    let passing = tempfile::tempdir().context("make a folder")?;
    let folder = arguments.keep.clone().unwrap_or_else(|| passing.path().to_path_buf());
    std::fs::create_dir_all(&folder).context("create the folder")?;
    let sluice = arguments.sluice.map_or_else(broker::built, Ok)?;
    let mut chance = Chance(arguments.seed);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let mut groups = vec![Group::new("by-stream", Way::Stream), Group::new("by-receive", Way::Receive)];
    for round in 1..=arguments.rounds {
        let broker = Broker::start(&sluice, &folder)
            .await
            .with_context(|| format!("start for round {round}"))?;
        let lasting = Duration::from_millis(chance.between(ROUND_MS.0, ROUND_MS.1));
        groups = load(&broker, &ledger, groups, &mut chance, u64::from(round), lasting).await?;
        broker.kill()?;
        let (confirmed, violation) = ledger.lock().expect("no task panics with the ledger").state();
        let acked: usize = groups.iter().map(Group::acked).sum();
        println!(
            "round {round}: killed after {} ms; confirmed so far: {confirmed} messages, {acked} acknowledgements",
            lasting.as_millis()
        );
        ensure!(violation.is_none(), "{}", violation.unwrap_or_default());
    }
    let broker = Broker::start(&sluice, &folder).await.context("start for the last check")?;
    check(&broker, &ledger, &mut groups).await?;
    println!("{} passed, 0 failed", arguments.rounds);
    Ok(())
}

/// Producers and groups at work until the round is over; whatever is under way then is nobody's promise.
async fn load(
    broker: &Broker,
    ledger: &Arc<Mutex<Ledger>>,
    groups: Vec<Group>,
    chance: &mut Chance,
    round: u64,
    lasting: Duration,
) -> Result<Vec<Group>> {
    let (stop, stopped) = watch::channel(false);
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        let client = Client::connect(broker.endpoint("crash-producer")).await?;
        let seed = chance.next();
        let ledger = Arc::clone(ledger);
        let mut stopped = stopped.clone();
        producers.spawn(async move {
            tokio::select! {
                _ = stopped.changed() => {}
                _ = produce::run(&client, &ledger, round, number, Chance(seed)) => {}
            }
        });
    }
    let mut consumers = JoinSet::new();
    for mut group in groups {
        let client = Client::connect(broker.endpoint("crash-consumer")).await?;
        let ledger = Arc::clone(ledger);
        let mut stopped = stopped.clone();
        consumers.spawn(async move {
            tokio::select! {
                _ = stopped.changed() => {}
                _ = group.consume(&client, &ledger) => {}
            }
            group
        });
    }
    tokio::time::sleep(lasting).await;
    broker.signal_kill()?;
    stop.send_replace(true);
    producers.join_all().await;
    let mut groups = consumers.join_all().await;
    groups.sort_by_key(Group::name);
    Ok(groups)
}

/// Lets every group read to the end, then holds what it got against what was confirmed.
async fn check(broker: &Broker, ledger: &Arc<Mutex<Ledger>>, groups: &mut [Group]) -> Result<()> {
    for group in groups {
        let client = Client::connect(broker.endpoint("crash-check")).await?;
        group
            .drain(&client, ledger)
            .await
            .with_context(|| format!("drain group {}", group.name()))?;
        let ledger = ledger.lock().expect("no task panics with the ledger");
        let lost = ledger.confirmed().filter(|id| !group.has_seen(id)).count();
        println!(
            "group {}: {} confirmed messages, {lost} never delivered, {} acknowledged",
            group.name(),
            ledger.state().0,
            group.acked()
        );
        ensure!(
            lost == 0,
            "{lost} confirmed messages were never delivered to group {}",
            group.name()
        );
        let (_, violation) = ledger.state();
        ensure!(violation.is_none(), "{}", violation.unwrap_or_default());
    }
    Ok(())
}
