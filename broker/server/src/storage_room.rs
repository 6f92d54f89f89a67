//! How much room the log has, and what needs how much of it.

use sluice_core::input::Input;

/// How much room the log has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum StorageRoom {
    /// None: a write waits for it.
    Nothing,
    /// What the log keeps in reserve for settlements, leases and admin records.
    Reserve,
    /// As much as is wanted.
    Enough,
}

impl StorageRoom {
    /// The room that this number stands for.
    pub(crate) fn of(stored: u8) -> Self {
        match stored {
            0 => Self::Nothing,
            1 => Self::Reserve,
            _ => Self::Enough,
        }
    }

    /// The room without which an input is refused: what may be refused must never use up what is kept for the rest.
    pub(crate) fn needed_by(input: &Input) -> Self {
        match input {
            Input::Publish { .. } => Self::Enough,
            Input::Subscribe { .. }
            | Input::SettleStream { .. }
            | Input::Receive { .. }
            | Input::SettleHandles { .. }
            | Input::Recall { .. }
            | Input::Decide { .. }
            | Input::Admin { .. } => Self::Reserve,
            Input::Credit { .. }
            | Input::Unsubscribe { .. }
            | Input::Undelivered { .. }
            | Input::Cancelled { .. }
            | Input::Disconnected { .. }
            | Input::Synced { .. }
            | Input::Verdicts { .. }
            | Input::Fetched { .. }
            | Input::DueFetched { .. }
            | Input::Part(_)
            | Input::Located { .. }
            | Input::Asked { .. }
            | Input::NotAsked { .. }
            | Input::Checkpointed
            | Input::Trim { .. }
            | Input::FetchFailed { .. }
            | Input::Tick => Self::Nothing,
        }
    }
}
