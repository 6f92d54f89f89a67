//! At the end of a run: the log's index finds all that a group did with a message that is still stored, and nothing else.

use sluice_protocol::ids::{Position, QueueOffset};

use crate::laws::Law;
use crate::oracle::dealings::dealt;
use crate::world::World;

/// Of so many messages with a history one is asked for.
const ASKED_EVERY: usize = 7;
/// More records than concern any message here.
const RECORDS_MAX: usize = 100_000;

impl World {
    /// Asks the log for histories and compares.
    pub(crate) fn compare_histories(&mut self) {
        let Some(shell) = &self.shell else { return };
        let dealings = self.oracle.dealings();
        for ((cursor, offset), expected) in dealings.into_iter().step_by(ASKED_EVERY) {
            let stored = self.oracle.book.queues.get(&cursor.queue);
            if stored.is_none_or(|queue| offset < queue.start) {
                continue;
            }
            // What retention took of the log it took of histories, too: a segment goes when nothing stored in it is kept.
            let kept = expected.into_iter().filter(|(position, _)| shell.reader.keeps(*position));
            let expected: Vec<_> = kept.map(|(_, record)| record).collect();
            let found = shell.reader.history(cursor, QueueOffset(offset), Position(0), RECORDS_MAX);
            let found = found.map(|history| {
                let records = history.records.into_iter().map(|(_, record)| record);
                records.filter(|record| !dealt(&record.change).is_empty()).collect::<Vec<_>>()
            });
            let right = matches!(&found, Ok(found) if *found == expected);
            self.oracle.court.demand(Law::HistoryIsTold, right, || {
                format!("of message {offset} of {cursor:?} are told {found:?} instead of {expected:?}")
            });
        }
    }
}
