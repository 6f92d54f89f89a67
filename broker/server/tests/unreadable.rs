//! A stored batch that cannot be read: what comes before it is judged all the same, and it is met when the rest is asked about.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::sync::Arc;

use bytes::Bytes;
use sluice_log::record::{Change, Record};
use sluice_log::{FaultyStorage, Log, LogConfig, LogReader, Start, Storage as _};
use sluice_plugin_host::{FilterHandle, Host, HostConfig, PluginLimits, builtin};
use sluice_protocol::batch::{BatchBuilder, NewMessage};
use sluice_protocol::ids::{ProducerId, QueueId, QueueOffset, Sequence};
use sluice_protocol::units::Now;
use sluice_server::judge::{Among, Judge, JudgeError, Judged, Stretch};

/// Ten messages with the tag that the filter wants.
fn batch(first: u64) -> Bytes {
    let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(first));
    for _ in 0..10 {
        let message = NewMessage::<&str> {
            tag: Some("wanted"),
            ..NewMessage::default()
        };
        builder.push(&message, b"body").unwrap();
    }
    builder.finish()
}

/// A log that keeps nothing in memory, with three batches in a queue, of which the second cannot be read.
fn damaged() -> LogReader {
    let storage = FaultyStorage::new(1);
    let config = LogConfig {
        tail_cache_bytes: 0,
        segment_bytes: 1 << 20,
        ..LogConfig::default()
    };
    let start = Start {
        wall_ms: 1_000,
        random: [7; 24],
    };
    let mut opened = Log::open(Arc::new(storage.clone()), config, start).unwrap();
    for first in [0, 10, 20] {
        let change = Change::Appended {
            queue: QueueId::default(),
            first: QueueOffset(first),
            batch: batch(first),
        };
        let at = Now {
            wall_ms: 1_000,
            mono_ms: 0,
        };
        opened
            .writer
            .append(opened.writer.end(), &[Record { at, change }.encode()])
            .unwrap();
    }
    opened.writer.sync().unwrap();
    let place = opened
        .reader
        .batches(QueueId::default(), QueueOffset(10), QueueOffset(11))
        .unwrap()
        .remove(0);
    // Segments begin with a header of 64 bytes; the last byte before the bodies is under the checksum.
    let at = 64 + place.position.0 + u64::from(place.attribute_bytes) - 1;
    for entry in storage.list().unwrap() {
        storage.flip(&entry.name, at, 1);
    }
    opened.reader
}

fn judge(judge: &mut Judge, reader: &LogReader, filter: &FilterHandle, from: u64) -> Result<Judged, JudgeError> {
    let stretch = Stretch {
        queue: QueueId::default(),
        among: Among::All,
        ttl: None,
        from: QueueOffset(from),
        to: QueueOffset(30),
        calls_max: 30,
    };
    let outcomes = judge.stored(reader, std::slice::from_ref(filter), stretch)?;
    Ok(outcomes.into_iter().next().unwrap().unwrap())
}

#[test]
fn what_comes_before_an_unreadable_batch_is_judged_with_and_without_a_hint() {
    let host = Host::new(HostConfig::default()).unwrap();
    let module = host.load(builtin::FILTER_TAG).unwrap();
    let hinted = host.filter(module.digest(), "wanted", PluginLimits::default()).unwrap();
    assert!(hinted.hint().is_some());
    for filter in [hinted.clone(), hinted.without_hint()] {
        let (reader, mut worker) = (damaged(), Judge::new(&host));
        let judged = judge(&mut worker, &reader, &filter, 0).unwrap();
        assert_eq!(judged.deliver, (0..10).map(QueueOffset).collect::<Vec<_>>());
        assert_eq!(judged.to, QueueOffset(10), "the rest is asked about again");
        for within in [10, 15] {
            assert!(judge(&mut worker, &reader, &filter, within).is_err(), "it is met");
        }
        let behind = judge(&mut worker, &reader, &filter, 20).unwrap();
        assert_eq!((behind.deliver.len(), behind.to), (10, QueueOffset(30)));
    }
}
