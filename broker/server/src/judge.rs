//! Judging stored messages: the index drops what a pruning hint rules out, the rest goes to the plugin as columnar runs.

use std::ops::Range;

use sluice_log::{BatchPlace, LogError, LogReader, ReadAhead};
use sluice_plugin_host::{Attribute, FilterHandle, Hint, Host, Room, RunFailure, ViewWriter, Worker};
use sluice_protocol::batch::{Attributes, BatchError, NameIndex, Row, tag_hash};
use sluice_protocol::ids::{QueueId, QueueOffset};

/// Judges on one thread, with buffers and plugin instances that it keeps from one stretch to the next.
pub struct Judge {
    worker: Worker,
    writer: ViewWriter,
    /// Which offset each message of the run under way has.
    offsets: Vec<QueueOffset>,
    /// The columns of the filter under way, by the numbers of the batch under way.
    slots: Slots,
    keys: Vec<u8>,
}

/// What became of a stretch of messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// The offsets to deliver, ascending.
    pub deliver: Vec<QueueOffset>,
    /// How many of the others were evaluation errors.
    pub failed: u32,
    /// How many were dropped by the hint, without a call.
    pub pruned: u64,
}

/// Why a stretch could not be judged.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The plugin failed.
    #[error(transparent)]
    Run(#[from] RunFailure),
    /// The stored messages cannot be read.
    #[error("the messages cannot be read: {0}")]
    Log(#[from] LogError),
    /// What is stored is not a batch.
    #[error("the messages cannot be read: {0}")]
    Batch(#[from] BatchError),
}

/// Where the values of a batch's attributes go in the view.
#[derive(Debug, Default)]
struct Slots {
    tag: Option<usize>,
    keys: Option<usize>,
    /// By name index; `usize::MAX` for what is not asked.
    properties: Vec<usize>,
    asked: bool,
}

const NOT_ASKED: usize = usize::MAX;

/// A hint, ready to be looked up.
enum Pruning<'a> {
    None,
    Tags { tags: &'a [String], hashes: Vec<u32> },
    Property(&'a str),
}

impl Judge {
    /// A judge without instances yet.
    pub fn new(host: &Host) -> Self {
        Self {
            worker: Worker::new(host),
            writer: ViewWriter::new(),
            offsets: Vec::new(),
            slots: Slots::default(),
            keys: Vec::new(),
        }
    }

    /// Judges the stored messages `from..to` of a queue. Messages that are no longer stored are not delivered.
    ///
    /// # Errors
    /// [`JudgeError`]; then nothing is known of any of them.
    pub fn stored(
        &mut self,
        reader: &LogReader,
        filter: &FilterHandle,
        queue: QueueId,
        from: QueueOffset,
        to: QueueOffset,
    ) -> Result<Judged, JudgeError> {
        let mut judged = Judged::default();
        let pruning = Pruning::new(filter.hint());
        self.begin(filter);
        if let Pruning::Tags { hashes, .. } = &pruning {
            let candidates = reader.tagged(queue, from, to, hashes)?;
            judged.pruned += (to.0 - from.0).saturating_sub(candidates.len() as u64);
            let mut candidates = candidates.as_slice();
            while let Some(&first) = candidates.first() {
                let Some(place) = reader.batches(queue, first, QueueOffset(first.0 + 1))?.into_iter().next() else {
                    candidates = &candidates[1..];
                    continue;
                };
                let here = candidates.partition_point(|offset| *offset < place.end());
                let Some(attributes) = unless_gone(reader.attributes(&place))? else {
                    candidates = &candidates[here..];
                    continue;
                };
                self.slots.resolve(&attributes, filter.columns());
                for offset in &candidates[..here] {
                    self.row(
                        &attributes,
                        (offset.0 - place.first.0) as u32,
                        *offset,
                        filter,
                        &pruning,
                        &mut judged,
                    )?;
                }
                candidates = &candidates[here..];
            }
        } else {
            let places = reader.batches(queue, from, to)?;
            let mut ahead = ReadAhead::new();
            let mut rest = places.as_slice();
            while let Some((place, following)) = rest.split_first() {
                rest = following;
                let Some(attributes) = unless_gone(ahead.attributes(reader, place, following))? else {
                    continue;
                };
                self.slots.resolve(&attributes, filter.columns());
                let rows = rows_within(place, from, to);
                self.rows(&attributes, rows, place.first, filter, &pruning, &mut judged)?;
            }
        }
        self.flush(filter, &mut judged)?;
        Ok(judged)
    }

    /// Judges all messages of batches that lie in memory, as `stored` does; the offsets are counted from 0.
    ///
    /// # Errors
    /// [`JudgeError`].
    pub fn batches<'a>(&mut self, filter: &FilterHandle, batches: impl IntoIterator<Item = &'a Attributes>) -> Result<Judged, JudgeError> {
        let mut judged = Judged::default();
        let pruning = Pruning::new(filter.hint());
        self.begin(filter);
        let mut first = QueueOffset(0);
        for attributes in batches {
            self.slots.resolve(attributes, filter.columns());
            self.rows(attributes, 0..attributes.count(), first, filter, &pruning, &mut judged)?;
            first = QueueOffset(first.0 + u64::from(attributes.count()));
        }
        self.flush(filter, &mut judged)?;
        Ok(judged)
    }

    fn begin(&mut self, filter: &FilterHandle) {
        self.offsets.clear();
        self.writer.begin(filter.columns().len());
    }

    fn rows(
        &mut self,
        attributes: &Attributes,
        rows: Range<u32>,
        first: QueueOffset,
        filter: &FilterHandle,
        pruning: &Pruning<'_>,
        judged: &mut Judged,
    ) -> Result<(), JudgeError> {
        for row in rows {
            self.row(attributes, row, QueueOffset(first.0 + u64::from(row)), filter, pruning, judged)?;
        }
        Ok(())
    }

    #[inline]
    fn row(
        &mut self,
        attributes: &Attributes,
        row: u32,
        offset: QueueOffset,
        filter: &FilterHandle,
        pruning: &Pruning<'_>,
        judged: &mut Judged,
    ) -> Result<(), JudgeError> {
        let Some(row) = attributes.row(row) else { return Ok(()) };
        if !pruning.may_match(&row) {
            judged.pruned += 1;
            return Ok(());
        }
        self.slots.write(&row, &mut self.writer, &mut self.keys);
        self.offsets.push(offset);
        match self.writer.end_message() {
            Room::Left => Ok(()),
            Room::Full => {
                self.flush(filter, judged)?;
                self.begin(filter);
                Ok(())
            }
        }
    }

    fn flush(&mut self, filter: &FilterHandle, judged: &mut Judged) -> Result<(), JudgeError> {
        let Some(view) = self.writer.finish() else { return Ok(()) };
        let verdicts = self.worker.evaluate(filter, view)?;
        for (word, mut bits) in verdicts.deliver.into_iter().enumerate() {
            while bits != 0 {
                let message = word * 64 + bits.trailing_zeros() as usize;
                judged.deliver.push(self.offsets[message]);
                bits &= bits - 1;
            }
        }
        judged.failed += verdicts.failed_count();
        Ok(())
    }
}

/// `None` for what retention took since its place was found.
fn unless_gone(attributes: Result<Attributes, LogError>) -> Result<Option<Attributes>, LogError> {
    match attributes {
        Ok(attributes) => Ok(Some(attributes)),
        Err(LogError::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn rows_within(place: &BatchPlace, from: QueueOffset, to: QueueOffset) -> Range<u32> {
    let row = |offset: QueueOffset| offset.0.saturating_sub(place.first.0).min(u64::from(place.count)) as u32;
    row(from)..row(to)
}

impl Slots {
    /// Resolves the columns' names once for all rows of a batch.
    fn resolve(&mut self, attributes: &Attributes, columns: &[Attribute]) {
        self.tag = None;
        self.keys = None;
        self.asked = false;
        self.properties.clear();
        self.properties.resize(usize::from(attributes.name_count()), NOT_ASKED);
        for (slot, column) in columns.iter().enumerate() {
            match column {
                Attribute::Tag => self.tag = Some(slot),
                Attribute::Keys => self.keys = Some(slot),
                Attribute::Property(name) => {
                    if let Some(NameIndex(index)) = attributes.name_index(name)
                        && let Some(property) = self.properties.get_mut(usize::from(index))
                    {
                        *property = slot;
                        self.asked = true;
                    }
                }
            }
        }
    }

    #[inline]
    fn write(&self, row: &Row<'_>, writer: &mut ViewWriter, keys: &mut Vec<u8>) {
        if let Some(slot) = self.tag
            && let Some(tag) = row.tag_bytes()
        {
            writer.text(slot, tag);
        }
        if let Some(slot) = self.keys
            && row.key_count() > 0
        {
            keys.clear();
            for key in row.keys() {
                if !keys.is_empty() {
                    keys.push(b' ');
                }
                keys.extend_from_slice(key);
            }
            writer.text(slot, keys);
        }
        if self.asked {
            for (NameIndex(index), value) in row.properties() {
                match self.properties.get(usize::from(index)) {
                    Some(&NOT_ASKED) | None => {}
                    Some(&slot) => writer.text(slot, value),
                }
            }
        }
    }
}

impl<'a> Pruning<'a> {
    fn new(hint: Option<&'a Hint>) -> Self {
        match hint {
            None => Self::None,
            Some(Hint::TagOneOf(tags)) => Self::Tags {
                tags,
                hashes: tags.iter().map(|tag| tag_hash(tag)).collect(),
            },
            Some(Hint::PropertyExists(name)) => Self::Property(name),
        }
    }

    /// Whether the plugin must be asked. Equal hashes are confirmed on the text.
    #[inline]
    fn may_match(&self, row: &Row<'_>) -> bool {
        match self {
            Self::None => true,
            Self::Tags { tags, hashes } => {
                hashes.contains(&row.tag_hash()) && row.tag().is_some_and(|tag| tags.iter().any(|wanted| wanted == tag))
            }
            Self::Property(name) => row.property(name).is_some(),
        }
    }
}
