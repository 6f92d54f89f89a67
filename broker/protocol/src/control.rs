//! The control messages of `control.proto`: everything on the wire except messages themselves.

// What they mean is said once, in `control.proto` and `docs/protocol.md`.
#![allow(missing_docs, unreachable_pub, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/sluice.v1.rs"));
