//! The bytes that survive: record formats, segments, recovery, checkpoints, sidecar indexes, and the one trait that touches a disk.

pub mod record;
