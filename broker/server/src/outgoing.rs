//! What is on its way to one client: messages and answers that were read and that the client has not taken yet, within bounds.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// The memory that answers and deliveries on one connection may take from when they are read until the client has room for them. A client
/// that does not read waits for itself.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    bytes: Arc<Semaphore>,
    /// What is taken for one before its size is known, in KiB.
    whole: u32,
    /// Messages that were published and whose confirms the client has no room for, over all its producers' streams.
    confirms: Arc<Semaphore>,
}

/// The part of it that one answer or delivery takes until this is dropped.
#[derive(Debug)]
pub(crate) struct Part(OwnedSemaphorePermit);

impl Outgoing {
    /// Room for a few of the largest frames at a time, or many small ones.
    pub(crate) fn new(frame_bytes_max: u32) -> Self {
        let whole = frame_bytes_max.div_ceil(1 << 10);
        Self {
            bytes: Arc::new(Semaphore::new((limits::OUTGOING_FRAMES_MAX * whole) as usize)),
            whole,
            confirms: Arc::new(Semaphore::new(limits::CONFIRMS_UNWRITTEN_MAX as usize)),
        }
    }

    /// Room for whatever is read next, waiting for it. May be cancelled.
    pub(crate) async fn take(&self) -> Part {
        let taken = self.bytes.clone().acquire_many_owned(self.whole).await;
        Part(taken.expect("the room of a connection is never closed"))
    }

    /// Room for the confirms of so many messages of a batch, if there is some now.
    pub(crate) fn confirms_now(&self, messages: u32) -> Option<OwnedSemaphorePermit> {
        self.confirms.clone().try_acquire_many_owned(messages.max(1)).ok()
    }

    /// Room for the confirms of so many messages of a batch, waiting for it. May be cancelled.
    pub(crate) async fn take_confirms(&self, messages: u32) -> OwnedSemaphorePermit {
        let taken = self.confirms.clone().acquire_many_owned(messages.max(1)).await;
        taken.expect("the room of a connection is never closed")
    }
}

impl Part {
    /// Gives back what is not needed, now that the size is known.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let surplus = self.0.num_permits().saturating_sub(bytes.div_ceil(1 << 10));
        // There is that much, so it comes off; dropped, it is free for others.
        drop(self.0.split(surplus));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    async fn fits(outgoing: &Outgoing) -> Option<Part> {
        timeout(Duration::ZERO, outgoing.take()).await.ok()
    }

    #[tokio::test]
    async fn what_is_not_taken_by_the_client_keeps_others_of_its_connection_waiting() {
        let outgoing = Outgoing::new(8 << 20);
        let mut parts = Vec::new();
        for _ in 0..limits::OUTGOING_FRAMES_MAX {
            parts.push(fits(&outgoing).await.unwrap());
        }
        assert!(fits(&outgoing).await.is_none());
        parts[0].shrink(8 << 20);
        assert!(fits(&outgoing).await.is_none(), "it is as large as the largest");
        parts[0].shrink(0);
        assert!(fits(&outgoing).await.is_some());
    }

    #[tokio::test]
    async fn many_small_answers_go_at_the_same_time() {
        let outgoing = Outgoing::new(8 << 20);
        let mut parts = Vec::new();
        for _ in 0..1_000 {
            let mut part = fits(&outgoing).await.unwrap();
            part.shrink(100);
            parts.push(part);
        }
    }
}
