//! One message's attributes: reading a row in place.

use std::ops::Range;
use std::{slice, str};

use super::attributes::Attributes;
use super::layout::{ROW_FIXED_BYTES, Run, group_hash};
use super::names::NameIndex;
use crate::ids::{MessageId, ProducerId, Sequence};
use crate::limits::BORN_MS_MAX;

// Where the fields of a row's fixed part are.
pub(super) const BODY_OFFSET_AT: usize = 8;
pub(super) const BODY_LENGTH_AT: usize = 12;
pub(super) const BODY_CRC_AT: usize = 16;
pub(super) const BORN_LOW_AT: usize = 20;
pub(super) const DELIVER_AT_AT: usize = 24;
pub(super) const PROPERTY_COUNT_AT: usize = 34;
pub(super) const PRIORITY_AT: usize = 35;
pub(super) const BORN_HIGH_AT: usize = 38;
/// The kind of the extension that holds the message group. A kind is never used again for another.
pub(super) const EXTENSION_GROUP: u8 = 1;
/// The kind of the extension that holds the id that the producer gave the message: the scope, u64, and the id.
pub(super) const EXTENSION_GIVEN_ID: u8 = 2;
/// The kind of the extension that holds the time to live in milliseconds, u64.
pub(super) const EXTENSION_TTL: u8 = 3;
/// The flag of a message whose time of delivery counts from its admission: the broker, whose clock decides, writes the time in its place.
pub const FLAG_DELIVER_AFTER: u16 = 1;
/// The flag of a message that is delivered only if it is committed.
pub const FLAG_PREPARED: u16 = 2;
/// The flag of a message that has an id of its own, so that nobody looks for the id of one that has none.
pub const FLAG_GIVEN_ID: u16 = 4;
pub(super) const FLAGS_AT: usize = 36;
/// Bytes of a property's head: name u16, value length u16.
pub(super) const HEAD_BYTES: usize = 4;

/// The id that a producer gave a message itself. Of all messages of a topic with the same scope and id that are sent within ten minutes
/// the first is stored, and the others are answered as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GivenId<'a> {
    /// Whose ids these are: the same number for all producers that count on each other's ids, 0 for the sending producer's own.
    pub scope: u64,
    /// The id, 1 to 128 bytes.
    pub id: &'a str,
}

/// One message of a batch without its body.
///
/// The fixed part: row length u32, tag hash u32, body offset u32, body length u32, body CRC-32C u32, low half of the birth date
/// u32, deliver-at i64, tag length u8, key count u8, property count u8, priority u8, flags u16, high part of the birth date i16.
/// Then the tag, the keys' lengths (u8 each), the keys, the properties' heads (name u16, value length u16), the values one after
/// the other, and extensions (kind u8, length u16, bytes), of which unknown ones are skipped.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    attributes: &'a Attributes,
    index: u32,
    fixed: &'a [u8; ROW_FIXED_BYTES],
    /// What follows the fixed part.
    rest: &'a [u8],
}

impl<'a> Row<'a> {
    #[inline]
    pub(super) fn new(attributes: &'a Attributes, index: u32, bytes: &'a [u8]) -> Option<Self> {
        let (fixed, rest) = bytes.split_first_chunk()?;
        Some(Self {
            attributes,
            index,
            fixed,
            rest,
        })
    }

    #[inline]
    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes([self.fixed[at], self.fixed[at + 1], self.fixed[at + 2], self.fixed[at + 3]])
    }

    /// Which row of the batch this is, from 0.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Bytes of the row: the size of the message's attributes.
    pub fn attribute_bytes(&self) -> usize {
        ROW_FIXED_BYTES + self.rest.len()
    }

    /// The hash of the tag ([`super::tag_hash`]), 0 without a tag.
    #[inline]
    pub fn tag_hash(&self) -> u32 {
        self.u32_at(4)
    }

    /// The tag, if there is one.
    #[inline]
    pub fn tag_bytes(&self) -> Option<&'a [u8]> {
        match self.tag_length() {
            0 => None,
            length => self.rest.get(..length),
        }
    }

    /// The tag as text, if there is one.
    pub fn tag(&self) -> Option<&'a str> {
        self.tag_bytes().and_then(|tag| str::from_utf8(tag).ok())
    }

    /// The keys, in the producer's order.
    pub fn keys(&self) -> Keys<'a> {
        let after_tag = self.rest.get(self.tag_length()..).unwrap_or_default();
        let (lengths, texts) = after_tag.split_at_checked(self.key_count()).unwrap_or_default();
        Keys {
            lengths: lengths.iter(),
            texts,
        }
    }

    /// The properties, in the producer's order: the name's number within the batch, and the value.
    #[inline]
    pub fn properties(&self) -> Properties<'a> {
        let heads = self.rest.get(self.heads_at()..).unwrap_or_default();
        let (heads, values) = heads.split_at_checked(self.property_count() * HEAD_BYTES).unwrap_or_default();
        Properties {
            heads: heads.as_chunks().0.iter(),
            values,
        }
    }

    /// The value of the property of this name, if the message has it.
    pub fn property(&self, name: &str) -> Option<&'a [u8]> {
        let wanted = self.attributes.name_index(name)?;
        self.properties().find(|(name, _)| *name == wanted).map(|(_, value)| value)
    }

    /// How many properties there are.
    pub fn property_count(&self) -> usize {
        usize::from(self.fixed[PROPERTY_COUNT_AT])
    }

    /// How many keys there are.
    pub fn key_count(&self) -> usize {
        usize::from(self.fixed[33])
    }

    /// Where the body is, counted from the first body.
    #[inline]
    pub fn body_range(&self) -> Range<usize> {
        let start = self.u32_at(BODY_OFFSET_AT) as usize;
        start..start + self.body_len()
    }

    /// Bytes of the body.
    #[inline]
    pub fn body_len(&self) -> usize {
        self.u32_at(BODY_LENGTH_AT) as usize
    }

    /// CRC-32C of the body.
    pub fn body_crc(&self) -> u32 {
        self.u32_at(BODY_CRC_AT)
    }

    /// When the producer made the message: wall clock, milliseconds since 1970.
    pub fn born_ms(&self) -> i64 {
        let high = i16::from_le_bytes([self.fixed[BORN_HIGH_AT], self.fixed[BORN_HIGH_AT + 1]]);
        let delta = i64::from(high) << 32 | i64::from(self.u32_at(BORN_LOW_AT));
        self.attributes.base_ms().saturating_add(delta)
    }

    /// When the message is to be delivered: wall clock, milliseconds since 1970; 0 for at once. Where [`FLAG_DELIVER_AFTER`] is set, which
    /// no stored message has, how long after it was admitted.
    pub fn deliver_at_ms(&self) -> i64 {
        deliver_at_of(self.fixed)
    }

    /// The priority; 0 is the ordinary one.
    pub fn priority(&self) -> u8 {
        self.fixed[PRIORITY_AT]
    }

    /// Whether the message was sent to be committed or rolled back.
    pub fn is_prepared(&self) -> bool {
        self.flags() & FLAG_PREPARED != 0
    }

    /// The flags: [`FLAG_DELIVER_AFTER`], [`FLAG_PREPARED`] and [`FLAG_GIVEN_ID`], and no other so far.
    pub fn flags(&self) -> u16 {
        u16::from_le_bytes([self.fixed[FLAGS_AT], self.fixed[FLAGS_AT + 1]])
    }

    /// The message group as bytes, if the message has one.
    pub fn group_bytes(&self) -> Option<&'a [u8]> {
        self.extension(EXTENSION_GROUP)
    }

    /// The message group, if the message has one.
    pub fn group(&self) -> Option<&'a str> {
        self.group_bytes().and_then(|group| str::from_utf8(group).ok())
    }

    /// The hash of the message group ([`super::group_hash`]), 0 without one.
    pub fn group_hash(&self) -> u64 {
        self.group_bytes().map_or(0, group_hash)
    }

    /// The id that its producer gave the message, if it gave it one.
    pub fn given_id(&self) -> Option<GivenId<'a>> {
        let is_there = self.flags() & FLAG_GIVEN_ID != 0;
        is_there.then(|| self.given_id_bytes())?.and_then(given_id_of)
    }

    /// The id that its producer gave the message as bytes, the scope included.
    pub(super) fn given_id_bytes(&self) -> Option<&'a [u8]> {
        self.extension(EXTENSION_GIVEN_ID)
    }

    /// How long the message lives once it is stored in its queue, in milliseconds; 0 without an end of its own.
    pub fn ttl_ms(&self) -> u64 {
        self.ttl_bytes().and_then(ttl_of).unwrap_or(0)
    }

    /// The time to live as bytes, if the message has one.
    pub(super) fn ttl_bytes(&self) -> Option<&'a [u8]> {
        self.extension(EXTENSION_TTL)
    }

    /// The first extension of a kind.
    fn extension(&self, kind: u8) -> Option<&'a [u8]> {
        each_extension(self.extensions())
            .find(|(found, _)| *found == kind)
            .map(|(_, bytes)| bytes)
    }

    /// Whether the message has extensions of these kinds.
    pub(super) fn has_extensions<const N: usize>(&self, kinds: [u8; N]) -> [bool; N] {
        let mut found = [false; N];
        for (kind, _) in each_extension(self.extensions()) {
            for (nth, wanted) in kinds.iter().enumerate() {
                found[nth] |= *wanted == kind;
            }
        }
        found
    }

    /// The producer that sent the message.
    pub fn producer(&self) -> ProducerId {
        self.run().0.producer
    }

    /// The number that its producer gave the message.
    pub fn sequence(&self) -> Sequence {
        let (run, first) = self.run();
        Sequence(run.first_sequence.0 + u64::from(self.index - first))
    }

    /// The identity of the message.
    pub fn message_id(&self) -> MessageId {
        MessageId::new(self.producer(), self.sequence())
    }

    /// Row number of the run's first row, and the run.
    fn run(&self) -> (Run, u32) {
        self.attributes.run_of(self.index)
    }

    fn tag_length(&self) -> usize {
        usize::from(self.fixed[32])
    }

    /// Where the heads of the properties begin in `rest`.
    #[inline]
    fn heads_at(&self) -> usize {
        let keys_at = self.tag_length();
        let texts_at = keys_at + self.key_count();
        let lengths = self.rest.get(keys_at..texts_at).unwrap_or_default();
        texts_at + lengths.iter().map(|&length| usize::from(length)).sum::<usize>()
    }

    /// Where the heads of the properties begin within the row, and the whole row.
    pub(super) fn parts(&self) -> (usize, [&'a [u8]; 2]) {
        (ROW_FIXED_BYTES + self.heads_at(), [self.fixed, self.rest])
    }

    /// The extensions, as they are.
    pub(super) fn extensions(&self) -> &'a [u8] {
        let mut properties = self.properties();
        properties.by_ref().for_each(drop);
        properties.values
    }

    /// Whether the inside of the row adds up: all that the accessors rely on, but for texts and the body.
    pub(super) fn is_sound(&self, names: u16) -> bool {
        let heads_at = self.heads_at();
        let Some(heads) = self.rest.get(heads_at..heads_at + self.property_count() * HEAD_BYTES) else {
            return false;
        };
        let mut end = heads_at + heads.len();
        for &[n0, n1, l0, l1] in heads.as_chunks().0 {
            if u16::from_le_bytes([n0, n1]) >= names {
                return false;
            }
            end += usize::from(u16::from_le_bytes([l0, l1]));
        }
        let Some(mut extensions) = self.rest.get(end..) else { return false };
        while let Some((&[_, l0, l1], rest)) = extensions.split_first_chunk() {
            let Some(rest) = rest.get(usize::from(u16::from_le_bytes([l0, l1]))..) else {
                return false;
            };
            extensions = rest;
        }
        let born = -BORN_MS_MAX..=BORN_MS_MAX;
        extensions.is_empty() && (self.tag_length() == 0) == (self.tag_hash() == 0) && born.contains(&self.born_ms())
    }
}

/// The time to live that an extension holds, if it can be one.
pub(super) fn ttl_of(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// The id that an extension holds, if it can be one.
pub(super) fn given_id_of(bytes: &[u8]) -> Option<GivenId<'_>> {
    let (scope, id) = bytes.split_first_chunk()?;
    Some(GivenId {
        scope: u64::from_le_bytes(*scope),
        id: str::from_utf8(id).ok()?,
    })
}

/// Extensions one by one: the kind and the bytes of each.
pub(super) fn each_extension(mut extensions: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let (&[kind, l0, l1], rest) = extensions.split_first_chunk()?;
        let (bytes, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([l0, l1])))?;
        extensions = rest;
        Some((kind, bytes))
    })
}

/// The time of delivery in a row's fixed part.
#[inline]
pub(super) fn deliver_at_of(fixed: &[u8; ROW_FIXED_BYTES]) -> i64 {
    let at = |place: usize| fixed[DELIVER_AT_AT + place];
    i64::from_le_bytes([at(0), at(1), at(2), at(3), at(4), at(5), at(6), at(7)])
}

/// The keys of a message.
#[derive(Clone, Debug)]
pub struct Keys<'a> {
    lengths: slice::Iter<'a, u8>,
    texts: &'a [u8],
}

impl<'a> Iterator for Keys<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.lengths.next()?);
        let (key, rest) = self.texts.split_at_checked(length)?;
        self.texts = rest;
        Some(key)
    }
}

/// The properties of a message: numbers of names, and values.
#[derive(Clone, Debug)]
pub struct Properties<'a> {
    heads: slice::Iter<'a, [u8; HEAD_BYTES]>,
    values: &'a [u8],
}

impl<'a> Properties<'a> {
    /// All values one after the other, then the extensions.
    pub(super) fn values(&self) -> &'a [u8] {
        self.values
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = (NameIndex, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(NameIndex, &'a [u8])> {
        let &[n0, n1, l0, l1] = self.heads.next()?;
        let (value, rest) = self.values.split_at_checked(usize::from(u16::from_le_bytes([l0, l1])))?;
        self.values = rest;
        Some((NameIndex(u16::from_le_bytes([n0, n1])), value))
    }
}
