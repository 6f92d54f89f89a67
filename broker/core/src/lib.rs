//! The broker as a value: every decision about topics, queues, groups, leases and settlements, without a clock, a thread or a file.

pub mod effect;
pub mod input;
