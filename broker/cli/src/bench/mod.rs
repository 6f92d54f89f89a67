//! `sluice bench`: what the broker costs on this machine, as figures without a verdict.

mod backlog;
mod bare;
mod consume;
mod delay;
mod filter;
mod idle;
mod kinds;
mod latency;
mod many;
mod measure;
mod native;
mod ordered;
mod pair;
mod priority;
mod process;
mod publish;
mod queues;
mod report;
mod restart;
mod search;
mod settings;
mod store;
mod tag;
mod transaction;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::Output;

/// Measure one case, or compare two builds or two settings in it.
#[derive(Args)]
pub(crate) struct Bench {
    #[command(flatten)]
    against: pair::Against,
    /// A setting of the broker that is measured, as `sluice config` names it; may be given several times
    #[arg(long = "setting", value_name = "KEY=VALUE", global = true)]
    settings: Vec<String>,
    #[command(subcommand)]
    case: Case,
}

/// The cases that can be measured; each prints one JSON object a case with --json.
#[derive(Subcommand)]
enum Case {
    /// CPU of judging stored messages by `region = 'eu' AND price > 100.0`, against native code; and of a further subscription
    Filter(filter::FilterBench),
    /// A group that catches up from the disk with one tag in a thousand
    Tag(tag::TagBench),
    /// Durable publishes over QUIC: unbatched, and batched against a bare QUIC transfer of the same bytes
    Publish(publish::PublishBench),
    /// A group that takes everything by stream from the page cache, against a bare QUIC transfer of the same bytes
    Consume(consume::ConsumeBench),
    /// From publish to delivery and acknowledgement at a fixed rate, with asynchronous durability
    Latency(latency::LatencyBench),
    /// Very many delayed messages: how late they come, and the memory of one that waits
    Delay(delay::DelayBench),
    /// Messages of mixed priorities beside plain ones: published, taken as a backlog, and taken while they are published
    Priority(priority::PriorityBench),
    /// An ordered group with many message groups beside a plain one: published, taken as a backlog, and taken while they are published
    Ordered(ordered::OrderedBench),
    /// Prepared messages, each committed, beside plain sends with as many under way: one by one, and batched
    Transaction(transaction::TransactionBench),
    /// A group that catches up from the disk with gigabytes: what it does to those who publish at the head
    Backlog(backlog::BacklogBench),
    /// Stored messages found by id and by key, cold and warm: how soon, and what a search reads
    Search(search::SearchBench),
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
        let measured = match self.against.other() {
            Some(other) => pair::compare(output, &self.settings, &other),
            None => self.case.run(&mut report::Report::new(output)?, &self.settings).await,
        };
        measured.map_err(|error| Failure::from_error(&error))
    }
}

impl Case {
    async fn run(mut self, report: &mut report::Report<'_>, settings: &[String]) -> anyhow::Result<()> {
        // Read by each broker that starts until the case is done.
        let _file = settings::hand_over(settings, self.serve())?;
        match self {
            Self::Filter(filter) => filter.run(report).await,
            Self::Tag(tag) => tag.run(report).await,
            Self::Publish(publish) => publish.run(report).await,
            Self::Consume(consume) => consume.run(report).await,
            Self::Latency(latency) => latency.run(report).await,
            Self::Delay(delay) => delay.run(report).await,
            Self::Priority(priority) => priority.run(report).await,
            Self::Ordered(ordered) => ordered.run(report).await,
            Self::Transaction(transaction) => transaction.run(report).await,
            Self::Backlog(backlog) => backlog.run(report).await,
            Self::Search(search) => search.run(report).await,
            Self::Restart(restart) => restart.run(report).await,
            Self::Idle(idle) => idle.run(report).await,
            Self::Queues(queues) => queues.run(report).await,
        }
    }

    /// The further arguments for `serve`, where the case takes some.
    fn serve(&mut self) -> Option<&mut Vec<String>> {
        match self {
            Self::Filter(_) | Self::Restart(_) | Self::Idle(_) | Self::Queues(_) => None,
            Self::Tag(tag) => Some(&mut tag.serve),
            Self::Publish(publish) => Some(&mut publish.serve),
            Self::Consume(consume) => Some(&mut consume.serve),
            Self::Latency(latency) => Some(&mut latency.serve),
            Self::Delay(delay) => Some(&mut delay.serve),
            Self::Priority(priority) => Some(&mut priority.load.serve),
            Self::Ordered(ordered) => Some(&mut ordered.load.serve),
            Self::Transaction(transaction) => Some(&mut transaction.serve),
            Self::Backlog(backlog) => Some(&mut backlog.serve),
            Self::Search(search) => Some(&mut search.serve),
        }
    }
}
