//! The entry of one plugin binding.

use std::collections::BTreeMap;

use sluice_log::record::PluginLimits;
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
    /// When it was bound (wall clock, milliseconds).
    pub bound_wall_ms: i64,
}

impl Binding {
    pub(super) fn bind(all: &mut BTreeMap<String, Self>, reflects: Position, name: &str, digest: Digest, limits: PluginLimits, at: Now) {
        if all.get(name).is_none_or(|binding| binding.reflects < reflects) {
            all.insert(
                name.to_owned(),
                Self {
                    reflects,
                    digest,
                    limits,
                    bound_wall_ms: at.wall_ms,
                },
            );
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
        to.i64(self.bound_wall_ms);
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self {
            reflects: Position(from.u64()?),
            digest: Digest(from.array()?),
            limits: PluginLimits {
                fuel_per_run: from.u64()?,
                fuel_per_message: from.u64()?,
                run_ms: from.u32()?,
                memory_bytes: from.u64()?,
            },
            bound_wall_ms: from.i64()?,
        })
    }
}
