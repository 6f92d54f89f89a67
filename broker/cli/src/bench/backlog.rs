//! `sluice bench backlog`: what a group that catches up from the disk does to those who publish at the head.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use sluice_client::{Client, Endpoint, NewMessage, ProducerConfig, StreamConfig};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::measure::{Spent, median};
use super::report::{Case, Report};
use super::store;
use crate::child::Broker;

const TOPIC: &str = "bench";
const HEAD_BODY_BYTES: usize = 100;
/// How long the head is published to before it is measured.
const WARM_UP: Duration = Duration::from_secs(1);
/// Messages taken and acknowledged at once.
const RUN: usize = 256;
/// Acknowledgements under way at a time.
const ACKS: usize = 64;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct BacklogBench {
    /// Bodies stored before anything is measured
    #[arg(long, default_value_t = 20.0)]
    gigabytes: f64,
    #[arg(long, default_value_t = 1000)]
    body_bytes: usize,
    #[arg(long, default_value_t = 256)]
    batch_messages: u32,
    /// Messages a second that are published at the head, each durable and for itself
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// How long each window is measured; a round has three: the head alone, beside a group that catches up, and alone again
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// Rounds, each with a new group and with the log dropped from the page cache; the medians count
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Messages that the broker may push ahead to the group
    #[arg(long, default_value_t = 16_384)]
    credit: u32,
    /// Where to store; a temporary folder unless given
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// What those who published at the head saw in one window, in microseconds from each message's appointed time.
struct Head {
    confirmed_us: Histogram<u64>,
    /// How late the sends themselves were.
    sent_late_us: Histogram<u64>,
}

impl Head {
    fn quantile(&self, quantile: f64) -> f64 {
        self.confirmed_us.value_at_quantile(quantile) as f64
    }
}

/// One round.
struct Round {
    alone: Head,
    beside: Head,
    again: Head,
    /// Messages that the group took meanwhile, and for how long it did.
    caught_up: u64,
    took: Duration,
    spent: Spent,
}

impl Round {
    /// How many times as long the 99th percentile is beside the group.
    fn p99_ratio(&self) -> f64 {
        self.beside.quantile(0.99) / self.alone.quantile(0.99)
    }

    /// The same of the two windows in which nothing differs.
    fn itself_ratio(&self) -> f64 {
        self.again.quantile(0.99) / self.alone.quantile(0.99)
    }
}

impl BacklogBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        ensure!(self.rounds > 0 && self.seconds > 0 && self.body_bytes > 0, "measure longer");
        let serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        let folder = store::folder(self.folder.as_deref())?;
        let broker = Broker::start(folder.path(), &serve).await?;
        let stored = (self.gigabytes * 1e9 / self.body_bytes as f64) as u64;
        let body = Bytes::from(vec![b'x'; self.body_bytes]);
        let begun = Instant::now();
        let make = |_| NewMessage::new(body.clone());
        store::fill(&broker, &[TOPIC.to_owned()], stored, self.batch_messages, make, |_, _| {}).await?;
        let filled = begun.elapsed();
        let log = sluice_server::log_directory(&folder.path().join("data"));
        let client = Client::connect(broker.endpoint().client_name("bench-behind")).await?;
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            store::drop_cached(&log)?;
            let alone = self.head(&broker).await?;
            store::drop_cached(&log)?;
            let (over, stop) = oneshot::channel();
            let before = Spent::now(&broker)?;
            let begun = Instant::now();
            let config = StreamConfig {
                credit: self.credit,
                ..StreamConfig::new(TOPIC, format!("behind-{round}"))
            };
            let behind = tokio::spawn(catch_up(client.clone(), config, stop));
            let beside = self.head(&broker).await?;
            let (took, spent) = (begun.elapsed(), before.since(&broker)?);
            // Where it has failed, it says so.
            let _ = over.send(());
            let caught_up = behind.await.context("the group's task")??;
            store::drop_cached(&log)?;
            rounds.push(Round {
                alone,
                beside,
                again: self.head(&broker).await?,
                caught_up,
                took,
                spent,
            });
        }
        client.close().await;
        report.print(&self.describe(stored, filled, &rounds))
    }

    fn describe(&self, stored: u64, filled: Duration, rounds: &[Round]) -> Case {
        let middle = |of: &dyn Fn(&Round) -> f64| median(&mut rounds.iter().map(of).collect::<Vec<_>>());
        let bytes = self.body_bytes as f64;
        // A group that was done before the window was over did not disturb all of it.
        let done = rounds.iter().filter(|round| round.caught_up >= stored).count();
        Case::new("backlog")
            .with("body_bytes", self.body_bytes as u64)
            .with("batch_messages", self.batch_messages)
            .with("messages", stored)
            .with("head_per_second", self.rate)
            .with("rounds", rounds.len() as u64)
            .with("rounds_in_which_the_group_was_done", done as u64)
            .figure("stored_bodies_gb", stored as f64 * bytes / 1e9)
            .figure("fill_seconds", filled.as_secs_f64())
            .figure("head_alone_p50_us", middle(&|round| round.alone.quantile(0.5)))
            .figure("head_alone_p99_us", middle(&|round| round.alone.quantile(0.99)))
            .figure("head_beside_p50_us", middle(&|round| round.beside.quantile(0.5)))
            .figure("head_beside_p99_us", middle(&|round| round.beside.quantile(0.99)))
            .figure("head_p99_ratio", middle(&Round::p99_ratio))
            .figure("head_alone_p99_to_itself_ratio", middle(&Round::itself_ratio))
            .figure(
                "sent_late_alone_p99_us",
                middle(&|round| round.alone.sent_late_us.value_at_quantile(0.99) as f64),
            )
            .figure(
                "sent_late_beside_p99_us",
                middle(&|round| round.beside.sent_late_us.value_at_quantile(0.99) as f64),
            )
            .figure("caught_up_seconds", middle(&|round| round.took.as_secs_f64()))
            .figure(
                "caught_up_body_mb_per_second",
                middle(&|round| round.caught_up as f64 * bytes / 1e6 / round.took.as_secs_f64()),
            )
            .figure("read_mb", middle(&|round| round.spent.read_bytes as f64 / 1e6))
            .figure("device_read_mb", middle(&|round| round.spent.device_bytes as f64 / 1e6))
            .figure("broker_cpu_seconds", middle(&|round| round.spent.broker.as_secs_f64()))
            .figure("client_cpu_seconds", middle(&|round| round.spent.client.as_secs_f64()))
    }

    /// Publishes at the head for one window, from threads of its own, so that it does not wait for those that catch up.
    async fn head(&self, broker: &Broker) -> Result<Head> {
        let (endpoint, rate) = (broker.endpoint().client_name("bench-head"), self.rate);
        let lasting = Duration::from_secs(self.seconds);
        tokio::task::spawn_blocking(move || publish(endpoint, rate, lasting))
            .await
            .context("the head's thread")?
    }
}

/// Sends each message at its appointed time and notes when it is confirmed.
fn publish(endpoint: Endpoint, rate: u32, lasting: Duration) -> Result<Head> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().context("get a thread")?;
    let client = runtime.block_on(Client::connect(endpoint))?;
    let producer = client.producer(TOPIC, ProducerConfig::default());
    let body = Bytes::from(vec![b'x'; HEAD_BODY_BYTES]);
    let every = Duration::from_secs(1) / rate;
    let begun = Instant::now() + Duration::from_millis(10);
    let (done, mut confirmations) = mpsc::unbounded_channel();
    let mut head = Head {
        confirmed_us: Histogram::new(3)?,
        sent_late_us: Histogram::new(3)?,
    };
    for number in 0.. {
        let due = begun + every * number;
        let counts = due >= begun + WARM_UP;
        if due >= begun + WARM_UP + lasting {
            break;
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if counts {
            head.sent_late_us.record(due.elapsed().as_micros() as u64)?;
        }
        let confirmation = runtime.block_on(producer.enqueue(NewMessage::new(body.clone())))?;
        let done = done.clone();
        runtime.spawn(async move {
            let outcome = confirmation.await;
            // The receiver outlives every confirmation, or the run has failed.
            let _ = done.send((counts, due.elapsed(), outcome));
        });
    }
    drop(done);
    while let Some((counts, after, outcome)) = confirmations.blocking_recv() {
        outcome.context("a message was not stored")?;
        if counts {
            head.confirmed_us.record(after.as_micros() as u64)?;
        }
    }
    runtime.block_on(client.close());
    Ok(head)
}

/// Takes and acknowledges whatever comes until it is told to stop; returns how many messages that were.
async fn catch_up(client: Client, config: StreamConfig, mut stop: oneshot::Receiver<()>) -> Result<u64> {
    let mut stream = client.stream(config).await?;
    let (mut taken, mut acks) = (0, JoinSet::new());
    loop {
        let run = tokio::select! {
            run = stream.next_run(RUN) => run?,
            _ = &mut stop => break,
        };
        taken += run.len() as u64;
        let last = run.last().context("the stream ended")?.clone();
        let settler = stream.settler();
        acks.spawn(async move { settler.ack_up_to(&last).await });
        if acks.len() >= ACKS
            && let Some(acknowledged) = acks.join_next().await
        {
            acknowledged.context("an acknowledgement")??;
        }
    }
    for acknowledged in acks.join_all().await {
        acknowledged.context("an acknowledgement failed")?;
    }
    stream.close().await;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(us: u64) -> Head {
        let mut head = Head {
            confirmed_us: Histogram::new(3).unwrap(),
            sent_late_us: Histogram::new(3).unwrap(),
        };
        head.confirmed_us.record(us).unwrap();
        head
    }

    #[test]
    fn the_head_beside_a_group_is_held_against_the_head_alone_of_the_same_round() {
        let round = |alone, beside, again| Round {
            alone: head(alone),
            beside: head(beside),
            again: head(again),
            caught_up: 0,
            took: Duration::from_secs(1),
            spent: Spent::by_broker(0),
        };
        let rounds = [round(100, 150, 100), round(400, 600, 400), round(100, 120, 110)];
        let ratios: Vec<f64> = rounds.iter().map(Round::p99_ratio).collect();
        assert_eq!(ratios, [1.5, 1.5, 1.2]);
        assert_eq!(rounds[2].itself_ratio(), 1.1);
    }
}
