//! What groups did with messages, out of all that was written: for comparison with what the log's index finds of it.

use std::collections::BTreeMap;

use sluice_log::record::{Change, CursorId, Record};

use super::Oracle;
use super::cursor::{each, offsets_of};

impl Oracle {
    /// The records by which messages were handed out, came back, were extended and settled, by cursor and offset, in the order of the log.
    /// Other records that concern a message are left out.
    pub fn dealings(&self) -> BTreeMap<(CursorId, u64), Vec<Record>> {
        let mut dealings: BTreeMap<(CursorId, u64), Vec<Record>> = BTreeMap::new();
        for record in self.frames.iter().flat_map(|frame| &frame.records) {
            let Some((cursor, offsets)) = dealt(&record.change) else { continue };
            for offset in offsets {
                dealings.entry((cursor, offset)).or_default().push(record.clone());
            }
        }
        dealings
    }
}

/// Which messages a record of these kinds deals with.
pub fn dealt(change: &Change) -> Option<(CursorId, Vec<u64>)> {
    match change {
        Change::Granted { cursor, leases, .. } | Change::Returned { cursor, leases, .. } => {
            Some((*cursor, each(leases).map(|(offset, _)| offset).collect()))
        }
        Change::Settled { cursor, offsets, .. } | Change::Extended { cursor, offsets, .. } => {
            Some((*cursor, offsets_of(offsets).collect()))
        }
        _ => None,
    }
}
