//! Certificates read again without a restart: when an operator asks, and when their files change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::time::MissedTickBehavior;

use crate::certificate::{Certificate, CertificateError};
use crate::config::Config;
use crate::limits;
use crate::listen::{self, ListenError};
use crate::metrics::Metrics;
use crate::ready::Ready;
use crate::serving::Draining;

/// Why a certificate that was read again is not taken. The one before goes on serving.
#[derive(Debug, thiserror::Error)]
pub enum RenewalError {
    /// The files cannot be read.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// They do not serve: a key of another certificate, for one.
    #[error(transparent)]
    Listen(#[from] ListenError),
}

/// What came of reading a certificate again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewed {
    /// New connections get it. Those that are open keep the one they have.
    Taken,
    /// It is the one that serves already.
    Same,
}

/// Keeps the endpoint's certificate as its files say.
#[derive(Debug)]
pub(crate) struct Renewal {
    pub(crate) config: Config,
    pub(crate) endpoint: quinn::Endpoint,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) draining: Draining,
    pub(crate) current: Mutex<Current>,
}

/// The certificate that serves.
#[derive(Debug)]
pub(crate) struct Current {
    pub(crate) certificate: Certificate,
    pub(crate) ready: Ready,
}

/// By what a change of the two files is noticed: when each was written, and its size.
type Stamps = [Option<(SystemTime, u64)>; 2];

impl Renewal {
    /// What the ready file says.
    pub(crate) fn ready(&self) -> Ready {
        self.with_current(|current| current.ready.clone())
    }

    /// Reads the certificate and its key again, and has new connections get them. Blocks while it reads.
    ///
    /// # Errors
    /// [`RenewalError`], counted and logged already.
    pub(crate) fn renew(&self) -> Result<Renewed, RenewalError> {
        let renewed = self.take();
        match &renewed {
            Ok(Renewed::Taken) => {
                let Ready { certificate_sha256, .. } = self.ready();
                self.metrics.certificates_taken.one();
                tracing::info!(certificate_sha256, "the certificate was read again: new connections get it");
            }
            Ok(Renewed::Same) => tracing::info!("the certificate was read again: it is the one that serves"),
            Err(error) => {
                self.metrics.certificates_refused.one();
                tracing::error!(%error, "the certificate was read again and is refused: the one before goes on serving");
            }
        }
        renewed
    }

    fn take(&self) -> Result<Renewed, RenewalError> {
        let (certificate, key) = self.files();
        let certificate = Certificate::read(&certificate, &key)?;
        let server = listen::server(&self.config, &certificate)?;
        self.with_current(|current| {
            if current.certificate.chain == certificate.chain && current.certificate.key == certificate.key {
                return Ok(Renewed::Same);
            }
            if !self.draining.has_begun() {
                self.endpoint.set_server_config(Some(server));
            }
            current.ready.certificate_sha256.clone_from(&certificate.sha256);
            current.certificate = certificate;
            if let Some(path) = self.config.ready_file.as_ref().filter(|path| path.exists())
                && let Err(error) = current.ready.write(path)
            {
                tracing::error!(%error, path = %path.display(), "the ready file cannot be written: it pins the certificate before");
            }
            Ok(Renewed::Taken)
        })
    }

    /// Looks at the files from time to time, and reads them again when they have changed, until its task is ended.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut stamps = self.stamps();
        let mut looks = tokio::time::interval(limits::CERTIFICATE_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await; // the first is due at once
        loop {
            looks.tick().await;
            let now = self.stamps();
            if now != stamps {
                stamps = now;
                let renewal = self.clone();
                // What came of it is logged.
                let _ = tokio::task::spawn_blocking(move || renewal.renew()).await;
            }
        }
    }

    fn stamps(&self) -> Stamps {
        let (certificate, key) = self.files();
        [certificate, key].map(|path| {
            let facts = std::fs::metadata(path).ok()?;
            Some((facts.modified().ok()?, facts.len()))
        })
    }

    /// The certificate's file and its key's.
    fn files(&self) -> (PathBuf, PathBuf) {
        match (&self.config.certificate_file, &self.config.key_file) {
            (Some(certificate), Some(key)) => (certificate.clone(), key.clone()),
            (Some(_), None) | (None, Some(_)) | (None, None) => made(&self.config.data_dir),
        }
    }

    fn with_current<T>(&self, look: impl FnOnce(&mut Current) -> T) -> T {
        // No code panics while it holds this, so what is inside is whole.
        look(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Where the certificate that the broker makes itself lies, and its key.
fn made(data_dir: &Path) -> (PathBuf, PathBuf) {
    (data_dir.join(crate::certificate::MADE), data_dir.join(crate::certificate::MADE_KEY))
}
