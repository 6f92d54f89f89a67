//! Orders: announced if and when their stock is reserved, cancelled at their timeout unless they are paid before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use sluice_client::{
    Client, Decision, ErrorCode, Filter, NewMessage, Producer, ProducerConfig, RecallHandle, StreamConfig, TransactionHandle,
};

use super::create;
use super::expectations::{Tally, expect};
use super::service::Service;

/// What stands for the 30 minutes that a customer has.
const TIMEOUT: Duration = Duration::from_secs(3);

/// How many teapots there are.
const STOCK: u32 = 20;

/// Whether and when a customer pays.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pays {
    AtOnce,
    TooLate,
    Never,
}

/// The orders, in the order in which they come: who wants how many teapots, and pays when. The timeout of the last one is the last to fire, so
/// when it has fired the others have, too, or never will.
const ORDERS: &[(&str, u32, Pays)] = &[
    ("Ada", 1, Pays::AtOnce),
    ("Ben", 40, Pays::AtOnce),
    ("Cleo", 2, Pays::Never),
    ("Dan", 1, Pays::AtOnce),
    ("Eve", 3, Pays::TooLate),
    ("Finn", 50, Pays::Never),
    ("Gus", 2, Pays::AtOnce),
    ("Hana", 1, Pays::Never),
    ("Ivo", 4, Pays::AtOnce),
    ("Jana", 25, Pays::AtOnce),
    ("Kim", 2, Pays::Never),
];

/// An order whose stock is reserved.
struct Placed {
    timeout: RecallHandle,
    pays: Pays,
}

/// What became of the orders, by customer.
#[derive(Default)]
struct Outcomes {
    placed: BTreeMap<String, Placed>,
    paid: BTreeSet<String>,
    refunded: BTreeSet<String>,
    /// With how many milliseconds after its time the timeout came.
    cancelled: BTreeMap<String, i64>,
}

/// Tells of the orders.
pub(super) async fn tell(client: &Client, name: &str) -> Result<()> {
    let topic = format!("{name}-orders");
    create(client, &topic).await?;
    println!(
        "\n2. {} orders for {STOCK} teapots; each order has 30 minutes to be paid, which are {} s here",
        ORDERS.len(),
        TIMEOUT.as_secs()
    );
    println!(
        "   `order-created` and the delayed `order-timeout` are prepared, then the stock is reserved, then both are committed or rolled back"
    );
    let warehouse = StreamConfig::new(&topic, format!("{name}-warehouse")).filter(Filter::Tag("order-created".to_owned()));
    let mut warehouse = Service::start(client, warehouse).await?;
    let cancellation = StreamConfig::new(&topic, format!("{name}-cancellation")).filter(Filter::Tag("order-timeout".to_owned()));
    let mut cancellation = Service::start(client, cancellation).await?;

    let mut outcomes = Outcomes::default();
    place_all(client, &topic, &mut outcomes).await?;
    let placed: BTreeSet<String> = outcomes.placed.keys().cloned().collect();
    let mut announced = Tally::new();
    while announced.len() < placed.len() {
        announced.add(customer(warehouse.take().await?.keys()));
    }
    cancel_all(client, &mut cancellation, &mut outcomes).await?;
    warehouse.stop_when_nothing_is_left().await?;
    cancellation.stop_when_nothing_is_left().await?;
    outcomes.print();

    announced.expect_just(
        &placed,
        "the warehouse heard of each order that was committed, once, and of no other",
    )?;
    outcomes.check()?;
    let topic = client.topic(&topic).await?;
    expect(
        topic.delayed == 0 && topic.undecided == 0,
        "nothing waits for its time or for a decision",
    )
}

/// The order service: places the orders one after the other. Who pays at once does so as soon as the order stands.
async fn place_all(client: &Client, topic: &str, outcomes: &mut Outcomes) -> Result<()> {
    let producer = client.producer(topic, ProducerConfig::default());
    let mut stock = STOCK;
    for (customer, wanted, pays) in ORDERS {
        if let Some(timeout) = place(client, &producer, customer, *wanted, &mut stock).await? {
            if *pays == Pays::AtOnce && pay(client, &timeout).await? {
                outcomes.paid.insert((*customer).to_owned());
            }
            outcomes.placed.insert((*customer).to_owned(), Placed { timeout, pays: *pays });
        }
    }
    producer.close().await?;
    Ok(())
}

/// Prepares both messages of an order, reserves its stock, and decides about both at once: no order stands without its timeout, and no timeout
/// without its order. Returns what recalls the timeout; nothing where there was not enough.
async fn place(client: &Client, producer: &Producer, customer: &str, wanted: u32, stock: &mut u32) -> Result<Option<RecallHandle>> {
    let message = |tag| {
        NewMessage::new(format!("{{\"customer\":\"{customer}\",\"teapots\":{wanted}}}"))
            .tag(tag)
            .key(customer)
    };
    let created = producer
        .prepare(message("order-created"))
        .await
        .context("an order was not prepared")?;
    let timeout = producer.prepare(message("order-timeout").deliver_after(TIMEOUT)).await;
    let timeout = timeout.context("a timeout was not prepared")?;
    let both: [TransactionHandle; 2] = [created.handle().clone(), timeout.handle().clone()];
    if *stock < wanted {
        client
            .decide(&both, Decision::RollBack)
            .await
            .context("an order was not rolled back")?;
        return Ok(None);
    }
    *stock -= wanted;
    client.decide(&both, Decision::Commit).await.context("an order was not committed")?;
    let delayed = timeout.receipt().delayed.clone();
    Ok(Some(delayed.context("the broker did not delay a timeout")?.recall))
}

/// The payment service: whether the payment came in time. Who pays recalls the timeout; where it has fired already it is too late.
async fn pay(client: &Client, timeout: &RecallHandle) -> Result<bool> {
    match client.recall(timeout).await {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some(ErrorCode::NotWaiting) => Ok(false),
        Err(error) => Err(error).context("a timeout was not recalled"),
    }
}

/// The cancellation service: is pushed each timeout at its time, and asks nobody meanwhile.
async fn cancel_all(client: &Client, cancellation: &mut Service, outcomes: &mut Outcomes) -> Result<()> {
    let (last, _, _) = ORDERS.last().context("there are orders")?;
    while !outcomes.cancelled.contains_key(*last) {
        let timeout = cancellation.next().await?;
        let late_ms = wall_ms() - timeout.deliver_at_ms().context("a timeout has a time")?;
        let customer = customer(timeout.keys());
        let placed = outcomes.placed.get(&customer).with_context(|| format!("{customer} has no order"))?;
        if placed.pays == Pays::TooLate && !pay(client, &placed.timeout).await? {
            outcomes.refunded.insert(customer.clone());
        }
        cancellation.acknowledge(&timeout).await?;
        let before = outcomes.cancelled.insert(customer.clone(), late_ms);
        anyhow::ensure!(before.is_none(), "the order of {customer} was cancelled twice");
    }
    Ok(())
}

impl Outcomes {
    /// What happened to whom, a line an order.
    fn print(&self) {
        println!(
            "   {:<9} {:>7}  {:<9}  {:<13}  order-timeout",
            "customer", "teapots", "stock", "order-created"
        );
        for (customer, wanted, _) in ORDERS {
            let (stock, created) = match self.placed.contains_key(*customer) {
                true => ("reserved", "committed"),
                false => ("too few", "rolled back"),
            };
            println!("   {customer:<9} {wanted:>7}  {stock:<9}  {created:<13}  {}", self.end_of(customer));
        }
    }

    /// Checks what became of the orders.
    fn check(&self) -> Result<()> {
        let at_once = self.who_pays(Pays::AtOnce);
        let recalled = at_once.iter().all(|customer| !self.cancelled.contains_key(*customer));
        expect(
            at_once.iter().copied().eq(&self.paid) && recalled,
            "each payment recalled its timeout, which never fired",
        )?;
        let too_late = self.who_pays(Pays::TooLate);
        let unpaid: BTreeSet<&String> = too_late.union(&self.who_pays(Pays::Never)).copied().collect();
        expect(
            unpaid.into_iter().eq(self.cancelled.keys()),
            "each order that was not paid in time was cancelled, once",
        )?;
        expect(
            self.cancelled.values().all(|late_ms| *late_ms >= 0),
            "no timeout fired before its time",
        )?;
        expect(
            too_late.into_iter().eq(&self.refunded),
            "who paid too late was told so by the broker, and refunded",
        )
    }

    /// Whose order stood and was paid so.
    fn who_pays(&self, pays: Pays) -> BTreeSet<&String> {
        let paid_so = self.placed.iter().filter(|(_, placed)| placed.pays == pays);
        paid_so.map(|(customer, _)| customer).collect()
    }

    fn end_of(&self, customer: &str) -> String {
        match self.cancelled.get(customer) {
            Some(late_ms) if self.refunded.contains(customer) => {
                format!("fired {late_ms} ms late: cancelled; the payment after it refunded")
            }
            Some(late_ms) => format!("fired {late_ms} ms late: cancelled"),
            None if self.paid.contains(customer) => "recalled by the payment".to_owned(),
            None => "rolled back".to_owned(),
        }
    }
}

/// Whose order a message is about.
fn customer<'a>(mut keys: impl Iterator<Item = &'a str>) -> String {
    keys.next().unwrap_or_default().to_owned()
}

/// The wall clock, milliseconds since 1970.
fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
