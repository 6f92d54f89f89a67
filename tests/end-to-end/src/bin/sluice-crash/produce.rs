//! The load: messages of all sizes and kinds, pipelined, each noted when it is confirmed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use sluice_client::{Client, Confirmation, Endpoint, Producer, ProducerConfig, Receipt};
use sluice_end_to_end::chance::Chance;
use tokio::sync::watch;

use crate::audit::{Audit, Handle, Sent};
use crate::draw::draw;

/// Sends under way at most.
const UNDER_WAY: usize = 200;

/// One producer of a round.
pub(crate) struct Load {
    /// Where it publishes.
    pub(crate) topic: String,
    pub(crate) round: u64,
    /// Which of a round's it is.
    pub(crate) producer: u64,
    /// Where confirms are noted; none when nobody will ask for the messages.
    pub(crate) audit: Option<Arc<Mutex<Audit>>>,
    pub(crate) chance: Chance,
}

/// Sent and not yet known to be confirmed.
type UnderWay = VecDeque<(Sent, Confirmation)>;

impl Load {
    /// Publishes until it is stopped or the broker is gone, then notes what is confirmed of what is under way.
    ///
    /// # Errors
    /// The broker was gone before a connection was had.
    pub(crate) async fn run(self, endpoint: Endpoint, mut stopped: watch::Receiver<bool>) -> Result<()> {
        let client = tokio::select! {
            client = Client::connect(endpoint) => client?,
            _ = stopped.changed() => return Ok(()),
        };
        let config = ProducerConfig {
            batch_messages: self.chance.between(1, 64) as u32,
            ..ProducerConfig::default()
        };
        let producer = client.producer(&self.topic, config);
        let mut under_way = UnderWay::new();
        tokio::select! {
            _ = stopped.changed() => {}
            _ = self.publish(&producer, &mut under_way) => {}
        }
        for (sent, confirmation) in under_way {
            // Those that are there are taken; the others nobody promised.
            if let Ok(Ok(receipt)) = tokio::time::timeout(Duration::ZERO, confirmation).await {
                self.confirmed(receipt, sent);
            }
        }
        // What is under way would be sent again to the broker of the next start, beside the check of what this one left.
        client.close().await;
        Ok(())
    }

    async fn publish(&self, producer: &Producer, under_way: &mut UnderWay) -> Result<()> {
        // Message groups go on from round to round: the numbers of a later round are larger.
        for number in self.round << 32.. {
            if under_way.len() == UNDER_WAY
                && let Some((sent, confirmation)) = under_way.front_mut()
            {
                let receipt = confirmation.await?;
                self.confirmed(receipt, sent.clone());
                under_way.pop_front();
            }
            let beginning = format!("{}/{}", self.round, self.producer);
            let (message, sent) = draw(&self.chance, self.producer, number, &beginning);
            under_way.push_back((sent, producer.enqueue(message).await?));
        }
        Ok(())
    }

    fn confirmed(&self, receipt: Receipt, sent: Sent) {
        let Some(audit) = &self.audit else { return };
        let mut audit = audit.lock().expect("no task panics with the audit");
        audit.confirm(receipt.id, sent);
        // A part of what waits is left to its time, or undecided.
        if self.chance.once_in(3) {
            return;
        }
        match (receipt.transaction, receipt.delayed) {
            (Some(transaction), _) => audit.waiting.push((receipt.id, Handle::Transaction(transaction))),
            (None, Some(delayed)) => audit
                .waiting
                .push((receipt.id, Handle::Recall(delayed.recall, delayed.deliver_at_ms))),
            (None, None) => {}
        }
    }
}
