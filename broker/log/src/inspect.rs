//! Looking at a log without opening it: what is in it, where it ends and why, and what is damaged. Nothing is locked and nothing is changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use bytes::Bytes;
use sluice_protocol::ids::{Epoch, Position, QueueId};

use crate::checkpoint::Checkpoint;
use crate::error::LogError;
use crate::format::{self, FORMAT_VERSION, Format, Secrets};
use crate::frame::FrameHeader;
use crate::index::QueueSpan;
use crate::part::{self, PartReport};
use crate::reader::StoredQueue;
use crate::record::{PartId, kind_name, peek};
use crate::recovery::damage::{Reached, refuse_damage};
use crate::recovery::directory::{Found, Listing, find_checkpoint, find_segments, read_sidecar};
use crate::scan::{Scan, frame_records, indexed};
use crate::segment::{SegmentHeader, checkpoint_name, file_offset, segment_name, sidecar_name};
use crate::storage::Storage;

/// How often a directory is looked at anew that changed under the eyes, because its broker runs.
const LOOKS_MAX: usize = 5;

/// What a directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The version of its format; `None` when no log was ever begun in it, and everything else is empty then.
    pub format_version: Option<u32>,
    /// The segments in use, in the order of the log.
    pub segments: Vec<SegmentReport>,
    /// The names of segment files that are no part of the readable log: kept to be written again, cut off, or behind damage.
    pub spares: Vec<String>,
    /// Where the readable log ends.
    pub end: Position,
    /// Why it ends there.
    pub ending: Ending,
    /// The newest whole checkpoint.
    pub checkpoint: Option<CheckpointReport>,
    /// The names of checkpoints that are not whole; one is, after a crash while it was written.
    pub broken_checkpoints: Vec<String>,
    /// What is stored of each queue, what is trimmed but not yet removed included.
    pub queues: BTreeMap<QueueId, StoredQueue>,
    /// The files of far-off messages, whether state names them or not.
    pub parts: Vec<PartReport>,
    /// Everything of the log that cannot be read and should be; what of parts cannot be is told with each.
    pub damage: Vec<Damage>,
}

impl Report {
    /// Whether a broker would start on this directory.
    pub fn can_start(&self) -> bool {
        self.damage.iter().all(|damage| !damage.stops_start)
    }
}

/// One segment in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentReport {
    /// The name of its file.
    pub file: String,
    /// The size of its file.
    pub file_bytes: u64,
    /// The position of its first frame.
    pub base: Position,
    /// Where its last readable frame ends.
    pub end: Position,
    /// How many frames are readable.
    pub frames: u64,
    /// How many records are in them, by the name of their kind; those that this version cannot read are `unreadable`.
    pub records: BTreeMap<&'static str, u64>,
    /// The epochs of the first and of the last frame; `None` when there is no frame.
    pub epochs: Option<(Epoch, Epoch)>,
    /// The state of its sidecar.
    pub sidecar: SidecarState,
}

/// The state of a segment's sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SidecarState {
    /// The segment is still written and has none yet.
    NotDue,
    /// It is there and whole.
    Whole,
    /// It is not there; a start makes it again.
    Missing,
    /// It cannot be used; a start makes it again if its beginning shows that.
    Broken,
}

/// Why the readable log ends where it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// Nothing was written behind.
    #[default]
    Clean,
    /// What was being written at a crash and never confirmed lies behind; a start cuts it.
    TornTail {
        /// How many bytes, as far as can be told.
        bytes: u64,
    },
    /// Confirmed bytes should follow: see [`Report::damage`].
    Damaged,
}

/// The newest whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointReport {
    /// The name of its file.
    pub file: String,
    /// Records from here on are replayed at a start.
    pub replay_from: Position,
    /// Up to where the log was durable when it was finished.
    pub covers: Position,
    /// How many entries of state it holds.
    pub entries: usize,
    /// The size of the entries.
    pub entry_bytes: u64,
    /// The wall clock of the last record before it was begun, in milliseconds.
    pub wall_ms: i64,
}

/// Bytes that cannot be read and should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file that holds, or held, them.
    pub file: String,
    /// The first unreadable place.
    pub position: Position,
    /// How many bytes are missing, as far as known; 0 when that cannot be told.
    pub bytes: u64,
    /// How that is known.
    pub reason: String,
    /// Whether a broker refuses to start because of it.
    pub stops_start: bool,
}

/// Looks at the directory of one shard from its first segment to its end. Takes no lock, so a running broker's directory can be looked at,
/// as it was at about this moment; changes nothing.
///
/// # Errors
/// The directory has another format, the file that keeps its secrets is lost or damaged, or the disk failed. Damage is no error: it is in
/// the report.
pub fn inspect(storage: &dyn Storage) -> Result<Report, LogError> {
    let mut before = None;
    for _ in 1..LOOKS_MAX {
        match look(storage) {
            // Retention removed a file since it was listed.
            Err(LogError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(report) if report.damage.is_empty() => return Ok(report),
            // Frames that a running broker adds behind the end look like damage at first, and like frames at the next look.
            Ok(report) if before.as_ref() == Some(&report.damage) => return Ok(report),
            Ok(report) => before = Some(report.damage),
        }
    }
    look(storage)
}

/// What is known before frames are read.
struct Directory<'a> {
    storage: &'a dyn Storage,
    secrets: Secrets,
    listing: Listing,
    found: Vec<Found>,
    newest: Option<Checkpoint>,
    broken: Vec<u64>,
}

fn look(storage: &dyn Storage) -> Result<Report, LogError> {
    let listing = Listing::read(storage)?;
    let Format::Known(secrets) = format::read(storage, !listing.segments.is_empty())? else {
        return Ok(Report::default());
    };
    let (newest, broken) = find_checkpoint(storage, &secrets, &listing.checkpoints)?;
    let directory = Directory {
        found: find_segments(storage, &secrets, &listing.segments)?,
        storage,
        secrets,
        listing,
        newest,
        broken,
    };
    let mut report = Report {
        format_version: Some(FORMAT_VERSION),
        broken_checkpoints: directory.broken.iter().rev().map(|number| checkpoint_name(*number)).collect(),
        checkpoint: directory.newest.as_ref().map(checkpoint_report),
        ..Report::default()
    };
    directory.frames(&mut report)?;
    directory.lost_segments(&mut report);
    for number in &directory.listing.parts {
        report
            .parts
            .extend(part::report(storage, directory.secrets.frame, PartId(*number))?);
    }
    Ok(report)
}

fn checkpoint_report(checkpoint: &Checkpoint) -> CheckpointReport {
    CheckpointReport {
        file: checkpoint_name(checkpoint.facts.number),
        replay_from: checkpoint.facts.replay_from,
        covers: checkpoint.covers,
        entries: checkpoint.entries.len(),
        entry_bytes: checkpoint.entries.iter().map(|entry| entry.len() as u64).sum(),
        wall_ms: checkpoint.facts.stamp.wall_ms,
    }
}

impl Directory<'_> {
    /// Reads the frames of one segment after the other, as far as the log goes.
    fn frames(&self, report: &mut Report) -> Result<(), LogError> {
        let mut live: Vec<_> = self.found.iter().filter_map(Found::live).collect();
        live.sort_by_key(|(_, header)| header.base);
        let replay_from = self.replay_from();
        let mut reached = Reached {
            first: None,
            last: None,
            end: live.first().map_or(replay_from, |(_, header)| header.base),
            floor: Epoch(0),
        };
        let mut used = BTreeSet::new();
        for (at, (file, header)) in live.iter().enumerate() {
            // What lies behind the end is no part of the log.
            if header.base != reached.end {
                break;
            }
            used.insert(file.number);
            let mut segment = self.segment(file, header, &mut reached, report)?;
            // Behind the checkpoint a start does not look for damage; it would be met by a reader.
            let next = live.get(at + 1).map(|(_, next)| next.base);
            if let Some(next) = next.filter(|next| *next > reached.end && *next <= replay_from) {
                report.damage.push(Damage {
                    file: segment.file.clone(),
                    position: reached.end,
                    bytes: next.0 - reached.end.0,
                    reason: "the next segment begins later".to_string(),
                    stops_start: false,
                });
                reached.end = next;
            }
            if next == Some(reached.end) {
                segment.sidecar = self.sidecar(header.base, segment.end)?;
            }
            report.segments.push(segment);
        }
        let spares = self.found.iter().filter(|file| !used.contains(&file.number));
        report.spares = spares.map(|file| segment_name(file.number)).collect();
        self.ending(&reached, report)
    }

    fn replay_from(&self) -> Position {
        self.newest.as_ref().map_or(Position(0), |checkpoint| checkpoint.facts.replay_from)
    }

    /// Follows the frames of a segment.
    fn segment(&self, file: &Found, header: &SegmentHeader, reached: &mut Reached, report: &mut Report) -> Result<SegmentReport, LogError> {
        let mut segment = SegmentReport {
            file: segment_name(file.number),
            file_bytes: file.bytes,
            base: header.base,
            end: header.base,
            frames: 0,
            records: BTreeMap::new(),
            epochs: None,
            sidecar: SidecarState::NotDue,
        };
        let (facts, mut scan) = (
            self.newest.as_ref().map(|newest| newest.facts),
            Scan::open(self.storage, self.secrets.frame, file.number)?,
        );
        // A start begins at the segment of `replay_from`, so that is the first one for what it refuses.
        if reached.first.is_none() || header.base <= self.replay_from() {
            reached.first = Some(header.base);
        }
        reached.last = Some((file.number, header.base));
        reached.floor = reached.floor.max(header.epoch);
        loop {
            let floor = facts
                .filter(|facts| reached.end >= facts.replay_from)
                .map_or(Epoch(0), |facts| facts.epoch_floor);
            reached.floor = reached.floor.max(floor);
            let Some((frame, payload)) = scan.next(file_offset(header.base, reached.end), reached.end, reached.floor)? else {
                return Ok(segment);
            };
            segment.frames += 1;
            segment.epochs = Some((segment.epochs.map_or(frame.epoch, |(first, _)| first), frame.epoch));
            self.records(&frame, &payload, &mut segment, report);
            (reached.floor, reached.end) = (frame.epoch, frame.end());
            segment.end = frame.end();
        }
    }

    /// Counts what a frame holds.
    fn records(&self, frame: &FrameHeader, payload: &Bytes, segment: &mut SegmentReport, report: &mut Report) {
        let mut unreadable = |segment: &mut SegmentReport, position, bytes, error: LogError| {
            *segment.records.entry("unreadable").or_default() += 1;
            report.damage.push(Damage {
                file: segment.file.clone(),
                position,
                bytes,
                reason: error.to_string(),
                stops_start: frame.end() > self.replay_from(),
            });
        };
        let records = match frame_records(frame, payload) {
            Ok(records) => records,
            Err(error) => return unreadable(segment, frame.position, frame.frame_bytes(), error),
        };
        for (position, record) in records {
            let name = peek(&record).ok().and_then(|(kind, _)| kind_name(kind));
            match (name, indexed(position, &record)) {
                (Some(name), Ok(stored)) => {
                    *segment.records.entry(name).or_default() += 1;
                    if let Some(stored) = stored {
                        let span = QueueSpan {
                            queue: stored.place.queue,
                            first: stored.place.first,
                            end: stored.place.end(),
                            bytes: u64::from(stored.place.total_bytes),
                        };
                        StoredQueue::add(&mut report.queues, &span);
                    }
                }
                (None, Ok(_)) => *segment.records.entry("unknown").or_default() += 1,
                (_, Err(error)) => unreadable(segment, position, record.len() as u64, error),
            }
        }
    }

    fn sidecar(&self, base: Position, end: Position) -> Result<SidecarState, LogError> {
        if self.listing.sidecars.binary_search(&base.0).is_err() {
            return Ok(SidecarState::Missing);
        }
        let whole = read_sidecar(self.storage, base)?.is_ok_and(|(header, _)| header.base == base && header.end == end);
        Ok(if whole { SidecarState::Whole } else { SidecarState::Broken })
    }

    /// Tells why the log ends where no frame follows: by the same judgement as a start.
    fn ending(&self, reached: &Reached, report: &mut Report) -> Result<(), LogError> {
        report.end = reached.end;
        match refuse_damage(
            self.storage,
            &self.secrets,
            &self.found,
            self.newest.as_ref(),
            &self.broken,
            reached,
        ) {
            Ok(()) => {
                let bytes = self.torn_bytes(reached)?;
                report.ending = if bytes > 0 { Ending::TornTail { bytes } } else { Ending::Clean };
            }
            Err(LogError::Damaged {
                file,
                position,
                bytes,
                reason,
            }) => {
                report.ending = Ending::Damaged;
                report.damage.push(Damage {
                    file,
                    position,
                    bytes,
                    reason: reason.to_string(),
                    stops_start: true,
                });
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// How far behind the end there is something of what was written last; what a file held before it was written again does not count.
    fn torn_bytes(&self, reached: &Reached) -> Result<u64, LogError> {
        let Some((number, base)) = reached.last else { return Ok(0) };
        let mut scan = Scan::open(self.storage, self.secrets.frame, number)?;
        let torn = scan.last_begun(file_offset(base, reached.end), reached.end, reached.floor)?;
        Ok(torn.map_or(0, |frame| frame.end().0 - reached.end.0))
    }

    /// Sidecars whose segment is not there.
    fn lost_segments(&self, report: &mut Report) {
        let live = |base: u64| {
            self.found
                .iter()
                .any(|file| file.header.is_some_and(|header| header.base.0 == base))
        };
        for base in self.listing.sidecars.iter().filter(|base| !live(**base)) {
            report.damage.push(Damage {
                file: sidecar_name(Position(*base)),
                position: Position(*base),
                bytes: 0,
                reason: "its segment is not there, or the segment's header cannot be read".to_string(),
                stops_start: true,
            });
        }
    }
}
