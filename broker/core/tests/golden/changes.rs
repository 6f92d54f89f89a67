//! Changes whose entries the golden files of lanes, expiry and transactions hold.

use super::*;

/// A broadcast group, a member of it that is absent, and one that is there again.
pub(super) fn broadcast() -> Vec<Change> {
    let created = |group, name: &str, sharing| Change::GroupCreated {
        group: GroupId(group),
        name: name.to_owned(),
        settings: GroupSettings {
            attempts_max: 16,
            backoff: Backoff::Fixed { wait_ms: 5 },
            start: StartPoint::Latest,
            ordered: false,
            on_exhausted: OnExhausted::DeadLetter,
            oldest_every: OLDEST_EVERY,
            sharing,
        },
    };
    let absent = |group, since_mono_ms| {
        Change::Operated(Operated {
            by: "broker".to_owned(),
            operation: Operation::Absent {
                group: GroupId(group),
                since_mono_ms,
            },
        })
    };
    vec![
        created(7, "all", Sharing::Broadcast),
        created(8, "all/one", Sharing::MemberOf(GROUP)),
        created(9, "all/other", Sharing::MemberOf(GROUP)),
        absent(8, Some(70)),
        absent(9, Some(80)),
        absent(9, None),
    ]
}

/// What priorities and order add: a queue that knows some, lanes, a group with an order, and what it parked.
pub(super) fn lanes() -> Vec<Change> {
    let cursor = CursorId {
        group: GROUP,
        queue: queue(TOPIC),
    };
    let ordered = CursorId {
        group: GroupId(8),
        queue: queue(TOPIC),
    };
    let subscribed = |group| Change::Subscribed {
        group,
        topic: TOPIC,
        filter: Filter::All,
        starts: vec![QueueStart {
            queue: queue(TOPIC),
            offset: QueueOffset(0),
        }],
    };
    let group = |group, settings| Change::GroupCreated {
        group,
        name: format!("group-{}", group.0),
        settings,
    };
    let settings = |ordered| GroupSettings {
        attempts_max: 16,
        backoff: Backoff::Fixed { wait_ms: 5 },
        start: StartPoint::Earliest,
        ordered,
        on_exhausted: if ordered { OnExhausted::Hold } else { OnExhausted::DeadLetter },
        oldest_every: if ordered { 0 } else { OLDEST_EVERY },
        sharing: Sharing::Shared,
    };
    let parked = |offset, judged| Parked {
        offset: QueueOffset(offset),
        group: 0xfeed,
        priority: 3,
        judged,
    };
    vec![
        topic(TOPIC, "orders"),
        group(GROUP, settings(false)),
        group(GroupId(8), settings(true)),
        subscribed(GROUP),
        subscribed(GroupId(8)),
        Change::Prioritized {
            queue: queue(TOPIC),
            first: QueueOffset(2),
            end: QueueOffset(12),
            priorities: 0b1000,
        },
        Change::Appended {
            queue: queue(TOPIC),
            first: QueueOffset(0),
            batch: batch(9, 0, 12),
        },
        Change::Granted {
            cursor,
            pass: Pass(1),
            priority: 3,
            holder: Holder::Receive { member: "m".to_owned() },
            leases: vec![LeaseRange {
                offsets: offsets(2, 4),
                attempt: Attempt(1),
            }],
            frontier: QueueOffset(4),
            expires_mono_ms: 60_000,
        },
        Change::FrontierMoved {
            cursor: ordered,
            pass: Pass(1),
            priority: 0,
            frontier: QueueOffset(6),
            parked: vec![parked(4, true), parked(5, true), parked(7, false)],
        },
    ]
}

/// What expiry adds: a topic whose messages live for a time, a queue in which some have a time of their own, deadlines of what nobody has and of
/// what is handed out, and a message that is given up for it.
pub(super) fn expiry() -> Vec<Change> {
    let cursor = CursorId {
        group: GROUP,
        queue: queue(TOPIC),
    };
    let lifetime = |mut change: Change| {
        if let Change::TopicCreated { settings, .. } = &mut change {
            (settings.ttl_ms, settings.on_expired) = (60_000, OnExpired::DeadLetter);
        }
        change
    };
    let deadline = |first, end, expires_ms| Deadline {
        offsets: offsets(first, end),
        expires_ms,
    };
    vec![
        lifetime(topic(TOPIC, "orders")),
        Change::Expiring {
            queue: queue(TOPIC),
            first: QueueOffset(2),
            end: QueueOffset(12),
        },
        Change::Subscribed {
            group: GROUP,
            topic: TOPIC,
            filter: Filter::All,
            starts: vec![QueueStart {
                queue: queue(TOPIC),
                offset: QueueOffset(0),
            }],
        },
        Change::DeadlinesFound {
            cursor,
            pass: Pass(1),
            priority: 0,
            deadlines: vec![deadline(0, 4, 1_700_000_060_000), deadline(4, 9, 1_700_000_060_500)],
        },
        Change::Granted {
            cursor,
            pass: Pass(1),
            priority: 0,
            holder: Holder::Receive { member: "m".to_owned() },
            leases: vec![LeaseRange {
                offsets: offsets(0, 2),
                attempt: Attempt(1),
            }],
            frontier: QueueOffset(3),
            expires_mono_ms: 60_000,
        },
        Change::Expired {
            cursor,
            pass: Pass(1),
            priority: 0,
            messages: vec![LeaseRange {
                offsets: offsets(3, 4),
                attempt: Attempt(0),
            }],
            fate: OnExpired::DeadLetter,
        },
    ]
}

/// Messages that wait for a decision, were committed, rolled back, or given up.
pub(super) fn transactions() -> Vec<Change> {
    let prepared = |number, at_ms| Prepared {
        topic: TOPIC,
        due: Due {
            at_ms,
            number: QueueOffset(number),
        },
    };
    let transactions = [
        Transaction::Prepared {
            topic: TOPIC,
            first: QueueOffset(0),
            due_ms: vec![0, 1_800_000_000_000, 0, 0, 0],
            batch: batch(9, 0, 5),
        },
        Transaction::Committed {
            messages: vec![prepared(1, 1_800_000_000_000)],
            by: String::new(),
        },
        Transaction::RolledBack {
            messages: vec![prepared(2, 0)],
            by: "ops-1".to_owned(),
        },
        Transaction::Asked {
            topic: TOPIC,
            asked: vec![Asked {
                number: QueueOffset(3),
                asks: 15,
            }],
        },
        Transaction::GivenUp {
            message: prepared(4, 0),
            to: queue(TOPIC),
            at_offset: QueueOffset(0),
            batch: batch(9, 4, 1),
        },
    ];
    let changes = transactions.map(Change::Transaction);
    [vec![topic(TOPIC, "orders")], changes.into()].concat()
}

/// Ids that producers gave their messages.
pub(super) fn given_ids() -> Vec<Change> {
    let stored = |queue, prepared, hash, due_ms| GivenIds::Stored {
        queue,
        prepared,
        ids: vec![GivenId {
            hash,
            offset: QueueOffset(7),
            due_ms,
        }],
    };
    let changes = [
        stored(queue(TOPIC), false, 5, 0),
        stored(TOPIC.calendar(), false, 69, 1_800_000_000_000),
        stored(TOPIC.calendar(), true, 6, 0),
    ];
    changes.map(Change::GivenIds).into()
}

/// Messages that are far off: in a part, taken in from it, recalled there, and another part that was merged.
pub(super) fn parts() -> Vec<Change> {
    let far = |at_ms, number| FarOff {
        at_ms,
        topic: TOPIC,
        number: QueueOffset(number),
    };
    let messages = [far(1_800_000_000_000, 1), far(1_800_000_000_500, 2), far(1_800_000_900_000, 0)];
    let written = |part, facts, moved, absorbed| PartChange::Written {
        part: PartId(part),
        facts,
        moved,
        absorbed,
        dead: Vec::new(),
    };
    let facts = PartFacts {
        messages: 3,
        bytes: 900,
        first: messages[0],
        last: messages[2],
    };
    let changes = [
        written(64, facts, messages.into(), Vec::new()),
        written(128, facts, Vec::new(), vec![PartId(64)]),
        PartChange::TakenIn {
            part: PartId(128),
            taken: vec![messages[0]],
            passed: 1,
            point: messages[0],
            next_ms: Some(messages[1].at_ms),
        },
        PartChange::Recalled {
            part: PartId(128),
            message: messages[2],
        },
    ];
    let delayed = Change::Delayed {
        topic: TOPIC,
        first: QueueOffset(0),
        due_ms: vec![1_800_000_900_000, 1_800_000_000_000, 1_800_000_000_500, 1_700_000_000_000],
        batch: batch(9, 0, 4),
    };
    [vec![topic(TOPIC, "orders"), delayed], changes.map(Change::Parts).into()].concat()
}

/// Two restorations, the first of a log that had given no numbers.
pub(super) fn restorations() -> Vec<Change> {
    let restored = |mark, epoch, numbers| {
        Change::Restored(Restoration {
            mark: [mark; 16],
            epoch: Epoch(epoch),
            numbers,
        })
    };
    vec![restored(1, 3, Vec::new()), restored(2, 9, vec![(TOPIC, QueueOffset(40))])]
}

/// A group that lost messages to retention.
pub(super) fn losses() -> Vec<Change> {
    vec![
        topic(TOPIC, "orders"),
        Change::Subscribed {
            group: GROUP,
            topic: TOPIC,
            filter: Filter::All,
            starts: vec![QueueStart {
                queue: queue(TOPIC),
                offset: QueueOffset(0),
            }],
        },
        Change::Trimmed {
            queue: queue(TOPIC),
            start: QueueOffset(7),
            lost: vec![(GROUP, 4)],
        },
    ]
}
