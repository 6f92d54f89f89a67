//! `sluice bench publish`: durable sends over QUIC, with the CPU of broker and client apart.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use sluice_client::{Client, NewMessage, ProducerConfig};
use sluice_server::ProcessUsage;
use tokio::task::JoinSet;

use super::bare;
use super::report::{Case, Report};
use crate::child::Broker;

const TOPIC: &str = "bench";
/// What the broker lets one producer have unconfirmed.
const UNCONFIRMED_MAX: u64 = sluice_protocol::limits::PRODUCER_UNCONFIRMED_MAX as u64;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct PublishBench {
    /// How long each case sends.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections, a producer each.
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// Further arguments for `serve`, such as `--async-durability`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// One way of sending.
#[derive(Clone, Copy)]
struct Load {
    connections: u64,
    /// Sends under way over all connections.
    under_way: u64,
    batch_messages: u32,
    body_bytes: usize,
    lasting: Duration,
}

/// What came of it.
struct Sent {
    messages: u64,
    took: Duration,
    latency_us: Histogram<u64>,
    broker: Duration,
    client: Duration,
    broker_resident_bytes: u64,
}

impl PublishBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        let lasting = Duration::from_secs(self.seconds);
        let serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        for under_way in [256, 4096] {
            let load = Load {
                connections: self.connections,
                under_way,
                batch_messages: 1,
                body_bytes: 100,
                lasting,
            };
            let sent = measure(load, &serve).await?;
            report.print(&describe("publish-unbatched", load, &sent))?;
        }
        for body_bytes in [1000, 100] {
            let load = Load {
                connections: self.connections,
                under_way: UNCONFIRMED_MAX * self.connections,
                batch_messages: 256,
                body_bytes,
                lasting,
            };
            let sent = measure(load, &serve).await?;
            let bytes = sent.messages * body_bytes as u64;
            let bare = bare::transfer(bytes, self.connections).await.context("the bare transfer failed")?;
            let case = describe("publish-batched", load, &sent)
                .figure("bare_quic_body_mb_per_second", bytes as f64 / 1e6 / bare.as_secs_f64())
                .figure("of_bare_quic_ratio", bare.as_secs_f64() / sent.took.as_secs_f64());
            report.print(&case)?;
        }
        Ok(())
    }
}

fn describe(name: &str, load: Load, sent: &Sent) -> Case {
    let messages = sent.messages as f64;
    Case::new(name)
        .with("body_bytes", load.body_bytes as u64)
        .with("batch_messages", load.batch_messages)
        .with("connections", load.connections)
        .with("under_way", load.under_way)
        .figure("seconds", sent.took.as_secs_f64())
        .figure("messages_per_second", messages / sent.took.as_secs_f64())
        .figure(
            "body_mb_per_second",
            messages * load.body_bytes as f64 / 1e6 / sent.took.as_secs_f64(),
        )
        .figure("broker_cpu_us_a_message", sent.broker.as_secs_f64() * 1e6 / messages)
        .figure("client_cpu_us_a_message", sent.client.as_secs_f64() * 1e6 / messages)
        .figure("confirm_p50_us", sent.latency_us.value_at_quantile(0.5) as f64)
        .figure("confirm_p99_us", sent.latency_us.value_at_quantile(0.99) as f64)
        .figure("broker_resident_mb", sent.broker_resident_bytes as f64 / 1e6)
}

/// Sends for as long as the load says to a fresh broker on real files.
async fn measure(load: Load, serve: &[&str]) -> Result<Sent> {
    let folder = tempfile::tempdir().context("make a folder")?;
    let broker = Broker::start(folder.path(), serve).await?;
    let mut clients = Vec::new();
    for _ in 0..load.connections {
        clients.push(Client::connect(broker.endpoint().client_name("bench")).await?);
    }
    // The topic and the path's datagram size are found before the clock starts.
    for client in &clients {
        client
            .producer(TOPIC, ProducerConfig::default())
            .send(NewMessage::new(vec![0; load.body_bytes]))
            .await?;
    }
    let usage = |pid| ProcessUsage::of_process(pid).context("this system does not tell a process's CPU time");
    let (broker_before, client_before) = (usage(broker.pid())?, usage(std::process::id())?);
    let begun = Instant::now();
    let mut senders = JoinSet::new();
    for client in clients {
        senders.spawn(send(client, load, begun));
    }
    let mut messages = 0;
    let mut latency_us = Histogram::new(3)?;
    for sent in senders.join_all().await {
        let (count, latencies) = sent?;
        messages += count;
        latency_us.add(latencies)?;
    }
    let took = begun.elapsed();
    let (broker_after, client_after) = (usage(broker.pid())?, usage(std::process::id())?);
    Ok(Sent {
        messages,
        took,
        latency_us,
        broker: (broker_after.user + broker_after.system) - (broker_before.user + broker_before.system),
        client: (client_after.user + client_after.system) - (client_before.user + client_before.system),
        broker_resident_bytes: broker_after.resident_bytes,
    })
}

/// One connection's sends: as many under way as its share, until time is up; all are confirmed at the end.
async fn send(client: Client, load: Load, begun: Instant) -> Result<(u64, Histogram<u64>)> {
    let config = ProducerConfig {
        batch_messages: load.batch_messages,
        ..ProducerConfig::default()
    };
    let producer = Arc::new(client.producer(TOPIC, config));
    let share = (load.under_way / load.connections).max(1) as usize;
    let body = bytes::Bytes::from(vec![b'x'; load.body_bytes]);
    let mut under_way = VecDeque::with_capacity(share);
    let mut latency_us = Histogram::new(3)?;
    let mut confirmed = 0;
    loop {
        let over = begun.elapsed() >= load.lasting;
        if under_way.len() == share || over {
            let Some((since, confirmation)): Option<(Instant, sluice_client::Confirmation)> = under_way.pop_front() else {
                break;
            };
            confirmation.await.context("a send was not confirmed")?;
            latency_us.record(since.elapsed().as_micros() as u64)?;
            confirmed += 1;
        }
        if !over {
            under_way.push_back((Instant::now(), producer.enqueue(NewMessage::new(body.clone())).await?));
        }
    }
    Ok((confirmed, latency_us))
}
