//! The check between rounds: every promise about what was confirmed is held, also after one more kill.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sluice_client::Client;
use sluice_end_to_end::chance::Chance;

use crate::broker::{Broker, Place};
use crate::decide;
use crate::group::GROUPS;
use crate::round::{Work, program};
use crate::state::Totals;

/// How often it is looked whether messages still wait for their time.
const LOOK: Duration = Duration::from_millis(5);

/// Has what was not answered decided, lets every group read to the end and holds what it got against what was confirmed; kills the broker
/// once more and sees that all stays acknowledged; deletes the topic and stops the broker in good order.
///
/// # Errors
/// A broken promise, or a broker that did not do what it was asked.
pub(crate) async fn check(place: &Place, work: &Work, chance: &Chance, totals: &mut Totals, never_sync: bool) -> Result<()> {
    let broker = Broker::start(place, &program(chance, never_sync))
        .await
        .context("start for a check")?;
    drain(&broker, work).await?;
    broker.kill()?;
    let broker = Broker::start(place, &program(chance, never_sync))
        .await
        .context("start after a check")?;
    let client = Client::connect(broker.endpoint("crash-check")).await?;
    for group in GROUPS {
        // After a start the lag may count what lanes settled that nobody has read since; reading shows whether any of it comes again.
        if group.lag(&client).await? > 0 {
            let drained = group.drain(&client, &work.topic, &work.audit).await;
            drained.with_context(|| format!("drain group {} after a kill", group.name))?;
            held(work)?;
        }
        let letters = group.take_letters(&client).await?;
        ensure!(
            letters.is_empty(),
            "{} discarded dead letters of group {} came back by a kill",
            letters.len(),
            group.name
        );
    }
    let queues = client.topic(&work.topic).await?.queues.len();
    audit(work).has_queues(queues);
    held(work)?;
    let (delivered, acked) = audit(work).read_and_acked();
    totals.delivered += delivered as u64;
    totals.acked += acked as u64;
    totals.confirmed += audit(work).confirmed() as u64;
    for (total, count) in totals.laws.iter_mut().zip(audit(work).counts()) {
        *total += count;
    }
    totals.checks += 1;
    client.delete_topic(&work.topic).await.context("delete the topic")?;
    drop(client);
    broker.stop().await
}

async fn drain(broker: &Broker, work: &Work) -> Result<()> {
    let client = Client::connect(broker.endpoint("crash-check")).await?;
    let asked = decide::ask_again(&client, &work.audit).await;
    held(work)?;
    asked.context("ask again for what was not answered")?;
    // What waits for its time is read by groups that already are there, so that what comes early is seen.
    for group in GROUPS {
        let drained = group.drain(&client, &work.topic, &work.audit).await;
        drained.with_context(|| format!("drain group {}", group.name))?;
    }
    while client.topic(&work.topic).await?.delayed > 0 {
        tokio::time::sleep(LOOK).await;
    }
    let listed: HashSet<String> = client.transactions(&work.topic).await?.into_iter().map(|open| open.id).collect();
    for group in GROUPS {
        let drained = group.drain(&client, &work.topic, &work.audit).await;
        drained.with_context(|| format!("drain group {}", group.name))?;
        let letters = group.take_letters(&client).await?;
        audit(work).drained(group.name, &letters);
    }
    audit(work).undecided(&listed);
    held(work)
}

fn audit(work: &Work) -> std::sync::MutexGuard<'_, crate::audit::Audit> {
    work.audit.lock().expect("no task panics with the audit")
}

fn held(work: &Work) -> Result<()> {
    let violation = audit(work).violation();
    ensure!(violation.is_none(), "{}", violation.unwrap_or_default());
    Ok(())
}
