//! How the records of transactions are written and read: messages that wait for a decision, and what is decided and asked about them.

use bytes::Bytes;
use sluice_protocol::ids::{QueueId, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::Due;
use super::codec::RecordError;
use super::delay::{put_due, take_due};
use super::fields::{put_queue, take_queue};

const PREPARED: u16 = 40;
pub(super) const COMMITTED: u16 = 41;
pub(super) const ROLLED_BACK: u16 = 42;
const ASKED: u16 = 43;
pub(super) const GIVEN_UP: u16 = 44;
pub(super) const REVIVED: u16 = 45;

/// What happens to prepared messages. They are numbered in the calendar queue of their topic, where a committed one waits until it is due.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// Messages were taken that wait for a decision: a whole flat batch, its first row with the number `first`.
    Prepared {
        topic: TopicId,
        first: QueueOffset,
        /// When each is due once it is committed (wall clock, milliseconds; 0 for at once): one for each row.
        due_ms: Vec<i64>,
        batch: Bytes,
    },
    /// All of these are to be delivered: each waits in its calendar from now on. `by` is the operator's name, or empty.
    Committed { messages: Vec<Prepared>, by: String },
    /// None of these will be delivered. `by` is the operator's name, or empty.
    RolledBack { messages: Vec<Prepared>, by: String },
    /// A producer was asked about these.
    Asked { topic: TopicId, asked: Vec<Asked> },
    /// Nobody decided about a message: it is rolled back, and its copy stored at the end of a queue of the system's.
    GivenUp {
        message: Prepared,
        to: QueueId,
        at_offset: QueueOffset,
        batch: Bytes,
    },
    /// An operator committed a message that was given up: it waits in the calendar of its topic again, under another number.
    Revived {
        message: Prepared,
        /// Its number in the calendar from now on.
        number: QueueOffset,
        batch: Bytes,
        by: String,
    },
}

/// A prepared message: its topic, when it is due, and its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prepared {
    /// The topic.
    pub topic: TopicId,
    /// When it is due once it is committed, and its number in the topic's calendar queue.
    pub due: Due,
}

/// A message about which a producer was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its number.
    pub number: QueueOffset,
    /// How often somebody was asked about it, this time included.
    pub asks: u16,
}

pub(super) fn number(transaction: &Transaction) -> u16 {
    match transaction {
        Transaction::Prepared { .. } => PREPARED,
        Transaction::Committed { .. } => COMMITTED,
        Transaction::RolledBack { .. } => ROLLED_BACK,
        Transaction::Asked { .. } => ASKED,
        Transaction::GivenUp { .. } => GIVEN_UP,
        Transaction::Revived { .. } => REVIVED,
    }
}

/// What a kind's number stands for, for reports; `None` when it is none of these.
pub(super) fn kind_name(number: u16) -> Option<&'static str> {
    Some(match number {
        PREPARED => "prepared",
        COMMITTED => "committed",
        ROLLED_BACK => "rolled-back",
        ASKED => "asked",
        GIVEN_UP => "given-up",
        REVIVED => "revived",
        _ => return None,
    })
}

/// Whether a kind is one of these.
pub(super) fn is_transaction(number: u16) -> bool {
    (PREPARED..=REVIVED).contains(&number)
}

/// Whether records of this kind have a batch.
pub(super) fn may_store(number: u16) -> bool {
    matches!(number, PREPARED | GIVEN_UP | REVIVED)
}

/// Bytes of what is not written in few.
pub(super) fn large_bytes(transaction: &Transaction) -> usize {
    match transaction {
        Transaction::Prepared { due_ms, batch, .. } => 8 * due_ms.len() + batch.len(),
        Transaction::Committed { messages, .. } | Transaction::RolledBack { messages, .. } => 24 * messages.len(),
        Transaction::Asked { asked, .. } => 10 * asked.len(),
        Transaction::GivenUp { batch, .. } | Transaction::Revived { batch, .. } => batch.len(),
    }
}

pub(super) fn put_transaction(out: &mut Writer, transaction: &Transaction) {
    match transaction {
        Transaction::Prepared {
            topic,
            first,
            due_ms,
            batch,
        } => {
            out.u64(topic.0).u64(first.0).count(due_ms.len());
            due_ms.iter().for_each(|due_ms| {
                out.i64(*due_ms);
            });
            out.blob(batch);
        }
        Transaction::Committed { messages, by } | Transaction::RolledBack { messages, by } => {
            out.count(messages.len());
            messages.iter().for_each(|message| put_prepared(out, *message));
            out.text(by);
        }
        Transaction::Asked { topic, asked } => {
            out.u64(topic.0).count(asked.len());
            asked.iter().for_each(|asked| {
                out.u64(asked.number.0).u16(asked.asks);
            });
        }
        Transaction::GivenUp {
            message,
            to,
            at_offset,
            batch,
        } => {
            put_prepared(out, *message);
            put_queue(out, *to).u64(at_offset.0).blob(batch);
        }
        Transaction::Revived {
            message,
            number,
            batch,
            by,
        } => {
            put_prepared(out, *message);
            out.u64(number.0).text(by).blob(batch);
        }
    }
}

pub(super) fn take_transaction(kind: u16, from: &mut Reader<'_>, whole: &Bytes) -> Result<Transaction, RecordError> {
    Ok(match kind {
        PREPARED => Transaction::Prepared {
            topic: TopicId(from.u64()?),
            first: QueueOffset(from.u64()?),
            due_ms: (0..from.count(8)?).map(|_| from.i64()).collect::<Result<_, _>>()?,
            batch: whole.slice_ref(from.blob()?),
        },
        COMMITTED => Transaction::Committed {
            messages: take_messages(from)?,
            by: from.text()?.to_owned(),
        },
        ROLLED_BACK => Transaction::RolledBack {
            messages: take_messages(from)?,
            by: from.text()?.to_owned(),
        },
        ASKED => Transaction::Asked {
            topic: TopicId(from.u64()?),
            asked: (0..from.count(10)?).map(|_| take_asked(from)).collect::<Result<_, _>>()?,
        },
        GIVEN_UP => Transaction::GivenUp {
            message: take_prepared(from)?,
            to: take_queue(from)?,
            at_offset: QueueOffset(from.u64()?),
            batch: whole.slice_ref(from.blob()?),
        },
        REVIVED => Transaction::Revived {
            message: take_prepared(from)?,
            number: QueueOffset(from.u64()?),
            by: from.text()?.to_owned(),
            batch: whole.slice_ref(from.blob()?),
        },
        unknown => return Err(RecordError::Kind(unknown)),
    })
}

fn take_messages(from: &mut Reader<'_>) -> Result<Vec<Prepared>, WireError> {
    (0..from.count(24)?).map(|_| take_prepared(from)).collect()
}

fn put_prepared(out: &mut Writer, message: Prepared) {
    put_due(out.u64(message.topic.0), message.due);
}

fn take_prepared(from: &mut Reader<'_>) -> Result<Prepared, WireError> {
    Ok(Prepared {
        topic: TopicId(from.u64()?),
        due: take_due(from)?,
    })
}

fn take_asked(from: &mut Reader<'_>) -> Result<Asked, WireError> {
    Ok(Asked {
        number: QueueOffset(from.u64()?),
        asks: from.u16()?,
    })
}
