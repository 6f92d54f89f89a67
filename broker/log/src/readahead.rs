//! Reading ahead within bounds: who reads on and on has the disk begin early with what comes next, but never with so much that a sync, or another
//! reader, waits long behind it. What the system reads ahead by itself, megabytes at a time on some disks, is switched off.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limits::{READAHEAD_BYTES_FIRST, READAHEAD_BYTES_MAX, READAHEAD_GAP_BYTES_MAX, READAHEAD_RUNS_MAX};
use crate::storage::StorageFile;

/// A file as readers have it open.
pub(crate) struct ReadFile {
    file: Arc<dyn StorageFile>,
    runs: Mutex<Runs>,
}

impl ReadFile {
    /// Reads this file from now on.
    pub(crate) fn new(file: Arc<dyn StorageFile>) -> Self {
        file.reads_as_asked();
        Self {
            file,
            runs: Mutex::default(),
        }
    }

    /// Fills `into` from `offset` on.
    pub(crate) fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if self.file.read_in_memory(offset, into)? {
            return Ok(());
        }
        let missed = offset..offset + into.len() as u64;
        let ahead = self.runs.lock().unwrap_or_else(PoisonError::into_inner).missed(missed);
        if let Some(ahead) = ahead {
            self.file.will_read(ahead.start, ahead.end - ahead.start);
        }
        self.file.read_at(offset, into)
    }

    /// These bytes are read soon.
    pub(crate) fn will_read(&self, offset: u64, bytes: u64) {
        self.file.will_read(offset, bytes);
    }
}

/// What was read lately and was not in memory, the newest first.
#[derive(Debug, Default)]
struct Runs(Vec<Run>);

/// Reads that follow one another.
#[derive(Debug)]
struct Run {
    /// Where the last of them began.
    from: u64,
    /// One past what the disk was asked for.
    end: u64,
    /// How much it was asked for ahead.
    ahead: u64,
}

impl Runs {
    /// These bytes are read and are not in memory: what the disk should begin with, if anything.
    fn missed(&mut self, bytes: Range<u64>) -> Option<Range<u64>> {
        let follows = |run: &Run| (run.from..=run.end + READAHEAD_GAP_BYTES_MAX).contains(&bytes.start);
        let Some(mut run) = self.0.iter().position(follows).map(|at| self.0.remove(at)) else {
            self.0.truncate(READAHEAD_RUNS_MAX - 1);
            self.0.insert(
                0,
                Run {
                    from: bytes.start,
                    end: bytes.end,
                    ahead: 0,
                },
            );
            return None;
        };
        run.from = bytes.start;
        let mut asked = None;
        if bytes.end > run.end {
            run.ahead = (run.ahead * 2).clamp(READAHEAD_BYTES_FIRST, READAHEAD_BYTES_MAX);
            let from = run.end.max(bytes.start);
            run.end = bytes.end + run.ahead;
            asked = Some(from..run.end);
        }
        self.0.insert(0, run);
        asked
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PIECE: u64 = 16 << 10;

    #[test]
    fn who_reads_on_has_more_and_more_read_ahead_up_to_the_bound() {
        let mut runs = Runs::default();
        assert_eq!(runs.missed(0..PIECE), None, "one read alone says nothing of the next");
        let mut at = PIECE;
        let mut ahead = Vec::new();
        for _ in 0..6 {
            let asked = runs.missed(at..at + PIECE).unwrap();
            assert_eq!(asked.start, at, "what follows what was asked for before");
            ahead.push(asked.end - at - PIECE);
            at = asked.end;
        }
        let first = READAHEAD_BYTES_FIRST;
        assert_eq!(ahead[..3], [first, 2 * first, 4 * first]);
        assert_eq!(ahead[5], READAHEAD_BYTES_MAX);
    }

    #[test]
    fn what_the_disk_was_asked_for_and_has_not_brought_yet_is_not_asked_for_twice() {
        let mut runs = Runs::default();
        runs.missed(0..PIECE);
        let asked = runs.missed(PIECE..2 * PIECE).unwrap();
        assert_eq!(runs.missed(2 * PIECE..3 * PIECE), None);
        let next = runs.missed(asked.end - 1..asked.end + PIECE).unwrap();
        assert_eq!(next.start, asked.end);
    }

    #[test]
    fn reads_here_and_there_have_nothing_read_ahead() {
        let mut runs = Runs::default();
        for place in [90, 10, 50, 70, 30, 20, 80] {
            let at = place << 20;
            assert_eq!(runs.missed(at..at + PIECE), None);
        }
    }

    #[test]
    fn several_that_read_on_at_a_time_do_not_disturb_one_another() {
        let mut runs = Runs::default();
        let readers: Vec<u64> = (0..READAHEAD_RUNS_MAX as u64).map(|nth| nth << 30).collect();
        for &at in &readers {
            runs.missed(at..at + PIECE);
        }
        for &at in &readers {
            assert!(runs.missed(at + PIECE..at + 2 * PIECE).is_some());
        }
    }

    proptest! {
        #[test]
        fn never_more_is_asked_for_than_what_is_read_and_the_bound(reads in prop::collection::vec((0_u64..4 << 20, 1_u64..1 << 20), 1..100)) {
            let mut runs = Runs::default();
            for (from, length) in reads {
                if let Some(asked) = runs.missed(from..from + length) {
                    prop_assert!(asked.start >= from && asked.start < asked.end);
                    prop_assert!(asked.end <= from + length + READAHEAD_BYTES_MAX);
                }
                prop_assert!(runs.0.len() <= READAHEAD_RUNS_MAX);
            }
        }
    }
}
