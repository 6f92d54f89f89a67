//! Transactions, from frames to the core and back: decides about prepared messages, and lists those that wait with what they say of themselves.

use std::sync::Arc;

use bytes::Bytes;
use sluice_core::TRANSACTION_BYTES;
use sluice_core::effect::{Answer, TransactionInfo};
use sluice_core::input::{Admin, Decision, Input};
use sluice_log::{LogError, LogReader};
use sluice_protocol::control::{self, Decide, ListTransactions};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::QueueOffset;
use sluice_protocol::names;

use crate::answers;
use crate::assembly::ReadFailure;
use crate::connection::Client;
use crate::delivery::unreadable;
use crate::frames::Broken;
use crate::limits::TRANSACTIONS_OF_PAGE_MAX;
use crate::request::ask_admin;
use crate::shard::Outcome;

/// Commits or rolls back prepared messages: all that are named, or none.
///
/// # Errors
/// `BadTransactionHandle`, `AlreadyCommitted`, `AlreadyRolledBack`, `NoSuchTransaction`, `TopicDeleted`, `LimitExceeded`.
pub(crate) async fn decide(client: &Arc<Client>, ask: Decide) -> Result<Bytes, Broken> {
    let decision = match control::Decision::try_from(ask.decision) {
        Ok(control::Decision::Commit) => Decision::Commit,
        Ok(control::Decision::RollBack) => Decision::RollBack,
        Err(_) => {
            let text = format!("{} is no decision", ask.decision);
            return Err(Refusal::new(ErrorCode::MalformedFrame, text).into());
        }
    };
    if ask.handles.iter().any(|handle| handle.len() != TRANSACTION_BYTES) {
        return Err(Refusal::plain(ErrorCode::BadTransactionHandle).into());
    }
    let operator = ask.operator.then(|| client.name.clone());
    if operator.is_some() {
        tracing::info!(client = %client.name, ?decision, messages = ask.handles.len(), "an operator decides about prepared messages");
    }
    let handles = ask.handles;
    let asked = client.serving.shard.ask(|request| Input::Decide {
        request,
        handles,
        decision,
        operator,
    });
    match asked.await? {
        Outcome::Answer(answer) => Ok(answers::frame_of(answer, |_| false)),
        Outcome::Leased(_) => unreachable!("only a receive leases"),
    }
}

/// A page of the messages of a topic that wait for a decision or were given up.
///
/// # Errors
/// `NoSuchTopic`; `Internal` when they cannot be read.
pub(crate) async fn list(client: &Arc<Client>, ask: ListTransactions) -> Result<Bytes, Broken> {
    names::owner(&ask.topic)?;
    let admin = Admin::ListTransactions {
        topic: ask.topic,
        from: QueueOffset(ask.from),
    };
    let Answer::Transactions {
        mut transactions, next, ..
    } = ask_admin(&client.serving, admin).await?
    else {
        unreachable!("the core says which messages wait for a decision");
    };
    let cut = transactions.get(TRANSACTIONS_OF_PAGE_MAX).map(|first| first.number);
    transactions.truncate(TRANSACTIONS_OF_PAGE_MAX);
    let next = cut.or(next).map_or(0, |number| number.0);
    let reader = client.serving.reader.clone();
    let transactions = unreadable(tokio::task::spawn_blocking(move || read(&reader, &transactions)).await)?;
    Ok(frame::message(
        FrameKind::Transactions,
        &control::Transactions { transactions, next },
    ))
}

/// What the messages say of themselves; bodies are not read. Blocks while it reads.
fn read(reader: &LogReader, transactions: &[TransactionInfo]) -> Result<Vec<control::TransactionInfo>, ReadFailure> {
    let mut shown = Vec::new();
    for transaction in transactions {
        match row(reader, transaction) {
            Ok(row) => shown.push(row),
            // It was decided about meanwhile.
            Err(ReadFailure::Log(LogError::Gone { .. })) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(shown)
}

fn row(reader: &LogReader, transaction: &TransactionInfo) -> Result<control::TransactionInfo, ReadFailure> {
    let (queue, offset) = transaction.place;
    let places = reader.batches(queue, offset, QueueOffset(offset.0 + 1))?;
    let gone = LogError::Gone {
        position: sluice_protocol::ids::Position(0),
    };
    let place = places.first().ok_or(gone)?;
    let attributes = reader.sparse_attributes(place)?;
    let mut shown = control::TransactionInfo {
        handle: Bytes::copy_from_slice(&transaction.handle),
        given_up: transaction.undecided.is_none(),
        ..control::TransactionInfo::default()
    };
    if let Some(undecided) = transaction.undecided {
        shown.prepared_wall_ms = undecided.prepared_wall_ms;
        shown.asks = undecided.asks.into();
        shown.next_ask_wall_ms = transaction.next_ask_wall_ms.unwrap_or(0);
        shown.deliver_at_ms = undecided.due_ms;
    }
    if let Some(row) = attributes.row((offset.0 - place.first.0) as u32) {
        row.message_id().to_string().clone_into(&mut shown.id);
        row.tag().unwrap_or_default().clone_into(&mut shown.tag);
        shown.keys = row.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect();
        shown.body_bytes = row.body_len() as u64;
    }
    Ok(shown)
}
