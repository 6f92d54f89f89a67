//! What a group did with one message, out of the records that say so: the index knows in which stretches of the log these are.

use std::sync::Arc;

use sluice_protocol::ids::{Epoch, Position, QueueOffset};

use super::{LogReader, Shared};
use crate::dealings::Dealing;
use crate::error::LogError;
use crate::limits::HISTORY_BYTES_MAX;
use crate::record::{CursorId, Record, concerns};
use crate::scan::{Scan, frame_records};
use crate::segment::{Segment, file_offset};

/// What a group did with a message, as far as the log still says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Each record that concerns the message, in the order in which they were made.
    pub records: Vec<(Position, Record)>,
    /// Whether there may be more, which was not looked for: the bound on records or on bytes read was reached.
    pub cut: bool,
}

impl Shared {
    fn dealings(&self, segment: &Segment, cursor: CursorId) -> Result<Vec<Dealing>, LogError> {
        if let Some(index) = self.index_kept(segment) {
            return Ok(index.dealings.of(cursor).to_vec());
        }
        let sidecar = self.sidecar(segment)?;
        sidecar.map_or_else(|| Ok(Vec::new()), |sidecar| sidecar.dealings(cursor))
    }
}

impl LogReader {
    /// What was done with the message at `offset` of a cursor's queue from `since` on, at most `max` records of it. Reads the index of each
    /// segment behind `since`, and of the log only stretches in which the cursor's messages about the offset were dealt with.
    ///
    /// # Errors
    /// The log or a sidecar cannot be read.
    pub fn history(&self, cursor: CursorId, offset: QueueOffset, since: Position, max: usize) -> Result<History, LogError> {
        let (sealed, active, newest) = {
            let view = self.shared.view();
            let newest = view.active_index.dealings.of(cursor).to_vec();
            (view.sealed.clone(), Arc::clone(&view.active), newest)
        };
        let (mut history, mut bytes_left) = (History::default(), HISTORY_BYTES_MAX);
        let mut look = |segment: &Segment, dealings: &[Dealing]| {
            let mut scan = None;
            for dealing in dealings.iter().filter(|dealing| dealing.may_concern(offset) && dealing.to >= since) {
                if scan.is_none() {
                    scan = Some(Scan::open(&*self.shared.storage, self.shared.secret, segment.number)?);
                }
                let scan = scan.as_mut().expect("it was opened");
                let mut at = dealing.from;
                while at <= dealing.to {
                    // A frame that the index knows is whole and of the segment's time: it was verified, or written here.
                    let Some((frame, payload)) = scan.next(file_offset(segment.base, at), at, Epoch(0))? else {
                        return Err(LogError::Damaged {
                            file: scan.name.clone(),
                            position: at,
                            bytes: 0,
                            reason: "a frame that the index knows cannot be read",
                        });
                    };
                    for (position, record) in frame_records(&frame, &payload)? {
                        let record = Record::decode(&record).map_err(|source| LogError::Unreadable { position, source })?;
                        if concerns(&record.change, cursor, offset) {
                            if history.records.len() == max {
                                history.cut = true;
                                return Ok(());
                            }
                            history.records.push((position, record));
                        }
                    }
                    at = frame.end();
                }
                bytes_left = bytes_left.saturating_sub(dealing.to.0 - dealing.from.0);
                if bytes_left == 0 {
                    history.cut = true;
                    return Ok(());
                }
            }
            Ok(())
        };
        for segment in sealed.iter().filter(|segment| segment.end > since) {
            look(segment, &self.shared.dealings(segment, cursor)?)?;
        }
        look(&active, &newest)?;
        Ok(history)
    }
}
