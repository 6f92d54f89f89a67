//! What the core asks of the files of far-off messages, and what it is told of them.

use std::collections::BTreeSet;

use sluice_log::record::{FarOff, PartFacts, PartId};
use sluice_protocol::ids::TopicId;

/// Names a question about parts until its answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartJobId(pub u64);

/// What is to be done with the parts of the calendar.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartWork {
    /// Write a new part and sync it, its name included; answered by [`PartDone::Written`].
    Write { part: PartId, source: PartSource },
    /// Tell what a part holds behind `after` and up to `until_ms`, `most` messages at most; answered by [`PartDone::Read`].
    Read {
        job: PartJobId,
        part: PartId,
        after: Option<FarOff>,
        until_ms: i64,
        most: usize,
    },
    /// Tell which of these parts holds a message; answered by [`PartDone::Found`].
    Find {
        job: PartJobId,
        message: FarOff,
        parts: Vec<PartId>,
    },
    /// Remove the file of a part, if there is one. It is not named by anything that is durable any more, or was not yet.
    Remove { part: PartId },
}

/// Where the messages of a new part come from.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartSource {
    /// Out of the log: these messages, ascending.
    Log { messages: Vec<FarOff> },
    /// Out of these parts: what each holds behind its point, but for what is dead and what belongs to topics that are not among these.
    Parts {
        parts: Vec<(PartId, Option<FarOff>)>,
        dead: BTreeSet<FarOff>,
        topics: BTreeSet<TopicId>,
    },
}

/// What became of it.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartDone {
    /// The part is durable, or could not be written and is not there. `left_out` could not be read or found no room in it.
    Written {
        part: PartId,
        facts: Option<PartFacts>,
        left_out: Vec<FarOff>,
    },
    /// These messages follow in the part; `None` when it could not be read.
    Read { job: PartJobId, found: Option<PartRead> },
    /// The part that holds the message.
    Found { job: PartJobId, found: FoundIn },
}

/// What was read of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartRead {
    /// The messages, ascending.
    pub messages: Vec<FarOff>,
    /// How many more were passed over that nobody can name any more.
    pub lost: u64,
    /// The last that was passed over; `None` when none was.
    pub point: Option<FarOff>,
    /// When the next one behind these is due; `None` when there is none.
    pub next_ms: Option<i64>,
}

/// Where a message was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundIn {
    /// In this part.
    Part(PartId),
    /// In none of them.
    None,
    /// One of them could not be read.
    Unreadable,
}
