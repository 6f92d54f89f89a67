//! The decoders of the log.

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Filter, Holder, LeaseRange, OffsetRange, QueueStart, Record, ReturnReason};
use sluice_protocol::ids::{Attempt, Epoch, GroupId, Pass, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::units::Now;

use super::{Target, nothing_to_repair};

pub(super) const RECORD: Target = Target {
    name: "record",
    valid: || records().iter().map(|record| record.encode().to_vec()).collect(),
    repair: nothing_to_repair,
    run: |input| {
        if let Ok(record) = Record::decode(&Bytes::copy_from_slice(input)) {
            assert_eq!(Record::decode(&record.encode()), Ok(record), "a record survives its own bytes");
        }
    },
    accepts: |input| Record::decode(&Bytes::copy_from_slice(input)).is_ok(),
};

fn records() -> Vec<Record> {
    let queue = QueueId {
        topic: TopicId(3),
        index: QueueIndex(1),
    };
    let (cursor, pass) = (CursorId { group: GroupId(4), queue }, Pass(2));
    let offsets = OffsetRange {
        first: QueueOffset(7),
        end: QueueOffset(19),
    };
    let leases = vec![
        LeaseRange {
            offsets,
            attempt: Attempt(1),
        },
        LeaseRange {
            offsets,
            attempt: Attempt(2),
        },
    ];
    let starts = vec![
        QueueStart {
            queue,
            offset: QueueOffset(5)
        };
        3
    ];
    let filter = Filter::Plugin {
        plugin: "sql".into(),
        expression: "price > 100.0".into(),
    };
    let changes = [
        Change::Opened { epoch: Epoch(2) },
        Change::Subscribed {
            group: GroupId(4),
            topic: TopicId(3),
            filter,
            starts,
        },
        Change::Appended {
            queue,
            first: QueueOffset(100),
            batch: Bytes::from_static(&[1; 90]),
        },
        Change::Granted {
            cursor,
            pass,
            holder: Holder::Stream { member: "m".into() },
            leases: leases.clone(),
            frontier: QueueOffset(20),
            expires_mono_ms: 99,
        },
        Change::Settled {
            cursor,
            pass,
            offsets: vec![offsets; 3],
        },
        Change::Returned {
            cursor,
            pass,
            leases,
            due_mono_ms: 7,
            reason: ReturnReason::Nacked,
        },
    ];
    changes
        .map(|change| Record {
            at: Now {
                wall_ms: 1_700_000_000_000,
                mono_ms: 12,
            },
            change,
        })
        .into()
}
