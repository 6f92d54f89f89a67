//! What is written and when it is durable: records on their way into frames, one write at a time, and effects held until their sync.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sluice_log::{FRAME_HEADER_BYTES, RECORD_LENGTH_BYTES, frame_bytes};
use sluice_protocol::ids::Position;

use crate::effect::Effect;
use crate::planted::{self, Bug};

/// The records of one frame to be.
#[derive(Debug)]
struct Frame {
    position: Position,
    records: Vec<Bytes>,
    payload_bytes: u64,
}

impl Frame {
    fn starting_at(position: Position) -> Self {
        Self {
            position,
            records: Vec::new(),
            payload_bytes: 0,
        }
    }

    fn end(&self) -> Position {
        Position(self.position.0 + frame_bytes(self.records.iter().map(Bytes::len)))
    }
}

/// The log as the core sees it: where the next record comes to lie, up to where all is durable, and what waits for that.
#[derive(Debug)]
pub(crate) struct Journal {
    /// All before this is durable.
    synced: Position,
    /// The end of the write under way.
    writing: Option<Position>,
    /// Full frames that wait for the write under way.
    closed: VecDeque<Frame>,
    /// The frame that takes the next record.
    open: Frame,
    /// When a frame is full.
    frame_records_bytes: u64,
    /// Whether the last frame written holds records and nothing was written after it.
    uncovered: bool,
    /// When the last write was synced.
    synced_mono_ms: u64,
    /// Effects by the position they depend on, in the order they were made.
    held: BTreeMap<(Position, u64), Effect>,
    held_count: u64,
    ready: VecDeque<Effect>,
}

impl Journal {
    pub(crate) fn new(frame_records_bytes: u64) -> Self {
        Self {
            synced: Position::default(),
            writing: None,
            closed: VecDeque::new(),
            open: Frame::starting_at(Position::default()),
            frame_records_bytes,
            uncovered: false,
            synced_mono_ms: 0,
            held: BTreeMap::new(),
            held_count: 0,
            ready: VecDeque::new(),
        }
    }

    /// All before `next` is durable and the next frame begins there.
    pub(crate) fn start(&mut self, next: Position) {
        self.synced = next;
        self.open = Frame::starting_at(next);
    }

    /// Where the record that is added next comes to lie.
    pub(crate) fn next_record(&mut self) -> Position {
        if self.open.payload_bytes >= self.frame_records_bytes {
            let next = Frame::starting_at(self.open.end());
            self.closed.push_back(std::mem::replace(&mut self.open, next));
        }
        Position(self.open.position.0 + FRAME_HEADER_BYTES + self.open.payload_bytes)
    }

    /// Where a record comes to lie that is added to the frame of the last one, so that a crash leaves both or none.
    pub(crate) fn same_frame(&mut self) -> Position {
        match self.open.records.is_empty() {
            true => self.next_record(),
            false => Position(self.open.position.0 + FRAME_HEADER_BYTES + self.open.payload_bytes),
        }
    }

    /// Adds a record at the place that [`Journal::next_record`] or [`Journal::same_frame`] told.
    pub(crate) fn add(&mut self, record: Bytes) {
        self.open.payload_bytes += RECORD_LENGTH_BYTES + record.len() as u64;
        self.open.records.push(record);
    }

    /// Where the frame begins that takes the next record: replay from there meets every later record.
    pub(crate) fn frame_position(&self) -> Position {
        self.open.position
    }

    /// Planted in [`Core::checkpoint_step`](crate::Core): one frame too late.
    pub(crate) fn next_frame_position(&self) -> Position {
        self.open.end()
    }

    /// The position whose sync covers every record so far; zero when all are durable.
    pub(crate) fn last(&self) -> Position {
        if !self.open.records.is_empty() {
            Position(self.open.position.0 + FRAME_HEADER_BYTES + self.open.payload_bytes - 1)
        } else if !self.closed.is_empty() || self.writing.is_some() {
            Position(self.open.position.0 - 1)
        } else {
            Position::default()
        }
    }

    /// Whether the record at this position is durable; zero always is.
    pub(crate) fn is_durable(&self, position: Position) -> bool {
        position < self.synced || position == Position::default() || planted::is(Bug::ConfirmBeforeSync)
    }

    /// Hands an effect to the shell as soon as the record at `depends` is durable; zero depends on nothing.
    pub(crate) fn release(&mut self, depends: Position, effect: Effect) {
        if self.is_durable(depends) {
            self.ready.push_back(effect);
        } else {
            self.held_count += 1;
            self.held.insert((depends, self.held_count), effect);
        }
    }

    /// The next effect for the shell.
    pub(crate) fn poll(&mut self) -> Option<Effect> {
        self.ready.pop_front()
    }

    /// The log is durable up to `end`.
    pub(crate) fn synced(&mut self, end: Position, mono_ms: u64) {
        self.synced = self.synced.max(end);
        if self.writing.is_some_and(|writing| writing <= end) {
            self.writing = None;
            self.synced_mono_ms = mono_ms;
        }
        while let Some(entry) = self.held.first_entry() {
            if entry.key().0 >= self.synced {
                break;
            }
            self.ready.push_back(entry.remove());
        }
    }

    /// Closes the turn: asks for the next write unless one is under way.
    pub(crate) fn write(&mut self) {
        if self.writing.is_some() {
            return;
        }
        let frame = match self.closed.pop_front() {
            Some(frame) => frame,
            None if !self.open.records.is_empty() => {
                let next = Frame::starting_at(self.open.end());
                std::mem::replace(&mut self.open, next)
            }
            None => return,
        };
        self.uncovered = true;
        self.emit(frame);
    }

    /// Asks for an empty frame when the last one is not covered by a later one yet and nothing else is to be written.
    pub(crate) fn cover(&mut self) {
        if self.uncovered && self.writing.is_none() && self.closed.is_empty() && self.open.records.is_empty() {
            let next = Frame::starting_at(self.open.end());
            let frame = std::mem::replace(&mut self.open, next);
            self.uncovered = false;
            self.emit(frame);
        }
    }

    /// When an idle log is due to be covered, in milliseconds on the monotonic clock.
    pub(crate) fn cover_mono_ms(&self) -> Option<u64> {
        let idle = self.uncovered && self.writing.is_none() && self.closed.is_empty() && self.open.records.is_empty();
        idle.then_some(self.synced_mono_ms + crate::limits::IDLE_MS)
    }

    /// Whether nothing is to be written, under way or held.
    pub(crate) fn is_quiet(&self) -> bool {
        self.writing.is_none() && self.closed.is_empty() && self.open.records.is_empty() && self.held.is_empty()
    }

    fn emit(&mut self, frame: Frame) {
        self.writing = Some(frame.end());
        self.ready.push_back(Effect::Write {
            position: frame.position,
            records: frame.records,
        });
    }
}
