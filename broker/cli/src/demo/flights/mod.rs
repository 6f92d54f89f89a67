//! `sluice demo flights`: the main job on real input, with a kill in the middle, checked against a plain scan of the same input.

mod data;
mod groups;
mod publish;
mod survive;

use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use sluice_client::Client;

use super::Folder;
use crate::child::Broker;

/// The topic that the flights are published to.
const TOPIC: &str = "flights";

// How it is run. Not a documentation comment, since clap would take it for the whole command's.
#[derive(clap::Args)]
pub(super) struct Flights {
    /// Draws the thresholds of the sixth group; another one each time when not given
    #[arg(long)]
    seed: Option<u64>,
    /// Keep the data here instead of in a folder that goes away
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Flights {
    /// Runs it on a broker of its own.
    pub(super) async fn show(self) -> Result<()> {
        let seed = self.seed.unwrap_or_else(|| {
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(since_1970.subsec_nanos()) ^ since_1970.as_secs()
        });
        let folder = Folder::open(self.keep)?;
        println!("Sluice demonstration, seed {seed}, data in {}\n", folder.path().display());
        let broker = Broker::start(folder.path(), &[]).await?;
        let client = Client::connect(broker.endpoint().client_name("demo")).await?;
        let flights = data::all()?;

        println!("1. Publish {} flights, each confirmed when it is on disk", flights.len());
        let begun = Instant::now();
        let ids = publish::all(&client, &flights).await?;
        let published = begun.elapsed();

        println!("\n2. Six groups read them side by side, each through a filter that is a WebAssembly plugin");
        let begun = Instant::now();
        let questions = data::questions(seed);
        let outcomes = groups::read_all(&client, &flights, &ids, &questions).await?;
        let filtered = begun.elapsed();
        groups::print(&outcomes);

        println!("\n3. A consumer stops half-way, the broker is killed with SIGKILL and started again");
        let broker = survive::half_kill_rest(client, broker, folder.path(), &flights, &ids, &questions[0]).await?;

        println!("\n4. Rates over QUIC, client and broker sharing this machine's cores");
        println!(
            "   published, durable    {:>9.0} messages/s",
            flights.len() as f64 / published.as_secs_f64()
        );
        println!(
            "   judged, six filters   {:>9.0} verdicts/s",
            (flights.len() * questions.len()) as f64 / filtered.as_secs_f64()
        );
        drop(broker);
        let wrong = outcomes.iter().filter(|outcome| !outcome.is_right()).count();
        ensure!(wrong == 0, "{wrong} groups did not get just what a plain scan finds");
        println!("\nAll as expected; nothing lost, nothing twice.");
        Ok(())
    }
}
