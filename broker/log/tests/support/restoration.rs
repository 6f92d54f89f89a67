//! The record of a restoration, and the file that says that there was one.

use sluice_log::Restored;
use sluice_log::record::*;
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

/// A log that went on from a backup at its third start.
pub(crate) fn restoration() -> Record {
    Record {
        at: Now {
            wall_ms: 1_700_000_000_000,
            mono_ms: 12,
        },
        change: Change::Restored(Restoration {
            mark: *b"one restoration!",
            epoch: Epoch(3),
            numbers: vec![(TopicId(3), QueueOffset(40)), (TopicId(5), QueueOffset(1))],
        }),
    }
}

/// Its file.
pub(crate) fn restored() -> Restored {
    Restored {
        mark: *b"one restoration!",
        cut: Position(70_000),
        wall_ms: 1_700_000_000_000,
    }
}
