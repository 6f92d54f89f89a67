//! `sluice bench consume`: a group takes everything by stream from the page cache, against a bare QUIC transfer of the same bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sluice_client::{Client, MessageStream, NewMessage, StreamConfig};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::bare;
use super::measure::{Spent, median};
use super::report::{Case, Report};
use super::store;
use crate::child::Broker;

const TOPIC: &str = "bench";
/// Messages stored in one batch.
const BATCH: u32 = 256;
/// Messages taken and acknowledged at once.
const RUN: usize = 256;

/// What to measure.
#[derive(clap::Args)]
pub(crate) struct ConsumeBench {
    /// Messages with bodies of 100 B; three tenths as many with bodies of 1000 B
    #[arg(long, default_value_t = 2_000_000)]
    messages: u64,
    /// Connections, a member of the group each
    #[arg(long, default_value_t = 1)]
    connections: u64,
    /// Messages that the broker may push ahead to each member
    #[arg(long, default_value_t = 16_384)]
    credit: u32,
    /// How often a new group takes everything; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Further arguments for `serve`
    #[arg(last = true)]
    pub(super) serve: Vec<String>,
}

/// What came of one round.
struct Round {
    took: Duration,
    bare: Duration,
    spent: Spent,
}

impl ConsumeBench {
    pub(super) async fn run(self, report: &mut Report<'_>) -> Result<()> {
        for (body_bytes, messages) in [(1000, self.messages * 3 / 10), (100, self.messages)] {
            report.print(&self.case(body_bytes, messages).await?)?;
        }
        Ok(())
    }

    async fn case(&self, body_bytes: usize, messages: u64) -> Result<Case> {
        let serve: Vec<&str> = self.serve.iter().map(String::as_str).collect();
        let folder = tempfile::tempdir().context("make a folder")?;
        let broker = Broker::start(folder.path(), &serve).await?;
        let body = bytes::Bytes::from(vec![b'x'; body_bytes]);
        store::publish(&broker, TOPIC, messages, BATCH, |_| NewMessage::new(body.clone())).await?;
        let mut rounds = Vec::new();
        for round in 0..self.rounds {
            let (took, spent) = self.take_all(&broker, &format!("group-{round}"), messages).await?;
            let bare = bare::transfer(messages * body_bytes as u64, self.connections).await;
            let bare = bare.context("the bare transfer failed")?;
            rounds.push(Round { took, bare, spent });
        }
        let middle = |of: fn(&Round) -> f64| median(&mut rounds.iter().map(of).collect::<Vec<_>>());
        let count = messages as f64;
        let mb = count * body_bytes as f64 / 1e6;
        let seconds = middle(|round| round.took.as_secs_f64());
        Ok(Case::new("consume")
            .with("body_bytes", body_bytes as u64)
            .with("messages", messages)
            .with("connections", self.connections)
            .with("credit", self.credit)
            .with("rounds", self.rounds as u64)
            .figure("seconds", seconds)
            .figure("messages_per_second", count / seconds)
            .figure("body_mb_per_second", mb / seconds)
            .figure(
                "broker_cpu_us_a_message",
                middle(|round| round.spent.broker.as_secs_f64()) * 1e6 / count,
            )
            .figure(
                "client_cpu_us_a_message",
                middle(|round| round.spent.client.as_secs_f64()) * 1e6 / count,
            )
            .figure("bare_quic_body_mb_per_second", mb / middle(|round| round.bare.as_secs_f64()))
            .figure(
                "of_bare_quic_ratio",
                middle(|round| round.bare.as_secs_f64() / round.took.as_secs_f64()),
            ))
    }

    /// Has a new group take and acknowledge everything; over when the last acknowledgement was confirmed.
    async fn take_all(&self, broker: &Broker, group: &str, messages: u64) -> Result<(Duration, Spent)> {
        let mut clients = Vec::new();
        for member in 0..self.connections {
            clients.push(Client::connect(broker.endpoint().client_name(format!("bench-{member}"))).await?);
        }
        let left = Left::new(messages);
        let before = Spent::now(broker)?;
        let begun = Instant::now();
        let mut members = JoinSet::new();
        for client in clients {
            let config = StreamConfig {
                credit: self.credit,
                ..StreamConfig::new(TOPIC, group)
            };
            let left = left.clone();
            members.spawn(async move {
                let stream = client.stream(config).await?;
                let stream = take(stream, &left).await?;
                anyhow::Ok((client, stream))
            });
        }
        let members = members.join_all().await;
        let (took, spent) = (begun.elapsed(), before.since(broker)?);
        for member in members {
            let (client, stream) = member?;
            stream.close().await;
            client.close().await;
        }
        Ok((took, spent))
    }
}

/// What no member has taken yet.
pub(super) struct Left {
    messages: AtomicU64,
    none: Notify,
}

impl Left {
    /// So many messages.
    pub(super) fn new(messages: u64) -> Arc<Self> {
        Arc::new(Self {
            messages: AtomicU64::new(messages),
            none: Notify::new(),
        })
    }
}

/// One member's part: until nothing is left, with all that it took acknowledged.
///
/// # Errors
/// The stream ended, or an acknowledgement failed.
pub(super) async fn take(mut stream: MessageStream, left: &Left) -> Result<MessageStream> {
    let mut acks = JoinSet::new();
    loop {
        // Made before looking, so that it is told of what happens after.
        let none = left.none.notified();
        if left.messages.load(Ordering::Acquire) == 0 {
            break;
        }
        let run = tokio::select! {
            run = stream.next_run(RUN) => run?,
            () = none => break,
        };
        let last = run.last().context("the stream ended")?.clone();
        let settler = stream.settler();
        acks.spawn(async move { settler.ack_up_to(&last).await });
        let taken = run.len() as u64;
        if left.messages.fetch_sub(taken, Ordering::AcqRel) == taken {
            left.none.notify_waiters();
        }
    }
    for acknowledged in acks.join_all().await {
        acknowledged.context("an acknowledgement failed")?;
    }
    Ok(stream)
}
