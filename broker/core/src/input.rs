//! Everything that can happen to the core, in one enum: what a client asks, what the disk and the plugins answer.

use std::sync::Arc;

use bytes::Bytes;
use sluice_log::record::{Filter, GroupSettings, OnFailure, PartId, PluginLimits, StartPoint, TopicSettings};
use sluice_protocol::batch::Batch;
use sluice_protocol::ids::{Digest, GroupId, Pass, Position, QueueId, QueueIndex, QueueOffset, TopicId};

use crate::effect::{AskId, FetchId, JudgeId, LocateId, PartDone};

/// A client's connection, numbered by the shell; never used again within an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One question that wants one answer, numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// One open stream subscription, numbered by the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

/// What the core is told. Names and batches have been checked by admission: the core trusts their form, not their sense.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug)]
pub enum Input {
    /// Store the messages of batches that were admitted, each a publish of its own. Answered by `Answer::Stored`, or a refusal of them all.
    Publish {
        request: RequestId,
        topic: Arc<str>,
        batches: Vec<Batch>,
    },
    /// Open a stream subscription. Answered by `Answer::Subscribed`; ends by itself with `Effect::StreamEnded`.
    Subscribe {
        request: RequestId,
        subscription: SubscriptionId,
        connection: ConnectionId,
        ask: Consume,
        invisible_ms: u64,
    },
    /// Let the stream push so many further messages.
    Credit { subscription: SubscriptionId, messages: u32 },
    /// Settle what was pushed on a stream by delivery numbers.
    SettleStream {
        request: RequestId,
        subscription: SubscriptionId,
        queue: QueueIndex,
        pass: Pass,
        which: Numbers,
        action: Action,
    },
    /// Close a stream in good order: what it still holds is returned without counting an attempt.
    Unsubscribe { request: RequestId, subscription: SubscriptionId },
    /// Take up to `max` messages. Answered by `Effect::Deliver` or, when `wait_ms` have passed, by `Answer::NothingReceived`.
    Receive {
        request: RequestId,
        connection: ConnectionId,
        ask: Consume,
        max: u16,
        wait_ms: u32,
        invisible_ms: u64,
    },
    /// Settle what was received by receipt handles. Answered by `Answer::Settled`, one result a handle in order.
    SettleHandles {
        request: RequestId,
        handles: Vec<Bytes>,
        action: Action,
    },
    /// Do not release the delayed message that this handle names. Answered by `Answer::Done`.
    Recall { request: RequestId, handle: Bytes },
    /// Commit or roll back the prepared messages that these handles name: all of them or none. Answered by `Answer::Done`. `operator` is the
    /// name of an operator who does it: he may commit what was given up.
    Decide {
        request: RequestId,
        handles: Vec<Bytes>,
        decision: Decision,
        operator: Option<String>,
    },
    /// What a receive was handed and its answer had no room for: returned at once, the attempt not counted. Wants no answer.
    Undelivered { handles: Vec<Bytes> },
    /// The client gave up waiting for this receive.
    Cancelled { request: RequestId },
    /// The connection is gone: its receives are void, its streams' leases are returned and count as an attempt.
    Disconnected { connection: ConnectionId },
    /// An administrative action or a question about state.
    Admin { request: RequestId, admin: Admin },

    /// The log is durable up to, not including, this position.
    Synced { end: Position },
    /// What the plugin said of the messages that `Effect::Judge` named.
    Verdicts {
        judge: JudgeId,
        outcome: Result<Verdicts, JudgeFailure>,
    },
    /// The copy that `Effect::Fetch` asked for, alone in a flat batch; `None` when the message is no longer stored.
    Fetched { fetch: FetchId, batch: Option<Bytes> },
    /// The message that `Effect::Fetch` asked for could not be read this time. It is asked for again after a while, and held until then.
    FetchFailed { fetch: FetchId },
    /// The messages that `Effect::FetchDue` asked for, or the first so many of them. None at all: the first could not be read this time.
    DueFetched { fetch: FetchId, batch: Option<Batch> },
    /// What became of `Effect::Parts`.
    Part(PartDone),
    /// What `Effect::Ask` asks was delivered to a producer that said it answers for this topic.
    Asked { ask: AskId },
    /// It was not: there is no such producer, or it could not be reached. It does not count, and is tried again after a while.
    NotAsked { ask: AskId },
    /// The first offset stored at the asked time or later (the queue's end when there is none).
    Located { locate: LocateId, offset: QueueOffset },
    /// The checkpoint that `Effect::Checkpoint` finished is durable.
    Checkpointed,
    /// Retention found that messages below `start` need no longer be kept.
    Trim { queue: QueueId, start: QueueOffset },
    /// The clock has reached `next_deadline()`.
    Tick,
}

/// Who wants which messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consume {
    /// The consumer group, created on first use.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The member's name as `group describe` shows it.
    pub member: String,
    /// Who gave the member that name.
    pub named_by: NamedBy,
    /// What is to be delivered. A plugin's expression was compiled by the bound version before it came here.
    pub filter: Filter,
    /// Where the group starts if it does not exist yet; `None` takes the default.
    pub start: Option<StartPoint>,
}

/// Who named a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedBy {
    /// The subscription or receive itself: the name stands for one member for good, and a broadcast group keeps its places under it.
    Member,
    /// Nobody: it is the name of the client, of which there may be several.
    Client,
}

/// Which deliveries of one queue's stream are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// All that this member still holds up to and including this delivery number.
    UpTo(u64),
    /// Just these.
    Each(Vec<u64>),
}

/// What is decided about prepared messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// They are delivered.
    Commit,
    /// They are not.
    RollBack,
}

/// What becomes of leased messages.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Done: never delivered to the group again in this pass.
    Ack,
    /// Deliver again, after `delay_ms` or, when not given, by the group's back-off.
    Nack { delay_ms: Option<u64> },
    /// Keep for so long from now.
    Extend { invisible_ms: u64 },
}

/// One verdict for each of the messages from `from` up to `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// The first offset judged; the one that was asked.
    pub from: QueueOffset,
    /// One past the last offset judged; at most what was asked, and greater than `from`.
    pub to: QueueOffset,
    /// The offsets to deliver, ascending.
    pub deliver: Vec<QueueOffset>,
    /// What each of these is in the order of its queue and until when it lives, where either was asked.
    pub links: Vec<Link>,
    /// How many of the others were evaluation errors.
    pub failed: u32,
    /// How many of all these messages the plugin was asked about: not those that a pruning hint ruled out.
    pub evaluated: u32,
    /// The messages on which the plugin failed alone too, by ascending offset. None of them is delivered.
    pub culprits: Vec<Culprit>,
}

/// What must be known of a message that matches beside that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// The hash of its message group; 0 when it has none.
    pub group: u64,
    /// Its priority.
    pub priority: u8,
    /// Where it was asked, from when on it is not handed out any more (wall clock, milliseconds); `None` when it lives for ever.
    pub expires_ms: Option<i64>,
}

/// A message on which a fresh instance of the plugin fails, alone and within the limits of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// The message.
    pub offset: QueueOffset,
    /// Where it was asked, what it is in the order of its queue.
    pub link: Link,
    /// How the plugin failed.
    pub kind: CulpritKind,
    /// The same, for operators.
    pub reason: String,
}

/// How a plugin fails on a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CulpritKind {
    /// It trapped.
    Trap,
    /// It used up its fuel.
    Fuel,
    /// It wanted more memory than it may have.
    Memory,
    /// It answered what the contract does not have.
    Answer,
}

/// Why nothing is known of any of the messages asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgeFailure {
    /// Whose failure it is.
    pub kind: JudgeFailureKind,
    /// What went wrong, for operators.
    pub reason: String,
}

/// Whose failure it is that nothing could be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JudgeFailureKind {
    /// The wall-clock backstop stopped the plugin, on a fresh instance too. It says nothing of any message.
    Stopped,
    /// The plugin was not asked: it is not loaded or does not take the expression, no instance starts, or the messages cannot be read.
    Unasked,
}

/// What operators do and ask.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Debug)]
pub enum Admin {
    /// The log was restored from a backup under this mark. Told at each start before anybody is let in; only the first time counts.
    Restored { mark: [u8; 16] },
    /// Create a topic; refused when the name is taken.
    CreateTopic { name: String, settings: TopicSettings },
    /// Delete a topic, its messages and every cursor on it.
    DeleteTopic { name: String },
    /// A page of the topics, from this number on.
    ListTopics { from: TopicId },
    /// A page of what retention must know of the topics from this number on.
    ListKept { from: TopicId },
    /// The name of a topic, if there is one with this number.
    NameTopic { topic: TopicId },
    /// One topic with its queues.
    DescribeTopic { name: String },
    /// Create a group; refused when the name is taken.
    CreateGroup { name: String, settings: GroupSettings },
    /// Delete a group with its cursors.
    DeleteGroup { name: String },
    /// A page of the groups, from this number on.
    ListGroups { from: GroupId },
    /// One group: its lag, and a page of its subscriptions, members and cursors on the topics from this number on. Of a broadcast group the
    /// members, whose cursors their own descriptions have: `GROUP/MEMBER` names one of them, here and below.
    DescribeGroup { name: String, from: TopicId },
    /// Begin a new pass of a group over one queue of a topic or all.
    Seek {
        group: String,
        topic: String,
        queue: Option<QueueIndex>,
        to: SeekTo,
    },
    /// Serve `name` by this version of a plugin from now on; the shell holds the module already.
    BindPlugin {
        name: String,
        digest: Digest,
        limits: PluginLimits,
        on_failure: OnFailure,
    },
    /// Give a topic so many queues, more than it has. `by` is the operator's name here and below.
    GrowTopic { name: String, queues: u16, by: String },
    /// Hand nothing out to a group any more, in one topic or in all.
    PauseGroup { name: String, topic: Option<String>, by: String },
    /// Go on with a group that is paused, or held for the fault of a plugin - what was set aside or held is judged again -, in one topic
    /// or in all.
    ResumeGroup { name: String, topic: Option<String>, by: String },
    /// Settle one message for a group, whatever its state; answered by `Answer::Skipped`.
    SkipMessage {
        group: String,
        topic: String,
        queue: QueueIndex,
        offset: QueueOffset,
        by: String,
    },
    /// Pass over all that a topic holds for a group; answered by `Answer::Purged`.
    PurgeGroup { group: String, topic: String },
    /// A page of the dead letters of a group that were not dealt with, as ranges of offsets; answered by `Answer::OpenLetters`.
    FindDeadLetters {
        group: String,
        from: QueueOffset,
        to: Option<QueueOffset>,
    },
    /// Deliver these to their group again; answered by `Answer::LettersDealt`.
    ResendDeadLetters { group: String, letters: Vec<Letter>, by: String },
    /// Deal with up to `most` dead letters without sending them back; answered by `Answer::LettersDiscarded`.
    DiscardDeadLetters {
        group: String,
        from: QueueOffset,
        to: Option<QueueOffset>,
        most: u64,
        by: String,
    },
    /// A page of what is handed out to a group, waits for another delivery or is held, from this place on.
    ListLeases {
        group: String,
        topic: Option<String>,
        from: LeasePlace,
    },
    /// Which step decided about a stored message for a group; answered by `Answer::Standing`. `due_ms` is when a message of a calendar queue
    /// is due, and `parts` are those whose files hold it.
    Explain {
        group: String,
        queue: QueueId,
        offset: QueueOffset,
        priority: u8,
        due_ms: i64,
        parts: Vec<PartId>,
    },
    /// A page of a topic's messages that wait for a decision or were given up, from this number on; answered by `Answer::Transactions`.
    ListTransactions { topic: String, from: QueueOffset },
    /// List bindings.
    ListPlugins,
}

/// A dead letter, and what its properties say of where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Its offset in the dead-letter queue.
    pub offset: QueueOffset,
    /// The name of the group that gave it up: of a broadcast group the member's.
    pub group: String,
    /// The queue where it came from.
    pub queue: QueueId,
    /// The offset there.
    pub origin: QueueOffset,
    /// How often it was delivered.
    pub attempts: u16,
    /// Its priority, which the copy keeps.
    pub priority: u8,
}

/// A place in a list of leases: a message of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeasePlace {
    /// The queue.
    pub queue: QueueId,
    /// The first offset to be listed.
    pub offset: QueueOffset,
}

/// Where a seek goes.
#[allow(missing_docs, reason = "each variant says what its fields are")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekTo {
    /// The earliest stored message.
    Earliest,
    /// After the newest.
    Latest,
    /// This offset, or the nearest stored one.
    Offset(QueueOffset),
    /// The first message stored at this time (wall clock, milliseconds) or later.
    Time { wall_ms: i64 },
}
