//! Reading the log by queue and offset, by time and by message id, from any thread while it is written.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use sluice_protocol::batch::{Attributes, Batch};
use sluice_protocol::ids::{MessageId, Position, QueueId, QueueOffset, TopicId};

use crate::cache::{Recent, Tail};
use crate::error::LogError;
use crate::frame::FrameSecret;
use crate::index::{BatchPlace, SegmentIndex};
use crate::limits::{INDEX_CACHE_BYTES_MAX, OPEN_FILES_MAX};
use crate::segment::{Segment, segment_name, sidecar_name};
use crate::sidecar;
use crate::storage::{Storage, StorageFile};

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
    indexes: Mutex<Recent<Arc<SegmentIndex>>>,
    files: Mutex<Recent<Arc<dyn StorageFile>>>,
    tail: Mutex<Tail>,
    /// The indexes of sealed segments for whose sidecars there was no room, by base, with the end of the segment.
    unwritten: Mutex<Unwritten>,
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
    /// The size of the stored batches of each topic.
    pub(crate) topics: BTreeMap<TopicId, u64>,
}

impl Shared {
    pub(crate) fn new(storage: Arc<dyn Storage>, secret: FrameSecret, view: View, tail_bytes: usize, unwritten: Unwritten) -> Self {
        Self {
            storage,
            secret,
            view: RwLock::new(view),
            indexes: Mutex::new(Recent::new(INDEX_CACHE_BYTES_MAX)),
            files: Mutex::new(Recent::new(OPEN_FILES_MAX)),
            tail: Mutex::new(Tail::new(tail_bytes)),
            unwritten: Mutex::new(unwritten),
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

    fn indexes(&self) -> MutexGuard<'_, Recent<Arc<SegmentIndex>>> {
        self.indexes.lock().expect("nothing panics while it holds the cache")
    }

    fn files(&self) -> MutexGuard<'_, Recent<Arc<dyn StorageFile>>> {
        self.files.lock().expect("nothing panics while it holds the cache")
    }

    fn unwritten(&self) -> MutexGuard<'_, Unwritten> {
        self.unwritten.lock().expect("nothing panics while it holds the indexes")
    }

    /// Forgets what is kept of a segment that goes. Whether it has a sidecar.
    pub(crate) fn forget(&self, segment: &Segment) -> bool {
        self.indexes().remove(segment.base.0);
        self.files().remove(segment.number);
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
    fn file(&self, number: u64) -> Result<Arc<dyn StorageFile>, LogError> {
        if let Some(file) = self.files().get(number) {
            return Ok(file);
        }
        let name = segment_name(number);
        let file = self.storage.open(&name).map_err(LogError::io("opening", &name))?;
        self.files().put(number, 1, Arc::clone(&file));
        Ok(file)
    }

    /// The index of a sealed segment, read from its sidecar if it is not in memory.
    pub(crate) fn index(&self, segment: &Segment) -> Result<Arc<SegmentIndex>, LogError> {
        if let Some(index) = self.indexes().get(segment.base.0) {
            return Ok(index);
        }
        if let Some((_, index)) = self.unwritten().get(&segment.base) {
            return Ok(Arc::clone(index));
        }
        let name = sidecar_name(segment.base);
        let file = match self.storage.open(&name) {
            // Retention took the segment since the caller looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Arc::default()),
            opened => opened.map_err(LogError::io("opening", &name))?,
        };
        let mut bytes = vec![0; file.len().map_err(LogError::io("reading", &name))? as usize];
        file.read_at(0, &mut bytes).map_err(LogError::io("reading", &name))?;
        let (_, index) = sidecar::decode(&bytes).map_err(|_| LogError::Damaged {
            file: name,
            position: segment.base,
            bytes: bytes.len() as u64,
            reason: "the sidecar changed while the broker ran; a restart makes it again from its segment",
        })?;
        let index = Arc::new(index);
        self.indexes().put(segment.base.0, index.memory_bytes(), Arc::clone(&index));
        Ok(index)
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
        self.each_index(queue, from, to, |index| {
            places.extend_from_slice(index.batches(queue, from, to));
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
        self.each_index(queue, from, to, |index| {
            index.tagged(queue, from, to, hashes, &mut offsets);
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
        self.each_index(queue, QueueOffset(0), QueueOffset(u64::MAX), |index| {
            found = index.stored_since(queue, wall_ms);
            if let Some(last) = index.batches(queue, QueueOffset(0), QueueOffset(u64::MAX)).last() {
                end = last.end();
            }
            found.is_none()
        })?;
        Ok(found.unwrap_or(end))
    }

    /// The first offset of `queue` such that the batches from it on take at most `keep_bytes`: where retention by size would begin.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn locate_size(&self, queue: QueueId, keep_bytes: u64) -> Result<QueueOffset, LogError> {
        let places = self.batches(queue, QueueOffset(0), QueueOffset(u64::MAX))?;
        let mut start = places.last().map_or(QueueOffset(0), BatchPlace::end);
        let mut kept = 0;
        for place in places.iter().rev() {
            kept += u64::from(place.total_bytes);
            if kept > keep_bytes {
                break;
            }
            start = place.first;
        }
        Ok(start)
    }

    /// The queues of which something is stored, each with the first and one past the last stored offset and the size of its batches.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn queues(&self) -> Result<BTreeMap<QueueId, StoredQueue>, LogError> {
        let mut queues = BTreeMap::new();
        for segment in self.sealed() {
            let spans = match &segment.summary {
                Some(spans) => spans.clone(),
                None => self.shared.index(&segment)?.spans().collect(),
            };
            spans.iter().for_each(|span| StoredQueue::add(&mut queues, span));
        }
        self.shared
            .view()
            .active_index
            .spans()
            .for_each(|span| StoredQueue::add(&mut queues, &span));
        Ok(queues)
    }

    /// The size of the stored batches of each topic, what is trimmed but not yet removed included.
    pub fn topic_bytes(&self) -> BTreeMap<TopicId, u64> {
        self.shared.view().topics.clone()
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
            if segment.producers.get().is_some_and(|producers| !producers.may_hold(id)) {
                continue;
            }
            let index = self.shared.index(segment)?;
            segment.producers.get_or_init(|| index.producers());
            if let Some(found) = index.find(id) {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The attributes of a batch.
    ///
    /// # Errors
    /// The batch is gone or damaged, or the disk failed.
    pub fn attributes(&self, place: &BatchPlace) -> Result<Attributes, LogError> {
        self.parsed(place, self.read(place, 0..place.attribute_bytes)?)
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
        let file = self.shared.file(segment.number)?;
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

    /// Calls `each` with the indexes that hold offsets of `queue` in the range, oldest first, until it answers false.
    fn each_index(
        &self,
        queue: QueueId,
        from: QueueOffset,
        to: QueueOffset,
        mut each: impl FnMut(&SegmentIndex) -> bool,
    ) -> Result<(), LogError> {
        let overlaps = |segment: &&Arc<Segment>| match segment.span(queue) {
            Ok(span) => span.is_some_and(|(first, end)| first < to && from < end),
            // Only its sidecar knows.
            Err(_) => true,
        };
        let (candidates, base) = {
            let view = self.shared.view();
            // Live traffic is in the active segment alone, and most calls are for live traffic.
            let active = view.active_index.queues.get(&queue).and_then(|entries| entries.batches.first());
            if active.is_some_and(|batch| batch.first <= from) {
                each(&view.active_index);
                return Ok(());
            }
            (
                view.sealed.iter().filter(overlaps).map(Arc::clone).collect::<Vec<_>>(),
                view.active.base,
            )
        };
        for segment in &candidates {
            if !each(&*self.shared.index(segment)?) {
                return Ok(());
            }
        }
        // The active segment may have been sealed meanwhile; then what it held is found among the sealed.
        let view = self.shared.view();
        let sealed_since: Vec<_> = view.sealed.iter().filter(|segment| segment.base >= base).map(Arc::clone).collect();
        if sealed_since.is_empty() {
            each(&view.active_index);
            return Ok(());
        }
        drop(view);
        for segment in sealed_since {
            if !each(&*self.shared.index(&segment)?) {
                return Ok(());
            }
        }
        each(&self.shared.view().active_index);
        Ok(())
    }
}

/// What is stored of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredQueue {
    /// The first stored offset.
    pub first: QueueOffset,
    /// One past the last.
    pub end: QueueOffset,
    /// The size of its batches.
    pub bytes: u64,
}

impl StoredQueue {
    /// Takes in a span of a later segment.
    pub(crate) fn add(queues: &mut BTreeMap<QueueId, Self>, span: &crate::index::QueueSpan) {
        let new = Self {
            first: span.first,
            end: span.end,
            bytes: 0,
        };
        let queue = queues.entry(span.queue).or_insert(new);
        queue.first = queue.first.min(span.first);
        queue.end = queue.end.max(span.end);
        queue.bytes += span.bytes;
    }
}
