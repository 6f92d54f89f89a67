//! Walking through stored messages of several queues in the order in which they were stored, a bounded piece at a time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::ops::Range;

use sluice_log::{BatchPlace, KeyedRange, LogError, LogReader};
use sluice_plugin_host::{FilterHandle, Hint, RunFailure};
use sluice_protocol::batch::{Row, key_hash};
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset};

use crate::judge::{Among, Judge, JudgeError, Stretch};
use crate::limits;

/// A message's place in the order of a topic. It never changes: times do not decrease along a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) stored_wall_ms: i64,
    pub(crate) queue: QueueIndex,
    pub(crate) offset: QueueOffset,
}

/// The offsets of one queue that are walked through.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) queue: QueueId,
    /// The first that was not looked at.
    pub(crate) next: QueueOffset,
    /// One past the last.
    pub(crate) end: QueueOffset,
    /// What was found before `next`.
    found: VecDeque<Found>,
}

/// A message that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) batch: BatchPlace,
    pub(crate) offset: QueueOffset,
}

/// Up to where a line was looked at, what was found there, and what that cost.
type Looked = (QueueOffset, Vec<Found>, u64);

/// How a walk goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The next message that is wanted.
    Found(Found),
    /// There is none.
    Over,
    /// What it may look at is used up.
    Spent,
}

/// Why a walk cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WalkError {
    /// The index cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The messages cannot be read.
    #[error(transparent)]
    Judge(#[from] JudgeError),
    /// The filter fails.
    #[error(transparent)]
    Filter(#[from] RunFailure),
}

/// Which messages are wanted.
#[derive(Default)]
pub(crate) struct Wanted {
    /// Those that have this key; `None` for whatever keys.
    pub(crate) key: Option<String>,
    /// Those that this filter lets pass.
    pub(crate) filter: Option<(Judge, FilterHandle)>,
}

/// A walk through stored messages.
pub(crate) struct Walk<'a> {
    reader: &'a LogReader,
    wanted: Wanted,
    lines: Vec<Line>,
    /// For each line that goes on, the place of what was found first or, where nothing was, of what is looked at next.
    fronts: BinaryHeap<Reverse<(Place, usize)>>,
    work_left: u64,
    /// How many messages the filter was asked about, and on how many of them it failed.
    pub(crate) judged: u64,
    pub(crate) failed: u64,
}

impl Line {
    /// The messages `next..end` of a queue.
    pub(crate) fn new(queue: QueueId, next: QueueOffset, end: QueueOffset) -> Self {
        Self {
            queue,
            next,
            end,
            found: VecDeque::new(),
        }
    }
}

impl Found {
    /// Where it is in the order of its topic.
    pub(crate) fn place(&self) -> Place {
        Place {
            stored_wall_ms: self.batch.stored_wall_ms,
            queue: self.batch.queue.index,
            offset: self.offset,
        }
    }

    /// Its number in its batch.
    pub(crate) fn row(&self) -> u32 {
        (self.offset.0 - self.batch.first.0) as u32
    }
}

impl<'a> Walk<'a> {
    /// Begins a walk along these lines, each of another queue of one topic.
    ///
    /// # Errors
    /// [`WalkError`], as for all of its functions.
    pub(crate) fn new(reader: &'a LogReader, lines: Vec<Line>, wanted: Wanted) -> Result<Self, WalkError> {
        let mut walk = Self {
            reader,
            wanted,
            fronts: BinaryHeap::with_capacity(lines.len()),
            lines,
            work_left: limits::PAGE_WORK_MAX,
            judged: 0,
            failed: 0,
        };
        (0..walk.lines.len()).try_for_each(|line| walk.push_front(line))?;
        Ok(walk)
    }

    /// The next message that is wanted, or why none follows now.
    pub(crate) fn next(&mut self) -> Result<Step, WalkError> {
        while let Some(&Reverse((_, at))) = self.fronts.peek() {
            let found = self.lines[at].found.pop_front();
            if found.is_none() && self.work_left == 0 {
                return Ok(Step::Spent);
            }
            self.fronts.pop();
            if found.is_none() {
                self.look_on(at)?;
            }
            self.push_front(at)?;
            if let Some(found) = found {
                return Ok(Step::Found(found));
            }
        }
        Ok(Step::Over)
    }

    /// The first place that was not walked through; `None` when all were.
    pub(crate) fn front(&self) -> Option<Place> {
        self.fronts.peek().map(|Reverse((place, _))| *place)
    }

    fn push_front(&mut self, at: usize) -> Result<(), WalkError> {
        let line = &mut self.lines[at];
        let place = match line.found.front() {
            Some(found) => Some(found.place()),
            None if line.next < line.end => {
                // What retention took meanwhile is passed over.
                let batch = self.reader.first_batch(line.queue, line.next, line.end)?;
                batch.map(|batch| {
                    line.next = line.next.max(batch.first);
                    Found { batch, offset: line.next }.place()
                })
            }
            None => None,
        };
        if let Some(place) = place {
            self.fronts.push(Reverse((place, at)));
        }
        Ok(())
    }

    /// Looks at the next piece of a line.
    fn look_on(&mut self, at: usize) -> Result<(), WalkError> {
        let line = &self.lines[at];
        let (queue, from, end) = (line.queue, line.next, line.end);
        let by_index = match &self.wanted.filter {
            Some((_, filter)) => matches!(filter.hint(), Some(Hint::TagOneOf(_))),
            None => false,
        };
        let messages = match by_index {
            true => limits::PAGE_PIECE_PRUNED_MESSAGES,
            false => limits::PAGE_PIECE_MESSAGES,
        };
        let to = end.min(QueueOffset(from.0.saturating_add(messages)));
        let (to, found, work) = match (&self.wanted.key, &self.wanted.filter) {
            (Some(key), _) => self.keyed(&key.clone(), queue, from..end)?,
            (None, Some(_)) => {
                let (to, offsets, evaluated) = self.judge(queue, from..to)?;
                let looked_at = to.0 - from.0;
                let work = if by_index { evaluated + looked_at / 64 } else { looked_at };
                (to, placed(self.reader, queue, &offsets)?, work)
            }
            (None, None) => {
                let offsets: Vec<QueueOffset> = (from.0..to.0).map(QueueOffset).collect();
                (to, placed(self.reader, queue, &offsets)?, (to.0 - from.0) / 64)
            }
        };
        let line = &mut self.lines[at];
        line.next = to;
        line.found.extend(found);
        self.work_left = self.work_left.saturating_sub(work + 1);
        Ok(())
    }

    /// The next messages that have the key, and pass; says how far it looked, and what that cost. Equal hashes are confirmed on the text.
    fn keyed(&mut self, key: &str, queue: QueueId, within: Range<QueueOffset>) -> Result<Looked, WalkError> {
        let wanted = KeyedRange {
            hash: key_hash(key.as_bytes()),
            queue,
            from: within.start,
            to: within.end,
            max: limits::PAGE_PIECE_MESSAGES as usize,
        };
        let offsets = self.reader.keyed(&wanted)?;
        let to = match offsets.last() {
            Some(last) if offsets.len() == wanted.max => QueueOffset(last.0 + 1),
            Some(_) | None => within.end,
        };
        let mut found = Vec::new();
        for candidate in placed(self.reader, queue, &offsets)? {
            let attributes = match self.reader.sparse_attributes(&candidate.batch) {
                Err(LogError::Gone { .. }) => continue,
                attributes => attributes?,
            };
            let row = attributes.row(candidate.row());
            if !row.is_some_and(|row| has_key(&row, key)) {
                continue;
            }
            let alone = candidate.offset..QueueOffset(candidate.offset.0 + 1);
            if self.wanted.filter.is_none() || !self.judge(queue, alone)?.1.is_empty() {
                found.push(candidate);
            }
        }
        Ok((to, found, offsets.len() as u64))
    }

    /// Asks the filter about messages of a queue, or about the first of them: says how far, which pass, and about how many it was asked.
    fn judge(&mut self, queue: QueueId, within: Range<QueueOffset>) -> Result<(QueueOffset, Vec<QueueOffset>, u64), WalkError> {
        let (judge, filter) = self.wanted.filter.as_mut().expect("it is asked where there is one");
        let stretch = Stretch {
            queue,
            among: Among::All,
            ttl: None,
            from: within.start,
            to: within.end,
            calls_max: limits::PAGE_PIECE_MESSAGES,
        };
        let outcomes = judge.stored(self.reader, std::slice::from_ref(filter), stretch)?;
        let judged = outcomes.into_iter().next().expect("there is an outcome for each filter")?;
        self.judged += u64::from(judged.evaluated);
        self.failed += u64::from(judged.failed) + judged.culprits.len() as u64;
        Ok((judged.to, judged.deliver, u64::from(judged.evaluated)))
    }
}

/// Whether a message is found by this text: it is one of its keys, or the id that its producer gave it.
fn has_key(row: &Row<'_>, key: &str) -> bool {
    row.keys().any(|own| own == key.as_bytes()) || row.given_id().is_some_and(|given| given.id == key)
}

/// These offsets, which ascend, with their batches. What is not stored any more is left out.
fn placed(reader: &LogReader, queue: QueueId, mut offsets: &[QueueOffset]) -> Result<Vec<Found>, LogError> {
    let mut found = Vec::with_capacity(offsets.len());
    while let (Some(&first), Some(&last)) = (offsets.first(), offsets.last()) {
        let Some(batch) = reader.first_batch(queue, first, QueueOffset(last.0 + 1))? else {
            break;
        };
        let gone = offsets.partition_point(|offset| *offset < batch.first);
        let end = offsets.partition_point(|offset| *offset < batch.end());
        found.extend(offsets[gone..end].iter().map(|&offset| Found { batch, offset }));
        offsets = &offsets[end..];
    }
    Ok(found)
}
