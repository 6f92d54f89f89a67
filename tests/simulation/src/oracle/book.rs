//! What the records of the log, read one after the other, say of topics, queues, groups and rules: the oracle's own model of state.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Filter, GroupSettings, OnExhausted, OnExpired, OnFailure, Record, ReturnReason};
use sluice_protocol::ids::{Digest, GroupId, ProducerId, QueueId, Sequence, TopicId};
use sluice_protocol::units::Now;

use super::asked::Asked;
use super::cursor::{Cursor, Held};
use super::delayed::{Delays, Told};
use super::given::Given;
use super::growth::Growth;
use super::transactions::{Deciding, Decisions};
use crate::content::{self, Verdict};
use crate::laws::{Court, Law};
use crate::rows;

/// How many sequences of a producer the broker remembers.
const WINDOW: u64 = 1_024;

/// The model; a pure function of the records it was told.
#[derive(Clone, Debug, Default)]
pub struct Book {
    /// Every topic that exists.
    pub topics: BTreeMap<TopicId, String>,
    /// How long the messages of each topic live, and what becomes of those that expired.
    pub lifetimes: BTreeMap<TopicId, (u64, OnExpired)>,
    /// Every queue that exists.
    pub queues: BTreeMap<QueueId, Queue>,
    /// Every group that exists.
    pub groups: BTreeMap<GroupId, Group>,
    /// The ruling filter of each group in each topic it reads.
    pub rules: BTreeMap<(GroupId, TopicId), Filter>,
    /// The version that serves each plugin name.
    pub bindings: BTreeMap<String, Digest>,
    /// What becomes of the messages that it fails on.
    pub on_failure: BTreeMap<String, OnFailure>,
    /// The groups that are held, by the topic in which they are.
    pub alarms: BTreeSet<(GroupId, TopicId)>,
    /// Since when members of broadcast groups are absent, as far as that is recorded.
    pub absent: BTreeMap<GroupId, u64>,
    /// Where groups are paused.
    pub pauses: BTreeSet<(GroupId, Option<TopicId>)>,
    /// Every message that an operator skipped, by name, and the frame that says so last.
    pub skipped: BTreeMap<super::operated::Named, u64>,
    /// Every copy in a dead-letter queue.
    pub letters: BTreeMap<(QueueId, u64), super::letters::DeadLetter>,
    /// Those that were dealt with.
    pub dealt: BTreeSet<(QueueId, u64)>,
    /// Every group's place in every queue it reads.
    pub cursors: BTreeMap<CursorId, Cursor>,
    /// Where each message is stored, copies in dead-letter topics apart.
    placed: BTreeMap<(ProducerId, Sequence), (QueueId, u64)>,
    /// Producers whose windows were forgotten at least once.
    pub forgotten: BTreeSet<ProducerId>,
    /// The highest sequence that each producer's window had seen before a frame, the frame, and the highest with it. The messages of a
    /// turn are judged by the window before it.
    highest: BTreeMap<ProducerId, (u64, u64, u64)>,
    /// How topics grew.
    pub growth: Growth,
    /// What is known of delayed messages.
    pub delays: Delays,
    /// What is known of prepared messages.
    pub decisions: Decisions,
    /// What is known of the ids that producers gave.
    pub(super) given: Given,
    pub(super) stamp: Now,
    /// The frame before the present one that had records, and the present one.
    pub(super) frames: (u64, u64),
}

/// A queue's messages.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// The first that retention keeps.
    pub start: u64,
    /// Every such start and the frame that holds it.
    pub trims: Vec<(u64, u64)>,
    /// All of them, by offset.
    pub rows: Vec<Row>,
    /// Whether its groups have lanes of higher priorities, in which there may be no message at all.
    pub prioritized: bool,
}

/// One stored message.
#[derive(Clone, Debug)]
pub struct Row {
    /// Who sent it.
    pub producer: ProducerId,
    /// The number its producer gave it.
    pub sequence: Sequence,
    /// The position of the frame that holds it.
    pub frame: u64,
    /// Whether it is a copy in a dead-letter topic.
    pub copy: bool,
    /// When it was stored, by the stamp of its record.
    pub stored_wall_ms: i64,
}

/// A consumer group.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: GroupSettings,
}

impl Queue {
    /// The priority of a message.
    pub fn priority(&self, offset: u64) -> u8 {
        let row = self.rows.get(offset as usize);
        row.map_or(0, |row| content::content(row.producer, row.sequence).priority)
    }

    /// The message group of a message.
    pub fn group(&self, offset: u64) -> Option<String> {
        let row = self.rows.get(offset as usize)?;
        content::content(row.producer, row.sequence).group
    }

    /// Whether retention took a message, durably: by a record before the frame at `synced`.
    pub fn has_lost(&self, offset: u64, synced: u64) -> bool {
        self.trims.iter().any(|(start, frame)| offset < *start && *frame < synced)
    }
}

impl Book {
    /// Takes in a record of the frame at position `frame`.
    pub fn apply(&mut self, frame: u64, record: &Record, asked: &mut Asked, (told, deciding): (&Told, &Deciding), court: &mut Court) {
        let (mono_ms, before) = (record.at.mono_ms, self.stamp);
        let ordered = mono_ms >= before.mono_ms && record.at.wall_ms >= before.wall_ms;
        court.demand(Law::StampsAreOrdered, ordered, || {
            format!("{record:?} follows a record of {before:?}")
        });
        self.stamp = record.at;
        if frame != self.frames.1 {
            self.frames = (self.frames.1, frame);
        }
        match &record.change {
            Change::Opened { .. } => self.cursors.values_mut().for_each(|cursor| cursor.opened(mono_ms)),
            Change::TopicCreated { topic, name, settings } => {
                court.demand(Law::NoFailureOfItsOwn, !self.topics.values().any(|taken| taken == name), || {
                    format!("{name} exists twice")
                });
                self.topics.insert(*topic, name.clone());
                self.lifetimes.insert(*topic, (settings.ttl_ms, settings.on_expired));
                let queues = (0..settings.queues).map(|index| QueueId {
                    topic: *topic,
                    index: sluice_protocol::ids::QueueIndex(index),
                });
                self.queues.extend(queues.map(|queue| (queue, Queue::default())));
            }
            Change::TopicDeleted { topic } => {
                court.demand(Law::NoFailureOfItsOwn, asked.deletes(self.topics.get(topic)), || {
                    format!("nobody asked to delete {topic:?}")
                });
                court.exercise(Law::TopicDeleted);
                asked.members.ended(None, self.topics.get(topic));
                self.topics.remove(topic);
                self.undelayed(*topic);
                self.queues.retain(|queue, _| queue.topic != *topic);
                self.cursors.retain(|cursor, _| cursor.queue.topic != *topic);
                self.rules.retain(|(_, other), _| other != topic);
                self.alarms.retain(|(_, other)| other != topic);
                self.pauses.retain(|(_, other)| *other != Some(*topic));
            }
            Change::GroupCreated { group, name, settings } => {
                self.member_created(name, settings, court);
                self.groups.insert(
                    *group,
                    Group {
                        name: name.clone(),
                        settings: settings.clone(),
                    },
                );
            }
            Change::GroupDeleted { group } => {
                // A member whose topics were deleted has nothing to lose.
                let reads = self.rules.keys().any(|(other, _)| other == group);
                if let Some(model) = self.groups.remove(group).filter(|_| reads) {
                    asked.members.forgotten(&model.name, mono_ms, court);
                }
                self.absent.remove(group);
                self.cursors.retain(|cursor, _| cursor.group != *group);
                self.rules.retain(|(other, _), _| other != group);
                self.alarms.retain(|(other, _)| other != group);
                self.pauses.retain(|(other, _)| other != group);
            }
            Change::Subscribed {
                group,
                topic,
                filter,
                starts,
            } => {
                if self.rules.get(&(*group, *topic)) != Some(filter) {
                    let name = self.groups.get(group).map(|model| &model.name);
                    asked.members.ended(name, self.topics.get(topic));
                }
                self.subscribed(*group, *topic, filter, starts, court);
            }
            Change::PluginBound {
                name, digest, on_failure, ..
            } => {
                self.bindings.insert(name.clone(), *digest);
                self.on_failure.insert(name.clone(), *on_failure);
                self.cursors.values_mut().for_each(Cursor::judged_anew);
            }
            Change::Appended { queue, first, batch } => self.appended(frame, *queue, first.0, batch, court),
            Change::Delayed {
                topic,
                first,
                due_ms,
                batch,
            } => self.delayed(frame, *topic, first.0, due_ms, batch, court),
            Change::Released { queue, first, due, batch } => self.released(frame, record.at, *queue, first.0, due, batch, told, court),
            Change::Recalled { topic, due } => self.recalled(frame, *topic, *due, told, court),
            Change::GivenIds(given) => self.given.changed(given, court),
            Change::Parts(change) => self.parted(frame, change, told, court),
            Change::Transaction(transaction) => self.transaction(frame, transaction, deciding, court),
            Change::DeadLettered {
                cursor,
                pass,
                offset,
                to,
                at_offset,
                batch,
            } => {
                let attempts_max = self.groups.get(&cursor.group).map_or(0, |group| group.settings.attempts_max);
                self.demand_origin(*cursor, offset.0, attempts_max, batch, court);
                if let Some(model) = self.cursors.get_mut(cursor) {
                    model.dead_lettered(frame, *pass, offset.0, attempts_max, court);
                }
                self.copied(frame, *cursor, offset.0, *to, at_offset.0, batch, court);
            }
            Change::Sought {
                group,
                topic,
                pass,
                starts,
            } => {
                for start in starts {
                    let end = self.queues.get(&start.queue).map_or(0, |queue| queue.rows.len() as u64);
                    let kept_from = self.queues.get(&start.queue).map_or(0, |queue| queue.start);
                    asked.sought(
                        &self.names_of(*group),
                        self.topics.get(topic),
                        start.offset.0,
                        kept_from,
                        end,
                        court,
                    );
                    if let Some(model) = self.cursors.get_mut(&CursorId {
                        group: *group,
                        queue: start.queue,
                    }) {
                        model.sought(frame, *pass, start.offset.0, court);
                    }
                }
            }
            Change::Trimmed { queue, start, lost } => {
                self.count_losses(*queue, start.0, lost, asked, court);
                if let Some(model) = self.queues.get_mut(queue) {
                    if start.0 > model.start {
                        court.exercise(Law::Trimmed);
                    }
                    model.start = model.start.max(start.0);
                    model.trims.push((model.start, frame));
                }
                self.cursors
                    .iter_mut()
                    .filter(|(cursor, _)| cursor.queue == *queue)
                    .for_each(|(_, cursor)| cursor.trimmed(frame, start.0));
            }
            Change::ProducerForgotten { producer } => {
                court.exercise(Law::ProducerForgotten);
                self.forgotten.insert(*producer);
                self.highest.remove(producer);
                self.placed.retain(|(other, _), _| other != producer);
            }
            Change::CulpritDecided { .. } | Change::SubscriptionHeld { .. } | Change::SubscriptionResumed { .. } => {
                self.failed(frame, record, asked, court);
            }
            // So does what it knows of expiry.
            // No simulated log goes on from a backup.
            Change::Expiring { .. } | Change::Restored(_) => {}
            // What a queue knows of priorities shows in what its groups are given.
            Change::Prioritized { queue, .. } => {
                if let Some(model) = self.queues.get_mut(queue) {
                    model.prioritized = true;
                }
            }
            Change::Operated(operated) => self.operated(frame, operated, &asked.orders, court),
            Change::Granted { cursor, pass, .. }
            | Change::FrontierMoved { cursor, pass, .. }
            | Change::DeadlinesFound { cursor, pass, .. }
            | Change::Expired { cursor, pass, .. }
            | Change::Settled { cursor, pass, .. }
            | Change::Returned { cursor, pass, .. }
            | Change::Extended { cursor, pass, .. } => self.of_cursor(frame, *cursor, *pass, record, asked, court),
        }
    }

    fn of_cursor(
        &mut self,
        frame: u64,
        id: CursorId,
        pass: sluice_protocol::ids::Pass,
        record: &Record,
        asked: &mut Asked,
        court: &mut Court,
    ) {
        let Some(mut model) = self.cursors.remove(&id) else {
            court.demand(Law::NoFailureOfItsOwn, false, || format!("there is no such cursor: {record:?}"));
            return;
        };
        court.demand(Law::SeekEndsThePass, model.pass == pass, || {
            format!("{id:?} is in {:?}: {record:?}", model.pass)
        });
        if let Change::Granted { .. } = &record.change {
            self.ruled_alike(id.group, id.queue.topic, court);
            court.demand(Law::PauseHolds, !self.is_paused(id.group, id.queue.topic), || {
                format!("{id:?} is paused: {record:?}")
            });
        }
        model.apply(frame, id, record, self, asked, court);
        self.cursors.insert(id, model);
    }

    pub(super) fn appended(&mut self, frame: u64, queue: QueueId, first: u64, batch: &Bytes, court: &mut Court) {
        let stored_wall_ms = self.stamp.wall_ms;
        let Some(model) = self.queues.get_mut(&queue) else {
            court.demand(Law::NoFailureOfItsOwn, false, || {
                format!("messages were stored in {queue}, which does not exist")
            });
            return;
        };
        let end = model.rows.len() as u64;
        court.demand(Law::OffsetsAreContiguous, first == end, || {
            format!("{queue} ends at {end}, a batch begins at {first}")
        });
        for (producer, sequence) in rows::identities(batch) {
            let place = (queue, model.rows.len() as u64);
            model.rows.push(Row {
                producer,
                sequence,
                frame,
                copy: false,
                stored_wall_ms,
            });
            self.growth.stored(queue, place.1, model.group(place.1));
            let (before, of_frame, highest) = self.highest.entry(producer).or_default();
            if *of_frame != frame {
                (*before, *of_frame) = (*highest, frame);
            }
            court.require(Law::SequenceTooOld, sequence.0 + WINDOW > *before, || {
                format!("{producer:?} {sequence:?} is stored, the window reaches to {before}")
            });
            *highest = sequence.0.max(*highest);
            self.given.stored(queue.topic, (producer, sequence), self.stamp.mono_ms, court);
            let before = self.placed.insert((producer, sequence), place);
            court.demand(Law::RetryIsStoredOnce, before.is_none(), || {
                format!("{producer:?} {sequence:?} is stored at {before:?} and again at {place:?}")
            });
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one record, told apart")]
    pub(super) fn copied(&mut self, frame: u64, from: CursorId, offset: u64, to: QueueId, at: u64, batch: &Bytes, court: &mut Court) {
        let named = self.letters_name(from.group);
        court.require(Law::DeadLetteredOnce, named.as_ref() == self.topics.get(&to.topic), || {
            format!("{from:?} {offset} went to {to}")
        });
        let source = self
            .queues
            .get(&from.queue)
            .and_then(|queue| queue.rows.get(offset as usize))
            .cloned();
        let stored_wall_ms = self.stamp.wall_ms;
        let Some(model) = self.queues.get_mut(&to) else { return };
        let end = model.rows.len() as u64;
        court.demand(Law::OffsetsAreContiguous, at == end, || {
            format!("{to} ends at {end}, a dead letter is at {at}")
        });
        let copies = rows::identities(batch);
        let same = source.is_some_and(|source| copies == [(source.producer, source.sequence)]);
        court.require(Law::DeadLetteredOnce, same, || {
            format!("{from:?} {offset} was copied as {copies:?}")
        });
        let copies_at = model.rows.len() as u64;
        model.rows.extend(copies.into_iter().map(|(producer, sequence)| Row {
            producer,
            sequence,
            frame,
            copy: true,
            stored_wall_ms,
        }));
        let attempts = rows::origin(batch).into_iter().find(|(name, _)| name == "attempts");
        let attempts = attempts.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        self.buried(from, offset, attempts, (to, copies_at));
    }

    /// A dead letter says where it comes from, after how many attempts, and why the last was not settled.
    fn demand_origin(&self, from: CursorId, offset: u64, attempts_max: u16, batch: &Bytes, court: &mut Court) {
        let (reason, attempts) = match self.cursors.get(&from).and_then(|cursor| cursor.held.get(&offset)) {
            Some(Held::Waiting { reason, attempt, .. }) => (Some(*reason), attempt - 1),
            Some(Held::Leased { .. }) | None => (None, 0),
        };
        let base = self.cursors.get(&from).map_or(0, |cursor| cursor.base(offset));
        let attempts = match reason {
            Some(ReturnReason::Outlived) => attempts,
            Some(_) | None => base + attempts_max,
        };
        let reason = match reason {
            Some(ReturnReason::Nacked) => "the consumer asked for another delivery",
            Some(ReturnReason::Expired) => "the consumer did not settle it in time",
            Some(ReturnReason::ConnectionLost) => "the consumer's connection was lost",
            Some(ReturnReason::Closed) => "the consumer left",
            Some(ReturnReason::Outlived) => "expired",
            None => "nothing",
        };
        let name = |name: Option<&String>| name.cloned().unwrap_or_default();
        let expected = [
            ("origin-topic", name(self.topics.get(&from.queue.topic))),
            ("origin-queue", from.queue.index.0.to_string()),
            ("origin-offset", offset.to_string()),
            ("origin-group", name(self.groups.get(&from.group).map(|group| &group.name))),
            ("attempts", attempts.to_string()),
            ("reason", reason.to_owned()),
        ];
        let found = rows::origin(batch);
        let same = expected
            .iter()
            .all(|(name, value)| found.iter().any(|(key, found)| key == name && found == value));
        court.require(Law::DeadLetteredOnce, same, || {
            format!("{from:?} {offset}: {found:?} instead of {expected:?}")
        });
    }

    /// What the ruling filter of a group says of a stored message; `Deliver` without a filter.
    pub fn ruling(&self, cursor: CursorId, offset: u64) -> Option<Verdict> {
        let row = self.queues.get(&cursor.queue)?.rows.get(offset as usize)?;
        Some(match self.rules.get(&(cursor.group, cursor.queue.topic))? {
            Filter::All => Verdict::Deliver,
            Filter::Plugin { plugin, expression } => content::verdict(
                self.bindings.get(plugin)?,
                expression,
                &content::content(row.producer, row.sequence),
            ),
        })
    }

    /// The priority of a message.
    pub fn priority(&self, cursor: CursorId, offset: u64) -> u8 {
        self.queues.get(&cursor.queue).map_or(0, |queue| queue.priority(offset))
    }

    /// In which lane of a cursor a message is.
    pub fn lane(&self, cursor: CursorId, offset: u64) -> u8 {
        if self.is_ordered(cursor) {
            0
        } else {
            self.priority(cursor, offset)
        }
    }

    /// The message group of a message.
    pub fn message_group(&self, cursor: CursorId, offset: u64) -> Option<String> {
        self.queues.get(&cursor.queue)?.group(offset)
    }

    /// Whether a group's messages go one after the other within their message groups.
    pub fn is_ordered(&self, cursor: CursorId) -> bool {
        self.groups.get(&cursor.group).is_some_and(|group| group.settings.ordered)
    }

    /// Whether what had its last attempt stays where it is.
    pub fn holds_exhausted(&self, cursor: CursorId) -> bool {
        let held = |group: &Group| group.settings.on_exhausted == OnExhausted::Hold;
        self.groups.get(&cursor.group).is_some_and(held)
    }

    /// The cursors of a group in a topic, by name.
    pub fn cursors_named<'a>(&'a self, group: &'a str, topic: &'a str) -> impl Iterator<Item = (&'a CursorId, &'a Cursor)> {
        self.cursors.iter().filter(move |(id, _)| {
            self.groups.get(&id.group).is_some_and(|model| model.name == group)
                && self.topics.get(&id.queue.topic).is_some_and(|name| name == topic)
        })
    }

    /// The topic that has this name.
    pub fn topic_named(&self, name: &str) -> Option<TopicId> {
        self.topics.iter().find(|(_, other)| *other == name).map(|(id, _)| *id)
    }
}
