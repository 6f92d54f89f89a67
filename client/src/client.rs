//! The client: one connection, and what can be done over it.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::answering::{Answer, Undecided};
use crate::consumer::{Consumer, ConsumerConfig};
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::event::Event;
use crate::link::{Link, State};
use crate::producer::{Producer, ProducerConfig};
use crate::stream::{MessageStream, StreamConfig};

/// A connection to a broker that is kept: lost, it is built again, and what was under way goes on. Cheap to clone; the connection ends
/// when all clones, producers, consumers and streams are gone, or with [`Client::close`].
#[derive(Clone)]
pub struct Client {
    pub(crate) link: Arc<Link>,
}

impl Client {
    /// Connects and is welcomed.
    ///
    /// # Errors
    /// `Error::Unreachable` when no broker answers, `Error::Endpoint` when the endpoint cannot be used, `Error::Refused` when the broker
    /// does not want this client.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, Error> {
        Ok(Self {
            link: Link::open(endpoint).await?,
        })
    }

    /// What happens to the connection and its streams from now on. A listener that falls behind loses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.link.events()
    }

    /// What the broker calls itself, while there is a connection.
    pub fn server(&self) -> Option<String> {
        match &*self.link.watch().borrow() {
            State::Up(session) => Some(session.server.clone()),
            State::Down(_) | State::Closed => None,
        }
    }

    /// A producer for one topic. The topic's name is checked by the broker with the first message.
    pub fn producer(&self, topic: &str, config: ProducerConfig) -> Producer {
        Producer::open(self.link.clone(), topic, config)
    }

    /// A producer for one topic that answers for its prepared messages as long as it lives: when nobody has decided about one for a while, the
    /// broker asks a producer that can answer - also about those of producers that are gone - and does what `check` says. A check should look
    /// at what the application knows, by the message's keys or body; it may be asked about the same message again.
    pub fn answering_producer<F, A>(&self, topic: &str, config: ProducerConfig, check: F) -> Producer
    where
        F: Fn(Undecided) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        Producer::open(self.link.clone(), topic, config).answering(check)
    }

    /// A consumer that asks for messages and settles them by receipt handles.
    pub fn consumer(&self, config: ConsumerConfig) -> Consumer {
        Consumer::new(self.link.clone(), config)
    }

    /// A stream on which the broker pushes the messages of a group as far as credit reaches.
    ///
    /// # Errors
    /// `Error::Refused` for a subscription that the broker refuses, `Error::Unreachable` without a connection.
    pub async fn stream(&self, config: StreamConfig) -> Result<MessageStream, Error> {
        MessageStream::open(self.link.clone(), config).await
    }

    /// Ends the connection and waits until the broker has been told. Streams and producers should be closed before: what they still
    /// hold is given up.
    pub async fn close(self) {
        self.link.close().await;
    }
}
