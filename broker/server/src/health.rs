//! Whether the broker lives and is ready, and a scrape of what it has counted: what the monitor's pages are made from.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::limits;
use crate::metrics::Metrics;
use crate::questions::Questions;
use crate::scrape::{Gauges, Scrape};
use crate::serving::Draining;
use crate::shard::{Shard, StorageRoom};
use crate::survey::Everything;

/// The broker as its monitor sees it, from before it serves until it has stopped.
pub(crate) struct Health {
    began: SystemTime,
    serving: OnceLock<Observed>,
    /// How many turns the shard had made when they were looked at last, and since when it has not made more.
    turns: Mutex<(u64, Instant)>,
    /// Only one scrape surveys the core at a time.
    scraping: tokio::sync::Mutex<()>,
}

/// A broker that serves.
pub(crate) struct Observed {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) shard: Shard,
    pub(crate) verdicts: Arc<Questions>,
    pub(crate) draining: Draining,
    pub(crate) failure: watch::Receiver<Option<String>>,
    pub(crate) log_directory: PathBuf,
    pub(crate) epoch: u32,
}

/// Why clients are not to be sent here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReady {
    /// The log is being replayed.
    #[error("starting: the log is being recovered")]
    Starting,
    /// The broker stops in good order.
    #[error("draining: the broker is stopping")]
    Draining,
    /// Publishes are refused.
    #[error("the disk is full: nothing is published until there is room; consumers go on in the log's reserve")]
    StorageFull,
    /// Consumers are refused too.
    #[error("the disk is full and the log's reserve is used up: nothing is published or consumed until there is room")]
    ReserveUsedUp,
    /// Everything is refused.
    #[error("the log could not be written: {0}")]
    StorageFailed(String),
}

/// The shard's thread does nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the shard has finished no turn for {0} s")]
pub(crate) struct Stalled(u64);

impl Health {
    /// Of a broker that does not serve yet.
    pub(crate) fn starting() -> Self {
        Self {
            began: SystemTime::now(),
            serving: OnceLock::new(),
            turns: Mutex::new((0, Instant::now())),
            scraping: tokio::sync::Mutex::default(),
        }
    }

    /// Says that the broker serves now.
    pub(crate) fn serves(&self, observed: Observed) {
        // A broker begins to serve once; were it told twice, the first word would hold.
        let _ = self.serving.set(observed);
    }

    /// Whether clients are to be sent here.
    ///
    /// # Errors
    /// [`NotReady`].
    pub(crate) fn ready(&self) -> Result<(), NotReady> {
        let observed = self.serving.get().ok_or(NotReady::Starting)?;
        if let Some(reason) = observed.failure.borrow().clone() {
            return Err(NotReady::StorageFailed(reason));
        }
        if observed.draining.has_begun() {
            return Err(NotReady::Draining);
        }
        match observed.shard.storage_room() {
            StorageRoom::Enough => Ok(()),
            StorageRoom::Reserve => Err(NotReady::StorageFull),
            StorageRoom::Nothing => Err(NotReady::ReserveUsedUp),
        }
    }

    /// Whether the shard's thread goes on. A broker that starts, or whose log failed, which ends it by itself, lives.
    ///
    /// # Errors
    /// [`Stalled`].
    pub(crate) fn live(&self) -> Result<(), Stalled> {
        let Some(observed) = self.serving.get() else { return Ok(()) };
        if observed.failure.borrow().is_some() {
            return Ok(());
        }
        self.turned(observed.metrics.turns.get(), Instant::now())
    }

    fn turned(&self, turns: u64, now: Instant) -> Result<(), Stalled> {
        // No code panics while it holds this, so what is inside is whole.
        let mut seen = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != turns {
            *seen = (turns, now);
        }
        let stalled = now.saturating_duration_since(seen.1);
        match stalled < limits::STALL_MAX {
            true => Ok(()),
            false => Err(Stalled(stalled.as_secs())),
        }
    }

    /// The page of metrics; `None` before the broker serves.
    pub(crate) async fn scrape(&self) -> Option<String> {
        let observed = self.serving.get()?;
        let _alone = self.scraping.lock().await;
        let everything = Everything::ask(&observed.shard).await;
        let gauges = self.gauges(observed);
        let (metrics, directory) = (observed.metrics.clone(), observed.log_directory.clone());
        // It reads directories and writes up to a few hundred kilobytes.
        let written = tokio::task::spawn_blocking(move || {
            let gauges = Gauges {
                log_bytes: bytes_of(&directory).ok(),
                ..gauges
            };
            let scrape = Scrape {
                metrics,
                gauges,
                everything,
            };
            scrape.text()
        });
        written.await.ok()
    }

    fn gauges(&self, observed: &Observed) -> Gauges {
        let (inbox_bytes, inbox_bytes_max) = observed.shard.inbox_bytes();
        Gauges {
            ready: self.ready().is_ok(),
            storage_room: observed.shard.storage_room(),
            storage_failed: observed.failure.borrow().is_some(),
            inbox_bytes,
            inbox_bytes_max,
            verdicts_waiting: observed.verdicts.waiting() as u64,
            log_bytes: None,
            started_seconds: self.began.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
            epoch: observed.epoch,
        }
    }
}

/// The bytes of the files of a directory.
fn bytes_of(directory: &std::path::Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(directory)? {
        // A file that retention removes meanwhile counts nothing.
        bytes += entry?.metadata().map_or(0, |facts| facts.len());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_shard_lives_as_long_as_it_turns() {
        let health = Health::starting();
        let begun = Instant::now();
        let later = |ms: u64| begun + Duration::from_millis(ms);
        assert_eq!(health.turned(1, later(0)), Ok(()));
        assert_eq!(health.turned(1, later(9_999)), Ok(()));
        assert_eq!(health.turned(1, later(10_000)), Err(Stalled(10)));
        assert_eq!(health.turned(2, later(20_000)), Ok(()), "it goes on");
        assert_eq!(health.turned(2, later(20_001)), Ok(()));
    }

    #[test]
    fn a_broker_that_starts_lives_and_is_not_ready() {
        let health = Health::starting();
        assert_eq!(health.live(), Ok(()));
        assert_eq!(health.ready().unwrap_err().to_string(), "starting: the log is being recovered");
    }
}
