//! `sluice bench restart`: how soon a killed broker serves again with gigabytes stored, and what it read for that.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use sluice_client::NewMessage;

use super::process::Observed;
use super::report::{Case, Report};
use super::store;
use crate::child::Broker;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct RestartBench {
    /// Bodies stored before the first kill
    #[arg(long, default_value_t = 10.0)]
    gigabytes: f64,
    #[arg(long, default_value_t = 1000)]
    body_bytes: usize,
    #[arg(long, default_value_t = 256)]
    batch_messages: u32,
    /// Topics, of four queues each, that the messages are spread over
    #[arg(long, default_value_t = 4)]
    topics: usize,
    /// Kills
    #[arg(long, default_value_t = 5)]
    kills: u32,
    /// Bodies stored between two kills, so that each finds another length of log behind the checkpoint
    #[arg(long, default_value_t = 90)]
    megabytes_between: u64,
    /// Also measure starts with nothing of the log in the page cache
    #[arg(long)]
    cold: bool,
    /// Where to store; a temporary folder unless given
    #[arg(long, value_name = "DIR")]
    folder: Option<std::path::PathBuf>,
}

impl RestartBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        let folder = store::folder(self.folder.as_deref())?;
        let path = folder.path();
        let mut stored = (self.gigabytes * 1e9) as u64;
        let mut broker = Broker::start(path, &[]).await?;
        let begun = Instant::now();
        self.fill(&broker, stored).await?;
        report.print(&self.filled(&broker, begun.elapsed(), stored, path)?)?;
        for kill in 0..self.kills {
            broker.kill()?;
            broker = Broker::start(path, &[]).await?;
            report.print(&self.describe("restart-after-kill", &broker, stored, path)?)?;
            if self.cold {
                broker.kill()?;
                store::drop_cached(&path.join("data/log"))?;
                broker = Broker::start(path, &[]).await?;
                report.print(&self.describe("restart-after-kill-cold", &broker, stored, path)?)?;
            }
            if kill + 1 < self.kills {
                let more = self.megabytes_between * 1_000_000;
                self.fill(&broker, more).await?;
                stored += more;
            }
        }
        broker.stop().await?;
        let broker = Broker::start(path, &[]).await?;
        report.print(&self.describe("restart-after-stop", &broker, stored, path)?)
    }

    /// Publishes bodies of so many bytes together and waits until all are confirmed.
    async fn fill(&self, broker: &Broker, bytes: u64) -> Result<()> {
        let topics: Vec<String> = (0..self.topics.max(1)).map(|topic| format!("restart-{topic}")).collect();
        let body = Bytes::from(vec![b'x'; self.body_bytes]);
        let messages = bytes / self.body_bytes.max(1) as u64;
        let make = |_| NewMessage::new(body.clone());
        store::fill(broker, &topics, messages, self.batch_messages, make, |_, _| {}).await
    }

    fn filled(&self, broker: &Broker, took: Duration, stored: u64, path: &Path) -> Result<Case> {
        let observed = Observed::of(broker.pid())?;
        let case = self.case("restart-fill", stored, path)?;
        Ok(case
            .figure("seconds", took.as_secs_f64())
            .figure(
                "broker_cpu_us_a_message",
                observed.cpu.as_secs_f64() * 1e6 / (stored as f64 / self.body_bytes as f64),
            )
            .figure("broker_resident_mb", observed.resident_mb())
            .figure("open_files", observed.open_files as f64))
    }

    fn describe(&self, name: &str, broker: &Broker, stored: u64, path: &Path) -> Result<Case> {
        let observed = Observed::of(broker.pid())?;
        let ready = broker.ready()?;
        Ok(self
            .case(name, stored, path)?
            .figure("ready_ms", broker.ready_after().as_secs_f64() * 1e3)
            .figure("log_behind_checkpoint_mb", ready.replayed_bytes as f64 / 1e6)
            .figure("records_replayed", ready.replayed_records as f64)
            .figure("read_mb", observed.read_bytes as f64 / 1e6)
            .figure("device_read_mb", observed.device_read_bytes as f64 / 1e6)
            .figure("broker_cpu_ms", observed.cpu.as_secs_f64() * 1e3)
            .figure("broker_resident_mb", observed.resident_mb())
            .figure("open_files", observed.open_files as f64))
    }

    fn case(&self, name: &str, stored: u64, path: &Path) -> Result<Case> {
        let sidecars = store::files(&path.join("data/log"), "index-")?;
        Ok(Case::new(name)
            .with("body_bytes", self.body_bytes as u64)
            .with("batch_messages", self.batch_messages)
            .with("topics", self.topics as u64)
            .figure("stored_bodies_gb", stored as f64 / 1e9)
            .figure("segments", store::files(&path.join("data/log"), "segment-")?.0 as f64)
            .figure("sidecar_mb", sidecars.1 as f64 / 1e6)
            .figure("checkpoint_mb", store::files(&path.join("data/log"), "checkpoint-")?.1 as f64 / 1e6))
    }
}
