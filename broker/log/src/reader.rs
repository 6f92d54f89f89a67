//! Reading the log by queue and offset, by time and by message id, from any thread while it is written.

mod far;
mod history;
mod kept;
mod parts;
mod search;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use sluice_protocol::batch::{Attributes, Batch};
use sluice_protocol::ids::{MessageId, Position, QueueId, QueueOffset};

use crate::cache::{Recent, Tail};
use crate::error::LogError;
use crate::frame::FrameSecret;
use crate::index::{BatchPlace, QueueEntries, SegmentIndex, waiting};
use crate::limits::{INDEX_CACHE_BYTES_MAX, OPEN_PARTS_MAX, OPEN_SEGMENTS_MAX, OPEN_SIDECARS_MAX, SPARSE_BATCHES_MAX, SPARSE_BYTES_MAX};
use crate::part::Part;
use crate::readahead::ReadFile;
use crate::record::PartId;
use crate::segment::{Segment, segment_name};
use crate::sidecar::Sidecar;
use crate::storage::Storage;

pub use self::far::{Delayed, Following, SeenDelayed, WrittenPart};
pub use self::history::History;
pub use self::kept::StoredQueue;
use self::search::KeyFilters;

/// Reads what is stored. Clones read the same log; what was appended is seen once it is synced (or exposed by its writer).
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// What writer and readers share.
pub(crate) struct Shared {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) secret: FrameSecret,
    view: RwLock<View>,
    sidecars: Mutex<Recent<Position, Arc<Sidecar>>>,
    parts: Mutex<Recent<(Position, QueueId), Arc<QueueEntries>>>,
    files: Mutex<Recent<u64, Arc<ReadFile>>>,
    tail: Mutex<Tail>,
    /// The indexes of sealed segments for whose sidecars there was no room, by base, with the end of the segment.
    unwritten: Mutex<Unwritten>,
    sparse: Mutex<Recent<Position, Attributes>>,
    key_filters: Mutex<KeyFilters>,
    calendar: Mutex<Recent<PartId, Arc<Part>>>,
}

/// Indexes without a sidecar, by the base of their segment, with its end.
pub(crate) type Unwritten = BTreeMap<Position, (Position, Arc<SegmentIndex>)>;

/// What there is to be read.
pub(crate) struct View {
    /// Sealed segments by base. A reader holds its segment's `Arc` while it reads, and no file is written again meanwhile.
    pub(crate) sealed: Vec<Arc<Segment>>,
    pub(crate) active: Arc<Segment>,
    pub(crate) active_index: SegmentIndex,
    /// One past the last byte that may be read.
    pub(crate) visible: Position,
}

impl Shared {
    pub(crate) fn new(storage: Arc<dyn Storage>, secret: FrameSecret, view: View, tail_bytes: usize, unwritten: Unwritten) -> Self {
        Self {
            storage,
            secret,
            view: RwLock::new(view),
            sidecars: Mutex::new(Recent::new(OPEN_SIDECARS_MAX)),
            parts: Mutex::new(Recent::new(INDEX_CACHE_BYTES_MAX)),
            files: Mutex::new(Recent::new(OPEN_SEGMENTS_MAX)),
            tail: Mutex::new(Tail::new(tail_bytes)),
            unwritten: Mutex::new(unwritten),
            sparse: Mutex::new(Recent::new(SPARSE_BYTES_MAX)),
            key_filters: Mutex::default(),
            calendar: Mutex::new(Recent::new(OPEN_PARTS_MAX)),
        }
    }

    pub(crate) fn view(&self) -> RwLockReadGuard<'_, View> {
        self.view.read().expect("nothing panics while it holds the view")
    }

    pub(crate) fn view_mut(&self) -> RwLockWriteGuard<'_, View> {
        self.view.write().expect("nothing panics while it holds the view")
    }

    pub(crate) fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().expect("nothing panics while it holds the tail")
    }

    fn sparse(&self) -> MutexGuard<'_, Recent<Position, Attributes>> {
        self.sparse.lock().expect("nothing panics while it holds the cache")
    }

    fn sidecars(&self) -> MutexGuard<'_, Recent<Position, Arc<Sidecar>>> {
        self.sidecars.lock().expect("nothing panics while it holds the cache")
    }

    fn parts(&self) -> MutexGuard<'_, Recent<(Position, QueueId), Arc<QueueEntries>>> {
        self.parts.lock().expect("nothing panics while it holds the cache")
    }

    fn files(&self) -> MutexGuard<'_, Recent<u64, Arc<ReadFile>>> {
        self.files.lock().expect("nothing panics while it holds the cache")
    }

    fn key_filters(&self) -> MutexGuard<'_, KeyFilters> {
        self.key_filters.lock().expect("nothing panics while it holds the filters")
    }

    fn calendar(&self) -> MutexGuard<'_, Recent<PartId, Arc<Part>>> {
        self.calendar.lock().expect("nothing panics while it holds the cache")
    }

    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().expect("nothing panics while it holds the indexes")
    }

    /// Forgets what is kept of a segment that goes. Whether it has a sidecar.
    pub(crate) fn forget(&self, segment: &Segment) -> bool {
        let least = QueueId::default();
        self.parts()
            .remove_range((segment.base, least)..(Position(segment.base.0 + 1), least));
        self.sidecars().remove(&segment.base);
        self.files().remove(&segment.number);
        self.key_filters().forget(segment.base);
        self.unwritten().remove(&segment.base).is_none()
    }

    /// Keeps the index of a sealed segment in memory until there is room for its sidecar.
    pub(crate) fn keep_index(&self, segment: &Segment, index: SegmentIndex) {
        self.unwritten().insert(segment.base, (segment.end, Arc::new(index)));
    }

    /// Whether there are indexes without a sidecar.
    pub(crate) fn has_unwritten_indexes(&self) -> bool {
        !self.unwritten().is_empty()
    }

    /// The index of this segment, where it has no sidecar.
    fn index_kept(&self, segment: &Segment) -> Option<Arc<SegmentIndex>> {
        self.unwritten().get(&segment.base).map(|(_, index)| Arc::clone(index))
    }

    /// An index without a sidecar, with base and end of its segment.
    pub(crate) fn unwritten_index(&self) -> Option<(Position, Position, Arc<SegmentIndex>)> {
        let unwritten = self.unwritten();
        unwritten
            .first_key_value()
            .map(|(base, (end, index))| (*base, *end, Arc::clone(index)))
    }

    /// The sidecar of the segment with this base is durable.
    pub(crate) fn index_written(&self, base: Position) {
        self.unwritten().remove(&base);
    }

    /// The file of a segment, opened if it is not.
    fn file(&self, segment: &Segment) -> Result<Arc<ReadFile>, LogError> {
        if let Some(file) = self.files().get(&segment.number) {
            return Ok(file);
        }
        let name = segment_name(segment.number);
        let file = self.storage.open(&name).map_err(LogError::io("opening", &name))?;
        let file = Arc::new(ReadFile::new(file));
        self.files().put(segment.number, 1, Arc::clone(&file));
        // Retention that took it meanwhile may have looked for it here too early, and what is kept open keeps its disk space.
        if !self.holds(segment) {
            self.files().remove(&segment.number);
        }
        Ok(file)
    }

    /// Whether a segment is still part of the log.
    pub(crate) fn holds(&self, segment: &Segment) -> bool {
        let view = self.view();
        view.active.base == segment.base || view.sealed.iter().any(|other| other.base == segment.base)
    }
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// One past the last byte that may be read.
    pub fn visible_end(&self) -> Position {
        self.shared.view().visible
    }

    /// The batches that hold the messages of `queue` from `from` up to, not including, `to`, in offset order. The first and the last may
    /// reach beyond the range. What retention took is left out.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn batches(&self, queue: QueueId, from: QueueOffset, to: QueueOffset) -> Result<Vec<BatchPlace>, LogError> {
        let mut places = Vec::new();
        self.each_part(queue, from, to, |part| {
            places.extend_from_slice(part.between(from, to));
            places.last().is_none_or(|last| last.end() < to)
        })?;
        Ok(places)
    }

    /// The offsets of `queue` from `from` up to `to` whose message has a tag with one of these hashes; another tag may have the same hash.
    /// Reads nothing but the index.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn tagged(&self, queue: QueueId, from: QueueOffset, to: QueueOffset, hashes: &[u32]) -> Result<Vec<QueueOffset>, LogError> {
        let mut offsets = Vec::new();
        self.each_part(queue, from, to, |part| {
            part.tagged(from, to, hashes, &mut offsets);
            true
        })?;
        Ok(offsets)
    }

    /// The first offset of `queue` that was stored at `wall_ms` or later; one past the last stored when there is none, and 0 when
    /// nothing of the queue is stored at all. The batch decides: its messages were stored together.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn locate_time(&self, queue: QueueId, wall_ms: i64) -> Result<QueueOffset, LogError> {
        let mut found = None;
        let mut end = QueueOffset(0);
        let from = self.sealed_before(wall_ms);
        self.each_part_behind(from, queue, QueueOffset(0), QueueOffset(u64::MAX), |part| {
            found = part.stored_since(wall_ms);
            if let Some(last) = part.batches.last() {
                end = last.end();
            }
            found.is_none()
        })?;
        if found.is_none() && end == QueueOffset(0) {
            // All of it was stored earlier, if there is any.
            end = self.last_before(from, queue)?;
        }
        Ok(found.unwrap_or(end))
    }

    /// Where the message with this id is: the place its producer put it, not that of a copy.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn find(&self, id: MessageId) -> Result<Option<(QueueId, QueueOffset)>, LogError> {
        let (found, sealed) = {
            let view = self.shared.view();
            (view.active_index.find(id), view.sealed.clone())
        };
        if found.is_some() {
            return Ok(found);
        }
        for segment in sealed.iter().rev() {
            if !segment.producers.may_hold(id) {
                continue;
            }
            let found = self.shared.find(segment, id)?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Where a message is that has no place in a consumed queue yet, or had none when it was stored; it may have one, or be gone, by now.
    ///
    /// # Errors
    /// As for [`LogReader::find`].
    pub fn find_waiting(&self, id: MessageId) -> Result<Option<(QueueId, QueueOffset)>, LogError> {
        self.find(waiting(id))
    }

    /// Whether retention has left the segment in which this position is.
    pub fn keeps(&self, position: Position) -> bool {
        let view = self.shared.view();
        let sealed = view.sealed.iter().any(|segment| (segment.base..segment.end).contains(&position));
        sealed || position >= view.active.base
    }

    /// The attributes of a batch.
    ///
    /// # Errors
    /// The batch is gone or damaged, or the disk failed.
    pub fn attributes(&self, place: &BatchPlace) -> Result<Attributes, LogError> {
        self.parsed(place, self.read(place, 0..place.attribute_bytes)?)
    }

    /// The attributes of a batch of which few messages are wanted: kept for a while, since whoever judges those is followed by whoever
    /// delivers them.
    ///
    /// # Errors
    /// As for [`LogReader::attributes`].
    pub fn sparse_attributes(&self, place: &BatchPlace) -> Result<Attributes, LogError> {
        if let Some(attributes) = self.shared.sparse().get(&place.position) {
            return Ok(attributes);
        }
        if let Some(bytes) = self.in_tail(place) {
            // It is in memory already, and would keep its bodies there.
            return self.parsed(place, bytes);
        }
        let attributes = self.attributes(place)?;
        let weight = attributes.attribute_bytes().max(SPARSE_BYTES_MAX / SPARSE_BATCHES_MAX);
        self.shared.sparse().put(place.position, weight, attributes.clone());
        Ok(attributes)
    }

    /// The attributes of a batch, if somebody asked for them as sparse ones and they are still kept.
    pub fn sparse_in_memory(&self, place: &BatchPlace) -> Option<Attributes> {
        self.shared.sparse().get(&place.position)
    }

    /// These bytes of a batch are asked for next: the disk may begin with them.
    pub fn will_read(&self, place: &BatchPlace, range: Range<u32>) {
        // Of no bytes some systems would make all that follow.
        if range.is_empty() || self.shared.tail().get(place.position).is_some() {
            return;
        }
        let from = Position(place.position.0 + u64::from(range.start));
        let to = Position(place.position.0 + u64::from(range.end));
        // Whatever is wrong with it is met when it is read.
        if let Some(segment) = self.segment_of(from, to)
            && let Ok(file) = self.shared.file(&segment)
        {
            file.will_read(segment.offset(from), to.0 - from.0);
        }
    }

    /// What was read of a batch as its attributes.
    pub(crate) fn parsed(&self, place: &BatchPlace, bytes: Bytes) -> Result<Attributes, LogError> {
        Attributes::parse_stored(bytes).map_err(|error| LogError::BadBatch {
            position: place.position,
            reason: error.to_string(),
        })
    }

    /// A whole batch. Its bodies carry checksums of their own, which are not verified here.
    ///
    /// # Errors
    /// As for [`LogReader::attributes`].
    pub fn batch(&self, place: &BatchPlace) -> Result<Batch, LogError> {
        let bytes = self.read(place, 0..place.total_bytes)?;
        Batch::parse_stored(bytes).map_err(|error| LogError::BadBatch {
            position: place.position,
            reason: error.to_string(),
        })
    }

    /// Some bytes of a batch, counted from its first: what [`Attributes::bodies_range`] names, say.
    ///
    /// # Errors
    /// As for [`LogReader::attributes`]; a range that is not within the batch is `Gone`.
    pub fn read(&self, place: &BatchPlace, range: Range<u32>) -> Result<Bytes, LogError> {
        let gone = LogError::Gone { position: place.position };
        if range.start > range.end || range.end > place.total_bytes {
            return Err(gone);
        }
        let wanted = range.start as usize..range.end as usize;
        if let Some(batch) = self.shared.tail().get(place.position) {
            return if wanted.end <= batch.len() {
                Ok(batch.slice(wanted))
            } else {
                Err(gone)
            };
        }
        let from = Position(place.position.0 + u64::from(range.start));
        let to = Position(place.position.0 + u64::from(range.end));
        let Some(segment) = self.segment_of(from, to) else {
            return Err(gone);
        };
        self.read_segment(&segment, from, to)
    }

    /// Whether the batch with this message is in memory, so that reading it does not wait for the disk.
    pub fn is_in_memory(&self, queue: QueueId, offset: QueueOffset) -> bool {
        let position = {
            let view = self.shared.view();
            let part = view.active_index.queues.get(&queue);
            let batches = part.map_or(&[][..], |part| part.between(offset, QueueOffset(offset.0.saturating_add(1))));
            batches.first().filter(|batch| batch.first <= offset).map(|batch| batch.position)
        };
        position.is_some_and(|position| self.shared.tail().get(position).is_some())
    }

    /// The attributes of a batch, if they are in memory.
    pub(crate) fn in_tail(&self, place: &BatchPlace) -> Option<Bytes> {
        let batch = self.shared.tail().get(place.position)?;
        let attributes = place.attribute_bytes as usize;
        (attributes <= batch.len()).then(|| batch.slice(..attributes))
    }

    /// All bytes between two positions; `None` when they are not in one segment, or may not be read.
    pub(crate) fn read_across(&self, from: Position, to: Position) -> Result<Option<Bytes>, LogError> {
        match self.segment_of(from, to) {
            Some(segment) => self.read_segment(&segment, from, to).map(Some),
            None => Ok(None),
        }
    }

    fn read_segment(&self, segment: &Segment, from: Position, to: Position) -> Result<Bytes, LogError> {
        let mut bytes = vec![0; (to.0 - from.0) as usize];
        let file = match self.shared.file(segment) {
            // Retention took it since it was found.
            Err(LogError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound && !self.shared.holds(segment) => {
                return Err(LogError::Gone { position: from });
            }
            opened => opened?,
        };
        file.read_at(segment.offset(from), &mut bytes)
            .map_err(LogError::io("reading", &segment_name(segment.number)))?;
        Ok(bytes.into())
    }

    /// The segment that holds these bytes, if they may be read.
    fn segment_of(&self, from: Position, to: Position) -> Option<Arc<Segment>> {
        let view = self.shared.view();
        if from >= view.active.base {
            return (to <= view.visible).then(|| Arc::clone(&view.active));
        }
        let at = view.sealed.partition_point(|segment| segment.base <= from).checked_sub(1)?;
        view.sealed.get(at).filter(|segment| to <= segment.end).map(Arc::clone)
    }

    fn sealed(&self) -> Vec<Arc<Segment>> {
        self.shared.view().sealed.clone()
    }
}
