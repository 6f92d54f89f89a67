//! Offsets kept as ranges: a set of them, and a map from them to values that fall due at a time.

use std::collections::{BTreeMap, BTreeSet};

use sluice_log::record::OffsetRange;
use sluice_protocol::ids::QueueOffset;

/// The offsets from `first` up to, not including, `end`.
pub(crate) fn range(first: u64, end: u64) -> OffsetRange {
    OffsetRange {
        first: QueueOffset(first),
        end: QueueOffset(end),
    }
}

/// How many offsets a range holds.
pub(crate) fn len(range: OffsetRange) -> u64 {
    range.end.0 - range.first.0
}

/// Appends a range, joined to the last one when it goes on from there.
pub(crate) fn push(ranges: &mut Vec<OffsetRange>, next: OffsetRange) {
    match ranges.last_mut() {
        Some(last) if last.end == next.first => last.end = next.end,
        Some(_) | None => ranges.push(next),
    }
}

/// A set of offsets as ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffsetSet {
    ranges: BTreeMap<u64, u64>,
    count: u64,
}

impl OffsetSet {
    /// How many offsets.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = OffsetRange> + '_ {
        self.ranges.iter().map(|(&first, &end)| range(first, end))
    }

    /// Whether `offset` is in the set.
    pub fn contains(&self, offset: u64) -> bool {
        self.ranges.range(..=offset).next_back().is_some_and(|(_, &end)| offset < end)
    }

    /// One past the highest offset; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, &end)| end)
    }

    /// The lowest offset.
    pub fn first(&self) -> Option<u64> {
        self.ranges.first_key_value().map(|(&first, _)| first)
    }

    /// The parts of the set that lie within `within`, ascending.
    pub fn within(&self, within: OffsetRange) -> impl Iterator<Item = OffsetRange> + '_ {
        let before = self.ranges.range(..within.first.0).next_back();
        let pieces = before
            .into_iter()
            .chain(self.ranges.range(within.first.0..within.end.0.max(within.first.0)));
        pieces.filter_map(move |(&first, &end)| {
            let (first, end) = (first.max(within.first.0), end.min(within.end.0));
            (first < end).then(|| range(first, end))
        })
    }

    /// Removes every offset of a range.
    pub fn remove(&mut self, first: u64, end: u64) {
        let pieces: Vec<OffsetRange> = self.within(range(first, end.max(first))).collect();
        for piece in pieces {
            let (start, stop) = self
                .ranges
                .range(..=piece.first.0)
                .next_back()
                .map(|(&start, &stop)| (start, stop))
                .expect("a piece lies within a range");
            self.ranges.remove(&start);
            self.count -= len(piece);
            for (first, end) in [(start, piece.first.0), (piece.end.0, stop)] {
                if first < end {
                    self.ranges.insert(first, end);
                }
            }
        }
    }

    /// Adds every offset of a range.
    pub fn insert(&mut self, mut first: u64, mut end: u64) {
        if first >= end {
            return;
        }
        let touching: Vec<(u64, u64)> = self
            .ranges
            .range(..=end)
            .rev()
            .take_while(|(_, stored_end)| **stored_end >= first)
            .map(|(&f, &e)| (f, e))
            .collect();
        for (stored_first, stored_end) in touching {
            self.ranges.remove(&stored_first);
            self.count -= stored_end - stored_first;
            first = first.min(stored_first);
            end = end.max(stored_end);
        }
        self.ranges.insert(first, end);
        self.count += end - first;
    }

    /// Drops every offset below `bound`.
    pub fn drop_below(&mut self, bound: u64) {
        while let Some((&first, &end)) = self.ranges.first_key_value() {
            if first >= bound {
                break;
            }
            self.ranges.remove(&first);
            self.count -= end.min(bound) - first;
            if end > bound {
                self.ranges.insert(bound, end);
            }
        }
    }

    /// The parts of `within` that are not in the set, ascending.
    pub fn gaps(&self, within: OffsetRange) -> Vec<OffsetRange> {
        let mut gaps = Vec::new();
        let mut from = within.first.0;
        let before = self.ranges.range(..within.first.0).next_back();
        for (&first, &end) in before.into_iter().chain(self.ranges.range(within.first.0..within.end.0)) {
            if first > from {
                gaps.push(range(from, first));
            }
            from = from.max(end);
        }
        if from < within.end.0 {
            gaps.push(range(from, within.end.0));
        }
        gaps
    }
}

/// A value that falls due.
pub trait Timed {
    /// When, in milliseconds on the monotonic clock.
    fn due_mono_ms(&self) -> u64;
}

/// Ranges of offsets, each with a value, ordered by offset and by the time at which they fall due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spans<V> {
    spans: BTreeMap<u64, (u64, V)>,
    by_time: BTreeSet<(u64, u64)>,
    count: u64,
}

impl<V> Default for Spans<V> {
    fn default() -> Self {
        Self {
            spans: BTreeMap::new(),
            by_time: BTreeSet::new(),
            count: 0,
        }
    }
}

impl<V: Timed + Clone> Spans<V> {
    /// How many offsets.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many ranges.
    pub fn ranges(&self) -> usize {
        self.spans.len()
    }

    /// The lowest offset.
    pub fn first(&self) -> Option<u64> {
        self.spans.first_key_value().map(|(&first, _)| first)
    }

    /// One past the highest offset; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.spans.last_key_value().map_or(0, |(_, (end, _))| *end)
    }

    /// The earliest time at which one falls due.
    pub fn earliest(&self) -> Option<u64> {
        self.by_time.first().map(|&(time, _)| time)
    }

    /// The latest time at which one falls due.
    pub fn latest(&self) -> Option<u64> {
        self.by_time.last().map(|&(time, _)| time)
    }

    /// The value at an offset.
    pub fn get(&self, offset: u64) -> Option<&V> {
        let (_, (end, value)) = self.spans.range(..=offset).next_back()?;
        (offset < *end).then_some(value)
    }

    /// All ranges, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (OffsetRange, &V)> {
        self.spans.iter().map(|(&first, (end, value))| (range(first, *end), value))
    }

    /// The ranges that fall due from `from_ms` to `to_ms`, both included, by time and then offset.
    pub fn due(&self, from_ms: u64, to_ms: u64) -> impl Iterator<Item = (OffsetRange, &V)> {
        self.by_time.range((from_ms, 0)..=(to_ms, u64::MAX)).filter_map(|&(_, first)| {
            let (end, value) = self.spans.get(&first)?;
            Some((range(first, *end), value))
        })
    }

    /// The pieces of stored ranges that lie within `within`, ascending.
    pub fn within(&self, within: OffsetRange) -> impl Iterator<Item = (OffsetRange, &V)> {
        let before = self.spans.range(..within.first.0).next_back();
        before
            .into_iter()
            .chain(self.spans.range(within.first.0..within.end.0.max(within.first.0)))
            .filter_map(move |(&first, (end, value))| {
                let piece = range(first.max(within.first.0), (*end).min(within.end.0).max(first.max(within.first.0)));
                (len(piece) > 0).then_some((piece, value))
            })
    }

    /// Stores a range; what was stored there before goes.
    pub fn insert(&mut self, offsets: OffsetRange, value: V) {
        if offsets.first >= offsets.end {
            return;
        }
        self.take(offsets, |_, _| {});
        self.insert_free(offsets.first.0, offsets.end.0, value);
    }

    /// Removes all that lies within `within`, and shows each piece removed.
    pub fn take(&mut self, within: OffsetRange, mut removed: impl FnMut(OffsetRange, &V)) {
        let (from, to) = (within.first.0, within.end.0);
        if from >= to {
            return;
        }
        let mut at = self
            .spans
            .range(..=from)
            .next_back()
            .filter(|(_, (end, _))| *end > from)
            .map(|(&first, _)| first);
        if at.is_none() {
            at = self.spans.range(from..to).next().map(|(&first, _)| first);
        }
        while let Some(first) = at {
            let Some((end, value)) = self.spans.remove(&first) else { break };
            self.by_time.remove(&(value.due_mono_ms(), first));
            self.count -= end - first;
            removed(range(first.max(from), end.min(to)), &value);
            if first < from {
                self.insert_free(first, from, value.clone());
            }
            if end > to {
                self.insert_free(to, end, value);
                break;
            }
            at = self.spans.range(end..to).next().map(|(&first, _)| first);
        }
    }

    fn insert_free(&mut self, first: u64, end: u64, value: V) {
        self.by_time.insert((value.due_mono_ms(), first));
        self.count += end - first;
        self.spans.insert(first, (end, value));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Eq)]
    struct At(u64);

    impl Timed for At {
        fn due_mono_ms(&self) -> u64 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn spans_are_a_map_from_offsets(steps in prop::collection::vec((0u64..60, 0u64..12, any::<bool>(), 0u64..5), 0..60)) {
            let mut spans = Spans::default();
            let mut model = BTreeMap::new();
            for (first, length, insert, time) in steps {
                let offsets = range(first, first + length);
                if insert {
                    spans.insert(offsets, At(time));
                    model.extend((first..first + length).map(|offset| (offset, time)));
                } else {
                    let mut taken = Vec::new();
                    spans.take(offsets, |piece, value: &At| taken.extend((piece.first.0..piece.end.0).map(|o| (o, value.0))));
                    let mut expected = Vec::new();
                    for offset in first..first + length {
                        expected.extend(model.remove(&offset).map(|time| (offset, time)));
                    }
                    prop_assert_eq!(taken, expected);
                }
                prop_assert_eq!(spans.count(), model.len() as u64);
                prop_assert_eq!(spans.earliest(), model.values().min().copied());
                let within: Vec<_> = spans.within(offsets).flat_map(|(r, v)| (r.first.0..r.end.0).map(move |o| (o, v.0))).collect();
                let expected: Vec<_> = model.range(first..first + length).map(|(&o, &t)| (o, t)).collect();
                prop_assert_eq!(within, expected);
                let due: u64 = spans.due(2, 3).map(|(r, _)| len(r)).sum();
                prop_assert_eq!(due, model.values().filter(|time| (2..=3).contains(*time)).count() as u64);
            }
        }

        #[test]
        fn an_offset_set_is_a_set(steps in prop::collection::vec((0u64..60, 0u64..12, 0u8..3), 0..40), from in 0u64..60, length in 0u64..30) {
            let mut set = OffsetSet::default();
            let mut model = BTreeSet::new();
            for (first, length, step) in steps {
                if step == 0 {
                    set.remove(first, first + length);
                    model.retain(|offset| !(first..first + length).contains(offset));
                } else if step == 1 {
                    set.insert(first, first + length);
                    model.extend(first..first + length);
                } else {
                    set.drop_below(first / 3);
                    model.retain(|&offset| offset >= first / 3);
                }
                prop_assert_eq!(set.count(), model.len() as u64);
                prop_assert_eq!((set.first(), set.end()), (model.first().copied(), model.last().map_or(0, |last| last + 1)));
                prop_assert!((0..80).all(|offset| set.contains(offset) == model.contains(&offset)));
            }
            let within: Vec<u64> = set.within(range(from, from + length)).flat_map(|r| r.first.0..r.end.0).collect();
            prop_assert_eq!(within, (from..from + length).filter(|offset| model.contains(offset)).collect::<Vec<_>>());
            let gaps: Vec<u64> = set.gaps(range(from, from + length)).iter().flat_map(|r| r.first.0..r.end.0).collect();
            prop_assert_eq!(gaps, (from..from + length).filter(|offset| !model.contains(offset)).collect::<Vec<_>>());
        }
    }
}
