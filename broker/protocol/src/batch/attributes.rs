//! A batch up to its bodies: all that indexes and filters look at.

use std::ops::Range;
use std::str;
use std::sync::Arc;

use bytes::Bytes;

use super::layout::{BatchError, HEADER_BYTES, Header, RUN_BYTES, Run, attributes_checksum};
use super::names::NameIndex;
use super::row::{Row, deliver_at_of};
use crate::limits::{BORN_MS_MAX, PROPERTY_NAME_BYTES_MAX};

/// The attributes of all messages of a batch, validated. Clones share the memory.
#[derive(Clone, Debug)]
pub struct Attributes {
    bytes: Bytes,
    layout: Arc<Layout>,
}

/// Where things are, found once.
#[derive(Debug)]
struct Layout {
    header: Header,
    /// The first byte of each name after its length, and the length.
    names: Vec<(u32, u8)>,
    /// The first byte of each row, and the end of the last.
    rows: Vec<u32>,
    /// One past the last row of each run but the last.
    run_ends: Vec<u32>,
    /// Whether some row has a time of delivery.
    has_delays: bool,
}

impl PartialEq for Attributes {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for Attributes {}

impl Attributes {
    /// Validates the attributes of a batch that comes from outside: the checksum, the lengths, the structure of every row.
    /// Further bytes (the bodies, or a part of them) are not kept.
    ///
    /// # Errors
    /// [`BatchError`]; nothing is believed of bytes that are refused.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        let attributes = Self::parse_stored(bytes)?;
        attributes.check_names()?;
        let mut bodies_end = 0;
        for row in attributes.rows() {
            let body = row.body_range();
            if !row.is_sound(attributes.layout.header.names) || body.start != bodies_end {
                return Err(BatchError::Row(row.index()));
            }
            bodies_end = body.end;
        }
        if bodies_end != attributes.layout.header.bodies_bytes as usize || attributes.base_ms().unsigned_abs() > BORN_MS_MAX as u64 {
            return Err(BatchError::Sections);
        }
        Ok(attributes)
    }

    /// Validates the attributes of a batch that was parsed before it was stored: the checksum and the sections. What is within
    /// a row is taken on trust, since the checksum says that it is what was written.
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn parse_stored(mut bytes: Bytes) -> Result<Self, BatchError> {
        let header_bytes = bytes.first_chunk::<HEADER_BYTES>().ok_or(BatchError::Length)?;
        let header = Header::read(header_bytes)?;
        let rest = bytes.get(HEADER_BYTES..header.attribute_bytes()).ok_or(BatchError::Length)?;
        if attributes_checksum(header_bytes, rest) != header.checksum {
            return Err(BatchError::Checksum);
        }
        bytes.truncate(header.attribute_bytes());
        let (rows, has_delays) = starts_of_rows(&bytes, &header)?;
        let layout = Layout {
            header,
            names: places_of_names(&bytes, &header)?,
            rows,
            run_ends: ends_of_runs(&bytes, &header)?,
            has_delays,
        };
        Ok(Self {
            bytes,
            layout: Arc::new(layout),
        })
    }

    /// The length of the attributes of the batch that begins with these bytes, at least [`HEADER_BYTES`] of them: how much to
    /// read before parsing.
    ///
    /// # Errors
    /// [`BatchError`] when no batch begins here. The checksum is not looked at.
    pub fn length(prefix: &[u8]) -> Result<usize, BatchError> {
        Ok(Header::read(prefix.first_chunk().ok_or(BatchError::Length)?)?.attribute_bytes())
    }

    /// The attributes as bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Whether some message has a time of delivery. Where none has, nobody need look at the rows to know.
    pub fn has_delays(&self) -> bool {
        self.layout.has_delays
    }

    /// How many messages there are.
    pub fn count(&self) -> u32 {
        self.layout.header.count
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Bytes up to the bodies.
    pub fn attribute_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Bytes of the whole batch, bodies included.
    pub fn total_bytes(&self) -> usize {
        self.layout.header.total_bytes()
    }

    /// The time that the birth dates count from: wall clock, milliseconds since 1970.
    pub fn base_ms(&self) -> i64 {
        self.layout.header.base_ms
    }

    /// Who sent the messages: neighbours of one producer as one run.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = Run> + '_ {
        (0..self.layout.header.runs).map(|run| self.run(run))
    }

    /// How many property names the batch uses.
    pub fn name_count(&self) -> u16 {
        self.layout.header.names
    }

    /// The name with this number; empty for a number that the batch does not use.
    pub fn name(&self, index: NameIndex) -> &str {
        str::from_utf8(self.name_bytes(index)).unwrap_or_default()
    }

    /// The property names of the batch, by number.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> + '_ {
        (0..self.name_count()).map(|index| self.name(NameIndex(index)))
    }

    /// The number of a name in this batch, if any of its messages has such a property. Look names up once a batch.
    pub fn name_index(&self, name: &str) -> Option<NameIndex> {
        (0..self.name_count())
            .map(NameIndex)
            .find(|&index| self.name_bytes(index) == name.as_bytes())
    }

    /// The row with this number, from 0.
    #[inline]
    pub fn row(&self, index: u32) -> Option<Row<'_>> {
        let at = index as usize;
        let bytes = self
            .bytes
            .get(*self.layout.rows.get(at)? as usize..*self.layout.rows.get(at + 1)? as usize)?;
        Row::new(self, index, bytes)
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> + '_ {
        (0..self.count()).map_while(|index| self.row(index))
    }

    /// Where the bodies of these rows are, counted from the first byte of the batch: what to read of a stored batch in order to
    /// deliver them. `None` when there are no such rows.
    pub fn bodies_range(&self, rows: Range<u32>) -> Option<Range<usize>> {
        let first = self.row(rows.start)?.body_range();
        let last = self.row(rows.end.checked_sub(1)?)?.body_range();
        let bodies_at = self.bytes.len();
        (first.start <= last.end).then(|| bodies_at + first.start..bodies_at + last.end)
    }

    /// Where a row begins, counted from the first byte of the batch.
    pub(super) fn row_at(&self, row: u32) -> Option<usize> {
        self.layout.rows.get(row as usize).map(|&at| at as usize)
    }

    /// Writes the header of these attributes anew over `batch`, which has them with other fields in its rows.
    pub(super) fn seal(&self, batch: &mut [u8]) {
        let (header, rest) = batch.split_at_mut(HEADER_BYTES);
        let sealed = self.layout.header.seal(&rest[..self.attribute_bytes() - HEADER_BYTES]);
        header.copy_from_slice(&sealed);
    }

    /// Bytes of the section of names.
    pub(super) fn names_bytes(&self) -> usize {
        self.layout.header.names_bytes as usize
    }

    /// Bytes of these rows; 0 when there are no such rows.
    pub(super) fn rows_bytes(&self, rows: Range<u32>) -> usize {
        let start = |row: u32| self.layout.rows.get(row as usize).map_or(0, |&at| at as usize);
        start(rows.end).saturating_sub(start(rows.start))
    }

    fn check_names(&self) -> Result<(), BatchError> {
        let mut sorted: Vec<(&[u8], u16)> = (0..self.name_count())
            .map(|index| (self.name_bytes(NameIndex(index)), index))
            .collect();
        sorted.sort_unstable();
        let twice = sorted.windows(2).find(|pair| pair[0].0 == pair[1].0).map(|pair| pair[1].1);
        let text = |name: &[u8]| !name.is_empty() && name.len() <= PROPERTY_NAME_BYTES_MAX && str::from_utf8(name).is_ok();
        match twice.or_else(|| sorted.iter().find(|(name, _)| !text(name)).map(|&(_, index)| index)) {
            Some(index) => Err(BatchError::Name(index)),
            None => Ok(()),
        }
    }

    pub(super) fn name_bytes(&self, index: NameIndex) -> &[u8] {
        let Some(&(at, length)) = self.layout.names.get(usize::from(index.0)) else {
            return &[];
        };
        self.bytes.get(at as usize..at as usize + usize::from(length)).unwrap_or_default()
    }

    /// The run of a row, and the number of that run's first row.
    pub(super) fn run_of(&self, row: u32) -> (Run, u32) {
        let place = self.layout.run_ends.partition_point(|&end| end <= row);
        let first = place.checked_sub(1).map_or(0, |before| self.layout.run_ends[before]);
        (self.run(place as u32), first)
    }

    fn run(&self, run: u32) -> Run {
        let at = HEADER_BYTES + run as usize * RUN_BYTES;
        let bytes = self.bytes[at..]
            .first_chunk()
            .expect("the section of runs lies within the attributes, which parse checked");
        Run::read(bytes).expect("parse read every run")
    }
}

fn places_of_names(bytes: &[u8], header: &Header) -> Result<Vec<(u32, u8)>, BatchError> {
    let mut places = Vec::with_capacity(usize::from(header.names));
    let (mut at, end) = (header.names_at(), header.rows_at());
    for _ in 0..header.names {
        let length = if at < end { bytes[at] } else { return Err(BatchError::Sections) };
        places.push((at as u32 + 1, length));
        at += 1 + usize::from(length);
    }
    if at == end { Ok(places) } else { Err(BatchError::Sections) }
}

/// Where each row begins and the last ends, and whether one has a time of delivery.
fn starts_of_rows(bytes: &[u8], header: &Header) -> Result<(Vec<u32>, bool), BatchError> {
    let mut starts = Vec::with_capacity(header.count as usize + 1);
    let mut at = header.rows_at();
    let mut delays = 0;
    for row in 0..header.count {
        let fixed: &[u8; super::ROW_FIXED_BYTES] = bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(BatchError::Row(row))?;
        let length = u32::from_le_bytes([fixed[0], fixed[1], fixed[2], fixed[3]]) as usize;
        if !(super::ROW_FIXED_BYTES..=bytes.len() - at).contains(&length) {
            return Err(BatchError::Row(row));
        }
        delays |= deliver_at_of(fixed);
        starts.push(at as u32);
        at += length;
    }
    starts.push(at as u32);
    if at == bytes.len() {
        Ok((starts, delays != 0))
    } else {
        Err(BatchError::Sections)
    }
}

fn ends_of_runs(bytes: &[u8], header: &Header) -> Result<Vec<u32>, BatchError> {
    let (runs, _) = bytes[HEADER_BYTES..header.names_at()].as_chunks();
    let mut ends = Vec::with_capacity(runs.len().saturating_sub(1));
    let mut end = 0u32;
    for (place, run) in runs.iter().enumerate() {
        end = Run::read(run)
            .and_then(|run| end.checked_add(run.rows))
            .ok_or(BatchError::Sections)?;
        if place + 1 < runs.len() {
            ends.push(end);
        }
    }
    if end == header.count { Ok(ends) } else { Err(BatchError::Sections) }
}
