//! Kills the real broker under load, again and again, and checks what it confirmed against what it delivers afterwards.

mod audit;
mod broker;
mod check;
mod decide;
mod draw;
mod group;
mod produce;
mod round;
mod state;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use sluice_client::Client;
use sluice_end_to_end::chance::Chance;

use audit::{Audit, Law};
use broker::{Broker, Place, Storage};
use group::GROUPS;
use round::{Moment, Round, Work};
use state::{Progress, Totals};

/// After so many rounds it is checked what became of everything that was confirmed in them.
const ROUNDS_A_CHECK: u64 = 20;

#[derive(Parser)]
#[command(about = "Kill the broker under load and check that what it confirmed of messages of every kind holds")]
struct Arguments {
    /// How many kills, those of earlier pieces included.
    #[arg(long, default_value_t = 50)]
    rounds: u64,
    /// Draws the load and the moments of the kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep the data and what is known of the run here, so that it can be resumed.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Go on with the run in `--state`.
    #[arg(long, requires = "state")]
    resume: bool,
    /// Go on although the run was begun with another commit.
    #[arg(long, requires = "resume")]
    any_commit: bool,
    /// End this piece after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Use a broker that never syncs and demand that it is caught.
    #[arg(long)]
    never_sync: bool,
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
    let passing = tempfile::tempdir().context("make a folder")?;
    let folder = arguments.state.clone().unwrap_or_else(|| passing.path().to_path_buf());
    std::fs::create_dir_all(&folder).context("create the folder")?;
    let mut progress = begin(&arguments, &folder)?;
    let place = Place::beside(folder.clone())?;
    println!(
        "commit {}, seed {}, {} of {} rounds done",
        progress.commit, progress.seed, progress.totals.rounds, arguments.rounds
    );
    let before = progress.totals;
    let begun = Instant::now();
    let outcome = rounds(&arguments, &place, &mut progress, begun).await;
    report(&progress, before, begun.elapsed());
    match outcome {
        Err(caught) if arguments.never_sync => {
            println!("a broker that never syncs was caught: {caught:#}");
            Ok(())
        }
        Ok(()) if arguments.never_sync => bail!("a broker that never syncs was not caught"),
        Ok(()) => {
            println!("{} passed, 0 failed", progress.totals.rounds);
            Ok(())
        }
        Err(error) if arguments.state.is_none() => {
            // The data is what tells why.
            println!("the data is kept in {}", passing.keep().display());
            Err(error)
        }
        Err(error) => Err(error),
    }
}

/// The run to be made or gone on with.
fn begin(arguments: &Arguments, folder: &Path) -> Result<Progress> {
    let commit = state::commit()?;
    let Some(found) = Progress::read(folder)?.filter(|_| arguments.state.is_some()) else {
        ensure!(!arguments.resume, "there is no run in {} to go on with", folder.display());
        ensure!(!broker::has_data(folder), "{} holds other data", folder.display());
        return Ok(Progress {
            commit,
            seed: arguments.seed,
            totals: Totals::default(),
        });
    };
    ensure!(
        arguments.resume,
        "{} holds a run of {} rounds: go on with --resume, or name another folder",
        folder.display(),
        found.totals.rounds
    );
    ensure!(
        found.commit == commit || arguments.any_commit,
        "the run in {} was begun with commit {} and this is {commit}: go on with --any-commit, or name another folder",
        folder.display(),
        found.commit
    );
    Ok(Progress { commit, ..found })
}

/// Rounds and checks until the number or the time is reached.
async fn rounds(arguments: &Arguments, place: &Place, progress: &mut Progress, begun: Instant) -> Result<()> {
    let lasting = arguments.minutes.map_or(Duration::MAX, |minutes| Duration::from_secs(60 * minutes));
    while progress.totals.rounds < arguments.rounds && begun.elapsed() < lasting {
        let mut totals = progress.totals;
        let last = arguments.rounds.min(totals.rounds + ROUNDS_A_CHECK);
        let work = begin_work(place, progress.seed, totals.rounds).await?;
        while totals.rounds < last && begun.elapsed() < lasting {
            let number = totals.rounds + 1;
            let round = Round::draw(progress.seed, number, arguments.never_sync);
            let done = round.run(place, &work).await;
            done.with_context(|| format!("round {number}: {:?} {:?}", round.program, round.moment))?;
            count(&mut totals, &round);
            totals.parted += u64::from(place.has_parts());
            let (confirmed, acked, violation) = {
                let audit = work.audit.lock().expect("no task panics with the audit");
                (audit.confirmed(), audit.read_and_acked().1, audit.violation())
            };
            println!(
                "round {number}: {:?}, {:?}; since the last check {confirmed} messages and {acked} acknowledgements confirmed",
                round.program, round.moment
            );
            ensure!(violation.is_none(), "{}", violation.unwrap_or_default());
        }
        let chance = Chance::new(progress.seed ^ !totals.rounds);
        check::check(place, &work, &chance, &mut totals, arguments.never_sync).await?;
        progress.totals = totals;
        println!("checked after round {}: {}", totals.rounds, laws(&totals));
        if arguments.state.is_some() {
            progress.write(&place.folder)?;
        }
    }
    Ok(())
}

/// What the rounds until the next check work with: a topic of their own. One that an interrupted piece left is deleted.
async fn begin_work(place: &Place, seed: u64, rounds: u64) -> Result<Work> {
    let broker = Broker::start(place, &round::program(&Chance::new(seed ^ rounds), false)).await?;
    let client = Client::connect(broker.endpoint("crash-begin")).await?;
    let topics = client.topics().await?;
    for topic in topics.iter().filter(|topic| topic.name.starts_with("crash-")) {
        client
            .delete_topic(&topic.name)
            .await
            .context("delete the topic of an interrupted piece")?;
    }
    if topics.is_empty() {
        round::make_keeps_little(&client).await?;
        for group in GROUPS {
            group.create(&client).await.context("create a group")?;
        }
    }
    let topic = format!("crash-{rounds}");
    client.create_topic(&topic, None).await.context("create the topic")?;
    for group in GROUPS {
        group.join(&client, &topic).await.context("have a member known")?;
    }
    broker.kill()?;
    let mut audit = Audit::default();
    for group in GROUPS {
        audit.reader(group.name, group.ordered);
    }
    Ok(Work {
        topic,
        audit: Arc::new(Mutex::new(audit)),
    })
}

/// How often each law was put to the test.
fn laws(totals: &Totals) -> String {
    let each = Law::ALL
        .iter()
        .zip(totals.laws)
        .map(|(law, count)| format!("{} {count}", law.name()));
    each.collect::<Vec<_>>().join(", ")
}

fn count(totals: &mut Totals, round: &Round) {
    totals.rounds += 1;
    totals.holding += u64::from(matches!(round.program.storage, Storage::Holding { .. }));
    match round.moment {
        Moment::Starting { .. } => totals.starting += 1,
        Moment::Stopping { .. } => totals.stopping += 1,
        Moment::Loaded { .. } => {}
    }
}

fn report(progress: &Progress, before: Totals, took: Duration) {
    let Totals {
        rounds,
        holding,
        starting,
        stopping,
        parted,
        checks,
        confirmed,
        delivered,
        acked,
        laws: _,
    } = progress.totals;
    let piece = rounds - before.rounds;
    println!(
        "commit {}, seed {}: {rounds} rounds done, {holding} with unsynced writes held back, {starting} killed while starting, \
         {stopping} while stopping, {parted} with far-off messages in parts; {checks} checks; {confirmed} messages confirmed, {delivered} delivered, \
         {acked} acknowledged ({} groups)",
        progress.commit,
        progress.seed,
        GROUPS.len()
    );
    println!("each law was put to the test so often: {}", laws(&progress.totals));
    println!(
        "this piece: {piece} rounds in {} s, {} ms a round",
        took.as_secs(),
        took.as_millis() / u128::from(piece.max(1))
    );
}
