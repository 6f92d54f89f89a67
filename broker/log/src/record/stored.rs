//! The batches that records store, and where these came from.

use bytes::Bytes;
use sluice_protocol::ids::{QueueId, QueueOffset};

use super::codec::{RecordError, may_store, peek};
use super::{Change, Fate, Record, Transaction};

/// A batch that a record stores.
#[derive(Clone, Debug)]
pub(crate) struct StoredBatch {
    /// The queue at whose end it is.
    pub(crate) queue: QueueId,
    /// The offset of its first message.
    pub(crate) first: QueueOffset,
    /// The flat batch.
    pub(crate) batch: Bytes,
    /// Whether its messages came from their producer or from another queue, where they keep their ids.
    pub(crate) origin: Origin,
}

/// Where a stored batch came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Its producer.
    Producer,
    /// Another queue.
    Queue,
    /// Its producer, and it has no place in a queue that is consumed yet.
    Waiting,
}

/// The batch that an encoded record stores; `None` for a record that stores none.
pub(crate) fn stored(record: &Bytes) -> Result<Option<StoredBatch>, RecordError> {
    if !may_store(peek(record)?.0) {
        return Ok(None);
    }
    match Record::decode(record)?.change {
        Change::Appended { queue, first, batch } => Ok(Some(StoredBatch {
            queue,
            first,
            batch,
            origin: Origin::Producer,
        })),
        Change::DeadLettered { to, at_offset, batch, .. }
        | Change::CulpritDecided {
            fate: Fate::DeadLettered { to, at_offset, batch },
            ..
        } => Ok(Some(StoredBatch {
            queue: to,
            first: at_offset,
            batch,
            origin: Origin::Queue,
        })),
        Change::Delayed { topic, first, batch, .. } => Ok(Some(StoredBatch {
            queue: topic.calendar(),
            first,
            batch,
            origin: Origin::Waiting,
        })),
        Change::Released { queue, first, batch, .. } => Ok(Some(StoredBatch {
            queue,
            first,
            batch,
            origin: Origin::Producer,
        })),
        Change::Transaction(transaction) => Ok(of_transaction(transaction)),
        _ => Ok(None),
    }
}

/// A prepared message waits, as a delayed one does; one that was given up is a copy.
fn of_transaction(transaction: Transaction) -> Option<StoredBatch> {
    let (queue, first, batch, origin) = match transaction {
        Transaction::Prepared { topic, first, batch, .. } => (topic.calendar(), first, batch, Origin::Waiting),
        Transaction::GivenUp { to, at_offset, batch, .. } => (to, at_offset, batch, Origin::Queue),
        Transaction::Revived {
            message, number, batch, ..
        } => (message.topic.calendar(), number, batch, Origin::Waiting),
        Transaction::Committed { .. } | Transaction::RolledBack { .. } | Transaction::Asked { .. } => return None,
    };
    Some(StoredBatch {
        queue,
        first,
        batch,
        origin,
    })
}
