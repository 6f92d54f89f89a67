//! The records since the checkpoint, read one frame at a time while a core is rebuilt from them.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::ids::{Epoch, Position};

use crate::error::LogError;
use crate::reader::Shared;
use crate::record::Record;
use crate::scan::{Scan, frame_records};
use crate::segment::{Segment, segment_name};

/// Gives the records from where replay begins up to and including the start's own `Opened` record, in order. Ends after an error.
pub struct Replay {
    shared: Arc<Shared>,
    /// The segments to read; those that retention may take meanwhile stay readable for as long as they are here.
    segments: VecDeque<Arc<Segment>>,
    scan: Option<Scan>,
    next: Position,
    replay_from: Position,
    end: Position,
    epoch: Epoch,
    records: VecDeque<(Position, Bytes)>,
}

impl Replay {
    pub(crate) fn new(shared: &Arc<Shared>, skip: usize, next: Position, replay_from: Position, end: Position) -> Self {
        let view = shared.view();
        let segments = view.sealed.iter().skip(skip).chain([&view.active]).map(Arc::clone).collect();
        drop(view);
        let shared = Arc::clone(shared);
        Self {
            shared,
            segments,
            scan: None,
            next,
            replay_from,
            end,
            epoch: Epoch(0),
            records: VecDeque::new(),
        }
    }

    fn read(&mut self) -> Result<Option<(Position, Record)>, LogError> {
        loop {
            while let Some((position, record)) = self.records.pop_front() {
                if position >= self.replay_from {
                    let record = Record::decode(&record).map_err(|source| LogError::Unreadable { position, source })?;
                    return Ok(Some((position, record)));
                }
            }
            let Some(segment) = self.segments.front() else { return Ok(None) };
            if self.next >= self.end {
                return Ok(None);
            }
            if self.segments.get(1).is_some_and(|after| after.base <= self.next) {
                self.segments.pop_front();
                self.scan = None;
                continue;
            }
            let scan = match &mut self.scan {
                Some(scan) => scan,
                none => none.insert(Scan::open(&*self.shared.storage, self.shared.secret, segment.number)?),
            };
            let Some((frame, payload)) = scan.next(segment.offset(self.next), self.next, self.epoch)? else {
                let (file, position) = (segment_name(segment.number), self.next);
                return Err(LogError::Damaged {
                    file,
                    position,
                    bytes: 0,
                    reason: "it was readable a moment ago",
                });
            };
            self.records = frame_records(&frame, &payload)?.into();
            (self.next, self.epoch) = (frame.end(), frame.epoch);
        }
    }
}

impl Iterator for Replay {
    type Item = Result<(Position, Record), LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.segments.clear();
            self.records.clear();
        }
        read.transpose()
    }
}
