//! Reading and writing little-endian fields: every read is bounded by what is there, no write can fail.

use bytes::{BufMut, Bytes, BytesMut};

/// The bytes end, or hold something impossible, before what was asked for is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end within a field.
    #[error("the bytes end within a field")]
    Truncated,
    /// Bytes follow where nothing may follow.
    #[error("bytes follow after the end")]
    Trailing,
    /// A text is not UTF-8.
    #[error("a text is not UTF-8")]
    NotText,
    /// A field has a value that it cannot have.
    #[error("the field {0} has an impossible value")]
    Impossible(&'static str),
}

/// Takes fields off the front of a slice. Slices that it returns borrow from the input ([`Bytes::slice_ref`] shares them).
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader at the beginning of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// How many bytes have not been read.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Demands that everything was read.
    ///
    /// # Errors
    /// [`WireError::Trailing`].
    pub fn finish(self) -> Result<(), WireError> {
        if self.rest.is_empty() { Ok(()) } else { Err(WireError::Trailing) }
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`], as every method below.
    pub fn bytes(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(WireError::Truncated)?;
        self.rest = rest;
        Ok(*taken)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes.
    pub fn u128(&mut self) -> Result<u128, WireError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Impossible("bool")),
        }
    }

    /// A length of four bytes, then so many bytes.
    pub fn blob(&mut self) -> Result<&'a [u8], WireError> {
        let length = self.u32()?;
        self.bytes(length as usize)
    }

    /// A length of two bytes, then so many bytes of UTF-8.
    pub fn text(&mut self) -> Result<&'a str, WireError> {
        let length = self.u16()?;
        std::str::from_utf8(self.bytes(usize::from(length))?).map_err(|_| WireError::NotText)
    }

    /// A count of four bytes of entries that take at least `entry_bytes_min` each, so that it may be trusted for an allocation.
    pub fn count(&mut self, entry_bytes_min: usize) -> Result<usize, WireError> {
        let count = self.u32()? as usize;
        match count.checked_mul(entry_bytes_min.max(1)) {
            Some(bytes) if bytes <= self.rest.len() => Ok(count),
            Some(_) | None => Err(WireError::Truncated),
        }
    }
}

/// Puts fields at the end of a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: BytesMut,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            bytes: BytesMut::with_capacity(capacity),
        }
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes written; the writer is empty afterwards and keeps what room is left.
    pub fn take(&mut self) -> Bytes {
        self.bytes.split().freeze()
    }

    /// The bytes written.
    pub fn finish(self) -> Bytes {
        self.bytes.freeze()
    }

    /// These bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.put_slice(bytes);
        self
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Two bytes.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Sixteen bytes.
    pub fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// One byte, 0 or 1.
    pub fn bool(&mut self, value: bool) -> &mut Self {
        self.u8(u8::from(value))
    }

    /// A count of entries that follow, four bytes.
    pub fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).expect("a count of things in memory that are written one by one fits in 32 bits"))
    }

    /// A length of four bytes, then the bytes.
    pub fn blob(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).bytes(bytes)
    }

    /// A length of two bytes, then the text. Texts are checked where they enter; none comes near 64 KiB.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.u16(u16::try_from(text.len()).expect("texts were checked where they entered"))
            .bytes(text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn fields_survive_the_wire(number in any::<u64>(), wide in any::<u128>(), text in ".{0,40}", blob in any::<Vec<u8>>()) {
            let mut writer = Writer::new();
            writer.u8(7).u16(9).u32(11).u64(number).i64(number as i64).u128(wide).bool(true).text(&text).blob(&blob);
            let bytes = writer.finish();
            let mut reader = Reader::new(&bytes);
            prop_assert_eq!((reader.u8(), reader.u16(), reader.u32()), (Ok(7), Ok(9), Ok(11)));
            prop_assert_eq!((reader.u64(), reader.i64(), reader.u128()), (Ok(number), Ok(number as i64), Ok(wide)));
            prop_assert_eq!((reader.bool(), reader.text(), reader.blob()), (Ok(true), Ok(text.as_str()), Ok(blob.as_slice())));
            prop_assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn a_length_beyond_the_end_is_refused() {
        assert_eq!(Reader::new(&[255, 255, 255, 255, 1]).blob(), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[255, 255, 255, 255, 1]).count(8), Err(WireError::Truncated));
        assert_eq!(Reader::new(&[2, 0, 0xff, 0xff]).text(), Err(WireError::NotText));
        assert_eq!(Reader::new(&[1]).finish(), Err(WireError::Trailing));
    }
}
