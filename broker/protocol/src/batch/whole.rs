//! A batch with its bodies.

use bytes::Bytes;

use super::attributes::Attributes;
use super::layout::{BatchError, crc32c};
use super::row::Row;

/// A whole batch, its attributes validated, its bodies' checksums not. Clones share the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    attributes: Attributes,
    bytes: Bytes,
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
        Self { attributes, bytes }
    }

    /// Whether the bodies are here.
    pub fn has_bodies(&self) -> bool {
        self.bytes.len() == self.attributes.total_bytes()
    }

    fn new(attributes: Attributes, bytes: Bytes) -> Result<Self, BatchError> {
        if bytes.len() == attributes.total_bytes() {
            Ok(Self { attributes, bytes })
        } else {
            Err(BatchError::Length)
        }
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
