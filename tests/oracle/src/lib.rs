//! The SQL filter inside Wasm against an oracle in Python that shares no code with it.
//!
//! `sql_oracle.py` is the language written a second time from its definition; `generate.py` makes expressions and messages
//! with its outcomes. [`compare()`] asks the built-in plugin through the plugin host, as the broker does.

mod compare;
mod generated;
mod sandbox;

pub use compare::{Compared, Mismatch, compare};
pub use generated::{Case, Expected, Generated, Refused};
pub use sandbox::{Judged, Outcome, Properties, RUN_MAX, Sandbox};
