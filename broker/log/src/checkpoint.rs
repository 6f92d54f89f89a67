//! Checkpoints: files of state entries, so that a start replays only what came after.

use std::sync::Arc;

use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use crc_fast::Digest;
use sluice_protocol::ids::{Epoch, Position};
use sluice_protocol::units::Now;
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::error::LogError;
use crate::frame::FrameSecret;
use crate::limits::CHECKPOINT_SYNC_BYTES;
use crate::planted::{self, Bug};
use crate::segment::checkpoint_name;
use crate::storage::{Storage, StorageFile};

const MAGIC: [u8; 4] = *b"SLC1";
const END_MAGIC: [u8; 4] = *b"SLCE";
const VERSION: u16 = 1;

/// What a checkpoint says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckpointFacts {
    pub(crate) number: u64,
    /// Records from here on are replayed.
    pub(crate) replay_from: Position,
    /// The frame at `replay_from`, if there is one, is not of an earlier epoch.
    pub(crate) epoch_floor: Epoch,
    /// The stamp of the last record written before the checkpoint was begun.
    pub(crate) stamp: Now,
}

/// A whole checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    pub(crate) facts: CheckpointFacts,
    /// Up to where the log was durable when it was finished: a log that ends before has lost something.
    pub(crate) covers: Position,
    pub(crate) entries: Vec<Bytes>,
}

/// A checkpoint that is being written.
pub(crate) struct Draft {
    pub(crate) facts: CheckpointFacts,
    name: String,
    file: Arc<dyn StorageFile>,
    digest: Digest,
    written: u64,
    /// Up to where it is durable.
    synced: u64,
    entries: u64,
}

impl Draft {
    /// Creates the file; it counts for nothing before `finish`.
    pub(crate) fn begin(storage: &dyn Storage, secret: FrameSecret, facts: CheckpointFacts) -> Result<Self, LogError> {
        let name = checkpoint_name(facts.number);
        let file = storage.create(&name, 0).map_err(LogError::room("creating", &name))?;
        let mut draft = Self {
            facts,
            name,
            file,
            digest: begin_digest(secret),
            written: 0,
            synced: 0,
            entries: 0,
        };
        draft.write(&head(&facts))?;
        Ok(draft)
    }

    /// Adds entries. Now and then makes what there is durable, so that the end does not hold up the log for long.
    pub(crate) fn slice(&mut self, entries: &[Bytes]) -> Result<(), LogError> {
        if entries.is_empty() {
            return Ok(());
        }
        self.entries += entries.len() as u64;
        self.write(&slice(entries))?;
        if self.written - self.synced >= CHECKPOINT_SYNC_BYTES {
            self.file.sync_data().map_err(LogError::room("syncing", &self.name))?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Writes the end and makes all of it durable.
    pub(crate) fn finish(mut self, storage: &dyn Storage, covers: Position) -> Result<CheckpointFacts, LogError> {
        self.write(&end(covers, self.entries))?;
        let sum = (self.digest.finalize() as u32).to_le_bytes();
        self.file
            .write_at(self.written, &[&sum])
            .map_err(LogError::room("writing", &self.name))?;
        if !planted::is(Bug::CheckpointUnsynced) {
            self.file.sync_data().map_err(LogError::room("syncing", &self.name))?;
        }
        storage.sync_directory().map_err(LogError::io("syncing", &self.name))?;
        Ok(self.facts)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.file
            .write_at(self.written, &[bytes])
            .map_err(LogError::room("writing", &self.name))?;
        self.digest.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// What a checkpoint begins with.
fn head(facts: &CheckpointFacts) -> Bytes {
    let mut out = Writer::new();
    out.bytes(&MAGIC).u16(VERSION).u16(0).u64(facts.number).u64(facts.replay_from.0);
    out.u32(facts.epoch_floor.0)
        .u32(0)
        .i64(facts.stamp.wall_ms)
        .u64(facts.stamp.mono_ms);
    out.finish()
}

/// A slice of entries, of which there is one at least.
fn slice(entries: &[Bytes]) -> Bytes {
    let mut out = Writer::with_capacity(4 + entries.iter().map(|entry| entry.len() + 4).sum::<usize>());
    out.count(entries.len());
    entries.iter().for_each(|entry| {
        out.blob(entry);
    });
    out.finish()
}

/// What a checkpoint ends with, but for the checksum.
fn end(covers: Position, entries: u64) -> Bytes {
    let mut out = Writer::new();
    out.u32(0).u64(covers.0).u64(entries).bytes(&END_MAGIC);
    out.finish()
}

/// A whole checkpoint as its file holds it.
pub(crate) fn encode(secret: FrameSecret, checkpoint: &Checkpoint) -> Bytes {
    let entries = match checkpoint.entries.as_slice() {
        [] => Bytes::new(),
        entries => slice(entries),
    };
    let body = [
        head(&checkpoint.facts),
        entries,
        end(checkpoint.covers, checkpoint.entries.len() as u64),
    ]
    .concat();
    let mut digest = begin_digest(secret);
    digest.update(&body);
    let sum = digest.finalize() as u32;
    [&body[..], &sum.to_le_bytes()].concat().into()
}

fn begin_digest(secret: FrameSecret) -> Digest {
    let mut digest = Digest::new(Crc32Iscsi);
    digest.update(&secret.0.to_le_bytes());
    digest
}

/// Reads a checkpoint's bytes.
///
/// # Errors
/// [`WireError`] for whatever is not a whole checkpoint of this log: one that was cut short, damaged, or of another version.
pub(crate) fn decode(secret: FrameSecret, bytes: &Bytes) -> Result<Checkpoint, WireError> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(WireError::Truncated)?;
    let mut digest = begin_digest(secret);
    digest.update(body);
    if digest.finalize() as u32 != u32::from_le_bytes(*sum) {
        return Err(WireError::Impossible("checksum"));
    }
    let mut from = Reader::new(body);
    if from.array::<4>()? != MAGIC || from.u16()? != VERSION || from.u16()? != 0 {
        return Err(WireError::Impossible("beginning"));
    }
    let (number, replay_from, epoch_floor) = (from.u64()?, Position(from.u64()?), Epoch(from.u32()?));
    from.u32()?;
    let stamp = Now {
        wall_ms: from.i64()?,
        mono_ms: from.u64()?,
    };
    let mut entries = Vec::new();
    loop {
        let count = from.count(4)?;
        if count == 0 {
            break;
        }
        for _ in 0..count {
            entries.push(bytes.slice_ref(from.blob()?));
        }
    }
    let (covers, counted, end) = (Position(from.u64()?), from.u64()?, from.array::<4>()?);
    from.finish()?;
    if counted != entries.len() as u64 || end != END_MAGIC {
        return Err(WireError::Impossible("end"));
    }
    Ok(Checkpoint {
        facts: CheckpointFacts {
            number,
            replay_from,
            epoch_floor,
            stamp,
        },
        covers,
        entries,
    })
}

/// Reads a checkpoint's file; `Ok(Err)` when it is not whole.
pub(crate) fn read(storage: &dyn Storage, secret: FrameSecret, number: u64) -> Result<Result<Checkpoint, WireError>, LogError> {
    let name = checkpoint_name(number);
    let file = storage.open(&name).map_err(LogError::io("opening", &name))?;
    let mut bytes = vec![0; file.len().map_err(LogError::io("reading", &name))? as usize];
    file.read_at(0, &mut bytes).map_err(LogError::io("reading", &name))?;
    Ok(
        decode(secret, &bytes.into()).and_then(|checkpoint| match checkpoint.facts.number == number {
            true => Ok(checkpoint),
            false => Err(WireError::Impossible("number")),
        }),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_checkpoint_survives_and_is_whole_or_nothing(
            numbers in any::<(u64, u64, u32, i64, u64, u64)>(),
            entries in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let (number, replay_from, epoch_floor, wall_ms, mono_ms, covers) = numbers;
            let facts = CheckpointFacts {
                number,
                replay_from: Position(replay_from),
                epoch_floor: Epoch(epoch_floor),
                stamp: Now { wall_ms, mono_ms },
            };
            let entries = entries.into_iter().map(Bytes::from).collect();
            let checkpoint = Checkpoint { facts, covers: Position(covers), entries };
            let bytes = encode(FrameSecret(7), &checkpoint);
            prop_assert_eq!(decode(FrameSecret(7), &bytes), Ok(checkpoint));
            prop_assert!(decode(FrameSecret(8), &bytes).is_err());
            prop_assert!(decode(FrameSecret(7), &bytes.slice(..cut.index(bytes.len()))).is_err());
        }
    }
}
