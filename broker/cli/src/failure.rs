//! How a command fails: what it says, and the exit code that tells a program why.

use std::io::Write as _;
use std::process::ExitCode;

use sluice_client::{Advice, Error, Refusal, SendError};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Refused, or failed: exit code 1. The second text says what to do.
    Failed {
        text: String,
        advice: Option<String>,
        code: Option<&'static str>,
    },
    /// The arguments are wrong: exit code 2.
    Usage(String),
    /// No broker could be reached: exit code 3.
    Unreachable(String),
    /// Whoever read the output has seen enough: exit code 0.
    ClosedPipe,
}

impl Failure {
    /// A failure with a text that says all.
    pub(crate) fn failed(text: impl Into<String>) -> Self {
        Failure::Failed {
            text: text.into(),
            advice: None,
            code: None,
        }
    }

    /// A failure of long work, with all that led to it.
    pub(crate) fn from_error(error: &anyhow::Error) -> Self {
        Failure::failed(format!("{error:#}"))
    }

    /// Says what went wrong on standard error and gives the exit code.
    pub(crate) fn report(self, json: bool) -> ExitCode {
        let (exit, text, advice, code) = match self {
            Failure::ClosedPipe => return ExitCode::SUCCESS,
            Failure::Failed { text, advice, code } => (1, text, advice, code),
            Failure::Usage(text) => (2, text, Some("see --help".to_owned()), None),
            Failure::Unreachable(text) => (
                3,
                text,
                Some("start one with `sluice serve`, or say where it is with --server and --ca".to_owned()),
                None,
            ),
        };
        let line = if json {
            serde_json::json!({ "error": text, "advice": advice, "code": code, "exit": exit }).to_string()
        } else {
            match advice {
                Some(advice) => format!("error: {text}\n  help: {advice}"),
                None => format!("error: {text}"),
            }
        };
        // Without a place to say it the exit code says it.
        let _ = writeln!(std::io::stderr(), "{line}");
        ExitCode::from(exit)
    }
}

/// What to do about a refusal, beyond what its text says.
fn advice(advice: Advice) -> &'static str {
    match advice {
        Advice::Fix => "change the request; the same one will be refused again",
        Advice::Retry => "try again later",
        Advice::Elsewhere => "ask the broker's operator; its log says more",
    }
}

/// A refusal in words, with its place in the expression where it has one.
pub(crate) fn refusal_text(refusal: &Refusal) -> String {
    match refusal.at {
        Some(at) => format!("{refusal} (at byte {at} of the expression)"),
        None => refusal.to_string(),
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let help = Some(advice(error.advice()).to_owned());
        match error {
            Error::Refused(refusal) => Failure::Failed {
                text: refusal_text(&refusal),
                advice: help,
                code: Some(refusal.code.name()),
            },
            Error::Unreachable { .. } | Error::Endpoint(_) => Failure::Unreachable(error.to_string()),
            Error::Unknown { .. } | Error::TimedOut { .. } | Error::LeaseLost | Error::Protocol(_) | Error::Closed => Failure::Failed {
                text: error.to_string(),
                advice: help,
                code: None,
            },
        }
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let help = Some(advice(error.advice()).to_owned());
        match error {
            SendError::Refused(refusal) => Failure::Failed {
                text: refusal_text(&refusal),
                advice: help,
                code: Some(refusal.code.name()),
            },
            SendError::Unknown { .. } | SendError::Closed => Failure::Failed {
                text: error.to_string(),
                advice: help,
                code: None,
            },
        }
    }
}
