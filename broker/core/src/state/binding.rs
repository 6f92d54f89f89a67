//! The entry of one plugin binding.

use std::collections::BTreeMap;

use sluice_log::record::{OnFailure, PluginLimits};
use sluice_protocol::ids::{Digest, Position};
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, WireError, Writer};

/// Which version of a plugin serves a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The version.
    pub digest: Digest,
    /// What it may use.
    pub limits: PluginLimits,
    /// What becomes of a message on which it fails though it judges others.
    pub on_failure: OnFailure,
    /// When it was bound (wall clock, milliseconds).
    pub bound_wall_ms: i64,
}

impl Binding {
    /// A binding that a record at `reflects` made.
    pub(super) fn new(reflects: Position, digest: Digest, limits: PluginLimits, on_failure: OnFailure, at: Now) -> Self {
        Self {
            reflects,
            digest,
            limits,
            on_failure,
            bound_wall_ms: at.wall_ms,
        }
    }

    /// Lets it serve a name, unless what does is newer.
    pub(super) fn bind(self, all: &mut BTreeMap<String, Self>, name: &str) {
        if all.get(name).is_none_or(|binding| binding.reflects < self.reflects) {
            all.insert(name.to_owned(), self);
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        let PluginLimits {
            fuel_per_run,
            fuel_per_message,
            run_ms,
            memory_bytes,
        } = self.limits;
        to.u64(self.reflects.0)
            .bytes(&self.digest.0)
            .u64(fuel_per_run)
            .u64(fuel_per_message)
            .u32(run_ms)
            .u64(memory_bytes);
        to.i64(self.bound_wall_ms).u8(match self.on_failure {
            OnFailure::DeadLetter => 0,
            OnFailure::Hold => 1,
            OnFailure::Deliver => 2,
            OnFailure::Skip => 3,
        });
    }

    /// Version 1 did not say what becomes of failures.
    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let (reflects, digest) = (Position(from.u64()?), Digest(from.array()?));
        let limits = PluginLimits {
            fuel_per_run: from.u64()?,
            fuel_per_message: from.u64()?,
            run_ms: from.u32()?,
            memory_bytes: from.u64()?,
        };
        let bound_wall_ms = from.i64()?;
        let on_failure = match version {
            1 => OnFailure::DeadLetter,
            _ => match from.u8()? {
                0 => OnFailure::DeadLetter,
                1 => OnFailure::Hold,
                2 => OnFailure::Deliver,
                3 => OnFailure::Skip,
                _ => return Err(WireError::Impossible("failure policy")),
            },
        };
        Ok(Self {
            reflects,
            digest,
            limits,
            on_failure,
            bound_wall_ms,
        })
    }
}
