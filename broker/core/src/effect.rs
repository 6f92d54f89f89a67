//! Everything the core asks of the world, in one enum: what to write, judge, deliver and answer.

use bytes::Bytes;
use sluice_log::record::{
    CursorId, Due, Filter, GroupSettings, Holder, LeaseRange, OffsetRange, OnFailure, PartId, PluginLimits, ReturnReason, TopicSettings,
};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{Digest, GroupId, Pass, Position, QueueId, QueueOffset, Sequence, TopicId};

pub use crate::copied::{Copied, DeadLetter, RolledBack};
use crate::input::{LeasePlace, RequestId, SubscriptionId};
pub use crate::parts::{FoundIn, PartDone, PartJobId, PartRead, PartSource, PartWork};
use crate::receipt::{RECALL_BYTES, TRANSACTION_BYTES};
use crate::standing::Standing;
use crate::state::transaction::Undecided;

/// Names one `Effect::Judge` until its verdicts come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JudgeId(pub u64);

/// Names one `Effect::Fetch` until its message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FetchId(pub u64);

/// Names one `Effect::Locate` until its offset comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LocateId(pub u64);

/// Names one `Effect::Ask` until the shell says whether it was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// What the core wants done. Each is released only when all it depends on is synced, so the shell may act on it at once.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug)]
pub enum Effect {
    /// Write these encoded records as one frame at `position` and sync it; answered by `Input::Synced` with the frame's end.
    /// At most one is under way. No records at all ask for an empty frame.
    Write { position: Position, records: Vec<Bytes> },
    /// Judge the stored messages `from..to` of a queue that are meant; answered by `Input::Verdicts`, which may end earlier and must before
    /// more than `deliver_max` messages match. Without a rule every message that is meant matches.
    Judge {
        judge: JudgeId,
        cursor: CursorId,
        rule: Option<Rule>,
        among: Among,
        /// Whether the verdicts are to say until when each message that matches lives: then how long those of the topic do.
        ttl: Option<TopicTtl>,
        from: QueueOffset,
        to: QueueOffset,
        deliver_max: u64,
    },
    /// Read these messages and hand them to their taker.
    Deliver(Delivery),
    /// Answer a request, once.
    Answer {
        request: RequestId,
        answer: Result<Answer, Refusal>,
    },
    /// A stream ended by the broker's will: no further delivery follows on it.
    StreamEnded { subscription: SubscriptionId, refusal: Refusal },
    /// A seek voided what was pushed on this queue of the stream; numbers go on from 1 under the new pass.
    StreamReset {
        subscription: SubscriptionId,
        queue: QueueId,
        pass: Pass,
    },
    /// Read one message and make a copy of it; answered by `Input::Fetched`, or by `Input::FetchFailed`.
    Fetch {
        fetch: FetchId,
        source: QueueId,
        offset: QueueOffset,
        copy: Copied,
    },
    /// Ask a live producer of the topic what becomes of a prepared message; answered by `Input::Asked` once it was delivered to one, or by
    /// `Input::NotAsked`. What that producer says comes as any decision does.
    Ask(Ask),
    /// Read these messages of a calendar, in the order in which they are due; answered by `Input::DueFetched`. What is not in the log is in
    /// one of the parts.
    FetchDue {
        fetch: FetchId,
        calendar: QueueId,
        messages: Vec<Due>,
        parts: Vec<PartId>,
    },
    /// Do something with the parts of the calendar; answered by `Input::Part`, but for a removal.
    Parts(PartWork),
    /// Find the first offset of a queue stored at `wall_ms` or later; answered by `Input::Located`.
    Locate { locate: LocateId, queue: QueueId, wall_ms: i64 },
    /// Part of a checkpoint.
    Checkpoint(CheckpointStep),
}

/// Which of the messages at some offsets are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Among {
    /// All of them; none has a priority.
    All,
    /// Those of this priority.
    Priority(u8),
    /// All of them, and the verdicts are to say the message group and the priority of each that matches.
    Ordered,
}

/// How long the messages of a topic live once they are stored, in milliseconds; 0 for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TopicTtl(pub u64);

impl TopicTtl {
    /// From when on a message is not handed out any more that was stored at `stored_wall_ms` and has `own_ms` to live, 0 for ever: the sooner
    /// of the two counts, so that what an operator set for the topic holds whatever its producers say. Wall clock, milliseconds.
    pub fn expires_ms(self, own_ms: u64, stored_wall_ms: i64) -> Option<i64> {
        let shortest_ms = [self.0, own_ms].into_iter().filter(|ttl_ms| *ttl_ms > 0).min()?;
        Some(stored_wall_ms.saturating_add_unsigned(shortest_ms))
    }
}

/// Which filter rules: the plugin version and the expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The version of the plugin.
    pub digest: Digest,
    /// What that version may use.
    pub limits: PluginLimits,
    /// What it is asked.
    pub expression: String,
}

/// Messages of one queue for one taker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Who gets them.
    pub taker: Taker,
    /// The group and queue.
    pub cursor: CursorId,
    /// The pass under which they are leased.
    pub pass: Pass,
    /// The messages and which attempt each is, in the order of delivery.
    pub leases: Vec<LeaseRange>,
}

/// Where a delivery goes.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taker {
    /// The answer to a receive: one receipt handle for each message, in order.
    Receive { request: RequestId, handles: Vec<Bytes> },
    /// Pushed on a stream: the messages are numbered from `first_number` on this queue and pass.
    Stream { subscription: SubscriptionId, first_number: u64 },
}

/// A prepared message about which a producer is to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Which ask this is.
    pub ask: AskId,
    /// The topic's name.
    pub topic: String,
    /// Where the message is: in the calendar queue of its topic, under its number.
    pub place: (QueueId, QueueOffset),
    /// What decides about it.
    pub handle: [u8; TRANSACTION_BYTES],
    /// What is known of it: how often somebody was asked before, among others.
    pub undecided: Undecided,
}

/// A checkpoint is begun, filled slice by slice between turns, and finished. The shell answers the finish alone.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckpointStep {
    /// Replay after this checkpoint begins at `replay_from`.
    Begin { replay_from: Position },
    /// Some encoded state entries, each with the position it reflects inside.
    Slice { entries: Vec<Bytes> },
    /// Make it durable; answered by `Input::Checkpointed`.
    Finish,
}

/// What a request gets when it is not refused.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Where the messages are, one entry for each run of neighbours, in the order of the batches; and the batches that were refused whole,
    /// ascending, each by its number among those of the request.
    Stored {
        runs: Vec<StoredRun>,
        refused: Vec<(u32, Refusal)>,
    },
    /// The stream is open.
    Subscribed { topic: TopicId, queues: u16 },
    /// One result for each handle, or one for a stream's settlement.
    Settled { results: Vec<Result<(), Refusal>> },
    /// A receive waited in vain.
    NothingReceived,
    /// Done, nothing to say.
    Done,
    /// Some topics, and from where there are more.
    Topics { topics: Vec<TopicInfo>, next: Option<TopicId> },
    /// What is kept of some topics, and from where there are more.
    Kept { topics: Vec<KeptTopic>, next: Option<TopicId> },
    /// The name of a topic.
    TopicName { name: Option<String> },
    /// One topic.
    Topic { topic: TopicInfo, queues: Vec<QueueInfo> },
    /// Some groups, and from where there are more.
    Groups { groups: Vec<GroupInfo>, next: Option<GroupId> },
    /// One group, with its subscriptions, cursors and members on some topics, and from where there are more.
    Group {
        group: Box<GroupInfo>,
        cursors: Vec<CursorInfo>,
        members: Vec<MemberInfo>,
        next: Option<TopicId>,
    },
    /// The bindings.
    Plugins { plugins: Vec<PluginInfo> },
    /// The message is settled for the group; what it was before.
    Skipped { was: MessageState },
    /// So many messages were passed over.
    Purged { messages: u64 },
    /// The dead letters of a group that were not dealt with, and from where there are more. Without a queue it has none.
    OpenLetters {
        queue: Option<QueueId>,
        ranges: Vec<OffsetRange>,
        next: Option<QueueOffset>,
    },
    /// Of the dead letters named: sent back; dealt with because their group has the messages before it anyway; left because they are no longer
    /// where they came from, or because the group holds as many as it may.
    LettersDealt { back: u64, under_way: u64, gone: u64, left: u64 },
    /// So many dead letters were discarded, and from where there are more.
    LettersDiscarded { letters: u64, next: Option<QueueOffset> },
    /// Messages of a topic that wait for a decision, and those that were given up; from where there are more.
    Transactions {
        topic: TopicId,
        transactions: Vec<TransactionInfo>,
        next: Option<QueueOffset>,
    },
    /// What a group holds, in the order of queues and offsets, and from where there is more.
    Leases { leases: Vec<LeaseInfo>, next: Option<LeasePlace> },
    /// What a message is for a group.
    Standing(Box<Standing>),
}

/// What a message is for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    /// Neither handed out nor passed over.
    Free,
    /// Handed out.
    Leased,
    /// Waiting for another delivery.
    Retrying,
    /// Held for the failure of a plugin.
    Held,
    /// Settled or passed over.
    Over,
}

/// Neighbouring messages that are handed out, wait for another delivery or are held, as operators see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The topic's name.
    pub topic: String,
    /// Which queue.
    pub queue: QueueId,
    /// The messages.
    pub offsets: OffsetRange,
    /// What they are.
    pub state: LeaseState,
}

/// What is known of messages that are not over.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Handed out, as this attempt, until then (wall clock, milliseconds).
    Leased { holder: Holder, attempt: u16, until_wall_ms: i64 },
    /// Came back after so many attempts and may go out again from then on; `None` after the last attempt.
    Retrying {
        attempts: u16,
        due_wall_ms: Option<i64>,
        reason: ReturnReason,
    },
    /// Held for the failure of a plugin.
    Held,
}

/// Neighbours, of one batch or several, that lie side by side in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredRun {
    /// The sequence of the first.
    pub first_sequence: Sequence,
    /// How many.
    pub count: u32,
    /// The queue.
    pub queue: QueueId,
    /// The offset of the first.
    pub first_offset: QueueOffset,
    /// Whether it had been stored by an earlier try.
    pub duplicate: bool,
    /// Of a delayed message, which is a run of its own, what recalls it: then queue and offset are those of the calendar.
    pub recall: Option<Recall>,
    /// Of a prepared message, which is a run of its own, what commits it or rolls it back: then, too, they are those of the calendar.
    pub transaction: Option<[u8; TRANSACTION_BYTES]>,
}

/// What a delayed message is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recall {
    /// When it is due: wall clock, milliseconds.
    pub due_ms: i64,
    /// What recalls it.
    pub handle: [u8; RECALL_BYTES],
}

/// A prepared message as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionInfo {
    /// Its number, from which a page goes on.
    pub number: QueueOffset,
    /// What commits it or rolls it back.
    pub handle: [u8; TRANSACTION_BYTES],
    /// Where it is stored.
    pub place: (QueueId, QueueOffset),
    /// What is known of it while it waits; `None` when it was given up.
    pub undecided: Option<Undecided>,
    /// When a producer is asked about it next (wall clock, milliseconds); `None` when nobody is any more.
    pub next_ask_wall_ms: Option<i64>,
}

/// A topic as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicInfo {
    /// Its incarnation.
    pub id: TopicId,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: TopicSettings,
    /// When it was created (wall clock, milliseconds).
    pub created_wall_ms: i64,
    /// Messages stored, over all queues.
    pub messages: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Prepared messages that wait for a decision.
    pub undecided: u64,
}

/// A topic as retention sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptTopic {
    /// Its incarnation.
    pub id: TopicId,
    /// Its settings.
    pub settings: TopicSettings,
    /// The first offset that is kept of each of its queues, by index.
    pub starts: Vec<QueueOffset>,
    /// The first that is kept of its calendar queue.
    pub calendar_start: QueueOffset,
}

/// A queue as operators see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueInfo {
    /// Which queue.
    pub queue: QueueId,
    /// The first stored offset.
    pub start: QueueOffset,
    /// One past the last stored offset.
    pub end: QueueOffset,
}

/// A group as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupInfo {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: GroupSettings,
    /// Topics it reads, and by which filter: in a list the first few, in a description those of the page.
    pub subscriptions: Vec<(String, Filter)>,
    /// How many topics it reads.
    pub subscription_count: u32,
    /// How many members are connected.
    pub members: u32,
    /// Messages not yet settled or skipped, over all cursors; in a description over those of the page.
    pub lag: u64,
    /// The topics in which nothing is judged before the group is resumed.
    pub alarms: Vec<AlarmInfo>,
    /// Where an operator paused it: in all topics, or in some of those above.
    pub pauses: Vec<PauseInfo>,
}

/// A pause as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseInfo {
    /// The topic; `None` for all.
    pub topic: Option<String>,
    /// Since when (wall clock, milliseconds).
    pub since_wall_ms: i64,
    /// The name that the operator's client gave.
    pub by: String,
}

/// A plugin's fault as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlarmInfo {
    /// The topic.
    pub topic: String,
    /// The version of the plugin.
    pub digest: Digest,
    /// How it failed.
    pub reason: String,
    /// Since when the group is held there (wall clock, milliseconds).
    pub since_wall_ms: i64,
}

/// A group's place in one queue as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CursorInfo {
    /// The topic's name.
    pub topic: String,
    /// Which queue.
    pub queue: QueueId,
    /// The pass.
    pub pass: Pass,
    /// The lowest unsettled offset.
    pub cursor: QueueOffset,
    /// The frontier.
    pub frontier: QueueOffset,
    /// The end of the queue.
    pub end: QueueOffset,
    /// Messages leased.
    pub leased: u64,
    /// Messages waiting for another delivery.
    pub retrying: u64,
    /// Messages matched and waiting to be leased.
    pub matched: u64,
    /// Messages that an ordered group has found and that wait for those before them in their message group, or for a member.
    pub parked: u64,
    /// Messages whose evaluation failed since the broker started.
    pub failed: u64,
    /// Messages that expired since the broker started.
    pub expired: u64,
    /// Messages that retention took before the group was done with them.
    pub lost: u64,
    /// Messages on which a plugin failed and about which nothing is decided yet.
    pub set_aside: u64,
    /// Messages on which a plugin failed and that are held.
    pub culprits_held: u64,
    /// Why nothing is judged at present, when that is so.
    pub held: Option<String>,
}

/// A member as operators see it: one that is connected or holds something, or one of a broadcast group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberInfo {
    /// Its name.
    pub name: String,
    /// The topic it reads.
    pub topic: String,
    /// Messages it holds.
    pub leased: u64,
    /// In a broadcast group, what the member has not settled; 0 in others, where that is the group's.
    pub lag: u64,
    /// In a broadcast group, since when the member has neither a stream nor a receive there, if so (wall clock, milliseconds).
    pub absent_since_wall_ms: Option<i64>,
}

/// A binding as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginInfo {
    /// The name that subscriptions use.
    pub name: String,
    /// The version that serves it.
    pub digest: Digest,
    /// What it may use.
    pub limits: PluginLimits,
    /// What becomes of a message on which it fails though it judges others.
    pub on_failure: OnFailure,
    /// When it was bound (wall clock, milliseconds).
    pub bound_wall_ms: i64,
}
