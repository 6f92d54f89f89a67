//! What the log's frames hold: one record for each change of state, and nothing that is not one.

mod codec;
mod dealt;
mod delay;
mod expiry;
mod failure;
mod fields;
mod flow;
mod given_ids;
mod kind;
mod lanes;
mod operated;
mod parts;
mod restoration;
mod sharing;
mod stored;
mod transaction;

use bytes::Bytes;
use sluice_protocol::ids::{Attempt, Digest, Epoch, GroupId, Pass, ProducerId, QueueId, QueueOffset, TopicId};
use sluice_protocol::units::Now;

pub use codec::{RECORD_HEADER_BYTES, RecordError, peek};
pub use dealt::before_release;
pub(crate) use dealt::{concerns, dealt};
pub use expiry::{Deadline, OnExpired, put_deadlines, put_lifetime, take_deadlines, take_lifetime};
pub use given_ids::{GivenId, GivenIds};
pub use kind::kind_name;
pub use lanes::{OLDEST_EVERY, OnExhausted, Parked, put_extension, put_parked, take_extension, take_parked};
pub use operated::{Operated, Operation, SentBack};
pub use parts::{FarOff, PartChange, PartFacts, PartId, put_far_off, take_far_off};
pub use restoration::{Restoration, put_restoration, take_restoration};
pub use sharing::{Sharing, put_sharing, take_sharing};
pub(crate) use stored::{Origin, StoredBatch, stored};
pub use transaction::{Asked, Prepared, Transaction};

/// One change of state. `State::apply(position, &record)` in the core is the only reader that acts on it.
///
/// Every record carries the instant at which it was made; along the log these stamps never decrease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the core made it.
    pub at: Now,
    /// What changed.
    pub change: Change,
}

/// The kinds of change. The codec gives each a number that is never used again for another.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The broker started: what was leased to a stream connection of an earlier epoch is no longer held by anyone.
    Opened { epoch: Epoch },
    /// A topic came to be, empty.
    TopicCreated {
        topic: TopicId,
        name: String,
        settings: TopicSettings,
    },
    /// A topic and all that is in it went.
    TopicDeleted { topic: TopicId },
    /// A consumer group came to be.
    GroupCreated {
        group: GroupId,
        name: String,
        settings: GroupSettings,
    },
    /// A consumer group and its cursors went.
    GroupDeleted { group: GroupId },
    /// A group began to read a topic, or reads it by another expression from each cursor's frontier on.
    /// `starts` holds the first offset of each queue that the group did not read before.
    Subscribed {
        group: GroupId,
        topic: TopicId,
        filter: Filter,
        starts: Vec<QueueStart>,
    },
    /// A version of a plugin serves a name from here on.
    PluginBound {
        name: String,
        digest: Digest,
        limits: PluginLimits,
        on_failure: OnFailure,
    },
    /// Messages were stored at the end of a queue: a whole flat batch, its first row at `first`.
    Appended { queue: QueueId, first: QueueOffset, batch: Bytes },
    /// Messages were taken that wait in the topic's calendar for their time: a whole flat batch, its first row with the number `first`.
    Delayed {
        topic: TopicId,
        first: QueueOffset,
        /// When each is due (wall clock, milliseconds): one for each row.
        due_ms: Vec<i64>,
        batch: Bytes,
    },
    /// Messages that were due left the calendar of their topic for the end of a queue.
    Released {
        queue: QueueId,
        first: QueueOffset,
        /// What they were in the calendar: one for each row.
        due: Vec<Due>,
        batch: Bytes,
    },
    /// A message that waited for its time will not be released.
    Recalled { topic: TopicId, due: Due },
    /// Messages of one lane were handed out, or looked at and skipped up to `frontier`.
    Granted {
        cursor: CursorId,
        pass: Pass,
        /// Whose lane it is; 0 in an ordered group, which has one lane.
        priority: u8,
        holder: Holder,
        leases: Vec<LeaseRange>,
        /// The first offset neither leased, parked nor skipped, after this grant.
        frontier: QueueOffset,
        /// On the monotonic clock.
        expires_mono_ms: u64,
    },
    /// The frontier of a lane moved over messages that the filter rejected, or that an ordered group parked; or the lane came to be.
    FrontierMoved {
        cursor: CursorId,
        pass: Pass,
        /// Whose lane it is.
        priority: u8,
        frontier: QueueOffset,
        /// What an ordered group has found since, ascending.
        parked: Vec<Parked>,
    },
    /// Leased messages were acknowledged.
    Settled {
        cursor: CursorId,
        pass: Pass,
        offsets: Vec<OffsetRange>,
    },
    /// Leased messages came back and will be handed out again once `due_mono_ms` is reached.
    Returned {
        cursor: CursorId,
        pass: Pass,
        leases: Vec<LeaseRange>,
        due_mono_ms: u64,
        reason: ReturnReason,
    },
    /// The time at which leases end was moved.
    Extended {
        cursor: CursorId,
        pass: Pass,
        offsets: Vec<OffsetRange>,
        expires_mono_ms: u64,
    },
    /// A message had its last attempt: it is settled at its origin and its copy stored at the end of a dead-letter queue.
    DeadLettered {
        cursor: CursorId,
        pass: Pass,
        offset: QueueOffset,
        to: QueueId,
        at_offset: QueueOffset,
        batch: Bytes,
    },
    /// A new pass began at these offsets, without leases, retries and attempts.
    Sought {
        group: GroupId,
        topic: TopicId,
        pass: Pass,
        starts: Vec<QueueStart>,
    },
    /// Retention moved the logical start of a queue. Each group that loses messages by it, which were not over for it, is here with how many.
    Trimmed {
        queue: QueueId,
        start: QueueOffset,
        lost: Vec<(GroupId, u64)>,
    },
    /// A producer's window of sequences was dropped to keep within the memory limit.
    ProducerForgotten { producer: ProducerId },
    /// A message on which a plugin fails though it judges others got what the binding says.
    CulpritDecided {
        cursor: CursorId,
        pass: Pass,
        /// Whose lane it is in.
        priority: u8,
        offset: QueueOffset,
        /// The version that failed on it.
        digest: Digest,
        /// How it failed.
        reason: String,
        fate: Fate,
    },
    /// The fault is the plugin's: nothing is judged for the group in this topic before it is resumed.
    SubscriptionHeld {
        group: GroupId,
        topic: TopicId,
        /// The version that failed.
        digest: Digest,
        /// How it failed.
        reason: String,
    },
    /// The group goes on in this topic: what was set aside or held for a plugin's failure is judged again.
    SubscriptionResumed { group: GroupId, topic: TopicId },
    /// Messages with these priorities (bit n stands for n) are about to be stored between the two offsets of a queue. Recorded before they
    /// are, so that what is stored is never of a priority that the queue does not know of.
    Prioritized {
        queue: QueueId,
        first: QueueOffset,
        end: QueueOffset,
        priorities: u16,
    },
    /// Messages with a time to live of their own are about to be stored between the two offsets of a queue. Recorded before they are, so that
    /// the groups that read them ask for it.
    Expiring {
        queue: QueueId,
        first: QueueOffset,
        end: QueueOffset,
    },
    /// Messages of one lane were found that expire. Recorded before any of them is handed out or parked.
    DeadlinesFound {
        cursor: CursorId,
        pass: Pass,
        /// Whose lane it is.
        priority: u8,
        deadlines: Vec<Deadline>,
    },
    /// Messages of one lane expired while nobody had them.
    Expired {
        cursor: CursorId,
        pass: Pass,
        /// Whose lane it is.
        priority: u8,
        /// The messages and how often each was delivered.
        messages: Vec<LeaseRange>,
        /// What becomes of them: settled, or to be dead-lettered.
        fate: OnExpired,
    },
    /// An operator interfered with a group.
    Operated(Operated),
    /// Something happened to prepared messages.
    Transaction(Transaction),
    /// What is remembered of the ids that producers gave their messages.
    GivenIds(GivenIds),
    /// This log goes on from a backup.
    Restored(Restoration),
    /// Something happened to the parts of the calendar.
    Parts(PartChange),
}

/// A message in the calendar of a topic, in the order of release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Due {
    /// When it is due: wall clock, milliseconds.
    pub at_ms: i64,
    /// Its number in the calendar, which is its offset in the topic's [calendar queue](QueueIndex::CALENDAR).
    pub number: QueueOffset,
}

/// A group's place in one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorId {
    /// The group.
    pub group: GroupId,
    /// The queue it reads.
    pub queue: QueueId,
}

/// Where reading of a queue begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueStart {
    /// The queue, of the topic that the record names.
    pub queue: QueueId,
    /// The first offset to be judged.
    pub offset: QueueOffset,
}

/// Offsets from `first` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct OffsetRange {
    /// The first offset.
    pub first: QueueOffset,
    /// One past the last; greater than `first`.
    pub end: QueueOffset,
}

/// Neighbouring messages that are leased with the same attempt number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseRange {
    /// The messages.
    pub offsets: OffsetRange,
    /// Which delivery this is (or was), from 1.
    pub attempt: Attempt,
}

/// Who holds a lease: a stream's leases end with its connection, a receive's only with time.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Pushed on a stream of the member with this name.
    Stream { member: String },
    /// Fetched by a receive of the member with this name.
    Receive { member: String },
}

/// Why a lease ended without a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnReason {
    /// The consumer asked for another delivery.
    Nacked,
    /// Its invisible time was over.
    Expired,
    /// The connection it was streamed on was lost.
    ConnectionLost,
    /// The member left in good order; the attempt is not counted.
    Closed,
    /// None of that: the message itself expired, and waits to be dead-lettered.
    Outlived,
}

/// What a group asks of a message before it is delivered.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Filter {
    /// Every message, without a plugin.
    All,
    /// What the plugin bound to `plugin` says of `expression`.
    Plugin { plugin: String, expression: String },
}

/// What a plugin may use. Zero never means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    /// Fuel for one call, whatever the number of messages.
    pub fuel_per_run: u64,
    /// Further fuel for each message of the run.
    pub fuel_per_message: u64,
    /// Wall-clock backstop for one call, in milliseconds.
    pub run_ms: u32,
    /// Linear memory of one instance.
    pub memory_bytes: u64,
}

/// What becomes of a message on which a plugin fails though it judges others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// It goes to the group's dead-letter topic with the reason.
    #[default]
    DeadLetter,
    /// It stays where it is and is judged again when the group is resumed.
    Hold,
    /// It is delivered as if it matched.
    Deliver,
    /// It is not delivered.
    Skip,
}

/// What became of such a message.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is settled at its origin and its copy stored at the end of a dead-letter queue.
    DeadLettered { to: QueueId, at_offset: QueueOffset, batch: Bytes },
    /// It stays where it is.
    Held,
    /// It is due for its first delivery.
    Delivered,
    /// It is settled.
    Skipped,
}

/// What belongs to a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSettings {
    /// 1 to 1,024.
    pub queues: u16,
    /// How long messages are kept; 0 keeps them until size rules.
    pub retention_ms: u64,
    /// How many bytes of its messages are kept; 0 sets no bound.
    pub retention_bytes: u64,
    /// How long a message lives once it is stored in its queue, unless it says that it lives shorter; 0 for ever.
    pub ttl_ms: u64,
    /// What becomes of a message that expired.
    pub on_expired: OnExpired,
}

/// What belongs to a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupSettings {
    /// Deliveries in all, the first included, before a message is dead-lettered. 1 or more.
    pub attempts_max: u16,
    /// How long a returned message waits before each further delivery.
    pub backoff: Backoff,
    /// Where a new group begins in a topic.
    pub start: StartPoint,
    /// Whether the messages of one message group are delivered one after the other.
    pub ordered: bool,
    /// What becomes of a message after its last attempt.
    pub on_exhausted: OnExhausted,
    /// One delivery in so many goes to the message that has waited longest, whatever its priority; 0 for none.
    pub oldest_every: u8,
    /// Who gets the messages.
    pub sharing: Sharing,
}

/// The wait before a redelivery.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backoff {
    /// The n-th wait is the n-th entry in milliseconds, the last one for all that follow. Not empty.
    Table { waits_ms: Vec<u64> },
    /// Doubles from `first_ms` up to `max_ms`.
    Exponential { first_ms: u64, max_ms: u64 },
    /// Always the same.
    Fixed { wait_ms: u64 },
}

/// Where reading begins.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartPoint {
    /// At the earliest stored message.
    Earliest,
    /// After the newest.
    Latest,
    /// At the first message stored at this time (wall clock, milliseconds) or later.
    Time { wall_ms: i64 },
}
