//! A text that values are compared with.

use crate::tree::MatchKind;

const HEAD_BYTES: usize = 8;

/// A text, with its first eight bytes as one number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Needle {
    bytes: Box<[u8]>,
    head: u64,
    head_mask: u64,
}

impl Needle {
    pub(crate) fn new(text: &str) -> Self {
        let bytes: Box<[u8]> = text.as_bytes().into();
        let mut head = [0; HEAD_BYTES];
        let mut mask = [0; HEAD_BYTES];
        for (place, &byte) in bytes.iter().take(HEAD_BYTES).enumerate() {
            head[place] = byte;
            mask[place] = u8::MAX;
        }
        Needle {
            bytes,
            head: u64::from_le_bytes(head),
            head_mask: u64::from_le_bytes(mask),
        }
    }

    /// The needles of these texts, sorted, each once.
    pub(crate) fn set(mut texts: Vec<String>) -> Vec<Needle> {
        texts.sort_unstable();
        texts.dedup();
        texts.iter().map(|text| Needle::new(text)).collect()
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the value of this length that begins at a place of these bytes is the needle; the lengths are equal.
    #[inline]
    pub(crate) fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        let Some(head) = bytes[at..].first_chunk::<HEAD_BYTES>() else {
            return bytes[at..at + self.bytes.len()] == *self.bytes;
        };
        let head_equals = u64::from_le_bytes(*head) & self.head_mask == self.head;
        head_equals && (self.bytes.len() <= HEAD_BYTES || bytes[at..at + self.bytes.len()] == *self.bytes)
    }

    /// Whether a value contains, starts or ends with the needle, which is not empty.
    pub(crate) fn matches(&self, kind: MatchKind, value: &[u8]) -> bool {
        match kind {
            MatchKind::StartsWith => value.starts_with(&self.bytes),
            MatchKind::EndsWith => value.ends_with(&self.bytes),
            MatchKind::Contains => self.is_within(value),
        }
    }

    fn is_within(&self, value: &[u8]) -> bool {
        // The standard search takes linear time, whatever the two texts are; it works on text.
        match (str::from_utf8(value), str::from_utf8(&self.bytes)) {
            (Ok(value), Ok(needle)) => value.contains(needle),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_needle_is_found_where_it_is_and_nowhere_else(before in "[ab]{0,12}", text in "[ab]{0,12}", other in "[ab]{0,12}", after in "[ab]{0,12}") {
            let hay = format!("{before}{other}{after}");
            if other.len() == text.len() {
                prop_assert_eq!(Needle::new(&text).is_at(hay.as_bytes(), before.len()), text == other);
            }
            if !text.is_empty() {
                prop_assert_eq!(Needle::new(&text).matches(MatchKind::Contains, hay.as_bytes()), hay.contains(&text));
                prop_assert_eq!(Needle::new(&text).matches(MatchKind::StartsWith, hay.as_bytes()), hay.starts_with(&text));
                prop_assert_eq!(Needle::new(&text).matches(MatchKind::EndsWith, hay.as_bytes()), hay.ends_with(&text));
            }
        }
    }
}
