//! The part of a sidecar that says where groups dealt with messages.

use std::ops::Range;

use bytes::Bytes;
use sluice_protocol::ids::{GroupId, Position, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::{BLOCK_DEALINGS, DEALING_BYTES, Head, Sidecar, SidecarError, checksum_of, take_queue};
use crate::dealings::{Dealing, Dealings};
use crate::error::LogError;
use crate::record::CursorId;

/// What the fence of a block is known by: its first cursor, and where that one's first stretch begins.
pub(super) type DealingKey = (CursorId, Position);

pub(super) fn take_dealing_key(from: &mut Reader<'_>) -> Result<DealingKey, WireError> {
    let group = GroupId(from.u64()?);
    let queue = take_queue(from)?;
    Ok((CursorId { group, queue }, Position(from.u64()?)))
}

fn put_dealing_key(out: &mut Writer, (cursor, from): DealingKey) {
    out.u64(cursor.group.0)
        .u64(cursor.queue.topic.0)
        .u16(cursor.queue.index.0)
        .u64(from.0);
}

/// The dealings of a segment, and the fences of their blocks.
pub(super) fn encode(dealings: &Dealings) -> (Bytes, Bytes) {
    let (mut fences, mut out) = (Writer::new(), Writer::new());
    let all: Vec<_> = dealings.all().collect();
    for block in all.chunks(BLOCK_DEALINGS) {
        let mut entries = Writer::with_capacity(block.len() * DEALING_BYTES);
        for (cursor, dealing) in block {
            put_dealing_key(&mut entries, (*cursor, dealing.from));
            entries.u64(dealing.to.0).u64(dealing.first.0).u64(dealing.end.0);
        }
        let entries = entries.finish();
        put_dealing_key(&mut fences, (block[0].0, block[0].1.from));
        fences.u32(checksum_of(&[&entries]));
        out.bytes(&entries);
    }
    (out.finish(), fences.finish())
}

/// All of them, out of the whole sidecar.
pub(super) fn decode(head: &Head, bytes: &[u8]) -> Result<Dealings, SidecarError> {
    let (mut dealings, mut last) = (Dealings::default(), None);
    for nth in 0..head.header.dealing_blocks() {
        let place = head.dealing_block(nth);
        for (cursor, dealing) in head.block_dealings(nth, &bytes[place.start as usize..place.end as usize])? {
            let key = (cursor, dealing.from);
            if last.is_some_and(|last| last >= key) {
                return Err(WireError::Impossible("order").into());
            }
            last = Some(key);
            dealings.put_back(cursor, dealing);
        }
    }
    Ok(dealings)
}

impl Head {
    /// Where block `nth` of the dealings is.
    fn dealing_block(&self, nth: usize) -> Range<u64> {
        let entries = (self.header.dealings as usize - nth * BLOCK_DEALINGS).min(BLOCK_DEALINGS);
        let at = self.header.dealings_at() + (nth * BLOCK_DEALINGS * DEALING_BYTES) as u64;
        at..at + (entries * DEALING_BYTES) as u64
    }

    fn block_dealings(&self, nth: usize, bytes: &[u8]) -> Result<Vec<(CursorId, Dealing)>, SidecarError> {
        if self.dealings[nth].1 != checksum_of(&[bytes]) {
            return Err(SidecarError::Checksum);
        }
        let mut reader = Reader::new(bytes);
        let dealing = |reader: &mut Reader<'_>| {
            let (cursor, from) = take_dealing_key(reader)?;
            let (to, first, end) = (Position(reader.u64()?), QueueOffset(reader.u64()?), QueueOffset(reader.u64()?));
            match from <= to && first < end {
                true => Ok((cursor, Dealing { from, to, first, end })),
                false => Err(WireError::Impossible("dealing")),
            }
        };
        let dealings: Vec<_> = (0..bytes.len() / DEALING_BYTES)
            .map(|_| dealing(&mut reader))
            .collect::<Result<_, _>>()?;
        match dealings.first().map(|(cursor, dealing)| (*cursor, dealing.from)) {
            Some(first) if first != self.dealings[nth].0 => Err(WireError::Impossible("fence").into()),
            _ => Ok(dealings),
        }
    }
}

impl Sidecar {
    /// The stretches of a cursor, in the order of the log.
    pub(crate) fn dealings(&self, cursor: CursorId) -> Result<Vec<Dealing>, LogError> {
        let fences = &self.head.dealings;
        let before = fences.partition_point(|fence| fence.0.0 < cursor).saturating_sub(1);
        let beyond = fences.partition_point(|fence| fence.0.0 <= cursor);
        let mut dealings = Vec::new();
        for nth in before..beyond {
            let place = self.head.dealing_block(nth);
            let bytes = self.read(place.start, (place.end - place.start) as usize)?;
            let block = self.head.block_dealings(nth, &bytes).map_err(|_| self.changed())?;
            dealings.extend(block.into_iter().filter(|(of, _)| *of == cursor).map(|(_, dealing)| dealing));
        }
        Ok(dealings)
    }
}
