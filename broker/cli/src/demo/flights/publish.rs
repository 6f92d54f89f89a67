//! The demonstration's producer: every flight sent, pipelined, its message id kept for the checks that follow.

use anyhow::{Context, Result};
use sluice_client::{Client, NewMessage, ProducerConfig};
use sluice_protocol::ids::MessageId;

use super::TOPIC;
use super::data::Flight;
use crate::output;

/// How many sends are on their way before the oldest confirmation is waited for.
const UNDER_WAY: usize = 1000;

/// Publishes all flights and returns the id of each, in their order.
///
/// # Errors
/// A flight was refused or not confirmed.
pub(super) async fn all(client: &Client, flights: &[Flight]) -> Result<Vec<MessageId>> {
    let bar = output::progress(Some(flights.len() as u64), false);
    let producer = client.producer(TOPIC, ProducerConfig::default());
    let mut under_way = std::collections::VecDeque::with_capacity(UNDER_WAY);
    let mut ids = Vec::with_capacity(flights.len());
    for (number, flight) in flights.iter().enumerate() {
        if under_way.len() == UNDER_WAY {
            let confirmation: sluice_client::Confirmation = under_way.pop_front().expect("it is not empty");
            ids.push(confirmation.await.context("a flight was not confirmed")?.id);
            bar.inc(1);
        }
        let mut message = NewMessage::new(flight.body()).tag(&flight.origin).key(number.to_string());
        message.properties = flight.properties();
        under_way.push_back(producer.enqueue(message).await.context("a flight was not taken")?);
    }
    for confirmation in under_way {
        ids.push(confirmation.await.context("a flight was not confirmed")?.id);
        bar.inc(1);
    }
    producer.close().await.context("the producer did not end in order")?;
    bar.finish_and_clear();
    Ok(ids)
}
