//! Reading a whole sidecar: for inspections, and to tell whether all of it is sound.

use sluice_protocol::wire::WireError;

use super::{Head, SidecarError, SidecarHeader, dealings};
use crate::index::{ProducerRun, SegmentIndex};
use crate::keys::{KeyFilter, KeyIndex};

/// Reads a whole sidecar.
///
/// # Errors
/// [`SidecarError`]; no length in it is believed before it was compared with what is there.
pub(crate) fn decode(bytes: &[u8]) -> Result<(SidecarHeader, SegmentIndex), SidecarError> {
    let header = SidecarHeader::decode(bytes)?;
    if header.file_bytes() != bytes.len() as u64 {
        return Err(WireError::Truncated.into());
    }
    let head = Head::decode(bytes)?;
    let piece = |at: u64, length: usize| &bytes[at as usize..at as usize + length];
    let mut directory = Vec::new();
    for nth in 0..header.queue_blocks() {
        let (at, length) = head.queue_block(nth);
        let block = head.entries(nth, piece(at, length))?;
        if block.first().map(|entry| entry.span.queue) != Some(head.queues[nth].0) {
            return Err(WireError::Impossible("fence").into());
        }
        directory.extend(block);
    }
    if !directory.is_sorted_by(|a, b| a.span.queue < b.span.queue) {
        return Err(WireError::Impossible("order").into());
    }
    let mut index = SegmentIndex {
        stored_wall_ms: header.stored(),
        ..SegmentIndex::default()
    };
    let mut part_at = 0;
    for entry in &directory {
        let end = header.parts_at() + part_at + entry.part_bytes();
        if u64::from(entry.part_at) != part_at || end > header.runs_at() {
            return Err(WireError::Impossible("part").into());
        }
        let part = entry.part(piece(header.parts_at() + part_at, entry.part_bytes() as usize))?;
        index.queues.insert(entry.span.queue, part);
        part_at += entry.part_bytes();
    }
    let mut last = None;
    for nth in 0..header.run_blocks() {
        let (at, length) = head.run_block(nth);
        let block = head.block_runs(nth, piece(at, length))?;
        if block.first().map(|run| run.key) != Some(head.runs[nth].0) {
            return Err(WireError::Impossible("fence").into());
        }
        for run in block {
            if last.is_some_and(|last| last >= run.key) {
                return Err(WireError::Impossible("order").into());
            }
            last = Some(run.key);
            let queue = directory.get(run.queue as usize).ok_or(WireError::Impossible("queue"))?.span.queue;
            let (rows, first) = (run.rows, run.first);
            index.runs.insert(run.key, ProducerRun { rows, queue, first });
        }
    }
    index.keys = keys(&head, bytes)?;
    index.dealings = dealings::decode(&head, bytes)?;
    let spans_fit = index.spans().eq(directory.iter().map(|entry| entry.span));
    if part_at != header.runs_at() - header.parts_at() || !spans_fit || index.producers() != head.producers {
        return Err(WireError::Impossible("sums").into());
    }
    Ok((header, index))
}

/// The keys, whose filter must be theirs.
fn keys(head: &Head, bytes: &[u8]) -> Result<KeyIndex, SidecarError> {
    let piece = |at: u64, length: usize| &bytes[at as usize..at as usize + length];
    let mut keys = Vec::with_capacity(head.header.keys as usize);
    for nth in 0..head.header.key_blocks() {
        let (at, length) = head.key_block(nth);
        let block = head.block_keys(nth, piece(at, length))?;
        if block.first() != Some(&head.keys[nth].0) {
            return Err(WireError::Impossible("fence").into());
        }
        keys.extend(block);
    }
    let filter = head.filter(piece(head.header.filter_at(), head.header.filter_bytes()))?;
    if !keys.is_sorted() || filter != KeyFilter::of(&keys) {
        return Err(WireError::Impossible("keys").into());
    }
    Ok(KeyIndex::of_sorted(keys))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_protocol::ids::{GroupId, Position, QueueId, QueueIndex, QueueOffset, Sequence, TopicId};

    use super::super::encode;
    use super::*;
    use crate::index::{BatchPlace, QueueEntries};
    use crate::keys::KeyEntry;
    use crate::record::{CursorId, OffsetRange};

    /// For a queue: its number, the offset of its first message, its batches each with the tags of its messages and a run's first sequence.
    type QueuePlan = (u16, u32, Vec<(Vec<u32>, u64)>);

    fn index(queues: Vec<QueuePlan>) -> SegmentIndex {
        let (mut index, mut frame) = (SegmentIndex::default(), 64);
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
                for (hash, row) in tags.iter().zip(0..) {
                    let offset = QueueOffset(next + row);
                    index.keys.push(KeyEntry {
                        hash: *hash,
                        queue,
                        offset,
                    });
                }
                let cursor = CursorId {
                    group: GroupId(first_sequence % 3),
                    queue,
                };
                let offsets = OffsetRange {
                    first: place.first,
                    end: place.end(),
                };
                index.dealings.note(Position(frame), cursor, offsets);
                frame += 40_000;
                next = place.end().0;
                index.stored_wall_ms = Some((-1, -1));
            }
            index.queues.insert(queue, entries);
        }
        // A queue that came twice keeps its later plan; runs of the first one may point beyond it, which is no matter here.
        index
    }

    fn plans(queues: std::ops::Range<usize>) -> impl Strategy<Value = Vec<QueuePlan>> {
        let batch = (prop::collection::vec(any::<u32>(), 1..5), any::<u32>().prop_map(u64::from));
        prop::collection::vec((any::<u16>(), any::<u32>(), prop::collection::vec(batch, 1..5)), queues)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_index_survives_and_every_changed_bit_is_seen(plans in plans(0..5), cut in any::<prop::sample::Index>()) {
            let index = index(plans);
            let bytes = encode(&index, Position(64), Position(4096));
            let (header, again) = decode(&bytes).unwrap();
            prop_assert_eq!((header.base, header.end), (Position(64), Position(4096)));
            prop_assert_eq!(&again, &index);
            prop_assert!(decode(&bytes[..cut.index(bytes.len())]).is_err());
            let mut flipped = bytes.to_vec();
            flipped[cut.index(bytes.len())] ^= 1;
            prop_assert!(decode(&flipped).is_err());
        }

        #[test]
        fn an_index_of_many_blocks_survives(plans in plans(100..200)) {
            let index = index(plans);
            let (_, again) = decode(&encode(&index, Position(64), Position(4096))).unwrap();
            prop_assert_eq!(&again, &index);
        }
    }
}
