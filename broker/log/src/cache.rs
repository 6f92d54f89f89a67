//! Bounded caches: the least recently used goes first, and of the tail the oldest.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sluice_protocol::ids::Position;

use crate::planted::{self, Bug};

/// Things by name, bounded by the sum of their weights.
pub(crate) struct Recent<K, V> {
    entries: BTreeMap<K, Kept<V>>,
    /// Which was used when, the longest ago first.
    used: BTreeMap<u64, K>,
    uses: u64,
    weight: usize,
    weight_max: usize,
}

struct Kept<V> {
    used: u64,
    weight: usize,
    value: V,
}

impl<K: Ord + Clone, V: Clone> Recent<K, V> {
    pub(crate) fn new(weight_max: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            used: BTreeMap::new(),
            uses: 0,
            weight: 0,
            weight_max,
        }
    }

    pub(crate) fn get(&mut self, key: &K) -> Option<V> {
        let kept = self.entries.get_mut(key)?;
        self.used.remove(&kept.used);
        self.uses += 1;
        kept.used = self.uses;
        self.used.insert(self.uses, key.clone());
        Some(kept.value.clone())
    }

    /// Keeps a value; one that is heavier than the bound is the only one kept.
    pub(crate) fn put(&mut self, key: K, weight: usize, value: V) {
        self.remove(&key);
        while self.weight + weight > self.weight_max {
            let Some((_, oldest)) = self.used.pop_first() else { break };
            if let Some(gone) = self.entries.remove(&oldest) {
                self.weight -= gone.weight;
            }
        }
        self.uses += 1;
        self.weight += weight;
        self.used.insert(self.uses, key.clone());
        let used = self.uses;
        self.entries.insert(key, Kept { used, weight, value });
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(gone) = self.entries.remove(key) {
            self.used.remove(&gone.used);
            self.weight -= gone.weight;
        }
    }

    /// Removes all whose name is in a range.
    pub(crate) fn remove_range(&mut self, keys: impl std::ops::RangeBounds<K>) {
        let keys: Vec<K> = self.entries.range(keys).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.remove(key));
    }
}

/// The newest batches, so that live traffic is judged and delivered without reading.
pub(crate) struct Tail {
    batches: VecDeque<(Position, Bytes)>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            batches: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    /// Adds the batch at `position`, greater than those before.
    pub(crate) fn push(&mut self, position: Position, batch: Bytes) {
        self.bytes += batch.len();
        self.batches.push_back((position, batch));
        while self.bytes > self.bytes_max {
            let Some((_, gone)) = self.batches.pop_front() else { break };
            self.bytes -= gone.len();
        }
    }

    pub(crate) fn get(&self, position: Position) -> Option<Bytes> {
        let at = self.batches.binary_search_by_key(&position, |batch| batch.0).ok()?;
        let at = at - usize::from(planted::is(Bug::NeighbourRead) && at % 8 == 7);
        Some(self.batches[at].1.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut recent = Recent::new(3);
        for key in [1, 2, 3] {
            recent.put(key, 1, key * 10);
        }
        assert_eq!(recent.get(&1), Some(10));
        recent.put(4, 1, 40);
        assert_eq!([1, 2, 3, 4].map(|key| recent.get(&key)), [Some(10), None, Some(30), Some(40)]);
        recent.put(5, 9, 50);
        assert_eq!(
            [1, 3, 4, 5].map(|key| recent.get(&key)),
            [None, None, None, Some(50)],
            "too heavy: alone"
        );
        recent.put(6, 1, 60);
        assert_eq!([5, 6].map(|key| recent.get(&key)), [None, Some(60)]);
        recent.remove_range(0..9);
        assert_eq!((recent.get(&6), recent.weight), (None, 0));
    }
}
