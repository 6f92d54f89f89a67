//! The files of far-off messages: sorted by when each is due, immutable, and found by halving.

mod draft;
mod keep;
mod merge;
mod report;

use std::sync::Arc;

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::Digest;
use sluice_protocol::batch::Attributes;
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::error::LogError;
use crate::frame::FrameSecret;
use crate::limits::{PART_BLOCK_MESSAGES_MAX, PART_DIRECTORY_BYTES_MAX};
use crate::record::{FarOff, PartFacts, PartId, put_far_off, take_far_off};
use crate::storage::{Storage, StorageFile};

pub(crate) use draft::PartDraft;
pub(crate) use merge::PartCursor;
pub(crate) use report::report;
pub use report::{PartDamage, PartReport};

const MAGIC: [u8; 4] = *b"SLP1";
const VERSION: u16 = 1;
/// What a part begins with.
pub(crate) const PART_HEADER_BYTES: u64 = 104;
/// An entry of the directory.
const BLOCK_BYTES: usize = 48;
/// What the name of a message takes.
pub(crate) const FAR_OFF_BYTES: usize = 24;

/// The name of a part's file.
pub(crate) fn part_name(part: PartId) -> String {
    format!("part-{:016x}", part.0)
}

/// Where a block is, and what is in it: the names of neighbouring messages, then a flat batch with the messages in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The first message.
    pub(crate) first: FarOff,
    /// Where it begins in the file.
    pub(crate) at: u64,
    pub(crate) messages: u32,
    /// Checksum of the names.
    pub(crate) names_sum: u32,
    pub(crate) attribute_bytes: u32,
    /// The size of the batch.
    pub(crate) batch_bytes: u32,
}

impl Block {
    fn names_bytes(&self) -> u64 {
        u64::from(self.messages) * FAR_OFF_BYTES as u64
    }

    fn end(&self) -> Option<u64> {
        self.at.checked_add(self.names_bytes())?.checked_add(self.batch_bytes.into())
    }
}

/// A part that is open.
pub(crate) struct Part {
    name: String,
    file: Arc<dyn StorageFile>,
    pub(crate) facts: PartFacts,
    pub(crate) blocks: Vec<Block>,
}

impl Part {
    /// Opens a part; the inner error is `None` where there is none.
    ///
    /// # Errors
    /// It is damaged, or the disk failed.
    pub(crate) fn open(storage: &dyn Storage, secret: FrameSecret, part: PartId) -> Result<Option<Self>, LogError> {
        let name = part_name(part);
        let file = match storage.open(&name) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            opened => opened.map_err(LogError::io("opening", &name))?,
        };
        let length = file.len().map_err(LogError::io("reading", &name))?;
        let broken = |offset: u64, reason: &str| LogError::BadPart {
            file: name.clone(),
            offset,
            reason: reason.to_owned(),
        };
        let mut head = [0; PART_HEADER_BYTES as usize];
        if length < PART_HEADER_BYTES {
            return Err(broken(0, "its beginning is missing"));
        }
        file.read_at(0, &mut head).map_err(LogError::io("reading", &name))?;
        let head = Head::decode(secret, &head).map_err(|error| broken(0, &error.to_string()))?;
        let directory_bytes = u64::from(head.blocks) * BLOCK_BYTES as u64;
        if head.part != part || head.directory_at.checked_add(directory_bytes) != Some(length) {
            return Err(broken(0, "its beginning belongs to another file"));
        }
        let mut directory = vec![0; directory_bytes as usize];
        file.read_at(head.directory_at, &mut directory)
            .map_err(LogError::io("reading", &name))?;
        let blocks = head
            .directory(secret, &directory)
            .map_err(|error| broken(head.directory_at, &error.to_string()))?;
        Ok(Some(Self {
            facts: head.facts(length),
            name,
            file,
            blocks,
        }))
    }

    /// The place of the block in which a message is, if it is in this part.
    pub(crate) fn block_of(&self, message: FarOff) -> Option<usize> {
        self.blocks.partition_point(|block| block.first <= message).checked_sub(1)
    }

    /// The names of the messages of a block.
    pub(crate) fn names(&self, block: &Block) -> Result<Vec<FarOff>, LogError> {
        let bytes = self.read(block.at, block.names_bytes())?;
        names(block, &bytes).map_err(|error| self.broken(block.at, &error.to_string()))
    }

    /// The attributes of the messages of a block.
    pub(crate) fn attributes(&self, block: &Block) -> Result<Attributes, LogError> {
        let at = block.at + block.names_bytes();
        let attributes = Attributes::parse_stored(self.read(at, block.attribute_bytes.into())?);
        let attributes = attributes.map_err(|error| self.broken(at, &error.to_string()))?;
        if attributes.count() != block.messages {
            return Err(self.broken(at, "names and messages differ in number"));
        }
        Ok(attributes)
    }

    /// The body of the message in this row of a block.
    pub(crate) fn body(&self, block: &Block, attributes: &Attributes, row: u32) -> Result<Bytes, LogError> {
        let at = block.at + block.names_bytes();
        let range = attributes.bodies_range(row..row + 1);
        let range = range.filter(|range| range.end <= block.batch_bytes as usize);
        let range = range.ok_or_else(|| self.broken(at, "a body is missing"))?;
        self.read(at + range.start as u64, (range.end - range.start) as u64)
    }

    fn read(&self, at: u64, bytes: u64) -> Result<Bytes, LogError> {
        let mut into = vec![0; bytes as usize];
        self.file.read_at(at, &mut into).map_err(LogError::io("reading", &self.name))?;
        Ok(into.into())
    }

    fn broken(&self, offset: u64, reason: &str) -> LogError {
        LogError::BadPart {
            file: self.name.clone(),
            offset,
            reason: reason.to_owned(),
        }
    }
}

fn names(block: &Block, bytes: &[u8]) -> Result<Vec<FarOff>, WireError> {
    let mut from = Reader::new(bytes);
    let names: Vec<FarOff> = (0..block.messages).map(|_| take_far_off(&mut from)).collect::<Result<_, _>>()?;
    let sound = sum(None, bytes) == block.names_sum && names.first() == Some(&block.first) && names.is_sorted_by(|one, next| one < next);
    if sound { Ok(names) } else { Err(WireError::Impossible("names")) }
}

/// What a part begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    part: PartId,
    messages: u64,
    blocks: u32,
    first: FarOff,
    last: FarOff,
    directory_at: u64,
    directory_sum: u32,
}

impl Head {
    fn encode(&self, secret: FrameSecret) -> Bytes {
        let mut out = Writer::with_capacity(PART_HEADER_BYTES as usize);
        out.bytes(&MAGIC)
            .u16(VERSION)
            .u16(0)
            .u64(self.part.0)
            .u64(self.messages)
            .u32(self.blocks);
        put_far_off(&mut out, self.first);
        put_far_off(&mut out, self.last);
        out.u64(self.directory_at).u32(self.directory_sum).u64(0).u32(0);
        let body = out.take();
        out.bytes(&body).u32(sum(Some(secret), &body));
        out.finish()
    }

    fn decode(secret: FrameSecret, bytes: &[u8]) -> Result<Self, WireError> {
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(WireError::Truncated)?;
        if sum(Some(secret), body) != u32::from_le_bytes(*checksum) {
            return Err(WireError::Impossible("checksum"));
        }
        let mut from = Reader::new(body);
        if from.array::<4>()? != MAGIC || from.u16()? != VERSION || from.u16()? != 0 {
            return Err(WireError::Impossible("beginning"));
        }
        let head = Self {
            part: PartId(from.u64()?),
            messages: from.u64()?,
            blocks: from.u32()?,
            first: take_far_off(&mut from)?,
            last: take_far_off(&mut from)?,
            directory_at: from.u64()?,
            directory_sum: from.u32()?,
        };
        if from.u64()? != 0 || from.u32()? != 0 || u64::from(head.blocks) * BLOCK_BYTES as u64 > PART_DIRECTORY_BYTES_MAX {
            return Err(WireError::Impossible("beginning"));
        }
        from.finish()?;
        Ok(head)
    }

    fn facts(&self, bytes: u64) -> PartFacts {
        PartFacts {
            messages: self.messages,
            bytes,
            first: self.first,
            last: self.last,
        }
    }

    /// The blocks that follow one another from the head to the directory.
    fn directory(&self, secret: FrameSecret, bytes: &[u8]) -> Result<Vec<Block>, WireError> {
        if sum(Some(secret), bytes) != self.directory_sum {
            return Err(WireError::Impossible("checksum of the directory"));
        }
        let mut from = Reader::new(bytes);
        let (mut blocks, mut at, mut messages) = (Vec::with_capacity(self.blocks as usize), Some(PART_HEADER_BYTES), 0);
        for _ in 0..self.blocks {
            let block = Block {
                first: take_far_off(&mut from)?,
                at: from.u64()?,
                messages: from.u32()?,
                names_sum: from.u32()?,
                attribute_bytes: from.u32()?,
                batch_bytes: from.u32()?,
            };
            let sound = Some(block.at) == at
                && (1..=PART_BLOCK_MESSAGES_MAX).contains(&(block.messages as usize))
                && block.attribute_bytes <= block.batch_bytes
                && block.first <= self.last
                && blocks.last().is_none_or(|before: &Block| before.first < block.first);
            if !sound {
                return Err(WireError::Impossible("block"));
            }
            (at, messages) = (block.end(), messages + u64::from(block.messages));
            blocks.push(block);
        }
        from.finish()?;
        let whole = at == Some(self.directory_at) && messages == self.messages;
        match blocks.first() {
            Some(block) if whole && block.first == self.first => Ok(blocks),
            Some(_) | None => Err(WireError::Impossible("directory")),
        }
    }
}

fn put_block(out: &mut Writer, block: &Block) {
    put_far_off(out, block.first);
    out.u64(block.at)
        .u32(block.messages)
        .u32(block.names_sum)
        .u32(block.attribute_bytes)
        .u32(block.batch_bytes);
}

/// What each part of a file is sealed with; the secret marks what belongs to this log.
fn sum(secret: Option<FrameSecret>, bytes: &[u8]) -> u32 {
    let mut digest = Digest::new(Crc32Iscsi);
    if let Some(secret) = secret {
        digest.update(&secret.0.to_le_bytes());
    }
    digest.update(bytes);
    digest.finalize() as u32
}

/// A whole part as this version writes it; `None` when these bytes are none.
pub(crate) fn rewrite(secret: FrameSecret, bytes: &Bytes) -> Option<Bytes> {
    let head = Head::decode(secret, bytes.get(..PART_HEADER_BYTES as usize)?).ok()?;
    let directory = bytes.get(usize::try_from(head.directory_at).ok()?..)?;
    let blocks = head.directory(secret, directory).ok()?;
    let mut out = Writer::with_capacity(bytes.len());
    out.bytes(&head.encode(secret));
    let mut last = None;
    for block in &blocks {
        let (at, end) = (block.at as usize, block.end()? as usize);
        let (held, batch) = bytes.get(at..end)?.split_at(block.names_bytes() as usize);
        let names = names(block, held).ok()?;
        let attributes = Attributes::parse_stored(bytes.slice_ref(batch.get(..block.attribute_bytes as usize)?)).ok()?;
        if attributes.count() != block.messages || last >= names.first().copied() {
            return None;
        }
        last = names.last().copied();
        names.iter().for_each(|name| put_far_off(&mut out, *name));
        out.bytes(batch);
    }
    if last != Some(head.last) {
        return None;
    }
    blocks.iter().for_each(|block| put_block(&mut out, block));
    Some(out.finish())
}
