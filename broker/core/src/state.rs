//! What the log's records have made of the broker: every entry, and the one function that changes them.

pub mod binding;
pub mod calendar;
pub mod codec;
pub mod cursor;
mod failed;
pub mod given_ids;
pub mod group;
pub mod growth;
pub mod lane;
pub mod letters;
pub mod lifetimes;
mod members;
pub mod meta;
mod names;
mod operated;
pub mod order;
pub mod parts;
pub mod pause;
mod prepared;
pub mod producer;
pub mod queue;
mod readers;
pub mod restorations;
pub mod subscription;
pub mod topic;
pub mod transaction;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, OffsetRange, Record};
use sluice_protocol::ids::{GroupId, Pass, Position, QueueId, QueueIndex, QueueOffset, TopicId};

use crate::planted::{self, Bug};

use self::binding::Binding;
use self::calendar::Calendars;
use self::cursor::Cursor;
use self::given_ids::GivenIds;
use self::group::Group;
use self::growth::Growth;
use self::letters::Letters;
use self::meta::Meta;
use self::names::{Names, add_name, remove_name};
use self::parts::Parts;
use self::pause::{Pause, PauseId};
use self::producer::{Producers, Waiting};
use self::queue::Queue;
use self::readers::Readers;
use self::restorations::Restorations;
use self::subscription::Subscription;
use self::topic::Topic;
use self::transaction::AllTransactions;

/// All durable state of one shard.
///
/// Each entry knows the position of the last record that it reflects, and what a record does to an entry depends on that entry and the
/// record alone. So entries written at different times make a checkpoint together, and replay skips what an entry already holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// What belongs to the shard as a whole.
    pub meta: Meta,
    /// The topics.
    pub topics: BTreeMap<TopicId, Topic>,
    /// Their queues.
    pub queues: BTreeMap<QueueId, Queue>,
    /// The groups.
    pub groups: BTreeMap<GroupId, Group>,
    /// What each group asks of each topic.
    pub subscriptions: BTreeMap<(GroupId, TopicId), Subscription>,
    /// Each group's place in each queue.
    pub cursors: BTreeMap<CursorId, Cursor>,
    /// The producers' windows of sequences.
    pub producers: Producers,
    /// The plugins bound, by name.
    pub bindings: BTreeMap<String, Binding>,
    /// What operators paused.
    pub pauses: BTreeMap<PauseId, Pause>,
    /// What was dealt with of each dead-letter topic.
    pub letters: BTreeMap<TopicId, Letters>,
    /// How topics grew.
    pub growths: BTreeMap<TopicId, Growth>,
    /// The messages that wait for their time.
    pub calendars: Calendars,
    /// The files of those that are far off.
    pub parts: Parts,
    /// The messages that wait for a decision, and what was decided.
    pub transactions: AllTransactions,
    /// The ids that producers gave their messages of late.
    pub given_ids: GivenIds,
    /// How often this log went on from a backup.
    pub restorations: Restorations,
    topic_names: Names<TopicId>,
    group_names: Names<GroupId>,
    readers: Readers,
}

impl State {
    /// The topic that has this name now.
    pub fn topic_named(&self, name: &str) -> Option<TopicId> {
        self.topic_names.get(name)?.last().copied()
    }

    /// The group that has this name now.
    pub fn group_named(&self, name: &str) -> Option<GroupId> {
        self.group_names.get(name)?.last().copied()
    }

    /// The queues of a topic, by index.
    pub fn queues_of(&self, topic: TopicId) -> impl Iterator<Item = (QueueId, &Queue)> {
        let (first, last) = (
            QueueId {
                topic,
                index: QueueIndex(0),
            },
            QueueId {
                topic,
                index: QueueIndex(u16::MAX),
            },
        );
        self.queues.range(first..=last).map(|(&id, queue)| (id, queue))
    }

    /// One past the last offset of a queue, or the next number of a calendar queue; `None` when there is no such queue.
    pub fn stored_end(&self, queue: QueueId) -> Option<QueueOffset> {
        if queue.index == QueueIndex::CALENDAR {
            return self.calendars.get(queue.topic).map(|calendar| calendar.next);
        }
        self.queues.get(&queue).map(|entry| entry.end)
    }

    /// The cursors of a group.
    pub fn cursors_of(&self, group: GroupId) -> impl Iterator<Item = (CursorId, &Cursor)> {
        let first = CursorId {
            group,
            queue: QueueId::default(),
        };
        self.cursors
            .range(first..)
            .take_while(move |(id, _)| id.group == group)
            .map(|(&id, cursor)| (id, cursor))
    }

    /// The cursors of a group on one topic, by queue.
    pub fn cursors_on(&self, group: GroupId, topic: TopicId) -> impl Iterator<Item = (CursorId, &Cursor)> {
        let at = |index| CursorId {
            group,
            queue: QueueId {
                topic,
                index: QueueIndex(index),
            },
        };
        self.cursors.range(at(0)..=at(u16::MAX)).map(|(&id, cursor)| (id, cursor))
    }

    /// The groups that read a topic.
    pub fn readers_of(&self, topic: TopicId) -> impl Iterator<Item = GroupId> + '_ {
        self.readers.of(topic)
    }

    /// The topics that a group reads.
    pub fn topics_of(&self, group: GroupId) -> impl Iterator<Item = TopicId> + '_ {
        let all = (group, TopicId(0))..=(group, TopicId(u64::MAX));
        self.subscriptions.range(all).map(|(&(_, topic), _)| topic)
    }

    /// Does what a record says to every entry that does not hold it yet. The only writer of state, for live traffic and recovery alike.
    pub fn apply(&mut self, position: Position, record: &Record) {
        self.meta.apply(position, record);
        let at = record.at;
        match &record.change {
            Change::Opened { .. } => {
                for cursor in self.cursors.values_mut() {
                    cursor.update(position, |cursor| cursor.opened(at));
                }
            }
            Change::TopicCreated { topic, name, settings } => self.create_topic(position, *topic, name, Topic::new(name, *settings, at)),
            Change::TopicDeleted { topic } => self.delete_topic(*topic),
            Change::GroupCreated { group, name, settings } => {
                add_name(&mut self.group_names, name, *group);
                self.groups.entry(*group).or_insert_with(|| Group {
                    reflects: position,
                    name: name.clone(),
                    settings: settings.clone(),
                    absent_mono_ms: None,
                });
            }
            Change::GroupDeleted { group } => self.delete_group(*group),
            Change::Subscribed {
                group,
                topic,
                filter,
                starts,
            } => {
                self.subscriptions
                    .entry((*group, *topic))
                    .and_modify(|subscription| subscription.replace(position, filter, starts))
                    .or_insert_with(|| Subscription::new(position, filter.clone(), starts));
                for start in starts {
                    let id = CursorId {
                        group: *group,
                        queue: start.queue,
                    };
                    self.cursors.entry(id).or_insert_with(|| Cursor::new(position, start.offset));
                    self.readers.add(start.queue.topic, *group);
                }
                self.readers.add(*topic, *group);
            }
            Change::PluginBound {
                name,
                digest,
                limits,
                on_failure,
            } => Binding::new(position, *digest, *limits, *on_failure, at).bind(&mut self.bindings, name),
            Change::Appended { queue, first, batch } => {
                self.append(position, *queue, *first, batch);
                self.producers.stored(position, *queue, *first, batch, None);
            }
            Change::DeadLettered {
                cursor,
                pass,
                offset,
                to,
                at_offset,
                batch,
            } => {
                self.update_pass(position, *cursor, *pass, |cursor| {
                    if !planted::is(Bug::DeadLetterTwice) {
                        cursor.settled(*offset, QueueOffset(offset.0 + 1));
                    }
                });
                self.append(position, *to, *at_offset, batch);
            }
            Change::Sought {
                group,
                topic,
                pass,
                starts,
            } => {
                if let Some(subscription) = self.subscriptions.get_mut(&(*group, *topic)) {
                    subscription.seek(position, starts);
                }
                for start in starts {
                    if let Some(cursor) = self.cursors.get_mut(&CursorId {
                        group: *group,
                        queue: start.queue,
                    }) {
                        cursor.seek(position, *pass, start.offset);
                    }
                }
            }
            Change::Trimmed { queue, start, lost } => {
                if let Some(entry) = self.queues.get_mut(queue) {
                    entry.trimmed(position, *start);
                }
                self.transactions.trimmed(*queue, *start);
                if let Some(letters) = self.letters.get_mut(&queue.topic) {
                    letters.trimmed(position, *start);
                }
                for group in self.readers.of(queue.topic) {
                    if let Some(cursor) = self.cursors.get_mut(&CursorId { group, queue: *queue }) {
                        let lost = lost.iter().filter(|(loser, _)| *loser == group).map(|(_, messages)| messages).sum();
                        cursor.update(position, |cursor| cursor.trimmed(*start, lost));
                    }
                }
            }
            Change::ProducerForgotten { producer } => self.producers.forget(position, *producer),
            Change::Delayed {
                topic,
                first,
                due_ms,
                batch,
            } => {
                self.calendars.delayed(position, *topic, *first, due_ms);
                let waits = Waiting { due_ms, prepared: false };
                self.producers.stored(position, topic.calendar(), *first, batch, Some(waits));
            }
            Change::Released { queue, first, due, batch } => {
                self.calendars.left(queue.topic, due);
                self.append(position, *queue, *first, batch);
            }
            Change::Recalled { topic, due } => self.calendars.recalled(*topic, *due),
            Change::Prioritized {
                queue,
                first,
                end,
                priorities,
            } => {
                if let Some(entry) = self.queues.get_mut(queue) {
                    let offsets = OffsetRange { first: *first, end: *end };
                    entry.prioritized_by(position, offsets, *priorities);
                }
            }
            Change::Expiring { queue, first, end } => {
                if let Some(entry) = self.queues.get_mut(queue) {
                    entry.expiring_within(position, OffsetRange { first: *first, end: *end });
                }
            }
            Change::Granted { .. }
            | Change::FrontierMoved { .. }
            | Change::DeadlinesFound { .. }
            | Change::Expired { .. }
            | Change::Settled { .. }
            | Change::Returned { .. }
            | Change::Extended { .. } => self.apply_to_lane(position, &record.change),
            Change::CulpritDecided { .. } | Change::SubscriptionHeld { .. } | Change::SubscriptionResumed { .. } => {
                self.apply_failure(position, record);
            }
            Change::Operated(operated) => self.apply_operated(position, at, operated),
            Change::Transaction(transaction) => self.apply_transaction(position, at, transaction),
            Change::GivenIds(given) => self.given_ids.apply(position, at.mono_ms, given),
            Change::Restored(restoration) => self.restorations.apply(position, restoration),
            Change::Parts(change) => self.apply_parts(position, change),
        }
    }

    /// The part of [`State::apply`] that concerns one lane alone.
    fn apply_to_lane(&mut self, position: Position, change: &Change) {
        match change {
            Change::Granted {
                cursor,
                pass,
                priority,
                holder,
                leases,
                frontier,
                expires_mono_ms,
            } => {
                self.update_pass(position, *cursor, *pass, |cursor| {
                    cursor.granted(*priority, position, holder, leases, *frontier, *expires_mono_ms)
                });
            }
            Change::FrontierMoved {
                cursor,
                pass,
                priority,
                frontier,
                parked,
            } => {
                self.update_pass(position, *cursor, *pass, |cursor| {
                    cursor.move_frontier(*priority, *frontier, parked)
                });
            }
            Change::DeadlinesFound {
                cursor,
                pass,
                priority,
                deadlines,
            } => {
                self.update_pass(position, *cursor, *pass, |cursor| cursor.deadlines_found(*priority, deadlines));
            }
            Change::Expired {
                cursor,
                pass,
                priority,
                messages,
                fate,
            } => {
                self.update_pass(position, *cursor, *pass, |cursor| cursor.expired(*priority, messages, *fate));
            }
            Change::Settled { cursor, pass, offsets } => {
                self.update_pass(position, *cursor, *pass, |cursor| {
                    offsets.iter().for_each(|range| cursor.settled(range.first, range.end))
                });
            }
            Change::Returned {
                cursor,
                pass,
                leases,
                due_mono_ms,
                reason,
            } => {
                self.update_pass(position, *cursor, *pass, |cursor| cursor.returned(leases, *due_mono_ms, *reason));
            }
            Change::Extended {
                cursor,
                pass,
                offsets,
                expires_mono_ms,
            } => {
                self.update_pass(position, *cursor, *pass, |cursor| {
                    offsets.iter().for_each(|range| cursor.extended(*range, *expires_mono_ms))
                });
            }
            Change::Opened { .. }
            | Change::TopicCreated { .. }
            | Change::TopicDeleted { .. }
            | Change::GroupCreated { .. }
            | Change::GroupDeleted { .. }
            | Change::Subscribed { .. }
            | Change::PluginBound { .. }
            | Change::Appended { .. }
            | Change::DeadLettered { .. }
            | Change::Sought { .. }
            | Change::Trimmed { .. }
            | Change::ProducerForgotten { .. }
            | Change::CulpritDecided { .. }
            | Change::SubscriptionHeld { .. }
            | Change::SubscriptionResumed { .. }
            | Change::Operated(_)
            | Change::Transaction(_)
            | Change::GivenIds(_)
            | Change::Restored(_)
            | Change::Parts(_)
            | Change::Delayed { .. }
            | Change::Released { .. }
            | Change::Recalled { .. }
            | Change::Prioritized { .. }
            | Change::Expiring { .. } => {}
        }
    }

    fn update_pass(&mut self, position: Position, id: CursorId, pass: Pass, change: impl FnOnce(&mut Cursor)) {
        if let Some(cursor) = self.cursors.get_mut(&id) {
            cursor.update(position, |cursor| {
                if cursor.pass == pass {
                    change(cursor);
                }
            });
        }
    }

    fn append(&mut self, position: Position, queue: QueueId, first: QueueOffset, batch: &Bytes) {
        if let Some(entry) = self.queues.get_mut(&queue) {
            entry.appended(position, first, batch);
        }
    }

    fn create_topic(&mut self, position: Position, id: TopicId, name: &str, topic: Topic) {
        add_name(&mut self.topic_names, name, id);
        for index in 0..topic.settings.queues {
            self.queues
                .entry(QueueId {
                    topic: id,
                    index: QueueIndex(index),
                })
                .or_insert_with(|| Queue::new(position));
        }
        self.topics.entry(id).or_insert(Topic {
            reflects: position,
            ..topic
        });
    }

    /// Ids are never used again, so an entry that is here is one that the deletion means.
    fn delete_topic(&mut self, id: TopicId) {
        self.pauses.retain(|(_, topic), _| *topic != Some(id));
        self.letters.remove(&id);
        self.growths.remove(&id);
        if let Some(topic) = self.topics.remove(&id) {
            remove_name(&mut self.topic_names, &topic.name, id);
        }
        let queues: Vec<QueueId> = self.queues_of(id).map(|(queue, _)| queue).collect();
        for queue in queues {
            self.queues.remove(&queue);
        }
        self.calendars.delete(id);
        self.transactions.delete(id);
        let groups: Vec<GroupId> = self.readers_of(id).collect();
        for group in groups {
            self.forget_reading(group, id);
        }
    }

    fn delete_group(&mut self, id: GroupId) {
        self.pauses.retain(|(group, _), _| *group != id);
        if let Some(group) = self.groups.remove(&id) {
            remove_name(&mut self.group_names, &group.name, id);
        }
        let topics: BTreeSet<TopicId> = self
            .topics_of(id)
            .chain(self.cursors_of(id).map(|(cursor, _)| cursor.queue.topic))
            .collect();
        for topic in topics {
            self.forget_reading(id, topic);
        }
    }

    /// Drops a group's subscription and cursors on one topic.
    fn forget_reading(&mut self, group: GroupId, topic: TopicId) {
        self.subscriptions.remove(&(group, topic));
        let cursors: Vec<CursorId> = self.cursors_on(group, topic).map(|(id, _)| id).collect();
        for cursor in cursors {
            self.cursors.remove(&cursor);
        }
        self.readers.remove(topic, group);
    }
}
