//! Every kind of record survives its encoding, and whatever is not a record is refused.

use bytes::Bytes;
use sluice_log::record::*;
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

/// One record of each kind.
fn each() -> Vec<Record> {
    let queue = QueueId {
        topic: TopicId(3),
        index: QueueIndex(2),
    };
    let cursor = CursorId { group: GroupId(8), queue };
    let (pass, offset, topic, group) = (Pass(4), QueueOffset(77), TopicId(3), GroupId(8));
    let offsets = OffsetRange {
        first: QueueOffset(5),
        end: QueueOffset(9),
    };
    let leases = vec![LeaseRange {
        offsets,
        attempt: Attempt(2),
    }];
    let starts = vec![QueueStart { queue, offset }];
    let settings = TopicSettings {
        queues: 4,
        retention_ms: 1,
        retention_bytes: 2,
    };
    let table = GroupSettings {
        attempts_max: 16,
        backoff: Backoff::Table { waits_ms: vec![1, 5] },
        start: StartPoint::Time { wall_ms: -1 },
    };
    let limits = PluginLimits {
        fuel_per_run: 1,
        fuel_per_message: 2,
        run_ms: 3,
        memory_bytes: 4,
    };
    let filter = Filter::Plugin {
        plugin: "sql".into(),
        expression: "a = 'ü'".into(),
    };
    let batch = Bytes::from_static(b"any bytes");
    let holder = Holder::Stream { member: "m".into() };
    let changes = vec![
        Change::Opened { epoch: Epoch(9) },
        Change::TopicCreated {
            topic,
            name: "t".into(),
            settings,
        },
        Change::TopicDeleted { topic },
        Change::GroupCreated {
            group,
            name: "g".into(),
            settings: table,
        },
        Change::GroupDeleted { group },
        Change::Subscribed {
            group,
            topic,
            filter,
            starts: starts.clone(),
        },
        Change::PluginBound {
            name: "sql".into(),
            digest: Digest([7; 32]),
            limits,
        },
        Change::Appended {
            queue,
            first: offset,
            batch: batch.clone(),
        },
        Change::Granted {
            cursor,
            pass,
            holder,
            leases: leases.clone(),
            frontier: offset,
            expires_mono_ms: 6,
        },
        Change::FrontierMoved {
            cursor,
            pass,
            frontier: offset,
        },
        Change::Settled {
            cursor,
            pass,
            offsets: vec![offsets],
        },
        Change::Returned {
            cursor,
            pass,
            leases,
            due_mono_ms: 5,
            reason: ReturnReason::Expired,
        },
        Change::Extended {
            cursor,
            pass,
            offsets: vec![offsets],
            expires_mono_ms: 6,
        },
        Change::DeadLettered {
            cursor,
            pass,
            offset,
            to: queue,
            at_offset: offset,
            batch,
        },
        Change::Sought {
            group,
            topic,
            pass,
            starts,
        },
        Change::Trimmed { queue, start: offset },
        Change::ProducerForgotten {
            producer: ProducerId(1 << 100),
        },
    ];
    changes
        .into_iter()
        .map(|change| Record {
            at: Now { wall_ms: -5, mono_ms: 6 },
            change,
        })
        .collect()
}

#[test]
fn every_kind_survives_and_keeps_its_number() {
    for (index, record) in each().into_iter().enumerate() {
        let bytes = record.encode();
        assert_eq!(peek(&bytes), Ok((index as u16 + 1, record.at)));
        assert!(kind_name(index as u16 + 1).is_some());
        assert_eq!(Record::decode(&bytes), Ok(record));
    }
}

#[test]
fn what_is_cut_short_or_goes_on_is_refused() {
    for record in each() {
        let bytes = record.encode();
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes.slice(..end)).is_err(), "{record:?} cut at {end}");
        }
        assert!(Record::decode(&[&bytes[..], b"x"].concat().into()).is_err());
    }
}

#[test]
fn changed_bytes_never_panic() {
    for record in each() {
        let bytes = record.encode();
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[at / 8] ^= 1 << (at % 8);
            drop(Record::decode(&changed.into()));
        }
    }
}
