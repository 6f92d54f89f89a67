//! The flat batch: the one form of messages on the wire, in the log and under the plugins' view.
//!
//! All numbers are little-endian. Sections follow one another without a gap:
//!
//! | section | bytes |
//! |---|---|
//! | header | 64, see [`HEADER_BYTES`] and `docs/protocol.md` |
//! | runs | 32 each: producer u128, first sequence u64, rows u32, zero u32 |
//! | names | of properties, each once, by first use: length u8, then UTF-8 |
//! | rows | one a message, see [`Row`] |
//! | bodies | one after the other in the order of the rows |
//!
//! What comes before the bodies are the *attributes*: they can be read, checked and judged without the bodies.
//! Three kinds of trust meet here. [`Attributes::parse`] checks the checksum and the structure and suits bytes from anywhere;
//! [`admit`] checks the rules for texts and sizes on top, message by message; [`Attributes::parse_stored`] takes the structure
//! within rows on trust, for bytes that were admitted before. No accessor panics on any of them.

mod admission;
mod attributes;
mod builder;
mod layout;
mod merger;
mod names;
mod row;
mod whole;

pub use admission::{Admission, AdmissionLimits, RefusedRow, admit};
pub use attributes::Attributes;
pub use builder::{BatchBuilder, MessageError, NewMessage};
pub use layout::{BatchError, HEADER_BYTES, ROW_FIXED_BYTES, RUN_BYTES, Run, crc32c, group_hash, key_hash, tag_hash};
pub use merger::{BatchMerger, BatchParts, Changes, MergeError};
pub use names::NameIndex;
pub use row::{FLAG_DELIVER_AFTER, FLAG_GIVEN_ID, FLAG_PREPARED, GivenId, Keys, Properties, Row};
pub use whole::{Batch, Uses};

#[cfg(test)]
mod tests;
