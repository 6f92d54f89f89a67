//! The entries of a checkpoint: which kind each is, what names it, and how state is taken apart into them and put together again.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use sluice_log::record::{CursorId, PartId};
use sluice_protocol::ids::{GroupId, ProducerId, QueueId, QueueIndex, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::binding::Binding;
use super::calendar::{Held, Page};
use super::cursor::Cursor;
use super::given_ids::Part;
use super::group::Group;
use super::growth::Growth;
use super::letters::Letters;
use super::meta::Meta;
use super::pause::{self, Pause, PauseId};
use super::producer::Producer;
use super::queue::Queue;
use super::restorations::Restorations;
use super::subscription::Subscription;
use super::topic::Topic;
use super::{State, add_name};
use crate::planted::{self, Bug};

/// The highest version of a kind of entry. Every version below it is read, too.
fn version(kind: u8) -> u8 {
    match kind {
        // Version 2 holds lifetimes (2), priorities (3), order (4), alarms (5), held messages (6) and what becomes of failures (8), version 3
        // what expires (3), who gets the messages (4), where passes began (5) and lanes (6), version 4 deadlines (6), version 5 losses (6).
        6 => 5,
        3..=5 => 3,
        2 | 8 => 2,
        // Version 2 is written of a topic of whose messages some were in a part.
        9 => 2,
        // Version 2 is written of a producer that has delayed messages in its window, version 3 of one that has prepared ones.
        7 => 3,
        _ => 1,
    }
}

/// The highest number that a kind may have.
const KINDS: u8 = 22;

/// What names an entry, in the order in which a checkpoint holds them. The number of a kind is never used again for another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The shard itself (1).
    Meta,
    /// A topic (2).
    Topic(TopicId),
    /// A queue (3).
    Queue(QueueId),
    /// A group (4).
    Group(GroupId),
    /// A subscription (5).
    Subscription(GroupId, TopicId),
    /// A cursor (6).
    Cursor(CursorId),
    /// A producer (7).
    Producer(ProducerId),
    /// A plugin binding (8).
    Binding(String),
    /// A pause of a group (15).
    Pause(PauseId),
    /// What was dealt with of a dead-letter topic (16).
    Letters(TopicId),
    /// How a topic grew (17).
    Growth(TopicId),
    /// The calendar of a topic, but for what waits in it (9).
    Calendar(TopicId),
    /// What waits in a calendar and is due within about a second (10).
    Waiting(TopicId, Page),
    /// Neighbouring messages that wait for a decision (13).
    Undecided(TopicId, u64),
    /// What was decided about neighbouring messages (14).
    Decided(TopicId, u64),
    /// Ids that producers gave their messages (18).
    GivenIds(Part),
    /// When this log went on from backups (22).
    Restorations,
    /// A part of the calendar (19).
    Part(PartId),
    /// What was taken in from parts and is due within about a second (20).
    Taken(TopicId, Page),
}

impl Key {
    fn kind(&self) -> u8 {
        match self {
            Self::Meta => 1,
            Self::Topic(_) => 2,
            Self::Queue(_) => 3,
            Self::Group(_) => 4,
            Self::Subscription(..) => 5,
            Self::Cursor(_) => 6,
            Self::Producer(_) => 7,
            Self::Binding(_) => 8,
            Self::Pause(_) => 15,
            Self::Letters(_) => 16,
            Self::Growth(_) => 17,
            Self::Calendar(_) => 9,
            Self::Waiting(..) => 10,
            Self::Undecided(..) => 13,
            Self::Decided(..) => 14,
            Self::GivenIds(_) => 18,
            Self::Restorations => 22,
            Self::Part(_) => 19,
            Self::Taken(..) => 20,
        }
    }
}

/// An entry of a checkpoint that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// The entry's bytes are not what its kind and version say.
    #[error("a checkpoint entry cannot be decoded: {0}")]
    Malformed(#[from] WireError),
    /// A newer broker wrote it.
    #[error("a checkpoint entry has version {0}, which this broker does not know")]
    Version(u8),
    /// No such kind of entry is known.
    #[error("a checkpoint entry has kind {0}, which this broker does not know")]
    Kind(u8),
}

impl State {
    /// The key of the first entry after `after`, or of the first of all.
    pub fn next_key(&self, after: Option<&Key>) -> Option<Key> {
        let within = after.and_then(|key| self.next_of_kind(key.kind(), Some(key)));
        within.or_else(|| (after.map_or(1, |key| key.kind() + 1)..=KINDS).find_map(|kind| self.next_of_kind(kind, None)))
    }

    /// The first entry of a kind that comes after `after`, which is of that kind.
    fn next_of_kind(&self, kind: u8, after: Option<&Key>) -> Option<Key> {
        match kind {
            1 => after.is_none().then_some(Key::Meta),
            2 => above(
                &self.topics,
                after.and_then(|key| if let Key::Topic(id) = key { Some(id) } else { None }),
            )
            .map(Key::Topic),
            3 => above(
                &self.queues,
                after.and_then(|key| if let Key::Queue(id) = key { Some(id) } else { None }),
            )
            .map(Key::Queue),
            4 => above(
                &self.groups,
                after.and_then(|key| if let Key::Group(id) = key { Some(id) } else { None }),
            )
            .map(Key::Group),
            5 => {
                let last = after.and_then(|key| {
                    if let Key::Subscription(group, topic) = key {
                        Some((*group, *topic))
                    } else {
                        None
                    }
                });
                above(&self.subscriptions, last.as_ref()).map(|(group, topic)| Key::Subscription(group, topic))
            }
            6 => above(
                &self.cursors,
                after.and_then(|key| if let Key::Cursor(id) = key { Some(id) } else { None }),
            )
            .map(Key::Cursor),
            7 => {
                let last = after.and_then(|key| if let Key::Producer(id) = key { Some(*id) } else { None });
                self.producers.after(last).map(Key::Producer)
            }
            8 => above(
                &self.bindings,
                after.and_then(|key| if let Key::Binding(name) = key { Some(name) } else { None }),
            )
            .map(Key::Binding),
            9 => {
                let last = after.and_then(|key| if let Key::Calendar(topic) = key { Some(*topic) } else { None });
                self.calendars.topic_after(last).map(Key::Calendar)
            }
            10 => {
                let last = after.and_then(|key| {
                    if let Key::Waiting(topic, page) = key {
                        Some((*topic, *page))
                    } else {
                        None
                    }
                });
                self.calendars
                    .page_after(Held::Log, last)
                    .map(|(topic, page)| Key::Waiting(topic, page))
            }
            13 => {
                let last = after.and_then(|key| {
                    if let Key::Undecided(topic, page) = key {
                        Some((*topic, *page))
                    } else {
                        None
                    }
                });
                self.transactions.page_after(last).map(|(topic, page)| Key::Undecided(topic, page))
            }
            14 => {
                let last = after.and_then(|key| {
                    if let Key::Decided(topic, page) = key {
                        Some((*topic, *page))
                    } else {
                        None
                    }
                });
                self.transactions.decided_after(last).map(|(topic, page)| Key::Decided(topic, page))
            }
            15 => above(
                &self.pauses,
                after.and_then(|key| if let Key::Pause(id) = key { Some(id) } else { None }),
            )
            .map(Key::Pause),
            16 => above(
                &self.letters,
                after.and_then(|key| if let Key::Letters(id) = key { Some(id) } else { None }),
            )
            .map(Key::Letters),
            17 => above(
                &self.growths,
                after.and_then(|key| if let Key::Growth(id) = key { Some(id) } else { None }),
            )
            .map(Key::Growth),
            18 => {
                let last = after.and_then(|key| if let Key::GivenIds(part) = key { Some(*part) } else { None });
                self.given_ids.part_after(last).map(Key::GivenIds)
            }
            19 => {
                let last = after.and_then(|key| if let Key::Part(part) = key { Some(*part) } else { None });
                self.parts.part_after(last).map(Key::Part)
            }
            20 => {
                let last = after.and_then(|key| {
                    if let Key::Taken(topic, page) = key {
                        Some((*topic, *page))
                    } else {
                        None
                    }
                });
                self.calendars
                    .page_after(Held::Parts, last)
                    .map(|(topic, page)| Key::Taken(topic, page))
            }
            22 => (after.is_none() && !self.restorations.is_empty()).then_some(Key::Restorations),
            _ => None,
        }
    }

    /// The entry of this name as it is in a checkpoint; `None` when there is none.
    pub fn encode_entry(&self, key: &Key) -> Option<Bytes> {
        let mut to = Writer::with_capacity(128);
        match key {
            Key::Meta => self.meta.encode(begin(&mut to, 1)),
            Key::Topic(id) => {
                let topic = self.topics.get(id)?;
                topic.encode(to.u8(2).u8(1 + u8::from(topic.settings.is_extended())).u64(id.0));
            }
            Key::Queue(id) => {
                let queue = self.queues.get(id)?;
                let version = queue.version();
                queue.encode(queue_id(to.u8(3).u8(version), *id), version);
            }
            Key::Group(id) => {
                let group = self.groups.get(id)?;
                group.encode(to.u8(4).u8(group.settings.version()).u64(id.0));
            }
            Key::Subscription(group, topic) => {
                let subscription = self.subscriptions.get(&(*group, *topic))?;
                subscription.encode(to.u8(5).u8(subscription.version()).u64(group.0).u64(topic.0));
            }
            Key::Cursor(id) => {
                let cursor = self.cursors.get(id)?;
                let version = cursor.version();
                cursor.encode(queue_id(to.u8(6).u8(version).u64(id.group.0), id.queue), version);
            }
            Key::Producer(id) => {
                let producer = self.producers.get(*id)?;
                let version = producer.version();
                producer.encode(to.u8(7).u8(version).u128(id.0), version);
            }
            Key::Binding(name) => self.bindings.get(name)?.encode(begin(&mut to, 8).text(name)),
            Key::Pause(id) => self.pauses.get(id)?.encode(pause::put_id(begin(&mut to, 15), *id)),
            Key::Letters(id) => self.letters.get(id)?.encode(begin(&mut to, 16).u64(id.0)),
            Key::Growth(id) => self.growths.get(id)?.encode(begin(&mut to, 17).u64(id.0)),
            Key::Calendar(topic) => self.calendars.encode(*topic, to.u8(9).u8(self.calendars.version(*topic)))?,
            Key::Waiting(topic, page) => self.calendars.encode_page(Held::Log, *topic, *page, begin(&mut to, 10))?,
            Key::Part(part) => self.parts.encode(*part, begin(&mut to, 19))?,
            Key::Taken(topic, page) => self.calendars.encode_page(Held::Parts, *topic, *page, begin(&mut to, 20))?,
            Key::Undecided(topic, page) => self.transactions.encode_page(*topic, *page, begin(&mut to, 13))?,
            Key::Restorations if self.restorations.is_empty() => return None,
            Key::Restorations => self.restorations.encode(begin(&mut to, 22)),
            Key::GivenIds(part) => self.given_ids.encode(*part, begin(&mut to, 18))?,
            Key::Decided(topic, page) => self.transactions.encode_decided(*topic, *page, begin(&mut to, 14))?,
        }
        Some(to.finish())
    }

    /// Puts an entry of a checkpoint in its place.
    ///
    /// # Errors
    /// [`BadEntry`] when the bytes are not an entry that this broker knows.
    pub fn restore(&mut self, entry: &[u8]) -> Result<(), BadEntry> {
        let mut from = Reader::new(entry);
        let (kind, version) = (from.u8()?, from.u8()?);
        if !(1..=self::version(kind)).contains(&version) {
            return Err(BadEntry::Version(version));
        }
        match kind {
            1 => self.meta = Meta::decode(&mut from)?,
            2 => {
                let (id, topic) = (TopicId(from.u64()?), Topic::decode(&mut from, version)?);
                add_name(&mut self.topic_names, &topic.name, id);
                self.topics.insert(id, topic);
            }
            3 => drop(self.queues.insert(read_queue_id(&mut from)?, Queue::decode(&mut from, version)?)),
            4 => {
                let (id, group) = (GroupId(from.u64()?), Group::decode(&mut from, version)?);
                add_name(&mut self.group_names, &group.name, id);
                self.groups.insert(id, group);
            }
            5 => {
                let (group, topic) = (GroupId(from.u64()?), TopicId(from.u64()?));
                self.subscriptions.insert((group, topic), Subscription::decode(&mut from, version)?);
                self.readers.add(topic, group);
            }
            6 => {
                let id = CursorId {
                    group: GroupId(from.u64()?),
                    queue: read_queue_id(&mut from)?,
                };
                self.cursors.insert(id, Cursor::decode(&mut from, version)?);
                self.readers.add(id.queue.topic, id.group);
            }
            7 => self.producers.put(ProducerId(from.u128()?), Producer::decode(&mut from, version)?),
            8 => drop(self.bindings.insert(from.text()?.to_owned(), Binding::decode(&mut from, version)?)),
            15 => drop(self.pauses.insert(pause::take_id(&mut from)?, Pause::decode(&mut from)?)),
            16 => drop(self.letters.insert(TopicId(from.u64()?), Letters::decode(&mut from)?)),
            17 => {
                let (topic, growth) = (TopicId(from.u64()?), Growth::decode(&mut from)?);
                if !planted::is(Bug::GrowthForgotten) {
                    self.growths.insert(topic, growth);
                }
            }
            9 => self.calendars.decode(&mut from, version)?,
            10 => self.calendars.decode_page(Held::Log, &mut from)?,
            13 => self.transactions.decode_page(&mut from)?,
            14 => self.transactions.decode_decided(&mut from)?,
            18 => self.given_ids.decode(&mut from)?,
            19 => self.parts.decode(&mut from)?,
            20 => self.calendars.decode_page(Held::Parts, &mut from)?,
            22 => self.restorations = Restorations::decode(&mut from)?,
            _ => return Err(BadEntry::Kind(kind)),
        }
        Ok(from.finish()?)
    }
}

fn begin(to: &mut Writer, kind: u8) -> &mut Writer {
    to.u8(kind).u8(version(kind))
}

fn above<K: Ord + Clone, V>(map: &BTreeMap<K, V>, last: Option<&K>) -> Option<K> {
    let from = last.map_or(Bound::Unbounded, Bound::Excluded);
    map.range((from, Bound::Unbounded)).next().map(|(key, _)| key.clone())
}

fn queue_id(to: &mut Writer, id: QueueId) -> &mut Writer {
    to.u64(id.topic.0).u16(id.index.0)
}

pub(super) fn read_queue_id(from: &mut Reader<'_>) -> Result<QueueId, WireError> {
    Ok(QueueId {
        topic: TopicId(from.u64()?),
        index: QueueIndex(from.u16()?),
    })
}
