//! A batch with its bodies.

use bytes::Bytes;

use super::attributes::Attributes;
use super::layout::{BatchError, crc32c};
use super::row::{DELIVER_AT_AT, EXTENSION_GROUP, EXTENSION_TTL, FLAG_DELIVER_AFTER, FLAG_GIVEN_ID, FLAGS_AT, Row};

/// What the messages of a batch use beyond the ordinary, so that nobody looks at the rows of a batch that uses nothing. It may name more than
/// there is, never less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Bit n is set when a message has priority n.
    pub priorities: u16,
    /// Whether any message has a message group.
    pub groups: bool,
    /// Whether any message has a time to live.
    pub ttls: bool,
    /// Whether any message is only prepared.
    pub prepared: bool,
    /// Whether the producer gave any message an id.
    pub given_ids: bool,
}

impl Uses {
    /// Takes in all that another batch uses.
    pub fn join(&mut self, other: Self) {
        self.priorities |= other.priorities;
        self.groups |= other.groups;
        self.ttls |= other.ttls;
    }

    /// Takes in a message.
    pub fn add(&mut self, row: &Row<'_>) {
        self.priorities |= 1 << row.priority().min(15);
        let [groups, ttls] = row.has_extensions([EXTENSION_GROUP, EXTENSION_TTL]);
        self.groups |= groups;
        self.ttls |= ttls;
        self.given_ids |= row.flags() & FLAG_GIVEN_ID != 0;
        self.prepared |= row.is_prepared();
    }
}

/// A whole batch, its attributes validated, its bodies' checksums not. Clones share the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    attributes: Attributes,
    bytes: Bytes,
    uses: Uses,
}

impl Batch {
    /// Validates a batch that comes from outside, but not the bodies' checksums: see [`Self::verify_bodies`].
    ///
    /// # Errors
    /// [`BatchError`]; also when the bytes go on after the batch.
    pub fn parse(bytes: Bytes) -> Result<Self, BatchError> {
        Self::new(Attributes::parse(bytes.clone())?, bytes)
    }

    /// Validates a batch that was parsed before it was stored ([`Attributes::parse_stored`]).
    ///
    /// # Errors
    /// [`BatchError`].
    pub fn parse_stored(bytes: Bytes) -> Result<Self, BatchError> {
        Self::new(Attributes::parse_stored(bytes.clone())?, bytes)
    }

    /// A batch that came without its bodies: each of them reads as empty, whatever its row says of its length.
    pub fn without_bodies(attributes: Attributes) -> Self {
        let bytes = attributes.bytes().clone();
        let uses = Uses::default();
        Self { attributes, bytes, uses }
    }

    /// Whether the bodies are here.
    pub fn has_bodies(&self) -> bool {
        self.bytes.len() == self.attributes.total_bytes()
    }

    fn new(attributes: Attributes, bytes: Bytes) -> Result<Self, BatchError> {
        if bytes.len() == attributes.total_bytes() {
            let uses = Uses::default();
            Ok(Self { attributes, bytes, uses })
        } else {
            Err(BatchError::Length)
        }
    }

    /// The same batch with the times of delivery of those messages that are to be delivered so long after `wall_ms`.
    ///
    /// # Errors
    /// [`BatchError`]; a batch that was parsed gets none.
    pub(super) fn with_delivery_times(self, wall_ms: i64) -> Result<Self, BatchError> {
        let is_relative = |row: &Row<'_>| row.flags() & FLAG_DELIVER_AFTER != 0;
        if !self.attributes.has_delays() || !self.rows().any(|row| is_relative(&row)) {
            return Ok(self);
        }
        let mut bytes = self.bytes.to_vec();
        for row in self.rows().filter(is_relative) {
            let Some(at) = self.attributes.row_at(row.index()) else { break };
            let deliver_at_ms = row.deliver_at_ms().saturating_add(wall_ms);
            let flags = row.flags() & !FLAG_DELIVER_AFTER;
            bytes[at + DELIVER_AT_AT..at + DELIVER_AT_AT + 8].copy_from_slice(&deliver_at_ms.to_le_bytes());
            bytes[at + FLAGS_AT..at + FLAGS_AT + 2].copy_from_slice(&flags.to_le_bytes());
        }
        self.attributes.seal(&mut bytes);
        Self::parse_stored(bytes.into())
    }

    /// What its messages use, as far as somebody looked: see [`Self::using`].
    pub fn uses(&self) -> Uses {
        self.uses
    }

    /// The same batch, with what its messages use.
    pub fn using(self, uses: Uses) -> Self {
        Self { uses, ..self }
    }

    /// The same batch, its rows looked at for what they use.
    pub fn looked_at(self) -> Self {
        let mut uses = Uses::default();
        self.rows().for_each(|row| uses.add(&row));
        self.using(uses)
    }

    /// All but the bodies.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// The whole batch as bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many messages there are.
    pub fn count(&self) -> u32 {
        self.attributes.count()
    }

    /// Whether there is no message.
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    /// The row with this number, from 0.
    pub fn row(&self, index: u32) -> Option<Row<'_>> {
        self.attributes.row(index)
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> + '_ {
        self.attributes.rows()
    }

    /// All bodies, one after the other.
    pub fn bodies(&self) -> Bytes {
        self.bytes.slice(self.attributes.attribute_bytes()..)
    }

    /// The body of a row of this batch, sharing the batch's memory. Its checksum is not verified.
    pub fn body(&self, row: &Row<'_>) -> Bytes {
        self.bytes.slice_ref(self.body_bytes(row))
    }

    /// The body of a row of this batch.
    pub fn body_bytes(&self, row: &Row<'_>) -> &[u8] {
        self.bytes
            .get(self.attributes.attribute_bytes()..)
            .and_then(|bodies| bodies.get(row.body_range()))
            .unwrap_or_default()
    }

    /// Whether the body of a row is what its producer sent.
    pub fn verify_body(&self, row: &Row<'_>) -> bool {
        crc32c(self.body_bytes(row)) == row.body_crc()
    }

    /// Demands that all bodies are what their producers sent.
    ///
    /// # Errors
    /// [`BatchError::BodyChecksum`] with the first row whose body is not.
    pub fn verify_bodies(&self) -> Result<(), BatchError> {
        match self.rows().find(|row| !self.verify_body(row)) {
            Some(row) => Err(BatchError::BodyChecksum(row.index())),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{AdmissionLimits, BatchBuilder, NewMessage, admit};
    use super::*;
    use crate::errors::ErrorCode;
    use crate::ids::{ProducerId, Sequence};
    use crate::limits::DELAY_MS_MAX;

    #[test]
    fn a_time_of_delivery_that_counts_from_admission_is_written_in_its_place() {
        let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(5));
        let after = NewMessage::<&str> {
            deliver_after_ms: 250,
            ..NewMessage::default()
        };
        let at = NewMessage::<&str> {
            deliver_at_ms: 9_000,
            ..NewMessage::default()
        };
        builder.push(&after, b"after").unwrap();
        builder.push(&NewMessage::<&str>::default(), b"at once").unwrap();
        builder.push(&at, b"at").unwrap();
        let limits = AdmissionLimits {
            wall_ms: 1_000,
            ..AdmissionLimits::default()
        };
        let admission = admit(builder.finish(), ProducerId(1), &limits).unwrap();
        let times: Vec<_> = admission.batch.rows().map(|row| (row.deliver_at_ms(), row.flags())).collect();
        assert_eq!(times, [(1_250, 0), (0, 0), (9_000, 0)]);
        assert!(admission.batch.attributes().has_delays());
        assert_eq!(Batch::parse(admission.batch.bytes().clone()).unwrap().looked_at(), admission.batch);
    }

    #[test]
    fn a_message_waits_ten_years_at_most() {
        for (deliver_at_ms, is_refused) in [(DELAY_MS_MAX + 1_000, false), (DELAY_MS_MAX + 1_001, true)] {
            let message = NewMessage::<&str> {
                deliver_at_ms,
                ..NewMessage::default()
            };
            let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(0));
            builder.push(&message, b"").unwrap();
            let limits = AdmissionLimits {
                wall_ms: 1_000,
                ..AdmissionLimits::default()
            };
            let refused = admit(builder.finish(), ProducerId(1), &limits).unwrap().refused;
            let codes: Vec<_> = refused.iter().map(|row| row.refusal.code).collect();
            assert_eq!(codes == [ErrorCode::DelayTooLong], is_refused);
        }
    }
}
