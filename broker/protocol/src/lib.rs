//! What crosses a boundary: names, ids, units, frames, the flat batch, control messages and the error registry.

pub mod ids;
pub mod units;
