//! What must hold in every run, how often each was put to the test, and the first time that one was broken.

use std::fmt;

pub use crate::court::Court;

/// A law of the broker, or a situation without which the laws would hold for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// A confirmed message is where its confirm said, with its exact attributes and body, whatever crashed meanwhile.
    ConfirmedIsKept,
    /// A send that is tried again is stored once and answered with the first result.
    RetryIsStoredOnce,
    /// A publish is confirmed only when it is synced.
    ConfirmAfterSync,
    /// A message is delivered only when it is synced.
    DeliverAfterSync,
    /// What is delivered is what was sent.
    DeliveredAsSent,
    /// An acknowledgement that was confirmed is in the synced log and the message is not held any more.
    AckIsKept,
    /// A message is not delivered again in a pass that confirmed its acknowledgement.
    AckedNeverAgain,
    /// Nothing is settled that no consumer asked to settle.
    SettledAsAsked,
    /// Attempts are counted one by one and never exceed the group's maximum.
    AttemptsAreBounded,
    /// After its last attempt a message is stored in the dead-letter topic once, with its origin, and not delivered again.
    DeadLetteredOnce,
    /// A message is never handed to a second holder while a lease runs.
    OneHolder,
    /// A lease does not end before its time.
    LeaseLastsItsTime,
    /// Every delivery is backed by a recorded lease of the same attempt.
    DeliveryIsRecorded,
    /// A receive gets no more messages than it asked for.
    DemandIsKept,
    /// What is granted matches, and what is skipped does not match, the expression and plugin version that rule.
    RulingVerdict,
    /// After a seek nothing of the old pass is delivered or settled.
    SeekEndsThePass,
    /// A seek begins where it was asked to.
    SeekGoesWhereAsked,
    /// Offsets of a queue have no gap and no repetition.
    OffsetsAreContiguous,
    /// Within a pass the first deliveries from a queue come by ascending offset.
    FirstDeliveriesInOrder,
    /// A message that was nacked does not come back before its delay.
    NackDelayIsKept,
    /// Numbers of a stream go up by one from 1.
    NumbersAreContiguous,
    /// The stamps of records never decrease.
    StampsAreOrdered,
    /// Recovery gives back exactly the records that were written.
    RecoveryIsExact,
    /// A confirmed message is found by its id.
    FoundById,
    /// A search by key finds exactly the stored messages that have it.
    FoundByKey,
    /// What a group did with a stored message is found, all of it, in the order in which it was done.
    HistoryIsTold,
    /// The tag index names exactly the messages that have a tag.
    TagsAreIndexed,
    /// An extension that was confirmed is in the synced log.
    ExtensionIsKept,
    /// A handle that was not made by the broker settles nothing.
    ForgedHandleIsRefused,
    /// Damage to bytes of which a later frame says that they were synced is refused at the next start.
    DamageIsRefused,
    /// Once all is well every matching message gets settled or dead-lettered in every group, and nothing stays pending.
    EverythingIsFinished,
    /// On a full disk that writes in place, what is not refused is written as long as a segment is in reserve.
    ReserveTakesTheRest,
    /// The broker neither panics nor refuses what is right.
    NoFailureOfItsOwn,
    /// Situation: a crash while something written was not synced.
    CrashWithUnsynced,
    /// Situation: a crash after which a torn frame was cut off.
    TornTail,
    /// Situation: a sync that failed and stopped the shard.
    FailedSync,
    /// Situation: a connection lost while its streams held leases.
    ConnectionLostWithLeases,
    /// Situation: a lease whose time ran out.
    LeaseExpired,
    /// Situation: a plugin that failed.
    JudgeFailed,
    /// Situation: verdicts on less than was asked.
    PartialVerdicts,
    /// Situation: a ruling expression or version that changed while verdicts were under way.
    RuleChangedInFlight,
    /// Situation: a member refused because its expression is superseded.
    MemberSuperseded,
    /// Situation: a seek while leases ran.
    SeekWithLeases,
    /// Situation: a settlement by a handle or number that had become stale.
    StaleSettlement,
    /// Situation: messages lost to retention.
    Trimmed,
    /// Situation: a topic deleted while groups read it.
    TopicDeleted,
    /// Situation: a recovery that began at a checkpoint.
    RecoveredFromCheckpoint,
    /// Situation: a wall clock that jumped.
    WallJumped,
    /// Situation: a segment that retention let go of, to be written again or removed.
    SegmentRetired,
    /// Situation: a disk without room for what was to be written.
    DiskFull,
    /// Situation: a start that a failure or a crash cut short.
    StartCutShort,
    /// Situation: a sidecar that is gone when the broker starts.
    SidecarLost,
    /// Situation: a producer whose window was forgotten for want of memory.
    ProducerForgotten,
    /// Situation: a send that lies before its producer's window.
    SequenceTooOld,
    /// Situation: a crash that lost frames which counted as durable without a sync.
    LazyLoss,
    /// A message that the plugin failed on is decided about only when enough was judged with it, and most of that well.
    CulpritByTheRule,
    /// Such a message gets what the binding says, and a group of a dead-letter topic never dead-letters from it.
    FateAsBound,
    /// While the plugin fails on everything nothing is decided, and the groups for which it is asked are held.
    BrokenDecidesNothing,
    /// A group is held for a fault of its plugin alone.
    HeldForAFault,
    /// The frontier does not pass a message that is set aside.
    SetAsideIsNotPassed,
    /// Situation: a message that the plugin failed on.
    CulpritFound,
    /// Situation: a decision before the time was over, because enough was judged.
    QuorumReached,
    /// Situation: a run stopped by the wall-clock backstop.
    RunStopped,
    /// Situation: a held group that went on.
    HeldResumed,
    /// Situation: a delivery to a group while another one was held.
    OthersGoOn,
    /// Situation: held messages that were judged again.
    CulpritReleased,
    /// Nothing is handed out to a group where it is paused.
    PauseHolds,
    /// Nothing is done to a group that no operator asked for.
    OperatedAsAsked,
    /// A skip that was answered is in the synced log.
    SkipIsKept,
    /// Situation: a pause that ended.
    PauseEnded,
    /// Situation: a message skipped that was leased or waited for another delivery.
    HeldSkipped,
    /// Dead letters are dealt with only if an operator asked for it.
    DealtAsAsked,
    /// A dead letter is dealt with once.
    DealtOnce,
    /// A dead letter that was sent back is before its group again.
    ResentComesBack,
    /// What is sent back goes on being counted after the attempts it had.
    ResentGoesOn,
    /// A delayed message is not released before its time by the broker's wall clock.
    NothingEarly,
    /// A delayed message is released once, as it was sent, and in the order of the times.
    ReleasedOnce,
    /// A recall that was confirmed is in the synced log, and one that is refused came too late.
    RecallIsKept,
    /// A recalled message is never released.
    RecalledNeverFires,
    /// Situation: a recall of what was released or recalled before.
    RecallTooLate,
    /// Situation: a start while messages wait for their time.
    WaitsOverCrash,
    /// Nothing is handed out while a message of a higher priority could be in the same queue, except to the one that has waited longest.
    HigherPriorityFirst,
    /// The message that has waited longest has its turn.
    OldestHasItsTurn,
    /// In an ordered group the messages of one message group are delivered one after the other, attempts included.
    OrderPerGroup,
    /// Situation: a message that an ordered group found while one before it in its message group was open.
    ParkedBehind,
    /// In an ordered group the order of a message group goes on from queue to queue when a topic grows.
    OrderOverGrowth,
    /// Situation: a topic that grew.
    TopicGrown,
    /// Nothing is handed out that expired, and until when it lives is known.
    ExpiredIsNotGranted,
    /// Nothing is ended for its age before it expired, nor while somebody has it.
    OnlyExpiredEnds,
    /// What expired is skipped or dead-lettered as its topic says; counted where it is dead-lettered.
    ExpiredGetsItsFate,
    /// Situation: a message that expired while it waited for another delivery.
    ExpiredAfterReturn,
    /// A prepared message is not released before it was committed.
    PreparedNeverVisible,
    /// A prepared message is committed once, when somebody asked for it, and waits for its time from then on.
    CommittedOnce,
    /// A message that was rolled back is never released.
    RolledBackNever,
    /// A decision that was confirmed is in the synced log, for all messages that it names, and one that is refused was made otherwise before.
    DecisionIsKept,
    /// Situation: a decision that was made otherwise before.
    DecidedOtherwise,
    /// Situation: a start while prepared messages wait for a decision.
    UndecidedOverCrash,
    /// A producer is not asked about a prepared message before its time.
    NotAskedEarly,
    /// Only asks that were delivered count, each of them, and no message is asked about more often than it may be.
    OnlyDeliveredAsksCount,
    /// A message is given up after as many asks as it may have and an answer's time, and its copy says where it comes from.
    GivenUpByTheRule,
    /// What was given up is delivered if an operator commits it, once.
    RevivedOnce,
    /// Once all is well every prepared message is decided about, by somebody or by being given up, and the copies lie where they are said to be.
    EverythingIsDecided,
    /// Situation: an ask that could not be delivered.
    AskNotDelivered,
    /// Situation: a decision after a producer was asked.
    DecidedAfterAsk,
    /// Of the messages that have the same id from their producers, sent to one topic within ten minutes, the first is stored alone, and the others
    /// are answered as it was.
    GivenIdStoredOnce,
    /// Situation: ids were forgotten to keep within the memory limit.
    GivenIdsForgotten,
    /// A member of a broadcast group is as its group says, and begins at the end of every queue.
    MemberStartsAtTheEnd,
    /// Whatever a member of a broadcast group is given, the filter of all of them lets pass.
    MembersShareTheRule,
    /// A seek or a purge of a broadcast group begins a new pass for each member.
    SeekOfAllMembers,
    /// A member is forgotten only when it was absent for as long as is set.
    PresentIsKept,
    /// A member that is absent for longer is forgotten.
    AbsentIsForgotten,
    /// Retention goes where it is asked to, whatever groups have yet to read.
    RetentionIsNotHeldBack,
    /// What retention takes from a group that was not done with it is counted, once, and the group says so.
    LossesAreTold,
    /// Situation: a member of which it is recorded that it is absent.
    MemberLeft,
    /// Situation: a member that came back after that.
    MemberCameBack,
    /// Of the parts of the calendar there are the files that state names, and no others.
    NoPartIsLeft,
    /// What was taken in from a part stays in one until it is released.
    TakenIsInAPart,
    /// What waits for its time is stored whatever retention takes: in the log, or in a part.
    WaitingIsStored,
    /// Situation: far-off messages that went into a part.
    PartWritten,
    /// Situation: parts that were merged.
    PartsMerged,
    /// Situation: a message that came back from a part.
    TakenIn,
    /// Situation: a message that was recalled while it was in a part.
    FarRecalled,
    /// Situation: a message in a part that was recalled or released while that was written.
    DeadInPart,
    /// Situation: a part of which nothing is needed any more.
    PartDropped,
    /// Situation: a start with messages in parts.
    PartsOverCrash,
    /// A backup that is restored has all that was durable when it was begun, and nothing else, whatever happened while it was read.
    BackupIsTheCut,
    /// Situation: a backup that was given up, because the disk was short of room.
    BackupGivenUp,
}

use Law::*;

/// Every law, and how often 100 seeds must put it to the test at least.
pub const LAWS: [(Law, u64); 127] = [
    (ConfirmedIsKept, 10_000),
    (RetryIsStoredOnce, 1_000),
    (ConfirmAfterSync, 10_000),
    (DeliverAfterSync, 10_000),
    (DeliveredAsSent, 10_000),
    (AckIsKept, 2_500),
    (AckedNeverAgain, 5_000),
    (SettledAsAsked, 2_500),
    (AttemptsAreBounded, 2_000),
    (DeadLetteredOnce, 2),
    (OneHolder, 1_800),
    (LeaseLastsItsTime, 200),
    (DeliveryIsRecorded, 10_000),
    (DemandIsKept, 500),
    (RulingVerdict, 10_000),
    (SeekEndsThePass, 100),
    (SeekGoesWhereAsked, 100),
    (OffsetsAreContiguous, 2_000),
    (FirstDeliveriesInOrder, 5_000),
    (NackDelayIsKept, 150),
    (NumbersAreContiguous, 1_000),
    (StampsAreOrdered, 10_000),
    (RecoveryIsExact, 100),
    (FoundById, 2_500),
    (FoundByKey, 2_500),
    (HistoryIsTold, 300),
    (TagsAreIndexed, 5_000),
    (ExtensionIsKept, 100),
    (ForgedHandleIsRefused, 50),
    (DamageIsRefused, 2),
    (EverythingIsFinished, 500),
    (ReserveTakesTheRest, 20),
    (NoFailureOfItsOwn, 100),
    (CrashWithUnsynced, 50),
    (TornTail, 20),
    (FailedSync, 10),
    (ConnectionLostWithLeases, 30),
    (LeaseExpired, 100),
    (JudgeFailed, 100),
    (PartialVerdicts, 100),
    (RuleChangedInFlight, 10),
    (MemberSuperseded, 10),
    (SeekWithLeases, 10),
    (StaleSettlement, 50),
    (Trimmed, 20),
    (TopicDeleted, 10),
    (RecoveredFromCheckpoint, 20),
    (WallJumped, 100),
    (SegmentRetired, 5),
    (DiskFull, 50),
    (StartCutShort, 5),
    (SidecarLost, 10),
    (ProducerForgotten, 20),
    (SequenceTooOld, 10),
    (LazyLoss, 5),
    (CulpritByTheRule, 25),
    (FateAsBound, 25),
    (BrokenDecidesNothing, 50),
    (HeldForAFault, 20),
    (SetAsideIsNotPassed, 50),
    (CulpritFound, 200),
    (QuorumReached, 10),
    (RunStopped, 50),
    (HeldResumed, 20),
    (OthersGoOn, 100),
    (CulpritReleased, 1),
    (PauseHolds, 100),
    (OperatedAsAsked, 100),
    (SkipIsKept, 50),
    (PauseEnded, 30),
    (HeldSkipped, 5),
    (DealtAsAsked, 3),
    (DealtOnce, 3),
    (ResentComesBack, 1),
    (ResentGoesOn, 1),
    (NothingEarly, 1_000),
    (ReleasedOnce, 1_000),
    (RecallIsKept, 50),
    (RecalledNeverFires, 1_000),
    (RecallTooLate, 20),
    (WaitsOverCrash, 20),
    (HigherPriorityFirst, 1_000),
    (OldestHasItsTurn, 100),
    (OrderPerGroup, 200),
    (ParkedBehind, 50),
    (OrderOverGrowth, 20),
    (TopicGrown, 50),
    (ExpiredIsNotGranted, 100),
    (OnlyExpiredEnds, 100),
    (ExpiredGetsItsFate, 10),
    (ExpiredAfterReturn, 10),
    (PreparedNeverVisible, 1_000),
    (CommittedOnce, 300),
    (RolledBackNever, 1_000),
    (DecisionIsKept, 300),
    (DecidedOtherwise, 50),
    (UndecidedOverCrash, 50),
    (NotAskedEarly, 300),
    (OnlyDeliveredAsksCount, 300),
    (GivenUpByTheRule, 50),
    (RevivedOnce, 20),
    (EverythingIsDecided, 100),
    (AskNotDelivered, 50),
    (DecidedAfterAsk, 100),
    (GivenIdStoredOnce, 500),
    (GivenIdsForgotten, 5),
    (MemberStartsAtTheEnd, 300),
    (MembersShareTheRule, 300),
    (SeekOfAllMembers, 30),
    (PresentIsKept, 20),
    (AbsentIsForgotten, 50),
    (RetentionIsNotHeldBack, 20),
    (LossesAreTold, 20),
    (MemberLeft, 20),
    (MemberCameBack, 10),
    (NoPartIsLeft, 50),
    (TakenIsInAPart, 100),
    (WaitingIsStored, 30),
    (PartWritten, 200),
    (PartsMerged, 20),
    (TakenIn, 300),
    (FarRecalled, 10),
    (DeadInPart, 2),
    (PartDropped, 100),
    (PartsOverCrash, 20),
    (BackupIsTheCut, 200),
    (BackupGivenUp, 5),
];

/// How often each law was put to the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    counts: [u64; LAWS.len()],
}

impl Default for Tally {
    fn default() -> Self {
        Self { counts: [0; LAWS.len()] }
    }
}

impl Tally {
    pub(crate) fn count(&mut self, law: Law) {
        self.counts[law as usize] += 1;
    }

    /// Adds the counts of another run.
    pub fn add(&mut self, other: &Self) {
        self.counts
            .iter_mut()
            .zip(other.counts)
            .for_each(|(count, further)| *count += further);
    }

    /// The laws that `seeds` runs put to the test less often than they must, with count and minimum.
    /// A run of fewer than 100 seeds has no minimum to meet.
    pub fn neglected(&self, seeds: u64) -> Vec<(Law, u64, u64)> {
        let counted = LAWS
            .iter()
            .zip(self.counts)
            .map(|((law, minimum), count)| (*law, count, minimum * (seeds / 100)));
        counted.filter(|(_, count, minimum)| count < minimum).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LAWS.iter()
            .zip(self.counts)
            .try_for_each(|((law, _), count)| writeln!(f, "{:<26}{count:>10}", format!("{law:?}")))
    }
}

/// A law that was broken, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub law: Law,
    /// The facts.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_lists_each_law_at_its_own_place() {
        LAWS.iter()
            .enumerate()
            .for_each(|(place, (law, _))| assert_eq!(*law as usize, place));
    }

    #[test]
    fn a_law_below_its_minimum_is_neglected() {
        let mut court = Court::default();
        court.exercise(TornTail);
        assert!(
            court
                .tally()
                .neglected(100)
                .iter()
                .any(|(law, count, _)| *law == TornTail && *count == 1)
        );
        assert!(court.tally().neglected(99).is_empty());
    }
}
