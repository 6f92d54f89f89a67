//! What was sent and confirmed since the last check.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use sluice_protocol::ids::MessageId;

/// Everything the broker confirmed, and the first promise it broke.
#[derive(Default)]
pub(crate) struct Ledger {
    bodies: HashMap<MessageId, u64>,
    violation: Option<String>,
}

impl Ledger {
    /// A message is confirmed with this body.
    pub(crate) fn confirm(&mut self, id: MessageId, body: &[u8]) {
        if self.bodies.insert(id, digest(body)).is_some_and(|before| before != digest(body)) {
            self.violate(format!("two messages were confirmed as {id}"));
        }
    }

    /// A message arrived with this body.
    pub(crate) fn deliver(&mut self, id: MessageId, body: &[u8]) {
        if self.bodies.get(&id).is_some_and(|sent| *sent != digest(body)) {
            self.violate(format!("message {id} was delivered with another body"));
        }
    }

    /// A promise was broken; the first is kept.
    pub(crate) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// The ids of all confirmed messages.
    pub(crate) fn confirmed(&self) -> impl Iterator<Item = &MessageId> {
        self.bodies.keys()
    }

    /// How many messages are confirmed, and the first broken promise.
    pub(crate) fn state(&self) -> (usize, Option<String>) {
        (self.bodies.len(), self.violation.clone())
    }
}

fn digest(body: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    body.hash(&mut hasher);
    hasher.finish()
}
