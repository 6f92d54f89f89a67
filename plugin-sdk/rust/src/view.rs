//! The columnar view of a run of messages, read.
//!
//! The layout, byte by byte, is in the README one folder up.

use std::fmt;

use crate::column_filter::Bits;

/// The messages of one run, at most.
pub const MESSAGES_MAX: usize = 256;

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const DIRECTORY_ENTRY_BYTES: usize = 16;
const ALIGNMENT: usize = 8;

/// A run of messages as columns, each in the place in which it was asked for.
#[derive(Clone, Debug)]
pub struct View<'run> {
    messages: usize,
    columns: Vec<TextColumn<'run>>,
}

impl<'run> View<'run> {
    /// Reads a view; every place and length in it is checked, the values' UTF-8 is not.
    ///
    /// # Errors
    ///
    /// What is wrong with it. The broker writes none such.
    pub fn parse(bytes: &'run [u8]) -> Result<Self, BadView> {
        let (header, _) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(BadView("it ends within the header"))?;
        let [version, messages, columns, length] = words(header);
        if version != VERSION {
            return Err(BadView("it is of another version"));
        }
        let messages = messages as usize;
        if messages == 0 || messages > MESSAGES_MAX {
            return Err(BadView("the number of messages is not 1 to 256"));
        }
        if length as usize != bytes.len() || !bytes.len().is_multiple_of(ALIGNMENT) {
            return Err(BadView("the length is wrong"));
        }
        let directory = part(bytes, HEADER_BYTES, (columns as usize).checked_mul(DIRECTORY_ENTRY_BYTES))?;
        let (entries, _) = directory.as_chunks::<DIRECTORY_ENTRY_BYTES>();
        let columns = entries
            .iter()
            .map(|entry| TextColumn::parse(bytes, messages, words(entry)))
            .collect::<Result<_, _>>()?;
        Ok(Self { messages, columns })
    }

    /// How many messages the run has, 1 to 256.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// The column that was asked for in this place.
    ///
    /// # Panics
    ///
    /// When fewer were asked for.
    pub fn column(&self, place: usize) -> TextColumn<'run> {
        self.columns[place]
    }

    /// A bit for each message of the run.
    pub fn all(&self) -> Bits {
        std::array::from_fn(|word| match self.messages.saturating_sub(word * 64) {
            0 => 0,
            left @ 1..=63 => (1 << left) - 1,
            _ => u64::MAX,
        })
    }
}

/// The values of one attribute of all messages of a run.
#[derive(Clone, Copy, Debug)]
pub struct TextColumn<'run> {
    /// One bit a message, in whole words.
    validity: &'run [[u8; 8]],
    /// One more than there are messages; never falling, the last is the length of `bytes`.
    offsets: &'run [[u8; 4]],
    bytes: &'run [u8],
}

impl<'run> TextColumn<'run> {
    fn parse(view: &'run [u8], messages: usize, entry: [u32; 4]) -> Result<Self, BadView> {
        let [validity_at, offsets_at, bytes_at, bytes_length] = entry.map(|word| word as usize);
        if ![validity_at, offsets_at, bytes_at].iter().all(|at| at.is_multiple_of(ALIGNMENT)) {
            return Err(BadView("a part does not begin at a multiple of 8"));
        }
        let (validity, _) = part(view, validity_at, Some(messages.div_ceil(64) * 8))?.as_chunks();
        let (offsets, _) = part(view, offsets_at, Some((messages + 1) * 4))?.as_chunks();
        let bytes = part(view, bytes_at, Some(bytes_length))?;
        // One pass without an early end, so that it is compiled to vector instructions.
        let falling = offsets
            .iter()
            .zip(&offsets[1..])
            .fold(false, |falling, (from, to)| falling | (word(from) > word(to)));
        if falling || word(&offsets[0]) != 0 || word(&offsets[messages]) as usize != bytes_length {
            return Err(BadView("the offsets do not go from 0 to the length"));
        }
        Ok(Self { validity, offsets, bytes })
    }

    /// The value of message `message` as text, `None` where it has none.
    ///
    /// # Panics
    ///
    /// When there are fewer messages, or the value is not UTF-8 (the broker writes none such).
    #[inline]
    pub fn text(&self, message: usize) -> Option<&'run str> {
        self.value(message)
            .map(|value| str::from_utf8(value).expect("the broker writes whole UTF-8 values"))
    }

    /// The UTF-8 bytes of the value of message `message`, `None` where it has none.
    ///
    /// # Panics
    ///
    /// When there are fewer messages.
    #[inline]
    pub fn value(&self, message: usize) -> Option<&'run [u8]> {
        self.is_present(message).then(|| self.value_or_empty(message))
    }

    /// The UTF-8 bytes of the value of message `message`, empty where it has none.
    ///
    /// # Panics
    ///
    /// When there are fewer messages.
    #[inline]
    pub fn value_or_empty(&self, message: usize) -> &'run [u8] {
        &self.bytes[self.offset(message)..self.offset(message + 1)]
    }

    /// Whether message `message` has the attribute.
    ///
    /// # Panics
    ///
    /// When there are fewer messages.
    #[inline]
    pub fn is_present(&self, message: usize) -> bool {
        self.validity[message / 64][message % 64 / 8] >> (message % 8) & 1 == 1
    }

    /// A bit for each message that has the attribute.
    #[inline]
    pub fn present(&self) -> Bits {
        std::array::from_fn(|word| self.validity.get(word).map_or(0, |bytes| u64::from_le_bytes(*bytes)))
    }

    /// Where in [`bytes`](Self::bytes) the value of message `message` begins, and that of the one before ends.
    ///
    /// # Panics
    ///
    /// When `message` is greater than the number of messages.
    #[inline]
    pub fn offset(&self, message: usize) -> usize {
        word(&self.offsets[message]) as usize
    }

    /// All offsets, one more than there are messages, each a little-endian u32.
    pub fn offsets(&self) -> &'run [[u8; 4]] {
        self.offsets
    }

    /// The values of all messages, one after the other.
    pub fn bytes(&self) -> &'run [u8] {
        self.bytes
    }
}

/// What is wrong with a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadView(&'static str);

impl fmt::Display for BadView {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "no columnar view: {}", self.0)
    }
}

impl std::error::Error for BadView {}

/// `length` bytes of the view from `at`; `None` is a length beyond what an address can say.
fn part(view: &[u8], at: usize, length: Option<usize>) -> Result<&[u8], BadView> {
    length
        .and_then(|length| view.get(at..at.checked_add(length)?))
        .ok_or(BadView("a part lies outside"))
}

#[inline]
fn word(bytes: &[u8; 4]) -> u32 {
    u32::from_le_bytes(*bytes)
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|place| word(&words[place]))
}
