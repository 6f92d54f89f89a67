//! The broker as a value: every decision about topics, queues, groups, leases and settlements, without a clock, a thread or a file.

mod admin;
mod asking;
mod broker;
mod checkpoint;
mod config;
mod consume;
mod copied;
mod counters;
mod delay;
pub mod effect;
mod grow;
pub mod input;
mod journal;
mod leases;
mod letters;
pub mod limits;
mod operate;
mod parting;
mod parts;
pub mod planted;
mod publish;
mod ranges;
mod receipt;
mod shown;
pub mod standing;
pub mod state;
pub mod survey;
mod taking;
mod transaction;

pub use broker::Core;
pub use config::CoreConfig;
pub use counters::Counters;
pub use ranges::{OffsetSet, Spans, Timed};
pub use receipt::{RECALL_BYTES, TRANSACTION_BYTES};
