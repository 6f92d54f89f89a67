//! Records that speak of messages which live for a time.

use sluice_log::record::*;
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

/// The kinds 54 to 56, and a topic whose messages expire.
pub(crate) fn of_expiry() -> Vec<Record> {
    let queue = QueueId {
        topic: TopicId(3),
        index: QueueIndex(1),
    };
    let cursor = CursorId { group: GroupId(2), queue };
    let offsets = |first, end| OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(end),
    };
    let changes = [
        Change::Expiring {
            queue,
            first: QueueOffset(5),
            end: QueueOffset(9),
        },
        Change::DeadlinesFound {
            cursor,
            pass: Pass(1),
            priority: 9,
            deadlines: [(offsets(5, 8), -7), (offsets(8, 9), 1_700_000_000_000)]
                .map(|(offsets, expires_ms)| Deadline { offsets, expires_ms })
                .into(),
        },
        Change::Expired {
            cursor,
            pass: Pass(1),
            priority: 0,
            messages: vec![LeaseRange {
                offsets: offsets(5, 8),
                attempt: Attempt(2),
            }],
            fate: OnExpired::DeadLetter,
        },
        Change::TopicCreated {
            topic: TopicId(3),
            name: "t".into(),
            settings: TopicSettings {
                queues: 2,
                retention_ms: 3,
                retention_bytes: 4,
                ttl_ms: 60_000,
                on_expired: OnExpired::DeadLetter,
            },
        },
    ];
    let at = Now { wall_ms: -2, mono_ms: 3 };
    changes.map(|change| Record { at, change }).into()
}
