//! How a lane is written into its cursor's entry, and read from it.

use std::sync::Arc;

use sluice_log::record::{Holder, OffsetRange, ReturnReason, put_parked, take_parked};
use sluice_protocol::ids::{Attempt, Position, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::{Lane, Lease, NEVER_MONO_MS, Retry};
use crate::planted::{self, Bug};
use crate::ranges::range;

impl Lane {
    pub(in crate::state) fn encode(&self, to: &mut Writer) {
        to.u64(self.frontier.0).count(self.leases.ranges());
        for (offsets, lease) in self.leases.iter() {
            encode_range(offsets, to);
            to.u16(lease.attempt.0).u64(lease.expires_mono_ms).u64(lease.granted.0);
            match &*lease.holder {
                Holder::Stream { member } => to.u8(0).text(member),
                Holder::Receive { member } => to.u8(1).text(member),
            };
        }
        let retries = self.retries.ranges() * usize::from(!planted::is(Bug::CheckpointForgetsRetries));
        to.count(retries);
        for (offsets, retry) in self.retries.iter().take(retries) {
            encode_range(offsets, to);
            to.u16(retry.attempts.0).u64(retry.due_mono_ms).u8(match retry.reason {
                ReturnReason::Nacked => 0,
                ReturnReason::Expired => 1,
                ReturnReason::ConnectionLost => 2,
                ReturnReason::Closed => 3,
                ReturnReason::Outlived => 4,
            });
        }
        to.count(self.ahead.iter().count());
        for offsets in self.ahead.iter() {
            encode_range(offsets, to);
        }
        to.count(self.held.iter().count());
        for offsets in self.held.iter() {
            encode_range(offsets, to);
        }
    }

    /// Writes what version 3 of a cursor adds.
    pub(in crate::state) fn encode_order(&self, to: &mut Writer) {
        let mut parked = self.order.parked();
        if planted::is(Bug::ParkedForgotten) {
            parked.clear();
        }
        put_parked(to, &parked);
    }

    /// Whether version 4 of a cursor is needed to say it all.
    pub(in crate::state) fn has_lifetimes(&self) -> bool {
        let given_up = self.retries.due(NEVER_MONO_MS, NEVER_MONO_MS);
        !self.lifetimes.is_empty() || given_up.into_iter().any(|(_, retry)| retry.reason == ReturnReason::Outlived)
    }

    /// Reads what version 3 of a cursor adds.
    pub(in crate::state) fn decode_order(&mut self, from: &mut Reader<'_>) -> Result<(), WireError> {
        let mut parked = take_parked(from)?;
        if planted::is(Bug::OrderLostAtRestart) {
            parked.iter_mut().for_each(|message| message.group = 0);
        }
        self.park(&parked);
        Ok(())
    }

    /// Version 1 held nothing.
    pub(in crate::state) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let mut lane = Self::starting_at(QueueOffset(from.u64()?));
        for _ in 0..from.count(37)? {
            let offsets = decode_range(from)?;
            let (attempt, expires_mono_ms, granted) = (Attempt(from.u16()?), from.u64()?, Position(from.u64()?));
            let holder = match from.u8()? {
                0 => Holder::Stream {
                    member: from.text()?.to_owned(),
                },
                1 => Holder::Receive {
                    member: from.text()?.to_owned(),
                },
                _ => return Err(WireError::Impossible("holder")),
            };
            lane.leases.insert(
                offsets,
                Lease {
                    attempt,
                    expires_mono_ms,
                    granted,
                    holder: Arc::new(holder),
                },
            );
        }
        for _ in 0..from.count(27)? {
            let offsets = decode_range(from)?;
            let (attempts, due_mono_ms) = (Attempt(from.u16()?), from.u64()?);
            let reason = match from.u8()? {
                0 => ReturnReason::Nacked,
                1 => ReturnReason::Expired,
                2 => ReturnReason::ConnectionLost,
                3 => ReturnReason::Closed,
                4 if version > 3 => ReturnReason::Outlived,
                _ => return Err(WireError::Impossible("reason")),
            };
            lane.retries.insert(
                offsets,
                Retry {
                    attempts,
                    due_mono_ms,
                    reason,
                },
            );
        }
        for _ in 0..from.count(16)? {
            let offsets = decode_range(from)?;
            lane.ahead.insert(offsets.first.0, offsets.end.0);
        }
        if version > 1 {
            for _ in 0..from.count(16)? {
                let offsets = decode_range(from)?;
                lane.held.insert(offsets.first.0, offsets.end.0);
            }
        }
        Ok(lane)
    }
}

fn encode_range(offsets: OffsetRange, to: &mut Writer) {
    to.u64(offsets.first.0).u64(offsets.end.0);
}

fn decode_range(from: &mut Reader<'_>) -> Result<OffsetRange, WireError> {
    let (first, end) = (from.u64()?, from.u64()?);
    if first >= end {
        return Err(WireError::Impossible("range"));
    }
    Ok(range(first, end))
}
