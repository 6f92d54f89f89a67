//! `sluice bench search`: stored messages found by id and by key, and what each search reads.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use sluice_client::{Client, MessageId, NewMessage, ReadFrom, ReadTo, Reading};

use super::measure::Spent;
use super::report::{Case, Report};
use super::store;
use crate::child::Broker;

const TOPIC: &str = "bench";
/// What the cost is computed for from the numbers of segments that were measured.
const COMPUTED_GB: f64 = 100.0;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct SearchBench {
    /// Bodies stored; searches are measured with a quarter of them and with all
    #[arg(long, default_value_t = 1.0)]
    gigabytes: f64,
    #[arg(long, default_value_t = 1000)]
    body_bytes: usize,
    #[arg(long, default_value_t = 256)]
    batch_messages: u32,
    /// Searches of each kind with all that they need in the page cache
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    searches: u64,
    /// Searches of each kind before each of which the log is dropped from the page cache
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    cold_searches: u64,
    /// Where a search has a range of times, how far it reaches before and behind the message
    #[arg(long, default_value_t = 1_000)]
    range_ms: i64,
    /// Where to store; a temporary folder unless given
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// What is asked for.
#[derive(Clone, Copy)]
enum By {
    Id,
    Key,
    KeyInRange,
}

impl By {
    const ALL: [Self; 3] = [Self::Id, Self::Key, Self::KeyInRange];

    fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Key => "key",
            Self::KeyInRange => "key-in-range",
        }
    }
}

/// A stored message that is looked for.
struct Wanted {
    number: u64,
    id: MessageId,
    /// About when it was stored.
    wall_ms: i64,
}

/// Searches of one kind.
struct Searches {
    took_us: Histogram<u64>,
    first: Duration,
    spent: Spent,
}

impl Searches {
    fn ms(&self, quantile: f64) -> f64 {
        self.took_us.value_at_quantile(quantile) as f64 / 1e3
    }

    fn each(&self, total: f64) -> f64 {
        total / self.took_us.len() as f64
    }
}

/// What was measured with so many segments.
struct Measured {
    segments: u64,
    cold: Searches,
    warm: Searches,
}

fn key(number: u64) -> String {
    format!("key-{number:010}")
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// What it takes with `segments` segments, when each further one takes as much as those between the two that were measured:
/// full + (segments - full segments) * (full - part) / (full segments - part segments).
fn computed(segments: f64, part: (f64, f64), full: (f64, f64)) -> f64 {
    let further = full.0 - part.0;
    let slope = if further > 0.0 {
        ((full.1 - part.1) / further).max(0.0)
    } else {
        0.0
    };
    full.1 + (segments - full.0).max(0.0) * slope
}

impl SearchBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        ensure!(self.body_bytes > 0, "bodies have a byte at least");
        let serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        let folder = store::folder(self.folder.as_deref())?;
        let log = sluice_server::log_directory(&folder.path().join("data"));
        let messages = (self.gigabytes * 1e9 / self.body_bytes as f64) as u64;
        ensure!(messages >= 4 * self.searches, "store more messages than are looked for");
        let mut wanted = Vec::new();
        let mut measured = Vec::new();
        for part in [0..messages / 4, messages / 4..messages] {
            let broker = Broker::start(folder.path(), &serve).await?;
            self.fill(&broker, part.clone(), messages, &mut wanted).await?;
            broker.stop().await?;
            for by in By::ALL {
                measured.push(self.measure(folder.path(), &log, by, &wanted, &serve).await?);
            }
        }
        let (quarter, all) = measured.split_at(By::ALL.len());
        for ((by, quarter), all) in By::ALL.into_iter().zip(quarter).zip(all) {
            report.print(&self.describe(by, messages / 4, quarter))?;
            let segments = all.segments as f64 * COMPUTED_GB / self.gigabytes;
            let at = |of: fn(&Measured) -> f64| {
                let place = |measured: &Measured| (measured.segments as f64, of(measured));
                computed(segments, place(quarter), place(all))
            };
            let case = self
                .describe(by, messages, all)
                .figure("computed_100_gb_segments", segments)
                .figure("computed_100_gb_warm_p50_ms", at(|measured| measured.warm.ms(0.5)))
                .figure("computed_100_gb_warm_p99_ms", at(|measured| measured.warm.ms(0.99)));
            report.print(&case)?;
        }
        Ok(())
    }

    fn describe(&self, by: By, messages: u64, measured: &Measured) -> Case {
        let Measured { segments, cold, warm } = measured;
        let kb = |searches: &Searches, bytes: u64| searches.each(bytes as f64 / 1e3);
        Case::new("search")
            .with("by", by.name())
            .with("body_bytes", self.body_bytes as u64)
            .with("batch_messages", self.batch_messages)
            .with("messages", messages)
            .with("segments", *segments)
            .with("range_ms", self.range_ms)
            .with("searches", warm.took_us.len())
            .with("cold_searches", cold.took_us.len())
            .figure("stored_bodies_gb", messages as f64 * self.body_bytes as f64 / 1e9)
            .figure("first_ms", cold.first.as_secs_f64() * 1e3)
            .figure("cold_p50_ms", cold.ms(0.5))
            .figure("cold_p99_ms", cold.ms(0.99))
            .figure("cold_read_kb_a_search", kb(cold, cold.spent.read_bytes))
            .figure("cold_device_read_kb_a_search", kb(cold, cold.spent.device_bytes))
            .figure("warm_p50_ms", warm.ms(0.5))
            .figure("warm_p99_ms", warm.ms(0.99))
            .figure("warm_read_kb_a_search", kb(warm, warm.spent.read_bytes))
            .figure("warm_device_read_kb_a_search", kb(warm, warm.spent.device_bytes))
            .figure("warm_broker_cpu_us_a_search", warm.each(warm.spent.broker.as_secs_f64() * 1e6))
            .figure("warm_client_cpu_us_a_search", warm.each(warm.spent.client.as_secs_f64() * 1e6))
    }

    /// Stores the messages with these numbers and notes some of them, spread over all.
    async fn fill(&self, broker: &Broker, numbers: std::ops::Range<u64>, messages: u64, wanted: &mut Vec<Wanted>) -> Result<()> {
        let body = Bytes::from(vec![b'x'; self.body_bytes]);
        // A quarter of the messages must have as many as are looked for.
        let every = (messages / 4 / self.searches).max(1);
        let first = numbers.start;
        let make = |nth: u64| NewMessage::new(body.clone()).key(key(first + nth));
        let note = |nth: u64, receipt: sluice_client::Receipt| {
            let number = first + nth;
            if number.is_multiple_of(every) {
                let (id, wall_ms) = (receipt.id, wall_ms());
                wanted.push(Wanted { number, id, wall_ms });
            }
        };
        let count = numbers.end - numbers.start;
        store::fill(broker, &[TOPIC.to_owned()], count, self.batch_messages, make, note).await
    }

    /// Searches after a start of the broker: cold, each for another message, then once to warm up, then warm.
    async fn measure(&self, folder: &Path, log: &Path, by: By, wanted: &[Wanted], serve: &[&str]) -> Result<Measured> {
        let broker = Broker::start(folder, serve).await?;
        let client = Client::connect(broker.endpoint().client_name("bench")).await?;
        let cold = self
            .searches(&broker, &client, by, &spread(wanted, self.cold_searches), Some(log))
            .await?;
        let chosen = spread(wanted, self.searches);
        self.searches(&broker, &client, by, &chosen, None).await?;
        let warm = self.searches(&broker, &client, by, &chosen, None).await?;
        client.close().await;
        let (segments, _) = store::files(log, "segment-")?;
        broker.stop().await?;
        Ok(Measured { segments, cold, warm })
    }

    /// One search after the other; before each, what the page cache has of `dropped` is dropped.
    async fn searches(&self, broker: &Broker, client: &Client, by: By, wanted: &[&Wanted], dropped: Option<&Path>) -> Result<Searches> {
        let mut took_us = Histogram::new(3)?;
        let mut first = None;
        let before = Spent::now(broker)?;
        for wanted in wanted {
            if let Some(log) = dropped {
                store::drop_cached(log)?;
            }
            let begun = Instant::now();
            self.find(client, by, wanted).await?;
            let took = begun.elapsed();
            first.get_or_insert(took);
            took_us.record(took.as_micros() as u64)?;
        }
        Ok(Searches {
            took_us,
            first: first.context("nothing was looked for")?,
            spent: before.since(broker)?,
        })
    }

    async fn find(&self, client: &Client, by: By, wanted: &Wanted) -> Result<()> {
        let key = key(wanted.number);
        let (from, to) = match by {
            By::Id => {
                let found = client.message(&wanted.id.to_string()).await?;
                ensure!(found.keys().eq([key.as_str()]), "another message was found by its id");
                return Ok(());
            }
            By::Key => (ReadFrom::Earliest, ReadTo::End),
            By::KeyInRange => (
                ReadFrom::Time(wanted.wall_ms - self.range_ms),
                ReadTo::BeforeTime(wanted.wall_ms + self.range_ms),
            ),
        };
        let mut pages = client.read(&Reading {
            key: Some(key),
            from,
            to,
            ..Reading::of(TOPIC)
        });
        let mut found = 0;
        while let Some(page) = pages.next(10).await? {
            found += page.messages.len();
            ensure!(
                page.messages.iter().all(|message| message.id() == wanted.id),
                "another message was found by the key"
            );
        }
        ensure!(found == 1, "{found} messages were found by one's key");
        Ok(())
    }
}

/// So many of them, or all, spread evenly, in an order that jumps about.
fn spread(wanted: &[Wanted], count: u64) -> Vec<&Wanted> {
    let count = (count as usize).min(wanted.len());
    let mut chosen: Vec<&Wanted> = (0..count).map(|nth| &wanted[nth * wanted.len() / count]).collect();
    // A fixed order that has nothing to do with that of storing.
    chosen.sort_unstable_by_key(|wanted| crate::draw::Draw::new(wanted.number).below(u64::MAX));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_more_segments_take_is_computed_from_the_two_numbers_that_were_measured() {
        assert_eq!(computed(1_600.0, (40.0, 1.0), (160.0, 2.5)), 20.5);
        // What is no slower with more segments is not taken to get faster, and fewer are not computed.
        assert_eq!(computed(1_600.0, (40.0, 2.0), (160.0, 1.5)), 1.5);
        assert_eq!(computed(100.0, (40.0, 1.0), (160.0, 2.5)), 2.5);
        assert_eq!(computed(1_600.0, (1.0, 1.0), (1.0, 2.0)), 2.0);
    }

    #[test]
    fn messages_that_are_looked_for_are_spread_over_all_and_differ() {
        let id = MessageId {
            producer: 0,
            sequence: sluice_protocol::ids::Sequence(0),
        };
        let wanted: Vec<Wanted> = (0..100).map(|number| Wanted { number, id, wall_ms: 0 }).collect();
        let mut numbers: Vec<u64> = spread(&wanted, 10).iter().map(|wanted| wanted.number).collect();
        assert!(!numbers.is_sorted());
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).step_by(10).collect::<Vec<_>>());
        assert_eq!(spread(&wanted, 1_000).len(), 100);
    }
}
