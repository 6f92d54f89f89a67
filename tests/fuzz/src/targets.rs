//! What is fuzzed: every decoder that reads bytes which this process did not just write.

mod core;
mod log;
mod protocol;

/// A decoder and how to feed it.
pub struct Target {
    /// What the command line calls it.
    pub name: &'static str,
    /// Inputs that the decoder accepts.
    pub(crate) valid: fn() -> Vec<Vec<u8>>,
    /// Makes checksums right again after damage.
    pub(crate) repair: fn(&mut [u8]),
    /// Decodes, uses whatever was accepted, and panics when a promise is broken.
    pub(crate) run: fn(&[u8]),
    /// Whether the decoder takes the input.
    pub accepts: fn(&[u8]) -> bool,
}

/// Every target. A new format of the log gets its decoder in `targets/log.rs` and a line here.
pub const TARGETS: &[Target] = &[
    protocol::FRAME,
    protocol::CONTROL,
    protocol::BATCH,
    protocol::DELIVERY,
    protocol::RECEIVED,
    protocol::FOUND,
    protocol::ASKED,
    protocol::MESSAGES,
    log::RECORD,
    log::SEGMENT,
    log::FRAME,
    log::SIDECAR,
    log::CHECKPOINT,
    log::backup::RESTORED,
    log::backup::MANIFEST,
    log::PART,
    core::ENTRY,
];

/// For formats without a checksum of their own.
fn nothing_to_repair(_: &mut [u8]) {}
