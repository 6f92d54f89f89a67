//! Signals: the first SIGTERM or SIGINT asks a command to end in good order, the second ends it at once; SIGHUP asks to read files again.

use std::io::Write as _;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Failure;

/// The signals, from when this was made on.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// SIGHUP, from when this was made on. Only who has files to read again takes it: it ends other commands, as a terminal that is closed should.
pub(crate) struct ReadAgain(Signal);

impl ReadAgain {
    /// Takes the signal over from the system's default of ending the process.
    pub(crate) fn take() -> Result<Self, Failure> {
        Ok(Self(taken(SignalKind::hangup())?))
    }

    /// Waits for it. Cancel safe.
    pub(crate) async fn asked(&mut self) {
        self.0.recv().await;
    }
}

fn taken(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::failed(format!("the system gives no signals: {error}")))
}

impl Signals {
    /// Takes the signals over from the system's default of ending the process.
    pub(crate) fn take() -> Result<Self, Failure> {
        Ok(Self {
            terminate: taken(SignalKind::terminate())?,
            interrupt: taken(SignalKind::interrupt())?,
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
