//! `sluice bench filter`: the CPU of judging stored messages through the SQL plugin, and of native code over the same log.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sluice_client::NewMessage;
use sluice_log::{BatchPlace, FileStorage, Log, LogConfig, LogReader, Start};
use sluice_plugin_host::{FilterHandle, Host, HostConfig, PluginLimits, builtin};
use sluice_protocol::ids::{QueueId, QueueOffset};
use sluice_server::judge::{Among, Judge, Stretch};

use super::measure;
use super::native::{self, NativeSql};
use super::report::{Case, Report};
use super::store;
use crate::child::Broker;
use crate::draw::Draw;

const TOPIC: &str = "bench";
const EXPRESSION: &str = "region = 'eu' AND price > 100.0";
/// A further subscription at the same place that asks for the same columns.
const FURTHER_EXPRESSION: &str = "region = 'us' AND price < 60.0";
/// Messages judged at once, as many as a verdict window of the broker holds.
const STRETCH: u64 = 4096;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct FilterBench {
    /// Messages stored in batches of 256; fewer where each batch is smaller, since each is confirmed before the next is sent.
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// How often everything is judged; the median counts.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// What is stored for a case.
#[derive(Clone, Copy)]
struct Stored {
    messages: u64,
    batch: u32,
    body_bytes: usize,
}

impl FilterBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        for (batch, body_bytes) in [(1, 100), (16, 100), (256, 100), (256, 1000)] {
            let messages = (self.messages / (256 / u64::from(batch)).min(20)).max(u64::from(batch));
            let stored = Stored {
                messages,
                batch,
                body_bytes,
            };
            let folder = tempfile::tempdir().context("make a folder")?;
            publish(folder.path(), stored).await?;
            let data = folder.path().join("data");
            let rounds = self.rounds;
            // Judging is synchronous work and is measured by its thread.
            let case = tokio::task::spawn_blocking(move || judge(&data, stored, rounds))
                .await
                .context("the measuring thread ended")??;
            report.print(&case)?;
        }
        Ok(())
    }
}

async fn publish(folder: &Path, stored: Stored) -> Result<()> {
    let broker = Broker::start(folder, &[]).await?;
    let mut draw = Draw::new(stored.messages);
    let make = |_| message(&mut draw, stored.body_bytes);
    store::publish(&broker, TOPIC, stored.messages, stored.batch, make).await
}

/// Six properties in shuffled order: 8 regions, a price of 0 to 200 as text, and four that no one asks for.
fn message(draw: &mut Draw, body_bytes: usize) -> NewMessage {
    const REGIONS: [&str; 8] = ["eu", "us", "cn", "in", "br", "za", "au", "jp"];
    let cents = draw.below(20_001);
    let mut properties = vec![
        ("region".to_owned(), REGIONS[draw.below(8) as usize].to_owned()),
        ("price".to_owned(), format!("{}.{:02}", cents / 100, cents % 100)),
        ("customer".to_owned(), format!("c{}", draw.below(100_000))),
        ("channel".to_owned(), ["web", "app", "shop"][draw.below(3) as usize].to_owned()),
        ("currency".to_owned(), "EUR".to_owned()),
        ("priority".to_owned(), draw.below(10).to_string()),
    ];
    for last in (1..properties.len()).rev() {
        properties.swap(last, draw.below(last as u64 + 1) as usize);
    }
    let mut message = NewMessage::new(vec![b'x'; body_bytes]);
    message.properties = properties;
    message
}

/// Opens the log that the broker left and judges all of it, in the plugin and natively.
fn judge(data: &Path, stored: Stored, rounds: usize) -> Result<Case> {
    let storage = FileStorage::existing(sluice_server::log_directory(data)).context("open the log")?;
    let start = Start {
        wall_ms: 0,
        random: [0; 24],
    };
    // No cache: what is measured is judging what is stored, from the page cache.
    let config = LogConfig {
        tail_cache_bytes: 0,
        ..LogConfig::default()
    };
    let opened = Log::open(Arc::new(storage), config, start).context("open the log")?;
    let reader = opened.reader;
    let queues: Vec<(QueueId, QueueOffset)> = reader.queues()?.into_iter().map(|(queue, stored)| (queue, stored.end)).collect();
    let mut places: Vec<BatchPlace> = Vec::new();
    for (queue, end) in &queues {
        places.extend(reader.batches(*queue, QueueOffset(0), *end)?);
    }
    let messages: u64 = places.iter().map(|place| u64::from(place.count)).sum();
    ensure!(
        messages == stored.messages,
        "{messages} messages are stored, {} were sent",
        stored.messages
    );

    let host = Host::new(HostConfig::default())?;
    let module = host.load(builtin::FILTER_SQL)?;
    let filter = |expression| anyhow::Ok(host.filter(module.digest(), expression, PluginLimits::default())?.without_hint());
    let filters = [filter(EXPRESSION)?, filter(FURTHER_EXPRESSION)?];
    let mut judge = Judge::new(&host);
    let mut sql = NativeSql::compile(EXPRESSION)?;
    let (mut by_plugin, mut by_sql, mut by_hand, mut by_both) = (0, 0, 0, 0);
    let plugin = measure::cpu_ns_a_message(rounds, messages, || {
        by_plugin = plugin_matches(&mut judge, &reader, &filters[..1], &queues)?;
        Ok(())
    })?;
    let both = measure::cpu_ns_a_message(rounds, messages, || {
        by_both = plugin_matches(&mut judge, &reader, &filters, &queues)?;
        Ok(())
    })?;
    let native = measure::cpu_ns_a_message(rounds, messages, || {
        by_sql = sql.matches(&reader, &places)?;
        Ok(())
    })?;
    let hand = measure::cpu_ns_a_message(rounds, messages, || {
        by_hand = native::hard_coded(&reader, &places)?;
        Ok(())
    })?;
    ensure!(
        by_plugin == by_sql && by_sql == by_hand && by_both == by_plugin,
        "the evaluators differ: plugin {by_plugin}, together with another {by_both}, native {by_sql}, by hand {by_hand}"
    );
    let batches = places.len() as u64;
    Ok(Case::new("filter")
        .with("expression", EXPRESSION)
        .with("messages", messages)
        .with("batch_sent", stored.batch)
        .with("batches_stored", batches)
        .with("body_bytes", stored.body_bytes as u64)
        .with("matches", by_plugin)
        .figure("plugin_cpu_ns_a_message", plugin)
        .figure("native_sql_cpu_ns_a_message", native)
        .figure("hard_coded_cpu_ns_a_message", hand)
        .figure("plugin_million_messages_per_core_second", 1e3 / plugin)
        .figure("plugin_to_native_sql_ratio", plugin / native)
        .figure("further_subscription_cpu_ns_a_message", both - plugin)
        .figure("further_to_first_subscription_ratio", (both - plugin) / plugin))
}

/// Judges everything by all filters together; returns the matches of the first.
fn plugin_matches(judge: &mut Judge, reader: &LogReader, filters: &[FilterHandle], queues: &[(QueueId, QueueOffset)]) -> Result<u64> {
    let mut matches = 0;
    for &(queue, end) in queues {
        let mut from = QueueOffset(0);
        while from < end {
            let stretch = Stretch {
                queue,
                among: Among::All,
                ttl: None,
                from,
                to: end.min(QueueOffset(from.0 + STRETCH)),
                calls_max: STRETCH,
            };
            let outcomes = judge.stored(reader, filters, stretch)?;
            let judged = outcomes.into_iter().collect::<Result<Vec<_>, _>>()?;
            let first = judged.first().context("a filter judges")?;
            matches += first.deliver.len() as u64;
            from = first.to;
        }
    }
    Ok(matches)
}
