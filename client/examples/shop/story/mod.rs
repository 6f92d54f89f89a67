//! A shop's day, told and checked through the public client alone: registrations, orders with their timeouts, and a sale.
//!
//! It stops at the first expectation that does not hold and says which.

mod expectations;
mod orders;
mod registrations;
mod sale;
mod service;

use anyhow::{Context, Result};
use sluice_client::Client;

/// Tells the story on this broker, in topics and groups whose names begin with `name`.
///
/// # Errors
/// An expectation does not hold, a topic of that name exists, or the broker refused something.
pub(crate) async fn tell(client: &Client, name: &str) -> Result<()> {
    registrations::tell(client, name).await?;
    orders::tell(client, name).await?;
    sale::tell(client, name).await
}

/// Creates a topic of the story, with the broker's own settings.
async fn create(client: &Client, topic: &str) -> Result<()> {
    let created = client.create_topic(topic, None).await;
    created.with_context(|| format!("topic {topic} could not be created; a story needs a name that was not used before"))
}
