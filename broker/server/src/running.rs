//! A broker that runs: where it is reached, waiting for its failure, and its stop in good order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle as ThreadHandle;
use std::time::{Duration, Instant};

use quinn::VarInt;
use sluice_protocol::errors::{ErrorCode, Refusal};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

use crate::metrics::Metrics;
use crate::questions::Questions;
use crate::ready::Ready;
use crate::renewal::{Renewal, RenewalError, Renewed};
use crate::retention::{Retention, Seen};
use crate::shard::Shard;

/// A broker that runs. Dropping it leaves the broker running until the process ends; `stop` ends it in good order.
#[derive(Debug)]
pub struct Running {
    pub(crate) renewal: Arc<Renewal>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) ready_file: Option<PathBuf>,
    pub(crate) metrics: Arc<Metrics>,
    /// Ends the serving of metrics and health.
    pub(crate) monitor: Option<AbortHandle>,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) drain: watch::Sender<bool>,
    pub(crate) failure: watch::Receiver<Option<String>>,
    pub(crate) accepting: JoinHandle<()>,
    pub(crate) retaining: JoinHandle<()>,
    /// Watches the certificate's files.
    pub(crate) renewing: JoinHandle<()>,
    pub(crate) retention: Retention,
    pub(crate) shard: Shard,
    pub(crate) verdicts: Arc<Questions>,
    /// The shard's thread first, then the disk's, then those that judge.
    pub(crate) threads: Vec<ThreadHandle<()>>,
}

/// Why a broker ended by itself, or could not be stopped in good order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failed {
    /// The log could not be written: what is confirmed is safe, nothing further is taken.
    #[error("the log could not be written, so the broker takes nothing further: {0}")]
    Storage(String),
    /// The time for a stop was over before all was done; the next start does the rest.
    #[error("the stop was not done within {0:?}; the next start recovers what is left")]
    Unfinished(Duration),
}

impl Running {
    /// The addresses that the broker listens on, with the ports that were taken.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What the ready file says.
    pub fn ready(&self) -> Ready {
        self.renewal.ready()
    }

    /// The PEM file with the certificate that clients trust.
    pub fn certificate(&self) -> PathBuf {
        self.ready().certificate
    }

    /// The SHA-256 of the certificate, for pinning, in hexadecimal digits.
    pub fn certificate_sha256(&self) -> String {
        self.ready().certificate_sha256
    }

    /// Reads the certificate and its key again now, as is done when their files change. Connections that are open keep what they have.
    ///
    /// # Errors
    /// [`RenewalError`]; then the certificate before goes on serving.
    pub async fn renew_certificate(&self) -> Result<Renewed, RenewalError> {
        let renewal = self.renewal.clone();
        let renewed = tokio::task::spawn_blocking(move || renewal.renew()).await;
        renewed.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
    }

    /// What the broker has counted so far.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Carries out a round of retention now, as is done every minute.
    ///
    /// # Errors
    /// What the core or the log refuses.
    pub async fn retain(&self) -> Result<(), Refusal> {
        self.retention.round(Seen::default()).await.map(drop)
    }

    /// Waits until the broker fails; forever when it does not. May be cancelled.
    pub async fn wait(&self) -> Failed {
        let mut failure = self.failure.clone();
        loop {
            if let Some(reason) = failure.borrow_and_update().clone() {
                return Failed::Storage(reason);
            }
            if failure.changed().await.is_err() {
                // The shard's thread is gone without a word, which only a defect of ours does.
                return Failed::Storage("the shard's thread ended unexpectedly".to_owned());
            }
        }
    }

    /// Stops within `bound`: no new connections, clients are told, publishes under way are finished, streams' leases returned, the state
    /// checkpointed and all synced.
    ///
    /// # Errors
    /// [`Failed::Storage`] when the log had failed; [`Failed::Unfinished`] when the time was over. Nothing confirmed is lost by either.
    pub async fn stop(self, bound: Duration) -> Result<(), Failed> {
        let deadline = Instant::now() + bound;
        tracing::info!(bound_ms = bound.as_millis() as u64, "stopping");
        if let Some(path) = &self.ready_file {
            // Best effort: who still finds the file finds nobody at the address.
            let _ = std::fs::remove_file(path);
        }
        self.drain.send_replace(true);
        let mut accepting = self.accepting;
        let mut in_time = tokio::time::timeout(bound, &mut accepting).await.is_ok();
        self.endpoint.close(
            VarInt::from_u32(u32::from(ErrorCode::ShuttingDown as u16)),
            ErrorCode::ShuttingDown.text().as_bytes(),
        );
        if !in_time {
            let _ = accepting.await;
        }
        self.renewing.abort();
        self.retaining.abort();
        let _ = self.retaining.await;
        // The disk's thread ends when nobody can give it work any more.
        drop(self.retention);
        self.shard.stop();
        in_time &= join(self.threads, self.verdicts, deadline).await;
        self.endpoint.wait_idle().await;
        if let Some(monitor) = self.monitor {
            monitor.abort();
        }
        let failure = self.failure.borrow().clone();
        match failure {
            Some(reason) => Err(Failed::Storage(reason)),
            None if !in_time => Err(Failed::Unfinished(bound)),
            None => {
                tracing::info!("stopped");
                Ok(())
            }
        }
    }
}

/// Waits for the threads in their order. The shard's last checkpoint gets at least a second, however late it is. A thread that does not end,
/// because the disk is full, is left behind: nothing of the caller's runtime waits for it.
async fn join(threads: Vec<ThreadHandle<()>>, verdicts: Arc<Questions>, deadline: Instant) -> bool {
    let (sender, joined) = tokio::sync::oneshot::channel();
    let joining = std::thread::Builder::new().name("stop".to_owned()).spawn(move || {
        let mut threads = threads.into_iter();
        let first = threads.by_ref().take(2).map(ThreadHandle::join).filter(Result::is_err).count();
        verdicts.close();
        let rest = threads.map(ThreadHandle::join).filter(Result::is_err).count();
        // Whoever waited no longer has said so.
        let _ = sender.send(first + rest == 0);
    });
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    joining.is_ok() && matches!(tokio::time::timeout(left, joined).await, Ok(Ok(true)))
}
