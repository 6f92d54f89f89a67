//! `sluice bench priority`: messages of mixed priorities beside plain ones.

use anyhow::Result;

use super::kinds::{self, Kind, Load};
use super::report::Report;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct PriorityBench {
    #[command(flatten)]
    pub(super) load: Load,
}

impl PriorityBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        kinds::beside_plain(report, Kind::Priority, &self.load).await
    }
}
