//! `sluice bench latency`: from a message's appointed time to its delivery and to its confirmed acknowledgement, at a fixed rate.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use futures_util::future::join_all;
use hdrhistogram::Histogram;
use sluice_client::{Client, Confirmation, MessageStream, NewMessage, Producer, ProducerConfig, StreamConfig};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::measure::Spent;
use super::report::{Case, Report};
use crate::child::Broker;

const TOPIC: &str = "bench";
const BODY_BYTES: usize = 100;
/// The system wakes a sleeper about so late, so the rest of the wait is spun.
const SPUN: Duration = Duration::from_micros(120);

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct LatencyBench {
    /// Messages a second, each at its appointed time, however late the ones before are
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// How long it is measured
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How long messages flow before it is measured
    #[arg(long, default_value_t = 2)]
    warm_up_seconds: u64,
    /// Wait for the disk instead of confirming and delivering what is written
    #[arg(long)]
    sync_durability: bool,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// The appointed times: message `n` is due at `begun + n * every`. Latencies count from there, so that what is late because something before
/// it was slow is counted as late (no coordinated omission: Tene, "How not to measure latency").
#[derive(Clone, Copy)]
struct Schedule {
    begun: Instant,
    every: Duration,
    messages: u32,
    /// The first message that counts.
    counted_from: u32,
}

impl Schedule {
    fn due(&self, number: u32) -> Instant {
        self.begun + self.every * number
    }

    /// Counts what happened to a message at this time.
    fn record(&self, number: u32, at: Instant, latencies: &mut Histogram<u64>) -> Result<()> {
        if number >= self.counted_from {
            latencies.record(at.saturating_duration_since(self.due(number)).as_nanos() as u64)?;
        }
        Ok(())
    }
}

impl LatencyBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        let mut serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        if !self.sync_durability {
            serve.push("--async-durability");
        }
        let folder = tempfile::tempdir().context("make a folder")?;
        let broker = Broker::start(folder.path(), &serve).await?;
        let sender = Client::connect(broker.endpoint().client_name("bench-producer")).await?;
        let taker = Client::connect(broker.endpoint().client_name("bench-consumer")).await?;
        sender.create_topic(TOPIC, None).await?;
        let stream = taker.stream(StreamConfig::new(TOPIC, "bench")).await?;
        let producer = sender.producer(TOPIC, ProducerConfig::default());
        let warm_up = self.warm_up_seconds * u64::from(self.rate);
        let messages = warm_up + self.seconds * u64::from(self.rate);
        let schedule = Schedule {
            begun: Instant::now() + Duration::from_millis(50),
            every: Duration::from_secs(1) / self.rate,
            messages: u32::try_from(messages).context("so many messages are not measured")?,
            counted_from: warm_up as u32,
        };
        let before = Spent::now(&broker)?;
        let begun = Instant::now();
        let handle = Handle::current();
        let sending = tokio::task::spawn_blocking(move || send(&handle, &producer, schedule));
        let (delivered, acknowledged) = take(stream, schedule).await?;
        let (confirmations, sent) = sending.await.context("the sending thread ended")??;
        for confirmation in join_all(confirmations).await {
            confirmation.context("a message was not stored")?;
        }
        let spent = before.since(&broker)?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut case = Case::new("latency")
            .with("rate_per_second", self.rate)
            .with("durability", if self.sync_durability { "sync" } else { "async" })
            .with("body_bytes", BODY_BYTES as u64)
            .with("messages", delivered.len())
            .figure("seconds", seconds)
            .figure(
                "broker_cpu_us_a_message",
                spent.broker.as_secs_f64() * 1e6 / f64::from(schedule.messages),
            )
            .figure(
                "client_cpu_us_a_message",
                spent.client.as_secs_f64() * 1e6 / f64::from(schedule.messages),
            );
        let named: [(&Histogram<u64>, [&'static str; 4]); 3] = [
            (
                &delivered,
                ["delivered_p50_us", "delivered_p99_us", "delivered_p999_us", "delivered_max_us"],
            ),
            (
                &acknowledged,
                [
                    "acknowledged_p50_us",
                    "acknowledged_p99_us",
                    "acknowledged_p999_us",
                    "acknowledged_max_us",
                ],
            ),
            (
                &sent,
                ["sent_late_p50_us", "sent_late_p99_us", "sent_late_p999_us", "sent_late_max_us"],
            ),
        ];
        for (latencies, names) in named {
            for (quantile, name) in [0.5, 0.99, 0.999, 1.0].into_iter().zip(names) {
                case = case.figure(name, latencies.value_at_quantile(quantile) as f64 / 1e3);
            }
        }
        report.print(&case)
    }
}

/// Sends each message at its appointed time from a thread of its own; returns the confirmations to come, and how late the sends themselves
/// were.
fn send(runtime: &Handle, producer: &Producer, schedule: Schedule) -> Result<(Vec<Confirmation>, Histogram<u64>)> {
    let mut confirmations = Vec::with_capacity(schedule.messages as usize);
    let mut late = Histogram::new(3)?;
    for number in 0..schedule.messages {
        let due = schedule.due(number);
        std::thread::sleep(due.saturating_duration_since(Instant::now()).saturating_sub(SPUN));
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let mut body = vec![b'x'; BODY_BYTES];
        body[..4].copy_from_slice(&number.to_le_bytes());
        schedule.record(number, Instant::now(), &mut late)?;
        confirmations.push(runtime.block_on(producer.enqueue(NewMessage::new(body)))?);
    }
    Ok((confirmations, late))
}

/// Takes every message and acknowledges each for itself, none waiting for the acknowledgement of another.
async fn take(mut stream: MessageStream, schedule: Schedule) -> Result<(Histogram<u64>, Histogram<u64>)> {
    let (mut delivered, mut acknowledged) = (Histogram::new(3)?, Histogram::new(3)?);
    let (done, mut acks) = mpsc::unbounded_channel();
    for _ in 0..schedule.messages {
        let message = stream.next().await?.context("the stream ended")?;
        let at = Instant::now();
        let body = message.body();
        let number = body
            .first_chunk()
            .map(|number| u32::from_le_bytes(*number))
            .context("a body is too short")?;
        schedule.record(number, at, &mut delivered)?;
        let (settler, done) = (stream.settler(), done.clone());
        tokio::spawn(async move {
            let outcome = settler.ack(&message).await;
            // The receiver outlives every acknowledgement, or the run has failed.
            let _ = done.send((number, Instant::now(), outcome));
        });
    }
    drop(done);
    while let Some((number, at, outcome)) = acks.recv().await {
        outcome.map_err(|error| anyhow!("an acknowledgement failed: {error}"))?;
        schedule.record(number, at, &mut acknowledged)?;
    }
    stream.close().await;
    Ok((delivered, acknowledged))
}
