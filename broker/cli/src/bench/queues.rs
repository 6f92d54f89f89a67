//! `sluice bench queues`: very many queues, groups and idle connections, and what each of them costs.

use std::collections::VecDeque;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use sluice_client::admin::TopicSettings;
use sluice_client::{Client, ConsumerConfig, NewMessage, Producer, ProducerConfig};
use tokio::task::JoinSet;

use super::many::Idle;
use super::process::{Observed, own_cpu};
use super::report::{Case, Report};
use crate::child::Broker;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct QueuesBench {
    /// Topics, of `--queues` queues each
    #[arg(long, default_value_t = 25_000)]
    topics: u64,
    #[arg(long, default_value_t = 4)]
    queues: u32,
    /// Connections that are opened and left alone
    #[arg(long, default_value_t = 10_000)]
    connections: u64,
    /// Groups, each of which reads one topic
    #[arg(long, default_value_t = 10_000)]
    groups: u64,
    /// Topics that one further group reads
    #[arg(long, default_value_t = 1_000)]
    readings: u64,
    /// Messages published to every topic
    #[arg(long, default_value_t = 4)]
    messages: u64,
    /// How long the broker is left alone with all of it
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
}

/// Requests under way at a time.
const REQUESTS: usize = 256;
/// Producers open at a time.
const PRODUCERS: usize = 512;

/// What was done and what it took: before, after, the time, and the CPU of the bench itself.
struct Step {
    before: Observed,
    after: Observed,
    took: Duration,
    client: Duration,
}

impl Step {
    /// Does something and observes the broker before and after.
    async fn of(broker: &Broker, work: impl Future<Output = Result<()>>) -> Result<Self> {
        let (before, client) = (Observed::of(broker.pid())?, own_cpu()?);
        let begun = Instant::now();
        work.await?;
        Ok(Self {
            took: begun.elapsed(),
            before,
            after: Observed::of(broker.pid())?,
            client: own_cpu()? - client,
        })
    }

    /// The case of `count` things that were made: their rate, CPU and memory each.
    fn case(&self, name: &str, count: u64) -> Case {
        Case::new(name)
            .with("count", count)
            .figure("seconds", self.took.as_secs_f64())
            .figure("a_second", count as f64 / self.took.as_secs_f64())
            .figure("broker_cpu_us_each", self.after.cpu_us(&self.before, count))
            .figure("client_cpu_us_each", self.client.as_secs_f64() * 1e6 / count.max(1) as f64)
            .figure("resident_kb_each", self.after.more_resident_kb(&self.before, count))
            .figure("broker_resident_mb", self.after.resident_mb())
            .figure("open_files", self.after.open_files as f64)
    }
}

impl QueuesBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        let folder = tempfile::tempdir().context("make a folder")?;
        let config = folder.path().join("sluice.toml");
        let connections = self.connections + 16;
        std::fs::write(&config, format!("[limits]\nconnections = {connections}\n")).context("write the configuration")?;
        let config = config.display().to_string();
        let serve = ["--config", &config];
        let broker = Broker::start(folder.path(), &serve).await?;
        self.make(&broker, report).await?;
        self.leave_alone(&broker, report).await?;
        self.connect(&broker, report).await?;
        broker.kill()?;
        let broker = self.start_again("queues-restart-after-kill", folder.path(), &serve, report).await?;
        broker.stop().await?;
        let broker = self.start_again("queues-restart-after-stop", folder.path(), &serve, report).await?;
        broker.kill()
    }

    /// Topics, messages in them, groups and their readings.
    async fn make(&self, broker: &Broker, report: &mut Report<'_>) -> Result<()> {
        let client = Client::connect(broker.endpoint().client_name("bench")).await?;
        let step = Step::of(broker, create_topics(&client, self.topics, self.queues)).await?;
        report.print(
            &step
                .case("queues-topics", self.topics)
                .with("queues", self.topics * u64::from(self.queues)),
        )?;
        let messages = self.topics * self.messages;
        let step = Step::of(broker, publish(&client, self.topics, self.messages)).await?;
        report.print(&step.case("queues-publish", messages))?;
        let step = Step::of(broker, read(&client, self.groups, self.topics, |nth| format!("group-{nth}"))).await?;
        report.print(&step.case("queues-groups", self.groups))?;
        let step = Step::of(broker, read(&client, self.readings, self.topics, |_| "all".to_owned())).await?;
        report.print(&step.case("queues-readings-of-one-group", self.readings))?;
        let messages = self.topics * self.messages;
        let step = Step::of(broker, publish(&client, self.topics, self.messages)).await?;
        report.print(&step.case("queues-publish-with-groups", messages))?;
        let mut listed = (0, 0);
        let step = Step::of(broker, async {
            listed = (client.topics().await?.len(), client.groups().await?.len());
            Ok(())
        });
        let step = step.await?;
        report.print(&step.case("queues-lists", (listed.0 + listed.1) as u64))?;
        client.close().await;
        Ok(())
    }

    async fn leave_alone(&self, broker: &Broker, report: &mut Report<'_>) -> Result<()> {
        let lasting = Duration::from_secs(self.idle_seconds);
        let step = Step::of(broker, async {
            tokio::time::sleep(lasting).await;
            Ok(())
        });
        let step = step.await?;
        report.print(&idle("queues-idle", &step))
    }

    async fn connect(&self, broker: &Broker, report: &mut Report<'_>) -> Result<()> {
        let ready = broker.ready()?;
        let mut idle_connections = None;
        let step = Step::of(broker, async {
            idle_connections = Some(Idle::open(&ready, self.connections as usize).await?);
            Ok(())
        });
        let opened = step.await?;
        let step = Step::of(broker, async {
            tokio::time::sleep(Duration::from_secs(self.idle_seconds)).await;
            Ok(())
        });
        let left = step.await?;
        let alive = idle_connections.as_ref().map_or(0, Idle::alive);
        let case = opened.case("queues-connections", self.connections);
        report.print(
            &case
                .figure(
                    "resident_kb_each_later",
                    left.after.more_resident_kb(&opened.before, self.connections),
                )
                .figure("alive", alive as f64),
        )?;
        report.print(&idle("queues-connections-idle", &left))?;
        let step = Step::of(broker, async {
            drop(idle_connections.take());
            tokio::time::sleep(Duration::from_secs(2)).await;
            Ok(())
        });
        let closed = step.await?;
        report.print(&closed.case("queues-connections-closed", self.connections))
    }

    async fn start_again(&self, name: &str, folder: &Path, serve: &[&str], report: &mut Report<'_>) -> Result<Broker> {
        let broker = Broker::start(folder, serve).await?;
        let observed = Observed::of(broker.pid())?;
        let ready = broker.ready()?;
        report.print(
            &Case::new(name)
                .with("topics", self.topics)
                .with("queues", self.topics * u64::from(self.queues))
                .with("groups", self.groups)
                .figure("ready_ms", broker.ready_after().as_secs_f64() * 1e3)
                .figure("log_behind_checkpoint_mb", ready.replayed_bytes as f64 / 1e6)
                .figure("records_replayed", ready.replayed_records as f64)
                .figure("read_mb", observed.read_bytes as f64 / 1e6)
                .figure("broker_cpu_ms", observed.cpu.as_secs_f64() * 1e3)
                .figure("broker_resident_mb", observed.resident_mb())
                .figure("open_files", observed.open_files as f64),
        )?;
        Ok(broker)
    }
}

fn idle(name: &str, step: &Step) -> Case {
    Case::new(name)
        .figure("seconds", step.took.as_secs_f64())
        .figure(
            "broker_cpu_ms_a_second",
            (step.after.cpu - step.before.cpu).as_secs_f64() * 1e3 / step.took.as_secs_f64(),
        )
        .figure("client_cpu_ms_a_second", step.client.as_secs_f64() * 1e3 / step.took.as_secs_f64())
        .figure("broker_resident_mb", step.after.resident_mb())
        .figure("open_files", step.after.open_files as f64)
}

fn topic(nth: u64) -> String {
    format!("topic-{nth:06}")
}

async fn create_topics(client: &Client, count: u64, queues: u32) -> Result<()> {
    let mut requests = JoinSet::new();
    for nth in 0..count {
        room(&mut requests).await?;
        let client = client.clone();
        requests.spawn(async move {
            let settings = TopicSettings {
                queues,
                ..TopicSettings::default()
            };
            client.create_topic(&topic(nth), Some(settings)).await.context("create a topic")
        });
    }
    requests.join_all().await.into_iter().collect()
}

/// Publishes to every topic; a producer stays open for a while, as many others are.
async fn publish(client: &Client, topics: u64, messages: u64) -> Result<()> {
    let body = Bytes::from(vec![b'x'; 100]);
    let mut open: VecDeque<(Producer, Vec<sluice_client::Confirmation>)> = VecDeque::new();
    for nth in 0..topics {
        if open.len() == PRODUCERS
            && let Some(oldest) = open.pop_front()
        {
            finish(oldest).await?;
        }
        let producer = client.producer(&topic(nth), ProducerConfig::default());
        let mut confirmations = Vec::new();
        for _ in 0..messages {
            confirmations.push(producer.enqueue(NewMessage::new(body.clone())).await?);
        }
        open.push_back((producer, confirmations));
    }
    for left in open {
        finish(left).await?;
    }
    Ok(())
}

async fn finish((producer, confirmations): (Producer, Vec<sluice_client::Confirmation>)) -> Result<()> {
    for confirmation in confirmations {
        confirmation.await.context("a send was not confirmed")?;
    }
    Ok(producer.close().await?)
}

/// Has `count` groups, or one of them again and again, ask a topic each for a message without waiting; the topics take turns.
async fn read(client: &Client, count: u64, topics: u64, group: impl Fn(u64) -> String) -> Result<()> {
    let mut requests = JoinSet::new();
    for nth in 0..count {
        room(&mut requests).await?;
        let consumer = client.consumer(ConsumerConfig::new(topic(nth % topics.max(1)), group(nth)));
        requests.spawn(async move { consumer.receive(1, Duration::ZERO).await.context("receive").map(drop) });
    }
    requests.join_all().await.into_iter().collect()
}

/// Waits until fewer requests are under way than may be.
async fn room(requests: &mut JoinSet<Result<()>>) -> Result<()> {
    if requests.len() >= REQUESTS
        && let Some(done) = requests.join_next().await
    {
        done.context("a request")??;
    }
    Ok(())
}
