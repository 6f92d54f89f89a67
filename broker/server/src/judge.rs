//! Judging stored messages: the index drops what a pruning hint rules out, the rest goes to the plugins as columnar runs, which filters at
//! the same place share - and where a run fails, message by message.

use std::ops::Range;

pub use sluice_core::effect::{Among, TopicTtl};
use sluice_core::input::Link;
use sluice_core::limits::{CULPRIT_QUORUM, CULPRITS_MAX};
use sluice_log::{BatchPlace, LogError, LogReader, ReadAhead};
use sluice_plugin_host::{FilterHandle, Host, Room, RunFailure, ViewWriter, Worker};
use sluice_protocol::batch::{Attributes, BatchError};
use sluice_protocol::ids::{QueueId, QueueOffset};

use crate::columns::{Pruning, Slots};
use crate::judged::{Asked, Ended, Together, culprit_kind};
pub use crate::judged::{Judged, Outcomes};
use crate::listed::{is_meant, link_of};

/// Judges on one thread, with buffers and plugin instances that it keeps from one stretch to the next.
pub struct Judge {
    worker: Worker,
    writer: ViewWriter,
    /// Which offset each message of the run under way has.
    offsets: Vec<QueueOffset>,
    /// Where it is asked, what each of them is in the order of its queue.
    links: Vec<Link>,
    /// The columns of the filters under way, by the numbers of the batch under way.
    slots: Slots,
    keys: Vec<u8>,
}

/// Stored messages of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The queue.
    pub queue: QueueId,
    /// Which of them are meant.
    pub among: Among,
    /// Whether it is asked until when each lives: then how long those of the topic do.
    pub ttl: Option<TopicTtl>,
    /// The first.
    pub from: QueueOffset,
    /// One past the last.
    pub to: QueueOffset,
    /// The most that may be judged by a call; what a hint passes over does not count. At least 1.
    pub calls_max: u64,
}

impl Stretch {
    /// Whether more is asked of each message than whether it matches.
    pub(crate) fn has_links(&self) -> bool {
        self.among == Among::Ordered || self.ttl.is_some()
    }
}

/// Batches of which few messages are wanted that are read from the disk at once.
const SPARSE_READS: usize = 64;

/// Messages whose places are looked up at once.
pub(crate) const PLACES_MESSAGES: u64 = 4_096;

/// Why a stretch could not be judged by any filter.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The stored messages cannot be read.
    #[error("the messages cannot be read: {0}")]
    Log(#[from] LogError),
    /// What is stored is not a batch.
    #[error("the messages cannot be read: {0}")]
    Batch(#[from] BatchError),
}

impl Judge {
    /// A judge without instances yet.
    pub fn new(host: &Host) -> Self {
        Self {
            worker: Worker::new(host),
            writer: ViewWriter::new(),
            offsets: Vec::new(),
            links: Vec::new(),
            slots: Slots::default(),
            keys: Vec::new(),
        }
    }

    /// Judges stored messages by each of these filters, which must give the same hint: what is read and transposed serves all of them.
    /// Messages that are no longer stored are not delivered. Where a plugin fails its stretch may end early; the others go on.
    ///
    /// # Errors
    /// [`JudgeError`]; then no filter knows anything of any of them.
    ///
    /// # Panics
    /// When the filters differ in their hints.
    pub fn stored(&mut self, reader: &LogReader, filters: &[FilterHandle], stretch: Stretch) -> Result<Outcomes, JudgeError> {
        let mut together = Together::new(filters, stretch);
        self.begin(&together);
        let to = match &together.pruning {
            Pruning::Tags { hashes, .. } => {
                let candidates = reader.tagged(stretch.queue, stretch.from, stretch.to, hashes)?;
                self.candidates(reader, stretch, &candidates, &mut together)?
            }
            Pruning::None | Pruning::Property(_) => self.all(reader, stretch, &mut together)?,
        };
        self.flush(&mut together);
        Ok(together.finish(stretch.from, to))
    }

    /// Judges every message, as far as it may; says how far.
    fn all(&mut self, reader: &LogReader, stretch: Stretch, together: &mut Together<'_>) -> Result<QueueOffset, JudgeError> {
        let mut ahead = ReadAhead::new();
        let mut from = stretch.from;
        while from < stretch.to {
            // Places are looked up as far as may be needed: a stretch may be long, and end early.
            let to = stretch.to.min(QueueOffset(from.0 + PLACES_MESSAGES));
            let places = reader.batches(stretch.queue, from, to)?;
            let mut rest = places.as_slice();
            while let Some((place, following)) = rest.split_first() {
                rest = following;
                if together.is_over() {
                    return Ok(place.first.max(from));
                }
                let attributes = match unless_gone(ahead.attributes(reader, place, following)) {
                    // What comes before it is judged; it is met again when the rest is asked about.
                    Err(_) if place.first > stretch.from => return Ok(place.first),
                    attributes => attributes?,
                };
                let Some(attributes) = attributes else { continue };
                self.slots.resolve(&attributes, &together.columns);
                for row in rows_within(place, from, to) {
                    let offset = QueueOffset(place.first.0 + u64::from(row));
                    if together.left == 0 {
                        return Ok(offset);
                    }
                    self.row(&attributes, place, row, together);
                }
            }
            from = to;
        }
        Ok(stretch.to)
    }

    /// Judges the messages whose tag has one of the hinted hashes, as far as it may; says how far. The others are passed over.
    fn candidates(
        &mut self,
        reader: &LogReader,
        stretch: Stretch,
        candidates: &[QueueOffset],
        together: &mut Together<'_>,
    ) -> Result<QueueOffset, JudgeError> {
        let judged = candidates.len().min(usize::try_from(together.left).unwrap_or(usize::MAX));
        let to = candidates.get(judged).copied().unwrap_or(stretch.to);
        together.pruned += (to.0 - stretch.from.0).saturating_sub(judged as u64);
        let mut rest = &candidates[..judged];
        while !rest.is_empty() && !together.is_over() {
            let places = next_places(reader, stretch.queue, &mut rest)?;
            // One read waits for the disk while the others are under way.
            for (place, _) in places.iter().filter(|(place, _)| reader.sparse_in_memory(place).is_none()) {
                reader.will_read(place, 0..place.attribute_bytes);
            }
            for (place, wanted) in places {
                let attributes = match (unless_gone(reader.sparse_attributes(&place)), wanted.first()) {
                    (Err(_), Some(&first)) if first > stretch.from => return Ok(first),
                    (attributes, _) => attributes?,
                };
                let Some(attributes) = attributes else { continue };
                self.slots.resolve(&attributes, &together.columns);
                for offset in wanted {
                    self.row(&attributes, &place, (offset.0 - place.first.0) as u32, together);
                }
            }
        }
        Ok(to)
    }

    fn begin(&mut self, together: &Together<'_>) {
        self.offsets.clear();
        self.links.clear();
        self.writer.begin(together.columns.len());
    }

    #[inline]
    fn row(&mut self, attributes: &Attributes, place: &BatchPlace, row: u32, together: &mut Together<'_>) {
        let Some(row) = attributes.row(row).filter(|row| is_meant(together.stretch.among, row)) else {
            return;
        };
        if !together.pruning.may_match(&row) {
            together.pruned += 1;
            return;
        }
        self.slots.write(&row, &mut self.writer, &mut self.keys);
        self.offsets.push(QueueOffset(place.first.0 + u64::from(row.index())));
        if together.stretch.has_links() {
            self.links.push(link_of(&row, &together.stretch, place.stored_wall_ms));
        }
        together.left -= 1;
        match self.writer.end_message() {
            Room::Left => {}
            Room::Full => {
                self.flush(together);
                self.begin(together);
            }
        }
    }

    fn flush(&mut self, together: &mut Together<'_>) {
        for asked in together.asked.iter_mut().filter(|asked| asked.ended.is_none()) {
            let Some(view) = self.writer.finish_with(&asked.own) else { return };
            match self.worker.evaluate(asked.filter, view) {
                Ok(verdicts) => asked.judged.take(&self.offsets, &self.links, &verdicts),
                Err(failure) => self.one_by_one(asked, failure),
            }
            // With as many as it takes to decide about what the plugin failed on the core is to hear of it.
            let decides = !asked.judged.culprits.is_empty() && u64::from(asked.judged.evaluated) >= CULPRIT_QUORUM;
            if let Some(last) = self.offsets.last().filter(|_| decides && asked.ended.is_none()) {
                asked.ended = Some(Ended::after(*last));
            }
        }
    }

    /// Judges each message of a run on which fresh instances fail alone, to find those that are to blame. What the clock stopped, or had no
    /// instance, is no message's fault: the stretch ends there.
    fn one_by_one(&mut self, asked: &mut Asked<'_>, failure: RunFailure) {
        if culprit_kind(&failure).is_none() {
            asked.ended = self.offsets.first().map(|first| Ended::before(*first, failure));
            return;
        }
        for (message, &offset) in self.offsets.iter().enumerate() {
            match self.worker.evaluate(asked.filter, self.writer.alone_with(&asked.own, message)) {
                Ok(verdicts) => asked
                    .judged
                    .take(&[offset], self.links.get(message..=message).unwrap_or(&[]), &verdicts),
                Err(failure) => match culprit_kind(&failure) {
                    Some(kind) => {
                        let link = self.links.get(message).copied().unwrap_or_default();
                        asked.judged.blame(offset, link, kind, &failure);
                    }
                    None => {
                        asked.ended = Some(Ended::before(offset, failure));
                        return;
                    }
                },
            }
            // More are the plugin's fault whatever follows.
            if asked.judged.culprits.len() as u64 > CULPRITS_MAX {
                asked.ended = Some(Ended::after(offset));
                return;
            }
        }
    }
}

/// Takes the offsets of the next few batches from the wanted ones, which ascend. What is not stored any more is left out.
fn next_places<'a>(
    reader: &LogReader,
    queue: QueueId,
    rest: &mut &'a [QueueOffset],
) -> Result<Vec<(BatchPlace, &'a [QueueOffset])>, JudgeError> {
    let mut places = Vec::new();
    while let Some(&first) = rest.first().filter(|_| places.len() < SPARSE_READS) {
        let Some(place) = reader.batches(queue, first, QueueOffset(first.0 + 1))?.into_iter().next() else {
            *rest = &rest[1..];
            continue;
        };
        let (here, after) = rest.split_at(rest.partition_point(|offset| *offset < place.end()));
        places.push((place, here));
        *rest = after;
    }
    Ok(places)
}

/// `None` for what retention took since its place was found.
pub(crate) fn unless_gone(attributes: Result<Attributes, LogError>) -> Result<Option<Attributes>, LogError> {
    match attributes {
        Ok(attributes) => Ok(Some(attributes)),
        Err(LogError::Gone { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn rows_within(place: &BatchPlace, from: QueueOffset, to: QueueOffset) -> Range<u32> {
    let row = |offset: QueueOffset| offset.0.saturating_sub(place.first.0).min(u64::from(place.count)) as u32;
    row(from)..row(to)
}
