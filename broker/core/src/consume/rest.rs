//! Resting: what becomes of a reading that an operator pauses, and of one that goes on.

use sluice_log::record::CursorId;
use sluice_protocol::ids::{Position, QueueOffset};

use super::{LaneRun, Reading, ReadingKey, cursor_of, key_of};
use crate::broker::Core;

impl Core {
    /// A reading is paused: what was judged ahead is thrown away, and its windows are free for others.
    pub(crate) fn rest(&mut self, key: ReadingKey) {
        let Some(reading) = self.consuming.readings.get_mut(&key) else {
            return;
        };
        let lanes = reading.lanes.len();
        for (index, lane) in reading.runs_mut() {
            let entry = self.state.cursors.get(&cursor_of(key, index));
            if let Some(durable) = entry.and_then(|entry| entry.level(lane.priority)) {
                lane.rewind(durable, lane.frontier());
            }
        }
        self.consuming.without_window.remove(&key);
        (0..lanes).for_each(|index| self.consuming.free_window(cursor_of(key, index)));
        self.consuming.wake(key);
    }

    /// A reading goes on once the record that says so is durable.
    pub(crate) fn go_on_reading(&mut self, key: ReadingKey, depends: Position) {
        if let Some(reading) = self.consuming.readings.get_mut(&key) {
            reading.barrier = depends;
            self.consuming.wake(key);
        }
    }

    /// A topic grew: the lanes of its new queues begin with nothing. Their first message comes after the record that made them.
    pub(crate) fn add_lanes(&mut self, key: ReadingKey, further: usize) {
        if let Some(reading) = self.consuming.readings.get_mut(&key) {
            let new = std::iter::repeat_with(LaneRun::default).take(further);
            reading.lanes.extend(new);
            self.consuming.wake(key);
        }
    }

    /// Messages of a lane below `end` may be taken by now though the lane has not come to them.
    pub(crate) fn take_up_to(&mut self, cursor: CursorId, priority: u8, end: u64) {
        if let Some(lane) = self.consuming.lane_mut(cursor, priority) {
            lane.taken_end = lane.taken_end.max(end);
        }
    }

    /// A message was settled by an operator: nothing is decided about it any more.
    pub(crate) fn forget_suspect(&mut self, cursor: CursorId, offset: QueueOffset) {
        let reading = self.consuming.readings.get_mut(&key_of(cursor));
        let runs = reading.into_iter().flat_map(Reading::runs_mut);
        for (_, lane) in runs.filter(|(index, _)| *index == usize::from(cursor.queue.index.0)) {
            lane.aside.remove(&offset.0);
        }
        self.consuming.wake(key_of(cursor));
    }
}
