//! The rules that a published message must keep: a message that breaks one is refused alone, the rest of its batch goes on.

use std::str;

use bytes::Bytes;

use super::builder::check_ttl;
use super::layout::tag_hash;
use super::merger::BatchMerger;
use super::names::NameIndex;
use super::row::{FLAG_DELIVER_AFTER, FLAG_GIVEN_ID, FLAG_PREPARED, GivenId, Row, given_id_of, ttl_of};
use super::whole::{Batch, Uses};
use crate::errors::{ErrorCode, Refusal};
use crate::ids::{ProducerId, Sequence};
use crate::limits::{ATTRIBUTES_BYTES_MAX, BATCH_MESSAGES_MAX, BODY_BYTES_DEFAULT, DELAY_MS_MAX, KEYS_MAX, PRIORITY_MAX, PROPERTIES_MAX};
use crate::names::{check_given_id, check_key, check_message_group, check_property_name, check_tag};

/// What a published batch may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Bytes of one body.
    pub body_bytes_max: usize,
    /// Bytes of one message's attributes.
    pub attributes_bytes_max: usize,
    /// Messages of one batch.
    pub batch_messages_max: usize,
    /// The wall clock, milliseconds since 1970: what the times of delivery are held against.
    pub wall_ms: i64,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: BODY_BYTES_DEFAULT,
            attributes_bytes_max: ATTRIBUTES_BYTES_MAX,
            batch_messages_max: BATCH_MESSAGES_MAX,
            wall_ms: 0,
        }
    }
}

/// A batch of which every message keeps the rules, and those that were taken out of it.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The messages that keep the rules; empty when none does.
    pub batch: Batch,
    /// The others, in order.
    pub refused: Vec<RefusedRow>,
}

/// A message that was taken out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its row in the batch that arrived.
    pub row: u32,
    /// The number that its producer gave it.
    pub sequence: Sequence,
    /// Why.
    pub refusal: Refusal,
}

/// Parses a published batch and checks every message of it, bodies included. A batch without fault is handed on as it came.
///
/// # Errors
/// A refusal of the whole batch: bytes that are no batch, more messages than allowed, or messages of another producer than
/// `producer`, the one that the connection belongs to.
pub fn admit(bytes: Bytes, producer: ProducerId, limits: &AdmissionLimits) -> Result<Admission, Refusal> {
    let batch = Batch::parse(bytes)?;
    let attributes = batch.attributes();
    if batch.count() as usize > limits.batch_messages_max {
        let text = format!(
            "a batch has at most {} messages, this one has {}",
            limits.batch_messages_max,
            batch.count()
        );
        return Err(Refusal::new(ErrorCode::LimitExceeded, text));
    }
    if attributes.runs().any(|run| run.producer != producer) {
        return Err(Refusal::new(
            ErrorCode::BadMessage,
            "the batch names another producer than the hello did",
        ));
    }
    let mut rules = Rules {
        limits,
        bad_names: attributes.names().map(|name| check_property_name(name).err()).collect(),
        used_by: vec![0; usize::from(attributes.name_count())],
    };
    let mut refused = Vec::new();
    let mut uses = Uses::default();
    for row in batch.rows() {
        match rules.check(&batch, &row) {
            Ok(()) => uses.add(&row),
            Err(refusal) => refused.push(RefusedRow {
                row: row.index(),
                sequence: row.sequence(),
                refusal,
            }),
        }
    }
    let batch = if refused.is_empty() { batch } else { without(&batch, &refused)? };
    let batch = batch.with_delivery_times(limits.wall_ms)?.using(uses);
    Ok(Admission { batch, refused })
}

fn without(batch: &Batch, refused: &[RefusedRow]) -> Result<Batch, Refusal> {
    let mut merger = BatchMerger::new();
    let mut next = 0;
    for end in refused.iter().map(|refused| refused.row).chain([batch.count()]) {
        merger
            .add_batch(batch, next..end)
            .map_err(|error| Refusal::new(ErrorCode::LimitExceeded, error.to_string()))?;
        next = end + 1;
    }
    Batch::parse_stored(merger.take().into_bytes()).map_err(Refusal::from)
}

/// The rules for one message, and what was found out about the batch's names.
struct Rules<'a> {
    limits: &'a AdmissionLimits,
    bad_names: Vec<Option<Refusal>>,
    /// For each name, one more than the last row that used it.
    used_by: Vec<u32>,
}

impl Rules<'_> {
    fn check(&mut self, batch: &Batch, row: &Row<'_>) -> Result<(), Refusal> {
        self.check_sizes(row)?;
        self.check_delivery(row)?;
        check_offered(row)?;
        if let Some(tag) = row.tag_bytes() {
            let tag = text("tag", tag)?;
            check_tag(tag)?;
            if tag_hash(tag) != row.tag_hash() {
                return Err(Refusal::new(ErrorCode::BadMessage, "the hash of the tag is not that of its text"));
            }
        }
        for key in row.keys() {
            check_key(text("key", key)?)?;
        }
        check_extensions(row)?;
        if row.priority() > PRIORITY_MAX {
            let text = format!("a priority is 0 to {PRIORITY_MAX}, not {}", row.priority());
            return Err(Refusal::new(ErrorCode::BadMessage, text));
        }
        self.check_properties(row)?;
        if !batch.verify_body(row) {
            return Err(Refusal::new(ErrorCode::BadChecksum, "the checksum of the body does not match"));
        }
        Ok(())
    }

    fn check_sizes(&self, row: &Row<'_>) -> Result<(), Refusal> {
        let refuse = |code, what: &str, is: usize, max: usize| Err(Refusal::new(code, format!("{what}: {is}, the limit is {max}")));
        if row.body_len() > self.limits.body_bytes_max {
            return refuse(
                ErrorCode::BodyTooLarge,
                "bytes of the body",
                row.body_len(),
                self.limits.body_bytes_max,
            );
        }
        if row.attribute_bytes() > self.limits.attributes_bytes_max {
            return refuse(
                ErrorCode::AttributesTooLarge,
                "bytes of the attributes",
                row.attribute_bytes(),
                self.limits.attributes_bytes_max,
            );
        }
        if row.key_count() > KEYS_MAX {
            return refuse(ErrorCode::BadMessage, "keys of the message", row.key_count(), KEYS_MAX);
        }
        if row.property_count() > PROPERTIES_MAX {
            return refuse(
                ErrorCode::BadMessage,
                "properties of the message",
                row.property_count(),
                PROPERTIES_MAX,
            );
        }
        Ok(())
    }

    fn check_delivery(&self, row: &Row<'_>) -> Result<(), Refusal> {
        let (deliver_at_ms, is_after) = (row.deliver_at_ms(), row.flags() & FLAG_DELIVER_AFTER != 0);
        if deliver_at_ms < 0 {
            let text = format!("the time of delivery {deliver_at_ms} ms is before 1970");
            return Err(Refusal::new(ErrorCode::BadMessage, text));
        }
        let delay_ms = if is_after {
            deliver_at_ms
        } else {
            deliver_at_ms - self.limits.wall_ms
        };
        if delay_ms > DELAY_MS_MAX {
            let text = format!("it is to be delivered {delay_ms} ms from now, the limit is {DELAY_MS_MAX}");
            return Err(Refusal::new(ErrorCode::DelayTooLong, text));
        }
        Ok(())
    }

    fn check_properties(&mut self, row: &Row<'_>) -> Result<(), Refusal> {
        // Values lie side by side and are mostly ASCII: then one look at all of them will do.
        let ascii = row.properties().values().is_ascii();
        for (NameIndex(index), value) in row.properties() {
            let place = usize::from(index);
            if let Some(refusal) = &self.bad_names[place] {
                return Err(refusal.clone());
            }
            if std::mem::replace(&mut self.used_by[place], row.index() + 1) == row.index() + 1 {
                return Err(Refusal::new(ErrorCode::BadMessage, "a property is there twice"));
            }
            if !ascii {
                text("value of a property", value)?;
            }
        }
        Ok(())
    }
}

/// The rules for what a message has beside the ordinary.
fn check_extensions(row: &Row<'_>) -> Result<(), Refusal> {
    let is_given = row.flags() & FLAG_GIVEN_ID != 0;
    if row.extensions().is_empty() && !is_given {
        return Ok(());
    }
    if let Some(group) = row.group_bytes() {
        check_message_group(text("message group", group)?)?;
    }
    match row.given_id_bytes().map(given_id_of) {
        Some(Some(GivenId { id, .. })) if is_given => check_given_id(id)?,
        Some(None) => {
            return Err(Refusal::new(
                ErrorCode::BadMessage,
                "a given id has 8 bytes of scope and then UTF-8",
            ));
        }
        Some(Some(_)) => {
            return Err(Refusal::new(
                ErrorCode::BadMessage,
                "the message has a given id and no flag that says so",
            ));
        }
        None if is_given => {
            return Err(Refusal::new(
                ErrorCode::BadMessage,
                "the flag says that the message has a given id, and it has none",
            ));
        }
        None => {}
    }
    match row.ttl_bytes().map(ttl_of) {
        Some(Some(ttl_ms)) => check_ttl(ttl_ms),
        Some(None) => Err(Refusal::new(ErrorCode::BadTimeToLive, "a time to live has 8 bytes")),
        None => Ok(()),
    }
}

/// Refuses by name what the format has room for and the broker does not do: it must not be ignored in silence.
fn check_offered(row: &Row<'_>) -> Result<(), Refusal> {
    let refuse = |text| Err(Refusal::new(ErrorCode::NotOffered, text));
    if row.flags() & !(FLAG_DELIVER_AFTER | FLAG_PREPARED | FLAG_GIVEN_ID) != 0 {
        return refuse("the message has flags that this broker does not know");
    }
    Ok(())
}

fn text<'a>(what: &str, bytes: &'a [u8]) -> Result<&'a str, Refusal> {
    str::from_utf8(bytes).map_err(|_| Refusal::new(ErrorCode::BadMessage, format!("a {what} is not UTF-8")))
}
