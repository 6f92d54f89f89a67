//! Property names of one batch, each held once and known by its number.

use std::hash::{BuildHasher, RandomState};

/// The number of a property name within its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NameIndex(pub u16);

const FREE: u16 = u16::MAX;
const SLOTS_MIN: usize = 32;

/// Gives numbers to names in the order of their first use.
///
/// A table with open addressing: names are few and short, so this costs a fraction of a general map. The seed differs between
/// processes, so that nobody can choose names that collide; the numbers do not depend on it.
#[derive(Debug)]
pub(super) struct Interner {
    bytes: Vec<u8>,
    /// Where each name begins in `bytes` (after its length) and its length.
    places: Vec<(u32, u8)>,
    slots: Vec<u16>,
    seed: u64,
}

impl Interner {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            places: Vec::new(),
            slots: Vec::new(),
            seed: RandomState::new().hash_one(0u8) | 1,
        }
    }

    /// How many names there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// The names as a batch holds them.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.places.clear();
        self.slots.fill(FREE);
    }

    /// The number of `name`, giving it one if it has none. Names are at most 255 bytes long, and callers keep their count below
    /// that of 16 bits.
    pub(super) fn intern(&mut self, name: &[u8]) -> NameIndex {
        self.find(name).unwrap_or_else(|slot| self.insert(slot, name))
    }

    /// The number of `name`, or the free slot for it, to be used before anything else changes.
    pub(super) fn find(&mut self, name: &[u8]) -> Result<NameIndex, usize> {
        if self.places.len() * 2 >= self.slots.len() {
            self.grow();
        }
        let mask = self.slots.len() - 1;
        let mut slot = hash(self.seed, name) as usize & mask;
        loop {
            match self.slots[slot] {
                FREE => return Err(slot),
                index if self.name(index) == name => return Ok(NameIndex(index)),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// Gives `name` the next number, in the slot that [`Self::find`] returned.
    pub(super) fn insert(&mut self, slot: usize, name: &[u8]) -> NameIndex {
        let index = u16::try_from(self.places.len()).expect("callers bound the count of names");
        let length = u8::try_from(name.len()).expect("callers bound the length of names");
        self.bytes.push(length);
        self.places.push((self.bytes.len() as u32, length));
        self.bytes.extend_from_slice(name);
        self.slots[slot] = index;
        NameIndex(index)
    }

    fn name(&self, index: u16) -> &[u8] {
        let (at, length) = self.places[usize::from(index)];
        &self.bytes[at as usize..at as usize + usize::from(length)]
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(SLOTS_MIN);
        self.slots = vec![FREE; slots];
        for index in 0..self.places.len() {
            let mut slot = hash(self.seed, self.name(index as u16)) as usize & (slots - 1);
            while self.slots[slot] != FREE {
                slot = (slot + 1) & (slots - 1);
            }
            self.slots[slot] = index as u16;
        }
    }
}

/// A folded multiplication over eight bytes at a time, as wyhash does it.
fn hash(seed: u64, name: &[u8]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word) * u128::from(seed ^ ODD);
        (product as u64) ^ (product >> 64) as u64
    };
    let (words, rest) = name.as_chunks::<8>();
    let state = words
        .iter()
        .fold(seed ^ name.len() as u64, |state, word| fold(state, u64::from_le_bytes(*word)));
    let last = rest.iter().fold(0u64, |word, &byte| word << 8 | u64::from(byte));
    fold(fold(state, last), ODD)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_name_keeps_the_number_of_its_first_use(names in prop::collection::vec("[a-c]{1,12}", 0..300)) {
            let (mut interner, mut model) = (Interner::new(), BTreeMap::new());
            for name in &names {
                let next = model.len() as u16;
                let expected = *model.entry(name).or_insert(next);
                prop_assert_eq!(interner.intern(name.as_bytes()), NameIndex(expected));
            }
            prop_assert_eq!(interner.len(), model.len());
        }
    }
}
