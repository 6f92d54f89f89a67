//! Every bound of the log, with the relations between them checked when it is compiled.

/// The default size of a segment file.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// The smallest segment a log may be asked for; tests and simulations use it.
pub const SEGMENT_BYTES_MIN: u64 = 4 << 10;
/// The largest segment a log may be asked for.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// How far a new segment is filled with zeros ahead of what is written, by default.
pub const FILL_AHEAD_BYTES_DEFAULT: u64 = 4 << 20;
/// Frames up to this size are written into zeros: syncing them takes half the time there. Of larger ones the zeros themselves take longer.
pub const FILLED_FRAME_BYTES_MAX: u64 = 64 << 10;
/// Segments that are allocated ahead for when there is no room for another.
pub const RESERVE_SEGMENTS: usize = 2;
/// Segments that are kept to be written, the reserve included; a freed one beyond these is removed.
pub const SPARE_SEGMENTS_MAX: usize = RESERVE_SEGMENTS + 1;
/// The payload of one frame: lengths, records and nothing else.
pub const FRAME_PAYLOAD_BYTES_MAX: u32 = 1 << 30;
/// Records in one frame.
pub const FRAME_RECORDS_MAX: u32 = 1 << 20;
/// The default bound on the newest batches kept in memory.
pub const TAIL_CACHE_BYTES_DEFAULT: usize = 16 << 20;
/// Bound on what is kept in memory of sealed segments' indexes, queue by queue.
pub const INDEX_CACHE_BYTES_MAX: usize = 32 << 20;
/// Batches whose attributes are kept from when few of their messages were judged until these are delivered.
pub const SPARSE_BATCHES_MAX: usize = 2_048;
/// Bound on the attributes so kept.
pub const SPARSE_BYTES_MAX: usize = 32 << 20;
/// Segment files kept open for reading.
pub const OPEN_SEGMENTS_MAX: usize = 96;
/// Sidecars kept open, each with the fences of its blocks in memory.
pub const OPEN_SIDECARS_MAX: usize = 96;
/// Queues of a sealed segment whose offset ranges stay in memory; a segment with more is looked up in its sidecar.
pub const SUMMARY_QUEUES_MAX: usize = 32;
/// Producers of a sealed segment whose sequences stay in memory; an id is looked up in the sidecar of a segment with more.
pub const SUMMARY_PRODUCERS_MAX: usize = 32;
/// Bits of a sealed segment's filter for each of its keys.
pub const KEY_FILTER_BITS: usize = 10;
/// Bound on the filters kept in memory, about those of 54 million keys; in a segment whose filter is not kept a key is looked up by one small read.
pub const KEY_FILTERS_BYTES_MAX: usize = 64 << 20;
/// The newest keys of the active segment are kept unsorted until there are so many.
pub const KEYS_UNSORTED_MAX: usize = 1_024;
/// What a cursor deals with within so many bytes of the log is one entry of the index: about as much as is read to find one record in it.
pub const DEALING_BYTES: u64 = 64 << 10;
/// How much of the log is read for the history of one message.
pub const HISTORY_BYTES_MAX: u64 = 64 << 20;
/// How much is read ahead of who begins to read on; it doubles with each further time.
pub const READAHEAD_BYTES_FIRST: u64 = 64 << 10;
/// The most that is read ahead: what a disk of 1 GB/s brings in half a millisecond, which is as long as a sync waits behind it.
pub const READAHEAD_BYTES_MAX: u64 = 512 << 10;
/// Who reads on from so near behind the last read is taken to go on: other queues' batches lie between.
pub const READAHEAD_GAP_BYTES_MAX: u64 = 64 << 10;
/// Readers of one segment, each at its own place, that are told apart.
pub const READAHEAD_RUNS_MAX: usize = 16;
/// How much is read at once of neighbouring batches' attributes.
pub const AHEAD_BYTES_MAX: u64 = 128 << 10;
/// Bytes between the attributes of two batches (bodies, frame and record headers) that are rather read than left out: about what one more
/// read from the page cache costs.
pub const AHEAD_GAP_BYTES_MAX: u64 = 4 << 10;
/// Messages in one block of a part of the calendar, at most.
pub const PART_BLOCK_MESSAGES_MAX: usize = 256;
/// A block of a part ends when it holds so many bytes.
pub const PART_BLOCK_BYTES_MAX: usize = 1 << 20;
/// The directory of a part takes so much at most, which is over a hundred million messages.
pub const PART_DIRECTORY_BYTES_MAX: u64 = 32 << 20;
/// What is written out of the log into one part, about; what is left over goes into the next.
pub const PART_BYTES_MAX: u64 = 256 << 20;
/// Parts kept open, each with its directory in memory.
pub const OPEN_PARTS_MAX: usize = 64;
/// A checkpoint is synced each time that so much of it was written.
pub const CHECKPOINT_SYNC_BYTES: u64 = 1 << 20;
/// How much is read at once when a log is scanned.
pub const SCAN_BYTES: usize = 1 << 20;

const _: () = assert!(SEGMENT_BYTES_MIN <= SEGMENT_BYTES_DEFAULT && SEGMENT_BYTES_DEFAULT <= SEGMENT_BYTES_MAX);
const _: () = assert!(FILL_AHEAD_BYTES_DEFAULT <= SEGMENT_BYTES_DEFAULT);
const _: () = assert!(FILLED_FRAME_BYTES_MAX <= FILL_AHEAD_BYTES_DEFAULT);
const _: () = assert!(SCAN_BYTES.is_multiple_of(8));
const _: () = assert!(FRAME_PAYLOAD_BYTES_MAX < u32::MAX / 2);
