//! What the core counts since it started, for metrics and simulation.

/// How often things happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages stored, dead letters not included.
    pub published: u64,
    /// Messages taken that wait for their time.
    pub delayed: u64,
    /// Of these, and of those that were committed, messages that were due and were released.
    pub released: u64,
    /// Messages recalled before they were due.
    pub recalled: u64,
    /// Messages that waited for their time in a topic that was deleted.
    pub delays_dropped: u64,
    /// Messages that were due and could not be read; each is tried again.
    pub due_unreadable: u64,
    /// Files of far-off messages written, ...
    pub parts_written: u64,
    /// ... not written for want of room or because something could not be read, ...
    pub parts_failed: u64,
    /// ... and dropped, since nothing of them is needed any more.
    pub parts_dropped: u64,
    /// Far-off messages that came near.
    pub taken_in: u64,
    /// Messages taken that wait for a decision.
    pub prepared: u64,
    /// Of these, messages that were committed.
    pub committed: u64,
    /// Messages that were rolled back.
    pub rolled_back: u64,
    /// Asks about prepared messages that were delivered to a producer.
    pub asks_delivered: u64,
    /// Asks that could not be delivered; each is tried again.
    pub asks_undelivered: u64,
    /// Messages that were rolled back because nobody decided.
    pub given_up: u64,
    /// Of these, messages that an operator committed.
    pub revived: u64,
    /// Messages that waited for a decision in a topic that was deleted.
    pub undecided_dropped: u64,
    /// Messages that a retried send found stored already.
    pub duplicates: u64,
    /// Messages handed out, every attempt counted.
    pub granted: u64,
    /// Of these, second and later attempts.
    pub redelivered: u64,
    /// Messages acknowledged.
    pub settled: u64,
    /// Leases returned because the consumer asked for another delivery.
    pub returned_nacked: u64,
    /// Leases returned because their time was over.
    pub returned_expired: u64,
    /// Leases returned because their connection was lost.
    pub returned_lost: u64,
    /// Leases returned in good order.
    pub returned_closed: u64,
    /// Messages that operators skipped for a group.
    pub skipped: u64,
    /// Messages that expired before a group took or settled them.
    pub expired: u64,
    /// Messages stored in a dead-letter topic.
    pub dead_lettered: u64,
    /// Messages whose evaluation was an error.
    pub evaluation_errors: u64,
    /// Runs that could not be judged.
    pub judge_failures: u64,
    /// Of these, runs that the wall-clock backstop stopped.
    pub runs_stopped: u64,
    /// Messages on which a plugin failed, by how: it trapped, ...
    pub culprits_trapped: u64,
    /// ... used up its fuel, ...
    pub culprits_out_of_fuel: u64,
    /// ... wanted too much memory, ...
    pub culprits_out_of_memory: u64,
    /// ... or answered what is no answer.
    pub culprits_bad_answer: u64,
    /// Of these messages, those that were decided about.
    pub culprits_decided: u64,
    /// Subscriptions held for the fault of a plugin.
    pub alarms: u64,
    /// Messages that a group had not settled when retention took them.
    pub lost_to_retention: u64,
    /// Producers forgotten to keep within the memory limit.
    pub producers_forgotten: u64,
    /// Ids that producers gave their messages, forgotten before their time to keep within the memory limit.
    pub given_ids_forgotten: u64,
    /// Requests refused.
    pub refused: u64,
}
