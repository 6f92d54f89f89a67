//! State by replay: from any mixture of entries the log behind them makes the same state.

mod harness;

use std::collections::{BTreeMap, BTreeSet};

use harness::batch;
use proptest::prelude::*;
use sluice_core::state::State;
use sluice_core::state::codec::Key;
use sluice_log::record::*;
use sluice_protocol::ids::{Attempt, Digest, Epoch, GroupId, Pass, Position, ProducerId, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::units::Now;

fn queue(topic: u64, index: u16) -> QueueId {
    QueueId {
        topic: TopicId(topic),
        index: QueueIndex(index % 2),
    }
}

fn cursor() -> impl Strategy<Value = CursorId> {
    (0u64..2, 0u64..3, 0u16..2).prop_map(|(group, topic, index)| CursorId {
        group: GroupId(group),
        queue: queue(topic, index),
    })
}

fn offsets() -> impl Strategy<Value = OffsetRange> {
    (0u64..20, 1u64..6).prop_map(|(first, count)| OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(first + count),
    })
}

fn lease() -> impl Strategy<Value = LeaseRange> {
    (offsets(), 1u16..4).prop_map(|(offsets, attempt)| LeaseRange {
        offsets,
        attempt: Attempt(attempt),
    })
}

fn range(first: u64, count: u64) -> OffsetRange {
    OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(first + count),
    }
}

fn priority() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(0u8), 1 => 1u8..3]
}

fn parked() -> impl Strategy<Value = Parked> {
    (0u64..25, 0u64..3, 0u8..3, any::<bool>()).prop_map(|(offset, group, priority, judged)| Parked {
        offset: QueueOffset(offset),
        group,
        priority,
        judged,
    })
}

fn lane_change() -> impl Strategy<Value = Change> {
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

fn fate() -> impl Strategy<Value = Fate> {
    let dead = (0u64..3, 0u64..20).prop_map(|(topic, offset)| Fate::DeadLettered {
        to: queue(topic, 0),
        at_offset: QueueOffset(offset),
        batch: batch(9, offset, 1),
    });
    prop_oneof![dead, Just(Fate::Held), Just(Fate::Delivered), Just(Fate::Skipped)]
}

fn operated() -> impl Strategy<Value = Change> {
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

fn due(number: u64) -> Due {
    Due {
        at_ms: 0,
        number: QueueOffset(number),
    }
}

/// Numbers of topics, groups and epochs are given when the history is made: they are never used again.
fn change() -> impl Strategy<Value = Change> {
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
        2 => "[gh]".prop_map(move |name| Change::GroupCreated { group: GroupId(0), name, settings: group.clone() }),
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
        1 => (0u64..3, 0u16..2, 0u64..9).prop_map(|(topic, index, start)| Change::Trimmed { queue: queue(topic, index), start: QueueOffset(start) }),
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
        1 => (0u128..3).prop_map(|producer| Change::ProducerForgotten { producer: ProducerId(producer) }),
        12 => lane_change(),
    ]
}

/// Takes the message out that a number picks, if one waits.
fn take(waiting: &mut Vec<Due>, pick: &mut Due) -> bool {
    let place = (pick.number.0 as usize).checked_rem(waiting.len());
    place.map(|place| *pick = waiting.swap_remove(place)).is_some()
}

/// A history as the core writes one: every record has its position and a stamp, every creation a number of its own, and nothing is
/// deleted or subscribed to that is not there.
fn history(changes: Vec<Change>) -> Vec<(Position, Record)> {
    let (mut created, mut topics, mut groups) = ([0, 0, 0], BTreeSet::new(), BTreeSet::new());
    let mut queues: BTreeMap<TopicId, u16> = BTreeMap::new();
    let (mut calendars, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    let numbered = changes.into_iter().filter_map(|mut change| {
        let mut next = |kind: usize| {
            let id = created[kind];
            created[kind] += 1;
            id
        };
        let possible = match &mut change {
            Change::Opened { epoch } => {
                epoch.0 = next(0) as u32;
                true
            }
            Change::TopicCreated { topic, .. } => {
                topic.0 = next(1);
                topics.insert(*topic)
            }
            Change::GroupCreated { group, .. } => {
                group.0 = next(2);
                groups.insert(*group)
            }
            Change::TopicDeleted { topic } => topics.remove(topic),
            Change::GroupDeleted { group } => groups.remove(group),
            Change::Subscribed { group, topic, .. } => groups.contains(group) && topics.contains(topic),
            Change::Delayed { topic, first, due_ms, .. } => {
                let waiting: &mut Vec<Due> = calendars.entry(*topic).or_default();
                *first = QueueOffset(*numbers.entry(*topic).or_insert(0));
                let came = due_ms.iter().zip(first.0..);
                waiting.extend(came.map(|(&at_ms, number)| Due { at_ms, ..due(number) }));
                numbers.insert(*topic, first.0 + due_ms.len() as u64);
                topics.contains(topic)
            }
            Change::Released { queue, due, .. } => {
                let waiting = calendars.entry(queue.topic).or_default();
                due.retain_mut(|due| take(waiting, due));
                topics.contains(&queue.topic)
            }
            Change::Operated(Operated {
                operation:
                    Operation::TopicGrown {
                        topic,
                        ends,
                        queues: further,
                        groups: reading,
                    },
                ..
            }) => {
                let has = queues.entry(*topic).or_insert(2);
                *ends = (0..*has).map(|index| QueueOffset(index.into())).collect();
                *has += *further;
                *further = *has;
                reading.retain(|group| groups.contains(group));
                topics.contains(topic)
            }
            Change::Recalled { topic, due } => take(calendars.entry(*topic).or_default(), due) && topics.contains(topic),
            _ => true,
        };
        possible.then_some(change)
    });
    let at = |nth: usize| Now {
        wall_ms: nth as i64,
        mono_ms: nth as u64,
    };
    numbered
        .enumerate()
        .map(|(nth, change)| (Position(100 + 10 * nth as u64), Record { at: at(nth), change }))
        .collect()
}

fn entries(state: &State) -> BTreeMap<Key, bytes::Bytes> {
    let mut entries = BTreeMap::new();
    let mut last = None;
    while let Some(key) = state.next_key(last.as_ref()) {
        entries.insert(key.clone(), state.encode_entry(&key).expect("an entry"));
        last = Some(key);
    }
    entries
}

proptest! {
    #[test]
    fn replay_from_every_mixture_of_entries_makes_the_same_state(
        changes in prop::collection::vec(change(), 1..60),
        from in any::<prop::sample::Index>(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..12),
    ) {
        let history = history(changes);
        let mut states = vec![State::default()];
        for (position, record) in &history {
            let mut next = states.last().expect("a state").clone();
            next.apply(*position, record);
            states.push(next);
        }
        // Every entry as it was at some moment after the beginning of the checkpoint; one that was not there then is left out.
        let from = from.index(states.len());
        let snapshots: Vec<_> = states.iter().map(entries).collect();
        let keys: BTreeSet<Key> = snapshots[from..].iter().flat_map(|entries| entries.keys().cloned()).collect();
        let mut mixed = State::default();
        for (nth, key) in keys.iter().enumerate() {
            let moment = from + picks[nth % picks.len()].index(states.len() - from);
            if let Some(entry) = snapshots[moment].get(key) {
                mixed.restore(entry).expect("an entry");
            }
        }
        for (position, record) in &history[from..] {
            mixed.apply(*position, record);
        }
        prop_assert_eq!(&mixed, states.last().expect("a state"));
    }

    #[test]
    fn a_state_survives_its_entries(changes in prop::collection::vec(change(), 1..60)) {
        let mut state = State::default();
        for (position, record) in history(changes) {
            state.apply(position, &record);
        }
        let mut restored = State::default();
        for entry in entries(&state).values() {
            restored.restore(entry).expect("an entry");
        }
        prop_assert_eq!(restored, state);
    }
}
