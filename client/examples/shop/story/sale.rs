//! The sale: orders come twenty times as fast as the tills can serve them; the broker takes them all, and the tills catch up.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sluice_client::{Client, Confirmation, MessageId, NewMessage, ProducerConfig, StreamConfig};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::create;
use super::expectations::{Tally, expect};
use super::service::Service;

/// How many orders come.
const ORDERS: usize = 4_000;
/// How many come while the tills serve one.
const TIMES: usize = 20;
/// How many tills there are, members of one group.
const TILLS: usize = 4;
/// How many orders are on their way before the oldest confirmation is waited for.
const UNDER_WAY: usize = 500;
/// How long the tills may take; only a broken broker comes near it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Tells of the sale.
pub(super) async fn tell(client: &Client, name: &str) -> Result<()> {
    let (topic, group) = (format!("{name}-sale"), format!("{name}-tills"));
    create(client, &topic).await?;
    println!("\n3. A sale: {ORDERS} orders come {TIMES} times as fast as {TILLS} tills serve them");
    // The time that the tills have: one permit for each order that they may serve. So the ratio holds however fast the machine is.
    let time = Arc::new(Semaphore::new(0));
    let (serve, mut served) = mpsc::unbounded_channel();
    let mut tills = JoinSet::new();
    for till in 0..TILLS {
        let config = StreamConfig {
            credit: 8,
            member: Some(format!("till-{till}")),
            ..StreamConfig::new(&topic, &group)
        };
        let service = Service::start(client, config).await?;
        tills.spawn(run_till(service, time.clone(), serve.clone()));
    }
    drop(serve);

    let begun = Instant::now();
    let ordered = order_all(client, &topic, &time).await?;
    let burst = begun.elapsed();
    let mut tally = Tally::new();
    while let Ok(order) = served.try_recv() {
        tally.add(order?);
    }
    println!(
        "   all confirmed after {:.2} s, {:.0} orders/s; the tills have served {} of them",
        burst.as_secs_f64(),
        ORDERS as f64 / burst.as_secs_f64(),
        tally.len()
    );
    expect(tally.len() * TIMES <= ORDERS, "at least 19 of 20 orders wait in the broker")?;
    let Ok(drained) = tokio::time::timeout(PATIENCE, drain(&mut tally, &mut served, &time, burst)).await else {
        bail!(
            "the tills served {} of {ORDERS} orders within {} s",
            tally.len(),
            PATIENCE.as_secs()
        );
    };
    drained?;
    println!("   all served after {:.2} s", begun.elapsed().as_secs_f64());
    tally.expect_just(&ordered, "every order was served, each by one till and once")?;
    tills.shutdown().await;
    expect(client.group(&group).await?.lag == 0, "nothing is left of the burst")
}

/// Orders as fast as the broker confirms, and gives the tills time for one order while twenty are confirmed.
async fn order_all(client: &Client, topic: &str, time: &Semaphore) -> Result<BTreeSet<MessageId>> {
    let producer = client.producer(topic, ProducerConfig::default());
    let mut under_way: VecDeque<Confirmation> = VecDeque::with_capacity(UNDER_WAY);
    let mut ids = BTreeSet::new();
    for number in 0..ORDERS + UNDER_WAY {
        if number >= UNDER_WAY {
            let oldest = under_way.pop_front().expect("as many are under way");
            ids.insert(oldest.await.context("an order was not confirmed")?.id);
            if ids.len().is_multiple_of(TIMES) {
                time.add_permits(1);
            }
        }
        if number < ORDERS {
            let message = NewMessage::new(format!("{{\"order\":{number}}}")).key(format!("order-{number}"));
            under_way.push_back(producer.enqueue(message).await.context("an order was not taken")?);
        }
    }
    producer.close().await?;
    Ok(ids)
}

/// Has the tills go on at the pace they had, a twentieth of the burst's, until every order was served.
async fn drain(
    tally: &mut Tally<MessageId>,
    served: &mut mpsc::UnboundedReceiver<Result<MessageId>>,
    time: &Semaphore,
    burst: Duration,
) -> Result<()> {
    let mut pace = tokio::time::interval((burst * TIMES as u32 / ORDERS as u32).max(Duration::from_micros(1)));
    while tally.len() < ORDERS {
        tokio::select! {
            _ = pace.tick() => time.add_permits(1),
            order = served.recv() => tally.add(order.context("the tills ended before all was served")??),
        }
    }
    Ok(())
}

/// A till: serves one order each time it has the time, until one fails or nobody listens.
async fn run_till(mut service: Service, time: Arc<Semaphore>, served: mpsc::UnboundedSender<Result<MessageId>>) {
    while let Ok(permit) = time.acquire().await {
        permit.forget();
        let order = service.take().await.map(|order| order.id());
        let failed = order.is_err();
        if served.send(order).is_err() || failed {
            return;
        }
    }
}
