//! The file beside a sealed segment that holds its index, laid out so that a few small reads, each verified, answer for one queue or one id.

mod dealings;
mod decode;
mod encode;
mod lookup;

use crc_fast::CrcAlgorithm::Crc32Iscsi;
use sluice_protocol::ids::{Position, QueueId, QueueIndex, QueueOffset, Sequence, TopicId};
use sluice_protocol::wire::{Reader, WireError};

use self::dealings::{DealingKey, take_dealing_key};
pub(crate) use self::decode::decode;
pub(crate) use self::encode::encode;
pub(crate) use self::lookup::{Sidecar, lost};
use crate::index::{BatchPlace, Producers, QueueEntries, QueueSpan, RunKey};
use crate::keys::{KeyEntry, KeyFilter};
use crate::limits::SUMMARY_PRODUCERS_MAX;

/// The size of a sidecar's header.
pub(crate) const SIDECAR_HEADER_BYTES: usize = 72;
/// Queues of the directory that share a checksum and are read together.
pub(crate) const BLOCK_QUEUES: usize = 64;
/// Runs that share a checksum and are read together.
pub(crate) const BLOCK_RUNS: usize = 128;
/// Keys that share a checksum and are read together.
pub(crate) const BLOCK_KEYS: usize = 128;
/// Entries of what groups dealt with that share a checksum and are read together.
const BLOCK_DEALINGS: usize = 64;

const MAGIC: [u8; 4] = *b"SLX1";
const VERSION: u16 = 4;
const CHECKSUM_AT: usize = 68;
const PRODUCER_BYTES: usize = 24;
const QUEUE_FENCE_BYTES: usize = 14;
const RUN_FENCE_BYTES: usize = 20;
const QUEUE_BYTES: usize = 50;
const BATCH_BYTES: usize = 36;
const TAG_BYTES: usize = 4;
const RUN_BYTES: usize = 32;
const KEY_FENCE_BYTES: usize = 26;
const KEY_BYTES: usize = 22;
const DEALING_FENCE_BYTES: usize = 30;
const DEALING_BYTES: usize = 50;
const CHECKSUM_BYTES: usize = 4;
/// Stands for the number of producers where there are too many to be told.
const PRODUCERS_UNTOLD: u32 = u32::MAX;

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
    /// When its first and its last batch were stored: wall clock, milliseconds. They never decrease along the log.
    stored_wall_ms: (i64, i64),
    pub(crate) queues: u32,
    batches: u32,
    rows: u32,
    runs: u32,
    producers: u32,
    pub(crate) keys: u32,
    dealings: u32,
    checksum: u32,
}

impl SidecarHeader {
    /// Reads the header.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SidecarError> {
        let mut from = Reader::new(bytes);
        if from.array::<4>()? != MAGIC || from.u16()? != VERSION || from.u16()? != 0 {
            return Err(SidecarError::Header);
        }
        let header = Self {
            base: Position(from.u64()?),
            end: Position(from.u64()?),
            stored_wall_ms: (from.i64()?, from.i64()?),
            queues: from.u32()?,
            batches: from.u32()?,
            rows: from.u32()?,
            runs: from.u32()?,
            producers: from.u32()?,
            keys: from.u32()?,
            dealings: from.u32()?,
            checksum: from.u32()?,
        };
        if header.producers != PRODUCERS_UNTOLD && header.producers as usize > SUMMARY_PRODUCERS_MAX {
            return Err(WireError::Impossible("producers").into());
        }
        Ok(header)
    }

    /// When the first and the last batch were stored, if there are any.
    pub(crate) fn stored(&self) -> Option<(i64, i64)> {
        (self.batches > 0).then_some(self.stored_wall_ms)
    }

    fn producers(&self) -> usize {
        if self.producers == PRODUCERS_UNTOLD {
            0
        } else {
            self.producers as usize
        }
    }

    fn queue_blocks(&self) -> usize {
        (self.queues as usize).div_ceil(BLOCK_QUEUES)
    }

    fn run_blocks(&self) -> usize {
        (self.runs as usize).div_ceil(BLOCK_RUNS)
    }

    fn key_blocks(&self) -> usize {
        (self.keys as usize).div_ceil(BLOCK_KEYS)
    }

    fn dealing_blocks(&self) -> usize {
        (self.dealings as usize).div_ceil(BLOCK_DEALINGS)
    }

    /// The size of all before the directory.
    pub(crate) fn head_bytes(&self) -> u64 {
        let fences = self.queue_blocks() * QUEUE_FENCE_BYTES
            + self.run_blocks() * RUN_FENCE_BYTES
            + self.key_blocks() * KEY_FENCE_BYTES
            + self.dealing_blocks() * DEALING_FENCE_BYTES;
        (SIDECAR_HEADER_BYTES + self.producers() * PRODUCER_BYTES + fences) as u64
    }

    /// Where the parts of the queues begin.
    fn parts_at(&self) -> u64 {
        self.head_bytes() + u64::from(self.queues) * QUEUE_BYTES as u64
    }

    /// Where the runs begin.
    fn runs_at(&self) -> u64 {
        self.parts_at() + u64::from(self.batches) * BATCH_BYTES as u64 + u64::from(self.rows) * TAG_BYTES as u64
    }

    /// Where the keys begin.
    fn keys_at(&self) -> u64 {
        self.runs_at() + u64::from(self.runs) * RUN_BYTES as u64
    }

    /// Where the filter of the keys begins; without keys there is none.
    fn filter_at(&self) -> u64 {
        self.keys_at() + u64::from(self.keys) * KEY_BYTES as u64
    }

    /// The size of the filter with its checksum.
    fn filter_bytes(&self) -> usize {
        match self.keys {
            0 => 0,
            keys => KeyFilter::bytes_of(keys as usize) + CHECKSUM_BYTES,
        }
    }

    /// Where the dealings begin.
    fn dealings_at(&self) -> u64 {
        self.filter_at() + self.filter_bytes() as u64
    }

    /// The size of the whole file.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.dealings_at() + u64::from(self.dealings) * DEALING_BYTES as u64
    }
}

/// Header, producers and fences: what is read before anything else, and enough to know where everything else is.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) header: SidecarHeader,
    pub(crate) producers: Producers,
    /// The first queue of each block of the directory, and the block's checksum.
    queues: Vec<(QueueId, u32)>,
    /// The first run of each block of runs, and the block's checksum.
    runs: Vec<(RunKey, u32)>,
    /// The first key of each block of keys, and the block's checksum.
    keys: Vec<(KeyEntry, u32)>,
    /// The first entry of each block of dealings, and the block's checksum.
    dealings: Vec<(DealingKey, u32)>,
}

impl Head {
    /// Reads the first `head_bytes` of the file.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SidecarError> {
        let header = SidecarHeader::decode(bytes)?;
        let head = usize::try_from(header.head_bytes()).ok().and_then(|end| bytes.get(..end));
        let head = head.ok_or(WireError::Truncated)?;
        if header.checksum != checksum_of(&[&head[..CHECKSUM_AT], &head[SIDECAR_HEADER_BYTES..]]) {
            return Err(SidecarError::Checksum);
        }
        let mut from = Reader::new(&head[SIDECAR_HEADER_BYTES..]);
        let producer = |from: &mut Reader<'_>| Ok((from.u64()?, Sequence(from.u64()?), Sequence(from.u64()?)));
        let producers: Vec<_> = (0..header.producers())
            .map(|_| producer(&mut from))
            .collect::<Result<_, WireError>>()?;
        let queue = |from: &mut Reader<'_>| Ok((take_queue(from)?, from.u32()?));
        let queues = (0..header.queue_blocks())
            .map(|_| queue(&mut from))
            .collect::<Result<_, WireError>>()?;
        let run = |from: &mut Reader<'_>| Ok(((from.u64()?, Sequence(from.u64()?)), from.u32()?));
        let runs = (0..header.run_blocks()).map(|_| run(&mut from)).collect::<Result<_, WireError>>()?;
        let key = |from: &mut Reader<'_>| Ok((take_key(from)?, from.u32()?));
        let keys = (0..header.key_blocks()).map(|_| key(&mut from)).collect::<Result<_, WireError>>()?;
        let dealing = |from: &mut Reader<'_>| Ok((take_dealing_key(from)?, from.u32()?));
        let dealings = (0..header.dealing_blocks())
            .map(|_| dealing(&mut from))
            .collect::<Result<_, WireError>>()?;
        from.finish()?;
        Ok(Self {
            producers: Producers::told((header.producers != PRODUCERS_UNTOLD).then_some(producers)),
            header,
            queues,
            runs,
            keys,
            dealings,
        })
    }

    /// Where block `nth` of the directory is in the file: its first byte and its size.
    fn queue_block(&self, nth: usize) -> (u64, usize) {
        let queues = (self.header.queues as usize - nth * BLOCK_QUEUES).min(BLOCK_QUEUES);
        (
            self.header.head_bytes() + (nth * BLOCK_QUEUES * QUEUE_BYTES) as u64,
            queues * QUEUE_BYTES,
        )
    }

    /// Where block `nth` of the runs is.
    fn run_block(&self, nth: usize) -> (u64, usize) {
        let runs = (self.header.runs as usize - nth * BLOCK_RUNS).min(BLOCK_RUNS);
        (self.header.runs_at() + (nth * BLOCK_RUNS * RUN_BYTES) as u64, runs * RUN_BYTES)
    }

    /// Where block `nth` of the keys is.
    fn key_block(&self, nth: usize) -> (u64, usize) {
        let keys = (self.header.keys as usize - nth * BLOCK_KEYS).min(BLOCK_KEYS);
        (self.header.keys_at() + (nth * BLOCK_KEYS * KEY_BYTES) as u64, keys * KEY_BYTES)
    }

    /// The keys of block `nth`.
    fn block_keys(&self, nth: usize, bytes: &[u8]) -> Result<Vec<KeyEntry>, SidecarError> {
        if self.keys[nth].1 != checksum_of(&[bytes]) {
            return Err(SidecarError::Checksum);
        }
        let mut from = Reader::new(bytes);
        let keys = (0..bytes.len() / KEY_BYTES).map(|_| take_key(&mut from));
        Ok(keys.collect::<Result<_, WireError>>()?)
    }

    /// The filter of the keys, with its checksum behind it.
    fn filter(&self, bytes: &[u8]) -> Result<KeyFilter, SidecarError> {
        let (filter, sum) = bytes.split_at(bytes.len().saturating_sub(CHECKSUM_BYTES));
        match sum == checksum_of(&[filter]).to_le_bytes() || bytes.is_empty() {
            true => Ok(KeyFilter::read(filter.to_vec())),
            false => Err(SidecarError::Checksum),
        }
    }

    /// The queues of block `nth` of the directory.
    fn entries(&self, nth: usize, bytes: &[u8]) -> Result<Vec<DirectoryEntry>, SidecarError> {
        if self.queues[nth].1 != checksum_of(&[bytes]) {
            return Err(SidecarError::Checksum);
        }
        let mut from = Reader::new(bytes);
        let entries = (0..bytes.len() / QUEUE_BYTES).map(|_| DirectoryEntry::take(&mut from));
        Ok(entries.collect::<Result<_, WireError>>()?)
    }

    /// The runs of block `nth`, each with its key, its rows, its first offset, and the number of its queue in the directory.
    fn block_runs(&self, nth: usize, bytes: &[u8]) -> Result<Vec<FileRun>, SidecarError> {
        if self.runs[nth].1 != checksum_of(&[bytes]) {
            return Err(SidecarError::Checksum);
        }
        let mut from = Reader::new(bytes);
        let runs = (0..bytes.len() / RUN_BYTES).map(|_| FileRun::take(&mut from));
        Ok(runs.collect::<Result<_, WireError>>()?)
    }
}

/// What the directory says of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DirectoryEntry {
    pub(crate) span: QueueSpan,
    batches: u32,
    rows: u32,
    /// Where its part begins, counted from the first part.
    part_at: u32,
    part_checksum: u32,
}

impl DirectoryEntry {
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let queue = take_queue(from)?;
        let (batches, rows) = (from.u32()?, from.u32()?);
        let span = QueueSpan {
            queue,
            first: QueueOffset(from.u64()?),
            end: QueueOffset(from.u64()?),
            bytes: from.u64()?,
        };
        Ok(Self {
            span,
            batches,
            rows,
            part_at: from.u32()?,
            part_checksum: from.u32()?,
        })
    }

    fn part_bytes(&self) -> u64 {
        u64::from(self.batches) * BATCH_BYTES as u64 + u64::from(self.rows) * TAG_BYTES as u64
    }

    /// Reads the queue's part.
    fn part(&self, bytes: &[u8]) -> Result<QueueEntries, SidecarError> {
        if checksum_of(&[bytes]) != self.part_checksum {
            return Err(SidecarError::Checksum);
        }
        let mut from = Reader::new(bytes);
        let mut entries = QueueEntries {
            bytes: self.span.bytes,
            batches: Vec::with_capacity(self.batches as usize),
            rows_from: Vec::with_capacity(self.batches as usize),
            tags: Vec::new(),
        };
        let mut rows = 0_u32;
        for _ in 0..self.batches {
            let batch = take_batch(&mut from, self.span.queue)?;
            entries.rows_from.push(rows);
            rows = rows.checked_add(batch.count).ok_or(WireError::Truncated)?;
            entries.batches.push(batch);
        }
        if rows != self.rows || self.batches == 0 {
            return Err(WireError::Impossible("rows of a queue").into());
        }
        let column = from.bytes(rows as usize * TAG_BYTES)?;
        let tags = column.chunks_exact(TAG_BYTES);
        entries.tags = tags.map(|tag| u32::from_le_bytes([tag[0], tag[1], tag[2], tag[3]])).collect();
        from.finish()?;
        Ok(entries)
    }
}

/// A producer's run as the file holds it.
#[derive(Clone, Copy, Debug)]
struct FileRun {
    key: RunKey,
    first: QueueOffset,
    rows: u32,
    /// The place of its queue in the directory.
    queue: u32,
}

impl FileRun {
    fn take(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let run = Self {
            key: (from.u64()?, Sequence(from.u64()?)),
            first: QueueOffset(from.u64()?),
            rows: from.u32()?,
            queue: from.u32()?,
        };
        match run.first.0.checked_add(u64::from(run.rows)) {
            Some(_) => Ok(run),
            None => Err(WireError::Impossible("run")),
        }
    }
}

fn take_queue(from: &mut Reader<'_>) -> Result<QueueId, WireError> {
    Ok(QueueId {
        topic: TopicId(from.u64()?),
        index: QueueIndex(from.u16()?),
    })
}

fn take_key(from: &mut Reader<'_>) -> Result<KeyEntry, WireError> {
    Ok(KeyEntry {
        hash: from.u32()?,
        queue: take_queue(from)?,
        offset: QueueOffset(from.u64()?),
    })
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

fn checksum_of(pieces: &[&[u8]]) -> u32 {
    let mut digest = crc_fast::Digest::new(Crc32Iscsi);
    pieces.iter().for_each(|piece| digest.update(piece));
    digest.finalize() as u32
}
