//! Going through a part message by message, for a merge.

use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::batch::Attributes;

use super::Part;
use crate::error::LogError;
use crate::record::FarOff;

/// A place in a part.
pub(crate) struct PartCursor {
    part: Arc<Part>,
    block: usize,
    names: Vec<FarOff>,
    attributes: Option<Attributes>,
    row: usize,
}

impl PartCursor {
    /// At the first message behind `after`, or at the first of all.
    pub(crate) fn behind(part: Arc<Part>, after: Option<FarOff>) -> Result<Self, LogError> {
        let block = after.and_then(|after| part.block_of(after)).unwrap_or(0);
        let mut cursor = Self {
            part,
            block,
            names: Vec::new(),
            attributes: None,
            row: 0,
        };
        cursor.enter()?;
        while cursor.message().is_some_and(|message| Some(message) <= after) {
            cursor.pass()?;
        }
        Ok(cursor)
    }

    fn enter(&mut self) -> Result<(), LogError> {
        (self.row, self.attributes) = (0, None);
        self.names = match self.part.blocks.get(self.block) {
            Some(block) => self.part.names(block)?,
            None => Vec::new(),
        };
        Ok(())
    }

    /// The message here; `None` at the end.
    pub(crate) fn message(&self) -> Option<FarOff> {
        self.names.get(self.row).copied()
    }

    /// Goes on to the next message.
    pub(crate) fn pass(&mut self) -> Result<(), LogError> {
        self.row += 1;
        if self.row < self.names.len() {
            return Ok(());
        }
        self.block += 1;
        self.enter()
    }

    /// What the message here is, in which row, and its body.
    pub(crate) fn read(&mut self) -> Result<(Attributes, u32, Bytes), LogError> {
        let block = &self.part.blocks[self.block];
        let attributes = match &self.attributes {
            Some(attributes) => attributes.clone(),
            None => self.attributes.insert(self.part.attributes(block)?).clone(),
        };
        let body = self.part.body(block, &attributes, self.row as u32)?;
        Ok((attributes, self.row as u32, body))
    }
}
