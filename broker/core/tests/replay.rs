//! State by replay: from any mixture of entries the log behind them makes the same state.

#[path = "replay/changes.rs"]
mod changes;
mod harness;
#[path = "replay/parts.rs"]
mod parts;

use std::collections::{BTreeMap, BTreeSet};

use changes::{change, due};
use harness::batch;
use parts::Parted;
use proptest::prelude::*;
use sluice_core::state::State;
use sluice_core::state::codec::Key;
use sluice_log::record::*;
use sluice_protocol::ids::{Attempt, Digest, Epoch, GroupId, Pass, Position, ProducerId, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::units::Now;

/// Takes the message out that a number picks, if one waits.
fn take(waiting: &mut Vec<Due>, pick: &mut Due) -> bool {
    let place = (pick.number.0 as usize).checked_rem(waiting.len());
    place.map(|place| *pick = waiting.swap_remove(place)).is_some()
}

fn take_prepared(waiting: &mut BTreeMap<TopicId, Vec<Due>>, message: &mut Prepared) -> bool {
    take(waiting.entry(message.topic).or_default(), &mut message.due)
}

/// A history as the core writes one: every record has its position and a stamp, every creation a number of its own, and nothing is
/// deleted or subscribed to that is not there.
fn history(changes: Vec<Change>) -> Vec<(Position, Record)> {
    let (mut created, mut topics, mut groups) = ([0, 0, 0], BTreeSet::new(), BTreeSet::new());
    let mut queues: BTreeMap<TopicId, u16> = BTreeMap::new();
    let (mut calendars, mut numbers) = (BTreeMap::new(), BTreeMap::new());
    let mut parted = Parted::default();
    let (mut undecided, mut given_up) = (BTreeMap::new(), BTreeMap::new());
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
                let taken = parted.taken.entry(queue.topic).or_default();
                due.retain_mut(|due| take(waiting, due) || take(taken, due));
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
            Change::Recalled { topic, due } => {
                let (waiting, taken) = (calendars.entry(*topic).or_default(), parted.taken.entry(*topic).or_default());
                (take(taken, due) || take(waiting, due)) && topics.contains(topic)
            }
            Change::Parts(change) => parted.made_possible(change, &mut calendars, &topics),
            Change::Transaction(Transaction::Prepared { topic, first, due_ms, .. }) => {
                let waiting: &mut Vec<Due> = undecided.entry(*topic).or_default();
                *first = QueueOffset(*numbers.entry(*topic).or_insert(0));
                waiting.extend(due_ms.iter().zip(first.0..).map(|(&at_ms, number)| Due { at_ms, ..due(number) }));
                numbers.insert(*topic, first.0 + due_ms.len() as u64);
                topics.contains(topic)
            }
            Change::Transaction(Transaction::Committed { messages, .. }) => {
                messages.retain_mut(|message| topics.contains(&message.topic) && take_prepared(&mut undecided, message));
                let came = messages.iter().map(|message| (message.topic, message.due));
                came.for_each(|(topic, due)| calendars.entry(topic).or_default().push(due));
                !messages.is_empty()
            }
            Change::Transaction(Transaction::RolledBack { messages, .. }) => {
                messages.retain_mut(|message| topics.contains(&message.topic) && take_prepared(&mut undecided, message));
                !messages.is_empty()
            }
            Change::Transaction(Transaction::Asked { topic, asked }) => {
                let waiting = undecided.get(topic).into_iter().flatten().map(|due| due.number);
                let number = waiting.clone().nth(asked[0].number.0 as usize % waiting.count().max(1));
                number.map(|number| asked[0].number = number).is_some() && topics.contains(topic)
            }
            Change::Transaction(Transaction::GivenUp { message, to, .. }) => {
                let possible = topics.contains(&message.topic) && topics.contains(&to.topic) && take_prepared(&mut undecided, message);
                if possible {
                    given_up.entry(message.topic).or_insert_with(Vec::new).push(message.due);
                }
                possible
            }
            Change::Transaction(Transaction::Revived { message, number, .. }) => {
                let possible = topics.contains(&message.topic) && take_prepared(&mut given_up, message);
                if possible {
                    let next = numbers.entry(message.topic).or_insert(0);
                    *number = QueueOffset(*next);
                    *next += 1;
                    let due = Due {
                        number: *number,
                        ..message.due
                    };
                    calendars.entry(message.topic).or_default().push(due);
                }
                possible
            }
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
