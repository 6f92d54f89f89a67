//! Putting leased messages together, a frame's worth at a time: whole stored batches as they are, parts of them merged.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use sluice_log::record::{LeaseRange, OffsetRange};
use sluice_log::{BatchPlace, LogError, LogReader};
use sluice_protocol::batch::{Attributes, BatchError, BatchMerger, BatchParts, MergeError};
use sluice_protocol::delivery::DeliveredRange;
use sluice_protocol::ids::{Attempt, QueueId, QueueOffset};

use crate::limits;

/// Messages of one queue that are still to be read.
#[derive(Debug)]
pub(crate) struct Reading {
    queue: QueueId,
    leases: VecDeque<LeaseRange>,
    /// How many messages were read or passed over.
    place: u64,
    /// A chunk that has this much ends there.
    bytes: usize,
    merger: BatchMerger,
}

/// Messages that travel in one frame.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// How many of the leased messages come before the first of these.
    pub(crate) place: u64,
    /// How many these are.
    pub(crate) messages: u64,
    /// Where they come from.
    pub(crate) ranges: Vec<DeliveredRange>,
    /// A flat batch, in pieces that follow one another.
    pub(crate) batch: Vec<Bytes>,
}

/// Why stored messages could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadFailure {
    /// The log says so.
    #[error(transparent)]
    Log(#[from] LogError),
    /// What is stored is not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Batches do not go together.
    #[error(transparent)]
    Merge(#[from] MergeError),
}

impl Chunk {
    /// The size of its batch.
    pub(crate) fn batch_bytes(&self) -> usize {
        self.batch.iter().map(Bytes::len).sum()
    }
}

impl Reading {
    /// Reads these leases in order, in chunks of the usual size.
    pub(crate) fn new(queue: QueueId, leases: Vec<LeaseRange>) -> Self {
        Self {
            queue,
            leases: leases.into(),
            place: 0,
            bytes: limits::DELIVERY_BODY_BYTES_MAX,
            merger: BatchMerger::new(),
        }
    }

    /// Reads a single message.
    pub(crate) fn one(queue: QueueId, offset: QueueOffset) -> Self {
        let offsets = OffsetRange {
            first: offset,
            end: QueueOffset(offset.0 + 1),
        };
        Self::new(
            queue,
            vec![LeaseRange {
                offsets,
                attempt: Attempt(1),
            }],
        )
    }

    /// The same reading in chunks that come near to `frame_bytes` and keep below it, but for a message that is larger alone.
    pub(crate) fn of_at_most(self, frame_bytes: usize) -> Self {
        Self {
            bytes: frame_bytes - frame_bytes / 8,
            ..self
        }
    }

    /// Whether what is next is in memory; what follows it in the log is then too, since memory holds the newest.
    pub(crate) fn is_in_memory(&self, reader: &LogReader) -> bool {
        let first = self.leases.iter().map(|lease| lease.offsets.first).min();
        first.is_some_and(|first| reader.is_in_memory(self.queue, first))
    }

    /// The next chunks, as many as are well read at once; none when all is read. Blocks while it reads.
    ///
    /// # Errors
    /// [`ReadFailure`].
    pub(crate) fn next_several(&mut self, reader: &LogReader) -> Result<Vec<Chunk>, ReadFailure> {
        let (mut chunks, mut bytes) = (Vec::new(), 0);
        while bytes < limits::DELIVERY_READ_BYTES_MAX {
            self.look_ahead(reader)?;
            let chunk = match self.next(reader) {
                // What comes before it goes out first; it is met again when the rest is read.
                Err(_) if !chunks.is_empty() => break,
                chunk => chunk?,
            };
            let Some(chunk) = chunk else { break };
            bytes += chunk.batch_bytes();
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    /// Where few messages of each batch are leased, has the disk begin with all that the next chunk is made of: one read waits for it while
    /// the others are under way.
    fn look_ahead(&self, reader: &LogReader) -> Result<(), ReadFailure> {
        if self.leases.len() < 2 {
            return Ok(());
        }
        let mut bytes = 0;
        for lease in self.leases.iter().take(limits::DELIVERY_MESSAGES_MAX) {
            if bytes >= self.bytes {
                break;
            }
            let OffsetRange { first, end } = lease.offsets;
            let place = reader.batches(self.queue, first, QueueOffset(first.0 + 1))?.into_iter().next();
            let Some(place) = place.filter(|place| place.first < first || end < place.end()) else {
                continue;
            };
            let rows = (first.0 - place.first.0) as u32..(end.min(place.end()).0 - place.first.0) as u32;
            // Whoever judged them left their attributes in memory; where not, these are to be read first.
            let attributes = reader.sparse_in_memory(&place);
            let bodies = attributes.and_then(|attributes| attributes.bodies_range(rows));
            let range = bodies.map_or(0..place.attribute_bytes, |bodies| bodies.start as u32..bodies.end as u32);
            bytes += range.len();
            reader.will_read(&place, range);
        }
        Ok(())
    }

    /// The next chunk; `None` when all is read. Messages that are no longer stored are passed over. Blocks while it reads.
    ///
    /// # Errors
    /// [`ReadFailure`].
    pub(crate) fn next(&mut self, reader: &LogReader) -> Result<Option<Chunk>, ReadFailure> {
        let mut chunk = Chunk {
            place: self.place,
            messages: 0,
            ranges: Vec::new(),
            batch: Vec::new(),
        };
        while let Some(&lease) = self.leases.front() {
            let places = reader.batches(self.queue, lease.offsets.first, lease.offsets.end)?;
            let Some(place) = places.first() else {
                self.pass_over(lease, lease.offsets.end);
                if chunk.messages > 0 {
                    break;
                }
                chunk.place = self.place;
                continue;
            };
            let from = place.first.max(lease.offsets.first);
            if from > lease.offsets.first {
                // A gap ends the chunk, since the numbers within a frame follow one another.
                if chunk.messages > 0 {
                    break;
                }
                self.pass_over(lease, from);
                chunk.place = self.place;
                continue;
            }
            match self.take(reader, place, lease, &mut chunk) {
                Ok(true) => {}
                Ok(false) => break,
                // Retention took it since its place was found: the next round finds it gone.
                Err(ReadFailure::Log(LogError::Gone { .. })) => {}
                Err(_) if chunk.messages > 0 => break,
                Err(error) => return Err(error),
            }
        }
        if chunk.messages == 0 {
            return Ok(None);
        }
        if chunk.batch.is_empty() {
            let BatchParts { attributes, bodies } = self.merger.take();
            chunk.batch = [attributes].into_iter().chain(bodies).collect();
        }
        Ok(Some(chunk))
    }

    /// Takes what the chunk has room for of one stored batch, and says whether more may follow in it.
    fn take(&mut self, reader: &LogReader, place: &BatchPlace, lease: LeaseRange, chunk: &mut Chunk) -> Result<bool, ReadFailure> {
        let end = place.end().min(lease.offsets.end);
        let whole = lease.offsets.first == place.first && end == place.end();
        if whole && chunk.messages == 0 && place.total_bytes as usize <= self.bytes {
            let batch = reader.batch(place)?;
            if place.count as usize >= limits::DELIVERY_MESSAGES_MAX / 4 {
                chunk.batch = vec![batch.bytes().clone()];
                self.note(place, lease, end, chunk);
                return Ok(false);
            }
            self.merger.add_batch(&batch, 0..place.count)?;
            self.note(place, lease, end, chunk);
            return Ok(true);
        }
        let attributes = reader.sparse_attributes(place)?;
        let first = (lease.offsets.first.0 - place.first.0) as u32;
        let rows = first..(end.0 - place.first.0) as u32;
        let rows = self.that_fit(&attributes, rows, chunk.messages);
        if rows.is_empty() {
            return Ok(false);
        }
        let range = attributes.bodies_range(rows.clone()).ok_or(MergeError::NoSuchRows)?;
        let bodies = reader.read(place, range.start as u32..range.end as u32)?;
        match self.merger.add(&attributes, rows.clone(), bodies) {
            // More property names than one batch may have: these messages begin the next chunk.
            Err(MergeError::Full) if chunk.messages > 0 => return Ok(false),
            added => added?,
        }
        self.note(place, lease, QueueOffset(place.first.0 + u64::from(rows.end)), chunk);
        Ok(self.merger.total_bytes() < self.bytes && (chunk.messages as usize) < limits::DELIVERY_MESSAGES_MAX)
    }

    /// As many of the rows as the chunk has room for; at least one when it is empty.
    fn that_fit(&self, attributes: &Attributes, rows: Range<u32>, messages: u64) -> Range<u32> {
        let mut bytes = self.merger.total_bytes();
        let mut end = rows.start;
        let room = (limits::DELIVERY_MESSAGES_MAX as u64).saturating_sub(messages);
        for row in rows.clone().map_while(|index| attributes.row(index)) {
            bytes += row.attribute_bytes() + row.body_len();
            let alone = messages == 0 && end == rows.start;
            if (bytes > self.bytes && !alone) || u64::from(end - rows.start) >= room {
                break;
            }
            end += 1;
        }
        rows.start..end
    }

    /// Notes that the messages of the lease up to `end` are in the chunk.
    fn note(&mut self, place: &BatchPlace, lease: LeaseRange, end: QueueOffset, chunk: &mut Chunk) {
        let count = end.0 - lease.offsets.first.0;
        chunk.ranges.push(DeliveredRange {
            first_offset: lease.offsets.first,
            count: u32::try_from(count).expect("a stored batch has at most u32::MAX messages"),
            attempt: lease.attempt,
            stored_wall_ms: place.stored_wall_ms,
        });
        chunk.messages += count;
        self.pass_over(lease, end);
    }

    /// Moves behind the messages of the first lease up to `end`.
    fn pass_over(&mut self, lease: LeaseRange, end: QueueOffset) {
        self.place += end.0 - lease.offsets.first.0;
        match self.leases.front_mut() {
            Some(front) if end < lease.offsets.end => front.offsets.first = end,
            Some(_) | None => {
                self.leases.pop_front();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_log::record::{Change, Record};
    use sluice_log::{FaultyStorage, Log, LogConfig, Start, Storage as _};
    use sluice_protocol::batch::{Batch, BatchBuilder, NewMessage};
    use sluice_protocol::ids::{ProducerId, Sequence};
    use sluice_protocol::units::Now;

    use super::*;

    /// Twenty messages with 128 property names each, none of them alike.
    fn many_names(first: u64) -> Bytes {
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(first));
        for message in first..first + 20 {
            let properties: Vec<_> = (0..128).map(|nth| (format!("{message} {nth}"), String::new())).collect();
            let message = NewMessage {
                tag: None,
                keys: &[],
                properties: &properties,
                born_ms: 0,
                ..NewMessage::default()
            };
            builder.push(&message, b"body").unwrap();
        }
        builder.finish()
    }

    /// A log that keeps nothing in memory, with these batches one after the other in a queue.
    fn stored(storage: &FaultyStorage, batches: impl IntoIterator<Item = Bytes>) -> LogReader {
        let start = Start {
            wall_ms: 1_000,
            random: [7; 24],
        };
        let config = LogConfig {
            tail_cache_bytes: 0,
            segment_bytes: 1 << 20,
            ..LogConfig::default()
        };
        let mut opened = Log::open(Arc::new(storage.clone()), config, start).unwrap();
        let mut first = QueueOffset(0);
        for batch in batches {
            let count = Batch::parse(batch.clone()).unwrap().count();
            let queue = QueueId::default();
            let change = Change::Appended { queue, first, batch };
            let at = Now {
                wall_ms: 1_000,
                mono_ms: 0,
            };
            opened
                .writer
                .append(opened.writer.end(), &[Record { at, change }.encode()])
                .unwrap();
            first.0 += u64::from(count);
        }
        opened.writer.sync().unwrap();
        opened.reader
    }

    /// The leases of these messages.
    fn reading(ranges: &[(u64, u64)]) -> Reading {
        let lease = |&(first, end): &(u64, u64)| LeaseRange {
            offsets: OffsetRange {
                first: QueueOffset(first),
                end: QueueOffset(end),
            },
            attempt: Attempt(1),
        };
        Reading::new(QueueId::default(), ranges.iter().map(lease).collect())
    }

    /// So many small messages.
    fn batch(first: u64, count: u64) -> Bytes {
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(first));
        for _ in 0..count {
            builder.push(&NewMessage::<&str>::default(), b"body").unwrap();
        }
        builder.finish()
    }

    #[test]
    fn what_comes_before_an_unreadable_batch_is_delivered_first() {
        // Batches that share a frame, and one that fills a frame by itself.
        for count in [2, limits::DELIVERY_MESSAGES_MAX as u64] {
            let storage = FaultyStorage::new(1);
            let reader = stored(&storage, [batch(0, count), batch(count, 2), batch(count + 2, 2)]);
            let first = QueueOffset(count);
            let place = reader.batches(QueueId::default(), first, QueueOffset(count + 1)).unwrap().remove(0);
            // Segments begin with a header of 64 bytes; the last byte before the bodies is under the checksum.
            let at = 64 + place.position.0 + u64::from(place.attribute_bytes) - 1;
            for entry in storage.list().unwrap() {
                storage.flip(&entry.name, at, 1);
            }
            let last = count + 4;
            for leases in [
                vec![(0, last)],
                vec![(0, count), (count, last)],
                vec![(1, count + 1), (count + 1, last)],
            ] {
                let (first, mut reading) = (leases[0].0, reading(&leases));
                let chunks = reading.next_several(&reader).unwrap();
                let delivered: u64 = chunks.iter().map(|chunk| chunk.messages).sum();
                assert_eq!(delivered, count - first, "{leases:?}");
                assert!(reading.next_several(&reader).is_err(), "then it is met: {leases:?}");
            }
        }
    }

    #[test]
    fn batches_that_have_too_many_names_together_are_delivered_apart() {
        let reader = stored(&FaultyStorage::new(1), [0, 20, 40].map(many_names));
        let (mut reading, mut delivered) = (reading(&[(0, 60)]), Vec::new());
        while let Some(chunk) = reading.next(&reader).unwrap() {
            let batch = Batch::parse(chunk.batch.concat().into()).unwrap();
            assert_eq!(u64::from(batch.count()), chunk.messages);
            delivered.push((chunk.place, chunk.messages));
        }
        assert_eq!(delivered, [(0, 20), (20, 20), (40, 20)]);
    }
}
