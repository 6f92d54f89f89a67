//! Copies of messages that the core has the shell make: what is made of a message, and what the copy says of its origin.

use sluice_protocol::ids::Digest;

use crate::receipt::TRANSACTION_BYTES;

/// What is to be made of a message that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Copied {
    /// What a dead-letter topic holds.
    DeadLetter(DeadLetter),
    /// What the topic of messages holds that were rolled back because nobody decided.
    RolledBack(RolledBack),
    /// Of such a copy the message that it was made of.
    Revived,
}

/// What the copy of a message that was rolled back because nobody decided says of its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolledBack {
    /// The topic it was prepared for.
    pub topic: String,
    /// When it was prepared: wall clock, milliseconds.
    pub prepared_wall_ms: i64,
    /// How often a producer was asked about it.
    pub asks: u16,
    /// What an operator commits it with.
    pub handle: [u8; TRANSACTION_BYTES],
}

/// What the copy in the dead-letter topic says of its origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The topic it came from.
    pub topic: String,
    /// The group that gave it up.
    pub group: String,
    /// How often it was delivered.
    pub attempts: u16,
    /// Why it was not settled the last time, or how the plugin failed on it.
    pub reason: String,
    /// The version of the plugin that failed on it.
    pub plugin: Option<Digest>,
}
