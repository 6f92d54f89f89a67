//! The payload of a MESSAGES frame: a page of messages that were read without a group.

use bytes::Bytes;
use prost::Message;

use crate::batch::{Attributes, Batch};
use crate::control;
use crate::delivery::PayloadError;
use crate::wire::{Reader, WireError, Writer};

/// Messages that were read without a group.
#[derive(Clone, Debug, PartialEq)]
pub struct MessagePage {
    /// Where they are and how to go on.
    pub head: control::Messages,
    /// The messages, one for each place; `None` when there are none. Their bodies' checksums are the receiver's to verify.
    pub batch: Option<Batch>,
}

impl MessagePage {
    /// What stands before the batch: the length of the message `Messages` in four bytes, and that message.
    pub fn encode_head(head: &control::Messages) -> Bytes {
        let mut writer = Writer::new();
        writer.blob(&head.encode_to_vec());
        writer.finish()
    }

    /// Reads the payload of a page that was asked for with or without bodies; the batch shares its memory.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn decode(payload: Bytes, bodies: bool) -> Result<Self, PayloadError> {
        let mut reader = Reader::new(&payload);
        let head = control::Messages::decode(reader.blob()?).map_err(|_| WireError::Impossible("messages"))?;
        let rest = payload.slice_ref(reader.rest());
        if head.places.is_empty() {
            reader.finish()?;
            return match rest.is_empty() {
                true => Ok(Self { head, batch: None }),
                false => Err(PayloadError::Count),
            };
        }
        let batch = match bodies {
            true => Batch::parse(rest)?,
            false => without_bodies(rest)?,
        };
        match batch.count() as usize == head.places.len() {
            true => Ok(Self { head, batch: Some(batch) }),
            false => Err(PayloadError::Count),
        }
    }
}

fn without_bodies(bytes: Bytes) -> Result<Batch, PayloadError> {
    let length = bytes.len();
    let attributes = Attributes::parse(bytes)?;
    match attributes.attribute_bytes() == length {
        true => Ok(Batch::without_bodies(attributes)),
        false => Err(WireError::Trailing.into()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::batch::{BatchBuilder, BatchMerger, NewMessage};
    use crate::ids::{ProducerId, Sequence};

    fn batch(count: u32) -> Batch {
        let mut builder = BatchBuilder::new(1_700_000_000_000, ProducerId(1), Sequence(0));
        for number in 0..count {
            let message = NewMessage {
                keys: &["k"],
                properties: &[("p", "v")],
                born_ms: 1_700_000_000_000,
                ..NewMessage::default()
            };
            builder.push(&message, &number.to_le_bytes()).unwrap();
        }
        Batch::parse(builder.finish()).unwrap()
    }

    fn head(count: u32) -> control::Messages {
        let place = |offset| control::MessagePlace {
            stored_wall_ms: 1_700_000_000_123,
            queue: 3,
            offset: u64::from(offset),
        };
        control::Messages {
            topic: "t".into(),
            topic_id: 9,
            places: (0..count).map(place).collect(),
            next: Some(place(count)),
            judged: 17,
            failed: 1,
        }
    }

    fn payload(head: &control::Messages, batch: &[u8]) -> Bytes {
        let mut payload = BytesMut::from(&MessagePage::encode_head(head)[..]);
        payload.extend_from_slice(batch);
        payload.freeze()
    }

    fn attributes_alone(batch: &Batch) -> Bytes {
        let mut merger = BatchMerger::new();
        merger.add_without_bodies(batch.attributes(), 0..batch.count()).unwrap();
        merger.take().attributes
    }

    proptest! {
        #[test]
        fn pages_survive_the_wire(count in 1_u32..9) {
            let (head, batch) = (head(count), batch(count));
            let page = MessagePage::decode(payload(&head, batch.bytes()), true).unwrap();
            prop_assert_eq!(&page, &MessagePage { head: head.clone(), batch: Some(batch.clone()) });

            let page = MessagePage::decode(payload(&head, &attributes_alone(&batch)), false).unwrap();
            let bare = page.batch.unwrap();
            prop_assert!(!bare.has_bodies() && batch.has_bodies());
            for (bare_row, row) in bare.rows().zip(batch.rows()) {
                prop_assert_eq!(bare_row.body_len(), row.body_len());
                prop_assert!(bare.body(&bare_row).is_empty());
                prop_assert_eq!(bare_row.message_id(), row.message_id());
            }
        }

        #[test]
        fn no_bytes_make_a_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), bodies in any::<bool>()) {
            let _ = MessagePage::decode(bytes.into(), bodies);
        }
    }

    #[test]
    fn a_page_that_does_not_agree_with_its_batch_is_refused() {
        assert_eq!(
            MessagePage::decode(payload(&head(2), batch(1).bytes()), true),
            Err(PayloadError::Count)
        );
        assert!(MessagePage::decode(payload(&head(0), batch(1).bytes()), true).is_err());
        // Bodies where none were asked for, and none where they were.
        assert!(MessagePage::decode(payload(&head(1), batch(1).bytes()), false).is_err());
        assert!(MessagePage::decode(payload(&head(1), &attributes_alone(&batch(1))), true).is_err());
    }

    #[test]
    fn the_page_of_version_1_is_what_it_was() {
        crate::golden::check("messages-1.bin", &payload(&head(2), batch(2).bytes()));
        crate::golden::check("messages-bare-1.bin", &payload(&head(2), &attributes_alone(&batch(2))));
    }
}
