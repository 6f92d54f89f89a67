//! What happens to a client by itself, for applications that want to know.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_protocol::errors::Refusal;

/// A change of the connection or of a stream. Each is also logged through `tracing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The broker welcomed this client.
    Connected {
        /// Where.
        address: SocketAddr,
        /// What the broker calls itself.
        server: String,
        /// Which start of the broker it is.
        epoch: u32,
    },
    /// The connection is lost. Sends wait, requests wait, streams stand still; the client tries to connect again.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// A try to connect failed.
    Retrying {
        /// Why.
        reason: String,
        /// About how long the client waits before the next try.
        wait: Duration,
    },
    /// Batches without a confirmation were sent again, with their sequences, over the new connection.
    SentAgain {
        /// The topic.
        topic: String,
        /// How many messages.
        messages: u64,
    },
    /// A stream was subscribed again. What it had delivered and was not settled is delivered again.
    Resubscribed {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
    },
    /// A seek began a new pass over one queue of a stream: what came before and is not settled is void.
    Reset {
        /// The topic.
        topic: String,
        /// The group.
        group: String,
        /// The queue.
        queue: u16,
        /// The new pass.
        pass: u32,
    },
    /// The broker asked to come back later, and the client will.
    Slowed {
        /// What it said.
        refusal: Refusal,
        /// How long the client waits.
        wait: Duration,
    },
    /// The body of a message does not fit its checksum: it is kept from the application and goes back to the broker.
    BadBody {
        /// The topic.
        topic: String,
        /// The queue.
        queue: u16,
        /// The offset.
        offset: u64,
    },
    /// The client was closed.
    Closed,
}

impl Event {
    /// Writes the event to the log.
    pub(crate) fn log(&self) {
        match self {
            Event::Connected { address, server, epoch } => tracing::info!(%address, server, epoch, "connected"),
            Event::Disconnected { reason } => tracing::warn!(reason, "connection lost"),
            Event::Retrying { reason, wait } => tracing::info!(reason, ?wait, "cannot connect; trying again"),
            Event::SentAgain { topic, messages } => tracing::info!(topic, messages, "unconfirmed messages sent again"),
            Event::Resubscribed { topic, group } => tracing::info!(topic, group, "subscribed again"),
            Event::Reset { topic, group, queue, pass } => tracing::info!(topic, group, queue, pass, "a new pass began"),
            Event::Slowed { refusal, wait } => tracing::info!(%refusal, ?wait, "the broker asks to come back later"),
            Event::BadBody { topic, queue, offset } => tracing::error!(topic, queue, offset, "a body does not fit its checksum"),
            Event::Closed => tracing::debug!("client closed"),
        }
    }
}
