//! Judging stored messages: the index drops what a pruning hint rules out, the rest goes to the plugin as columnar runs - and where a run
//! fails, message by message.

use std::ops::Range;

use sluice_core::input::{Culprit, CulpritKind};
use sluice_core::limits::{CULPRIT_QUORUM, CULPRITS_MAX};
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
    /// How many the plugin was asked about.
    pub evaluated: u32,
    /// Those on which it failed alone too, ascending.
    pub culprits: Vec<Culprit>,
    /// One past the last that was judged: where a plugin fails a stretch may end early.
    pub to: QueueOffset,
}

/// Why a stretch ends before its end.
enum Ended {
    /// All before this message is judged; the failure, if any, is met again when it is asked about.
    At(QueueOffset, Option<RunFailure>),
    /// Nothing is known.
    Failed(JudgeError),
}

impl From<LogError> for Ended {
    fn from(error: LogError) -> Self {
        Self::Failed(error.into())
    }
}

impl From<BatchError> for Ended {
    fn from(error: BatchError) -> Self {
        Self::Failed(error.into())
    }
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
        let ended = self.stretch(reader, filter, queue, from..to, &mut judged);
        judged.end(from, to, ended)
    }

    fn stretch(
        &mut self,
        reader: &LogReader,
        filter: &FilterHandle,
        queue: QueueId,
        asked: Range<QueueOffset>,
        judged: &mut Judged,
    ) -> Result<(), Ended> {
        let (from, to) = (asked.start, asked.end);
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
                    self.row(&attributes, (offset.0 - place.first.0) as u32, *offset, filter, &pruning, judged)?;
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
                self.rows(&attributes, rows, place.first, filter, &pruning, judged)?;
            }
        }
        self.flush(filter, judged)
    }

    /// Judges all messages of batches that lie in memory, as `stored` does; the offsets are counted from 0.
    ///
    /// # Errors
    /// [`JudgeError`].
    pub fn batches<'a>(&mut self, filter: &FilterHandle, batches: impl IntoIterator<Item = &'a Attributes>) -> Result<Judged, JudgeError> {
        let mut judged = Judged::default();
        let mut end = QueueOffset(0);
        let in_memory = || -> Result<(), Ended> {
            let pruning = Pruning::new(filter.hint());
            self.begin(filter);
            for attributes in batches {
                let first = end;
                end.0 += u64::from(attributes.count());
                self.slots.resolve(attributes, filter.columns());
                self.rows(attributes, 0..attributes.count(), first, filter, &pruning, &mut judged)?;
            }
            self.flush(filter, &mut judged)
        };
        let ended = in_memory();
        judged.end(QueueOffset(0), end, ended)
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
    ) -> Result<(), Ended> {
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
    ) -> Result<(), Ended> {
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

    fn flush(&mut self, filter: &FilterHandle, judged: &mut Judged) -> Result<(), Ended> {
        let Some(view) = self.writer.finish() else { return Ok(()) };
        match self.worker.evaluate(filter, view) {
            Ok(verdicts) => {
                judged.evaluated += self.offsets.len() as u32;
                for (word, mut bits) in verdicts.deliver.into_iter().enumerate() {
                    while bits != 0 {
                        let message = word * 64 + bits.trailing_zeros() as usize;
                        judged.deliver.push(self.offsets[message]);
                        bits &= bits - 1;
                    }
                }
                judged.failed += verdicts.failed_count();
            }
            Err(failure) => self.one_by_one(filter, failure, judged)?,
        }
        // With as many as it takes to decide about what the plugin failed on the core is to hear of it.
        match self.offsets.last() {
            Some(last) if !judged.culprits.is_empty() && u64::from(judged.evaluated) >= CULPRIT_QUORUM => {
                Err(Ended::At(QueueOffset(last.0 + 1), None))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Judges each message of a run on which fresh instances fail alone, to find those that are to blame. What the clock stopped, or had no
    /// instance, is no message's fault: the stretch ends there.
    fn one_by_one(&mut self, filter: &FilterHandle, failure: RunFailure, judged: &mut Judged) -> Result<(), Ended> {
        if culprit_kind(&failure).is_none() {
            return Err(Ended::At(self.offsets[0], Some(failure)));
        }
        for (message, &offset) in self.offsets.iter().enumerate() {
            match self.worker.evaluate(filter, self.writer.alone(message)) {
                Ok(verdicts) => {
                    judged.deliver.extend(verdicts.is_delivered(0).then_some(offset));
                    judged.failed += verdicts.failed_count();
                }
                Err(failure) => match culprit_kind(&failure) {
                    Some(kind) => judged.culprits.push(Culprit {
                        offset,
                        kind,
                        reason: failure.to_string(),
                    }),
                    None => return Err(Ended::At(offset, Some(failure))),
                },
            }
            judged.evaluated += 1;
            // More are the plugin's fault whatever follows.
            if judged.culprits.len() as u64 > CULPRITS_MAX {
                return Err(Ended::At(QueueOffset(offset.0 + 1), None));
            }
        }
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

impl Judged {
    /// What is known of the messages `from..to`, whose judging ended so.
    fn end(mut self, from: QueueOffset, to: QueueOffset, ended: Result<(), Ended>) -> Result<Self, JudgeError> {
        self.to = match ended {
            Ok(()) => to,
            Err(Ended::At(at, Some(failure))) if at <= from => return Err(failure.into()),
            Err(Ended::At(at, _)) => at.min(to),
            Err(Ended::Failed(error)) => return Err(error),
        };
        Ok(self)
    }
}

/// How a plugin failed on a message that it was given alone; `None` when that says nothing of the message.
fn culprit_kind(failure: &RunFailure) -> Option<CulpritKind> {
    match failure {
        RunFailure::Trap(_) => Some(CulpritKind::Trap),
        RunFailure::Fuel(_) => Some(CulpritKind::Fuel),
        RunFailure::Memory(_) => Some(CulpritKind::Memory),
        RunFailure::BadOutput(_) => Some(CulpritKind::Answer),
        RunFailure::Time(_) | RunFailure::NoInstance(_) => None,
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
