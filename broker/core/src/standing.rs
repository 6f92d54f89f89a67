//! What one message is for one group: which step decided about it so far.

use sluice_log::record::{Filter, OnFailure};
use sluice_protocol::ids::{Digest, GroupId, Pass, QueueId, QueueOffset};

use crate::effect::{AlarmInfo, LeaseState, PauseInfo, Rule};

/// What a message is for a group, and what it takes to find out more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The topic's name; `None` when it was deleted.
    pub topic: Option<String>,
    /// The group, if there is one.
    pub group: Option<GroupId>,
    /// The step that decided.
    pub step: Step,
    /// What the group asks of the topic now, if it reads it.
    pub ruling: Option<Ruling>,
    /// The queue of the group's dead letters with its ends, if it has any.
    pub letters: Option<(QueueId, QueueOffset, QueueOffset)>,
}

/// What a group asks of a topic now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The filter.
    pub filter: Filter,
    /// What is asked of the plugin; `None` takes every message.
    pub rule: Option<Rule>,
    /// Whether another filter ruled before.
    pub superseded: bool,
    /// What becomes of a message on which the plugin fails.
    pub on_failure: OnFailure,
    /// When the version of the plugin was bound (wall clock, milliseconds); 0 without a plugin.
    pub bound_wall_ms: i64,
    /// The present pass over the message's queue.
    pub pass: Pass,
}

/// The step that decided about a message.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is no such group.
    NoGroup,
    /// The group does not read the topic, or not this queue of it.
    NeverRead,
    /// It was delayed or prepared and does not wait any more: it was recalled, rolled back or released.
    Left,
    /// Retention took it; the queue begins at `start` now.
    Gone { start: QueueOffset },
    /// The pass began behind it: the first one at the group's start, a later one where a seek or a purge went.
    BeforeStart { pass: Pass, start: QueueOffset },
    /// It is handed out, waits for another delivery or is held.
    Open(LeaseState),
    /// A plugin failed on it, and nothing is decided yet.
    SetAside { digest: Digest, reason: String },
    /// The group has not come to it.
    Waiting(Waiting),
    /// The group is done with it: it was settled, dead-lettered, or the filter did not let it pass.
    Over,
}

/// What a message waits for that was neither handed out nor passed over.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// An operator paused the group.
    Paused(PauseInfo),
    /// The group is held for the fault of a plugin.
    Alarm(AlarmInfo),
    /// No member is connected.
    Members,
    /// Nothing could be judged the last time; it is tried again.
    Retrial { reason: String },
    /// What comes before it is being judged, or it is.
    Verdict,
    /// Another message of its message group, in an ordered group.
    Order,
    /// Another message of its message group, in an ordered group: in a queue where their message group was before the topic grew.
    Growth,
    /// It is to be delivered, once a member takes it.
    Demand,
    /// Its time: it is delayed and has no place in a queue yet. Wall clock, milliseconds; 0 where it is released at once.
    Due { at_wall_ms: i64 },
    /// It is prepared, and nobody decided about it.
    Decision,
}
