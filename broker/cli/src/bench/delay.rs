//! `sluice bench delay`: very many delayed messages waiting, so many due a second: how late each comes, and what one that waits takes of memory.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use sluice_client::{Client, NewMessage, ProducerConfig, StreamConfig};
use tokio::task::JoinSet;

use super::measure::Spent;
use super::process::Observed;
use super::report::{Case, Report};
use crate::child::Broker;

const TOPIC: &str = "bench";
const BODY_BYTES: usize = 100;
/// Messages taken at once.
const RUN: usize = 1_024;
/// A prime that no sensible number of messages is a multiple of: strides by it visit all of them, each far from the one before.
const STRIDE: u64 = 2_147_483_647;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct DelayBench {
    /// Messages that wait when the first is due; they are sent in no order of their times
    #[arg(long, default_value_t = 1_000_000)]
    pending: u64,
    /// Messages due in a second
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// How long messages are due while it is measured; the rest goes on waiting
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// How long from the beginning the first is due; when one is sent later than that, the run fails [default: 60 for each million that waits]
    #[arg(long)]
    fill_seconds: Option<u64>,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// What came of the messages that were due.
struct Taken {
    late_us: Histogram<u64>,
    early: u64,
}

/// The wall clock, in microseconds since 1970.
fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
}

impl DelayBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        ensure!(self.rate > 0 && self.pending >= 10, "measure more messages");
        let serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        let folder = tempfile::tempdir().context("make a folder")?;
        let broker = Broker::start(folder.path(), &serve).await?;
        let client = Client::connect(broker.endpoint().client_name("bench")).await?;
        client.create_topic(TOPIC, None).await?;
        let stream = client.stream(StreamConfig::new(TOPIC, "bench")).await?;
        let empty = Observed::of(broker.pid())?;
        let first_due_ms = wall_us() / 1_000 + i64::try_from(self.fill_seconds() * 1_000)?;
        // What a broker takes once, however many wait, is there after the first tenth.
        let tenth = self.pending / 10;
        let begun = Instant::now();
        self.fill(&client, first_due_ms, 0..tenth).await?;
        let before = Observed::of(broker.pid())?;
        self.fill(&client, first_due_ms, tenth..self.pending).await?;
        let after = Observed::of(broker.pid())?;
        let filled = begun.elapsed();
        ensure!(
            wall_us() / 1_000 < first_due_ms,
            "the first message was due before all were sent: give more --fill-seconds"
        );
        let spent = Spent::now(&broker)?;
        let due = (self.rate * self.seconds).min(self.pending);
        let taken = self.take(stream, due).await?;
        let spent = spent.since(&broker)?;
        let late_ms = |quantile| taken.late_us.value_at_quantile(quantile) as f64 / 1e3;
        report.print(
            &Case::new("delay")
                .with("pending", self.pending)
                .with("due_per_second", self.rate)
                .with("messages", due)
                .with("early", taken.early)
                .with("body_bytes", BODY_BYTES as u64)
                .figure("fill_seconds", filled.as_secs_f64())
                .figure("fill_messages_per_second", self.pending as f64 / filled.as_secs_f64())
                .figure("late_p50_ms", late_ms(0.5))
                .figure("late_p99_ms", late_ms(0.99))
                .figure("late_p999_ms", late_ms(0.999))
                .figure("late_max_ms", late_ms(1.0))
                .figure("broker_cpu_us_a_message", spent.broker.as_secs_f64() * 1e6 / due as f64)
                .figure("client_cpu_us_a_message", spent.client.as_secs_f64() * 1e6 / due as f64)
                .figure("broker_resident_before_mb", empty.resident_mb())
                .figure("broker_resident_mb", after.resident_mb())
                .figure(
                    "resident_bytes_a_waiting_message",
                    after.more_resident_kb(&before, self.pending - tenth) * 1e3,
                ),
        )?;
        client.close().await;
        Ok(())
    }

    fn fill_seconds(&self) -> u64 {
        self.fill_seconds.unwrap_or(self.pending.div_ceil(1_000_000) * 60)
    }

    /// Sends the messages with these numbers, each due at a place of the whole time that has nothing to do with its number.
    async fn fill(&self, client: &Client, first_due_ms: i64, numbers: std::ops::Range<u64>) -> Result<()> {
        let config = ProducerConfig {
            linger_ms: 2,
            batch_messages: 256,
            ..ProducerConfig::default()
        };
        let producer = client.producer(TOPIC, config);
        let mut under_way = VecDeque::new();
        for number in numbers {
            let place = (u128::from(number) * u128::from(STRIDE) % u128::from(self.pending)) as u64;
            let due_ms = first_due_ms + i64::try_from(place * 1_000 / self.rate)?;
            let message = NewMessage::new(vec![b'x'; BODY_BYTES]).deliver_at_ms(due_ms);
            under_way.push_back(producer.enqueue(message).await?);
            if under_way.len() >= RUN
                && let Some(confirmation) = under_way.pop_front()
            {
                confirmation.await.context("a message was not taken")?;
            }
        }
        for confirmation in under_way {
            confirmation.await.context("a message was not taken")?;
        }
        Ok(producer.close().await?)
    }

    /// Takes what is due first, and notes how late each is.
    async fn take(&self, mut stream: sluice_client::MessageStream, due: u64) -> Result<Taken> {
        let mut taken = Taken {
            late_us: Histogram::new(3)?,
            early: 0,
        };
        let mut acks = JoinSet::new();
        while taken.late_us.len() < due {
            let run = stream.next_run(RUN);
            let run = tokio::time::timeout(Duration::from_secs(self.fill_seconds() + 60), run)
                .await
                .context("no message comes any more")??;
            let now_us = wall_us();
            for message in &run {
                let due_ms = message.deliver_at_ms().context("a message has no time")?;
                let late_us = now_us - due_ms * 1_000;
                taken.early += u64::from(late_us < 0);
                taken.late_us.record(late_us.max(0) as u64)?;
            }
            let last = run.last().context("the stream ended")?.clone();
            let settler = stream.settler();
            acks.spawn(async move { settler.ack_up_to(&last).await });
        }
        for acknowledged in acks.join_all().await {
            acknowledged.context("an acknowledgement failed")?;
        }
        stream.close().await;
        Ok(taken)
    }
}
