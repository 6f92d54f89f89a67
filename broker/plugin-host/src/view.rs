//! The columnar view of a run of messages, written.
//!
//! The layout, byte by byte, is in `plugin-sdk/README.md`.

use crate::limits::{MESSAGES_MAX, RUN_VALUE_BYTES};

const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const DIRECTORY_ENTRY_BYTES: usize = 16;
const WORDS: usize = MESSAGES_MAX / 64;

/// Writes runs, one after the other, into buffers that it keeps.
///
/// For a run: [`begin`](Self::begin); for each message a [`text`](Self::text) for each column that it has a value for and
/// then [`end_message`](Self::end_message); when that says [`Room::Full`], or there are no more messages, [`finish`](Self::finish).
#[derive(Clone, Debug, Default)]
pub struct ViewWriter {
    /// At least as many as the run has; those beyond are kept for later runs.
    columns: Vec<ColumnWriter>,
    columns_in_use: usize,
    messages: usize,
    view: Vec<u8>,
}

#[derive(Clone, Debug)]
struct ColumnWriter {
    validity: [u64; WORDS],
    /// Where the value of each message ends.
    ends: [u32; MESSAGES_MAX],
    bytes: Vec<u8>,
}

/// Whether a run takes another message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a full run takes no further message"]
pub enum Room {
    /// It does.
    Left,
    /// It does not: it has 256 messages, or 1 MiB of values.
    Full,
}

/// A run of messages as plugins see it.
#[derive(Clone, Copy, Debug)]
pub struct View<'writer> {
    bytes: &'writer [u8],
    messages: usize,
}

impl ViewWriter {
    /// A writer without buffers yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a run with this many columns.
    pub fn begin(&mut self, columns: usize) {
        self.messages = 0;
        self.columns_in_use = columns;
        if self.columns.len() < columns {
            self.columns.resize_with(columns, ColumnWriter::default);
        }
        for column in &mut self.columns[..columns] {
            column.validity = [0; WORDS];
            column.bytes.clear();
        }
    }

    /// How many messages the run has so far.
    pub fn messages(&self) -> usize {
        self.messages
    }

    /// The value, in UTF-8, that the message has for the column `slot`. The first one counts if it is given twice; the
    /// message does not have what is never given.
    ///
    /// # Panics
    ///
    /// When the run has no such column, or no room for a message.
    #[inline]
    pub fn text(&mut self, slot: usize, value: &[u8]) {
        let column = &mut self.columns[..self.columns_in_use][slot];
        let (word, bit) = (self.messages / 64, 1 << (self.messages % 64));
        if column.validity[word] & bit == 0 {
            column.validity[word] |= bit;
            column.bytes.extend_from_slice(value);
        }
    }

    /// Ends the message.
    ///
    /// # Panics
    ///
    /// When the run had no room for it.
    #[inline]
    pub fn end_message(&mut self) -> Room {
        let mut values = 0;
        for column in &mut self.columns[..self.columns_in_use] {
            values += column.bytes.len();
            // A run ends near 1 MiB of values and a message has at most 64 kB of them, so this never comes near 4 GiB.
            column.ends[self.messages] = column.bytes.len() as u32;
        }
        self.messages += 1;
        if self.messages == MESSAGES_MAX || values >= RUN_VALUE_BYTES {
            Room::Full
        } else {
            Room::Left
        }
    }

    /// One message of the run that was finished last, as a run of its own.
    ///
    /// # Panics
    ///
    /// When the run has no such message.
    pub fn alone(&mut self, message: usize) -> View<'_> {
        assert!(message < self.messages, "message {message} of a run of {}", self.messages);
        let columns = &self.columns[..self.columns_in_use];
        let view = &mut self.view;
        view.clear();
        view.resize(HEADER_BYTES + DIRECTORY_ENTRY_BYTES * columns.len(), 0);
        for (place, column) in columns.iter().enumerate() {
            let validity_at = view.len();
            let valid = column.validity[message / 64] >> (message % 64) & 1;
            view.extend_from_slice(&valid.to_le_bytes());
            let begin = message.checked_sub(1).map_or(0, |before| column.ends[before]) as usize;
            let value = &column.bytes[begin..column.ends[message] as usize];
            let offsets_at = view.len();
            extend_with_words(view, &[0, value.len() as u32]);
            align(view);
            let bytes_at = view.len();
            view.extend_from_slice(value);
            align(view);
            let entry = HEADER_BYTES + DIRECTORY_ENTRY_BYTES * place;
            write_words(&mut view[entry..], [validity_at, offsets_at, bytes_at, value.len()]);
        }
        let length = view.len();
        write_words(view, [VERSION as usize, 1, columns.len(), length]);
        View { bytes: view, messages: 1 }
    }

    /// Ends the run; `None` when it has no messages.
    pub fn finish(&mut self) -> Option<View<'_>> {
        if self.messages == 0 {
            return None;
        }
        let columns = &self.columns[..self.columns_in_use];
        let view = &mut self.view;
        view.clear();
        view.resize(HEADER_BYTES + DIRECTORY_ENTRY_BYTES * columns.len(), 0);
        for (place, column) in columns.iter().enumerate() {
            let validity_at = view.len();
            for word in &column.validity[..self.messages.div_ceil(64)] {
                view.extend_from_slice(&word.to_le_bytes());
            }
            let offsets_at = view.len();
            view.extend_from_slice(&0_u32.to_le_bytes());
            extend_with_words(view, &column.ends[..self.messages]);
            align(view);
            let bytes_at = view.len();
            view.extend_from_slice(&column.bytes);
            align(view);
            let entry = HEADER_BYTES + DIRECTORY_ENTRY_BYTES * place;
            write_words(&mut view[entry..], [validity_at, offsets_at, bytes_at, column.bytes.len()]);
        }
        let length = view.len();
        write_words(view, [VERSION as usize, self.messages, columns.len(), length]);
        Some(View {
            bytes: view,
            messages: self.messages,
        })
    }
}

impl Default for ColumnWriter {
    fn default() -> Self {
        Self {
            validity: [0; WORDS],
            ends: [0; MESSAGES_MAX],
            bytes: Vec::new(),
        }
    }
}

impl<'writer> View<'writer> {
    /// Its bytes.
    pub fn bytes(&self) -> &'writer [u8] {
        self.bytes
    }

    /// How many messages it has, 1 to 256.
    pub fn messages(&self) -> usize {
        self.messages
    }
}

fn extend_with_words(view: &mut Vec<u8>, words: &[u32]) {
    let at = view.len();
    view.resize(at + words.len() * 4, 0);
    for (to, word) in view[at..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *to = word.to_le_bytes();
    }
}

fn align(view: &mut Vec<u8>) {
    view.resize(view.len().next_multiple_of(8), 0);
}

fn write_words(to: &mut [u8], words: [usize; 4]) {
    for (to, word) in to.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *to = u32::try_from(word).expect("a view is far smaller than 4 GiB").to_le_bytes();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Messages = Vec<Vec<Option<String>>>;

    const COLUMNS: usize = 3;

    fn write<'writer>(writer: &'writer mut ViewWriter, messages: &[Vec<Option<String>>]) -> View<'writer> {
        writer.begin(COLUMNS);
        for message in messages {
            for (slot, value) in message.iter().enumerate() {
                if let Some(value) = value {
                    writer.text(slot, value.as_bytes());
                }
            }
            let _ = writer.end_message();
        }
        writer.finish().expect("a run with messages")
    }

    fn messages() -> impl Strategy<Value = Messages> {
        let message = proptest::collection::vec(proptest::option::of("\\PC{0,9}"), COLUMNS);
        proptest::collection::vec(message, 1..=MESSAGES_MAX)
    }

    proptest! {
        #[test]
        fn plugins_read_what_was_written(first in messages(), second in messages()) {
            let mut writer = ViewWriter::new();
            for messages in [first, second] {
                let view = write(&mut writer, &messages);
                prop_assert!(view.bytes().len().is_multiple_of(8));
                let read = sluice_plugin::View::parse(view.bytes()).expect("a whole view");
                prop_assert_eq!((read.messages(), read.columns()), (messages.len(), COLUMNS));
                for (place, message) in messages.iter().enumerate() {
                    for (slot, value) in message.iter().enumerate() {
                        prop_assert_eq!(read.column(slot).text(place), value.as_deref());
                    }
                }
            }
        }
    }

    #[test]
    fn a_run_is_full_at_256_messages_or_a_mebibyte_of_values() {
        let mut writer = ViewWriter::new();
        writer.begin(0);
        let filled = (1..=MESSAGES_MAX).find(|_| writer.end_message() == Room::Full);
        assert_eq!(filled, Some(MESSAGES_MAX));
        writer.begin(2);
        writer.text(0, &[b'x'; RUN_VALUE_BYTES / 2]);
        assert_eq!(writer.end_message(), Room::Left);
        writer.text(1, &[b'x'; RUN_VALUE_BYTES / 2]);
        assert_eq!(writer.end_message(), Room::Full);
    }

    #[test]
    fn a_run_without_messages_is_none() {
        let mut writer = ViewWriter::new();
        writer.begin(1);
        assert!(writer.finish().is_none());
    }

    #[test]
    fn of_a_value_given_twice_the_first_counts() {
        let mut writer = ViewWriter::new();
        writer.begin(1);
        writer.text(0, b"first");
        writer.text(0, b"second");
        let _ = writer.end_message();
        let view = writer.finish().expect("a run of one");
        assert_eq!(
            sluice_plugin::View::parse(view.bytes()).expect("a whole view").column(0).text(0),
            Some("first")
        );
    }
}
