//! What the core wants looked up in the stored messages: a message of which it wants a copy, messages that are due, the offset of a time.

use sluice_core::effect::{Copied, DeadLetter, FetchId, LocateId, RolledBack};
use sluice_core::input::Input;
use sluice_log::record::{Due, FarOff, PartId};
use sluice_log::{Delayed, LogError, LogReader, SeenDelayed};
use sluice_protocol::batch::{Attributes, Batch, BatchMerger, Changes, Row};
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
    /// Reads one message and makes a copy of it. The core has a bounded number of these under way.
    pub(crate) fn fetch(&self, fetch: FetchId, source: QueueId, offset: QueueOffset, copy: Copied) {
        let Self { reader, shard, .. } = self.clone();
        if matches!(copy, Copied::RolledBack(_)) && shard.storage_room() < StorageRoom::Enough {
            // The copy is written, and the reserve is not for that.
            return shard.tell(Input::FetchFailed { fetch });
        }
        self.runtime.spawn_blocking(move || {
            let read = caught("copying a message", || copied(&reader, source, offset, &copy));
            shard.tell(match read {
                Ok(Ok(batch)) => Input::Fetched { fetch, batch },
                Ok(Err(error)) => {
                    tracing::error!(%error, queue = %source, offset = offset.0, "a message cannot be copied: it is held, and tried again");
                    Input::FetchFailed { fetch }
                }
                // The panic was logged.
                Err(_) => Input::FetchFailed { fetch },
            });
        });
    }

    /// Reads messages that are due soon, from the log or from these parts. The core has a bounded number of these under way.
    pub(crate) fn fetch_due(&self, fetch: FetchId, calendar: QueueId, messages: Vec<Due>, parts: Vec<PartId>) {
        let Self { reader, shard, .. } = self.clone();
        if shard.storage_room() < StorageRoom::Enough {
            // What is released is written, and the reserve is not for that.
            return shard.tell(Input::DueFetched { fetch, batch: None });
        }
        self.runtime.spawn_blocking(move || {
            let read = caught("reading delayed messages", || due(&reader, calendar, &messages, &parts));
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

/// The copy of a message, alone in a batch; `None` when it is no longer stored.
fn copied(reader: &LogReader, source: QueueId, offset: QueueOffset, copy: &Copied) -> Result<Option<bytes::Bytes>, ReadFailure> {
    let places = reader.batches(source, offset, QueueOffset(offset.0 + 1))?;
    let Some(place) = places.first() else { return Ok(None) };
    let attributes = reader.attributes(place)?;
    let number = (offset.0 - place.first.0) as u32;
    let (Some(range), Some(row)) = (attributes.bodies_range(number..number + 1), attributes.row(number)) else {
        return Ok(None);
    };
    let body = reader.read(place, range.start as u32..range.end as u32)?;
    let mut merger = BatchMerger::new();
    match copy {
        Copied::DeadLetter(dead) => {
            let origin = origin_of_letter(source, offset, dead);
            merger.add_with_properties(&attributes, number, body, &borrowed(&origin))?;
        }
        Copied::RolledBack(back) => {
            let origin = origin_of_rolled_back(source, &row, back);
            merger.add_with_properties(&attributes, number, body, &borrowed(&origin))?;
        }
        Copied::Revived => {
            let changes = Changes {
                without: &ROLLED_BACK,
                ttl_ms: origin_ttl_ms(&attributes, &row),
                ..Changes::default()
            };
            merger.add_changed(&attributes, number, body, changes)?;
        }
    }
    Ok(Some(merger.take().into_bytes()))
}

fn borrowed<'a>(properties: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    properties.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn origin_of_letter(source: QueueId, offset: QueueOffset, dead: &DeadLetter) -> Vec<(&'static str, String)> {
    let mut origin = vec![
        (TOPIC, dead.topic.clone()),
        (INCARNATION, source.topic.0.to_string()),
        ("sluice.origin.queue", source.index.0.to_string()),
        ("sluice.origin.offset", offset.0.to_string()),
        ("sluice.origin.group", dead.group.clone()),
        ("sluice.attempts", dead.attempts.to_string()),
        (REASON, dead.reason.clone()),
    ];
    origin.extend(dead.plugin.map(|digest| ("sluice.plugin", digest.to_string())));
    origin
}

const TOPIC: &str = "sluice.origin.topic";
const INCARNATION: &str = "sluice.origin.incarnation";
const REASON: &str = "sluice.reason";
const TTL: &str = "sluice.origin.ttl_ms";
const PRODUCER: &str = "sluice.origin.producer";
const PREPARED: &str = "sluice.origin.prepared_ms";
const TRANSACTION: &str = "sluice.origin.transaction";
const ASKS: &str = "sluice.asks";

/// What a copy of a message that was given up says of its origin, which the message itself does not.
const ROLLED_BACK: [&str; 8] = [TOPIC, INCARNATION, PRODUCER, PREPARED, TRANSACTION, TTL, ASKS, REASON];

fn origin_of_rolled_back(source: QueueId, row: &Row<'_>, back: &RolledBack) -> Vec<(&'static str, String)> {
    let handle = back.handle.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut origin = vec![
        (TOPIC, back.topic.clone()),
        (INCARNATION, source.topic.0.to_string()),
        (PRODUCER, format!("{:032x}", row.producer().0)),
        (PREPARED, back.prepared_wall_ms.to_string()),
        (TRANSACTION, handle),
        (ASKS, back.asks.to_string()),
        (REASON, "nobody decided about it".to_owned()),
    ];
    if row.ttl_ms() > 0 {
        origin.push((TTL, row.ttl_ms().to_string()));
    }
    origin
}

/// How long a message lives of which a copy was made that does not say so as the message did.
fn origin_ttl_ms(attributes: &Attributes, row: &Row<'_>) -> u64 {
    let mut properties = row.properties();
    let ttl = properties.find(|(name, _)| attributes.name(*name) == TTL);
    ttl.and_then(|(_, value)| String::from_utf8_lossy(value).parse().ok()).unwrap_or(0)
}

/// These messages in a batch, or the first so many of them: up to one that cannot be read, which is logged, or until they are much. `None` when
/// the first cannot be read.
fn due(reader: &LogReader, calendar: QueueId, messages: &[Due], parts: &[PartId]) -> Option<Batch> {
    let (mut merger, mut seen) = (BatchMerger::new(), SeenDelayed::default());
    for due in messages {
        if merger.total_bytes() >= DUE_BATCH_BYTES_MAX {
            break;
        }
        let message = FarOff::new(calendar.topic, *due);
        if let Err(error) = add_due(reader, message, parts, &mut seen, &mut merger) {
            tracing::error!(%error, topic = calendar.topic.0, number = due.number.0, "a delayed message cannot be read: it is late, and tried again");
            break;
        }
    }
    // What is empty has no body to be verified, and what was merged is sound.
    Batch::parse_stored(merger.take().into_bytes())
        .ok()
        .filter(|batch| !batch.is_empty())
}

/// Adds one message of a calendar. Neighbours often come from the same batch, whose attributes are kept in `seen`.
fn add_due(
    reader: &LogReader,
    message: FarOff,
    parts: &[PartId],
    seen: &mut SeenDelayed,
    merger: &mut BatchMerger,
) -> Result<(), ReadFailure> {
    let gone = LogError::Gone { position: Position(0) };
    let Delayed { attributes, row, body } = reader.delayed(message, parts, seen)?.ok_or(gone)?;
    Ok(merger.add(&attributes, row..row + 1, body)?)
}
