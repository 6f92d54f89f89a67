//! The asynchronous Rust client of Sluice, over QUIC.

pub mod admin;
mod client;
mod consumer;
mod endpoint;
mod error;
mod event;
mod filter;
pub mod limits;
mod link;
mod message;
mod producer;
mod router;
mod sequences;
mod session;
mod settle;
mod stream;
mod tls;
mod wire;

pub use client::Client;
pub use consumer::{Consumer, ConsumerConfig, ReceivedMessage};
pub use endpoint::{Endpoint, ReadyFile, Trust};
pub use error::{Error, SendError};
pub use event::Event;
pub use filter::{Filter, Start};
pub use message::{Message, NewMessage, Receipt};
pub use producer::{Confirmation, Producer, ProducerConfig};
pub use sluice_protocol::errors::{Advice, ErrorCode, Refusal};
pub use sluice_protocol::ids::MessageId;
pub use stream::{MessageStream, Settler, StreamConfig, StreamMessage};
