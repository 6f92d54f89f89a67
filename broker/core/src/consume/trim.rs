//! What retention takes from groups: where their passes go on, and how many messages each of them loses.

use sluice_log::record::{Change, CursorId};
use sluice_protocol::ids::{GroupId, QueueId, QueueOffset};

use super::key_of;
use crate::broker::Core;
use crate::planted::{self, Bug};
use crate::ranges::{OffsetSet, range};
use crate::state::cursor::Cursor;

impl Core {
    /// Retention took the beginning of a queue.
    pub(crate) fn trim(&mut self, queue: QueueId, start: QueueOffset) {
        let Some(entry) = self.state.queues.get(&queue) else { return };
        let start = self.trimmed_to(queue, start.min(self.visible_end(queue)));
        if start <= entry.start {
            return;
        }
        let groups: Vec<_> = self
            .consuming
            .readings
            .keys()
            .filter(|(topic, _)| *topic == queue.topic)
            .map(|(_, group)| *group)
            .collect();
        let losses = groups.iter().filter_map(|&group| {
            let cursor = CursorId { group, queue };
            let lost = self.lost_below(cursor, self.state.cursors.get(&cursor)?, start);
            (lost > 0 && !planted::is(Bug::LossUntold)).then_some((group, lost))
        });
        let lost: Vec<(GroupId, u64)> = losses.collect();
        self.counters.lost_to_retention += lost.iter().map(|(_, messages)| messages).sum::<u64>();
        let taken = [range(0, start.0)];
        let ending: Vec<_> = groups.iter().map(|&group| self.ending(CursorId { group, queue }, &taken)).collect();
        let position = self.record(Change::Trimmed { queue, start, lost });
        for (group, ending) in groups.into_iter().zip(ending) {
            let cursor = CursorId { group, queue };
            self.ended(cursor, ending, position);
            let Some(entry) = self.state.cursors.get(&cursor) else { continue };
            for (priority, durable) in entry.levels() {
                if let Some(run) = self.consuming.lane_mut(cursor, priority) {
                    run.aside = run.aside.split_off(&start.0);
                    if run.place < start {
                        // What follows a message that is gone, here or in a queue that the topic grew by, comes when that is durable.
                        run.barrier = position;
                        run.rewind(durable, start);
                    }
                }
            }
            self.consuming.wake(key_of(cursor));
        }
    }

    /// How many messages of a cursor below `start` are not over. Of what no lane has come to nothing is known but what was settled
    /// ahead; where there are several lanes that is known of the one for priority 0 alone, and a few messages more may count.
    fn lost_below(&self, cursor: CursorId, entry: &Cursor, start: QueueOffset) -> u64 {
        let taken = range(0, start.0);
        // After a start a lane may stand where it was last recorded, before what retention took earlier, which was counted then.
        let kept_from = self.state.queues.get(&cursor.queue).map_or(QueueOffset(0), |queue| queue.start);
        let (mut open, mut furthest) = (OffsetSet::default(), kept_from);
        for (priority, lane) in entry.levels() {
            let leased = lane.leases.within(taken).map(|(piece, _)| piece);
            let retrying = lane.retries.within(taken).map(|(piece, _)| piece);
            let parked = lane.order.within(0..start.0);
            let parked = parked.filter(|(offset, row)| row.judged && lane.is_parked(*offset));
            let parked = parked.map(|(offset, _)| range(offset, offset + 1));
            let run = self.consuming.lane(cursor, priority);
            let place = run.map_or(lane.frontier, |run| run.place);
            let aside = run.into_iter().flat_map(|run| run.aside.range(..start.0.min(place.0)));
            // A whole stretch is set aside, of which some may be over.
            let aside = aside.filter(|(offset, _)| lane.is_free(**offset));
            let aside = aside.map(|(offset, _)| range(*offset, offset + 1));
            let held = leased.chain(retrying).chain(lane.held.within(taken)).chain(parked).chain(aside);
            held.for_each(|piece| open.insert(piece.first.0, piece.end.0));
            furthest = furthest.max(place);
        }
        let untouched = entry.lane.ahead.gaps(range(furthest.0.min(start.0), start.0));
        untouched.into_iter().for_each(|piece| open.insert(piece.first.0, piece.end.0));
        open.count()
    }
}
