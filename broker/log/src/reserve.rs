//! Room for what is to come: the next segment, and those in reserve for when there is no room for a next one.

use std::sync::Arc;

use crate::error::LogError;
use crate::limits::{RESERVE_SEGMENTS, SPARE_SEGMENTS_MAX};
use crate::planted::{self, Bug};
use crate::segment::{SEGMENT_HEADER_BYTES, SegmentHeader, file_offset, segment_name};
use crate::sidecar;
use crate::storage::Storage;
use crate::writer::{Active, LogWriter, discard, write_sidecar};

/// A segment's file that is allocated and not in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spare {
    /// The number in its name.
    pub(crate) number: u64,
    /// Whether it was written before, so that writing it needs nothing but its bytes.
    pub(crate) written: bool,
}

impl LogWriter {
    /// Whether room is taken for all that may be written before the disk is looked at again: the rest of the active segment and the segments
    /// in reserve. While it is not, nothing should be appended that can be refused.
    pub fn has_reserve(&self) -> bool {
        self.active.allocated && self.spares.len() >= RESERVE_SEGMENTS && !self.shared.has_unwritten_indexes()
    }

    /// How many segments are in reserve.
    pub fn reserve_segments(&self) -> usize {
        self.spares.len()
    }

    /// Makes good what is missing of the reserve. Costs nothing when it is whole.
    ///
    /// # Errors
    /// [`LogError::NoRoom`]: it is still not whole, and the writer goes on. Otherwise the disk failed; the writer is stopped.
    pub fn replenish(&mut self) -> Result<(), LogError> {
        self.guarded(|writer| {
            writer.allocate_active()?;
            writer.write_missing_sidecars()?;
            while writer.spares.len() < RESERVE_SEGMENTS {
                writer.make_spare()?;
            }
            Ok(())
        })
    }

    /// Makes a spare or new file the active segment, based at the end of the log, with room for a frame of `frame` bytes. Its header is
    /// durable when this returns. The reserve is touched only when there is no room for a new file. When there is no room at all the active
    /// segment stays what it was.
    pub(crate) fn begin_segment(&mut self, frame: u64) -> Result<(), LogError> {
        let needed = SEGMENT_HEADER_BYTES + frame;
        if needed > self.config.segment_bytes {
            return self.begin_in_new(needed);
        }
        if self.spares.len() > RESERVE_SEGMENTS {
            return self.begin_in_spare(needed);
        }
        match self.begin_in_new(needed) {
            Err(LogError::NoRoom { .. }) if !self.spares.is_empty() && !planted::is(Bug::ReserveForgotten) => self.begin_in_spare(needed),
            begun => begun,
        }
    }

    fn begin_in_new(&mut self, needed: u64) -> Result<(), LogError> {
        let number = self.next_number;
        let bytes = needed.max(self.config.segment_bytes);
        let storage = Arc::clone(&self.shared.storage);
        let name = segment_name(number);
        let begin = || -> Result<Active, LogError> {
            let file = storage.create(&name, bytes).map_err(LogError::room("creating", &name))?;
            file.allocate(0, bytes).map_err(LogError::room("allocating", &name))?;
            let mut active = Active {
                number,
                base: self.end,
                bytes,
                file,
                filled: SEGMENT_HEADER_BYTES,
                allocated: true,
            };
            self.seal_header(&mut active, needed)?;
            if !planted::is(Bug::DirectoryNotSynced) {
                storage.sync_directory().map_err(LogError::io("syncing", &name))?;
            }
            Ok(active)
        };
        let begun = begin();
        self.make_active(&name, begun)
    }

    fn begin_in_spare(&mut self, needed: u64) -> Result<(), LogError> {
        let written = self.spares.iter().position(|spare| spare.written);
        let spare = self.spares.swap_remove(written.unwrap_or(0));
        let storage = Arc::clone(&self.shared.storage);
        let name = segment_name(spare.number);
        let begin = || -> Result<Active, LogError> {
            let bytes = self.config.segment_bytes;
            let mut active = Active {
                number: spare.number,
                base: self.end,
                bytes,
                file: storage.open(&name).map_err(LogError::io("opening", &name))?,
                filled: if spare.written { bytes } else { SEGMENT_HEADER_BYTES },
                allocated: true,
            };
            self.seal_header(&mut active, needed)?;
            Ok(active)
        };
        let begun = begin();
        self.make_active(&name, begun)
    }

    /// Writes the header of a segment that is begun, and zeros where its first frames go, durably.
    fn seal_header(&self, active: &mut Active, needed: u64) -> Result<(), LogError> {
        let name = segment_name(active.number);
        let header = SegmentHeader {
            base: self.end,
            epoch: self.epoch,
            bytes: active.bytes,
        };
        let header = header.encode(self.shared.secret);
        active.file.write_at(0, &[&header]).map_err(LogError::room("writing", &name))?;
        if self.config.fills_ahead_of(needed - SEGMENT_HEADER_BYTES) {
            active.fill_ahead(SEGMENT_HEADER_BYTES, self.config.fill_ahead_bytes)?;
        }
        active.file.sync_data().map_err(LogError::room("syncing", &name))
    }

    fn make_active(&mut self, name: &str, begun: Result<Active, LogError>) -> Result<(), LogError> {
        match begun {
            Ok(active) => {
                self.next_number = self.next_number.max(active.number + 1);
                self.active = active;
                Ok(())
            }
            Err(LogError::NoRoom { file }) => {
                // Its header may be there, and the log may go on in the segment before.
                discard(&*self.shared.storage, name)?;
                Err(LogError::NoRoom { file })
            }
            Err(error) => Err(error),
        }
    }

    /// Takes the room of the rest of a segment that was begun by an earlier start.
    fn allocate_active(&mut self) -> Result<(), LogError> {
        if !self.active.allocated {
            let from = file_offset(self.active.base, self.end);
            let allocated = self.active.file.allocate(from, self.active.bytes);
            allocated.map_err(LogError::room("allocating", &segment_name(self.active.number)))?;
            self.active.allocated = true;
        }
        Ok(())
    }

    fn make_spare(&mut self) -> Result<(), LogError> {
        let storage = Arc::clone(&self.shared.storage);
        let name = segment_name(self.next_number);
        let made = allocate_spare(&*storage, &name, self.config.segment_bytes);
        if let Err(LogError::NoRoom { .. }) = &made {
            discard(&*storage, &name)?;
        }
        made?;
        self.keep_spare(self.next_number, false);
        self.next_number += 1;
        Ok(())
    }

    /// Keeps an allocated file whose header is all zeros to be written; whether there are not enough of them already.
    pub(crate) fn keep_spare(&mut self, number: u64, written: bool) -> bool {
        let wanted = self.spares.len() < SPARE_SEGMENTS_MAX;
        if wanted {
            self.spares.push(Spare { number, written });
        }
        wanted
    }

    /// Writes the sidecars for which there was no room when their segments were sealed.
    fn write_missing_sidecars(&mut self) -> Result<(), LogError> {
        while let Some((base, end, index)) = self.shared.unwritten_index() {
            write_sidecar(&*self.shared.storage, base, &sidecar::encode(&index, base, end))?;
            self.shared.index_written(base);
        }
        Ok(())
    }
}

/// Makes a file of zeros whose room is taken, durably.
fn allocate_spare(storage: &dyn Storage, name: &str, bytes: u64) -> Result<(), LogError> {
    let file = storage.create(name, bytes).map_err(LogError::room("creating", name))?;
    file.allocate(0, bytes).map_err(LogError::room("allocating", name))?;
    file.sync_data().map_err(LogError::room("syncing", name))?;
    storage.sync_directory().map_err(LogError::io("syncing", name))
}
