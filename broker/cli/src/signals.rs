//! SIGTERM and SIGINT: the first asks a command to end in good order, the second ends it at once.

use std::io::Write as _;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The two signals, from when this was made on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Takes the signals over from the system's default of ending the process.
    pub(crate) fn take() -> Result<Self, Failure> {
        let take = |kind| signal(kind).map_err(|error| Failure::failed(format!("the system gives no signals: {error}")));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them. Cancel safe.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Ends the process with the next signal; it gets no chance to do anything more.
    pub(crate) async fn end_at_once(&mut self) {
        self.next().await;
        // Without a place to say it the exit code says it.
        let _ = writeln!(std::io::stderr(), "ended at once by a second signal");
        std::process::exit(1)
    }
}
