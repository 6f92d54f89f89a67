//! `sluice bench`: what the broker costs on this machine, as figures without a verdict.

mod bare;
mod filter;
mod idle;
mod many;
mod measure;
mod native;
mod process;
mod publish;
mod queues;
mod report;
mod restart;
mod store;

use clap::Subcommand;

use crate::failure::Failure;
use crate::output::Output;

/// The cases that can be measured; each prints one JSON object a case with --json.
#[derive(Subcommand)]
pub(crate) enum Bench {
    /// CPU of judging stored messages by `region = 'eu' AND price > 100.0`, against native code
    Filter(filter::FilterBench),
    /// Durable publishes over QUIC: unbatched, and batched against a bare QUIC transfer of the same bytes
    Publish(publish::PublishBench),
    /// A killed broker with gigabytes stored: how soon it serves again, and what it read for that
    Restart(restart::RestartBench),
    /// A broker that nobody uses: memory, binary, open files, and how soon it is there
    Idle(idle::IdleBench),
    /// Very many queues, groups and idle connections: memory, open files, CPU and start
    Queues(queues::QueuesBench),
}

impl Bench {
    /// Measures. Fails when the broker could not be started or failed during the run.
    pub(crate) async fn run(self, output: &mut Output) -> Result<(), Failure> {
        let mut report = report::Report::new(output)?;
        let measured = match self {
            Self::Filter(filter) => filter.run(&mut report).await,
            Self::Publish(publish) => publish.run(&mut report).await,
            Self::Restart(restart) => restart.run(&mut report).await,
            Self::Idle(idle) => idle.run(&mut report).await,
            Self::Queues(queues) => queues.run(&mut report).await,
        };
        measured.map_err(|error| Failure::from_error(&error))
    }
}
