//! Where a segment says what groups did with messages: for each cursor a few stretches of the log, so that one message's history is read
//! without reading the log.

use std::collections::BTreeMap;

use sluice_protocol::ids::{Position, QueueOffset};

use crate::limits::DEALING_BYTES;
use crate::planted::{self, Bug};
use crate::record::{CursorId, OffsetRange};

/// A stretch of the log in which records deal with messages of one cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Dealing {
    /// The first frame with such a record.
    pub(crate) from: Position,
    /// The last one.
    pub(crate) to: Position,
    /// The messages lie between these two offsets; not all that lie there are dealt with.
    pub(crate) first: QueueOffset,
    pub(crate) end: QueueOffset,
}

impl Dealing {
    /// Whether a record in this stretch may deal with a message.
    pub(crate) fn may_concern(&self, offset: QueueOffset) -> bool {
        (self.first..self.end).contains(&offset)
    }
}

/// The stretches of one segment, by cursor and in the order of the log. A record costs nothing where the stretch of its cursor has room for
/// it; so a cursor takes a few bytes for each [`DEALING_BYTES`] of the log in which it is busy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Dealings {
    cursors: BTreeMap<CursorId, Vec<Dealing>>,
}

impl Dealings {
    /// Takes in that a record of the frame at `frame` deals with messages between two offsets. Frames come in the order of the log.
    pub(crate) fn note(&mut self, frame: Position, cursor: CursorId, offsets: OffsetRange) {
        if planted::is(Bug::DealingNotIndexed) && frame.0 % 64 == 24 {
            return;
        }
        let stretches = self.cursors.entry(cursor).or_default();
        match stretches.last_mut().filter(|last| frame.0 - last.from.0 < DEALING_BYTES) {
            Some(last) => {
                last.to = frame;
                last.first = last.first.min(offsets.first);
                last.end = last.end.max(offsets.end);
            }
            None => stretches.push(Dealing {
                from: frame,
                to: frame,
                first: offsets.first,
                end: offsets.end,
            }),
        }
    }

    /// Puts back what a sidecar holds.
    pub(crate) fn put_back(&mut self, cursor: CursorId, dealing: Dealing) {
        self.cursors.entry(cursor).or_default().push(dealing);
    }

    /// The stretches of a cursor.
    pub(crate) fn of(&self, cursor: CursorId) -> &[Dealing] {
        self.cursors.get(&cursor).map_or(&[], Vec::as_slice)
    }

    /// All of them, by cursor and in the order of the log.
    pub(crate) fn all(&self) -> impl Iterator<Item = (CursorId, Dealing)> + '_ {
        let of = |(cursor, stretches): (&CursorId, &Vec<Dealing>)| {
            let cursor = *cursor;
            stretches.iter().map(move |dealing| (cursor, *dealing)).collect::<Vec<_>>()
        };
        self.cursors.iter().flat_map(of)
    }
}
