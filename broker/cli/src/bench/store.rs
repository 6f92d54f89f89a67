//! Storing what a case reads, by the ordinary publish path; and having the system forget it.

use std::collections::VecDeque;
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result};
use sluice_client::{Client, NewMessage, Producer, ProducerConfig, Receipt};

use crate::child::Broker;

/// Sends kept under way while a broker is filled.
const UNDER_WAY: usize = 4_096;

/// Publishes `messages`, the one with the number `n` as `make(n)`. Each batch is confirmed before the next is sent, so that batches are stored
/// as they are sent.
///
/// # Errors
/// A message was not stored.
pub(super) async fn publish(
    broker: &Broker,
    topic: &str,
    messages: u64,
    batch: u32,
    mut make: impl FnMut(u64) -> NewMessage,
) -> Result<()> {
    let client = Client::connect(broker.endpoint().client_name("bench-store")).await?;
    let config = ProducerConfig {
        batch_messages: batch,
        // So many that the messages alone decide when a batch is full.
        batch_bytes: sluice_protocol::limits::FRAME_BYTES_MAX,
        linger_ms: 1000,
        ..ProducerConfig::default()
    };
    let producer = client.producer(topic, config);
    let mut next = 0;
    while next < messages {
        let mut confirmations = Vec::new();
        for number in next..messages.min(next + u64::from(batch)) {
            confirmations.push(producer.enqueue(make(number)).await?);
        }
        next += confirmations.len() as u64;
        for confirmation in confirmations {
            confirmation.await.context("a message was not stored")?;
        }
    }
    producer.close().await?;
    client.close().await;
    Ok(())
}

/// Publishes `messages`, the one with the number `n` as `make(n)`, as fast as they are confirmed: a batch's worth for one topic, then for the
/// next. Each receipt is shown to `stored`, in the order of the numbers.
///
/// # Errors
/// A message was not stored.
pub(super) async fn fill(
    broker: &Broker,
    topics: &[String],
    messages: u64,
    batch: u32,
    mut make: impl FnMut(u64) -> NewMessage,
    mut stored: impl FnMut(u64, Receipt),
) -> Result<()> {
    let client = Client::connect(broker.endpoint().client_name("bench-store")).await?;
    let config = ProducerConfig {
        batch_messages: batch,
        ..ProducerConfig::default()
    };
    let producers: Vec<Producer> = topics.iter().map(|topic| client.producer(topic, config.clone())).collect();
    let mut under_way = VecDeque::with_capacity(UNDER_WAY);
    let mut done = 0;
    for number in 0..messages {
        if under_way.len() == UNDER_WAY
            && let Some(oldest) = under_way.pop_front()
        {
            stored(done, confirmed(oldest).await?);
            done += 1;
        }
        let producer = &producers[(number / u64::from(batch.max(1))) as usize % producers.len()];
        under_way.push_back(producer.enqueue(make(number)).await?);
    }
    for left in under_way {
        stored(done, confirmed(left).await?);
        done += 1;
    }
    client.close().await;
    Ok(())
}

async fn confirmed(confirmation: sluice_client::Confirmation) -> Result<Receipt> {
    confirmation.await.context("a message was not stored")
}

/// Writes back and drops what the page cache holds of the files in a directory.
///
/// # Errors
/// A file cannot be opened or written back.
pub(super) fn drop_cached(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory).context("list the log")? {
        let file = match File::open(entry.context("list the log")?.path()) {
            Ok(file) => file,
            // Checkpoints come and go while a broker runs.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).context("open a file of the log"),
        };
        file.sync_all().context("write back a file of the log")?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).context("drop a file from the page cache")?;
    }
    Ok(())
}

/// How many files of a folder have names that begin like this, and their bytes together.
///
/// # Errors
/// There is no such folder.
pub(super) fn files(folder: &Path, beginning: &str) -> Result<(u64, u64)> {
    let mut found = (0, 0);
    for entry in std::fs::read_dir(folder).context("look into the log's folder")? {
        let entry = entry.context("look into the log's folder")?;
        if entry.file_name().to_string_lossy().starts_with(beginning) {
            found = (found.0 + 1, found.1 + entry.metadata().map_or(0, |facts| facts.len()));
        }
    }
    Ok(found)
}

/// A folder for a broker, in `folder` if given.
///
/// # Errors
/// None can be made there.
pub(super) fn folder(folder: Option<&Path>) -> Result<tempfile::TempDir> {
    let made = folder.map_or_else(tempfile::tempdir, tempfile::tempdir_in);
    made.context("make a folder")
}
