//! Records of the ids that producers gave their messages.

use sluice_log::record::*;
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

/// A record of each kind that concerns such ids, by number.
pub(crate) fn given_id_kinds() -> Vec<Record> {
    let changes = [
        GivenIds::Stored {
            queue: QueueId {
                topic: TopicId(3),
                index: QueueIndex(1),
            },
            prepared: true,
            ids: vec![GivenId {
                hash: 0x0123_4567_89ab_cdef << 64 | 9,
                offset: QueueOffset(40),
                due_ms: 1_800_000_000_000,
            }],
        },
        GivenIds::Forgotten { minute: 29_000_000 },
    ];
    let at = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 12,
    };
    let record = |given| Record {
        at,
        change: Change::GivenIds(given),
    };
    changes.map(record).into()
}
