//! Bugs that can be let in on purpose, so that the simulation proves it would find them. Only the feature `planted-bugs` can let one in.

/// A bug to be found. What each does is said where it is planted and in the simulation's table.
#[allow(missing_docs, reason = "the names say it, and the table of the simulation says more")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    ConfirmBeforeSync,
    AckForgotten,
    ExpiryTooEarly,
    DedupOff,
    SeekKeepsLeases,
    StaleVerdicts,
    DeliverBeforeSync,
    DuplicateBeforeSync,
    SeekNotWaited,
    SettlesOneMore,
    SettlesForAnother,
    OldPassSettles,
    AttemptNotCounted,
    OneAttemptMore,
    DeadLetterTwice,
    ExtensionForgotten,
    ExtensionNotApplied,
    DeliveryLost,
    FrontierTooFar,
    SeekOffByOne,
    OffsetGap,
    NewestFirst,
    NackTooEarly,
    NumberSkipped,
    StampFalls,
    MacUnverified,
    HeldForever,
    CheckpointForgetsWindow,
    CheckpointReplaysLate,
    CulpritAtOnce,
    BrokenPluginDeadLetters,
    SetAsideForgotten,
    OneMessageMore,
    StaleHandleSettles,
    CheckpointForgetsRetries,
    PauseSparesRetries,
    SkipForgotten,
    SkipKeepsRetries,
    PurgeLeavesTheLast,
    ResendLoses,
    ResendCountsAnew,
    ResendTwice,
    ReleasedEarly,
    ReleasedStaysDue,
    RecallForgotten,
    RecalledFetchedFires,
    DueForgotten,
    RecallHandleUnverified,
    CalendarNotKept,
    PriorityForgotten,
    OldestForgotten,
    LaneBeginsLate,
    OrderNotWaited,
    OrderLostOnRetry,
    ParkedForgotten,
    OrderLostAtRestart,
    ExhaustedLetsPass,
    GrowthSkipsTheFirst,
    GrowthNotGated,
    GrowthForgotten,
    ExpiresLate,
    ExpiresEarly,
    ExpiredNotBuried,
    RetriesOutlive,
    DeadlinesForgotten,
    PreparedReleased,
    CommitForgotten,
    CommitTwice,
    RolledBackReleased,
    DecisionReversed,
    CheckpointForgetsUndecided,
    UndecidedNotKept,
    TransactionHandleUnverified,
}

impl Bug {
    /// Every bug there is, by name.
    pub const ALL: [(&str, Self); 73] = [
        ("confirm-before-sync", Self::ConfirmBeforeSync),
        ("ack-forgotten", Self::AckForgotten),
        ("expiry-too-early", Self::ExpiryTooEarly),
        ("dedup-off", Self::DedupOff),
        ("seek-keeps-leases", Self::SeekKeepsLeases),
        ("stale-verdicts", Self::StaleVerdicts),
        ("deliver-before-sync", Self::DeliverBeforeSync),
        ("duplicate-before-sync", Self::DuplicateBeforeSync),
        ("seek-not-waited", Self::SeekNotWaited),
        ("settles-one-more", Self::SettlesOneMore),
        ("settles-for-another", Self::SettlesForAnother),
        ("old-pass-settles", Self::OldPassSettles),
        ("attempt-not-counted", Self::AttemptNotCounted),
        ("one-attempt-more", Self::OneAttemptMore),
        ("dead-letter-twice", Self::DeadLetterTwice),
        ("extension-forgotten", Self::ExtensionForgotten),
        ("extension-not-applied", Self::ExtensionNotApplied),
        ("delivery-lost", Self::DeliveryLost),
        ("frontier-too-far", Self::FrontierTooFar),
        ("seek-off-by-one", Self::SeekOffByOne),
        ("offset-gap", Self::OffsetGap),
        ("newest-first", Self::NewestFirst),
        ("nack-too-early", Self::NackTooEarly),
        ("number-skipped", Self::NumberSkipped),
        ("stamp-falls", Self::StampFalls),
        ("mac-unverified", Self::MacUnverified),
        ("held-forever", Self::HeldForever),
        ("checkpoint-forgets-window", Self::CheckpointForgetsWindow),
        ("checkpoint-replays-late", Self::CheckpointReplaysLate),
        ("culprit-at-once", Self::CulpritAtOnce),
        ("broken-plugin-dead-letters", Self::BrokenPluginDeadLetters),
        ("set-aside-forgotten", Self::SetAsideForgotten),
        ("one-message-more", Self::OneMessageMore),
        ("stale-handle-settles", Self::StaleHandleSettles),
        ("checkpoint-forgets-retries", Self::CheckpointForgetsRetries),
        ("pause-spares-retries", Self::PauseSparesRetries),
        ("skip-forgotten", Self::SkipForgotten),
        ("skip-keeps-retries", Self::SkipKeepsRetries),
        ("purge-leaves-the-last", Self::PurgeLeavesTheLast),
        ("resend-loses", Self::ResendLoses),
        ("resend-counts-anew", Self::ResendCountsAnew),
        ("resend-twice", Self::ResendTwice),
        ("released-early", Self::ReleasedEarly),
        ("released-stays-due", Self::ReleasedStaysDue),
        ("recall-forgotten", Self::RecallForgotten),
        ("recalled-fetched-fires", Self::RecalledFetchedFires),
        ("due-forgotten", Self::DueForgotten),
        ("recall-handle-unverified", Self::RecallHandleUnverified),
        ("calendar-not-kept", Self::CalendarNotKept),
        ("priority-forgotten", Self::PriorityForgotten),
        ("oldest-forgotten", Self::OldestForgotten),
        ("lane-begins-late", Self::LaneBeginsLate),
        ("order-not-waited", Self::OrderNotWaited),
        ("order-lost-on-retry", Self::OrderLostOnRetry),
        ("parked-forgotten", Self::ParkedForgotten),
        ("order-lost-at-restart", Self::OrderLostAtRestart),
        ("exhausted-lets-pass", Self::ExhaustedLetsPass),
        ("growth-skips-the-first", Self::GrowthSkipsTheFirst),
        ("growth-not-gated", Self::GrowthNotGated),
        ("growth-forgotten", Self::GrowthForgotten),
        ("expires-late", Self::ExpiresLate),
        ("expires-early", Self::ExpiresEarly),
        ("expired-not-buried", Self::ExpiredNotBuried),
        ("retries-outlive", Self::RetriesOutlive),
        ("deadlines-forgotten", Self::DeadlinesForgotten),
        ("prepared-released", Self::PreparedReleased),
        ("commit-forgotten", Self::CommitForgotten),
        ("commit-twice", Self::CommitTwice),
        ("rolled-back-released", Self::RolledBackReleased),
        ("decision-reversed", Self::DecisionReversed),
        ("checkpoint-forgets-undecided", Self::CheckpointForgetsUndecided),
        ("undecided-not-kept", Self::UndecidedNotKept),
        ("transaction-handle-unverified", Self::TransactionHandleUnverified),
    ];
}

#[cfg(feature = "planted-bugs")]
thread_local! {
    static CHOSEN: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Lets a bug in on this thread, or none.
#[cfg(feature = "planted-bugs")]
pub fn choose(bug: Option<Bug>) {
    CHOSEN.set(bug);
}

/// Whether this bug was let in.
#[cfg(feature = "planted-bugs")]
pub(crate) fn is(bug: Bug) -> bool {
    CHOSEN.get() == Some(bug)
}

/// Whether this bug was let in: in this build none can be, and the compiler leaves them all out.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn is(_: Bug) -> bool {
    false
}
