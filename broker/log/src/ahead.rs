//! Reading the attributes of batches that lie near one another with few reads.

use bytes::Bytes;
use sluice_protocol::batch::Attributes;
use sluice_protocol::ids::Position;

use crate::error::LogError;
use crate::index::BatchPlace;
use crate::limits::{AHEAD_BYTES_MAX, AHEAD_GAP_BYTES_MAX};
use crate::reader::LogReader;

/// Reads the attributes of one batch after the other. What a read brings of the batches behind is kept for them, so that many small batches
/// cost one read together; large ones are read apart, without the bodies between them.
#[derive(Debug, Default)]
pub struct ReadAhead {
    from: Position,
    bytes: Bytes,
}

impl ReadAhead {
    /// With nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The attributes of a batch; `following` are those that will be asked next, in the order of their positions.
    ///
    /// # Errors
    /// As for [`LogReader::attributes`].
    pub fn attributes(&mut self, reader: &LogReader, place: &BatchPlace, following: &[BatchPlace]) -> Result<Attributes, LogError> {
        let bytes = match self.kept(place) {
            Some(bytes) => bytes,
            None => match reader.in_tail(place) {
                Some(bytes) => bytes,
                None => self.read(reader, place, following)?,
            },
        };
        reader.parsed(place, bytes)
    }

    fn kept(&self, place: &BatchPlace) -> Option<Bytes> {
        let start = usize::try_from(place.position.0.checked_sub(self.from.0)?).ok()?;
        let end = start.checked_add(place.attribute_bytes as usize)?;
        (end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }

    fn read(&mut self, reader: &LogReader, place: &BatchPlace, following: &[BatchPlace]) -> Result<Bytes, LogError> {
        let first_end = place.position.0 + u64::from(place.attribute_bytes);
        let mut end = first_end;
        for next in following {
            let next_end = next.position.0 + u64::from(next.attribute_bytes);
            let near = next.position.0.checked_sub(end).is_some_and(|gap| gap <= AHEAD_GAP_BYTES_MAX);
            if !near || next_end - place.position.0 > AHEAD_BYTES_MAX {
                break;
            }
            end = next_end;
        }
        if end > first_end
            && let Some(bytes) = reader.read_across(place.position, Position(end))?
        {
            self.from = place.position;
            self.bytes = bytes;
            return Ok(self.bytes.slice(..place.attribute_bytes as usize));
        }
        reader.read(place, 0..place.attribute_bytes)
    }
}
