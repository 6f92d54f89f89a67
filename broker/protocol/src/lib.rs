//! What crosses a boundary: names, ids, units, frames, the flat batch, control messages and the error registry.

pub mod batch;
pub mod control;
pub mod delivery;
pub mod errors;
pub mod frame;
#[cfg(test)]
mod golden;
pub mod ids;
pub mod limits;
pub mod names;
pub mod page;
pub mod units;
pub mod wire;
