//! The entry of one producer: the window of sequences that were stored, and where.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use bytes::Bytes;
use sluice_protocol::batch::{HEADER_BYTES, Run as BatchRun};
use sluice_protocol::ids::{Position, ProducerId, QueueId, QueueIndex, QueueOffset, Sequence, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::limits::PRODUCER_WINDOW;
use crate::planted::{self, Bug};

/// What the broker knows of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// Never stored.
    New,
    /// Stored here; as many of the following sequences as `count` says (itself included) lie side by side with it.
    Stored {
        /// Where.
        queue: QueueId,
        /// At which offset.
        offset: QueueOffset,
        /// How many neighbours, itself included.
        count: u32,
        /// What they wait for, or waited for, if they did not go into a queue at once.
        waits: Option<Waits>,
    },
    /// Before the window: nobody knows.
    TooOld,
}

/// What a message waits for before it goes into a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waits {
    /// When it is due: wall clock, milliseconds; 0 for at once.
    pub due_ms: i64,
    /// Whether it is to be committed before.
    pub prepared: bool,
}

/// What the messages of a batch wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting<'a> {
    /// When each is due.
    pub(super) due_ms: &'a [i64],
    /// Whether they are to be committed before.
    pub(super) prepared: bool,
}

/// Neighbouring sequences that lie side by side in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How many.
    pub count: u32,
    /// Where.
    pub queue: QueueId,
    /// The offset of the first.
    pub first_offset: QueueOffset,
    /// What all of them wait for. Queue and offset are then those of the calendar.
    pub waits: Option<Waits>,
}

/// The newest [`PRODUCER_WINDOW`] sequences up to the highest seen, as far as they were stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Window {
    highest: Option<Sequence>,
    runs: BTreeMap<u64, Run>,
}

impl Window {
    /// What became of `sequence`.
    pub fn seen(&self, sequence: Sequence) -> Seen {
        if let Some((&first, run)) = self.runs.range(..=sequence.0).next_back() {
            let nth = sequence.0 - first;
            if nth < u64::from(run.count) {
                let offset = QueueOffset(run.first_offset.0 + nth);
                return Seen::Stored {
                    queue: run.queue,
                    offset,
                    count: run.count - nth as u32,
                    waits: run.waits,
                };
            }
        }
        match self.highest {
            Some(highest) if sequence.0.saturating_add(PRODUCER_WINDOW) <= highest.0 => Seen::TooOld,
            Some(_) | None => Seen::New,
        }
    }

    /// How many sequences from `sequence` on are new, at most `count`; at least 1 when that one is.
    pub fn new_run(&self, sequence: Sequence, count: u32) -> u32 {
        match self.runs.range(sequence.0..sequence.0 + u64::from(count)).next() {
            Some((&first, _)) => (first - sequence.0) as u32,
            None => count,
        }
    }

    /// Remembers that `count` sequences from `first` on were stored side by side, or wait in a calendar.
    fn store_all(&mut self, first: Sequence, count: u32, (queue, first_offset): (QueueId, QueueOffset), waiting: Option<Waiting<'_>>) {
        let run = Run {
            count,
            queue,
            first_offset,
            waits: None,
        };
        let Some(Waiting { due_ms, prepared }) = waiting else {
            return self.store(first, run);
        };
        for (&due_ms, nth) in due_ms.iter().zip(0..) {
            let run = Run {
                count: 1,
                first_offset: QueueOffset(first_offset.0 + nth),
                waits: Some(Waits { due_ms, prepared }),
                ..run
            };
            self.store(Sequence(first.0 + nth), run);
        }
    }

    /// Remembers that `count` sequences from `first` on were stored side by side.
    pub fn store(&mut self, first: Sequence, run: Run) {
        let joined = self.runs.range_mut(..first.0).next_back().filter(|(before_first, before)| {
            **before_first + u64::from(before.count) == first.0
                && (before.queue, before.waits) == (run.queue, run.waits)
                && before.first_offset.0 + u64::from(before.count) == run.first_offset.0
        });
        match joined {
            Some((_, before)) => before.count += run.count,
            None => {
                self.runs.insert(first.0, run);
            }
        }
        let last = Sequence(first.0 + u64::from(run.count) - 1);
        let highest = self.highest.map_or(last, |highest| highest.max(last));
        self.highest = Some(highest);
        self.drop_below((highest.0 + 1).saturating_sub(PRODUCER_WINDOW));
    }

    fn drop_below(&mut self, bound: u64) {
        while let Some(entry) = self.runs.first_entry() {
            let (first, run) = (*entry.key(), *entry.get());
            if first >= bound {
                break;
            }
            entry.remove();
            let gone = bound - first;
            if gone < u64::from(run.count) {
                let first_offset = QueueOffset(run.first_offset.0 + gone);
                self.runs.insert(
                    bound,
                    Run {
                        count: run.count - gone as u32,
                        first_offset,
                        ..run
                    },
                );
            }
        }
    }

    /// Its part in the limit on memory: an estimate of what the entry takes, in bytes.
    fn memory_bytes(&self) -> u64 {
        256 + 64 * self.runs.len() as u64
    }
}

/// One producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The last record that this entry holds; also says which producer was used least recently.
    pub reflects: Position,
    /// Its window.
    pub window: Window,
}

/// All producers, by identity and by last use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    entries: BTreeMap<ProducerId, Producer>,
    by_use: BTreeSet<(Position, ProducerId)>,
    memory_bytes: u64,
}

impl Producers {
    /// The window of a producer.
    pub fn window(&self, producer: ProducerId) -> Option<&Window> {
        self.entries.get(&producer).map(|entry| &entry.window)
    }

    /// The entry of a producer.
    pub fn get(&self, producer: ProducerId) -> Option<&Producer> {
        self.entries.get(&producer)
    }

    /// The producer with the next higher identity, or the first of all.
    pub fn after(&self, last: Option<ProducerId>) -> Option<ProducerId> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.entries.range((from, Bound::Unbounded)).next().map(|(&id, _)| id)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// What all of them take, in bytes, as far as the limit is concerned.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The producer that stored nothing for the longest.
    pub fn least_recently_used(&self) -> Option<ProducerId> {
        self.by_use.first().map(|&(_, producer)| producer)
    }

    /// Remembers where a batch is: in a queue, or in a calendar, and what its messages wait for there.
    ///
    /// Two rounds, because a record may hold several runs of one producer: an entry that did not hold the record at its beginning takes
    /// all of them.
    pub(super) fn stored(&mut self, position: Position, queue: QueueId, first: QueueOffset, batch: &Bytes, waiting: Option<Waiting<'_>>) {
        let mut offset = first;
        for run in batch_runs(batch) {
            let entry = self.entries.entry(run.producer).or_insert_with(|| Producer {
                reflects: Position::default(),
                window: Window::default(),
            });
            if entry.reflects < position {
                let known_bytes = if entry.reflects == Position::default() && entry.window.highest.is_none() {
                    0
                } else {
                    entry.window.memory_bytes()
                };
                let from = (offset.0 - first.0) as usize;
                let waiting = waiting.map(|waiting| Waiting {
                    due_ms: waiting.due_ms.get(from..from + run.rows as usize).unwrap_or_default(),
                    ..waiting
                });
                entry.window.store_all(run.first_sequence, run.rows, (queue, offset), waiting);
                self.memory_bytes = self.memory_bytes + entry.window.memory_bytes() - known_bytes;
            }
            offset.0 += u64::from(run.rows);
        }
        for run in batch_runs(batch) {
            let Some(entry) = self.entries.get_mut(&run.producer) else {
                continue;
            };
            if entry.reflects < position {
                self.by_use.remove(&(entry.reflects, run.producer));
                self.by_use.insert((position, run.producer));
                entry.reflects = position;
            }
        }
    }

    pub(super) fn forget(&mut self, position: Position, producer: ProducerId) {
        if self.entries.get(&producer).is_some_and(|entry| entry.reflects < position)
            && let Some(entry) = self.entries.remove(&producer)
        {
            self.by_use.remove(&(entry.reflects, producer));
            self.memory_bytes -= entry.window.memory_bytes();
        }
    }

    pub(super) fn put(&mut self, producer: ProducerId, entry: Producer) {
        self.by_use.insert((entry.reflects, producer));
        self.memory_bytes += entry.window.memory_bytes();
        self.entries.insert(producer, entry);
    }
}

impl Producer {
    /// The lowest version that has room for what its window holds.
    pub(super) fn version(&self) -> u8 {
        let of = |run: &Run| run.waits.map_or(1, |waits| 2 + u8::from(waits.prepared));
        self.window.runs.values().map(of).max().unwrap_or(1)
    }

    /// Version 1 has no times, version 2 no decisions that are waited for.
    pub(super) fn encode(&self, to: &mut Writer, version: u8) {
        let kept = self.window.runs.len() - usize::from(planted::is(Bug::CheckpointForgetsWindow) && !self.window.runs.is_empty());
        to.u64(self.reflects.0)
            .u64(self.window.highest.map_or(u64::MAX, |highest| highest.0))
            .count(kept);
        for (first, run) in self.window.runs.iter().take(kept) {
            to.u64(*first)
                .u32(run.count)
                .u64(run.queue.topic.0)
                .u16(run.queue.index.0)
                .u64(run.first_offset.0);
            if version > 1 {
                let kind = run.waits.map_or(0, |waits| 1 + u8::from(waits.prepared));
                to.u8(kind).i64(run.waits.map_or(0, |waits| waits.due_ms));
            }
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let reflects = Position(from.u64()?);
        let highest = Some(from.u64()?).filter(|highest| *highest != u64::MAX).map(Sequence);
        let mut runs = BTreeMap::new();
        for _ in 0..from.count(30)? {
            let (first, count) = (from.u64()?, from.u32()?);
            let queue = QueueId {
                topic: TopicId(from.u64()?),
                index: QueueIndex(from.u16()?),
            };
            let first_offset = QueueOffset(from.u64()?);
            let waits = match version {
                1 => None,
                _ => {
                    let (kind, due_ms) = (from.u8()?, from.i64()?);
                    let prepared = version > 2 && kind == 2;
                    (kind > 0).then_some(Waits { due_ms, prepared })
                }
            };
            runs.insert(
                first,
                Run {
                    count,
                    queue,
                    first_offset,
                    waits,
                },
            );
        }
        Ok(Self {
            reflects,
            window: Window { highest, runs },
        })
    }
}

/// How many messages a batch holds, read from its header: what is appended was admitted before.
pub(crate) fn batch_count(batch: &Bytes) -> u32 {
    number_at(batch, 12)
}

/// Who sent the messages of a batch, read from its fixed parts: what is appended was admitted before.
pub(crate) fn batch_runs(batch: &Bytes) -> impl Iterator<Item = BatchRun> + '_ {
    let mut runs = Reader::new(batch.get(HEADER_BYTES..).unwrap_or_default());
    (0..number_at(batch, 16)).map_while(move |_| {
        let run = BatchRun {
            producer: ProducerId(runs.u128().ok()?),
            first_sequence: Sequence(runs.u64().ok()?),
            rows: runs.u32().ok()?,
        };
        runs.u32().ok()?;
        Some(run)
    })
}

fn number_at(batch: &Bytes, at: usize) -> u32 {
    batch
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map_or(0, |bytes| u32::from_le_bytes(*bytes))
}
