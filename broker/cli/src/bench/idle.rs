//! `sluice bench idle`: what a broker costs that nobody uses, and how soon it is there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::process::{Observed, own_cpu};
use super::report::{Case, Report};
use crate::child::Broker;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct IdleBench {
    /// Starts of each kind
    #[arg(long, default_value_t = 5)]
    starts: u32,
    /// How long each broker is left alone
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

impl IdleBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        for _ in 0..self.starts {
            let folder = tempfile::tempdir().context("make a folder")?;
            // The first start makes secrets, certificate and log; the second finds them.
            report.print(&self.measure("idle-first-start", folder.path()).await?)?;
            report.print(&self.measure("idle-later-start", folder.path()).await?)?;
        }
        Ok(())
    }

    async fn measure(&self, name: &str, folder: &Path) -> Result<Case> {
        let client_before = own_cpu()?;
        let broker = Broker::start(folder, &[]).await?;
        let ready = Observed::of(broker.pid())?;
        tokio::time::sleep(Duration::from_secs(self.seconds)).await;
        let later = Observed::of(broker.pid())?;
        let case = Case::new(name)
            .figure("seconds", self.seconds as f64)
            .figure("ready_ms", broker.ready_after().as_secs_f64() * 1e3)
            .figure("broker_start_cpu_ms", ready.cpu.as_secs_f64() * 1e3)
            .figure("broker_resident_mb", later.resident_mb())
            .figure(
                "broker_idle_cpu_ms_a_second",
                (later.cpu - ready.cpu).as_secs_f64() * 1e3 / self.seconds.max(1) as f64,
            )
            .figure("client_cpu_ms", (own_cpu()? - client_before).as_secs_f64() * 1e3)
            .figure("open_files", later.open_files as f64)
            .figure("threads", later.threads as f64)
            .figure("binary_mb", binary_bytes()? as f64 / 1e6);
        broker.stop().await?;
        Ok(case)
    }
}

fn binary_bytes() -> Result<u64> {
    let path = std::env::current_exe().context("find this binary")?;
    Ok(std::fs::metadata(path).context("measure this binary")?.len())
}
