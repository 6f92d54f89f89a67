//! The load: messages of all sizes, pipelined, each noted when it is confirmed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use sluice_client::{Client, Confirmation, Endpoint, NewMessage, Producer, ProducerConfig};
use sluice_end_to_end::chance::Chance;
use tokio::sync::watch;

use crate::content::Ledger;

/// Sends under way at most.
const UNDER_WAY: usize = 200;

/// One producer of a round.
pub(crate) struct Load {
    /// Where it publishes.
    pub(crate) topic: String,
    /// What its bodies begin with, so that no two are the same.
    pub(crate) name: String,
    /// Where confirms are noted; none when nobody will ask for the messages.
    pub(crate) ledger: Option<Arc<Mutex<Ledger>>>,
    pub(crate) chance: Chance,
}

/// Sent and not yet known to be confirmed.
type UnderWay = VecDeque<(Vec<u8>, Confirmation)>;

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
        for (body, confirmation) in under_way {
            // Those that are there are taken; the others nobody promised.
            if let Ok(Ok(receipt)) = tokio::time::timeout(Duration::ZERO, confirmation).await {
                self.confirmed(receipt.id, &body);
            }
        }
        // What is under way would be sent again to the broker of the next start, beside the check of what this one left.
        client.close().await;
        Ok(())
    }

    async fn publish(&self, producer: &Producer, under_way: &mut UnderWay) -> Result<()> {
        for number in 0_u64.. {
            if under_way.len() == UNDER_WAY
                && let Some((body, confirmation)) = under_way.front_mut()
            {
                let receipt = confirmation.await?;
                self.confirmed(receipt.id, body);
                under_way.pop_front();
            }
            let mut body = format!("{}/{number}/", self.name).into_bytes();
            let length = match self.chance.between(0, 99) {
                0 => self.chance.between(10_000, 300_000),
                1..10 => self.chance.between(1_000, 10_000),
                _ => self.chance.between(0, 300),
            };
            body.resize(body.len() + length as usize, b'x');
            let message = NewMessage::new(body.clone())
                .tag(format!("t{}", number % 7))
                .property("number", number.to_string());
            under_way.push_back((body, producer.enqueue(message).await?));
        }
        Ok(())
    }

    fn confirmed(&self, id: sluice_protocol::ids::MessageId, body: &[u8]) {
        if let Some(ledger) = &self.ledger {
            ledger.lock().expect("no task panics with the ledger").confirm(id, body);
        }
    }
}
