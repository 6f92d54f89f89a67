//! Finding messages without a group: the next batch of a queue wherever retention let it begin, and the messages with a key.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_protocol::ids::{Position, QueueId, QueueOffset};

use super::{LogReader, Shared};
use crate::error::LogError;
use crate::index::BatchPlace;
use crate::keys::{KeyFilter, KeyedRange};
use crate::limits::KEY_FILTERS_BYTES_MAX;
use crate::segment::Segment;

/// The filters of sealed segments that somebody asked about, by base. Once the bound is reached no more are kept: a search goes through all
/// segments in turn, and what was used last is not what is used next.
#[derive(Debug, Default)]
pub(crate) struct KeyFilters {
    kept: BTreeMap<Position, Arc<KeyFilter>>,
    bytes: usize,
}

impl KeyFilters {
    fn has_room_for(&self, keys: u32) -> bool {
        self.bytes + KeyFilter::bytes_of(keys as usize) <= KEY_FILTERS_BYTES_MAX
    }

    fn keep(&mut self, base: Position, filter: Arc<KeyFilter>) {
        self.bytes += filter.bytes().len();
        if let Some(before) = self.kept.insert(base, filter) {
            self.bytes -= before.bytes().len();
        }
    }

    pub(super) fn forget(&mut self, base: Position) {
        if let Some(filter) = self.kept.remove(&base) {
            self.bytes -= filter.bytes().len();
        }
    }
}

impl Shared {
    /// Whether a sealed segment's keys must be looked at for one with this hash.
    fn may_have_key(&self, segment: &Segment, hash: u32) -> Result<bool, LogError> {
        if segment.keys == 0 {
            return Ok(false);
        }
        if let Some(filter) = self.key_filters().kept.get(&segment.base) {
            return Ok(filter.may_hold(hash));
        }
        if !self.key_filters().has_room_for(segment.keys) || self.index_kept(segment).is_some() {
            return Ok(true);
        }
        let Some(sidecar) = self.sidecar(segment)? else { return Ok(false) };
        let filter = Arc::new(sidecar.key_filter()?);
        // Retention forgets what it has taken out of the view: nothing is kept after that.
        let view = self.view();
        if view.sealed.iter().any(|other| other.base == segment.base) {
            self.key_filters().keep(segment.base, Arc::clone(&filter));
        }
        Ok(filter.may_hold(hash))
    }

    fn keyed(&self, segment: &Segment, wanted: &KeyedRange, out: &mut Vec<QueueOffset>) -> Result<(), LogError> {
        if let Some(index) = self.index_kept(segment) {
            out.extend(index.keys.find(wanted));
            return Ok(());
        }
        match self.sidecar(segment)? {
            Some(sidecar) => sidecar.keyed(wanted, out),
            None => Ok(()),
        }
    }
}

impl LogReader {
    /// The first stored batch of `queue` that holds offsets from `from` up to, not including, `to`.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn first_batch(&self, queue: QueueId, from: QueueOffset, to: QueueOffset) -> Result<Option<BatchPlace>, LogError> {
        let mut first = None;
        self.each_part(queue, from, to, |part| {
            first = part.between(from, to).first().copied();
            first.is_none()
        })?;
        Ok(first)
    }

    /// The offsets, ascending, of messages that have a key with this hash; another key may have the same. Fewer than are wanted are all there are.
    /// Reads nothing of a segment but its keys, and almost never those of a segment without such a key.
    ///
    /// # Errors
    /// A sidecar that cannot be read.
    pub fn keyed(&self, wanted: &KeyedRange) -> Result<Vec<QueueOffset>, LogError> {
        let (sealed, newest) = {
            let view = self.shared.view();
            (view.sealed.clone(), view.active_index.keys.find(wanted))
        };
        let mut found = Vec::new();
        for segment in &sealed {
            let beyond = match segment.span(wanted.queue) {
                Ok(span) => span.is_none_or(|span| span.end <= wanted.from || span.first >= wanted.to),
                Err(_) => false,
            };
            if !beyond && self.shared.may_have_key(segment, wanted.hash)? {
                self.shared.keyed(segment, wanted, &mut found)?;
            }
            if found.len() >= wanted.max {
                break;
            }
        }
        found.extend(newest);
        found.truncate(wanted.max);
        Ok(found)
    }
}
