//! Recalls, commits and roll-backs of what earlier rounds and this one left waiting.

use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use sluice_client::{Client, Decision, Error, ErrorCode, TransactionHandle};
use sluice_end_to_end::chance::Chance;
use sluice_protocol::ids::MessageId;

use crate::audit::{Ask, Audit, Handle, Law};

/// How long it is waited for something to decide about.
const LOOK: Duration = Duration::from_millis(1);

/// The wall clock, milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as i64)
}

/// Decides about one waiting message after the other until the broker is gone.
///
/// # Errors
/// The broker is gone.
pub(crate) async fn decide(client: &Client, audit: &Mutex<Audit>, chance: &Chance) -> Result<()> {
    loop {
        let ask = if chance.once_in(3) { Ask::RollBack } else { Ask::Commit };
        let Some((id, handle, ask)) = take(audit, chance, ask) else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        match handle {
            Handle::Transaction(handle) => transaction(client, audit, (id, handle, ask)).await?,
            Handle::Recall(handle, due_ms) => {
                let answer = client.recall(&handle).await;
                let at_ms = wall_ms();
                let mut audit = audit.lock().expect("no task panics with the audit");
                match answer {
                    Ok(()) => audit.done(id, Ask::Recall),
                    Err(error) if error.code() == Some(ErrorCode::NotWaiting) => audit.not_waiting(id, due_ms, at_ms),
                    Err(error) => bail!("a recall is left open: {error}"),
                }
            }
        }
    }
}

/// Asks again what was not answered before.
///
/// # Errors
/// The broker does not answer.
pub(crate) async fn ask_again(client: &Client, audit: &Mutex<Audit>) -> Result<()> {
    let unanswered = std::mem::take(&mut audit.lock().expect("no task panics with the audit").unanswered);
    for open in unanswered {
        transaction(client, audit, open).await?;
    }
    Ok(())
}

/// Takes something that waits, and notes what is about to be asked of it.
fn take(audit: &Mutex<Audit>, chance: &Chance, decision: Ask) -> Option<(MessageId, Handle, Ask)> {
    let mut audit = audit.lock().expect("no task panics with the audit");
    let last = audit.waiting.len().checked_sub(1)?;
    let (id, handle) = audit.waiting.swap_remove(chance.between(0, last as u64) as usize);
    let ask = match &handle {
        Handle::Recall(..) => Ask::Recall,
        Handle::Transaction(handle) => {
            let handle = handle.clone();
            // Until it is answered: whoever is stopped meanwhile leaves it to the next.
            audit.unanswered.push((id, handle, decision));
            decision
        }
    };
    audit.ask(id, ask);
    Some((id, handle, ask))
}

async fn transaction(client: &Client, audit: &Mutex<Audit>, open: (MessageId, TransactionHandle, Ask)) -> Result<()> {
    let (id, handle, ask) = open;
    let decision = if ask == Ask::Commit { Decision::Commit } else { Decision::RollBack };
    let answer = client.decide(std::slice::from_ref(&handle), decision).await;
    let mut audit = audit.lock().expect("no task panics with the audit");
    match answer {
        Ok(()) => {
            audit.unanswered.retain(|(other, _, _)| *other != id);
            audit.done(id, ask);
            Ok(())
        }
        Err(error) => {
            if is_broken(&error) {
                audit.violate(Law::PreparedUnseen, format!("{ask:?} of message {id}: {error}"));
            }
            bail!("{ask:?} of message {id} is left open: {error}")
        }
    }
}

/// Whether the broker says that it does not know what it confirmed, or decided otherwise.
fn is_broken(error: &Error) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::NoSuchTransaction | ErrorCode::AlreadyCommitted | ErrorCode::AlreadyRolledBack | ErrorCode::BadTransactionHandle)
    )
}
