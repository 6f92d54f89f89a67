//! `sluice bench transaction`: prepared messages, each committed, beside plain sends with as many under way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use sluice_client::{Client, Decision, NewMessage, Producer, ProducerConfig};
use tokio::task::JoinSet;

use super::measure::{Spent, median};
use super::report::{Case, Report};
use crate::child::Broker;

const TOPIC: &str = "bench";
const BODY_BYTES: usize = 100;
/// Messages prepared in one batch and committed by one decision, where they are batched.
const BATCH: u32 = 256;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct TransactionBench {
    /// How long each of the two is sent in each round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Connections, a producer each
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// Messages under way over all connections, one by one: a prepared one until its commit is answered
    #[arg(long, default_value_t = 256)]
    under_way: u64,
    /// How often plain sends and transactions are measured, in turn; the medians count
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// What becomes of a message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    Committed,
}

/// One way of sending: so many tasks a connection, each of which sends a batch and waits until all is done about it.
#[derive(Clone, Copy)]
struct Load {
    batch: u32,
    tasks: u64,
    way: Way,
}

/// What came of it.
struct Sent {
    messages: u64,
    took: Duration,
    latency_us: Histogram<u64>,
    spent: Spent,
}

impl Sent {
    fn broker_us(&self) -> f64 {
        self.spent.broker.as_secs_f64() * 1e6 / self.messages as f64
    }

    fn client_us(&self) -> f64 {
        self.spent.client.as_secs_f64() * 1e6 / self.messages as f64
    }

    fn rate(&self) -> f64 {
        self.messages as f64 / self.took.as_secs_f64()
    }

    fn p50_us(&self) -> f64 {
        self.latency_us.value_at_quantile(0.5) as f64
    }

    fn p99_us(&self) -> f64 {
        self.latency_us.value_at_quantile(0.99) as f64
    }
}

impl TransactionBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        ensure!(self.connections > 0 && self.rounds > 0 && self.seconds > 0, "measure more messages");
        let share = (self.under_way / self.connections).max(1);
        let batches = (sluice_protocol::limits::PRODUCER_UNCONFIRMED_MAX as u64 / u64::from(BATCH)).max(1);
        for (name, batch, tasks) in [("transaction-unbatched", 1, share), ("transaction-batched", BATCH, batches)] {
            let (mut plain, mut committed) = (Vec::new(), Vec::new());
            for _ in 0..self.rounds {
                for (way, sent) in [(Way::Plain, &mut plain), (Way::Committed, &mut committed)] {
                    sent.push(self.measure(Load { batch, tasks, way }).await?);
                }
            }
            report.print(&self.describe(name, batch, tasks, &plain, &committed))?;
        }
        Ok(())
    }

    fn describe(&self, name: &str, batch: u32, tasks: u64, plain: &[Sent], committed: &[Sent]) -> Case {
        let middle = |rounds: &[Sent], of: fn(&Sent) -> f64| median(&mut rounds.iter().map(of).collect::<Vec<_>>());
        let ratio = |of: fn(&Sent) -> f64| {
            let each = committed.iter().zip(plain).map(|(committed, plain)| of(committed) / of(plain));
            median(&mut each.collect::<Vec<_>>())
        };
        Case::new(name)
            .with("body_bytes", BODY_BYTES as u64)
            .with("batch_messages", batch)
            .with("connections", self.connections)
            .with("under_way", self.connections * tasks * u64::from(batch))
            .with("rounds", self.rounds as u64)
            .with("seconds_each", self.seconds)
            .figure("messages_per_second", middle(committed, Sent::rate))
            .figure("broker_cpu_us_a_message", middle(committed, Sent::broker_us))
            .figure("client_cpu_us_a_message", middle(committed, Sent::client_us))
            .figure("committed_p50_us", middle(committed, Sent::p50_us))
            .figure("committed_p99_us", middle(committed, Sent::p99_us))
            .figure("plain_messages_per_second", middle(plain, Sent::rate))
            .figure("plain_broker_cpu_us_a_message", middle(plain, Sent::broker_us))
            .figure("plain_client_cpu_us_a_message", middle(plain, Sent::client_us))
            .figure("plain_confirm_p50_us", middle(plain, Sent::p50_us))
            .figure("plain_confirm_p99_us", middle(plain, Sent::p99_us))
            .figure("broker_cpu_to_plain_ratio", ratio(Sent::broker_us))
            .figure("client_cpu_to_plain_ratio", ratio(Sent::client_us))
            .figure("rate_to_plain_ratio", ratio(Sent::rate))
    }

    /// Sends to a fresh broker on real files; over when the topic has all the messages, committed ones in their queues.
    async fn measure(&self, load: Load) -> Result<Sent> {
        let serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        let folder = tempfile::tempdir().context("make a folder")?;
        let broker = Broker::start(folder.path(), &serve).await?;
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let client = Client::connect(broker.endpoint().client_name("bench")).await?;
            // The path's datagram size is found before the clock starts.
            let producer = client.producer("warm-up", ProducerConfig::default());
            producer.send(NewMessage::new(vec![0; BODY_BYTES])).await?;
            clients.push(client);
        }
        let first = clients.first().context("there is a connection")?.clone();
        first.create_topic(TOPIC, None).await?;
        let before = Spent::now(&broker)?;
        let begun = Instant::now();
        let until = begun + Duration::from_secs(self.seconds);
        let mut tasks = JoinSet::new();
        for client in clients {
            let config = ProducerConfig {
                batch_messages: load.batch,
                ..ProducerConfig::default()
            };
            let producer = Arc::new(client.producer(TOPIC, config));
            for _ in 0..load.tasks {
                tasks.spawn(send(client.clone(), producer.clone(), load, until));
            }
        }
        let (mut messages, mut latency_us) = (0, Histogram::new(3)?);
        for sent in tasks.join_all().await {
            let (count, latencies) = sent?;
            messages += count;
            latency_us.add(latencies)?;
        }
        let took = begun.elapsed();
        stored(&first, messages).await?;
        let spent = before.since(&broker)?;
        Ok(Sent {
            messages,
            took,
            latency_us,
            spent,
        })
    }
}

/// One task's part: a batch after the other until time is up.
async fn send(client: Client, producer: Arc<Producer>, load: Load, until: Instant) -> Result<(u64, Histogram<u64>)> {
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let mut latency_us = Histogram::new(3)?;
    let mut messages = 0;
    while Instant::now() < until {
        let since = Instant::now();
        let mut confirmations = Vec::with_capacity(load.batch as usize);
        for _ in 0..load.batch {
            let message = NewMessage {
                prepared: load.way == Way::Committed,
                ..NewMessage::new(body.clone())
            };
            confirmations.push(producer.enqueue(message).await?);
        }
        let mut handles = Vec::with_capacity(load.batch as usize);
        for confirmation in confirmations {
            handles.extend(confirmation.await.context("a send was not confirmed")?.transaction);
        }
        match load.way {
            Way::Plain => {}
            Way::Committed => {
                ensure!(handles.len() == load.batch as usize, "a message was not prepared");
                client.decide(&handles, Decision::Commit).await.context("a commit failed")?;
            }
        }
        latency_us.record(since.elapsed().as_micros() as u64)?;
        messages += u64::from(load.batch);
    }
    Ok((messages, latency_us))
}

/// Waits until so many messages are in the topic's queues and none waits for a decision.
async fn stored(client: &Client, messages: u64) -> Result<()> {
    let begun = Instant::now();
    loop {
        let topic = client.topic(TOPIC).await?;
        if topic.messages == messages && topic.undecided == 0 {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < Duration::from_secs(30),
            "{messages} messages were sent, {} are stored, {} are undecided",
            topic.messages,
            topic.undecided
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(broker_ms: u64) -> Sent {
        Sent {
            messages: 1_000,
            took: Duration::from_secs(1),
            latency_us: Histogram::new(3).unwrap(),
            spent: Spent::by_broker(broker_ms),
        }
    }

    #[test]
    fn a_transaction_is_held_against_the_plain_send_of_its_round() {
        let bench = TransactionBench {
            seconds: 1,
            connections: 2,
            under_way: 4,
            rounds: 3,
            serve: Vec::new(),
        };
        let (plain, committed) = ([sent(2), sent(8), sent(2)], [sent(4), sent(16), sent(5)]);
        let case = bench.describe("transaction-unbatched", 1, 2, &plain, &committed);
        assert_eq!(case.value("broker_cpu_to_plain_ratio"), Some(2.0));
        assert_eq!(case.value("broker_cpu_us_a_message"), Some(5.0));
    }
}
