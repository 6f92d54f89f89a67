//! Making a batch of new messages, as producers do.

use bytes::{Bytes, BytesMut};

use super::layout::{HEADER_BYTES, Header, ROW_FIXED_BYTES, RUN_BYTES, Run, crc32c, tag_hash};
use super::names::Interner;
use super::row::{
    BODY_LENGTH_AT, BORN_HIGH_AT, BORN_LOW_AT, DELIVER_AT_AT, EXTENSION_GIVEN_ID, EXTENSION_GROUP, EXTENSION_TTL, FLAG_DELIVER_AFTER,
    FLAG_GIVEN_ID, FLAG_PREPARED, FLAGS_AT, GivenId, PRIORITY_AT, PROPERTY_COUNT_AT,
};
use crate::errors::{ErrorCode, Refusal};
use crate::ids::{ProducerId, Sequence};
use crate::limits::{
    ATTRIBUTES_BYTES_MAX, BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, BATCH_NAMES_MAX, BORN_MS_MAX, KEYS_MAX, PRIORITY_MAX, PROPERTIES_MAX,
    PROPERTY_VALUE_BYTES_MAX, TTL_MS_MAX,
};
use crate::names::{check_given_id, check_key, check_message_group, check_property_name, check_tag};

/// A message that is to be sent, without its body. `S` is what texts are held as, `&str` or `String`.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a, S = &'a str> {
    /// The tag, 1 to 128 bytes.
    pub tag: Option<&'a str>,
    /// Up to 16 keys of 1 to 128 bytes.
    pub keys: &'a [S],
    /// Up to 128 properties: names of 1 to 128 bytes, each once, and values.
    pub properties: &'a [(S, S)],
    /// When the message was made: wall clock, milliseconds since 1970.
    pub born_ms: i64,
    /// When it is to be delivered: wall clock, milliseconds since 1970; 0 for at once.
    pub deliver_at_ms: i64,
    /// Instead of a time, how long after the broker took it, in milliseconds; 0 for none.
    pub deliver_after_ms: i64,
    /// The priority, 0 to 9, larger first.
    pub priority: u8,
    /// The message group, 1 to 128 bytes: its messages share a queue, and an ordered group gets them one after the other.
    pub group: Option<&'a str>,
    /// How long it lives once it is stored in its queue, in milliseconds, up to ten years; 0 for as long as its topic says.
    pub ttl_ms: u64,
    /// Its own id, by which a send that is tried again is recognised whatever its sequence is.
    pub given_id: Option<GivenId<'a>>,
    /// Whether it is only prepared: it is delivered if and when it is committed.
    pub prepared: bool,
}

impl<S> Default for NewMessage<'_, S> {
    fn default() -> Self {
        Self {
            tag: None,
            keys: &[],
            properties: &[],
            born_ms: 0,
            deliver_at_ms: 0,
            deliver_after_ms: 0,
            priority: 0,
            group: None,
            ttl_ms: 0,
            given_id: None,
            prepared: false,
        }
    }
}

/// Why a message was not taken into a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// The message breaks a rule; the broker would refuse it with these words.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The batch is full: finish it, and begin the next with this message.
    #[error("the batch is full")]
    BatchFull,
}

/// Builds one batch of one producer's messages with ascending sequences.
#[derive(Debug)]
pub struct BatchBuilder {
    base_ms: i64,
    producer: ProducerId,
    first_sequence: Sequence,
    count: u32,
    names: Interner,
    /// For each name, one more than the last row that used it.
    used_by: Vec<u32>,
    rows: Vec<u8>,
    bodies: Vec<u8>,
    last_tag: (String, u32),
}

impl BatchBuilder {
    /// An empty batch. `base_ms` is about the time at which the messages are made (wall clock, milliseconds since 1970);
    /// `first_sequence` is the first message's.
    pub fn new(base_ms: i64, producer: ProducerId, first_sequence: Sequence) -> Self {
        Self {
            base_ms: base_ms.clamp(-BORN_MS_MAX, BORN_MS_MAX),
            producer,
            first_sequence,
            count: 0,
            names: Interner::new(),
            used_by: Vec::new(),
            rows: Vec::new(),
            bodies: Vec::new(),
            last_tag: (String::new(), 0),
        }
    }

    /// How many messages were taken.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether none was taken.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch as it stands.
    pub fn total_bytes(&self) -> usize {
        HEADER_BYTES + RUN_BYTES + self.names.bytes().len() + self.rows.len() + self.bodies.len()
    }

    /// Takes a message as the next in sequence.
    ///
    /// # Errors
    /// [`MessageError`]; the batch is as before then. The size of the body is the caller's to check against the welcome.
    pub fn push<S: AsRef<str>>(&mut self, message: &NewMessage<'_, S>, body: &[u8]) -> Result<(), MessageError> {
        if self.len() == BATCH_MESSAGES_MAX || self.total_bytes() + ATTRIBUTES_BYTES_MAX * 3 + body.len() > BATCH_BYTES_MAX {
            return Err(MessageError::BatchFull);
        }
        let row_at = self.rows.len();
        let pushed = self.push_row(message, body);
        match pushed {
            Ok(()) => {
                self.bodies.extend_from_slice(body);
                self.count += 1;
            }
            Err(_) => {
                self.rows.truncate(row_at);
                // No row with this number stays: what it stamped is free for the next.
                self.used_by
                    .iter_mut()
                    .filter(|row| **row == self.count + 1)
                    .for_each(|row| *row = 0);
            }
        }
        pushed
    }

    /// The same builder, empty, for a batch whose messages are made at about `base_ms` and begin with `first_sequence`. What it held is
    /// dropped; its memory is kept.
    pub fn begin(&mut self, base_ms: i64, first_sequence: Sequence) {
        self.base_ms = base_ms.clamp(-BORN_MS_MAX, BORN_MS_MAX);
        self.first_sequence = first_sequence;
        self.clear();
    }

    /// The finished batch; the builder goes on, empty, with the sequence after the last.
    pub fn finish(&mut self) -> Bytes {
        let mut out = BytesMut::with_capacity(self.total_bytes());
        self.finish_into(&mut out);
        out.freeze()
    }

    /// Appends the finished batch to `out`; the builder goes on, empty, with the sequence after the last.
    pub fn finish_into(&mut self, out: &mut BytesMut) {
        let header = Header {
            count: self.count,
            runs: u32::from(self.count > 0),
            names: self.names.len() as u16,
            names_bytes: self.names.bytes().len() as u32,
            rows_bytes: self.rows.len() as u32,
            bodies_bytes: self.bodies.len() as u32,
            checksum: 0,
            base_ms: self.base_ms,
        };
        let from = out.len();
        out.reserve(header.total_bytes());
        out.extend_from_slice(&[0; HEADER_BYTES]);
        if self.count > 0 {
            let run = Run {
                producer: self.producer,
                first_sequence: self.first_sequence,
                rows: self.count,
            };
            out.extend_from_slice(&run.bytes());
        }
        out.extend_from_slice(self.names.bytes());
        out.extend_from_slice(&self.rows);
        let sealed = header.seal(&out[from + HEADER_BYTES..]);
        out[from..from + HEADER_BYTES].copy_from_slice(&sealed);
        out.extend_from_slice(&self.bodies);
        self.first_sequence.0 += u64::from(self.count);
        self.clear();
    }

    fn clear(&mut self) {
        self.count = 0;
        self.names.clear();
        self.used_by.clear();
        self.rows.clear();
        self.bodies.clear();
    }

    fn push_row<S: AsRef<str>>(&mut self, message: &NewMessage<'_, S>, body: &[u8]) -> Result<(), MessageError> {
        let refuse = |code, text: String| Err(MessageError::Refused(Refusal::new(code, text)));
        if message.keys.len() > KEYS_MAX {
            return refuse(
                ErrorCode::BadMessage,
                format!("a message has at most {KEYS_MAX} keys, this one has {}", message.keys.len()),
            );
        }
        if message.properties.len() > PROPERTIES_MAX {
            let text = format!(
                "a message has at most {PROPERTIES_MAX} properties, this one has {}",
                message.properties.len()
            );
            return refuse(ErrorCode::BadMessage, text);
        }
        if !(-BORN_MS_MAX..=BORN_MS_MAX).contains(&message.born_ms) {
            return refuse(
                ErrorCode::BadMessage,
                format!("the time of birth {} ms is out of range", message.born_ms),
            );
        }
        let row_at = self.rows.len();
        self.rows.resize(row_at + ROW_FIXED_BYTES, 0);
        let tag_hash = self.push_tag(message.tag)?;
        for key in message.keys {
            check_key(key.as_ref())?;
            self.rows.push(key.as_ref().len() as u8);
        }
        message
            .keys
            .iter()
            .for_each(|key| self.rows.extend_from_slice(key.as_ref().as_bytes()));
        self.push_properties(message.properties)?;
        if let Some(group) = message.group {
            check_message_group(group)?;
            push_extension(&mut self.rows, EXTENSION_GROUP, group.as_bytes());
        }
        if message.ttl_ms > 0 {
            check_ttl(message.ttl_ms)?;
            push_extension(&mut self.rows, EXTENSION_TTL, &message.ttl_ms.to_le_bytes());
        }
        if let Some(GivenId { scope, id }) = message.given_id {
            check_given_id(id)?;
            push_extension(&mut self.rows, EXTENSION_GIVEN_ID, &[&scope.to_le_bytes(), id.as_bytes()].concat());
        }
        let row_bytes = self.rows.len() - row_at;
        if row_bytes > ATTRIBUTES_BYTES_MAX {
            let text = format!("the attributes have {row_bytes} bytes, the limit is {ATTRIBUTES_BYTES_MAX}");
            return refuse(ErrorCode::AttributesTooLarge, text);
        }
        check_delivery(message)?;
        if message.priority > PRIORITY_MAX {
            return refuse(
                ErrorCode::BadMessage,
                format!("a priority is 0 to {PRIORITY_MAX}, not {}", message.priority),
            );
        }
        let born = (message.born_ms - self.base_ms).to_le_bytes();
        let row = &mut self.rows[row_at..];
        let mut put = |at: usize, field: &[u8]| row[at..at + field.len()].copy_from_slice(field);
        put(0, &(row_bytes as u32).to_le_bytes());
        put(4, &tag_hash.to_le_bytes());
        put(8, &(self.bodies.len() as u32).to_le_bytes());
        put(BODY_LENGTH_AT, &(body.len() as u32).to_le_bytes());
        put(16, &crc32c(body).to_le_bytes());
        put(BORN_LOW_AT, &born[..4]);
        put(BORN_HIGH_AT, &born[4..6]);
        // One of the two is 0.
        put(DELIVER_AT_AT, &(message.deliver_at_ms + message.deliver_after_ms).to_le_bytes());
        let after = u16::from(message.deliver_after_ms > 0) * FLAG_DELIVER_AFTER;
        let given = u16::from(message.given_id.is_some()) * FLAG_GIVEN_ID;
        let flags = after | given | (u16::from(message.prepared) * FLAG_PREPARED);
        put(FLAGS_AT, &flags.to_le_bytes());
        put(PRIORITY_AT, &[message.priority]);
        put(32, &[message.tag.map_or(0, str::len) as u8, message.keys.len() as u8]);
        put(PROPERTY_COUNT_AT, &[message.properties.len() as u8]);
        Ok(())
    }

    /// Writes the tag; its hash. Neighbours often have the same tag, so the last hash is kept.
    fn push_tag(&mut self, tag: Option<&str>) -> Result<u32, Refusal> {
        let Some(tag) = tag else { return Ok(0) };
        if tag != self.last_tag.0 || tag.is_empty() {
            check_tag(tag)?;
            self.last_tag.0.clear();
            self.last_tag.0.push_str(tag);
            self.last_tag.1 = tag_hash(tag);
        }
        self.rows.extend_from_slice(tag.as_bytes());
        Ok(self.last_tag.1)
    }

    fn push_properties<S: AsRef<str>>(&mut self, properties: &[(S, S)]) -> Result<(), MessageError> {
        for (name, value) in properties {
            let (name, value) = (name.as_ref(), value.as_ref());
            if value.len() > PROPERTY_VALUE_BYTES_MAX {
                let text = format!(
                    "the value of property {name:?} has {} bytes, the limit is {PROPERTY_VALUE_BYTES_MAX}",
                    value.len()
                );
                return Err(Refusal::new(ErrorCode::AttributesTooLarge, text).into());
            }
            let index = match self.names.find(name.as_bytes()) {
                Ok(index) => index,
                Err(_) if self.names.len() == BATCH_NAMES_MAX => return Err(MessageError::BatchFull),
                Err(slot) => {
                    check_property_name(name)?;
                    self.used_by.push(0);
                    self.names.insert(slot, name.as_bytes())
                }
            };
            let used_by = &mut self.used_by[usize::from(index.0)];
            if std::mem::replace(used_by, self.count + 1) == self.count + 1 {
                return Err(Refusal::new(ErrorCode::BadMessage, format!("the property {name:?} is there twice")).into());
            }
            let ([n0, n1], [l0, l1]) = (index.0.to_le_bytes(), (value.len() as u16).to_le_bytes());
            self.rows.extend_from_slice(&[n0, n1, l0, l1]);
        }
        properties
            .iter()
            .for_each(|(_, value)| self.rows.extend_from_slice(value.as_ref().as_bytes()));
        Ok(())
    }
}

/// Demands that a message may live so long.
pub(super) fn check_ttl(ttl_ms: u64) -> Result<(), Refusal> {
    if (1..=TTL_MS_MAX).contains(&ttl_ms) {
        return Ok(());
    }
    let text = format!("a message lives 1 to {TTL_MS_MAX} ms, not {ttl_ms}");
    Err(Refusal::new(ErrorCode::BadTimeToLive, text))
}

/// A message is delivered at once, at a time, or after a time.
fn check_delivery<S>(message: &NewMessage<'_, S>) -> Result<(), Refusal> {
    let refuse = |text| Err(Refusal::new(ErrorCode::BadMessage, text));
    if message.deliver_at_ms < 0 {
        return refuse(format!("the time of delivery {} ms is before 1970", message.deliver_at_ms));
    }
    if message.deliver_after_ms < 0 {
        return refuse(format!(
            "a message is not delivered {} ms after it was sent",
            message.deliver_after_ms
        ));
    }
    if message.deliver_at_ms > 0 && message.deliver_after_ms > 0 {
        return refuse("a message is delivered at a time or after a time, not both".to_owned());
    }
    Ok(())
}

/// Writes an extension of a row: its kind, its length, its bytes.
pub(super) fn push_extension(row: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    let [l0, l1] = (bytes.len() as u16).to_le_bytes();
    row.extend_from_slice(&[kind, l0, l1]);
    row.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::{Batch, BatchMerger, Row};
    use super::*;

    #[test]
    fn a_builder_begun_anew_holds_nothing_of_before_and_appends_its_batch() {
        let dropped = NewMessage {
            tag: None,
            keys: &[],
            properties: &[("dropped", "v")],
            born_ms: 7,
            ..NewMessage::default()
        };
        let kept = NewMessage {
            properties: &[("kept", "v")],
            ..dropped
        };
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(0));
        builder.push(&dropped, b"dropped").unwrap();
        builder.begin(5, Sequence(40));
        builder.push(&kept, b"kept").unwrap();
        let mut out = BytesMut::from(&b"before"[..]);
        builder.finish_into(&mut out);
        assert_eq!(out.split_to(6), b"before"[..]);
        let batch = Batch::parse(out.freeze()).unwrap();
        let names: Vec<_> = batch.attributes().names().collect();
        assert_eq!((batch.attributes().base_ms(), names), (5, vec!["kept"]));
        let row = batch.row(0).unwrap();
        assert_eq!(
            (row.sequence(), row.born_ms(), &batch.body(&row)[..]),
            (Sequence(40), 7, &b"kept"[..])
        );
        assert!(builder.is_empty());
    }

    #[test]
    fn a_message_keeps_its_times_its_priority_and_its_group_when_it_is_merged() {
        let message = NewMessage {
            properties: &[("name", "value")],
            deliver_at_ms: 1_800_000_000_123,
            priority: 9,
            group: Some("order-17"),
            ttl_ms: 60_000,
            ..NewMessage::default()
        };
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(0));
        builder.push(&message, b"kept").unwrap();
        builder.push(&NewMessage::<&str>::default(), b"plain").unwrap();
        let batch = Batch::parse(builder.finish()).unwrap();
        let mut merger = BatchMerger::new();
        merger.add_batch(&batch, 0..2).unwrap();
        for batch in [batch, Batch::parse(merger.take().into_bytes()).unwrap()] {
            let read = |row| {
                let row: Row<'_> = batch.row(row).unwrap();
                (row.deliver_at_ms(), row.priority(), row.group(), row.ttl_ms())
            };
            assert_eq!(read(0), (1_800_000_000_123, 9, Some("order-17"), 60_000));
            assert_eq!(read(1), (0, 0, None, 0));
        }
    }

    #[test]
    fn a_message_lives_ten_years_at_most() {
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(0));
        for (ttl_ms, is_refused) in [(TTL_MS_MAX, false), (TTL_MS_MAX + 1, true)] {
            let message = NewMessage::<&str> {
                ttl_ms,
                ..NewMessage::default()
            };
            let refused =
                matches!(builder.push(&message, b""), Err(MessageError::Refused(refusal)) if refusal.code == ErrorCode::BadTimeToLive);
            assert_eq!(refused, is_refused, "{ttl_ms}");
        }
    }

    #[test]
    fn a_message_is_delivered_at_a_time_or_after_one() {
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(0));
        let both = NewMessage::<&str> {
            deliver_at_ms: 9_000,
            deliver_after_ms: 250,
            ..NewMessage::default()
        };
        assert!(matches!(builder.push(&both, b""), Err(MessageError::Refused(refusal)) if refusal.code == ErrorCode::BadMessage));
    }
}
