//! What every connection of a running broker shares, and how it learns that the broker drains.

use std::sync::Arc;

use sluice_log::LogReader;
use sluice_log::record::GroupSettings;
use sluice_protocol::errors::{ErrorCode, Refusal};
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::plugins::Plugins;
use crate::shard::Shard;

/// The broker as its connections see it.
pub(crate) struct Serving {
    pub(crate) config: Config,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shard: Shard,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) reader: LogReader,
    /// This start's number, for the welcome.
    pub(crate) epoch: u32,
    /// What a group gets that is created without settings.
    pub(crate) group_defaults: GroupSettings,
    pub(crate) draining: Draining,
    /// The right to put a page of stored messages together.
    pub(crate) pages: Semaphore,
    /// The right to read a backup.
    pub(crate) backups: Semaphore,
}

impl Serving {
    /// Something to await until the broker drains.
    pub(crate) fn draining(&self) -> Draining {
        self.draining.clone()
    }
}

/// Whether the broker is stopping in good order.
#[derive(Clone, Debug)]
pub(crate) struct Draining(watch::Receiver<bool>);

impl Draining {
    /// A switch and what watches it.
    pub(crate) fn new() -> (watch::Sender<bool>, Self) {
        let (switch, watch) = watch::channel(false);
        (switch, Self(watch))
    }

    /// Whether it has begun.
    pub(crate) fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it begins. May be cancelled.
    pub(crate) async fn begun(&mut self) {
        // When the switch is gone the broker is stopping, too.
        let _ = self.0.wait_for(|begun| *begun).await;
    }
}

/// What a client is told that asks for something new while the broker drains.
pub(crate) fn shutting_down() -> Refusal {
    Refusal::plain(ErrorCode::ShuttingDown)
}
