//! Flat batches made from and compared with what messages are known to contain.

use bytes::Bytes;
use sluice_core::effect::{DeadLetter, RolledBack};
use sluice_protocol::batch::{Attributes, Batch, BatchBuilder, BatchMerger, Changes, GivenId, NewMessage, Row};
use sluice_protocol::ids::{ProducerId, QueueId, QueueOffset, Sequence};

use crate::content::{Content, content};

/// A batch of `count` messages that `producer` numbers from `first` on, each to be delivered when it is said (0 for at once) and, where it is
/// said, only if it is committed.
pub fn batch(producer: ProducerId, first: Sequence, count: u64, mut waits: impl FnMut() -> (i64, bool)) -> Bytes {
    let mut builder = BatchBuilder::new(content(producer, first).born_ms, producer, first);
    for sequence in first.0..first.0 + count {
        let message = content(producer, Sequence(sequence));
        let keys: Vec<&str> = message.keys.iter().map(String::as_str).collect();
        let properties: Vec<(&str, &str)> = message
            .properties
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        let (deliver_at_ms, prepared) = waits();
        let new = NewMessage {
            tag: message.tag.as_deref(),
            keys: &keys,
            properties: &properties,
            born_ms: message.born_ms,
            deliver_at_ms,
            prepared,
            priority: message.priority,
            group: message.group.as_deref(),
            ttl_ms: message.ttl_ms,
            given_id: message.given_id.as_ref().map(|(scope, id)| GivenId { scope: *scope, id }),
            ..NewMessage::default()
        };
        builder
            .push(&new, &message.body)
            .expect("the messages of the simulation keep the rules");
    }
    builder.finish()
}

/// Who sent each message of a batch, and by which number.
pub fn identities(batch: &Bytes) -> Vec<(ProducerId, Sequence)> {
    match Attributes::parse(batch.clone()) {
        Ok(attributes) => attributes.rows().map(|row| (row.producer(), row.sequence())).collect(),
        Err(_) => Vec::new(),
    }
}

/// Whether all messages of a batch are only prepared.
pub fn are_prepared(batch: &Bytes) -> bool {
    let attributes = Attributes::parse(batch.clone());
    attributes.is_ok_and(|attributes| attributes.rows().all(|row| row.is_prepared()))
}

/// When each message of a batch is to be delivered.
pub fn times(batch: &Bytes) -> Vec<i64> {
    match Attributes::parse(batch.clone()) {
        Ok(attributes) => attributes.rows().map(|row| row.deliver_at_ms()).collect(),
        Err(_) => Vec::new(),
    }
}

/// How a stored row differs from what was sent; `None` when it does not. Copies in dead-letter topics may have further properties.
pub fn difference(attributes: &Attributes, row: &Row<'_>, copy: bool) -> Option<String> {
    let expected = content(row.producer(), row.sequence());
    let found = Content {
        tag: row.tag().map(str::to_owned),
        keys: row.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect(),
        properties: row
            .properties()
            .map(|(name, value)| (attributes.name(name).to_owned(), String::from_utf8_lossy(value).into_owned()))
            .filter(|property| !copy || expected.properties.contains(property))
            .collect(),
        priority: row.priority(),
        group: row.group().map(str::to_owned),
        ttl_ms: if copy && row.ttl_ms() == 0 { expected.ttl_ms } else { row.ttl_ms() },
        given_id: row.given_id().map(|given| (given.scope, given.id.to_owned())),
        body: expected.body.clone(),
        born_ms: row.born_ms(),
    };
    (found != expected).then(|| format!("{found:?} instead of {expected:?}"))
}

/// Whether the body of a stored row is what was sent, by its own checksum too.
pub fn body_is_exact(batch: &Batch, row: &Row<'_>) -> bool {
    batch.verify_body(row) && batch.body_bytes(row) == content(row.producer(), row.sequence()).body
}

/// The copy of a message that the dead-letter topic is to hold, alone in a batch and with its origin in further properties.
pub fn dead_letter(source: &Batch, row: u32, queue: QueueId, offset: QueueOffset, dead: &DeadLetter) -> Bytes {
    let (index, offset, attempts) = (queue.index.0.to_string(), offset.0.to_string(), dead.attempts.to_string());
    let plugin = dead.plugin.map(|digest| digest.to_string()).unwrap_or_default();
    let origin = [
        ("origin-topic", dead.topic.as_str()),
        ("origin-queue", index.as_str()),
        ("origin-offset", offset.as_str()),
        ("origin-group", dead.group.as_str()),
        ("attempts", attempts.as_str()),
        ("reason", dead.reason.as_str()),
        ("plugin", plugin.as_str()),
    ];
    let body = source.row(row).map(|row| source.body(&row)).unwrap_or_default();
    let mut merger = BatchMerger::new();
    merger
        .add_with_properties(source.attributes(), row, body, &origin)
        .expect("a stored message leaves room for its origin");
    merger.take().into_bytes()
}

/// The copy of a prepared message that was given up, alone in a batch and with its origin in further properties.
pub fn rolled_back(source: &Batch, row: u32, back: &RolledBack) -> Bytes {
    let (prepared, asks) = (back.prepared_wall_ms.to_string(), back.asks.to_string());
    let ttl = source.row(row).map_or(0, |row| row.ttl_ms()).to_string();
    let origin = [
        ("origin-topic", back.topic.as_str()),
        ("origin-prepared", prepared.as_str()),
        ("origin-ttl", ttl.as_str()),
        ("asks", asks.as_str()),
    ];
    let body = source.row(row).map(|row| source.body(&row)).unwrap_or_default();
    let mut merger = BatchMerger::new();
    merger
        .add_with_properties(source.attributes(), row, body, &origin)
        .expect("a stored message leaves room for its origin");
    merger.take().into_bytes()
}

/// The message that such a copy was made of.
pub fn revived(copy: &Batch, row: u32) -> Bytes {
    let found = copy.row(row).expect("the copy is there");
    let ttl = origin(copy.bytes()).into_iter().find(|(name, _)| name == "origin-ttl");
    let changes = Changes {
        without: &["origin-topic", "origin-prepared", "origin-ttl", "asks"],
        ttl_ms: ttl.and_then(|(_, value)| value.parse().ok()).unwrap_or(0),
        ..Changes::default()
    };
    let mut merger = BatchMerger::new();
    merger
        .add_changed(copy.attributes(), row, copy.body(&found), changes)
        .expect("a message has less than its copy");
    merger.take().into_bytes()
}

/// The properties of the one message of a dead letter.
pub fn origin(batch: &Bytes) -> Vec<(String, String)> {
    let Ok(attributes) = Attributes::parse(batch.clone()) else {
        return Vec::new();
    };
    let properties = attributes.rows().flat_map(|row| {
        row.properties()
            .map(|(name, value)| (attributes.name(name).to_owned(), String::from_utf8_lossy(value).into_owned()))
            .collect::<Vec<_>>()
    });
    properties.collect()
}
