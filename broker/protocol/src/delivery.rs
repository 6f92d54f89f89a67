//! The payloads that carry messages to a client: deliveries on a stream, answers to a receive, a message that was looked up.

use bytes::Bytes;
use prost::Message;

use crate::batch::{Batch, BatchError};
use crate::control;
use crate::errors::Refusal;
use crate::ids::{Attempt, QueueIndex, QueueOffset, TopicId};
use crate::limits::{DELIVERY_RANGES_MAX, HANDLE_BYTES_MAX};
use crate::wire::{Reader, WireError, Writer};

/// Neighbouring messages of a queue that are delivered for the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliveredRange {
    /// The offset of the first.
    pub first_offset: QueueOffset,
    /// How many; at least 1.
    pub count: u32,
    /// Which delivery this is.
    pub attempt: Attempt,
    /// When the first was stored: wall clock, milliseconds since 1970.
    pub stored_wall_ms: i64,
}

const RANGE_BYTES: usize = 8 + 4 + 2 + 8;

/// Messages pushed on a queue's stream: the payload of a DELIVERY frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The number of the first message on this stream and pass, from 1; each further one is one more.
    pub first_number: u64,
    /// Where they come from, in the order of the batch's rows.
    pub ranges: Vec<DeliveredRange>,
    /// The messages. Their bodies' checksums are the receiver's to verify.
    pub batch: Batch,
}

/// Messages handed out by a receive: the payload of a RECEIVED frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The topic's incarnation.
    pub topic: TopicId,
    /// The queue that they all come from.
    pub queue: QueueIndex,
    /// Where they come from, in the order of the batch's rows.
    pub ranges: Vec<DeliveredRange>,
    /// The receipt handle of each message, in order.
    pub handles: Vec<Bytes>,
    /// The messages. Their bodies' checksums are the receiver's to verify.
    pub batch: Batch,
}

/// A message that was looked up: the payload of a FOUND frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundMessage {
    /// Where it is.
    pub found: control::Found,
    /// A batch of this one message.
    pub batch: Batch,
}

/// A prepared message about which a client is asked: the payload of an ASK frame.
#[derive(Clone, Debug, PartialEq)]
pub struct AskedMessage {
    /// What is asked.
    pub ask: control::Ask,
    /// A batch of this one message.
    pub batch: Batch,
}

/// A payload that carries no messages in good order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayloadError {
    /// The fields before the batch.
    #[error("the fields before the batch cannot be decoded: {0}")]
    Fields(#[from] WireError),
    /// The batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Ranges, handles and rows are not equally many.
    #[error("ranges, handles and messages do not agree in number")]
    Count,
}

impl From<PayloadError> for Refusal {
    fn from(error: PayloadError) -> Self {
        match error {
            PayloadError::Batch(error) => error.into(),
            PayloadError::Fields(_) | PayloadError::Count => Self::new(crate::errors::ErrorCode::MalformedFrame, error.to_string()),
        }
    }
}

impl Delivery {
    /// What stands before the batch in a DELIVERY payload.
    ///
    /// # Panics
    /// When there are more than [`DELIVERY_RANGES_MAX`] ranges, which the sender bounds.
    pub fn encode_head(first_number: u64, ranges: &[DeliveredRange]) -> Bytes {
        let mut writer = Writer::with_capacity(8 + 2 + ranges.len() * RANGE_BYTES);
        writer.u64(first_number);
        write_ranges(&mut writer, ranges);
        writer.finish()
    }

    /// Reads the payload of a DELIVERY frame; the batch shares its memory.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(&payload);
        let first_number = reader.u64()?;
        let ranges = read_ranges(&mut reader)?;
        let batch = Batch::parse(payload.slice_ref(reader.rest()))?;
        check_count(&ranges, &batch)?;
        Ok(Self {
            first_number,
            ranges,
            batch,
        })
    }

    /// Each message's place in the queue and attempt, in the order of the batch's rows.
    pub fn places(&self) -> impl Iterator<Item = (QueueOffset, Attempt)> + '_ {
        places(&self.ranges)
    }
}

impl Received {
    /// What stands before the batch in a RECEIVED payload.
    ///
    /// # Panics
    /// When there are more than [`DELIVERY_RANGES_MAX`] ranges or a handle is longer than [`HANDLE_BYTES_MAX`]; the sender bounds
    /// both.
    pub fn encode_head(topic: TopicId, queue: QueueIndex, ranges: &[DeliveredRange], handles: &[Bytes]) -> Bytes {
        let handle_bytes: usize = handles.iter().map(|handle| 1 + handle.len()).sum();
        let mut writer = Writer::with_capacity(8 + 2 + 2 + ranges.len() * RANGE_BYTES + handle_bytes);
        writer.u64(topic.0).u16(queue.0);
        write_ranges(&mut writer, ranges);
        for handle in handles {
            assert!(handle.len() <= HANDLE_BYTES_MAX, "handles are made by this broker and short");
            writer.u8(handle.len() as u8).bytes(handle);
        }
        writer.finish()
    }

    /// Reads the payload of a RECEIVED frame; batch and handles share its memory.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(&payload);
        let (topic, queue) = (TopicId(reader.u64()?), QueueIndex(reader.u16()?));
        let ranges = read_ranges(&mut reader)?;
        let count: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
        if count > reader.remaining() as u64 {
            return Err(WireError::Truncated.into());
        }
        let mut handles = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let length = reader.u8()?;
            handles.push(payload.slice_ref(reader.bytes(usize::from(length))?));
        }
        let batch = Batch::parse(payload.slice_ref(reader.rest()))?;
        check_count(&ranges, &batch)?;
        Ok(Self {
            topic,
            queue,
            ranges,
            handles,
            batch,
        })
    }

    /// Each message's place in the queue and attempt, in the order of the batch's rows.
    pub fn places(&self) -> impl Iterator<Item = (QueueOffset, Attempt)> + '_ {
        places(&self.ranges)
    }
}

impl FoundMessage {
    /// What stands before the batch in a FOUND payload: the length of the message `Found` in four bytes, and that message.
    pub fn encode_head(found: &control::Found) -> Bytes {
        one_head(found)
    }

    /// Reads the payload of a FOUND frame; the batch shares its memory.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let (found, batch) = read_one(&payload)?;
        Ok(Self { found, batch })
    }
}

impl AskedMessage {
    /// What stands before the batch in an ASK payload: the length of the message `Ask` in four bytes, and that message.
    pub fn encode_head(ask: &control::Ask) -> Bytes {
        one_head(ask)
    }

    /// Reads the payload of an ASK frame; the batch shares its memory.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn decode(payload: Bytes) -> Result<Self, PayloadError> {
        let (ask, batch) = read_one(&payload)?;
        Ok(Self { ask, batch })
    }
}

fn one_head(head: &impl Message) -> Bytes {
    let mut writer = Writer::new();
    writer.blob(&head.encode_to_vec());
    writer.finish()
}

/// A control message behind its length, and the only message of the batch that follows.
fn read_one<T: Message + Default>(payload: &Bytes) -> Result<(T, Batch), PayloadError> {
    let mut reader = Reader::new(payload);
    let head = T::decode(reader.blob()?).map_err(|_| WireError::Impossible("control message"))?;
    let batch = Batch::parse(payload.slice_ref(reader.rest()))?;
    if batch.count() == 1 {
        Ok((head, batch))
    } else {
        Err(PayloadError::Count)
    }
}

fn places(ranges: &[DeliveredRange]) -> impl Iterator<Item = (QueueOffset, Attempt)> + '_ {
    let offsets = |range: &DeliveredRange| range.first_offset.0..range.first_offset.0.saturating_add(u64::from(range.count));
    ranges
        .iter()
        .flat_map(move |range| offsets(range).map(|offset| (QueueOffset(offset), range.attempt)))
}

fn write_ranges(writer: &mut Writer, ranges: &[DeliveredRange]) {
    assert!(ranges.len() <= DELIVERY_RANGES_MAX, "the sender bounds the ranges of a delivery");
    writer.u16(ranges.len() as u16);
    for range in ranges {
        writer
            .u64(range.first_offset.0)
            .u32(range.count)
            .u16(range.attempt.0)
            .i64(range.stored_wall_ms);
    }
}

fn read_ranges(reader: &mut Reader<'_>) -> Result<Vec<DeliveredRange>, WireError> {
    let count = usize::from(reader.u16()?);
    if count > DELIVERY_RANGES_MAX || count * RANGE_BYTES > reader.remaining() {
        return Err(WireError::Impossible("range count"));
    }
    let mut ranges = Vec::with_capacity(count);
    for _ in 0..count {
        let range = DeliveredRange {
            first_offset: QueueOffset(reader.u64()?),
            count: reader.u32()?,
            attempt: Attempt(reader.u16()?),
            stored_wall_ms: reader.i64()?,
        };
        if range.count == 0 || range.attempt.0 == 0 || range.first_offset.0.checked_add(u64::from(range.count)).is_none() {
            return Err(WireError::Impossible("range"));
        }
        ranges.push(range);
    }
    Ok(ranges)
}

fn check_count(ranges: &[DeliveredRange], batch: &Batch) -> Result<(), PayloadError> {
    let count: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
    if count == u64::from(batch.count()) {
        Ok(())
    } else {
        Err(PayloadError::Count)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchBuilder, NewMessage};
    use crate::ids::{ProducerId, Sequence};

    fn batch(count: u32) -> Batch {
        let mut builder = BatchBuilder::new(1_700_000_000_000, ProducerId(1), Sequence(0));
        for number in 0..count {
            let message = NewMessage {
                tag: None,
                keys: &["k"],
                properties: &[("p", "v")],
                born_ms: 1_700_000_000_000,
                ..NewMessage::default()
            };
            builder.push(&message, &number.to_le_bytes()).unwrap();
        }
        Batch::parse(builder.finish()).unwrap()
    }

    fn with_batch(head: &Bytes, batch: &Batch) -> Bytes {
        let mut payload = BytesMut::from(&head[..]);
        payload.extend_from_slice(batch.bytes());
        payload.freeze()
    }

    fn range(first_offset: u64, count: u32, attempt: u16) -> DeliveredRange {
        let (first_offset, attempt) = (QueueOffset(first_offset), Attempt(attempt));
        DeliveredRange {
            first_offset,
            count,
            attempt,
            stored_wall_ms: 1_700_000_000_123,
        }
    }

    proptest! {
        #[test]
        fn deliveries_survive_the_wire(
            first_number in any::<u64>(),
            counts in prop::collection::vec((0u64..1 << 40, 1u32..4, 1u16..17), 1..6),
            handle in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let ranges: Vec<_> = counts.iter().map(|&(first, count, attempt)| range(first, count, attempt)).collect();
            let batch = batch(ranges.iter().map(|range| range.count).sum());
            let payload = with_batch(&Delivery::encode_head(first_number, &ranges), &batch);
            let expected = Delivery { first_number, ranges: ranges.clone(), batch: batch.clone() };
            prop_assert_eq!(expected.places().count(), batch.count() as usize);
            prop_assert_eq!(Delivery::decode(payload), Ok(expected));

            let handles = vec![Bytes::from(handle); batch.count() as usize];
            let (topic, queue) = (TopicId(3), QueueIndex(2));
            let payload = with_batch(&Received::encode_head(topic, queue, &ranges, &handles), &batch);
            prop_assert_eq!(Received::decode(payload), Ok(Received { topic, queue, ranges, handles, batch }));
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Delivery::decode(bytes.clone().into());
            let _ = Received::decode(bytes.clone().into());
            let _ = FoundMessage::decode(bytes.clone().into());
            let _ = AskedMessage::decode(bytes.into());
        }
    }

    #[test]
    fn a_message_that_is_asked_about_survives_the_wire() {
        let ask = control::Ask {
            ask: 1,
            handle: Bytes::from_static(b"handle"),
            topic: "t".into(),
            prepared_wall_ms: 2,
            asks: 3,
            deliver_at_ms: 4,
        };
        let payload = with_batch(&AskedMessage::encode_head(&ask), &batch(1));
        let batch = batch(1);
        assert_eq!(AskedMessage::decode(payload), Ok(AskedMessage { ask, batch }));
    }

    #[test]
    fn a_message_that_was_found_survives_the_wire() {
        let found = control::Found {
            topic: "t".into(),
            topic_id: 1,
            queue: 2,
            offset: 3,
            stored_wall_ms: 4,
        };
        let payload = with_batch(&FoundMessage::encode_head(&found), &batch(1));
        assert_eq!(
            FoundMessage::decode(payload),
            Ok(FoundMessage {
                found: found.clone(),
                batch: batch(1)
            })
        );
        let two = with_batch(&FoundMessage::encode_head(&found), &batch(2));
        assert_eq!(FoundMessage::decode(two), Err(PayloadError::Count));
    }

    #[test]
    fn ranges_that_do_not_agree_with_the_batch_are_refused() {
        let payload = with_batch(&Delivery::encode_head(1, &[range(0, 3, 1)]), &batch(2));
        assert_eq!(Delivery::decode(payload), Err(PayloadError::Count));
        let payload = with_batch(&Delivery::encode_head(1, &[range(0, 2, 0)]), &batch(2));
        assert_eq!(Delivery::decode(payload), Err(PayloadError::Fields(WireError::Impossible("range"))));
    }

    #[test]
    fn the_payloads_of_version_1_are_what_they_were() {
        let ranges = [range(7, 1, 1), range(90, 1, 3)];
        crate::golden::check("delivery-1.bin", &with_batch(&Delivery::encode_head(41, &ranges), &batch(2)));
        let handles = [Bytes::from_static(b"first"), Bytes::from_static(b"second")];
        crate::golden::check(
            "received-1.bin",
            &with_batch(&Received::encode_head(TopicId(3), QueueIndex(2), &ranges, &handles), &batch(2)),
        );
    }
}
