//! Sending: messages are gathered into batches, pipelined, and confirmed one by one; a lost connection neither loses nor doubles them.

mod gathered;
mod outbox;
mod sent;
mod task;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::answering::{Answer, Answering, Undecided};
use crate::error::{Error, SendError};
use crate::limits;
use crate::link::Link;
use crate::message::{NewMessage, Receipt};
use crate::transaction::Transaction;

/// How a producer gathers and how long it holds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerConfig {
    /// How long a message may wait for others to share its batch, in milliseconds. 0, the default, sends at once; what comes while a
    /// batch is being written still shares the next.
    pub linger_ms: u64,
    /// Messages in one batch, at most the half of what the broker lets be unconfirmed.
    pub batch_messages: u32,
    /// Bytes in one batch; a larger message travels alone.
    pub batch_bytes: usize,
    /// How long a message may wait for its confirmation, reconnects included, before it is given up with `SendError::Unknown`.
    pub confirm_within: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger_ms: 0,
            batch_messages: limits::BATCH_MESSAGES_DEFAULT,
            batch_bytes: limits::BATCH_BYTES_DEFAULT,
            confirm_within: limits::CONFIRM_WITHIN_DEFAULT,
        }
    }
}

/// Sends messages to one topic. Shared by reference among tasks; dropping it lets what was enqueued still be sent.
pub struct Producer {
    queue: mpsc::Sender<Submitted>,
    topic: Arc<str>,
    link: Arc<Link>,
    task: JoinHandle<()>,
    /// Answers for prepared messages, if it was asked to.
    answering: Option<Answering>,
}

/// Where the outcome of one message goes.
pub(crate) type Reply = oneshot::Sender<Result<Receipt, SendError>>;

/// A message on its way to the task.
pub(crate) struct Submitted {
    pub(crate) message: NewMessage,
    pub(crate) reply: Reply,
}

impl Producer {
    pub(crate) fn open(link: Arc<Link>, topic: &str, config: ProducerConfig) -> Self {
        let (queue, submitted) = mpsc::channel(limits::PRODUCER_QUEUE_MESSAGES);
        let topic: Arc<str> = topic.into();
        let task = tokio::spawn(task::run(link.clone(), topic.clone(), config, submitted));
        Self {
            queue,
            topic,
            link,
            task,
            answering: None,
        }
    }

    /// The same producer, which answers for prepared messages of its topic.
    pub(crate) fn answering<F, A>(mut self, check: F) -> Self
    where
        F: Fn(Undecided) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        self.answering = Some(Answering::begin(self.link.clone(), self.topic.clone(), check));
        self
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Sends a message and waits until the broker has confirmed it as durable.
    ///
    /// Dropped before it has a place in the queue, the message is not sent; dropped later, it is sent and nobody learns the outcome.
    ///
    /// # Errors
    /// [`SendError`]; this message alone is concerned.
    pub async fn send(&self, message: NewMessage) -> Result<Receipt, SendError> {
        self.enqueue(message).await?.await
    }

    /// Puts a message in the queue, waiting for a place if need be, and returns its confirmation, to be awaited whenever it suits.
    /// This is how one task keeps many messages under way. Cancel safe: dropped before it returns, the message is not sent.
    ///
    /// # Errors
    /// `SendError::Closed` when the client is closed.
    pub async fn enqueue(&self, message: NewMessage) -> Result<Confirmation, SendError> {
        let (reply, outcome) = oneshot::channel();
        self.queue.send(Submitted { message, reply }).await.map_err(|_| SendError::Closed)?;
        Ok(Confirmation { outcome })
    }

    /// Sends a message that is delivered only if and when it is committed, and waits until the broker has confirmed it as durable. A
    /// delayed one waits for its time after that.
    ///
    /// # Errors
    /// [`SendError`], as [`Producer::send`].
    pub async fn prepare(&self, message: NewMessage) -> Result<Transaction, SendError> {
        let prepared = true;
        let receipt = self.send(NewMessage { prepared, ..message }).await?;
        Transaction::new(self.link.clone(), receipt).ok_or_else(|| SendError::Unknown {
            reason: "the broker confirmed it as a message that is not prepared".to_owned(),
        })
    }

    /// Takes nothing more and waits until all that was enqueued is confirmed, refused or given up.
    ///
    /// # Errors
    /// `Error::Closed` when the client was closed before.
    pub async fn close(self) -> Result<(), Error> {
        drop((self.queue, self.answering));
        self.task.await.map_err(|_| Error::Closed)
    }
}

/// The outcome of one enqueued message, to come. Dropping it does not take the message back.
pub struct Confirmation {
    outcome: oneshot::Receiver<Result<Receipt, SendError>>,
}

impl Future for Confirmation {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // The task answers each message before it ends, unless the runtime is torn down.
        Pin::new(&mut self.outcome)
            .poll(context)
            .map(|outcome| outcome.unwrap_or(Err(SendError::Closed)))
    }
}
