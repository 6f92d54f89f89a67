//! The end of a run: all faults stop, and everything must come to its end; then every promise is checked against the log.

use std::collections::{BTreeMap, BTreeSet};

use sluice_core::input::{Admin, ConnectionId, Input, RequestId};
use sluice_log::KeyedRange;
use sluice_protocol::batch::key_hash;
use sluice_protocol::ids::{MessageId, ProducerId, QueueIndex, QueueOffset, Sequence, TopicId};

use crate::clients::Client;
use crate::content::content;
use crate::laws::Law;
use crate::oracle::Confirmed;
use crate::world::{Route, World};

/// Steps after the healing within which everything must be over.
const STEPS_TO_HEAL: u64 = 60_000;
/// The time after the healing within which everything must be over, in milliseconds: more than the waits of the default table take together.
const HEALING_MS_MAX: u64 = 86_400_000;

impl World {
    /// Heals the world and demands that all is finished.
    pub(crate) fn finish(&mut self) {
        self.healed = true;
        self.network.losses_per_mille = 0;
        self.mood = crate::failing::Mood::Well;
        self.oracle.asked.trials.heal();
        self.storage.full_after(None);
        self.storage.limit(None);
        let over_by_ms = self.clock.true_ms + HEALING_MS_MAX;
        for _ in 0..STEPS_TO_HEAL {
            if self.is_over() {
                return;
            }
            if self.clock.true_ms > over_by_ms {
                break;
            }
            self.step();
            if self.nothing_moves() {
                let idle = self.clients.iter().all(Client::is_done);
                let waits = !self.oracle.book.delays.waiting.is_empty() || !self.oracle.book.decisions.undecided.is_empty();
                let overdue = self.oracle.overdue(self.clock.now().mono_ms);
                if idle && !waits && overdue.is_empty() && self.oracle.lags().iter().all(|(_, lag)| *lag == 0) {
                    break;
                }
                self.sleep(idle);
            }
        }
        self.finished = true;
        self.oracle.seen.settle_suspicions(&mut self.oracle.court);
        self.demand_the_end();
        self.count_parts();
        self.describe_groups();
        self.read_everything();
        self.search_everything();
        self.compare_histories();
    }

    /// Whether nothing is under way anywhere but time.
    fn nothing_moves(&self) -> bool {
        let idle = self
            .shell
            .as_ref()
            .is_some_and(|shell| shell.jobs.is_empty() && shell.delivered.is_empty() && shell.disk.is_empty());
        idle && self.network.is_quiet()
    }

    /// Time passes until the core wants to be woken, or until a client that has something to do would do it.
    fn sleep(&mut self, idle: bool) {
        let now = self.clock.now().mono_ms;
        let deadline = self.shell.as_ref().and_then(|shell| shell.core.next_deadline());
        let until = deadline.map_or(500, |deadline| deadline.saturating_sub(now));
        self.clock.advance(if idle { until } else { until.min(500) });
    }

    fn demand_the_end(&mut self) {
        let busy: Vec<String> = self
            .clients
            .iter()
            .filter(|client| !client.is_done())
            .map(|client| format!("{client:?}"))
            .collect();
        self.oracle.court.demand(Law::EverythingIsFinished, busy.is_empty(), || {
            format!("clients that are not done: {busy:?}")
        });
        for (cursor, lag) in self.oracle.lags() {
            let model = self.oracle.book.cursors.get(&cursor);
            self.oracle.court.demand(Law::EverythingIsFinished, lag == 0, || {
                format!("{cursor:?} still has {lag}: {model:?}")
            });
        }
        let overdue = self.oracle.overdue(self.clock.now().mono_ms);
        self.oracle.court.demand(Law::AbsentIsForgotten, overdue.is_empty(), || {
            format!("absent for long are {overdue:?}")
        });
        let waiting = &self.oracle.book.delays.waiting;
        self.oracle.court.demand(Law::EverythingIsFinished, waiting.is_empty(), || {
            format!("these wait still: {waiting:?}")
        });
        self.demand_decisions();
        let unrecorded = self.oracle.asked.unrecorded();
        self.oracle.court.demand(Law::DeliveryIsRecorded, unrecorded.is_none(), || {
            format!("{unrecorded:?} was delivered and never recorded")
        });
    }

    /// Nothing that was prepared is undecided, and what was given up lies where it is said to be.
    fn demand_decisions(&mut self) {
        let decisions = &self.oracle.book.decisions;
        let undecided = &decisions.undecided;
        self.oracle.court.demand(Law::EverythingIsDecided, undecided.is_empty(), || {
            format!("nobody decided about these: {undecided:?}")
        });
        let copies: Vec<_> = decisions.given_up.values().map(|given| given.place).collect();
        for (queue, offset) in copies {
            if self.oracle.book.queues.get(&queue).is_some_and(|model| offset >= model.start) {
                self.oracle.court.exercise(Law::EverythingIsDecided);
                self.read_and_compare(queue, offset);
            }
        }
    }

    fn describe_groups(&mut self) {
        let groups: Vec<String> = self.oracle.book.groups.values().map(|group| group.name.clone()).collect();
        for name in groups {
            let request = RequestId(self.network.number());
            self.routes.insert(
                request,
                Route {
                    client: 0,
                    connection: ConnectionId(0),
                    stream: None,
                },
            );
            self.turn(vec![Input::Admin {
                request,
                admin: Admin::DescribeGroup {
                    name,
                    from: TopicId::default(),
                },
            }]);
        }
    }

    fn read_everything(&mut self) {
        let confirmed: Vec<_> = self
            .oracle
            .confirmed
            .iter()
            .map(|(message, place)| (*message, place.clone()))
            .collect();
        for (message, mut place) in confirmed {
            if place.queue.index == QueueIndex::CALENDAR {
                let numbered = self.oracle.book.decisions.number_of((place.queue.topic, place.offset));
                match self.oracle.book.delays.released.get(&numbered) {
                    Some((queue, offset, _)) => (place.queue, place.offset) = (*queue, *offset),
                    None => {
                        self.never_released(message, &place);
                        continue;
                    }
                }
            }
            let Some(queue) = self.oracle.book.queues.get(&place.queue) else {
                let deleted = self.oracle.asked.deletes(Some(&place.topic));
                self.oracle.court.demand(Law::ConfirmedIsKept, deleted, || {
                    format!("{message:?} in {place:?} is gone with its topic")
                });
                continue;
            };
            if place.offset < queue.start {
                continue;
            }
            let row = queue.rows.get(place.offset as usize);
            let there = row.is_some_and(|row| (row.producer, row.sequence) == message);
            self.oracle
                .court
                .demand(Law::ConfirmedIsKept, there, || format!("{message:?} was confirmed at {place:?}"));
            self.read_and_compare(place.queue, place.offset);
            self.find(message, &place);
        }
    }

    /// A message that was not released by now was recalled or rolled back, nobody committed it, or its topic was deleted.
    fn never_released(&mut self, (producer, sequence): (ProducerId, Sequence), place: &Confirmed) {
        let Some(shell) = &self.shell else { return };
        let numbered = (place.queue.topic, place.offset);
        let recalled = self.oracle.book.delays.recalled.contains_key(&numbered);
        let deleted = self.oracle.asked.deletes(Some(&place.topic)) && !self.oracle.book.topics.contains_key(&place.queue.topic);
        let decisions = &self.oracle.book.decisions;
        let undelivered = decisions.undecided.contains_key(&numbered)
            || decisions.rolled_back.contains_key(&numbered)
            || decisions.given_up.contains_key(&numbered);
        self.oracle
            .court
            .demand(Law::ConfirmedIsKept, recalled || deleted || undelivered, || {
                format!("{producer:?} {sequence:?} was delayed as {place:?} and is nowhere")
            });
        let found = shell.reader.find(MessageId::new(producer, sequence));
        let lawful = matches!(found, Ok(None)) || self.oracle.book.forgotten.contains(&producer) || deleted;
        self.oracle.court.demand(Law::RecalledNeverFires, lawful, || {
            format!("{producer:?} {sequence:?} was recalled and is found at {found:?}")
        });
    }

    /// A message is found by its id where it was confirmed to be.
    fn find(&mut self, (producer, sequence): (ProducerId, Sequence), place: &Confirmed) {
        let Some(shell) = &self.shell else { return };
        let found = shell.reader.find(MessageId::new(producer, sequence));
        let right = matches!(found, Ok(Some(found)) if found == (place.queue, QueueOffset(place.offset)));
        // A producer that was forgotten may have stored it once more.
        let lawful = right || matches!(found, Ok(Some(_))) && self.oracle.book.forgotten.contains(&producer);
        self.oracle.court.demand(Law::FoundById, lawful, || {
            format!("{producer:?} {sequence:?} at {place:?} is found at {found:?}")
        });
    }

    /// By each key exactly those messages are found that have it, of all that retention keeps.
    fn search_everything(&mut self) {
        let Some(shell) = &self.shell else { return };
        for (id, queue) in &self.oracle.book.queues {
            let mut by_key: BTreeMap<String, Vec<u64>> = BTreeMap::new();
            for (row, offset) in queue.rows.iter().zip(0..).skip(queue.start as usize) {
                let keys: BTreeSet<String> = content(row.producer, row.sequence).keys.into_iter().collect();
                keys.into_iter().for_each(|key| by_key.entry(key).or_default().push(offset));
            }
            // What waits for its time is not found before it is released.
            if id.index == QueueIndex::CALENDAR {
                by_key.values_mut().for_each(Vec::clear);
            }
            by_key.insert("no message has this".to_owned(), Vec::new());
            for (key, expected) in by_key {
                let wanted = KeyedRange {
                    hash: key_hash(key.as_bytes()),
                    queue: *id,
                    from: QueueOffset(queue.start),
                    to: QueueOffset(queue.rows.len() as u64),
                    max: queue.rows.len() + 1,
                };
                let found = shell.reader.keyed(&wanted).map(|found| {
                    // Another key may have the same hash: whoever searches confirms the text.
                    let has = |offset: &u64| {
                        let row = queue.rows.get(*offset as usize);
                        row.is_none_or(|row| content(row.producer, row.sequence).keys.contains(&key))
                    };
                    found.into_iter().map(|offset| offset.0).filter(has).collect::<Vec<u64>>()
                });
                let right = matches!(&found, Ok(found) if *found == expected);
                self.oracle.court.demand(Law::FoundByKey, right, || {
                    format!("{key} in {id:?}: {found:?} instead of {expected:?}")
                });
            }
        }
    }
}
