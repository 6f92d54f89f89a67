//! The check between rounds: what was confirmed is delivered, what was acknowledged is not delivered again, also after one more kill.

use anyhow::{Context, Result, ensure};
use sluice_client::Client;
use sluice_end_to_end::chance::Chance;

use crate::broker::{Broker, Place};
use crate::round::{Work, program};
use crate::state::Totals;

/// Lets every group read to the end and holds what it got against what was confirmed; kills the broker once more and sees that all stays
/// acknowledged; deletes the topic and stops the broker in good order.
///
/// # Errors
/// A broken promise, or a broker that did not do what it was asked.
pub(crate) async fn check(place: &Place, work: &mut Work, chance: &Chance, totals: &mut Totals, never_sync: bool) -> Result<()> {
    let broker = Broker::start(place, &program(chance, never_sync))
        .await
        .context("start for a check")?;
    drain(&broker, work).await?;
    broker.kill()?;
    let broker = Broker::start(place, &program(chance, never_sync))
        .await
        .context("start after a check")?;
    let client = Client::connect(broker.endpoint("crash-check")).await?;
    for group in &work.groups {
        let lag = group.lag(&client).await?;
        ensure!(
            lag == 0,
            "{lag} confirmed acknowledgements of group {} were undone by a kill",
            group.name()
        );
        totals.delivered += group.seen() as u64;
        totals.acked += group.acked() as u64;
    }
    totals.confirmed += work.ledger.lock().expect("no task panics with the ledger").state().0 as u64;
    totals.checks += 1;
    client.delete_topic(&work.topic).await.context("delete the topic")?;
    drop(client);
    broker.stop().await
}

async fn drain(broker: &Broker, work: &mut Work) -> Result<()> {
    for group in &mut work.groups {
        let client = Client::connect(broker.endpoint("crash-check")).await?;
        let drained = group.drain(&client, &work.topic, &work.ledger).await;
        drained.with_context(|| format!("drain group {}", group.name()))?;
        let ledger = work.ledger.lock().expect("no task panics with the ledger");
        let lost = ledger.confirmed().filter(|id| !group.has_seen(id)).count();
        ensure!(
            lost == 0,
            "{lost} of {} confirmed messages were never delivered to group {}",
            ledger.state().0,
            group.name()
        );
        let (_, violation) = ledger.state();
        ensure!(violation.is_none(), "{}", violation.unwrap_or_default());
    }
    Ok(())
}
