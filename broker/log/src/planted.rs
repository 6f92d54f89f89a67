//! Bugs that can be let in on purpose, so that the simulation proves it would find them. Only the feature `planted-bugs` can let one in.

/// A bug to be found. What each does is said where it is planted and in the simulation's table.
#[allow(missing_docs, reason = "the names say it, and the table of the simulation says more")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    ChecksumUnverified,
    StaleFrame,
    SyncSkipped,
    DamageCut,
    DirectoryNotSynced,
    TagsShifted,
    IdNotIndexed,
    KeyNotIndexed,
    DealingNotIndexed,
    NeighbourRead,
    RetentionTooFar,
    CheckpointUnsynced,
    NoRoomCounts,
    ClockStartsAnew,
    ReserveForgotten,
    SidecarAtOnce,
    PartUnsynced,
    MergeDropsOne,
    SnapshotNotHeld,
    SnapshotToTheEnd,
    SnapshotLeavesParts,
}

impl Bug {
    /// Every bug there is, by name.
    pub const ALL: [(&str, Self); 21] = [
        ("checksum-unverified", Self::ChecksumUnverified),
        ("stale-frame", Self::StaleFrame),
        ("sync-skipped", Self::SyncSkipped),
        ("damage-cut", Self::DamageCut),
        ("directory-not-synced", Self::DirectoryNotSynced),
        ("tags-shifted", Self::TagsShifted),
        ("id-not-indexed", Self::IdNotIndexed),
        ("key-not-indexed", Self::KeyNotIndexed),
        ("dealing-not-indexed", Self::DealingNotIndexed),
        ("neighbour-read", Self::NeighbourRead),
        ("retention-too-far", Self::RetentionTooFar),
        ("checkpoint-unsynced", Self::CheckpointUnsynced),
        ("no-room-counts", Self::NoRoomCounts),
        ("clock-starts-anew", Self::ClockStartsAnew),
        ("reserve-forgotten", Self::ReserveForgotten),
        ("sidecar-at-once", Self::SidecarAtOnce),
        ("part-unsynced", Self::PartUnsynced),
        ("merge-drops-one", Self::MergeDropsOne),
        ("snapshot-not-held", Self::SnapshotNotHeld),
        ("snapshot-to-the-end", Self::SnapshotToTheEnd),
        ("snapshot-leaves-parts", Self::SnapshotLeavesParts),
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
