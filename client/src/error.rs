//! What can go wrong for a user of the client, and what to do about it.

use std::time::Duration;

use sluice_protocol::errors::{Advice, ErrorCode, Refusal};

/// Why something asked of the broker did not happen, or may not have happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The broker said no; the refusal has a code of the registry, its advice and the particular case.
    #[error("{0}")]
    Refused(Refusal),
    /// No connection could be had within the time allowed. Nothing was asked.
    #[error("cannot reach a broker at {address}: {reason}")]
    Unreachable {
        /// Where the broker was looked for.
        address: String,
        /// Why the last try failed.
        reason: String,
    },
    /// The connection was lost before the answer came: it may have been done or not.
    #[error("the connection was lost before the answer came, so whether it was done is not known: {reason}")]
    Unknown {
        /// How the connection was lost.
        reason: String,
    },
    /// No answer came in time: it may have been done or not.
    #[error("no answer within {waited:?}, so whether it was done is not known")]
    TimedOut {
        /// How long was waited.
        waited: Duration,
    },
    /// The message came over an earlier connection or pass: its lease is gone and the broker delivers it again.
    #[error("the lease ended with the connection or the pass it came by; the broker delivers the message again")]
    LeaseLost,
    /// The endpoint cannot be used: a file that cannot be read, a certificate that is none.
    #[error("{0}")]
    Endpoint(String),
    /// The broker sent what this client does not understand.
    #[error("the broker sent what this client does not understand: {0}")]
    Protocol(String),
    /// The client, producer or stream was closed here.
    #[error("closed by this program")]
    Closed,
}

impl Error {
    /// The code of the registry, where the broker refused.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Error::Refused(refusal) => Some(refusal.code),
            Error::Unreachable { .. }
            | Error::Unknown { .. }
            | Error::TimedOut { .. }
            | Error::LeaseLost
            | Error::Endpoint(_)
            | Error::Protocol(_)
            | Error::Closed => None,
        }
    }

    /// What to do: change what is asked, ask again later, or ask somebody else.
    pub fn advice(&self) -> Advice {
        match self {
            Error::Refused(refusal) => refusal.code.advice(),
            Error::Unreachable { .. } | Error::Unknown { .. } | Error::TimedOut { .. } | Error::LeaseLost => Advice::Retry,
            Error::Endpoint(_) | Error::Closed => Advice::Fix,
            Error::Protocol(_) => Advice::Elsewhere,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Error::Refused(refusal)
    }
}

/// Why a message was not confirmed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The broker refused this message; it is not stored. With advice `retry` the client has tried again for as long as the producer
    /// allows.
    #[error("{0}")]
    Refused(Refusal),
    /// The message was given up before a confirmation came: it may be stored or not.
    #[error("given up before it was confirmed, so whether it is stored is not known: {reason}")]
    Unknown {
        /// Why no confirmation came.
        reason: String,
    },
    /// The client or the producer was closed before the message left.
    #[error("closed by this program before the message left")]
    Closed,
}

impl SendError {
    /// What to do: change the message, send it again later, or ask somebody else.
    pub fn advice(&self) -> Advice {
        match self {
            SendError::Refused(refusal) => refusal.code.advice(),
            SendError::Unknown { .. } => Advice::Retry,
            SendError::Closed => Advice::Fix,
        }
    }
}
