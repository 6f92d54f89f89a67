//! Any changes there may be, for histories.

use super::*;

pub(super) fn queue(topic: u64, index: u16) -> QueueId {
    QueueId {
        topic: TopicId(topic),
        index: QueueIndex(index % 2),
    }
}

pub(super) fn cursor() -> impl Strategy<Value = CursorId> {
    (0u64..2, 0u64..3, 0u16..2).prop_map(|(group, topic, index)| CursorId {
        group: GroupId(group),
        queue: queue(topic, index),
    })
}

pub(super) fn offsets() -> impl Strategy<Value = OffsetRange> {
    (0u64..20, 1u64..6).prop_map(|(first, count)| OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(first + count),
    })
}

pub(super) fn lease() -> impl Strategy<Value = LeaseRange> {
    (offsets(), 1u16..4).prop_map(|(offsets, attempt)| LeaseRange {
        offsets,
        attempt: Attempt(attempt),
    })
}

pub(super) fn range(first: u64, count: u64) -> OffsetRange {
    OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(first + count),
    }
}

pub(super) fn priority() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 1 => 1u8..3]
}

pub(super) fn parked() -> impl Strategy<Value = Parked> {
    (0u64..25, 0u64..3, 0u8..3, any::<bool>()).prop_map(|(offset, group, priority, judged)| Parked {
        offset: QueueOffset(offset),
        group,
        priority,
        judged,
    })
}

pub(super) fn lane_change() -> impl Strategy<Value = Change> {
    let pass = || (1u32..3).prop_map(Pass);
    let holder = prop_oneof![
        Just(Holder::Stream { member: "s".to_owned() }),
        Just(Holder::Receive { member: "r".to_owned() })
    ];
    let reason = prop_oneof![
        Just(ReturnReason::Nacked),
        Just(ReturnReason::Closed),
        Just(ReturnReason::ConnectionLost)
    ];
    prop_oneof![
        (
            cursor(),
            (pass(), priority()),
            holder,
            prop::collection::vec(lease(), 1..3),
            0u64..25,
            0u64..50
        )
            .prop_map(|(cursor, (pass, priority), holder, leases, frontier, expires_mono_ms)| {
                Change::Granted {
                    cursor,
                    pass,
                    priority,
                    holder,
                    leases,
                    frontier: QueueOffset(frontier),
                    expires_mono_ms,
                }
            }),
        (cursor(), pass(), priority(), 0u64..25, prop::collection::vec(parked(), 0..4)).prop_map(|(cursor, pass, priority, at, parked)| {
            Change::FrontierMoved {
                cursor,
                pass,
                priority,
                frontier: QueueOffset(at),
                parked,
            }
        }),
        (cursor(), pass(), prop::collection::vec(offsets(), 1..3)).prop_map(|(cursor, pass, offsets)| Change::Settled {
            cursor,
            pass,
            offsets
        }),
        (cursor(), pass(), prop::collection::vec(lease(), 1..3), 0u64..50, reason).prop_map(
            |(cursor, pass, leases, due_mono_ms, reason)| Change::Returned {
                cursor,
                pass,
                leases,
                due_mono_ms,
                reason
            }
        ),
        (cursor(), pass(), prop::collection::vec(offsets(), 1..3), 0u64..50).prop_map(|(cursor, pass, offsets, expires_mono_ms)| {
            Change::Extended {
                cursor,
                pass,
                offsets,
                expires_mono_ms,
            }
        }),
    ]
}

pub(super) fn fate() -> impl Strategy<Value = Fate> {
    let dead = (0u64..3, 0u64..20).prop_map(|(topic, offset)| Fate::DeadLettered {
        to: queue(topic, 0),
        at_offset: QueueOffset(offset),
        batch: batch(9, offset, 1),
    });
    prop_oneof![dead, Just(Fate::Held), Just(Fate::Delivered), Just(Fate::Skipped)]
}

pub(super) fn operated() -> impl Strategy<Value = Change> {
    let scope = || (0u64..2, prop::option::of(0u64..3)).prop_map(|(group, topic)| (GroupId(group), topic.map(TopicId)));
    let operation = prop_oneof![
        scope().prop_map(|(group, topic)| Operation::Paused { group, topic }),
        scope().prop_map(|(group, topic)| Operation::Unpaused { group, topic }),
        (cursor(), 1u32..3, 0u64..25).prop_map(|(cursor, pass, offset)| Operation::Skipped {
            cursor,
            pass: Pass(pass),
            offset: QueueOffset(offset),
        }),
        (0u64..3, offsets(), cursor(), 1u32..3, lease()).prop_map(|(topic, dealt, cursor, pass, message)| {
            Operation::DeadLettersDealt {
                from: queue(topic, 0),
                dealt: vec![dealt],
                back: vec![SentBack {
                    cursor,
                    pass: Pass(pass),
                    priority: 0,
                    messages: vec![message],
                }],
            }
        }),
        (0u64..2, prop::option::of(0u64..50)).prop_map(|(group, since_mono_ms)| Operation::Absent {
            group: GroupId(group),
            since_mono_ms,
        }),
        // Where its queues end, and how many it had, is put in when the history is made.
        (0u64..3, 1u16..3, prop::collection::vec((0u64..2).prop_map(GroupId), 0..2)).prop_map(|(topic, queues, groups)| {
            Operation::TopicGrown {
                topic: TopicId(topic),
                ends: Vec::new(),
                queues,
                groups,
            }
        }),
    ];
    ("[ab]", operation).prop_map(|(by, operation)| Change::Operated(Operated { by, operation }))
}

pub(super) fn due(number: u64) -> Due {
    Due {
        at_ms: 0,
        number: QueueOffset(number),
    }
}

/// Numbers of topics, groups and epochs are given when the history is made: they are never used again.
/// Which of the messages that wait for a decision, or were given up, is chosen when the history is made.
pub(super) fn transaction() -> impl Strategy<Value = Transaction> {
    let message = || {
        (0u64..3, 0u64..9).prop_map(|(topic, pick)| Prepared {
            topic: TopicId(topic),
            due: due(pick),
        })
    };
    let messages = || prop::collection::vec(message(), 1..4);
    prop_oneof![
        (0u64..3, prop::collection::vec(0i64..5_000, 1..5), 0u128..3, 0u64..40).prop_map(|(topic, due_ms, producer, sequence)| {
            let batch = batch(producer, sequence * 40, due_ms.len() as u64);
            Transaction::Prepared {
                topic: TopicId(topic),
                first: QueueOffset(0),
                due_ms,
                batch,
            }
        }),
        messages().prop_map(|messages| Transaction::Committed {
            messages,
            by: String::new()
        }),
        messages().prop_map(|messages| Transaction::RolledBack {
            messages,
            by: String::new()
        }),
        (message(), 1u16..5).prop_map(|(message, asks)| Transaction::Asked {
            topic: message.topic,
            asked: vec![Asked {
                number: message.due.number,
                asks
            }],
        }),
        (message(), 0u64..3, 0u64..20).prop_map(|(message, topic, at)| Transaction::GivenUp {
            message,
            to: queue(topic, 0),
            at_offset: QueueOffset(at),
            batch: batch(9, at, 1),
        }),
        message().prop_map(|message| Transaction::Revived {
            message,
            number: QueueOffset(0),
            batch: batch(9, 0, 1),
            by: String::new(),
        }),
    ]
}

pub(super) fn change() -> impl Strategy<Value = Change> {
    let settings = TopicSettings {
        queues: 2,
        retention_ms: 0,
        retention_bytes: 0,
        ttl_ms: 0,
        on_expired: OnExpired::Skip,
    };
    let group = GroupSettings {
        attempts_max: 3,
        backoff: Backoff::Fixed { wait_ms: 1 },
        start: StartPoint::Earliest,
        ordered: false,
        on_exhausted: OnExhausted::DeadLetter,
        oldest_every: OLDEST_EVERY,
        sharing: Sharing::Shared,
    };
    let filter = prop_oneof![
        Just(Filter::All),
        "[ab]".prop_map(|expression| Filter::Plugin {
            plugin: "p".to_owned(),
            expression
        })
    ];
    prop_oneof![
        1 => Just(Change::Opened { epoch: Epoch(0) }),
        2 => "[tu]".prop_map(move |name| Change::TopicCreated { topic: TopicId(0), name, settings }),
        1 => "[tu]".prop_map(move |name| Change::TopicCreated {
            topic: TopicId(0),
            name,
            settings: TopicSettings { ttl_ms: 5, on_expired: OnExpired::DeadLetter, ..settings },
        }),
        1 => (0u64..3).prop_map(|topic| Change::TopicDeleted { topic: TopicId(topic) }),
        2 => ("[gh]", 0u64..2).prop_map(move |(name, parent)| {
            let sharing = Sharing::MemberOf(GroupId(parent));
            Change::GroupCreated { group: GroupId(0), name, settings: GroupSettings { sharing, ..group.clone() } }
        }),
        1 => (0u64..2).prop_map(|group| Change::GroupDeleted { group: GroupId(group) }),
        4 => (0u64..2, 0u64..3, filter, 0u64..5).prop_map(|(group, topic, filter, offset)| Change::Subscribed {
            group: GroupId(group),
            topic: TopicId(topic),
            filter,
            starts: (0..2).map(|index| QueueStart { queue: queue(topic, index), offset: QueueOffset(offset) }).collect(),
        }),
        1 => (any::<u8>(), "[pq]").prop_map(|(digest, name)| Change::PluginBound {
            name,
            digest: Digest([digest; 32]),
            limits: PluginLimits { fuel_per_run: 1, fuel_per_message: 1, run_ms: 1, memory_bytes: 1 },
            on_failure: OnFailure::Hold,
        }),
        5 => (0u64..3, 0u16..2, 0u64..20, 0u128..3, 0u64..40, 1u64..4).prop_map(|(topic, index, first, producer, sequence, count)| {
            Change::Appended { queue: queue(topic, index), first: QueueOffset(first), batch: batch(producer, sequence * 40, count) }
        }),
        2 => (cursor(), 0u64..20, 0u64..3).prop_map(|(cursor, offset, topic)| Change::DeadLettered {
            cursor,
            pass: Pass(1),
            offset: QueueOffset(offset),
            to: queue(topic, 0),
            at_offset: QueueOffset(offset),
            batch: batch(9, offset, 1),
        }),
        1 => (0u64..2, 0u64..3, 0u64..9).prop_map(|(group, topic, offset)| Change::Sought {
            group: GroupId(group),
            topic: TopicId(topic),
            pass: Pass(2),
            starts: vec![QueueStart { queue: queue(topic, 1), offset: QueueOffset(offset) }],
        }),
        1 => (0u64..3, 0u16..2, 0u64..9, losses()).prop_map(|(topic, index, start, lost)| {
            Change::Trimmed { queue: queue(topic, index), start: QueueOffset(start), lost }
        }),
        2 => (0u64..3, 0u16..2, 0u64..20, 1u64..4, 1u16..8).prop_map(|(topic, index, first, count, priorities)| Change::Prioritized {
            queue: queue(topic, index),
            first: QueueOffset(first),
            end: QueueOffset(first + count),
            priorities: priorities << 1,
        }),
        2 => (0u64..3, 0u16..2, 0u64..20, 1u64..4).prop_map(|(topic, index, first, count)| Change::Expiring {
            queue: queue(topic, index),
            first: QueueOffset(first),
            end: QueueOffset(first + count),
        }),
        4 => (cursor(), 0u64..20, 1u64..4, priority(), -1i64..9).prop_map(|(cursor, first, count, priority, expires_ms)| Change::DeadlinesFound {
            cursor,
            priority,
            pass: Pass(1),
            deadlines: vec![Deadline { offsets: range(first, count), expires_ms }],
        }),
        3 => (cursor(), 0u64..20, 1u64..3, priority(), any::<bool>()).prop_map(|(cursor, first, count, priority, buries)| Change::Expired {
            cursor,
            priority,
            pass: Pass(1),
            messages: vec![LeaseRange { offsets: range(first, count), attempt: Attempt(1) }],
            fate: if buries { OnExpired::DeadLetter } else { OnExpired::Skip },
        }),
        3 => (cursor(), 0u64..20, priority(), fate()).prop_map(|(cursor, offset, priority, fate)| Change::CulpritDecided {
            cursor,
            priority,
            pass: Pass(1),
            offset: QueueOffset(offset),
            digest: Digest([1; 32]),
            reason: "trap".to_owned(),
            fate,
        }),
        1 => (0u64..2, 0u64..3).prop_map(|(group, topic)| Change::SubscriptionHeld {
            group: GroupId(group),
            topic: TopicId(topic),
            digest: Digest([1; 32]),
            reason: "trap".to_owned(),
        }),
        1 => (0u64..2, 0u64..3).prop_map(|(group, topic)| Change::SubscriptionResumed {
            group: GroupId(group),
            topic: TopicId(topic),
        }),
        4 => operated(),
        4 => (0u64..3, prop::collection::vec(0i64..5_000, 1..5), 0u128..3, 0u64..40).prop_map(|(topic, due_ms, producer, sequence)| {
            let batch = batch(producer, sequence * 40, due_ms.len() as u64);
            Change::Delayed { topic: TopicId(topic), first: QueueOffset(0), due_ms, batch }
        }),
        // Which of the messages that wait is chosen when the history is made.
        3 => (0u64..3, prop::collection::vec(0u64..9, 1..4)).prop_map(|(topic, picks)| Change::Released {
            queue: queue(topic, 0),
            first: QueueOffset(0),
            batch: batch(9, 0, picks.len() as u64),
            due: picks.into_iter().map(due).collect(),
        }),
        1 => (0u64..3, 0u64..9).prop_map(|(topic, pick)| Change::Recalled { topic: TopicId(topic), due: due(pick) }),
        5 => transaction().prop_map(Change::Transaction),
        4 => given_ids().prop_map(Change::GivenIds),
        1 => (0u8..9, 0u64..40).prop_map(|(mark, number)| Change::Restored(Restoration {
            mark: [mark; 16],
            epoch: Epoch(number as u32),
            numbers: vec![(TopicId(1), QueueOffset(number))],
        })),
        8 => parts::part_change().prop_map(Change::Parts),
        1 => (0u128..3).prop_map(|producer| Change::ProducerForgotten { producer: ProducerId(producer) }),
        12 => lane_change(),
    ]
}

fn losses() -> impl Strategy<Value = Vec<(GroupId, u64)>> {
    prop::collection::vec(((0u64..2).prop_map(GroupId), 1u64..9), 0..2)
}

fn given_ids() -> impl Strategy<Value = GivenIds> {
    let id = (0u128..200, 0u64..9).prop_map(|(hash, offset)| GivenId {
        hash,
        offset: QueueOffset(offset),
        due_ms: 0,
    });
    prop_oneof![
        5 => (0u64..3, prop::collection::vec(id, 1..6), any::<bool>()).prop_map(|(topic, ids, prepared)| GivenIds::Stored {
            queue: queue(topic, 0),
            prepared,
            ids,
        }),
        1 => (0u64..4).prop_map(|minute| GivenIds::Forgotten { minute }),
    ]
}
