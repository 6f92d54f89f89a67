//! Records of the calendar's parts, and a log whose delayed messages go into parts.

use sluice_log::record::*;
use sluice_log::{FaultyStorage, Opened};
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

use super::{append, batch, open};

pub(crate) fn far(at_ms: i64, number: u64) -> FarOff {
    FarOff {
        at_ms,
        topic: TopicId(5),
        number: QueueOffset(number),
    }
}

/// A record of each kind that concerns parts, by number; of the third both forms.
pub(crate) fn part_kinds() -> Vec<Record> {
    let part = PartId(4_096);
    let facts = PartFacts {
        messages: 3,
        bytes: 700,
        first: far(1_800_000_000_000, 2),
        last: far(1_900_000_000_000, 1),
    };
    let taken_in = |next_ms| PartChange::TakenIn {
        part,
        taken: vec![far(1_800_000_000_000, 2)],
        passed: 2,
        point: far(1_800_000_000_000, 3),
        next_ms,
    };
    let changes = [
        PartChange::Written {
            part,
            facts,
            moved: vec![facts.first, facts.last],
            absorbed: vec![PartId(64)],
            dead: vec![far(1_800_000_000_000, 3)],
        },
        taken_in(Some(1_900_000_000_000)),
        taken_in(None),
        PartChange::Recalled { part, message: facts.last },
        PartChange::Dropped { part },
    ];
    let at = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 12,
    };
    let record = |change| Record {
        at,
        change: Change::Parts(change),
    };
    changes.map(record).into()
}

/// A log with ten delayed messages in several segments: number `n` is due at `1,000 - 10 n`, and its body is "body of " and its number.
pub(crate) fn with_delayed(storage: &FaultyStorage) -> Opened {
    let mut opened = open(storage).unwrap();
    for number in 0..10_u64 {
        let body = number.to_string();
        let record = Record {
            at: Now {
                wall_ms: 2_000,
                mono_ms: 0,
            },
            change: Change::Delayed {
                topic: TopicId(5),
                first: QueueOffset(number),
                due_ms: vec![1_000 - 10 * number as i64],
                batch: batch(number, &[body.as_str()]),
            },
        };
        append(&mut opened.writer, &[record.encode()]);
        opened.writer.sync().unwrap();
    }
    opened
}
