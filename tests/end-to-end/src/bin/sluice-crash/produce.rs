//! The load: messages of all sizes, pipelined, each noted when it is confirmed.

use std::collections::VecDeque;
use std::sync::Mutex;

use anyhow::Result;
use sluice_client::{Client, NewMessage, ProducerConfig};

use crate::TOPIC;
use crate::content::{Chance, Ledger};

/// Sends under way at most.
const UNDER_WAY: usize = 200;

/// Publishes until the broker is gone.
///
/// # Errors
/// The broker is gone.
pub(crate) async fn run(client: &Client, ledger: &Mutex<Ledger>, round: u64, producer: u64, mut chance: Chance) -> Result<()> {
    let config = ProducerConfig {
        batch_messages: chance.between(1, 64) as u32,
        ..ProducerConfig::default()
    };
    let sender = client.producer(TOPIC, config);
    let mut under_way = VecDeque::new();
    for number in 0_u64.. {
        if under_way.len() == UNDER_WAY {
            let (body, confirmation): (Vec<u8>, sluice_client::Confirmation) = under_way.pop_front().expect("it is not empty");
            let receipt = confirmation.await?;
            ledger.lock().expect("no task panics with the ledger").confirm(receipt.id, &body);
        }
        let mut body = format!("{round}/{producer}/{number}/").into_bytes();
        let length = match chance.between(0, 99) {
            0 => chance.between(10_000, 300_000),
            1..10 => chance.between(1000, 10_000),
            _ => chance.between(0, 300),
        };
        body.resize(body.len() + length as usize, b'x');
        let message = NewMessage::new(body.clone())
            .tag(format!("t{}", number % 7))
            .property("number", number.to_string());
        under_way.push_back((body, sender.enqueue(message).await?));
    }
    Ok(())
}
