//! What a kind of messages costs beside plain ones: published, taken as a backlog, and taken while they are published, in turn on fresh brokers.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use sluice_client::admin::GroupSettings;
use sluice_client::{Client, NewMessage, ProducerConfig, StreamConfig};
use tokio::task::JoinSet;

use super::consume::{Left, take};
use super::measure::{Spent, median};
use super::report::{Case, Report};
use crate::child::Broker;
use crate::draw::Draw;

const GROUP: &str = "bench";
const BODY_BYTES: usize = 100;
/// Messages sent in one batch.
const BATCH: u32 = 256;
/// What the broker lets one producer have unconfirmed.
const UNCONFIRMED_MAX: usize = sluice_protocol::limits::PRODUCER_UNCONFIRMED_MAX;
/// Priorities are 0 to 9.
const PRIORITIES: u64 = 10;

/// How much is sent, and by whom it is taken.
#[derive(clap::Args)]
pub(super) struct Load {
    /// Messages of each kind and phase
    #[arg(long, default_value_t = 500_000)]
    messages: u64,
    /// Connections that publish, a producer each
    #[arg(long, default_value_t = 8)]
    connections: u64,
    /// Members of the group, a connection each
    #[arg(long, default_value_t = 1)]
    members: u64,
    /// Messages that the broker may push ahead to each member
    #[arg(long, default_value_t = 16_384)]
    credit: u32,
    /// How often each kind is measured, in turn; the medians count
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// What is sent and taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Messages without attributes.
    Plain,
    /// Messages of mixed priorities.
    Priority,
    /// Messages of so many message groups, taken by an ordered group.
    Ordered {
        /// Message groups.
        message_groups: u64,
    },
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Priority => "priority",
            Self::Ordered { .. } => "ordered",
        }
    }

    /// The message with this number. Neighbours have nothing to do with each other.
    fn message(self, number: u64, body: Bytes) -> NewMessage {
        let message = NewMessage::new(body);
        match self {
            Self::Plain => message,
            Self::Priority => message.priority(Draw::new(number).below(PRIORITIES) as u8),
            Self::Ordered { message_groups } => message.group(format!("group-{:06}", Draw::new(number).below(message_groups))),
        }
    }

    fn group(self) -> GroupSettings {
        GroupSettings {
            ordered: match self {
                Self::Plain | Self::Priority => false,
                Self::Ordered { .. } => true,
            },
            ..GroupSettings::default()
        }
    }
}

/// One phase of one round.
#[derive(Clone, Copy)]
struct Phase {
    messages: u64,
    took: Duration,
    spent: Spent,
}

impl Phase {
    fn rate(&self) -> f64 {
        self.messages as f64 / self.took.as_secs_f64()
    }

    fn broker_us(&self) -> f64 {
        self.spent.broker.as_secs_f64() * 1e6 / self.messages as f64
    }

    fn client_us(&self) -> f64 {
        self.spent.client.as_secs_f64() * 1e6 / self.messages as f64
    }
}

/// Published; then taken by a group that found all of it; then published and taken at once.
type Round = [Phase; 3];

/// How the figures of each phase are called: rate, CPU of broker and client, and rate and CPU of the broker beside plain messages.
const NAMES: [[&str; 5]; 3] = [
    [
        "publish_messages_per_second",
        "publish_broker_cpu_us_a_message",
        "publish_client_cpu_us_a_message",
        "publish_rate_to_plain_ratio",
        "publish_broker_cpu_to_plain_ratio",
    ],
    [
        "backlog_messages_per_second",
        "backlog_broker_cpu_us_a_message",
        "backlog_client_cpu_us_a_message",
        "backlog_rate_to_plain_ratio",
        "backlog_broker_cpu_to_plain_ratio",
    ],
    [
        "live_messages_per_second",
        "live_broker_cpu_us_a_message",
        "live_client_cpu_us_a_message",
        "live_rate_to_plain_ratio",
        "live_broker_cpu_to_plain_ratio",
    ],
];

/// Measures plain messages and those of a kind in turn, and prints a case of each.
///
/// # Errors
/// The broker failed, or a message was lost on the way.
pub(super) async fn beside_plain(report: &mut Report<'_>, kind: Kind, load: &Load) -> Result<()> {
    ensure!(
        load.messages > 0 && load.connections > 0 && load.members > 0 && load.rounds > 0,
        "measure more messages"
    );
    let (mut plain, mut special) = (Vec::new(), Vec::new());
    for _ in 0..load.rounds {
        plain.push(measure(Kind::Plain, load).await?);
        special.push(measure(kind, load).await?);
    }
    report.print(&describe(kind, Kind::Plain, load, &plain, None))?;
    report.print(&describe(kind, kind, load, &special, Some(&plain)))
}

fn describe(bench: Kind, kind: Kind, load: &Load, rounds: &[Round], plain: Option<&[Round]>) -> Case {
    let mut case = Case::new(bench.name())
        .with("kind", kind.name())
        .with("body_bytes", BODY_BYTES as u64)
        .with("batch_messages", BATCH)
        .with("messages", load.messages)
        .with("connections", load.connections)
        .with("members", load.members)
        .with("credit", load.credit)
        .with("rounds", load.rounds as u64);
    if let Kind::Ordered { message_groups } = kind {
        case = case.with("message_groups", message_groups);
    }
    for (phase, [rate, broker, client, rate_ratio, broker_ratio]) in NAMES.into_iter().enumerate() {
        let middle = |of: fn(&Phase) -> f64| median(&mut rounds.iter().map(|round| of(&round[phase])).collect::<Vec<_>>());
        case = case
            .figure(rate, middle(Phase::rate))
            .figure(broker, middle(Phase::broker_us))
            .figure(client, middle(Phase::client_us));
        if let Some(plain) = plain {
            let ratio = |of: fn(&Phase) -> f64| {
                let each = rounds.iter().zip(plain).map(|(round, plain)| of(&round[phase]) / of(&plain[phase]));
                median(&mut each.collect::<Vec<_>>())
            };
            case = case
                .figure(rate_ratio, ratio(Phase::rate))
                .figure(broker_ratio, ratio(Phase::broker_us));
        }
    }
    case
}

/// One round on a fresh broker on real files.
async fn measure(kind: Kind, load: &Load) -> Result<Round> {
    let serve: Vec<&str> = load.serve.iter().map(String::as_str).collect();
    let folder = tempfile::tempdir().context("make a folder")?;
    let broker = Broker::start(folder.path(), &serve).await?;
    let (senders, takers) = (connect(&broker, load.connections).await?, connect(&broker, load.members).await?);
    // The path's datagram size is found before the clock starts.
    for client in &senders {
        let producer = client.producer("warm-up", ProducerConfig::default());
        producer.send(NewMessage::new(vec![0; BODY_BYTES])).await?;
    }
    let first = senders.first().context("there is a connection")?;
    for topic in ["backlog", "live"] {
        first.create_topic(topic, None).await?;
    }
    first.create_group(GROUP, Some(kind.group())).await?;
    let messages = load.messages;
    let published = phase(&broker, messages, publish(&senders, "backlog", kind, messages)).await?;
    let backlog = phase(&broker, messages, take_all(&takers, "backlog", load)).await?;
    let both = async {
        let (published, taken) = tokio::join!(publish(&senders, "live", kind, messages), take_all(&takers, "live", load));
        published.and(taken)
    };
    let live = phase(&broker, messages, both).await?;
    for client in senders.into_iter().chain(takers) {
        client.close().await;
    }
    Ok([published, backlog, live])
}

async fn connect(broker: &Broker, count: u64) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for nth in 0..count {
        clients.push(Client::connect(broker.endpoint().client_name(format!("bench-{nth}"))).await?);
    }
    Ok(clients)
}

/// Does something with so many messages and says what it took.
async fn phase(broker: &Broker, messages: u64, work: impl Future<Output = Result<()>>) -> Result<Phase> {
    let before = Spent::now(broker)?;
    let begun = Instant::now();
    work.await?;
    let (took, spent) = (begun.elapsed(), before.since(broker)?);
    Ok(Phase { messages, took, spent })
}

/// Publishes so many messages together, by a producer a client, until all are confirmed.
async fn publish(clients: &[Client], topic: &str, kind: Kind, messages: u64) -> Result<()> {
    let config = ProducerConfig {
        batch_messages: BATCH,
        ..ProducerConfig::default()
    };
    let body = Bytes::from(vec![b'x'; BODY_BYTES]);
    let mut senders = JoinSet::new();
    for (nth, client) in clients.iter().enumerate() {
        let producer = client.producer(topic, config.clone());
        let (body, step) = (body.clone(), clients.len());
        senders.spawn(async move {
            let mut under_way = VecDeque::with_capacity(UNCONFIRMED_MAX);
            for number in (nth as u64..messages).step_by(step) {
                if under_way.len() == UNCONFIRMED_MAX
                    && let Some(oldest) = under_way.pop_front()
                {
                    confirmed(oldest).await?;
                }
                under_way.push_back(producer.enqueue(kind.message(number, body.clone())).await?);
            }
            for left in under_way {
                confirmed(left).await?;
            }
            producer.close().await.context("close a producer")
        });
    }
    senders.join_all().await.into_iter().collect()
}

async fn confirmed(confirmation: sluice_client::Confirmation) -> Result<()> {
    confirmation.await.context("a send was not confirmed").map(drop)
}

/// Has the group take and acknowledge everything; over when the last acknowledgement was confirmed.
async fn take_all(clients: &[Client], topic: &str, load: &Load) -> Result<()> {
    let left = Left::new(load.messages);
    let mut members = JoinSet::new();
    for client in clients {
        let config = StreamConfig {
            credit: load.credit,
            ..StreamConfig::new(topic, GROUP)
        };
        let (client, left) = (client.clone(), left.clone());
        members.spawn(async move {
            let stream = take(client.stream(config).await?, &left).await?;
            stream.close().await;
            anyhow::Ok(())
        });
    }
    members.join_all().await.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(seconds: u64, broker_ms: u64) -> Phase {
        Phase {
            messages: 1_000,
            took: Duration::from_secs(seconds),
            spent: Spent::by_broker(broker_ms),
        }
    }

    #[test]
    fn ratios_to_plain_messages_are_taken_round_by_round() {
        let load = Load {
            messages: 1_000,
            connections: 1,
            members: 1,
            credit: 1,
            rounds: 3,
            serve: Vec::new(),
        };
        // The machine is half as fast in the second round, which the ratios do not show.
        let plain = [[phase(1, 10); 3], [phase(2, 20); 3], [phase(1, 10); 3]];
        let special = [[phase(2, 15); 3], [phase(4, 30); 3], [phase(2, 15); 3]];
        let case = describe(Kind::Priority, Kind::Priority, &load, &special, Some(&plain));
        let figure = |name: &str| case.value(name);
        assert_eq!(figure("publish_rate_to_plain_ratio"), Some(0.5));
        assert_eq!(figure("live_broker_cpu_to_plain_ratio"), Some(1.5));
        assert_eq!(figure("backlog_broker_cpu_us_a_message"), Some(15.0));
        let alone = describe(Kind::Priority, Kind::Plain, &load, &plain, None);
        assert_eq!(alone.value("publish_rate_to_plain_ratio"), None);
    }

    #[test]
    fn every_priority_and_every_message_group_has_messages() {
        let body = Bytes::new();
        let mut priorities = [0; 10];
        for number in 0..10_000 {
            priorities[usize::from(Kind::Priority.message(number, body.clone()).priority)] += 1;
        }
        assert!(priorities.iter().all(|count| *count > 800), "{priorities:?}");
        let kind = Kind::Ordered { message_groups: 100 };
        let groups: std::collections::BTreeSet<_> = (0..10_000).map(|number| kind.message(number, body.clone()).group).collect();
        assert_eq!(groups.len(), 100);
        assert!(kind.group().ordered && !Kind::Priority.group().ordered);
    }
}
