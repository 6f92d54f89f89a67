//! Bounded caches: the least recently used goes first, and of the tail the oldest.

use std::collections::VecDeque;

use bytes::Bytes;
use sluice_protocol::ids::Position;

use crate::planted::{self, Bug};

/// A few things by number, bounded by the sum of their weights. Looked up one by one: there are at most some hundred.
pub(crate) struct Recent<V> {
    entries: VecDeque<(u64, usize, V)>,
    weight: usize,
    weight_max: usize,
}

impl<V: Clone> Recent<V> {
    pub(crate) fn new(weight_max: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            weight: 0,
            weight_max,
        }
    }

    pub(crate) fn get(&mut self, key: u64) -> Option<V> {
        let at = self.entries.iter().rposition(|entry| entry.0 == key)?;
        let entry = self.entries.remove(at)?;
        let value = entry.2.clone();
        self.entries.push_back(entry);
        Some(value)
    }

    /// Keeps a value; one that is heavier than the bound is the only one kept.
    pub(crate) fn put(&mut self, key: u64, weight: usize, value: V) {
        self.remove(key);
        while self.weight + weight > self.weight_max {
            let Some((_, gone, _)) = self.entries.pop_front() else { break };
            self.weight -= gone;
        }
        self.weight += weight;
        self.entries.push_back((key, weight, value));
    }

    pub(crate) fn remove(&mut self, key: u64) {
        if let Some(at) = self.entries.iter().position(|entry| entry.0 == key)
            && let Some((_, weight, _)) = self.entries.remove(at)
        {
            self.weight -= weight;
        }
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
