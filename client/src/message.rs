//! Messages as an application sees them: one to be sent, and one that was stored.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sluice_protocol::batch::{Batch, Row, group_hash};
use sluice_protocol::ids::MessageId;

use crate::transaction::TransactionHandle;

/// A message to be sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewMessage {
    /// What is carried; the broker never looks into it.
    pub body: Bytes,
    /// What the tag filter reads: 1 to 128 bytes.
    pub tag: Option<String>,
    /// What it is found by later: up to 16, of 1 to 128 bytes.
    pub keys: Vec<String>,
    /// What filters read: up to 128, names of 1 to 128 bytes, each once.
    pub properties: Vec<(String, String)>,
    /// When it was made (wall clock, milliseconds since 1970); `None` takes the time of sending.
    pub born_ms: Option<i64>,
    /// When it is to be delivered (the broker's wall clock, milliseconds since 1970); `None` for at once.
    pub deliver_at_ms: Option<i64>,
    /// Instead of a time, how long after the broker takes it, in milliseconds.
    pub deliver_after_ms: Option<u64>,
    /// 0 to 9: among the messages of a queue the larger goes first.
    pub priority: u8,
    /// Whether it is only prepared: it is delivered if and when it is committed ([`Producer::prepare`](crate::Producer::prepare)).
    pub prepared: bool,
    /// The message group, 1 to 128 bytes: its messages share a queue, and an ordered group gets them one after the other.
    pub group: Option<String>,
    /// How long it lives once it is stored in its queue, in milliseconds, up to ten years; `None` or 0 for as long as its topic says. Where both
    /// say something the shorter counts.
    pub ttl_ms: Option<u64>,
    /// Its own id, by which a send that is tried again is recognised.
    pub given_id: Option<GivenId>,
}

/// The id that a producer gives a message: of those sent to a topic within ten minutes with the same one the first is stored, the others are
/// answered as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenId {
    /// Whose ids these are: the same number for all clients that count on each other's ids, 0 for this client's own.
    pub scope: u64,
    /// The id, 1 to 128 bytes.
    pub id: String,
}

impl NewMessage {
    /// A message with this body and no attributes.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::default()
        }
    }

    /// The same message with this tag.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// The same message with a further key.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.keys.push(key.into());
        self
    }

    /// The same message with a further property.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// The same message, to be delivered at this time (the broker's wall clock, milliseconds since 1970).
    pub fn deliver_at_ms(mut self, wall_ms: i64) -> Self {
        self.deliver_at_ms = Some(wall_ms);
        self
    }

    /// The same message, to be delivered so long after the broker takes it, by the broker's clock; to the millisecond.
    pub fn deliver_after(mut self, delay: Duration) -> Self {
        self.deliver_after_ms = Some(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// The same message with this priority, 0 to 9.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// The same message in this message group.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The same message, which nobody is given once it was stored in its queue for so long; to the millisecond.
    pub fn time_to_live(mut self, ttl: Duration) -> Self {
        self.ttl_ms = Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// The same message with an id of its own: sent again by this client within ten minutes, whatever its sequence, it is stored once.
    pub fn given_id(mut self, id: impl Into<String>) -> Self {
        self.given_id = Some(GivenId { scope: 0, id: id.into() });
        self
    }

    /// The same message with an id of its own among all clients that name this scope: sent again by any of them within ten minutes, also after
    /// a restart, it is stored once.
    pub fn given_id_within(mut self, scope: &str, id: impl Into<String>) -> Self {
        let scope = group_hash(scope.as_bytes());
        self.given_id = Some(GivenId { scope, id: id.into() });
        self
    }

    /// At most what the message takes in a batch, in bytes.
    pub(crate) fn bytes_max(&self) -> usize {
        // The fixed part of a row, and for each property its head, its value and its name with the length before it.
        let texts: usize = self.keys.iter().map(|key| key.len() + 1).sum();
        let properties: usize = self.properties.iter().map(|(name, value)| name.len() + value.len() + 5).sum();
        let group = self.group.as_ref().map_or(0, |group| group.len() + 3);
        let ttl = self.ttl_ms.map_or(0, |_| 11);
        let given_id = self.given_id.as_ref().map_or(0, |given| given.id.len() + 11);
        40 + self.body.len() + self.tag.as_ref().map_or(0, String::len) + texts + properties + group + ttl + given_id
    }
}

/// Where a sent message is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its identity, by which `message get` finds it. Of a duplicate that was recognised by the id its producer gave it, the stored message has
    /// another one: it is found by queue and offset, or by the given id as by a key.
    pub id: MessageId,
    /// Its queue within the topic; 0 for a delayed or a prepared message, which has none yet.
    pub queue: u16,
    /// Its number within the queue; 0 for a delayed or a prepared message, which has none yet.
    pub offset: u64,
    /// Whether an earlier try had stored it already; it is stored once.
    pub duplicate: bool,
    /// What a delayed message waits for, and what recalls it.
    pub delayed: Option<Delayed>,
    /// What commits a prepared message or rolls it back.
    pub transaction: Option<TransactionHandle>,
}

/// A message that waits for its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delayed {
    /// When it is released (the broker's wall clock, milliseconds since 1970).
    pub deliver_at_ms: i64,
    /// What recalls it until then.
    pub recall: RecallHandle,
}

/// What recalls a delayed message ([`Client::recall`](crate::Client::recall)). Written as hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecallHandle(pub Bytes);

impl fmt::Display for RecallHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_digits(&self.0, f)
    }
}

/// Writes bytes as hexadecimal digits.
pub(crate) fn write_digits(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// Reads bytes from hexadecimal digits; `None` when the text is something else.
pub(crate) fn read_digits(text: &str) -> Option<Bytes> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4 | digit(*low)?) as u8);
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>().map(Bytes::from)
}

/// A text that is no recall handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a recall handle is an even number of hexadecimal digits")]
pub struct BadRecallHandle;

impl FromStr for RecallHandle {
    type Err = BadRecallHandle;

    fn from_str(text: &str) -> Result<Self, BadRecallHandle> {
        read_digits(text).map(Self).ok_or(BadRecallHandle)
    }
}

/// A stored message as it was delivered or found. Cheap to clone: the batch it came in is shared.
#[derive(Clone)]
pub struct Message {
    pub(crate) topic: Arc<str>,
    pub(crate) queue: u16,
    pub(crate) offset: u64,
    pub(crate) attempt: u16,
    pub(crate) stored_ms: i64,
    pub(crate) batch: Batch,
    pub(crate) row: u32,
}

impl Message {
    /// The topic it is stored in.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its queue within the topic.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Its number within the queue.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Which delivery to the group this is, from 1; 0 for a message that was looked up.
    pub fn attempt(&self) -> u16 {
        self.attempt
    }

    /// About when it was stored: its batch's time, wall clock, milliseconds since 1970.
    pub fn stored_ms(&self) -> i64 {
        self.stored_ms
    }

    /// When it was made, by its producer's clock, milliseconds since 1970.
    pub fn born_ms(&self) -> i64 {
        self.row().born_ms()
    }

    /// Its identity.
    pub fn id(&self) -> MessageId {
        self.row().message_id()
    }

    /// Its tag.
    pub fn tag(&self) -> Option<&str> {
        self.row().tag()
    }

    /// Its keys.
    pub fn keys(&self) -> impl Iterator<Item = &str> + '_ {
        self.row().keys().map(text)
    }

    /// Its properties: names and values.
    pub fn properties(&self) -> impl Iterator<Item = (&str, &str)> + '_ {
        let attributes = self.batch.attributes();
        self.row().properties().map(|(name, value)| (attributes.name(name), text(value)))
    }

    /// The value of a property, if the message has it.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.row().property(name).map(text)
    }

    /// When it was to be delivered, if it was delayed (the broker's wall clock, milliseconds since 1970).
    pub fn deliver_at_ms(&self) -> Option<i64> {
        Some(self.row().deliver_at_ms()).filter(|deliver_at_ms| *deliver_at_ms != 0)
    }

    /// Its priority, 0 to 9.
    pub fn priority(&self) -> u8 {
        self.row().priority()
    }

    /// Its message group.
    pub fn group(&self) -> Option<&str> {
        self.row().group()
    }

    /// How long it lives once it is stored in its queue, in milliseconds, unless its topic says shorter.
    pub fn ttl_ms(&self) -> Option<u64> {
        Some(self.row().ttl_ms()).filter(|ttl_ms| *ttl_ms != 0)
    }

    /// The id that its producer gave it, if it gave it one.
    pub fn given_id(&self) -> Option<&str> {
        self.row().given_id().map(|given| given.id)
    }

    /// The size of what it carries.
    pub fn body_bytes(&self) -> usize {
        self.row().body_len()
    }

    /// Whether what it carries is here: messages may be read without.
    pub fn has_body(&self) -> bool {
        self.batch.has_bodies()
    }

    /// What it carries, empty where it was read without. Its checksum has been verified.
    pub fn body(&self) -> Bytes {
        self.batch.body(&self.row())
    }

    fn row(&self) -> Row<'_> {
        self.batch.row(self.row).expect("a message is made for a row that its batch has")
    }

    /// Whether the body is what the producer sent.
    pub(crate) fn verify(&self) -> bool {
        self.batch.verify_body(&self.row())
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &format_args!("{}", self.id()))
            .field("topic", &self.topic)
            .field("queue", &self.queue)
            .field("offset", &self.offset)
            .field("attempt", &self.attempt)
            .field("tag", &self.tag())
            .field("body_bytes", &self.row().body_len())
            .finish_non_exhaustive()
    }
}

/// The broker admits only UTF-8; what is not, though the checksum fits, is shown as nothing.
fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

/// The wall clock, milliseconds since 1970.
pub(crate) fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recall_handle_survives_as_text() {
        let handle = RecallHandle(Bytes::from_static(&[0, 0x1f, 0xff]));
        assert_eq!(handle.to_string(), "001fff");
        assert_eq!("001FFF".parse(), Ok(handle));
        assert_eq!("001".parse::<RecallHandle>(), Err(BadRecallHandle));
        assert_eq!("0g".parse::<RecallHandle>(), Err(BadRecallHandle));
    }
}
