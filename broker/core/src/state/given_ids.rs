//! The entries of the ids that producers gave their messages: where the message with an id is, for ten minutes.

use std::collections::BTreeMap;

use sluice_log::record::GivenIds as Change;
use sluice_protocol::ids::{Position, QueueId, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::codec::read_queue_id;
use super::producer::Waits;
use crate::limits::{GIVEN_ID_MINUTES, GIVEN_ID_PARTS};
use crate::planted::{self, Bug};

/// Where the message with an id was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its queue, or the calendar queue of its topic.
    pub queue: QueueId,
    /// Its offset, or its number in the calendar.
    pub offset: QueueOffset,
    /// What it waits for, or waited for, if it did not go into a queue at once.
    pub waits: Option<Waits>,
}

/// What names an entry: a minute of the monotonic clock, and a part of the ids stored in it, so that no entry is large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    minute: u64,
    part: u8,
}

impl Part {
    fn of(minute: u64, hash: u128) -> Self {
        let part = (hash % u128::from(GIVEN_ID_PARTS)) as u8;
        Self { minute, part }
    }
}

/// Ids of one minute whose hashes have the same rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// The last record that this entry holds.
    reflects: Position,
    places: BTreeMap<u128, Place>,
}

/// All ids that are remembered, by the minute in which their messages were stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenIds {
    entries: BTreeMap<Part, Entry>,
    count: u64,
}

impl GivenIds {
    /// Where the message with this id was stored within the last ten minutes, and at most a minute more.
    pub fn find(&self, hash: u128, now_mono_ms: u64) -> Option<Place> {
        let now = minute(now_mono_ms);
        let minutes = now.saturating_sub(GIVEN_ID_MINUTES)..=now;
        let entries = minutes.rev().filter_map(|minute| self.entries.get(&Part::of(minute, hash)));
        entries.filter_map(|entry| entry.places.get(&hash)).next().copied()
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first minute of which there are any.
    pub fn oldest_minute(&self) -> Option<u64> {
        self.entries.first_key_value().map(|(part, _)| part.minute)
    }

    /// How many there are of a minute and all before it.
    pub fn count_until(&self, minute: u64) -> u64 {
        let entries = self.entries.iter().take_while(|(part, _)| part.minute <= minute);
        entries.map(|(_, entry)| entry.places.len() as u64).sum()
    }

    /// Two rounds, because a record may concern one entry several times: an entry that did not hold the record at its beginning takes all.
    pub(super) fn apply(&mut self, position: Position, mono_ms: u64, change: &Change) {
        match change {
            Change::Stored { queue, prepared, ids } => {
                let minute = minute(mono_ms);
                for id in ids {
                    let entry = self.entries.entry(Part::of(minute, id.hash)).or_default();
                    if entry.reflects < position {
                        let waits = (queue.topic.calendar() == *queue).then_some(Waits {
                            due_ms: id.due_ms,
                            prepared: *prepared,
                        });
                        let place = Place {
                            queue: *queue,
                            offset: id.offset,
                            waits,
                        };
                        self.count += u64::from(entry.places.insert(id.hash, place).is_none());
                    }
                }
                for id in ids {
                    let entry = self.entries.entry(Part::of(minute, id.hash)).or_default();
                    entry.reflects = entry.reflects.max(position);
                }
                self.drop_before(position, minute.saturating_sub(GIVEN_ID_MINUTES));
            }
            Change::Forgotten { minute } => self.drop_before(position, minute.saturating_add(1)),
        }
    }

    /// Drops the entries of all minutes before this one, but for those that hold this record already: they came to be after it.
    fn drop_before(&mut self, position: Position, minute: u64) {
        let bound = Part { minute, part: 0 };
        for (_, gone) in self.entries.extract_if(..bound, |_, entry| entry.reflects < position) {
            self.count -= gone.places.len() as u64;
        }
    }

    pub(super) fn part_after(&self, last: Option<Part>) -> Option<Part> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = last.map_or(Unbounded, Excluded);
        self.entries.range((from, Unbounded)).next().map(|(part, _)| *part)
    }

    pub(super) fn encode(&self, part: Part, to: &mut Writer) -> Option<()> {
        let entry = self.entries.get(&part)?;
        let kept = entry.places.len() - usize::from(planted::is(Bug::CheckpointForgetsGivenId) && !entry.places.is_empty());
        to.u64(part.minute).u8(part.part).u64(entry.reflects.0).count(kept);
        for (hash, place) in entry.places.iter().take(kept) {
            to.u128(*hash).u64(place.queue.topic.0).u16(place.queue.index.0).u64(place.offset.0);
            let kind = place.waits.map_or(0, |waits| 1 + u8::from(waits.prepared));
            to.u8(kind).i64(place.waits.map_or(0, |waits| waits.due_ms));
        }
        Some(())
    }

    pub(super) fn decode(&mut self, from: &mut Reader<'_>) -> Result<(), WireError> {
        let part = Part {
            minute: from.u64()?,
            part: from.u8()?,
        };
        let reflects = Position(from.u64()?);
        let mut places = BTreeMap::new();
        for _ in 0..from.count(PLACE_BYTES)? {
            let hash = from.u128()?;
            let (queue, offset) = (read_queue_id(from)?, QueueOffset(from.u64()?));
            let (kind, due_ms) = (from.u8()?, from.i64()?);
            let waits = match kind {
                0 => None,
                1 | 2 => Some(Waits {
                    due_ms,
                    prepared: kind == 2,
                }),
                _ => return Err(WireError::Impossible("what a message waits for")),
            };
            places.insert(hash, Place { queue, offset, waits });
        }
        self.count += places.len() as u64;
        if let Some(before) = self.entries.insert(part, Entry { reflects, places }) {
            self.count -= before.places.len() as u64;
        }
        Ok(())
    }
}

/// What one id takes in an entry.
const PLACE_BYTES: usize = 43;

fn minute(mono_ms: u64) -> u64 {
    mono_ms / 60_000
}

#[cfg(test)]
mod tests {
    use sluice_log::record::GivenId;
    use sluice_protocol::ids::{QueueIndex, TopicId};

    use super::*;

    fn stored(hash: u128, offset: u64) -> Change {
        let queue = QueueId {
            topic: TopicId(1),
            index: QueueIndex(0),
        };
        let ids = vec![GivenId {
            hash,
            offset: QueueOffset(offset),
            due_ms: 0,
        }];
        Change::Stored {
            queue,
            prepared: false,
            ids,
        }
    }

    #[test]
    fn an_id_is_known_for_ten_minutes_and_forgotten_in_the_twelfth() {
        let mut ids = GivenIds::default();
        ids.apply(Position(1), 59_999, &stored(7, 3));
        for (mono_ms, is_known) in [(59_999, true), (659_999, true), (660_000, false)] {
            assert_eq!(ids.find(7, mono_ms).is_some(), is_known, "{mono_ms}");
        }
        ids.apply(Position(2), 600_000, &stored(8, 4));
        assert_eq!(ids.count(), 2);
        ids.apply(Position(3), 660_000, &stored(7, 5));
        assert_eq!(ids.find(7, 660_000).map(|place| place.offset), Some(QueueOffset(5)));
        assert_eq!(ids.count(), 2, "the first of 7 went");
    }

    #[test]
    fn what_is_forgotten_for_want_of_memory_is_forgotten_by_the_minute() {
        let mut ids = GivenIds::default();
        for minute in 0..3 {
            ids.apply(Position(minute + 1), minute * 60_000, &stored(minute.into(), minute));
        }
        assert_eq!((ids.oldest_minute(), ids.count_until(1)), (Some(0), 2));
        ids.apply(Position(9), 180_000, &Change::Forgotten { minute: 1 });
        assert_eq!((ids.oldest_minute(), ids.count()), (Some(2), 1));
    }
}
