//! `sluice bench tag`: a group that catches up from the disk with one message in a thousand.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sluice_client::{Client, Filter, NewMessage, StreamConfig};
use sluice_log::{FileStorage, Log, LogConfig};
use tokio::task::JoinSet;

use super::measure::{Spent, median};
use super::report::{Case, Report};
use super::store;
use crate::child::Broker;
use crate::draw::Draw;

const TOPIC: &str = "bench";
/// Tags, of which one is asked for.
const TAGS: u64 = 1_000;
const WANTED: &str = "t7";
const BODY_BYTES: usize = 100;
/// Matches taken and acknowledged at once.
const RUN: usize = 256;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct TagBench {
    /// Messages stored in batches of 256; a quarter as many in batches of 16, since each is confirmed before the next is sent
    #[arg(long, default_value_t = 4_000_000)]
    messages: u64,
    /// How often a broker is started anew and the group caught up; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// What came of one round.
struct Round {
    took: Duration,
    spent: Spent,
}

impl TagBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        for (batch, messages) in [(16, self.messages / 4), (256, self.messages)] {
            report.print(&self.case(batch, messages).await?)?;
        }
        Ok(())
    }

    async fn case(&self, batch: u32, messages: u64) -> Result<Case> {
        let serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        let folder = tempfile::tempdir().context("make a folder")?;
        let broker = Broker::start(folder.path(), &serve).await?;
        let mut draw = Draw::new(messages);
        let mut stored = 0;
        let make = |_| {
            let tag = format!("t{}", draw.below(TAGS));
            stored += u64::from(tag == WANTED);
            NewMessage::new(vec![b'x'; BODY_BYTES]).tag(tag)
        };
        store::publish(&broker, TOPIC, messages, batch, make).await?;
        drop(broker);
        let log = sluice_server::log_directory(&folder.path().join("data"));
        let log_bytes = stored_bytes(&log)?;
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let broker = Broker::start(folder.path(), &serve).await?;
            store::drop_cached(&log)?;
            rounds.push(catch_up(&broker, &format!("group-{round}"), stored).await?);
        }
        Ok(describe(batch, messages, stored, log_bytes, &rounds))
    }
}

fn describe(batch: u32, messages: u64, stored: u64, log_bytes: u64, rounds: &[Round]) -> Case {
    let middle = |of: fn(&Round) -> f64| median(&mut rounds.iter().map(of).collect::<Vec<_>>());
    let count = messages as f64;
    let seconds = middle(|round| round.took.as_secs_f64());
    Case::new("tag")
        .with("body_bytes", BODY_BYTES as u64)
        .with("batch_sent", batch)
        .with("messages", messages)
        .with("matches", stored)
        .with("rounds", rounds.len() as u64)
        .figure("seconds", seconds)
        .figure("million_messages_judged_per_second", count / 1e6 / seconds)
        .figure(
            "broker_cpu_ns_a_message",
            middle(|round| round.spent.broker.as_secs_f64()) * 1e9 / count,
        )
        .figure(
            "client_cpu_ns_a_message",
            middle(|round| round.spent.client.as_secs_f64()) * 1e9 / count,
        )
        .figure("stored_mb", log_bytes as f64 / 1e6)
        .figure(
            "read_of_stored_percent",
            middle(|round| round.spent.read_bytes as f64) * 100.0 / log_bytes as f64,
        )
        .figure(
            "device_read_of_stored_percent",
            middle(|round| round.spent.device_bytes as f64) * 100.0 / log_bytes as f64,
        )
}

/// Has a new group take and acknowledge everything that matches.
async fn catch_up(broker: &Broker, group: &str, stored: u64) -> Result<Round> {
    let client = Client::connect(broker.endpoint().client_name("bench")).await?;
    let config = |topic| StreamConfig {
        credit: 8_192,
        ..StreamConfig::new(topic, group).filter(Filter::Tag(WANTED.to_owned()))
    };
    // The plugin is compiled before the clock starts: that happens once a start of the broker.
    client.create_topic(group, None).await?;
    client.stream(config(group)).await?.close().await;
    let before = Spent::now(broker)?;
    let begun = Instant::now();
    let mut stream = client.stream(config(TOPIC)).await?;
    let (mut seen, mut acks) = (HashSet::new(), JoinSet::new());
    while (seen.len() as u64) < stored {
        let run = stream.next_run(RUN).await?;
        for message in &run {
            ensure!(
                message.tag() == Some(WANTED),
                "a message with the tag {:?} was delivered",
                message.tag()
            );
            ensure!(seen.insert((message.queue(), message.offset())), "a message was delivered twice");
        }
        let last = run.last().context("the stream ended")?.clone();
        let settler = stream.settler();
        acks.spawn(async move { settler.ack_up_to(&last).await });
    }
    let took = begun.elapsed();
    for acknowledged in acks.join_all().await {
        acknowledged.context("an acknowledgement failed")?;
    }
    let spent = before.since(broker)?;
    stream.close().await;
    client.close().await;
    Ok(Round { took, spent })
}

/// The bytes of all stored batches.
fn stored_bytes(log: &Path) -> Result<u64> {
    let storage = FileStorage::existing(log).context("open the log")?;
    let start = sluice_log::Start {
        wall_ms: 0,
        random: [0; 24],
    };
    let opened = Log::open(Arc::new(storage), LogConfig::default(), start).context("open the log")?;
    Ok(opened.reader.queues()?.values().map(|queue| queue.bytes).sum())
}
