//! A segment's index as its sidecar holds it.

use bytes::Bytes;
use sluice_protocol::ids::{Position, QueueId};
use sluice_protocol::wire::Writer;

use super::{
    BATCH_BYTES, BLOCK_KEYS, BLOCK_QUEUES, BLOCK_RUNS, DEALING_BYTES, KEY_BYTES, MAGIC, PRODUCERS_UNTOLD, QUEUE_BYTES, RUN_BYTES,
    SIDECAR_HEADER_BYTES, TAG_BYTES,
};
use super::{VERSION, checksum_of, dealings};
use crate::index::{QueueEntries, SegmentIndex};
use crate::keys::{KeyEntry, KeyFilter};

/// The index of the segment from `base` to `end` as its sidecar holds it.
pub(crate) fn encode(index: &SegmentIndex, base: Position, end: Position) -> Bytes {
    let (batches, rows) = index.queues.values().fold((0, 0), |(batches, rows), entries| {
        (batches + entries.batches.len(), rows + entries.tags.len())
    });
    let (directory, parts) = directory_and_parts(index, batches * BATCH_BYTES + rows * TAG_BYTES);
    let runs = runs(index);
    let sorted = index.keys.sorted();
    let keys = keys(&sorted);
    let filter = filter(&sorted);
    let (dealings, dealing_fences) = dealings::encode(&index.dealings);
    let mut rest = Writer::new();
    let producers = index.producers();
    for (producer, first, end) in producers.all().unwrap_or_default() {
        rest.u64(*producer).u64(first.0).u64(end.0);
    }
    for (queue, block) in index
        .queues
        .keys()
        .step_by(BLOCK_QUEUES)
        .zip(directory.chunks(BLOCK_QUEUES * QUEUE_BYTES))
    {
        rest.u64(queue.topic.0).u16(queue.index.0).u32(checksum_of(&[block]));
    }
    for ((producer, sequence), block) in index.runs.keys().step_by(BLOCK_RUNS).zip(runs.chunks(BLOCK_RUNS * RUN_BYTES)) {
        rest.u64(*producer).u64(sequence.0).u32(checksum_of(&[block]));
    }
    for (first, block) in sorted.iter().step_by(BLOCK_KEYS).zip(keys.chunks(BLOCK_KEYS * KEY_BYTES)) {
        put_key(&mut rest, first);
        rest.u32(checksum_of(&[block]));
    }
    rest.bytes(&dealing_fences);
    let rest = rest.finish();
    let told = producers.all().map_or(PRODUCERS_UNTOLD, |producers| producers.len() as u32);
    let pieces = [&directory, &parts, &runs, &keys, &filter, &dealings];
    let bytes = SIDECAR_HEADER_BYTES + rest.len() + pieces.iter().map(|piece| piece.len()).sum::<usize>();
    let mut out = Writer::with_capacity(bytes);
    out.bytes(&MAGIC).u16(VERSION).u16(0).u64(base.0).u64(end.0);
    let (first_ms, last_ms) = index.stored_wall_ms.unwrap_or_default();
    out.i64(first_ms).i64(last_ms);
    out.count(index.queues.len())
        .count(batches)
        .count(rows)
        .count(index.runs.len())
        .u32(told)
        .count(sorted.len())
        .count(dealings.len() / DEALING_BYTES);
    let header = out.take();
    let sum = checksum_of(&[&header, &rest]);
    out.bytes(&header).u32(sum).bytes(&rest);
    for piece in pieces {
        out.bytes(piece);
    }
    out.finish()
}

fn directory_and_parts(index: &SegmentIndex, part_bytes: usize) -> (Bytes, Bytes) {
    let (mut directory, mut parts) = (
        Writer::with_capacity(index.queues.len() * QUEUE_BYTES),
        Vec::with_capacity(part_bytes),
    );
    for (span, entries) in index.spans().zip(index.queues.values()) {
        let part = part(entries);
        directory.u64(span.queue.topic.0).u16(span.queue.index.0);
        directory.count(entries.batches.len()).count(entries.tags.len());
        directory.u64(span.first.0).u64(span.end.0).u64(span.bytes);
        directory.count(parts.len()).u32(checksum_of(&[&part]));
        parts.extend_from_slice(&part);
    }
    (directory.finish(), parts.into())
}

fn part(entries: &QueueEntries) -> Bytes {
    let mut part = Writer::with_capacity(entries.batches.len() * BATCH_BYTES + entries.tags.len() * TAG_BYTES);
    for batch in &entries.batches {
        part.u64(batch.first.0).u64(batch.position.0).i64(batch.stored_wall_ms);
        part.u32(batch.count).u32(batch.attribute_bytes).u32(batch.total_bytes);
    }
    for tag in &entries.tags {
        part.u32(*tag);
    }
    part.finish()
}

fn runs(index: &SegmentIndex) -> Bytes {
    let numbers: Vec<QueueId> = index.queues.keys().copied().collect();
    let mut runs = Writer::with_capacity(index.runs.len() * RUN_BYTES);
    for ((producer, first_sequence), run) in &index.runs {
        let number = numbers.binary_search(&run.queue).expect("a run is of a queue that is in the index");
        runs.u64(*producer)
            .u64(first_sequence.0)
            .u64(run.first.0)
            .u32(run.rows)
            .count(number);
    }
    runs.finish()
}

fn keys(sorted: &[KeyEntry]) -> Bytes {
    let mut keys = Writer::with_capacity(sorted.len() * KEY_BYTES);
    sorted.iter().for_each(|key| put_key(&mut keys, key));
    keys.finish()
}

fn put_key(to: &mut Writer, key: &KeyEntry) {
    to.u32(key.hash).u64(key.queue.topic.0).u16(key.queue.index.0).u64(key.offset.0);
}

/// The filter with its checksum behind it; nothing without keys.
fn filter(sorted: &[KeyEntry]) -> Bytes {
    if sorted.is_empty() {
        return Bytes::new();
    }
    let filter = KeyFilter::of(sorted);
    let mut out = Writer::new();
    out.bytes(filter.bytes()).u32(checksum_of(&[filter.bytes()]));
    out.finish()
}
