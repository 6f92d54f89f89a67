//! Making a batch of messages that are in batches already: merged, split, thinned out, or with further properties.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::attributes::Attributes;
use super::builder::push_extension;
use super::layout::{HEADER_BYTES, Header, RUN_BYTES, Run};
use super::names::{Interner, NameIndex};

use super::row::{BODY_OFFSET_AT, BORN_HIGH_AT, BORN_LOW_AT, EXTENSION_TTL, HEAD_BYTES, PROPERTY_COUNT_AT, Row, each_extension};
use super::whole::Batch;
use crate::ids::{ProducerId, Sequence};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_NAMES_MAX, BORN_MS_MAX, PROPERTIES_STORED_MAX, PROPERTY_NAME_BYTES_MAX, PROPERTY_VALUE_BYTES_MAX,
};

/// Why messages were not taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// The batch would be too large: take what it holds, and begin the next with these messages.
    #[error("the batch is full")]
    Full,
    /// The source has no such rows.
    #[error("the batch has no such rows")]
    NoSuchRows,
    /// The bodies are not as long as the rows say.
    #[error("the bodies are not as long as the rows say")]
    Bodies,
    /// A further property has a bad name, a value that is too long, or no room beside the others.
    #[error("a further property does not fit")]
    Property,
}

/// A batch whose bodies are still where they came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchParts {
    /// All up to the bodies.
    pub attributes: Bytes,
    /// The bodies, in pieces that follow one another.
    pub bodies: Vec<Bytes>,
}

impl BatchParts {
    /// Bytes of the batch.
    pub fn total_bytes(&self) -> usize {
        self.attributes.len() + self.bodies.iter().map(Bytes::len).sum::<usize>()
    }

    /// The batch in one piece.
    pub fn into_bytes(self) -> Bytes {
        if self.bodies.is_empty() {
            return self.attributes;
        }
        let mut bytes = BytesMut::with_capacity(self.total_bytes());
        bytes.extend_from_slice(&self.attributes);
        self.bodies.iter().for_each(|piece| bytes.extend_from_slice(piece));
        bytes.freeze()
    }
}

/// What a copied row has otherwise than its source. Producer and sequence stay its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes<'a> {
    /// Further properties, which take the place of the row's own of the same name.
    pub further: &'a [(&'a str, &'a str)],
    /// Names of properties that are left out.
    pub without: &'a [&'a str],
    /// The time to live, in milliseconds; 0 for none, whatever the source has.
    pub ttl_ms: u64,
}

const UNKNOWN: NameIndex = NameIndex(u16::MAX);
/// What a time to live takes in a row.
const TTL_EXTENSION_BYTES: usize = 3 + 8;

/// Puts rows of several batches together into one, in the order in which they are added.
///
/// Producers, sequences, birth dates, texts and the bodies' checksums stay; names get new numbers and bodies new places.
/// Bodies are not copied before [`BatchParts::into_bytes`], so they may be read apart from the attributes.
#[derive(Debug)]
pub struct BatchMerger {
    base_ms: Option<i64>,
    count: u32,
    runs: Vec<Run>,
    names: Interner,
    rows: Vec<u8>,
    bodies: Vec<Bytes>,
    bodies_bytes: usize,
    /// The numbers that the present source's names have here.
    renamed: Vec<NameIndex>,
}

impl Default for BatchMerger {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchMerger {
    /// An empty batch.
    pub fn new() -> Self {
        Self {
            base_ms: None,
            count: 0,
            runs: Vec::new(),
            names: Interner::new(),
            rows: Vec::new(),
            bodies: Vec::new(),
            bodies_bytes: 0,
            renamed: Vec::new(),
        }
    }

    /// How many messages were added.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch as it stands.
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + self.runs.len() * RUN_BYTES + self.names.bytes().len() + self.rows.len() + self.bodies_bytes
    }

    /// Bytes of the batch as it stands, but for the bodies.
    pub fn attribute_bytes(&self) -> usize {
        self.total_bytes() - self.bodies_bytes
    }

    /// Adds neighbouring rows of a batch whose bodies are here.
    ///
    /// # Errors
    /// [`MergeError`]; nothing was added then.
    pub fn add_batch(&mut self, source: &Batch, rows: Range<u32>) -> Result<(), MergeError> {
        if rows.is_empty() {
            return Ok(());
        }
        let bodies = source.attributes().bodies_range(rows.clone()).ok_or(MergeError::NoSuchRows)?;
        if bodies.end > source.bytes().len() {
            return Err(MergeError::Bodies);
        }
        self.add(source.attributes(), rows, source.bytes().slice(bodies))
    }

    /// Adds neighbouring rows of a batch; `bodies` are their bodies, what [`Attributes::bodies_range`] names.
    ///
    /// # Errors
    /// [`MergeError`]; nothing was added then.
    pub fn add(&mut self, source: &Attributes, rows: Range<u32>, bodies: Bytes) -> Result<(), MergeError> {
        if rows.is_empty() {
            return Ok(());
        }
        let range = source.bodies_range(rows.clone()).ok_or(MergeError::NoSuchRows)?;
        if range.len() != bodies.len() {
            return Err(MergeError::Bodies);
        }
        self.add_rows(source, rows, &range)?;
        self.push_bodies(bodies);
        Ok(())
    }

    /// Adds neighbouring rows of a batch that is to be sent without its bodies: the rows say how long these are, and where they would be.
    ///
    /// # Errors
    /// [`MergeError`]; nothing was added then.
    pub fn add_without_bodies(&mut self, source: &Attributes, rows: Range<u32>) -> Result<(), MergeError> {
        let range = source.bodies_range(rows.clone()).ok_or(MergeError::NoSuchRows)?;
        self.add_rows(source, rows, &range)?;
        self.bodies_bytes += range.len();
        Ok(())
    }

    /// Adds rows whose bodies have this range in their source, and will follow.
    fn add_rows(&mut self, source: &Attributes, rows: Range<u32>, bodies: &Range<usize>) -> Result<(), MergeError> {
        let rows_bytes = source.rows_bytes(rows.clone());
        self.make_room(source, rows_bytes + rows.len() * RUN_BYTES + bodies.len(), 0)?;
        self.rows.reserve(rows_bytes);
        let first_body = bodies.start - source.attribute_bytes();
        for index in rows {
            // There is such a row: its range of bodies was found.
            let Some(row) = source.row(index) else { break };
            let body_offset = self.bodies_bytes + row.body_range().start.saturating_sub(first_body);
            self.copy_row(source, &row, body_offset);
            self.push_run(row.producer(), row.sequence());
        }
        Ok(())
    }

    /// Adds one row with further properties, which take the place of its own of the same name: a dead letter says so where it
    /// comes from. Producer and sequence stay its own; a time to live does not.
    ///
    /// # Errors
    /// [`MergeError`]; nothing was added then.
    pub fn add_with_properties(&mut self, source: &Attributes, row: u32, body: Bytes, further: &[(&str, &str)]) -> Result<(), MergeError> {
        // A time to live was one in the queue that the message leaves.
        let changes = Changes {
            further,
            ..Changes::default()
        };
        self.add_changed(source, row, body, changes)
    }

    /// Adds one row with some changes.
    ///
    /// # Errors
    /// [`MergeError`]; nothing was added then.
    pub fn add_changed(&mut self, source: &Attributes, row: u32, body: Bytes, changes: Changes<'_>) -> Result<(), MergeError> {
        let Changes { further, without, ttl_ms } = changes;
        let row = source.row(row).ok_or(MergeError::NoSuchRows)?;
        if row.body_len() != body.len() {
            return Err(MergeError::Bodies);
        }
        let replaced = |index: NameIndex| {
            let mut names = further.iter().map(|(name, _)| name).chain(without);
            names.any(|name| name.as_bytes() == source.name_bytes(index))
        };
        let kept: Vec<(NameIndex, &[u8])> = row.properties().filter(|&(index, _)| !replaced(index)).collect();
        let fits =
            |(name, value): &(&str, &str)| (1..=PROPERTY_NAME_BYTES_MAX).contains(&name.len()) && value.len() <= PROPERTY_VALUE_BYTES_MAX;
        let twice = (1..further.len()).any(|place| further[..place].iter().any(|(name, _)| *name == further[place].0));
        if twice || kept.len() + further.len() > PROPERTIES_STORED_MAX || !further.iter().all(fits) {
            return Err(MergeError::Property);
        }
        let further_bytes: usize = further.iter().map(|(name, value)| HEAD_BYTES + 1 + name.len() + value.len()).sum();
        self.make_room(
            source,
            row.attribute_bytes() + further_bytes + TTL_EXTENSION_BYTES + RUN_BYTES + body.len(),
            further.len(),
        )?;
        let row_at = self.rows.len();
        let (heads_at, [fixed, rest]) = row.parts();
        self.rows.extend_from_slice(fixed);
        self.rows.extend_from_slice(rest.get(..heads_at - fixed.len()).unwrap_or_default());
        for &(index, value) in &kept {
            let index = self.rename(source, index);
            self.push_head(index, value.len());
        }
        for (name, value) in further {
            let index = self.names.intern(name.as_bytes());
            self.push_head(index, value.len());
        }
        kept.iter().for_each(|(_, value)| self.rows.extend_from_slice(value));
        further.iter().for_each(|(_, value)| self.rows.extend_from_slice(value.as_bytes()));
        for (kind, bytes) in each_extension(row.extensions()).filter(|(kind, _)| *kind != EXTENSION_TTL) {
            push_extension(&mut self.rows, kind, bytes);
        }
        if ttl_ms > 0 {
            push_extension(&mut self.rows, EXTENSION_TTL, &ttl_ms.to_le_bytes());
        }
        let row_bytes = (self.rows.len() - row_at) as u32;
        self.rows[row_at..row_at + 4].copy_from_slice(&row_bytes.to_le_bytes());
        self.rows[row_at + PROPERTY_COUNT_AT] = (kept.len() + further.len()) as u8;
        self.place_row(row_at, &row, self.bodies_bytes);
        self.push_run(row.producer(), row.sequence());
        self.push_bodies(body);
        Ok(())
    }

    /// The batch of what was added; the merger is empty afterwards and keeps its memory for the next.
    pub fn take(&mut self) -> BatchParts {
        let header = Header {
            count: self.count,
            runs: self.runs.len() as u32,
            names: self.names.len() as u16,
            names_bytes: self.names.bytes().len() as u32,
            rows_bytes: self.rows.len() as u32,
            bodies_bytes: self.bodies_bytes as u32,
            checksum: 0,
            base_ms: self.base_ms.take().unwrap_or_default(),
        };
        let mut attributes = Vec::with_capacity(header.attribute_bytes());
        attributes.extend_from_slice(&[0; HEADER_BYTES]);
        self.runs.drain(..).for_each(|run| attributes.extend_from_slice(&run.bytes()));
        attributes.extend_from_slice(self.names.bytes());
        attributes.append(&mut self.rows);
        let sealed = header.seal(&attributes[HEADER_BYTES..]);
        attributes[..HEADER_BYTES].copy_from_slice(&sealed);
        self.count = 0;
        self.names.clear();
        self.bodies_bytes = 0;
        BatchParts {
            attributes: attributes.into(),
            bodies: std::mem::take(&mut self.bodies),
        }
    }

    /// Refuses what might not fit, and gets ready to rename the source's names. Bounds what the names take from above.
    fn make_room(&mut self, source: &Attributes, bytes: usize, further_names: usize) -> Result<(), MergeError> {
        let names_bytes: usize = source.names_bytes();
        let mut names = self.names.len() + usize::from(source.name_count()) + further_names;
        if names > BATCH_NAMES_MAX {
            // Most batches are far below the bound; near it, those names count once that are here already.
            names = self.names.len() + further_names;
            for index in 0..source.name_count() {
                names += usize::from(self.names.find(source.name_bytes(NameIndex(index))).is_err());
            }
        }
        if names > BATCH_NAMES_MAX && !self.is_empty() || self.total_bytes() + names_bytes + bytes > BATCH_BYTES_MAX {
            return Err(MergeError::Full);
        }
        self.base_ms.get_or_insert(source.base_ms());
        self.renamed.clear();
        self.renamed.resize(usize::from(source.name_count()), UNKNOWN);
        Ok(())
    }

    fn copy_row(&mut self, source: &Attributes, row: &Row<'_>, body_offset: usize) {
        let row_at = self.rows.len();
        let (heads_at, parts) = row.parts();
        parts.iter().for_each(|part| self.rows.extend_from_slice(part));
        self.place_row(row_at, row, body_offset);
        for head in 0..row.property_count() {
            let at = row_at + heads_at + head * HEAD_BYTES;
            let Some(&[low, high]) = self.rows.get(at..).and_then(|rest| rest.first_chunk()) else {
                break;
            };
            let index = self.rename(source, NameIndex(u16::from_le_bytes([low, high])));
            self.rows[at..at + 2].copy_from_slice(&index.0.to_le_bytes());
        }
    }

    /// Writes where the body is, and the birth date by this batch's base.
    fn place_row(&mut self, row_at: usize, row: &Row<'_>, body_offset: usize) {
        self.rows[row_at + BODY_OFFSET_AT..][..4].copy_from_slice(&(body_offset as u32).to_le_bytes());
        let base_ms = self.base_ms.unwrap_or_default();
        let born = (row.born_ms().clamp(-BORN_MS_MAX, BORN_MS_MAX) - base_ms.clamp(-BORN_MS_MAX, BORN_MS_MAX)).to_le_bytes();
        self.rows[row_at + BORN_LOW_AT..][..4].copy_from_slice(&born[..4]);
        self.rows[row_at + BORN_HIGH_AT..][..2].copy_from_slice(&born[4..6]);
    }

    fn rename(&mut self, source: &Attributes, index: NameIndex) -> NameIndex {
        match self.renamed.get(usize::from(index.0)) {
            Some(&UNKNOWN) => {
                let renamed = self.names.intern(source.name_bytes(index));
                self.renamed[usize::from(index.0)] = renamed;
                renamed
            }
            Some(&renamed) => renamed,
            // A row that lies about its names keeps lying; readers take such a number for a name that is not there.
            None => UNKNOWN,
        }
    }

    fn push_head(&mut self, index: NameIndex, value_bytes: usize) {
        let ([n0, n1], [l0, l1]) = (index.0.to_le_bytes(), (value_bytes as u16).to_le_bytes());
        self.rows.extend_from_slice(&[n0, n1, l0, l1]);
    }

    fn push_run(&mut self, producer: ProducerId, sequence: Sequence) {
        self.count += 1;
        match self.runs.last_mut() {
            Some(run) if run.producer == producer && run.first_sequence.0 + u64::from(run.rows) == sequence.0 => run.rows += 1,
            Some(_) | None => self.runs.push(Run {
                producer,
                first_sequence: sequence,
                rows: 1,
            }),
        }
    }

    fn push_bodies(&mut self, bodies: Bytes) {
        self.bodies_bytes += bodies.len();
        if !bodies.is_empty() {
            self.bodies.push(bodies);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, NewMessage};
    use super::*;

    #[test]
    fn a_copy_can_be_made_what_it_was_copied_from() {
        let mut builder = BatchBuilder::new(0, ProducerId(5), Sequence(9));
        let message = NewMessage {
            keys: &["k"],
            properties: &[("mine", "1"), ("other", "2")],
            group: Some("g"),
            ttl_ms: 70,
            ..NewMessage::default()
        };
        builder.push(&message, b"body").unwrap();
        let source = Batch::parse(builder.finish()).unwrap();
        let copied = |source: &Batch, changes: Changes<'_>| {
            let mut merger = BatchMerger::new();
            let body = source.body(&source.row(0).unwrap());
            merger.add_changed(source.attributes(), 0, body, changes).unwrap();
            Batch::parse(merger.take().into_bytes()).unwrap()
        };
        let further = [("origin", "t"), ("ttl", "70")];
        let changes = Changes {
            further: &further,
            ..Changes::default()
        };
        let copy = copied(&source, changes);
        assert_eq!((copy.row(0).unwrap().ttl_ms(), copy.row(0).unwrap().properties().count()), (0, 4));
        let changes = Changes {
            without: &["origin", "ttl", "nothing"],
            ttl_ms: 70,
            ..Changes::default()
        };
        assert_eq!(copied(&copy, changes).bytes(), source.bytes());
    }
}
