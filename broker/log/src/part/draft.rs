//! Writing a part: block after block, then the directory, then the beginning.

use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::batch::{Attributes, BatchMerger};
use sluice_protocol::wire::Writer;

use super::{Block, FAR_OFF_BYTES, Head, PART_HEADER_BYTES, part_name, put_block, sum};
use crate::error::LogError;
use crate::frame::FrameSecret;
use crate::limits::{PART_BLOCK_BYTES_MAX, PART_BLOCK_MESSAGES_MAX};
use crate::planted::{self, Bug};
use crate::record::{FarOff, PartFacts, PartId, put_far_off};
use crate::storage::{Storage, StorageFile};
use crate::writer::discard;

/// A part that is being written. It counts for nothing before a record names it.
pub(crate) struct PartDraft {
    storage: Arc<dyn Storage>,
    secret: FrameSecret,
    part: PartId,
    name: String,
    file: Arc<dyn StorageFile>,
    merger: BatchMerger,
    names: Vec<FarOff>,
    blocks: Vec<Block>,
    at: u64,
    messages: u64,
    last: Option<FarOff>,
}

impl PartDraft {
    /// Creates the file; one of the same name that nothing names is replaced.
    pub(crate) fn begin(storage: Arc<dyn Storage>, secret: FrameSecret, part: PartId) -> Result<Self, LogError> {
        let name = part_name(part);
        discard(&*storage, &name)?;
        let file = storage.create(&name, 0).map_err(LogError::room("creating", &name))?;
        Ok(Self {
            storage,
            secret,
            part,
            name,
            file,
            merger: BatchMerger::new(),
            names: Vec::new(),
            blocks: Vec::new(),
            at: PART_HEADER_BYTES,
            messages: 0,
            last: None,
        })
    }

    /// Where it is.
    pub(crate) fn place(&self) -> (Arc<dyn Storage>, String) {
        (Arc::clone(&self.storage), self.name.clone())
    }

    /// How many bytes are written, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.at + self.merger.total_bytes() as u64
    }

    /// Adds the message in this row, which comes behind all before.
    ///
    /// # Errors
    /// There is no room, or the disk failed.
    ///
    /// # Panics
    /// When it comes before one that was added.
    pub(crate) fn add(&mut self, message: FarOff, attributes: &Attributes, row: u32, body: Bytes) -> Result<(), LogError> {
        assert!(self.last < Some(message), "the messages of a part are ascending");
        if self.names.len() >= PART_BLOCK_MESSAGES_MAX || self.merger.total_bytes() >= PART_BLOCK_BYTES_MAX {
            self.end_block()?;
        }
        if self.merger.add(attributes, row..row + 1, body.clone()).is_err() {
            self.end_block()?;
            self.merger
                .add(attributes, row..row + 1, body)
                .expect("a message of one batch fits into an empty one");
        }
        self.names.push(message);
        self.messages += 1;
        self.last = Some(message);
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), LogError> {
        let Some(&first) = self.names.first() else { return Ok(()) };
        let mut names = Writer::with_capacity(self.names.len() * FAR_OFF_BYTES);
        self.names.iter().for_each(|name| put_far_off(&mut names, *name));
        let names = names.finish();
        let attribute_bytes = self.merger.attribute_bytes() as u32;
        let batch = self.merger.take().into_bytes();
        let block = Block {
            first,
            at: self.at,
            messages: self.names.len() as u32,
            names_sum: sum(None, &names),
            attribute_bytes,
            batch_bytes: batch.len() as u32,
        };
        self.write(self.at, &[&names, &batch])?;
        self.at += (names.len() + batch.len()) as u64;
        self.blocks.push(block);
        self.names.clear();
        Ok(())
    }

    /// Writes the rest and makes all of it durable. Of a part without messages nothing is left.
    ///
    /// # Errors
    /// There is no room, or the disk failed.
    pub(crate) fn finish(mut self) -> Result<Option<PartFacts>, LogError> {
        self.end_block()?;
        let (Some(first), Some(last)) = (self.blocks.first().map(|block| block.first), self.last) else {
            self.discard()?;
            return Ok(None);
        };
        let mut directory = Writer::new();
        self.blocks.iter().for_each(|block| put_block(&mut directory, block));
        let directory = directory.finish();
        let head = Head {
            part: self.part,
            messages: self.messages,
            blocks: self.blocks.len() as u32,
            first,
            last,
            directory_at: self.at,
            directory_sum: sum(Some(self.secret), &directory),
        };
        self.write(self.at, &[&directory])?;
        self.write(0, &[&head.encode(self.secret)])?;
        if !planted::is(Bug::PartUnsynced) {
            self.file.sync_data().map_err(LogError::room("syncing", &self.name))?;
        }
        self.storage.sync_directory().map_err(LogError::io("syncing", &self.name))?;
        Ok(Some(head.facts(self.at + directory.len() as u64)))
    }

    /// Gives the file up.
    pub(crate) fn discard(&self) -> Result<(), LogError> {
        discard(&*self.storage, &self.name)
    }

    fn write(&self, at: u64, slices: &[&[u8]]) -> Result<(), LogError> {
        self.file.write_at(at, slices).map_err(LogError::room("writing", &self.name))
    }
}
