//! Messages that wait for their time, in the log or in parts of the calendar; and writing parts out of either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use sluice_protocol::batch::Attributes;
use sluice_protocol::ids::{MessageId, Position, QueueOffset, TopicId};

use super::{LogReader, Shared};
use crate::error::LogError;
use crate::limits::PART_BYTES_MAX;
use crate::part::{Part, PartCursor, PartDraft};
use crate::planted::{self, Bug};
use crate::record::{FarOff, PartFacts, PartId};
use crate::recovery::directory::Listing;

/// Batches whose attributes are kept while a part is written.
const SEEN_BATCHES_MAX: usize = 256;

/// What follows in a part.
#[derive(Debug, Default)]
pub struct Following {
    /// The messages, ascending.
    pub messages: Vec<FarOff>,
    /// How many more there were whose names cannot be read, so that nobody knows which they are.
    pub lost: u64,
    /// Why the last of these cannot be read.
    pub damage: Option<LogError>,
    /// Up to here, inclusive, the part was passed over; `None` when it was not.
    pub point: Option<FarOff>,
    /// When the next one behind is due; `None` when there is none.
    pub next_ms: Option<i64>,
}

/// A message that waits for its time: a row of a batch, and its body.
#[derive(Clone, Debug)]
pub struct Delayed {
    /// The attributes of the batch.
    pub attributes: Attributes,
    /// Its row.
    pub row: u32,
    /// Its body.
    pub body: Bytes,
}

/// What reading one message that waits leaves for its neighbours, which often lie in the same batch.
#[derive(Debug, Default)]
pub struct SeenDelayed {
    batches: BTreeMap<Position, Attributes>,
    blocks: BTreeMap<(PartId, usize), (Vec<FarOff>, Option<Attributes>)>,
}

/// A part that was written out of the log.
#[derive(Debug)]
pub struct WrittenPart {
    /// What is in it; `None` when nothing could be read, and then there is none.
    pub facts: Option<PartFacts>,
    /// What could not be read, or found no room in it.
    pub left_out: Vec<FarOff>,
    /// Why the last of these could not be read.
    pub unread: Option<LogError>,
}

impl Shared {
    /// A part of the calendar, opened if it is not.
    fn calendar_part(&self, part: PartId) -> Result<Option<Arc<Part>>, LogError> {
        if let Some(open) = self.calendar().get(&part) {
            return Ok(Some(open));
        }
        let opened = Part::open(&*self.storage, self.secret, part)?.map(Arc::new);
        if let Some(opened) = &opened {
            self.calendar().put(part, 1, Arc::clone(opened));
        }
        Ok(opened)
    }

    pub(crate) fn forget_part(&self, part: PartId) {
        self.calendar().remove(&part);
    }
}

impl LogReader {
    /// The parts of which there are files, whether state names them or not, ascending.
    ///
    /// # Errors
    /// The directory cannot be listed.
    pub fn parts(&self) -> Result<Vec<PartId>, LogError> {
        let listing = Listing::read(&*self.shared.storage)?;
        Ok(listing.parts.into_iter().map(PartId).collect())
    }

    /// A message that waits for its time: in the log, or in one of these parts. `None` when it is in neither.
    ///
    /// # Errors
    /// What holds it is damaged, or the disk failed.
    pub fn delayed(&self, message: FarOff, parts: &[PartId], seen: &mut SeenDelayed) -> Result<Option<Delayed>, LogError> {
        let in_log = self.delayed_in_log(message, &mut seen.batches)?;
        if in_log.is_some() {
            return Ok(in_log);
        }
        // A damaged part says nothing of what the others hold.
        let mut damaged = None;
        for part in parts {
            match self.delayed_in_part(message, *part, seen) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(error) => damaged = Some(error),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    fn delayed_in_log(&self, message: FarOff, seen: &mut BTreeMap<Position, Attributes>) -> Result<Option<Delayed>, LogError> {
        let (queue, number) = (message.topic.calendar(), message.number);
        let places = self.batches(queue, number, QueueOffset(number.0.saturating_add(1)))?;
        let Some(place) = places.first() else { return Ok(None) };
        let attributes = match seen.get(&place.position) {
            Some(attributes) => attributes.clone(),
            None => seen.entry(place.position).or_insert(self.sparse_attributes(place)?).clone(),
        };
        let row = (number.0 - place.first.0) as u32;
        let range = attributes
            .bodies_range(row..row + 1)
            .ok_or(LogError::Gone { position: place.position })?;
        let body = self.read(place, range.start as u32..range.end as u32)?;
        Ok(Some(Delayed { attributes, row, body }))
    }

    fn delayed_in_part(&self, message: FarOff, id: PartId, seen: &mut SeenDelayed) -> Result<Option<Delayed>, LogError> {
        let Some(part) = self.shared.calendar_part(id)? else {
            return Ok(None);
        };
        let Some(at) = part.block_of(message) else { return Ok(None) };
        let block = &part.blocks[at];
        let held = match seen.blocks.entry((id, at)) {
            std::collections::btree_map::Entry::Occupied(held) => held.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => place.insert((part.names(block)?, None)),
        };
        let Ok(row) = held.0.binary_search(&message) else { return Ok(None) };
        let attributes = match &held.1 {
            Some(attributes) => attributes.clone(),
            None => held.1.insert(part.attributes(block)?).clone(),
        };
        let row = row as u32;
        let body = part.body(block, &attributes, row)?;
        Ok(Some(Delayed { attributes, row, body }))
    }

    /// The part among these that holds a message.
    ///
    /// # Errors
    /// One of them is damaged, or the disk failed.
    pub fn find_in_parts(&self, message: FarOff, parts: &[PartId]) -> Result<Option<PartId>, LogError> {
        let mut damaged = None;
        for id in parts {
            match self.is_in_part(message, *id) {
                Ok(true) => return Ok(Some(*id)),
                Ok(false) => {}
                Err(error) => damaged = Some(error),
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// All parts that hold a message, of those of which there are files.
    ///
    /// # Errors
    /// One of them is damaged, or the disk failed.
    pub fn parts_with(&self, message: FarOff) -> Result<Vec<PartId>, LogError> {
        let held = self.parts()?.into_iter().map(|id| Ok(self.is_in_part(message, id)?.then_some(id)));
        held.filter_map(Result::transpose).collect()
    }

    fn is_in_part(&self, message: FarOff, id: PartId) -> Result<bool, LogError> {
        let Some(part) = self.shared.calendar_part(id)? else {
            return Ok(false);
        };
        let Some(at) = part.block_of(message) else { return Ok(false) };
        Ok(part.names(&part.blocks[at])?.binary_search(&message).is_ok())
    }

    /// The part and the name of the far-off message with this id, of those of which there are files. Parts have no index of ids: up to `most`
    /// messages are looked through, those of the newest parts first.
    ///
    /// # Errors
    /// It was not found, and a part is damaged; or the disk failed.
    pub fn find_far(&self, id: MessageId, most: u64) -> Result<Option<FarOff>, LogError> {
        let (mut looked_at, mut damaged) = (0, None);
        for part in self.parts()?.into_iter().rev() {
            let Some(part) = self.shared.calendar_part(part)? else { continue };
            for block in &part.blocks {
                looked_at += u64::from(block.messages);
                if looked_at > most {
                    return damaged.map_or(Ok(None), Err);
                }
                let named = part.attributes(block).and_then(|attributes| {
                    let row = attributes.rows().find(|row| row.message_id() == id);
                    row.map_or(Ok(None), |row| Ok(part.names(block)?.get(row.index() as usize).copied()))
                });
                match named {
                    Ok(None) => {}
                    Ok(found) => return Ok(found),
                    Err(error) => damaged = Some(error),
                }
            }
        }
        damaged.map_or(Ok(None), Err)
    }

    /// What a part holds behind `after` and up to `until_ms`, `most` messages at most. `None` when there is no such part any more. Messages
    /// whose names are damaged are passed over, so that they do not hold back what comes later.
    ///
    /// # Errors
    /// The part cannot be opened, or the disk failed.
    pub fn read_part(&self, part: PartId, after: Option<FarOff>, until_ms: i64, most: usize) -> Result<Option<Following>, LogError> {
        let Some(part) = self.shared.calendar_part(part)? else {
            return Ok(None);
        };
        let mut found = Following::default();
        let from = after.and_then(|after| part.block_of(after)).unwrap_or(0);
        for block in part.blocks.iter().skip(from) {
            let names = match part.names(block) {
                Err(error @ LogError::BadPart { .. }) => {
                    found.damage = Some(error);
                    Vec::new()
                }
                names => names?,
            };
            let is_lost = names.is_empty() && after < Some(block.first);
            let named = if is_lost { vec![block.first] } else { names };
            for message in named.into_iter().filter(|message| Some(*message) > after) {
                if message.at_ms > until_ms || found.messages.len() >= most {
                    found.next_ms = Some(message.at_ms);
                    return Ok(Some(found));
                }
                found.point = Some(message);
                if is_lost {
                    found.lost += u64::from(block.messages);
                } else {
                    found.messages.push(message);
                }
            }
        }
        Ok(Some(found))
    }

    fn existing_part(&self, part: PartId) -> Result<Arc<Part>, LogError> {
        self.shared.calendar_part(part)?.ok_or_else(|| LogError::BadPart {
            file: crate::part::part_name(part),
            offset: 0,
            reason: "it is gone".to_owned(),
        })
    }

    /// Writes a part with these messages out of the log, ascending, and syncs it. The inner error says why there is none: there is no room.
    ///
    /// # Errors
    /// The disk failed: whoever writes the log must stop.
    pub fn write_part(&self, part: PartId, messages: &[FarOff]) -> Result<Result<WrittenPart, LogError>, LogError> {
        let mut draft = match self.begin_part(part) {
            Ok(draft) => draft,
            Err(error) => return without_room(error),
        };
        let mut seen = SeenDelayed::default();
        let (mut left_out, mut unread) = (Vec::new(), None);
        for &message in messages {
            if draft.bytes() >= PART_BYTES_MAX {
                left_out.push(message);
                continue;
            }
            // Its messages may lie anywhere in the log.
            if seen.batches.len() > SEEN_BATCHES_MAX {
                seen.batches.clear();
            }
            match self.delayed(message, &[], &mut seen) {
                Ok(Some(Delayed { attributes, row, body })) => {
                    if let Err(error) = draft.add(message, &attributes, row, body) {
                        draft.discard()?;
                        return without_room(error);
                    }
                }
                Ok(None) => left_out.push(message),
                Err(error) => {
                    unread = Some(error);
                    left_out.push(message);
                }
            }
        }
        Ok(finish(draft)?.map(|facts| WrittenPart { facts, left_out, unread }))
    }

    /// Writes a part with what these parts hold behind a message of each, but for what is dead and what belongs to other topics, and syncs
    /// it. Tells what is in it; nothing was written where that is nothing. The inner error says why there is none: there is no room, or one of
    /// the parts cannot be read.
    ///
    /// # Errors
    /// The disk failed: whoever writes the log must stop.
    pub fn merge_parts(
        &self,
        part: PartId,
        parts: &[(PartId, Option<FarOff>)],
        dead: &BTreeSet<FarOff>,
        topics: &BTreeSet<TopicId>,
    ) -> Result<Result<PartFacts, LogError>, LogError> {
        let cursors = parts
            .iter()
            .map(|(part, after)| PartCursor::behind(self.existing_part(*part)?, *after));
        let mut cursors = match cursors.collect::<Result<Vec<_>, _>>() {
            Ok(cursors) => cursors,
            Err(error) => return Ok(Err(error)),
        };
        let mut draft = match self.begin_part(part) {
            Ok(draft) => draft,
            Err(error) => return without_room(error),
        };
        loop {
            let next = cursors.iter_mut().filter_map(|cursor| Some((cursor.message()?, cursor)));
            let Some((message, cursor)) = next.min_by_key(|(message, _)| *message) else {
                break;
            };
            let forgotten = planted::is(Bug::MergeDropsOne) && message.number.0.is_multiple_of(3);
            if !dead.contains(&message) && topics.contains(&message.topic) && !forgotten {
                let (attributes, row, body) = match cursor.read() {
                    Ok(read) => read,
                    Err(error) => {
                        draft.discard()?;
                        return Ok(Err(error));
                    }
                };
                if let Err(error) = draft.add(message, &attributes, row, body) {
                    draft.discard()?;
                    return without_room(error);
                }
            }
            if let Err(error) = cursor.pass() {
                draft.discard()?;
                return Ok(Err(error));
            }
        }
        Ok(finish(draft)?.map(Option::unwrap_or_default))
    }

    fn begin_part(&self, part: PartId) -> Result<PartDraft, LogError> {
        PartDraft::begin(Arc::clone(&self.shared.storage), self.shared.secret, part)
    }
}

/// The end of a part, or nothing where there is no room for it.
fn finish(draft: PartDraft) -> Result<Result<Option<PartFacts>, LogError>, LogError> {
    let (storage, name) = draft.place();
    match draft.finish() {
        Ok(facts) => Ok(Ok(facts)),
        Err(error) => {
            crate::writer::discard(&*storage, &name)?;
            without_room(error)
        }
    }
}

fn without_room<T>(error: LogError) -> Result<Result<T, LogError>, LogError> {
    match error {
        LogError::NoRoom { .. } => Ok(Err(error)),
        error => Err(error),
    }
}
