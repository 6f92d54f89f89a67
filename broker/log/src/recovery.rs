//! Opening a log: finding its end, refusing one that lost what was confirmed, cutting a torn tail, and beginning the next epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::ids::{Epoch, Position, TopicId};
use sluice_protocol::units::Now;

use crate::checkpoint::{self, Checkpoint};
use crate::error::LogError;
use crate::format::{self, Format, Secrets};
use crate::index::SegmentIndex;
use crate::limits::SPARE_SEGMENTS_MAX;
use crate::reader::{LogReader, Shared, View};
use crate::record::{Change, Record, peek};
use crate::replay::Replay;
use crate::scan::{Scan, frame_records, indexed};
use crate::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, checkpoint_name, file_offset, number_in, segment_name, sidecar_name};
use crate::sidecar::{self, SidecarHeader};
use crate::storage::Storage;
use crate::writer::{Active, LogConfig, LogWriter, summary, write_sidecar};

/// A log on a storage.
pub struct Log;

/// What only the caller knows at a start.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The wall clock, in milliseconds since 1970.
    pub wall_ms: i64,
    /// Random bytes out of which a new log makes its secrets; an existing log keeps its own.
    pub random: [u8; 24],
}

/// A log that is open.
pub struct Opened {
    /// For the disk thread.
    pub writer: LogWriter,
    /// For everyone.
    pub reader: LogReader,
    /// For the core.
    pub recovery: Recovery,
}

/// What a core is rebuilt from: first the entries, then the records.
pub struct Recovery {
    /// This start's epoch.
    pub epoch: Epoch,
    /// The log's secret for receipt handles; the same at every start.
    pub secret: [u8; 16],
    /// Where the first frame of this start goes.
    pub next_position: Position,
    /// The stamp of this start's `Opened` record: time goes on from here.
    pub opened_at: Now,
    /// The entries of the newest checkpoint.
    pub checkpoint_entries: Vec<Bytes>,
    /// The records since, this start's `Opened` record last.
    pub replay: Replay,
}

/// The names of a directory, by what they are.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) segments: Vec<u64>,
    pub(crate) sidecars: Vec<u64>,
    pub(crate) checkpoints: Vec<u64>,
}

impl Listing {
    pub(crate) fn read(storage: &dyn Storage) -> Result<Self, LogError> {
        let mut listing = Self::default();
        for entry in storage.list().map_err(LogError::io("listing", &storage.describe()))? {
            listing.segments.extend(number_in(&entry.name, "segment-"));
            listing.sidecars.extend(number_in(&entry.name, "index-"));
            listing.checkpoints.extend(number_in(&entry.name, "checkpoint-"));
        }
        listing.segments.sort_unstable();
        listing.sidecars.sort_unstable();
        listing.checkpoints.sort_unstable();
        Ok(listing)
    }
}

/// A segment file as it was found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) number: u64,
    pub(crate) bytes: u64,
    pub(crate) header: Option<SegmentHeader>,
}

/// The headers of all segment files.
pub(crate) fn find_segments(storage: &dyn Storage, secrets: &Secrets, numbers: &[u64]) -> Result<Vec<Found>, LogError> {
    let found = numbers.iter().map(|number| {
        let mut scan = Scan::open(storage, secrets.frame, *number)?;
        Ok(Found {
            number: *number,
            bytes: scan.bytes,
            header: scan.header()?,
        })
    });
    found.collect()
}

/// The newest checkpoint that is whole, and the numbers of those that are not.
pub(crate) fn find_checkpoint(
    storage: &dyn Storage,
    secrets: &Secrets,
    numbers: &[u64],
) -> Result<(Option<Checkpoint>, Vec<u64>), LogError> {
    let mut broken = Vec::new();
    for number in numbers.iter().rev() {
        match checkpoint::read(storage, secrets.frame, *number)? {
            Ok(checkpoint) => return Ok((Some(checkpoint), broken)),
            Err(_) => broken.push(*number),
        }
    }
    Ok((None, broken))
}

/// What a walk along the frames has come to.
struct Walk {
    /// The segments walked, the active one last, each with its base and its size.
    chain: Vec<Segment>,
    /// The index of the last of them.
    index: SegmentIndex,
    topics: BTreeMap<TopicId, u64>,
    end: Position,
    floor: Epoch,
    stamp: Option<Now>,
    /// Where replay begins: the segment's place in the chain and the frame's position.
    replay: Option<(usize, Position)>,
}

impl Log {
    /// Opens the log on `storage`, which is new or was left by a stop or a crash, and begins its next epoch.
    ///
    /// # Errors
    /// Another process has it; it has another format; confirmed bytes are damaged; the disk failed. Nothing is changed that was confirmed.
    pub fn open(storage: Arc<dyn Storage>, config: LogConfig, start: Start) -> Result<Opened, LogError> {
        config.check()?;
        let lock = storage.lock().map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => LogError::InUse {
                directory: storage.describe(),
            },
            _ => LogError::io("locking", &storage.describe())(error),
        })?;
        let listing = Listing::read(&*storage)?;
        let secrets = match format::read(&*storage, !listing.segments.is_empty())? {
            Format::Known(secrets) => secrets,
            Format::New => {
                let secrets = Secrets::from_random(start.random);
                format::write(&*storage, &secrets)?;
                secrets
            }
        };
        let (newest, broken) = find_checkpoint(&*storage, &secrets, &listing.checkpoints)?;
        let found = find_segments(&*storage, &secrets, &listing.segments)?;
        let walk = walk(&*storage, &secrets, &found, newest.as_ref(), &listing)?;
        refuse_damage(&*storage, &secrets, &found, newest.as_ref(), &broken, &walk)?;
        let sealed = older_segments(&*storage, &secrets, &found, &walk, &listing)?;
        for segment in &walk.chain {
            let file = Scan::open(&*storage, secrets.frame, segment.number)?.file;
            file.sync_data().map_err(LogError::io("syncing", &segment_name(segment.number)))?;
        }
        let spares = clear_the_rest(&*storage, &config, &found, &walk, &sealed)?;
        let kept = newest.as_ref().map(|checkpoint| checkpoint.facts.number);
        for number in listing.checkpoints.iter().filter(|number| Some(**number) != kept) {
            let name = checkpoint_name(*number);
            storage.remove(&name).map_err(LogError::io("removing", &name))?;
        }
        begin_epoch(storage, config, start, lock, secrets, newest, walk, sealed, spares, &listing)
    }
}

/// Follows the frames from the segment where replay begins to the end of the log. Sidecars of segments that it passes are made if missing.
fn walk(
    storage: &dyn Storage,
    secrets: &Secrets,
    found: &[Found],
    newest: Option<&Checkpoint>,
    listing: &Listing,
) -> Result<Walk, LogError> {
    let facts = newest.map(|checkpoint| checkpoint.facts);
    let replay_from = facts.map_or(Position(0), |facts| facts.replay_from);
    let live = |base: Position| {
        found
            .iter()
            .filter_map(move |file| Some((file, file.header?)).filter(|(_, header)| header.base == base))
    };
    let first = found
        .iter()
        .filter_map(|file| Some(file.header?.base))
        .filter(|base| *base <= replay_from)
        .max();
    let mut walk = Walk {
        chain: Vec::new(),
        index: SegmentIndex::default(),
        topics: BTreeMap::new(),
        end: first.unwrap_or(replay_from),
        floor: facts.map_or(Epoch(0), |facts| facts.epoch_floor),
        stamp: facts.map(|facts| facts.stamp),
        replay: None,
    };
    let mut next = first.and_then(|base| live(base).next());
    // The floor of the checkpoint holds from its place on, that of a segment from its beginning.
    let mut floor = Epoch(0);
    while let Some((file, header)) = next {
        if let Some(before) = walk.chain.last_mut() {
            before.end = walk.end;
            before.summary = summary(&walk.index);
            let index = std::mem::take(&mut walk.index);
            keep_sidecar(storage, listing, before.base, before.end, &index)?;
        }
        walk.chain.push(Segment {
            number: file.number,
            base: header.base,
            end: header.base,
            bytes: file.bytes,
            summary: None,
        });
        floor = floor.max(header.epoch);
        let mut scan = Scan::open(storage, secrets.frame, file.number)?;
        loop {
            if walk.end >= replay_from {
                floor = floor.max(walk.floor);
            }
            let Some((frame, payload)) = scan.next(file_offset(header.base, walk.end), walk.end, floor)? else {
                break;
            };
            if walk.replay.is_none() && frame.end() > replay_from {
                walk.replay = Some((walk.chain.len() - 1, frame.position));
            }
            for (position, record) in frame_records(&frame, &payload)? {
                walk.take(position, &record)?;
            }
            floor = frame.epoch;
            walk.end = frame.end();
        }
        next = live(walk.end).find(|(next, _)| next.number != file.number);
    }
    walk.floor = floor.max(walk.floor);
    if let Some(last) = walk.chain.last_mut() {
        last.end = walk.end;
    }
    Ok(walk)
}

impl Walk {
    fn take(&mut self, position: Position, record: &Bytes) -> Result<(), LogError> {
        let (_, stamp) = peek(record).map_err(|source| LogError::Unreadable { position, source })?;
        self.stamp = Some(stamp);
        if let Some(found) = indexed(position, record)? {
            *self.topics.entry(found.place.queue.topic).or_default() += u64::from(found.place.total_bytes);
            self.index.add(found.place, &found.attributes, found.origin);
        }
        Ok(())
    }
}

/// Writes the sidecar of a sealed segment unless a good one is there.
fn keep_sidecar(storage: &dyn Storage, listing: &Listing, base: Position, end: Position, index: &SegmentIndex) -> Result<(), LogError> {
    let there = listing.sidecars.binary_search(&base.0).is_ok();
    if there && read_summary(storage, base)?.is_some_and(|(header, _)| header.end == end) {
        return Ok(());
    }
    write_sidecar(storage, base, &sidecar::encode(index, base, end))
}

/// Header and spans of a sidecar; `None` when it cannot be used.
fn read_summary(storage: &dyn Storage, base: Position) -> Result<Option<(SidecarHeader, Vec<crate::index::QueueSpan>)>, LogError> {
    let name = sidecar_name(base);
    let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
    let bytes = file.len().map_err(LogError::io("reading", &name))?;
    let mut beginning = vec![0; (sidecar::SIDECAR_HEADER_BYTES as u64).min(bytes) as usize];
    file.read_at(0, &mut beginning).map_err(LogError::io("reading", &name))?;
    let Ok(header) = SidecarHeader::decode(&beginning) else {
        return Ok(None);
    };
    if header.file_bytes() != bytes || header.base != base {
        return Ok(None);
    }
    let mut directory = vec![0; header.directory_end()];
    file.read_at(0, &mut directory).map_err(LogError::io("reading", &name))?;
    Ok(header.spans(&directory).ok().map(|spans| (header, spans)))
}

/// Refuses a log in which something that was confirmed cannot be read any more.
fn refuse_damage(
    storage: &dyn Storage,
    secrets: &Secrets,
    found: &[Found],
    newest: Option<&Checkpoint>,
    broken: &[u64],
    walk: &Walk,
) -> Result<(), LogError> {
    let bad = walk.end;
    let active = walk.chain.last();
    let bad_file = active.map_or_else(
        || format!("the segment at position {}", bad.0),
        |segment| segment_name(segment.number),
    );
    let damaged = |bytes, reason| LogError::Damaged {
        file: bad_file.clone(),
        position: bad,
        bytes,
        reason,
    };
    for file in found {
        let own = active.is_some_and(|segment| segment.number == file.number);
        // A frame of a segment that begins before the bad place and is sealed proves nothing about it.
        if !own && file.header.is_some_and(|header| header.base < bad) {
            continue;
        }
        let from = if own {
            file_offset(active.map_or(bad, |segment| segment.base), bad)
        } else {
            SEGMENT_HEADER_BYTES
        };
        let mut scan = Scan::open(storage, secrets.frame, file.number)?;
        if let Some(proof) = scan.proof_of_damage(from, bad, walk.floor)? {
            let bytes = proof.position.0.saturating_sub(bad.0).min(proof.synced.0 - bad.0);
            return Err(damaged(bytes, "a later frame says that the log was synced beyond it"));
        }
    }
    if let Some(checkpoint) = newest
        && checkpoint.covers > bad
    {
        return Err(damaged(
            checkpoint.covers.0 - bad.0,
            "the checkpoint says that the log was synced beyond it",
        ));
    }
    let starts_late = walk.chain.first().is_none_or(|segment| segment.base > Position(0)) && found.iter().any(|file| file.header.is_some());
    if newest.is_none() && (starts_late || (!broken.is_empty() && walk.chain.is_empty())) {
        let file = broken
            .first()
            .map_or_else(|| "the checkpoint".to_string(), |number| checkpoint_name(*number));
        return Err(LogError::Damaged {
            file,
            position: Position(0),
            bytes: 0,
            reason: "without it the log does not begin at 0",
        });
    }
    Ok(())
}

/// The sealed segments before those that were walked, with their summaries; sidecars that cannot be used are made again.
fn older_segments(
    storage: &dyn Storage,
    secrets: &Secrets,
    found: &[Found],
    walk: &Walk,
    listing: &Listing,
) -> Result<Vec<(Segment, Vec<crate::index::QueueSpan>)>, LogError> {
    let first = walk.chain.first().map_or(Position(0), |segment| segment.base);
    let mut older = Vec::new();
    for file in found {
        let Some(header) = file.header.filter(|header| header.base < first) else {
            continue;
        };
        let there = listing.sidecars.binary_search(&header.base.0).is_ok();
        let known = if there { read_summary(storage, header.base)? } else { None };
        let (end, spans) = match known {
            Some((sidecar, spans)) => (sidecar.end, spans),
            None => index_again(storage, secrets, file.number, &header)?,
        };
        let summary = (spans.len() <= crate::limits::SUMMARY_QUEUES_MAX).then(|| spans.clone());
        older.push((
            Segment {
                number: file.number,
                base: header.base,
                end,
                bytes: file.bytes,
                summary,
            },
            spans,
        ));
    }
    older.sort_by_key(|(segment, _)| segment.base);
    let live = |base: &u64| found.iter().any(|file| file.header.is_some_and(|header| header.base.0 == *base));
    match listing.sidecars.iter().find(|base| !live(base)) {
        None => Ok(older),
        Some(base) => Err(LogError::Damaged {
            file: format!("the segment at position {base}"),
            position: Position(*base),
            bytes: 0,
            reason: "its sidecar is there and it is not, or its header cannot be read",
        }),
    }
}

/// Makes the sidecar of a sealed segment from its frames.
fn index_again(
    storage: &dyn Storage,
    secrets: &Secrets,
    number: u64,
    header: &SegmentHeader,
) -> Result<(Position, Vec<crate::index::QueueSpan>), LogError> {
    let mut scan = Scan::open(storage, secrets.frame, number)?;
    let (mut index, mut end, mut floor) = (SegmentIndex::default(), header.base, header.epoch);
    while let Some((frame, payload)) = scan.next(file_offset(header.base, end), end, floor)? {
        for (position, record) in frame_records(&frame, &payload)? {
            if let Some(found) = indexed(position, &record)? {
                index.add(found.place, &found.attributes, found.origin);
            }
        }
        (end, floor) = (frame.end(), frame.epoch);
    }
    if let Some(proof) = scan.proof_of_damage(file_offset(header.base, end), end, floor)? {
        let bytes = proof.position.0.saturating_sub(end.0);
        let reason = "a later frame says that the log was synced beyond it";
        return Err(LogError::Damaged {
            file: segment_name(number),
            position: end,
            bytes,
            reason,
        });
    }
    write_sidecar(storage, header.base, &sidecar::encode(&index, header.base, end))?;
    Ok((end, index.spans().collect()))
}

/// Keeps a few files as spares and removes the others that are no part of the log: what was cut off, and what was never begun.
fn clear_the_rest(
    storage: &dyn Storage,
    config: &LogConfig,
    found: &[Found],
    walk: &Walk,
    sealed: &[(Segment, Vec<crate::index::QueueSpan>)],
) -> Result<Vec<u64>, LogError> {
    let used = |number| {
        walk.chain
            .iter()
            .chain(sealed.iter().map(|(segment, _)| segment))
            .any(|segment| segment.number == number)
    };
    let mut spares = Vec::new();
    for file in found.iter().filter(|file| !used(file.number)) {
        let name = segment_name(file.number);
        if file.bytes == config.segment_bytes && spares.len() < SPARE_SEGMENTS_MAX {
            let opened = storage.open(&name).map_err(LogError::io("opening", &name))?;
            opened
                .write_at(0, &[&[0; SEGMENT_HEADER_BYTES as usize]])
                .map_err(LogError::io("writing", &name))?;
            opened.sync_data().map_err(LogError::io("syncing", &name))?;
            spares.push(file.number);
        } else {
            storage.remove(&name).map_err(LogError::io("removing", &name))?;
        }
    }
    storage.sync_directory().map_err(LogError::io("syncing", &storage.describe()))?;
    Ok(spares)
}

/// Writes and syncs the opening frame, and hands out what was found.
#[allow(
    clippy::too_many_arguments,
    reason = "the last step of one story, with all that the earlier ones found"
)]
fn begin_epoch(
    storage: Arc<dyn Storage>,
    config: LogConfig,
    start: Start,
    lock: crate::storage::StorageLock,
    secrets: Secrets,
    newest: Option<Checkpoint>,
    walk: Walk,
    sealed: Vec<(Segment, Vec<crate::index::QueueSpan>)>,
    spares: Vec<u64>,
    listing: &Listing,
) -> Result<Opened, LogError> {
    let epoch = Epoch(walk.floor.0 + 1);
    let opened_at = match walk.stamp {
        None => Now {
            wall_ms: start.wall_ms,
            mono_ms: 0,
        },
        Some(last) => {
            let since = start.wall_ms.saturating_sub(last.wall_ms).max(0);
            Now {
                wall_ms: last.wall_ms.saturating_add(since),
                mono_ms: last.mono_ms.saturating_add(since as u64),
            }
        }
    };
    let facts = newest.as_ref().map(|checkpoint| checkpoint.facts);
    let replay_from = facts.map_or(Position(0), |facts| facts.replay_from);
    let mut topics = walk.topics;
    for span in sealed.iter().flat_map(|(_, spans)| spans) {
        *topics.entry(span.queue.topic).or_default() += span.bytes;
    }
    let mut segments: Vec<Arc<Segment>> = sealed.into_iter().map(|(segment, _)| Arc::new(segment)).collect();
    let before_replay = segments.len() + walk.replay.map_or(walk.chain.len().saturating_sub(1), |(place, _)| place);
    let mut chain = walk.chain;
    let last = chain.pop();
    segments.extend(chain.into_iter().map(Arc::new));
    // A log without a segment gets its first below; until then this stands for it.
    let active = match &last {
        Some(segment) => Active {
            number: segment.number,
            base: segment.base,
            bytes: segment.bytes,
            file: Scan::open(&*storage, secrets.frame, segment.number)?.file,
            filled: segment.offset(walk.end),
        },
        None => Active {
            number: 0,
            base: walk.end,
            bytes: 0,
            file: Arc::new(NoFile),
            filled: 0,
        },
    };
    let view = View {
        sealed: segments,
        active: Arc::new(active.segment()),
        active_index: walk.index,
        visible: walk.end,
        topics,
    };
    let mut writer = LogWriter {
        shared: Arc::new(Shared::new(storage, secrets.frame, view, config.tail_cache_bytes)),
        config,
        epoch,
        opened_at: walk.end,
        end: walk.end,
        synced: walk.end,
        active,
        spares,
        next_number: listing.segments.last().map_or(0, |number| number + 1),
        pending: Vec::new(),
        last_stamp: opened_at,
        checkpoint: facts,
        next_checkpoint: listing.checkpoints.last().map_or(0, |number| number + 1),
        draft: None,
        stopped: false,
        _lock: lock,
    };
    if last.is_none() {
        writer.begin_segment(0)?;
        writer.shared.view_mut().active = Arc::new(writer.active.segment());
    }
    let opening = Record {
        at: opened_at,
        change: Change::Opened { epoch },
    };
    writer.append(walk.end, &[opening.encode()])?;
    writer.sync()?;
    let (reader, next_position) = (LogReader::new(Arc::clone(&writer.shared)), writer.end);
    let from = walk.replay.map_or(walk.end, |(_, position)| position);
    let replay = Replay::new(&writer.shared, before_replay, from, replay_from, next_position);
    let checkpoint_entries = newest.map_or_else(Vec::new, |checkpoint| checkpoint.entries);
    let recovery = Recovery {
        epoch,
        secret: secrets.core,
        next_position,
        opened_at,
        checkpoint_entries,
        replay,
    };
    Ok(Opened { writer, reader, recovery })
}

/// Stands for the file of a log that has no segment yet.
struct NoFile;

impl crate::storage::StorageFile for NoFile {
    fn read_at(&self, _: u64, _: &mut [u8]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn write_at(&self, _: u64, _: &[&[u8]]) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        Err(std::io::ErrorKind::NotFound.into())
    }

    fn len(&self) -> std::io::Result<u64> {
        Ok(0)
    }
}
