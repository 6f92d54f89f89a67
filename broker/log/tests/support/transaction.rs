//! Records of transactions.

use bytes::Bytes;
use sluice_log::record::*;
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

/// A record of each kind that concerns prepared messages, by number.
pub(crate) fn transaction_kinds() -> Vec<Record> {
    let prepared = |at_ms, number| Prepared {
        topic: TopicId(3),
        due: Due {
            at_ms,
            number: QueueOffset(number),
        },
    };
    let batch = Bytes::from_static(b"any bytes");
    let changes = [
        Transaction::Prepared {
            topic: TopicId(3),
            first: QueueOffset(40),
            due_ms: vec![0, 1_800_000_000_000],
            batch: batch.clone(),
        },
        Transaction::Committed {
            messages: vec![prepared(0, 40), prepared(1_800_000_000_000, 41)],
            by: String::new(),
        },
        Transaction::RolledBack {
            messages: vec![prepared(0, 42)],
            by: "operator".into(),
        },
        Transaction::Asked {
            topic: TopicId(3),
            asked: vec![Asked {
                number: QueueOffset(43),
                asks: 15,
            }],
        },
        Transaction::GivenUp {
            message: prepared(0, 43),
            to: QueueId {
                topic: TopicId(9),
                index: QueueIndex(0),
            },
            at_offset: QueueOffset(5),
            batch: batch.clone(),
        },
        Transaction::Revived {
            message: prepared(0, 43),
            number: QueueOffset(44),
            batch,
            by: "operator".into(),
        },
    ];
    let at = Now {
        wall_ms: 1_700_000_000_000,
        mono_ms: 12,
    };
    let record = |transaction| Record {
        at,
        change: Change::Transaction(transaction),
    };
    changes.map(record).into()
}
