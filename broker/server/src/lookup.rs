//! What the core wants looked up in the stored messages: a message for the dead-letter topic, messages that are due, the offset of a time.

use std::collections::BTreeMap;

use sluice_core::effect::{DeadLetter, FetchId, LocateId};
use sluice_core::input::Input;
use sluice_log::{LogError, LogReader};
use sluice_protocol::batch::{Attributes, Batch, BatchMerger, MergeError};
use sluice_protocol::ids::{Position, QueueId, QueueOffset};
use tokio::runtime::Handle;

use crate::assembly::ReadFailure;
use crate::limits::DUE_BATCH_BYTES_MAX;
use crate::panics::caught;
use crate::shard::{Shard, StorageRoom};

/// Looks things up where blocking is allowed, and tells the shard.
#[derive(Clone)]
pub(crate) struct Lookup {
    pub(crate) reader: LogReader,
    pub(crate) shard: Shard,
    pub(crate) runtime: Handle,
}

impl Lookup {
    /// Reads one message and makes of it what the dead-letter topic is to hold. The core has a bounded number of these under way.
    pub(crate) fn fetch(&self, fetch: FetchId, source: QueueId, offset: QueueOffset, dead: DeadLetter) {
        let Self { reader, shard, .. } = self.clone();
        self.runtime.spawn_blocking(move || {
            let read = caught("reading a dead letter", || dead_letter(&reader, source, offset, &dead));
            shard.tell(match read {
                Ok(Ok(batch)) => Input::Fetched { fetch, batch },
                Ok(Err(error)) => {
                    tracing::error!(%error, queue = %source, offset = offset.0, "a dead letter cannot be read: it is held, and tried again");
                    Input::FetchFailed { fetch }
                }
                // The panic was logged.
                Err(_) => Input::FetchFailed { fetch },
            });
        });
    }

    /// Reads messages that are due soon, by their numbers in a calendar. The core has a bounded number of these under way.
    pub(crate) fn fetch_due(&self, fetch: FetchId, calendar: QueueId, numbers: Vec<QueueOffset>) {
        let Self { reader, shard, .. } = self.clone();
        if shard.storage_room() < StorageRoom::Enough {
            // What is released is written, and the reserve is not for that.
            return shard.tell(Input::DueFetched { fetch, batch: None });
        }
        self.runtime.spawn_blocking(move || {
            let read = caught("reading delayed messages", || due(&reader, calendar, &numbers));
            // A panic was logged.
            let batch = read.ok().flatten();
            shard.tell(Input::DueFetched { fetch, batch });
        });
    }

    /// Finds the first offset stored at a time or later.
    pub(crate) fn locate(&self, locate: LocateId, queue: QueueId, wall_ms: i64) {
        let Self { reader, shard, .. } = self.clone();
        self.runtime.spawn_blocking(move || {
            // When it panicked, which is logged, the earliest is taken as well.
            let found = caught("looking for the offset of a time", || reader.locate_time(queue, wall_ms));
            let offset = found.unwrap_or(Ok(QueueOffset(0))).unwrap_or_else(|error| {
                tracing::error!(%error, %queue, "the offset of a time cannot be found: the earliest is taken, so that nothing is missed");
                QueueOffset(0)
            });
            shard.tell(Input::Located { locate, offset });
        });
    }
}

/// The message with its origin in further properties, alone in a batch; `None` when it is no longer stored.
fn dead_letter(reader: &LogReader, source: QueueId, offset: QueueOffset, dead: &DeadLetter) -> Result<Option<bytes::Bytes>, ReadFailure> {
    let places = reader.batches(source, offset, QueueOffset(offset.0 + 1))?;
    let Some(place) = places.first() else { return Ok(None) };
    let attributes = reader.attributes(place)?;
    let row = (offset.0 - place.first.0) as u32;
    let Some(range) = attributes.bodies_range(row..row + 1) else {
        return Ok(None);
    };
    let body = reader.read(place, range.start as u32..range.end as u32)?;
    let (queue, offset, attempts) = (source.index.0.to_string(), offset.0.to_string(), dead.attempts.to_string());
    let incarnation = source.topic.0.to_string();
    let plugin = dead.plugin.map(|digest| digest.to_string());
    let mut origin = vec![
        ("sluice.origin.topic", dead.topic.as_str()),
        ("sluice.origin.incarnation", incarnation.as_str()),
        ("sluice.origin.queue", queue.as_str()),
        ("sluice.origin.offset", offset.as_str()),
        ("sluice.origin.group", dead.group.as_str()),
        ("sluice.attempts", attempts.as_str()),
        ("sluice.reason", dead.reason.as_str()),
    ];
    origin.extend(plugin.as_deref().map(|digest| ("sluice.plugin", digest)));
    let mut merger = BatchMerger::new();
    merger.add_with_properties(&attributes, row, body, &origin)?;
    Ok(Some(merger.take().into_bytes()))
}

/// The messages with these numbers in a batch, or the first so many of them: up to one that cannot be read, which is logged, or until they
/// are much. `None` when the first cannot be read.
fn due(reader: &LogReader, calendar: QueueId, numbers: &[QueueOffset]) -> Option<Batch> {
    let (mut merger, mut sources) = (BatchMerger::new(), BTreeMap::new());
    for &number in numbers {
        if merger.total_bytes() >= DUE_BATCH_BYTES_MAX {
            break;
        }
        if let Err(error) = add_due(reader, calendar, number, &mut sources, &mut merger) {
            tracing::error!(%error, topic = calendar.topic.0, number = number.0, "a delayed message cannot be read: it is late, and tried again");
            break;
        }
    }
    // What is empty has no body to be verified, and what was merged is sound.
    Batch::parse_stored(merger.take().into_bytes())
        .ok()
        .filter(|batch| !batch.is_empty())
}

/// Adds one message of a calendar. Neighbours often come from the same batch, whose attributes are kept in `sources`.
fn add_due(
    reader: &LogReader,
    calendar: QueueId,
    number: QueueOffset,
    sources: &mut BTreeMap<Position, Attributes>,
    merger: &mut BatchMerger,
) -> Result<(), ReadFailure> {
    let places = reader.batches(calendar, number, QueueOffset(number.0 + 1))?;
    let place = places.first().ok_or(LogError::Gone { position: Position(0) })?;
    let attributes = match sources.get(&place.position) {
        Some(attributes) => attributes,
        None => sources.entry(place.position).or_insert(reader.sparse_attributes(place)?),
    };
    let row = (number.0 - place.first.0) as u32;
    let range = attributes.bodies_range(row..row + 1).ok_or(MergeError::NoSuchRows)?;
    let body = reader.read(place, range.start as u32..range.end as u32)?;
    Ok(merger.add(attributes, row..row + 1, body)?)
}
