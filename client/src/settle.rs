//! What becomes of a message that was delivered.

use std::time::Duration;

use sluice_protocol::control::{self, action::Kind};

use crate::error::Error;

/// What becomes of delivered messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settlement {
    Ack,
    Nack(Option<Duration>),
    Extend(Duration),
}

impl Settlement {
    pub(crate) fn to_wire(self) -> control::Action {
        let kind = match self {
            Settlement::Ack => Kind::Ack(true),
            Settlement::Nack(None) => Kind::Nack(control::Nack {
                by_group: true,
                delay_ms: 0,
            }),
            Settlement::Nack(Some(delay)) => Kind::Nack(control::Nack {
                by_group: false,
                delay_ms: millis(delay),
            }),
            Settlement::Extend(invisible) => Kind::ExtendMs(millis(invisible)),
        };
        control::Action { kind: Some(kind) }
    }
}

/// Whole milliseconds.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The results of a settlement, as the broker gave them.
pub(crate) fn results(settled: control::Settled) -> Vec<Result<(), Error>> {
    let result = |result: control::SettleResult| result.refused.map_or(Ok(()), |refused| Err(Error::Refused(refused.into())));
    settled.results.into_iter().map(result).collect()
}
