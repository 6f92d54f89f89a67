//! Registrations: published once, read by services that do not know of one another, one of them added later.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use sluice_client::admin::SeekTo;
use sluice_client::{Client, MessageId, NewMessage, ProducerConfig, Start, StreamConfig};

use super::create;
use super::expectations::{Tally, expect};
use super::service::Service;

/// How many register before the gift packs are thought of.
const EARLY: usize = 500;
/// How many register afterwards.
const LATE: usize = 20;

/// What the services got so far.
struct Got {
    service: Service,
    tally: Tally<MessageId>,
}

impl Got {
    async fn nothing_yet(client: &Client, config: StreamConfig) -> Result<Self> {
        let service = Service::start(client, config).await?;
        let tally = Tally::new();
        Ok(Self { service, tally })
    }

    /// Takes until so many different registrations are here.
    async fn take_until(&mut self, enough: usize) -> Result<()> {
        while self.tally.len() < enough {
            self.service
                .take_run()
                .await?
                .iter()
                .for_each(|message| self.tally.add(message.id()));
        }
        Ok(())
    }
}

/// Tells of the registrations.
pub(super) async fn tell(client: &Client, name: &str) -> Result<()> {
    let topic = format!("{name}-accounts");
    let group = |service: &str| format!("{name}-{service}");
    create(client, &topic).await?;
    println!("1. {EARLY} users register; the account service publishes `user-registered` once for each");
    let mut points = Got::nothing_yet(client, StreamConfig::new(&topic, group("points"))).await?;
    let mut registered = register(client, &topic, 0..EARLY).await?;
    println!("   every registration was confirmed while points was running and coupons was not");
    points.take_until(EARLY).await?;
    points.tally.expect_just(&registered, "points got every registration, each once")?;
    let mut coupons = Got::nothing_yet(client, StreamConfig::new(&topic, group("coupons"))).await?;
    coupons.take_until(EARLY).await?;
    coupons
        .tally
        .expect_just(&registered, "coupons started later and got every registration, each once")?;

    println!("   A new service, gift-pack, starts at the latest; then it is set back to the earliest while it is connected");
    let before = [places(client, &group("points")).await?, places(client, &group("coupons")).await?];
    let from_latest = StreamConfig {
        start: Some(Start::Latest),
        ..StreamConfig::new(&topic, group("gift-pack"))
    };
    let mut gift_pack = Got::nothing_yet(client, from_latest).await?;
    let replayed = client.seek(&group("gift-pack"), &topic, None, SeekTo::Earliest).await;
    replayed.context("the replay was refused")?;
    gift_pack.take_until(EARLY).await?;
    gift_pack
        .tally
        .expect_just(&registered, "gift-pack got every earlier registration, each once")?;
    let after = [places(client, &group("points")).await?, places(client, &group("coupons")).await?];
    expect(before == after, "the cursors of points and coupons are where they were")?;

    println!("   {LATE} more users register");
    registered.append(&mut register(client, &topic, EARLY..EARLY + LATE).await?);
    let services = [("points", points), ("coupons", coupons), ("gift-pack", gift_pack)];
    for (service, mut got) in services {
        got.take_until(EARLY + LATE).await?;
        got.service.stop_when_nothing_is_left().await?;
        let what = format!("{service} got the new ones and no earlier one again");
        got.tally.expect_just(&registered, &what)?;
    }
    Ok(())
}

/// The account service: registers these users and returns the id of each registration, once all are confirmed.
async fn register(client: &Client, topic: &str, users: std::ops::Range<usize>) -> Result<BTreeSet<MessageId>> {
    let producer = client.producer(topic, ProducerConfig::default());
    let mut confirmations = Vec::new();
    for user in users {
        let message = NewMessage::new(format!("{{\"user\":{user}}}"))
            .tag("user-registered")
            .key(format!("user-{user}"));
        confirmations.push(producer.enqueue(message).await?);
    }
    let mut ids = BTreeSet::new();
    for confirmation in confirmations {
        ids.insert(confirmation.await.context("a registration was not confirmed")?.id);
    }
    producer.close().await?;
    Ok(ids)
}

/// Where a group is in each queue: its pass, what it has settled up to, and what it has looked at up to.
async fn places(client: &Client, group: &str) -> Result<Vec<(u32, u32, u64, u64)>> {
    let cursors = client.group(group).await?.cursors;
    let place = cursors.iter().map(|at| (at.queue, at.pass, at.cursor, at.frontier));
    Ok(place.collect())
}
