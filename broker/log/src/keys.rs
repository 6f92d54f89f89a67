//! Which messages have which keys: their hashes, sorted a little at a time while a segment is written, and a filter over those of a sealed one.

use sluice_protocol::ids::{QueueId, QueueOffset};

use crate::limits::{KEY_FILTER_BITS, KEYS_UNSORTED_MAX};

/// Bits that a key sets in a filter: with ten bits a key one other key in a hundred looks as if it were there.
const PROBES: u64 = 6;

/// A message has a key with this hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyEntry {
    pub(crate) hash: u32,
    pub(crate) queue: QueueId,
    pub(crate) offset: QueueOffset,
}

/// Which messages of a queue are looked for by a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedRange {
    /// The hash of the key, as [`sluice_protocol::batch::key_hash`] has it.
    pub hash: u32,
    /// The queue.
    pub queue: QueueId,
    /// The first offset.
    pub from: QueueOffset,
    /// One past the last.
    pub to: QueueOffset,
    /// The most that are wanted; at least 1.
    pub max: usize,
}

impl KeyedRange {
    pub(crate) fn first(&self) -> KeyEntry {
        self.at(self.from)
    }

    pub(crate) fn end(&self) -> KeyEntry {
        self.at(self.to)
    }

    fn at(&self, offset: QueueOffset) -> KeyEntry {
        KeyEntry {
            hash: self.hash,
            queue: self.queue,
            offset,
        }
    }

    /// Of entries that are sorted, those that are wanted.
    pub(crate) fn among<'a>(&self, sorted: &'a [KeyEntry]) -> &'a [KeyEntry] {
        let first = sorted.partition_point(|entry| *entry < self.first());
        let end = sorted.partition_point(|entry| *entry < self.end()).max(first);
        &sorted[first..end]
    }
}

/// The keys of one segment. While it is written the newest entries are unsorted; the others are in a few sorted runs, each at least twice as long
/// as the next, so that an entry is moved seldom and found fast.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyIndex {
    runs: Vec<Vec<KeyEntry>>,
    newest: Vec<KeyEntry>,
}

impl PartialEq for KeyIndex {
    fn eq(&self, other: &Self) -> bool {
        self.sorted() == other.sorted()
    }
}

impl Eq for KeyIndex {}

impl KeyIndex {
    /// The index of these entries, which ascend.
    pub(crate) fn of_sorted(entries: Vec<KeyEntry>) -> Self {
        Self {
            runs: vec![entries],
            newest: Vec::new(),
        }
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.runs.iter().map(Vec::len).sum::<usize>() + self.newest.len()
    }

    /// Adds an entry.
    pub(crate) fn push(&mut self, entry: KeyEntry) {
        self.newest.push(entry);
        if self.newest.len() >= KEYS_UNSORTED_MAX {
            self.sort_newest();
        }
    }

    fn sort_newest(&mut self) {
        let mut run = std::mem::replace(&mut self.newest, Vec::with_capacity(KEYS_UNSORTED_MAX));
        run.sort_unstable();
        while let Some(mut before) = self.runs.pop_if(|before| before.len() < 2 * run.len()) {
            before.append(&mut run);
            // Of two sorted parts this is a merge.
            before.sort();
            run = before;
        }
        self.runs.push(run);
    }

    /// All entries, ascending.
    pub(crate) fn sorted(&self) -> Vec<KeyEntry> {
        let mut all: Vec<KeyEntry> = self.runs.iter().flatten().chain(&self.newest).copied().collect();
        all.sort();
        all
    }

    /// The offsets that are wanted, ascending, each once.
    pub(crate) fn find(&self, wanted: &KeyedRange) -> Vec<QueueOffset> {
        let among = |entry: &&KeyEntry| (wanted.first()..wanted.end()).contains(*entry);
        let mut offsets: Vec<QueueOffset> = self.newest.iter().filter(among).map(|entry| entry.offset).collect();
        for run in &self.runs {
            // A message may have a key twice, or two of one hash: each counts once, or fewer than are wanted would not be all there are.
            let each = wanted.among(run).chunk_by(|one, other| one.offset == other.offset);
            offsets.extend(each.filter_map(|same| same.first()).map(|entry| entry.offset).take(wanted.max));
        }
        offsets.sort_unstable();
        offsets.dedup();
        offsets.truncate(wanted.max);
        offsets
    }
}

/// Tells of almost every key that a segment does not have that it does not (Bloom, "Space/time trade-offs in hash coding with allowable errors").
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyFilter(Vec<u8>);

impl KeyFilter {
    /// The size of the filter of so many keys.
    pub(crate) fn bytes_of(keys: usize) -> usize {
        (keys * KEY_FILTER_BITS).div_ceil(64) * 8
    }

    /// The filter of these keys.
    pub(crate) fn of(keys: &[KeyEntry]) -> Self {
        let mut filter = Self(vec![0; Self::bytes_of(keys.len())]);
        for key in keys {
            for bit in filter.bits(key.hash) {
                filter.0[bit / 8] |= 1 << (bit % 8);
            }
        }
        filter
    }

    /// The filter that a file holds.
    pub(crate) fn read(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a key with this hash may be there.
    pub(crate) fn may_hold(&self, hash: u32) -> bool {
        !self.0.is_empty() && self.bits(hash).all(|bit| self.0[bit / 8] >> (bit % 8) & 1 == 1)
    }

    /// Double hashing (Kirsch and Mitzenmacher, "Less hashing, same performance"). The hashes of keys that are alike differ in few bits: they are mixed
    /// first.
    fn bits(&self, hash: u32) -> impl Iterator<Item = usize> + use<> {
        let mixed = (u64::from(hash) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (first, step) = (mixed >> 32, (mixed & 0xffff_ffff) | 1);
        let bits = self.0.len() as u64 * 8;
        (0..PROBES).map(move |probe| ((((first + probe * step) & 0xffff_ffff) * bits) >> 32) as usize)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_protocol::ids::{QueueIndex, TopicId};

    use super::*;

    fn entry(hash: u32, index: u16, offset: u64) -> KeyEntry {
        let queue = QueueId {
            topic: TopicId(5),
            index: QueueIndex(index),
        };
        KeyEntry {
            hash,
            queue,
            offset: QueueOffset(offset),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_was_pushed_is_found_and_nothing_else(
            entries in prop::collection::vec((0_u32..4, 0_u16..3, 0_u64..2_000), 0..6_000),
            (from, to, max) in (0_u64..2_000, 0_u64..2_000, 1_usize..400),
        ) {
            let mut index = KeyIndex::default();
            let mut all: Vec<KeyEntry> = entries.iter().map(|&(hash, queue, offset)| entry(hash, queue, offset)).collect();
            all.iter().for_each(|entry| index.push(*entry));
            all.sort();
            prop_assert_eq!(index.len(), all.len());
            prop_assert_eq!(&index.sorted(), &all);
            prop_assert_eq!(&KeyIndex::of_sorted(all.clone()), &index);
            let wanted = KeyedRange { hash: 2, queue: entry(0, 1, 0).queue, from: QueueOffset(from), to: QueueOffset(to), max };
            let mut expected: Vec<QueueOffset> = all
                .iter()
                .filter(|entry| entry.hash == 2 && entry.queue == wanted.queue && (from..to).contains(&entry.offset.0))
                .map(|entry| entry.offset)
                .collect();
            expected.dedup();
            expected.truncate(max);
            prop_assert_eq!(index.find(&wanted), expected);
        }

        #[test]
        fn a_filter_holds_every_key_it_was_made_of(hashes in prop::collection::vec(any::<u32>(), 0..500)) {
            let entries: Vec<KeyEntry> = hashes.iter().map(|hash| entry(*hash, 0, 0)).collect();
            let filter = KeyFilter::of(&entries);
            prop_assert_eq!(filter.bytes().len(), KeyFilter::bytes_of(entries.len()));
            prop_assert!(hashes.iter().all(|hash| filter.may_hold(*hash)));
        }
    }

    #[test]
    fn a_filter_seldom_holds_a_key_it_was_not_made_of() {
        let hash = |key: u32| sluice_protocol::batch::key_hash(format!("order-{key}").as_bytes());
        let entries: Vec<KeyEntry> = (0..20_000).map(|key| entry(hash(key), 0, 0)).collect();
        let filter = KeyFilter::of(&entries);
        let wrong = (20_000..40_000).filter(|key| filter.may_hold(hash(*key))).count();
        assert!(wrong < 600, "{wrong} of 20,000");
    }
}
