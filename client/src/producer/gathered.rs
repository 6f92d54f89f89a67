//! Messages that wait for a place in a batch: what they take, and since when.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::{ProducerConfig, Submitted};

/// Messages not yet numbered, oldest first.
#[derive(Default)]
pub(super) struct Gathered {
    messages: VecDeque<Submitted>,
    bytes: usize,
    /// When the oldest came, or those before it left.
    since: Option<Instant>,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn push(&mut self, message: Submitted) {
        self.bytes += message.message.bytes_max();
        self.since.get_or_insert_with(Instant::now);
        self.messages.push_back(message);
    }

    /// The oldest message.
    pub(super) fn pop(&mut self) -> Option<Submitted> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.message.bytes_max();
        if self.messages.is_empty() {
            self.since = None;
        }
        Some(message)
    }

    /// Puts the message back that was the oldest.
    pub(super) fn put_back(&mut self, message: Submitted, now: Instant) {
        self.bytes += message.message.bytes_max();
        self.since.get_or_insert(now);
        self.messages.push_front(message);
    }

    /// Begins the wait of those that were left behind anew.
    pub(super) fn wait_from(&mut self, now: Instant) {
        self.since = self.since.map(|_| now);
    }

    /// Whether they are to leave now.
    pub(super) fn due(&self, config: &ProducerConfig, closing: bool) -> bool {
        let full = self.messages.len() >= config.batch_messages as usize || self.bytes >= config.batch_bytes;
        let linger = Duration::from_millis(config.linger_ms);
        let lingered = self.since.is_some_and(|since| linger.is_zero() || since.elapsed() >= linger);
        !self.is_empty() && (full || closing || lingered)
    }

    /// When the oldest has waited for so long.
    pub(super) fn waited(&self, wait: Duration) -> Option<Instant> {
        self.since.map(|since| since + wait)
    }
}
