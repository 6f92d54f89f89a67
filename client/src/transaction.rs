//! Transactions: prepared messages, which are delivered if and when they are committed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::control;
use sluice_protocol::frame::FrameKind;

use crate::client::Client;
use crate::deciding::decide;
use crate::error::Error;
use crate::link::Link;
use crate::message::{Receipt, read_digits, write_digits};
use crate::wire;

/// A prepared message as the protocol lists it. Its fields are documented in `docs/protocol.md`.
pub use sluice_protocol::control::TransactionInfo;

/// What commits a prepared message or rolls it back. Written as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionHandle(pub Bytes);

impl fmt::Display for TransactionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(&self.0, f)
    }
}

/// A text that is no transaction handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a transaction handle is an even number of hexadecimal digits")]
pub struct BadTransactionHandle;

impl FromStr for TransactionHandle {
    type Err = BadTransactionHandle;

    fn from_str(text: &str) -> Result<Self, BadTransactionHandle> {
        read_digits(text).map(Self).ok_or(BadTransactionHandle)
    }
}

/// What is decided about prepared messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They are delivered.
    Commit,
    /// They are not.
    RollBack,
}

/// A message that was prepared. Forgotten, it stays undecided until somebody decides by its handle, or an operator does.
#[must_use = "a prepared message is delivered when it is committed"]
pub struct Transaction {
    link: Arc<Link>,
    receipt: Receipt,
    handle: TransactionHandle,
}

impl Transaction {
    /// That of a message that was confirmed; `None` when it is not prepared.
    pub(crate) fn new(link: Arc<Link>, receipt: Receipt) -> Option<Self> {
        let handle = receipt.transaction.clone()?;
        Some(Self { link, receipt, handle })
    }

    /// What the broker confirmed.
    pub fn receipt(&self) -> &Receipt {
        &self.receipt
    }

    /// What decides about the message, to be kept or handed on.
    pub fn handle(&self) -> &TransactionHandle {
        &self.handle
    }

    /// Has the message delivered. When this is answered it is decided for good; asked again, it is answered the same.
    ///
    /// # Errors
    /// `AlreadyRolledBack`; `NoSuchTransaction` when it was decided about long ago; `TopicDeleted`.
    pub async fn commit(&self) -> Result<(), Error> {
        decide(&self.link, std::slice::from_ref(&self.handle), Decision::Commit).await
    }

    /// Has the message never delivered. When this is answered it is decided for good; asked again, it is answered the same.
    ///
    /// # Errors
    /// `AlreadyCommitted`; `NoSuchTransaction` when it was decided about long ago; `TopicDeleted`.
    pub async fn roll_back(&self) -> Result<(), Error> {
        decide(&self.link, std::slice::from_ref(&self.handle), Decision::RollBack).await
    }
}

/// Asks the broker to decide so about all of these or none, in a request of its own.
pub(crate) async fn ask(link: &Link, handles: &[&TransactionHandle], decision: Decision, operator: bool) -> Result<(), Error> {
    let ask = control::Decide {
        handles: handles.iter().map(|handle| handle.0.clone()).collect(),
        decision: match decision {
            Decision::Commit => control::Decision::Commit,
            Decision::RollBack => control::Decision::RollBack,
        }
        .into(),
        operator,
    };
    let answer = link.ask(FrameKind::Decide, &ask, Duration::ZERO).await?;
    match answer.kind {
        FrameKind::Done => Ok(()),
        _ => Err(wire::unexpected(&answer)),
    }
}

impl Client {
    /// Decides about prepared messages, of whatever topics: all of them, or none when one is refused. When this is answered it is decided
    /// for good; asked again, it is answered the same.
    ///
    /// # Errors
    /// `AlreadyCommitted` or `AlreadyRolledBack` for one that was decided otherwise; `NoSuchTransaction` for one that was decided about
    /// long ago; `BadTransactionHandle`; `TopicDeleted`; `LimitExceeded` for more than 1,000.
    pub async fn decide(&self, handles: &[TransactionHandle], decision: Decision) -> Result<(), Error> {
        decide(&self.link, handles, decision).await
    }

    /// As [`Client::decide`], by an operator: what was rolled back because nobody decided can be committed.
    ///
    /// # Errors
    /// As [`Client::decide`].
    pub async fn decide_as_operator(&self, handles: &[TransactionHandle], decision: Decision) -> Result<(), Error> {
        ask(&self.link, &handles.iter().collect::<Vec<_>>(), decision, true).await
    }

    /// The messages of a topic that wait for a decision, and those that were rolled back because nobody decided.
    ///
    /// # Errors
    /// `NoSuchTopic`.
    pub async fn transactions(&self, topic: &str) -> Result<Vec<TransactionInfo>, Error> {
        let mut ask = control::ListTransactions {
            topic: topic.to_owned(),
            from: 0,
        };
        let mut transactions = Vec::new();
        loop {
            let page: control::Transactions = self.query(FrameKind::ListTransactions, &ask, FrameKind::Transactions).await?;
            transactions.extend(page.transactions);
            if page.next <= ask.from {
                return Ok(transactions);
            }
            ask.from = page.next;
        }
    }
}
