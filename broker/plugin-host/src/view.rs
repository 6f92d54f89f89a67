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
/// then [`end_message`](Self::end_message); when that says [`Room::Full`], or there are no more messages, [`finish`](Self::finish),
/// or [`finish_with`](Self::finish_with) once for each filter that reads the run.
#[derive(Clone, Debug, Default)]
pub struct ViewWriter {
    /// At least as many as the run has; those beyond are kept for later runs.
    columns: Vec<ColumnWriter>,
    columns_in_use: usize,
    messages: usize,
    view: Vec<u8>,
    /// The columns that `view` was last written with, as long as the run is the same.
    written: Option<Vec<usize>>,
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
        self.written = None;
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

    /// Ends the run; `None` when it has no messages.
    pub fn finish(&mut self) -> Option<View<'_>> {
        let all: Vec<usize> = (0..self.columns_in_use).collect();
        self.finish_with(&all)
    }

    /// Ends the run as a filter sees it that asks for these of its columns, in this order; `None` when it has no messages. It may be
    /// called again for the next filter. Filters with the same columns read the same bytes, which are written once.
    ///
    /// # Panics
    ///
    /// When the run has no such column.
    pub fn finish_with(&mut self, slots: &[usize]) -> Option<View<'_>> {
        if self.messages == 0 {
            return None;
        }
        if self.written.as_deref() != Some(slots) {
            self.write(slots);
            self.written = Some(slots.to_vec());
        }
        Some(View {
            bytes: &self.view,
            messages: self.messages,
        })
    }

    /// One message of the run that was finished last, as a run of its own, as a filter sees it that asks for these columns.
    ///
    /// # Panics
    ///
    /// When the run has no such message or column.
    pub fn alone_with(&mut self, slots: &[usize], message: usize) -> View<'_> {
        assert!(message < self.messages, "message {message} of a run of {}", self.messages);
        self.written = None;
        let columns = &self.columns[..self.columns_in_use];
        let view = &mut self.view;
        view.clear();
        view.resize(HEADER_BYTES + DIRECTORY_ENTRY_BYTES * slots.len(), 0);
        for (place, column) in slots.iter().map(|&slot| &columns[slot]).enumerate() {
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
        write_words(view, [VERSION as usize, 1, slots.len(), length]);
        View { bytes: view, messages: 1 }
    }

    fn write(&mut self, slots: &[usize]) {
        let columns = &self.columns[..self.columns_in_use];
        let view = &mut self.view;
        view.clear();
        view.resize(HEADER_BYTES + DIRECTORY_ENTRY_BYTES * slots.len(), 0);
        for (place, column) in slots.iter().map(|&slot| &columns[slot]).enumerate() {
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
        write_words(view, [VERSION as usize, self.messages, slots.len(), length]);
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
    fn filters_read_those_columns_of_a_shared_run_that_they_ask_for() {
        let mut writer = ViewWriter::new();
        writer.begin(3);
        for (slot, value) in [b"zero", b"one_", b"two_"].into_iter().enumerate() {
            writer.text(slot, value);
        }
        let _ = writer.end_message();
        for slots in [&[2, 0][..], &[2, 0], &[1], &[]] {
            let view = writer.finish_with(slots).expect("a run of one");
            let read = sluice_plugin::View::parse(view.bytes()).expect("a whole view");
            let values: Vec<_> = (0..read.columns()).map(|column| read.column(column).text(0)).collect();
            let expected: Vec<_> = slots.iter().map(|&slot| Some(["zero", "one_", "two_"][slot])).collect();
            assert_eq!(values, expected);
        }
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
