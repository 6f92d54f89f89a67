//! The gate of a queue that a topic grew by: the order of a message group whose slot was moved there goes on from where it was before.

use sluice_log::record::CursorId;
use sluice_protocol::ids::{QueueIndex, QueueOffset};

use super::Reading;
use crate::broker::Core;
use crate::journal::Journal;
use crate::planted::{self, Bug};
use crate::state::State;
use crate::state::growth::Growth;

/// Which message groups wait in a queue for what is still before them in another.
pub(super) struct Gate<'a> {
    growth: Option<&'a Growth>,
    cursor: CursorId,
    state: &'a State,
    reading: &'a Reading,
    journal: &'a Journal,
}

impl Core {
    /// The gate of a queue. Of a topic that never grew every gate is open.
    pub(super) fn gate<'a>(&'a self, cursor: CursorId, reading: &'a Reading) -> Gate<'a> {
        let growths = (reading.ordered && !planted::is(Bug::GrowthNotGated)).then_some(&self.state.growths);
        Gate {
            growth: growths.and_then(|growths| growths.get(&cursor.queue.topic)),
            cursor,
            state: &self.state,
            reading,
            journal: &self.journal,
        }
    }
}

impl Gate<'_> {
    /// Whether nothing new of the message group with this hash goes out here: in some queue where it was before its slot moved, the lane has
    /// not passed the end that the queue had then, or a message of it is not over, durably.
    pub(super) fn is_closed(&self, group: u64) -> bool {
        let before = self.growth.filter(|_| group != 0).map_or(&[][..], |growth| growth.before(group));
        let mut before = before.iter().take_while(|(index, _)| *index != self.cursor.queue.index);
        before.any(|(index, end)| self.is_before(*index, *end, group))
    }

    fn is_before(&self, index: QueueIndex, end: QueueOffset, group: u64) -> bool {
        let mut there = self.cursor;
        there.queue.index = index;
        let (Some(run), Some(entry)) = (self.reading.lanes.get(usize::from(index.0)), self.state.cursors.get(&there)) else {
            return false;
        };
        // A seek or a trimming that a crash may undo has not passed anything yet.
        run.judged < end
            || !self.journal.is_durable(run.barrier)
            || entry.lane.order.has_group(group)
            || run.freed.get(&group).is_some_and(|position| !self.journal.is_durable(*position))
    }
}
