//! What groups did with messages, out of all that was written: for comparison with what the log's index finds of it.

use std::collections::BTreeMap;

use sluice_log::record::{Change, CursorId, LeaseRange, OffsetRange, Prepared, Record, Transaction, before_release};

use sluice_protocol::ids::Position;

use super::Oracle;

impl Oracle {
    /// The records by which messages were handed out, came back, were extended and settled, and before that recalled, committed and rolled back,
    /// by cursor and offset, in the order of the log, each with the position of its frame. Other records that concern a message are left out.
    pub fn dealings(&self) -> BTreeMap<(CursorId, u64), Vec<(Position, Record)>> {
        let mut dealings: BTreeMap<(CursorId, u64), Vec<(Position, Record)>> = BTreeMap::new();
        let records = self
            .frames
            .iter()
            .flat_map(|frame| frame.records.iter().map(|record| (Position(frame.position), record)));
        for (position, record) in records {
            for place in dealt(&record.change) {
                dealings.entry(place).or_default().push((position, record.clone()));
            }
        }
        dealings
    }
}

/// Which messages a record of these kinds deals with.
pub fn dealt(change: &Change) -> Vec<(CursorId, u64)> {
    let of = |cursor: &CursorId, offsets: &mut dyn Iterator<Item = u64>| offsets.map(|offset| (*cursor, offset)).collect();
    let prepared = |message: &Prepared| (before_release(message.topic), message.due.number.0);
    match change {
        Change::Granted { cursor, leases, .. } | Change::Returned { cursor, leases, .. } => {
            of(cursor, &mut each(leases).map(|(offset, _)| offset))
        }
        Change::Expired { cursor, messages, .. } => of(cursor, &mut each(messages).map(|(offset, _)| offset)),
        Change::Settled { cursor, offsets, .. } | Change::Extended { cursor, offsets, .. } => of(cursor, &mut offsets_of(offsets)),
        Change::Recalled { topic, due } => vec![(before_release(*topic), due.number.0)],
        Change::Transaction(Transaction::Committed { messages, .. } | Transaction::RolledBack { messages, .. }) => {
            messages.iter().map(prepared).collect()
        }
        Change::Transaction(Transaction::GivenUp { message, .. } | Transaction::Revived { message, .. }) => vec![prepared(message)],
        _ => Vec::new(),
    }
}

/// Every message of some lease ranges with its attempt.
pub fn each(leases: &[LeaseRange]) -> impl Iterator<Item = (u64, u16)> {
    leases
        .iter()
        .flat_map(|range| (range.offsets.first.0..range.offsets.end.0).map(|offset| (offset, range.attempt.0)))
}

/// Every offset of some ranges.
pub fn offsets_of(ranges: &[OffsetRange]) -> impl Iterator<Item = u64> {
    ranges.iter().flat_map(|range| range.first.0..range.end.0)
}
