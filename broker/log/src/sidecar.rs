//! The file beside a sealed segment that holds its index: a header, a directory of queues, then columns.

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::checksum;
use sluice_protocol::ids::{Position, QueueId, QueueIndex, QueueOffset, Sequence, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::index::{BatchPlace, ProducerRun, QueueEntries, QueueSpan, RunKey, SegmentIndex};

/// The size of a sidecar's header.
pub(crate) const SIDECAR_HEADER_BYTES: usize = 56;

const MAGIC: [u8; 4] = *b"SLX1";
const VERSION: u16 = 1;
const QUEUE_BYTES: usize = 42;
const BATCH_BYTES: usize = 36;
const TAG_BYTES: usize = 4;
const RUN_BYTES: usize = 32;

/// Bytes that are not a sidecar this version can read; it is made again from its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SidecarError {
    /// It does not begin as a sidecar does.
    #[error("not a sidecar of a known version")]
    Header,
    /// Its bytes have changed.
    #[error("the checksum does not fit")]
    Checksum,
    /// Its parts do not fit together.
    #[error("malformed: {0}")]
    Malformed(#[from] WireError),
}

/// What the beginning of a sidecar says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SidecarHeader {
    pub(crate) base: Position,
    pub(crate) end: Position,
    queues: u32,
    batches: u32,
    rows: u32,
    runs: u32,
    columns_checksum: u32,
    directory_checksum: u32,
}

impl SidecarHeader {
    /// Reads the header.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SidecarError> {
        let mut from = Reader::new(bytes);
        if from.array::<4>()? != MAGIC || from.u16()? != VERSION || from.u16()? != 0 {
            return Err(SidecarError::Header);
        }
        Ok(Self {
            base: Position(from.u64()?),
            end: Position(from.u64()?),
            queues: from.u32()?,
            batches: from.u32()?,
            rows: from.u32()?,
            runs: from.u32()?,
            columns_checksum: from.u32()?,
            directory_checksum: {
                from.bytes(8)?;
                from.u32()?
            },
        })
    }

    /// The size of header and directory.
    pub(crate) fn directory_end(&self) -> usize {
        SIDECAR_HEADER_BYTES + self.queues as usize * QUEUE_BYTES
    }

    /// The size of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        let columns = u64::from(self.batches) * BATCH_BYTES as u64 + u64::from(self.rows) * TAG_BYTES as u64;
        self.directory_end() as u64 + columns + u64::from(self.runs) * RUN_BYTES as u64
    }

    /// Reads the directory out of the first `directory_end` bytes of the file.
    pub(crate) fn spans(&self, bytes: &[u8]) -> Result<Vec<QueueSpan>, SidecarError> {
        Ok(self.directory(bytes)?.into_iter().map(|(span, _, _)| span).collect())
    }

    /// Spans with their counts of batches and of rows.
    fn directory(&self, bytes: &[u8]) -> Result<Vec<(QueueSpan, u32, u32)>, SidecarError> {
        let directory = bytes.get(SIDECAR_HEADER_BYTES..self.directory_end()).ok_or(WireError::Truncated)?;
        if directory_checksum(&bytes[..SIDECAR_HEADER_BYTES - 4], directory) != self.directory_checksum {
            return Err(SidecarError::Checksum);
        }
        let mut from = Reader::new(directory);
        let entry = |from: &mut Reader<'_>| {
            let queue = QueueId {
                topic: TopicId(from.u64()?),
                index: QueueIndex(from.u16()?),
            };
            let (batches, rows) = (from.u32()?, from.u32()?);
            let span = QueueSpan {
                queue,
                first: QueueOffset(from.u64()?),
                end: QueueOffset(from.u64()?),
                bytes: from.u64()?,
            };
            Ok((span, batches, rows))
        };
        (0..self.queues).map(|_| entry(&mut from)).collect()
    }
}

fn directory_checksum(header: &[u8], directory: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(Crc32Iscsi);
    digest.update(header);
    digest.update(directory);
    digest.finalize() as u32
}

/// The index of the segment from `base` to `end` as its sidecar holds it.
pub(crate) fn encode(index: &SegmentIndex, base: Position, end: Position) -> Bytes {
    let mut columns = Writer::new();
    let (mut batches, mut rows) = (0, 0);
    for entries in index.queues.values() {
        batches += entries.batches.len();
        rows += entries.tags.len();
        for batch in &entries.batches {
            columns.u64(batch.first.0).u64(batch.position.0).i64(batch.stored_wall_ms);
            columns.u32(batch.count).u32(batch.attribute_bytes).u32(batch.total_bytes);
        }
    }
    for entries in index.queues.values() {
        entries.tags.iter().for_each(|tag| {
            columns.u32(*tag);
        });
    }
    let numbers: Vec<QueueId> = index.queues.keys().copied().collect();
    for ((producer, first_sequence), run) in &index.runs {
        let number = numbers.binary_search(&run.queue).expect("a run is of a queue that is in the index");
        columns
            .u64(*producer)
            .u64(first_sequence.0)
            .u64(run.first.0)
            .u32(run.rows)
            .count(number);
    }
    let columns = columns.finish();
    let mut directory = Writer::new();
    for (span, entries) in index.spans().zip(index.queues.values()) {
        directory
            .u64(span.queue.topic.0)
            .u16(span.queue.index.0)
            .count(entries.batches.len())
            .count(entries.tags.len());
        directory.u64(span.first.0).u64(span.end.0).u64(span.bytes);
    }
    let directory = directory.finish();
    let mut out = Writer::with_capacity(SIDECAR_HEADER_BYTES + directory.len() + columns.len());
    out.bytes(&MAGIC).u16(VERSION).u16(0).u64(base.0).u64(end.0);
    out.count(index.queues.len()).count(batches).count(rows).count(index.runs.len());
    out.u32(checksum(Crc32Iscsi, &columns) as u32).bytes(&[0; 8]);
    let header = out.take();
    let sum = directory_checksum(&header, &directory);
    out.bytes(&header).u32(sum).bytes(&directory).bytes(&columns);
    out.finish()
}

/// Reads a whole sidecar.
///
/// # Errors
/// [`SidecarError`]; no length in it is believed before it was compared with what is there.
pub(crate) fn decode(bytes: &[u8]) -> Result<(SidecarHeader, SegmentIndex), SidecarError> {
    let header = SidecarHeader::decode(bytes)?;
    if header.file_bytes() != bytes.len() as u64 {
        return Err(WireError::Truncated.into());
    }
    let directory = header.directory(bytes)?;
    let columns = &bytes[header.directory_end()..];
    if checksum(Crc32Iscsi, columns) as u32 != header.columns_checksum {
        return Err(SidecarError::Checksum);
    }
    let mut from = Reader::new(columns);
    let mut tags = Reader::new(columns.get(header.batches as usize * BATCH_BYTES..).ok_or(WireError::Truncated)?);
    let mut index = SegmentIndex::default();
    let mut batches_left = header.batches;
    for (span, batches, rows) in &directory {
        batches_left = batches_left.checked_sub(*batches).ok_or(WireError::Truncated)?;
        let mut entries = QueueEntries {
            bytes: span.bytes,
            ..QueueEntries::default()
        };
        let mut rows_counted = 0_u32;
        for _ in 0..*batches {
            let batch = take_batch(&mut from, span.queue)?;
            entries.rows_from.push(rows_counted);
            rows_counted = rows_counted.checked_add(batch.count).ok_or(WireError::Truncated)?;
            entries.batches.push(batch);
        }
        if rows_counted != *rows || *batches == 0 {
            return Err(WireError::Impossible("rows of a queue").into());
        }
        let column = tags.bytes(*rows as usize * TAG_BYTES)?;
        entries.tags = column
            .chunks_exact(TAG_BYTES)
            .map(|tag| u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]]))
            .collect();
        index.queues.insert(span.queue, entries);
    }
    let runs = (0..header.runs).map(|_| take_run(&mut tags, &directory));
    let runs = runs.collect::<Result<Vec<_>, _>>()?;
    if batches_left != 0 || index.queues.len() != directory.len() || !runs.is_sorted_by_key(|(key, _)| key) {
        return Err(WireError::Impossible("order").into());
    }
    tags.finish()?;
    index.runs = runs.into_iter().collect();
    Ok((header, index))
}

fn take_batch(from: &mut Reader<'_>, queue: QueueId) -> Result<BatchPlace, WireError> {
    let (first, position, stored_wall_ms) = (QueueOffset(from.u64()?), Position(from.u64()?), from.i64()?);
    let (count, attribute_bytes, total_bytes) = (from.u32()?, from.u32()?, from.u32()?);
    if first.0.checked_add(u64::from(count)).is_none() || attribute_bytes > total_bytes {
        return Err(WireError::Impossible("batch"));
    }
    Ok(BatchPlace {
        queue,
        first,
        count,
        position,
        attribute_bytes,
        total_bytes,
        stored_wall_ms,
    })
}

fn take_run(from: &mut Reader<'_>, directory: &[(QueueSpan, u32, u32)]) -> Result<(RunKey, ProducerRun), WireError> {
    let (key, first) = ((from.u64()?, Sequence(from.u64()?)), QueueOffset(from.u64()?));
    let rows = from.u32()?;
    let number = from.u32()? as usize;
    let queue = directory.get(number).ok_or(WireError::Impossible("queue"))?.0.queue;
    if first.0.checked_add(u64::from(rows)).is_none() {
        return Err(WireError::Impossible("run"));
    }
    Ok((key, ProducerRun { rows, queue, first }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// For a queue: its number, the offset of its first message, its batches each with the tags of its messages and a run's first sequence.
    type QueuePlan = (u16, u32, Vec<(Vec<u32>, u64)>);

    fn index(queues: Vec<QueuePlan>) -> SegmentIndex {
        let mut index = SegmentIndex::default();
        for (number, first, batches) in queues {
            let queue = QueueId {
                topic: TopicId(5),
                index: QueueIndex(number),
            };
            let mut entries = QueueEntries::default();
            let mut next = u64::from(first);
            for (tags, first_sequence) in batches {
                let place = BatchPlace {
                    queue,
                    first: QueueOffset(next),
                    count: tags.len() as u32,
                    position: Position(next * 8),
                    attribute_bytes: 40,
                    total_bytes: 90,
                    stored_wall_ms: -1,
                };
                entries.bytes += 90;
                entries.rows_from.push(entries.tags.len() as u32);
                entries.tags.extend_from_slice(&tags);
                entries.batches.push(place);
                let run = ProducerRun {
                    rows: tags.len() as u32,
                    queue,
                    first: place.first,
                };
                index.runs.insert((u64::from(number), Sequence(first_sequence)), run);
                next = place.end().0;
            }
            index.queues.insert(queue, entries);
        }
        index
    }

    fn plans() -> impl Strategy<Value = Vec<QueuePlan>> {
        let batch = (prop::collection::vec(any::<u32>(), 1..5), any::<u64>());
        prop::collection::vec((any::<u16>(), any::<u32>(), prop::collection::vec(batch, 1..5)), 0..5)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_index_survives_and_its_directory_is_read_alone(plans in plans(), cut in any::<prop::sample::Index>()) {
            let index = index(plans);
            let bytes = encode(&index, Position(64), Position(4096));
            let (header, again) = decode(&bytes).unwrap();
            prop_assert_eq!((header.base, header.end), (Position(64), Position(4096)));
            prop_assert_eq!(&again, &index);
            let spans = header.spans(&bytes[..header.directory_end()]).unwrap();
            prop_assert_eq!(spans, index.spans().collect::<Vec<_>>());
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
            let mut flipped = bytes.to_vec();
            flipped[cut.index(bytes.len())] ^= 1;
            // The eight zeros are free, and under the directory's checksum all the same.
            prop_assert!(decode(&flipped).is_err());
        }
    }
}
