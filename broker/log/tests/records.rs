//! Every kind of record survives its encoding, and whatever is not a record is refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod support;

use bytes::Bytes;
use proptest::prelude::*;
use sluice_log::record::*;
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;
use support::expiry::of_expiry;
use support::given_ids::given_id_kinds;
use support::restoration::restoration;
use support::transaction::transaction_kinds;
use support::{calendar_kinds, each_kind, operated};

fn all() -> impl Iterator<Item = Record> {
    let transactions = transaction_kinds();
    each_kind()
        .into_iter()
        .chain(calendar_kinds())
        .chain(transactions)
        .chain(operated())
        .chain(of_expiry())
        .chain(given_id_kinds())
        .chain([restoration()])
}

#[test]
fn every_kind_survives_and_keeps_its_number() {
    let numbered = (1..).zip(each_kind()).chain((21..).zip(calendar_kinds()));
    let numbered = numbered.chain((40..).zip(transaction_kinds())).chain((60..).zip(given_id_kinds()));
    let numbered = numbered.chain([(62, restoration())]);
    for (number, record) in numbered {
        let bytes = record.encode();
        assert_eq!(peek(&bytes), Ok((number, record.at)));
        assert!(kind_name(number).is_some());
        assert_eq!(Record::decode(&bytes), Ok(record));
    }
    for (record, number) in operated().into_iter().chain(of_expiry()).zip((50..57).chain([2])) {
        let bytes = record.encode();
        assert_eq!(peek(&bytes), Ok((number, record.at)));
        assert!(kind_name(number).is_some());
        assert_eq!(Record::decode(&bytes), Ok(record));
    }
}

#[test]
fn what_is_cut_short_or_goes_on_is_refused() {
    for record in all() {
        let bytes = record.encode();
        for end in 0..bytes.len() {
            assert!(Record::decode(&bytes.slice(..end)).is_err(), "{record:?} cut at {end}");
        }
        assert!(Record::decode(&[&bytes[..], b"x"].concat().into()).is_err());
    }
}

#[test]
fn changed_bytes_never_panic() {
    for record in all() {
        let bytes = record.encode();
        for at in 0..bytes.len() * 8 {
            let mut changed = bytes.to_vec();
            changed[at / 8] ^= 1 << (at % 8);
            drop(Record::decode(&changed.into()));
        }
    }
}

fn ranges() -> impl Strategy<Value = Vec<OffsetRange>> {
    let range = (any::<u32>(), 1..1_000_u64).prop_map(|(first, length)| OffsetRange {
        first: QueueOffset(u64::from(first)),
        end: QueueOffset(u64::from(first) + length),
    });
    prop::collection::vec(range, 0..6)
}

fn on_expired(buries: bool) -> OnExpired {
    if buries { OnExpired::DeadLetter } else { OnExpired::Skip }
}

fn leases() -> impl Strategy<Value = Vec<LeaseRange>> {
    (ranges(), any::<u16>()).prop_map(|(ranges, attempt)| {
        let lease = |offsets| LeaseRange {
            offsets,
            attempt: Attempt(attempt),
        };
        ranges.into_iter().map(lease).collect()
    })
}

fn fate(queue: impl Strategy<Value = QueueId>, batch: impl Strategy<Value = Bytes>) -> impl Strategy<Value = Fate> {
    let dead = (queue, any::<u64>(), batch).prop_map(|(to, at, batch)| Fate::DeadLettered {
        to,
        at_offset: QueueOffset(at),
        batch,
    });
    prop_oneof![dead, Just(Fate::Held), Just(Fate::Delivered), Just(Fate::Skipped)]
}

fn dealt(group: GroupId, topic: TopicId, index: u16, offset: u64) -> Operation {
    let queue = QueueId {
        topic,
        index: QueueIndex(index),
    };
    let offsets = OffsetRange {
        first: QueueOffset(offset / 2),
        end: QueueOffset(offset / 2 + 1),
    };
    let sent = SentBack {
        cursor: CursorId { group, queue },
        pass: Pass(1),
        priority: (index % 10) as u8,
        messages: vec![LeaseRange {
            offsets,
            attempt: Attempt(index),
        }],
    };
    Operation::DeadLettersDealt {
        from: queue,
        dealt: vec![offsets; usize::from(index % 3)],
        back: vec![sent; usize::from(index % 4)],
    }
}

fn operation() -> impl Strategy<Value = Operation> {
    (0..5, any::<(u64, Option<u64>)>(), any::<(u16, u32, u64)>()).prop_map(|(kind, (group, topic), (index, pass, offset))| {
        let (group, topic) = (GroupId(group), topic.map(TopicId));
        match kind {
            0 => Operation::Paused { group, topic },
            1 => Operation::Unpaused { group, topic },
            3 => Operation::TopicGrown {
                topic: topic.unwrap_or_default(),
                ends: vec![QueueOffset(offset); usize::from(index % 5)],
                queues: index,
                groups: vec![group; usize::from(index % 3)],
            },
            2 => dealt(group, topic.unwrap_or_default(), index, offset),
            _ => Operation::Skipped {
                cursor: CursorId {
                    group,
                    queue: QueueId {
                        topic: topic.unwrap_or_default(),
                        index: QueueIndex(index),
                    },
                },
                pass: Pass(pass),
                offset: QueueOffset(offset),
            },
        }
    })
}

fn sharing() -> impl Strategy<Value = Sharing> {
    prop_oneof![
        Just(Sharing::Shared),
        Just(Sharing::Broadcast),
        any::<u64>().prop_map(|group| Sharing::MemberOf(GroupId(group)))
    ]
}

/// Any change whose fields vary in length or form.
fn changes() -> impl Strategy<Value = Change> {
    let queue = (any::<u64>(), any::<u16>()).prop_map(|(topic, index)| QueueId {
        topic: TopicId(topic),
        index: QueueIndex(index),
    });
    let cursor = (any::<u64>(), queue.clone()).prop_map(|(group, queue)| CursorId {
        group: GroupId(group),
        queue,
    });
    let starts = prop::collection::vec(
        (queue.clone(), any::<u64>()).prop_map(|(queue, offset)| QueueStart {
            queue,
            offset: QueueOffset(offset),
        }),
        0..5,
    );
    let batch = prop::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
    let member = prop_oneof![
        any::<String>().prop_map(|member| Holder::Stream { member }),
        any::<String>().prop_map(|member| Holder::Receive { member })
    ];
    let filter = prop_oneof![
        Just(Filter::All),
        (any::<String>(), any::<String>()).prop_map(|(plugin, expression)| Filter::Plugin { plugin, expression }),
    ];
    let backoff = prop_oneof![
        prop::collection::vec(any::<u64>(), 0..5).prop_map(|waits_ms| Backoff::Table { waits_ms }),
        any::<(u64, u64)>().prop_map(|(first_ms, max_ms)| Backoff::Exponential { first_ms, max_ms }),
        any::<u64>().prop_map(|wait_ms| Backoff::Fixed { wait_ms }),
    ];
    let start = prop_oneof![
        Just(StartPoint::Earliest),
        Just(StartPoint::Latest),
        any::<i64>().prop_map(|wall_ms| StartPoint::Time { wall_ms })
    ];
    let numbers = any::<(u32, u64, u64)>();
    let due = any::<(i64, u64)>().prop_map(|(at_ms, number)| Due {
        at_ms,
        number: QueueOffset(number),
    });
    let due = prop::collection::vec(due, 0..9);
    prop_oneof![
        (any::<(u64, u16, bool, bool, u8)>(), any::<String>(), backoff, (start, sharing())).prop_map(|(numbers, name, backoff, how)| {
            let (group, attempts_max, ordered, hold, oldest_every) = numbers;
            let (start, sharing) = how;
            let settings = GroupSettings {
                attempts_max,
                backoff,
                start,
                ordered,
                on_exhausted: if hold { OnExhausted::Hold } else { OnExhausted::DeadLetter },
                oldest_every,
                sharing,
            };
            Change::GroupCreated {
                group: GroupId(group),
                name,
                settings,
            }
        }),
        (any::<(u64, u64)>(), filter, starts.clone()).prop_map(|((group, topic), filter, starts)| {
            Change::Subscribed {
                group: GroupId(group),
                topic: TopicId(topic),
                filter,
                starts,
            }
        }),
        (queue.clone(), any::<u64>(), batch.clone()).prop_map(|(queue, first, batch)| {
            Change::Appended {
                queue,
                first: QueueOffset(first),
                batch,
            }
        }),
        (cursor.clone(), numbers, 0u8..3, member, leases()).prop_map(|(cursor, numbers, priority, holder, leases)| {
            let (pass, frontier, expires_mono_ms) = numbers;
            Change::Granted {
                cursor,
                pass: Pass(pass),
                priority,
                holder,
                leases,
                frontier: QueueOffset(frontier),
                expires_mono_ms,
            }
        }),
        (cursor.clone(), numbers, 0u8..3, parked()).prop_map(|(cursor, (pass, frontier, _), priority, parked)| {
            Change::FrontierMoved {
                cursor,
                pass: Pass(pass),
                priority,
                frontier: QueueOffset(frontier),
                parked,
            }
        }),
        (any::<(u64, u16, u64, u64, u64, bool)>(), any::<String>()).prop_map(|(numbers, name)| {
            let (topic, queues, retention_ms, retention_bytes, ttl_ms, buries) = numbers;
            let settings = TopicSettings {
                queues,
                retention_ms,
                retention_bytes,
                ttl_ms,
                on_expired: on_expired(buries),
            };
            Change::TopicCreated {
                topic: TopicId(topic),
                name,
                settings,
            }
        }),
        (cursor.clone(), any::<(u32, u8)>(), ranges(), any::<i64>()).prop_map(|(cursor, (pass, priority), ranges, expires_ms)| {
            Change::DeadlinesFound {
                cursor,
                pass: Pass(pass),
                priority,
                deadlines: ranges.into_iter().map(|offsets| Deadline { offsets, expires_ms }).collect(),
            }
        }),
        (cursor.clone(), any::<(u32, u8, bool)>(), leases()).prop_map(|(cursor, (pass, priority, buries), messages)| {
            Change::Expired {
                cursor,
                pass: Pass(pass),
                priority,
                messages,
                fate: on_expired(buries),
            }
        }),
        (queue.clone(), any::<(u64, u64, u16)>()).prop_map(|(queue, (first, end, priorities))| Change::Prioritized {
            queue,
            first: QueueOffset(first),
            end: QueueOffset(end),
            priorities,
        }),
        (cursor.clone(), any::<u32>(), ranges()).prop_map(|(cursor, pass, offsets)| Change::Settled {
            cursor,
            pass: Pass(pass),
            offsets
        }),
        (cursor.clone(), any::<(u32, u64)>(), leases()).prop_map(|(cursor, (pass, due_mono_ms), leases)| {
            Change::Returned {
                cursor,
                pass: Pass(pass),
                leases,
                due_mono_ms,
                reason: ReturnReason::Closed,
            }
        }),
        (cursor.clone(), queue.clone(), numbers, batch.clone()).prop_map(|(cursor, to, (pass, offset, at), batch)| {
            Change::DeadLettered {
                cursor,
                pass: Pass(pass),
                offset: QueueOffset(offset),
                to,
                at_offset: QueueOffset(at),
                batch,
            }
        }),
        (cursor, fate(queue.clone(), batch.clone()), numbers, any::<[u8; 32]>(), ".{0,40}").prop_map(
            |(cursor, fate, (pass, offset, priority), digest, reason)| {
                Change::CulpritDecided {
                    cursor,
                    pass: Pass(pass),
                    priority: (priority % 10) as u8,
                    offset: QueueOffset(offset),
                    digest: Digest(digest),
                    reason,
                    fate,
                }
            }
        ),
        (any::<(u64, u64)>(), any::<[u8; 32]>(), ".{0,40}").prop_map(|((group, topic), digest, reason)| Change::SubscriptionHeld {
            group: GroupId(group),
            topic: TopicId(topic),
            digest: Digest(digest),
            reason,
        }),
        (operation(), ".{0,40}").prop_map(|(operation, by)| Change::Operated(Operated { by, operation })),
        transactions(queue.clone(), batch.clone()).prop_map(Change::Transaction),
        given_ids(queue.clone()).prop_map(Change::GivenIds),
        parts().prop_map(Change::Parts),
        restorations().prop_map(Change::Restored),
        (any::<(u64, u64)>(), prop::collection::vec(any::<i64>(), 0..9), batch.clone()).prop_map(|((topic, first), due_ms, batch)| {
            Change::Delayed {
                topic: TopicId(topic),
                first: QueueOffset(first),
                due_ms,
                batch,
            }
        }),
        (queue, any::<u64>(), due, batch).prop_map(|(queue, first, due, batch)| Change::Released {
            queue,
            first: QueueOffset(first),
            due,
            batch,
        }),
        (any::<(u64, u64, u32)>(), starts).prop_map(|((group, topic, pass), starts)| {
            Change::Sought {
                group: GroupId(group),
                topic: TopicId(topic),
                pass: Pass(pass),
                starts,
            }
        }),
    ]
}

fn parts() -> impl Strategy<Value = PartChange> {
    let far = || {
        any::<(i64, u64, u64)>().prop_map(|(at_ms, topic, number)| FarOff {
            at_ms,
            topic: TopicId(topic),
            number: QueueOffset(number),
        })
    };
    let (part, some) = (|| any::<u64>().prop_map(PartId), || prop::collection::vec(far(), 0..5));
    let facts = (any::<(u64, u64)>(), far(), far()).prop_map(|((messages, bytes), first, last)| PartFacts {
        messages,
        bytes,
        first,
        last,
    });
    prop_oneof![
        (part(), facts, some(), prop::collection::vec(part(), 0..4), some()).prop_map(|(part, facts, moved, absorbed, dead)| {
            PartChange::Written {
                part,
                facts,
                moved,
                absorbed,
                dead,
            }
        }),
        (part(), some(), any::<u64>(), far(), any::<Option<i64>>()).prop_map(|(part, taken, passed, point, next_ms)| {
            PartChange::TakenIn {
                part,
                taken,
                passed,
                point,
                next_ms,
            }
        }),
        (part(), far()).prop_map(|(part, message)| PartChange::Recalled { part, message }),
        part().prop_map(|part| PartChange::Dropped { part }),
    ]
}

fn given_ids(queue: impl Strategy<Value = QueueId>) -> impl Strategy<Value = GivenIds> {
    let id = any::<(u128, u64, i64)>().prop_map(|(hash, offset, due_ms)| GivenId {
        hash,
        offset: QueueOffset(offset),
        due_ms,
    });
    prop_oneof![
        (queue, any::<bool>(), prop::collection::vec(id, 0..9)).prop_map(|(queue, prepared, ids)| GivenIds::Stored {
            queue,
            prepared,
            ids
        }),
        any::<u64>().prop_map(|minute| GivenIds::Forgotten { minute }),
    ]
}

fn transactions(queue: impl Strategy<Value = QueueId>, batch: impl Strategy<Value = Bytes> + Clone) -> impl Strategy<Value = Transaction> {
    let prepared = any::<(u64, i64, u64)>().prop_map(|(topic, at_ms, number)| Prepared {
        topic: TopicId(topic),
        due: Due {
            at_ms,
            number: QueueOffset(number),
        },
    });
    let asked = any::<(u64, u16)>().prop_map(|(number, asks)| Asked {
        number: QueueOffset(number),
        asks,
    });
    let messages = prop::collection::vec(prepared.clone(), 0..9);
    prop_oneof![
        (any::<(u64, u64)>(), prop::collection::vec(any::<i64>(), 0..9), batch.clone()).prop_map(|((topic, first), due_ms, batch)| {
            Transaction::Prepared {
                topic: TopicId(topic),
                first: QueueOffset(first),
                due_ms,
                batch,
            }
        }),
        (messages.clone(), ".{0,9}").prop_map(|(messages, by)| Transaction::Committed { messages, by }),
        (messages, ".{0,9}").prop_map(|(messages, by)| Transaction::RolledBack { messages, by }),
        (any::<u64>(), prop::collection::vec(asked, 0..9)).prop_map(|(topic, asked)| Transaction::Asked {
            topic: TopicId(topic),
            asked,
        }),
        (prepared.clone(), queue, any::<u64>(), batch.clone()).prop_map(|(message, to, at, batch)| Transaction::GivenUp {
            message,
            to,
            at_offset: QueueOffset(at),
            batch,
        }),
        (prepared, any::<u64>(), batch, ".{0,9}").prop_map(|(message, number, batch, by)| Transaction::Revived {
            message,
            number: QueueOffset(number),
            batch,
            by,
        }),
    ]
}

fn parked() -> impl Strategy<Value = Vec<Parked>> {
    let parked = any::<(u64, u64, u8, bool)>().prop_map(|(offset, group, priority, judged)| Parked {
        offset: QueueOffset(offset),
        group,
        priority,
        judged,
    });
    prop::collection::vec(parked, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_its_fields_hold_a_record_survives(change in changes(), (wall_ms, mono_ms) in any::<(i64, u64)>()) {
        let record = Record { at: Now { wall_ms, mono_ms }, change };
        prop_assert_eq!(Record::decode(&record.encode()), Ok(record));
    }
}

fn restorations() -> impl Strategy<Value = Restoration> {
    let numbers = prop::collection::btree_map(any::<u64>(), any::<u64>(), 0..9);
    (any::<[u8; 16]>(), any::<u32>(), numbers).prop_map(|(mark, epoch, numbers)| Restoration {
        mark,
        epoch: Epoch(epoch),
        numbers: numbers
            .into_iter()
            .map(|(topic, number)| (TopicId(topic), QueueOffset(number)))
            .collect(),
    })
}
