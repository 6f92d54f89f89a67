//! The plugins that the binary carries.

/// The tag filter, as a component.
pub const FILTER_TAG: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/filter-tag.wasm"));

/// The SQL filter, as a component.
pub const FILTER_SQL: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/filter-sql.wasm"));
