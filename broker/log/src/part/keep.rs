//! Which parts there are to be: those that state names, whole, and no others.

use std::collections::BTreeMap;

use super::{Part, part_name};
use crate::error::LogError;
use crate::record::{PartFacts, PartId};
use crate::recovery::directory::Listing;
use crate::writer::LogWriter;

impl LogWriter {
    /// Removes, at a start, the parts that state does not name: a crash came before the record that would have named them, or before they
    /// were removed. Of those that it names the beginnings are verified.
    ///
    /// # Errors
    /// A part is lost or damaged, or is not the one that state means; the disk failed, and the writer is stopped.
    pub fn keep_parts(&mut self, named: &BTreeMap<PartId, PartFacts>) -> Result<(), LogError> {
        self.guarded(|writer| {
            let shared = &writer.shared;
            for (part, facts) in named {
                let name = part_name(*part);
                let found = Part::open(&*shared.storage, shared.secret, *part)?;
                if found.is_none_or(|found| found.facts != *facts) {
                    return Err(LogError::BadPart {
                        file: name,
                        offset: 0,
                        reason: "it is lost, or is not what the log says".to_owned(),
                    });
                }
            }
            let listing = Listing::read(&*shared.storage)?;
            let unnamed = listing.parts.iter().filter(|part| !named.contains_key(&PartId(**part)));
            for part in unnamed {
                writer.remove(&part_name(PartId(*part)))?;
            }
            Ok(())
        })
    }

    /// Removes a part of which nothing is needed any more. What was appended is synced before, if it is not: the record that says so.
    ///
    /// # Errors
    /// The disk failed; the writer is stopped.
    pub fn remove_part(&mut self, part: PartId) -> Result<(), LogError> {
        self.guarded(|writer| {
            writer.sync_active()?;
            writer.remove(&part_name(part))?;
            writer.shared.forget_part(part);
            Ok(())
        })
    }
}
