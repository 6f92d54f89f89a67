//! The identities that cross crates and the wire: what a number names, so that two of them cannot be confused.

use std::fmt;
use std::str::FromStr;

/// A place in a shard's log, in bytes since the log began. Internal: clients never see one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// The number of a message within its queue, from 0, without gaps at the time of append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueOffset(pub u64);

/// One creation of a topic. A topic that is deleted and created again is another incarnation, so old handles are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u64);

/// One creation of a consumer group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// The number of a queue within its topic, from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueIndex(pub u16);

impl QueueIndex {
    /// The index of a topic's calendar queue, in which messages are numbered that wait for their time or for a decision. Nobody consumes it.
    pub const CALENDAR: Self = Self(u16::MAX);
}

impl TopicId {
    /// The topic's calendar queue.
    pub const fn calendar(self) -> QueueId {
        QueueId {
            topic: self,
            index: QueueIndex::CALENDAR,
        }
    }
}

/// A queue of one incarnation of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QueueId {
    /// The incarnation of the topic.
    pub topic: TopicId,
    /// Which of its queues.
    pub index: QueueIndex,
}

/// The 128-bit identity that a producer keeps across reconnects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProducerId(pub u128);

/// The number a producer gives to a message: from 0, one more for each, over all topics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

/// One start of the broker on its data directory; grows by one with each start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u32);

/// One run of a group over a queue; a seek begins the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pass(pub u32);

/// Which delivery of a message to a group this is, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u16);

/// The SHA-256 of a plugin's module: the name of a version.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

/// The identity of a message, known before it has a place: the low half of its producer's identity and its sequence.
///
/// Its text is 32 lower-case hexadecimal digits: 16 for the producer, 16 for the sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId {
    /// The low 64 bits of the producer's identity.
    pub producer: u64,
    /// The sequence that the producer gave the message.
    pub sequence: Sequence,
}

impl MessageId {
    /// The id of the message that `producer` numbered `sequence`.
    pub fn new(producer: ProducerId, sequence: Sequence) -> Self {
        Self {
            producer: producer.0 as u64,
            sequence,
        }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.producer, self.sequence.0)
    }
}

/// A text that is not a message id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message id: 32 hexadecimal digits are expected")]
pub struct NotAMessageId;

impl FromStr for MessageId {
    type Err = NotAMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NotAMessageId);
        }
        let half = |text| u64::from_str_radix(text, 16).map_err(|_| NotAMessageId);
        Ok(Self {
            producer: half(&text[..16])?,
            sequence: Sequence(half(&text[16..])?),
        })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl fmt::Display for QueueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic.0, self.index.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_id_survives_its_text() {
        let id = MessageId::new(ProducerId(0x0123_4567_89ab_cdef_fedc_ba98_7654_3210), Sequence(77));
        assert_eq!(id.to_string(), "fedcba9876543210000000000000004d");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<MessageId>(), Err(NotAMessageId));
    }
}
