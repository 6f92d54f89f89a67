//! What an inspection tells of a part: what is in it, and which places of it cannot be read.

use sluice_protocol::batch::Batch;

use super::{Block, Part, part_name};
use crate::error::LogError;
use crate::frame::FrameSecret;
use crate::record::{PartFacts, PartId};
use crate::storage::Storage;

/// A part of the calendar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartReport {
    /// Its number.
    pub part: PartId,
    /// The name of its file.
    pub file: String,
    /// What its beginning says; `None` when that cannot be read, because the part was never finished, or is damaged.
    pub facts: Option<PartFacts>,
    /// The places that cannot be read.
    pub damage: Vec<PartDamage>,
}

/// A place of a part that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartDamage {
    /// Where it begins in the file.
    pub offset: u64,
    /// How many messages are in it; 0 when that cannot be told.
    pub messages: u64,
    /// How that is known.
    pub reason: String,
}

/// Reads a part from its beginning to its end; `None` when there is none any more.
///
/// # Errors
/// The disk failed. Damage is no error: it is in the report.
pub(crate) fn report(storage: &dyn Storage, secret: FrameSecret, part: PartId) -> Result<Option<PartReport>, LogError> {
    let mut report = PartReport {
        part,
        file: part_name(part),
        facts: None,
        damage: Vec::new(),
    };
    let opened = match Part::open(storage, secret, part) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(None),
        Err(LogError::BadPart { offset, reason, .. }) => {
            let messages = 0;
            report.damage.push(PartDamage { offset, messages, reason });
            return Ok(Some(report));
        }
        Err(error) => return Err(error),
    };
    report.facts = Some(opened.facts);
    for block in &opened.blocks {
        match verified(&opened, block) {
            Ok(()) => {}
            Err(LogError::BadPart { offset, reason, .. }) => report.damage.push(PartDamage {
                offset,
                messages: block.messages.into(),
                reason,
            }),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(report))
}

/// The names of a block, and its messages with their bodies.
fn verified(part: &Part, block: &Block) -> Result<(), LogError> {
    part.names(block)?;
    part.attributes(block)?;
    let at = block.at + block.names_bytes();
    let broken = |error: &dyn std::fmt::Display| part.broken(at, &error.to_string());
    let batch = Batch::parse_stored(part.read(at, block.batch_bytes.into())?).map_err(|error| broken(&error))?;
    batch.verify_bodies().map_err(|error| broken(&error))
}
