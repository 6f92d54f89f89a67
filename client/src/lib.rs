//! The asynchronous Rust client of Sluice, over QUIC.
//!
//! A first message, to a broker that `sluice serve` started in this directory, and back:
//!
//! ```no_run
//! use sluice_client::{Client, Endpoint, Filter, NewMessage, ProducerConfig, StreamConfig};
//!
//! # async fn first() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(Endpoint::ready_file("sluice-data/ready.json")).await?;
//!
//! let producer = client.producer("orders", ProducerConfig::default());
//! let receipt = producer.send(NewMessage::new("one tea").tag("drinks").property("price", "3")).await?;
//! println!("stored as {} in queue {} at offset {}", receipt.id, receipt.queue, receipt.offset);
//!
//! let config = StreamConfig::new("orders", "kitchen").filter(Filter::Sql("price < 10".to_owned()));
//! let mut stream = client.stream(config).await?;
//! if let Some(message) = stream.next().await? {
//!     println!("{}", String::from_utf8_lossy(&message.body()));
//!     stream.ack(&message).await?;
//! }
//! stream.close().await;
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # What it does by itself
//!
//! * **Connections** are built again after a loss, with a growing wait. [`Client::events`] and `tracing` say so.
//! * **Sends** without a confirmation are sent again in the same batches with the same sequences, so that the broker stores each once.
//!   A producer never numbers further ahead of its oldest unconfirmed message than the broker remembers.
//! * **Streams** subscribe again. What was delivered and not settled is delivered again; settling it by the old delivery fails with
//!   [`Error::LeaseLost`].
//! * **Prepared messages** that nobody decided about are put before a producer that can say what became of them
//!   ([`Client::answering_producer`]), also those of producers that are gone.
//! * **Bodies** are checked against their checksums before the application sees them.
//!
//! # Bounds
//!
//! A producer holds at most [`limits::PRODUCER_QUEUE_MESSAGES`] messages that are not yet numbered, twice over, and what the broker lets be
//! unconfirmed. A stream holds at most its credit in messages and its buffer in bytes, and one frame more for each queue. Every
//! bound that the broker does not set is in [`limits`].
//!
//! # Errors
//!
//! What the broker refuses is [`Error::Refused`] or [`SendError::Refused`] with a [`Refusal`]: a code of the registry, the particular
//! case, and by [`ErrorCode::advice`] what to do: change the request, try again later, or ask an operator. An error that leaves open
//! whether something was done says so in its name: `Unknown`, `TimedOut`.

pub mod admin;
mod answering;
mod backup;
mod client;
mod consumer;
mod deciding;
mod endpoint;
mod error;
mod event;
mod filter;
pub mod limits;
mod link;
mod message;
mod operate;
mod producer;
mod reading;
mod router;
mod sequences;
mod session;
mod settle;
mod stream;
mod tls;
mod transaction;
mod wire;

pub use answering::{Answer, Undecided};
pub use backup::{Backup, BackupReader};
pub use client::Client;
pub use consumer::{Consumer, ConsumerConfig, ReceivedMessage};
pub use endpoint::{Endpoint, ReadyFile, Trust};
pub use error::{Error, SendError};
pub use event::Event;
pub use filter::{Filter, Start};
pub use message::{BadRecallHandle, Delayed, GivenId, Message, NewMessage, RecallHandle, Receipt};
pub use producer::{Confirmation, Producer, ProducerConfig};
pub use reading::{Page, Pages, ReadFrom, ReadTo, Reading};
pub use sluice_protocol::errors::{Advice, ErrorCode, Refusal};
pub use sluice_protocol::ids::MessageId;
pub use stream::{MessageStream, Settler, StreamConfig, StreamMessage};
pub use transaction::{BadTransactionHandle, Decision, Transaction, TransactionHandle, TransactionInfo};
