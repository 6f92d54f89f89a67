//! `sluice bench ordered`: an ordered group with many message groups beside a plain group.

use anyhow::Result;

use super::kinds::{self, Kind, Load};
use super::report::Report;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct OrderedBench {
    /// Message groups that the messages are spread over
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..=999_999))]
    message_groups: u64,
    #[command(flatten)]
    pub(super) load: Load,
}

impl OrderedBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        let message_groups = self.message_groups;
        kinds::beside_plain(report, Kind::Ordered { message_groups }, &self.load).await
    }
}
