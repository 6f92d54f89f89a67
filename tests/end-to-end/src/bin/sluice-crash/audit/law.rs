//! What the broker promises, and how often a run put each promise to the test.

/// A promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Law {
    /// What is confirmed, and neither recalled, undecided, rolled back nor expired, is delivered to each group or is a dead letter of it.
    NothingLost,
    /// What is delivered is what was sent, and is stored in one place only.
    StoredOnce,
    /// A delayed message is not delivered before its time.
    NotEarly,
    /// After a confirmed recall a message is not delivered.
    RecalledNever,
    /// A prepared message is not delivered before somebody asked for its commit, and waits until somebody decides.
    PreparedUnseen,
    /// After a confirmed roll-back a message is not delivered.
    RolledBackNever,
    /// To an ordered group a message group comes in the order of its sends, each once the one before it is settled.
    OrderKept,
    /// What expired before it was asked for is not delivered.
    ExpiredNever,
    /// After a confirmed acknowledgement a message is neither delivered to the group again nor a dead letter of it.
    AckedNever,
    /// What is always given back becomes a dead letter, once in a pass.
    DeadLettered,
    /// After a confirmed seek to the beginning everything comes again.
    SeekKept,
    /// A topic keeps the queues to which it grew.
    GrowthKept,
}

impl Law {
    /// All of them.
    pub(crate) const ALL: [Law; 12] = [
        Law::NothingLost,
        Law::StoredOnce,
        Law::NotEarly,
        Law::RecalledNever,
        Law::PreparedUnseen,
        Law::RolledBackNever,
        Law::OrderKept,
        Law::ExpiredNever,
        Law::AckedNever,
        Law::DeadLettered,
        Law::SeekKept,
        Law::GrowthKept,
    ];

    /// What it is called where it is counted.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Law::NothingLost => "nothing lost",
            Law::StoredOnce => "stored once",
            Law::NotEarly => "not early",
            Law::RecalledNever => "recalled never delivered",
            Law::PreparedUnseen => "prepared unseen",
            Law::RolledBackNever => "rolled back never delivered",
            Law::OrderKept => "order kept",
            Law::ExpiredNever => "expired never delivered",
            Law::AckedNever => "acknowledged never again",
            Law::DeadLettered => "dead-lettered once",
            Law::SeekKept => "seek kept",
            Law::GrowthKept => "growth kept",
        }
    }
}

/// How often each was put to the test, in the order of `Law::ALL`.
pub(crate) type Counts = [u64; Law::ALL.len()];
