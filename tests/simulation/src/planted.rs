//! The bugs that can be let into core and log on purpose, to prove that the oracle finds them.

/// How many seeds it may take to find a planted bug.
pub const SEEDS_TO_FIND: u64 = 500;

/// Every bug, by name; none unless the feature `planted-bugs` is on.
#[cfg(not(feature = "planted-bugs"))]
pub const BUGS: [&str; 0] = [];

/// Every bug that must be found, by name. `stale-frame` can be planted too; 500 seeds do not find it yet.
#[cfg(feature = "planted-bugs")]
pub const BUGS: [&str; 7] = [
    "confirm-before-sync",
    "ack-forgotten",
    "expiry-too-early",
    "dedup-off",
    "seek-keeps-leases",
    "stale-verdicts",
    "checksum-unverified",
];

/// Lets a bug in on this thread, or none.
///
/// # Errors
/// When there is no such bug, or this build has none.
pub fn plant(bug: Option<&str>) -> Result<(), String> {
    #[cfg(feature = "planted-bugs")]
    {
        let of_core = sluice_core::planted::Bug::ALL
            .iter()
            .find(|(name, _)| Some(*name) == bug)
            .map(|(_, bug)| *bug);
        let of_log = sluice_log::planted::Bug::ALL
            .iter()
            .find(|(name, _)| Some(*name) == bug)
            .map(|(_, bug)| *bug);
        sluice_core::planted::choose(of_core);
        sluice_log::planted::choose(of_log);
        match (bug, of_core.is_some() || of_log.is_some()) {
            (Some(name), false) => Err(format!("there is no bug {name}, only {}", BUGS.join(", "))),
            (Some(_), true) | (None, _) => Ok(()),
        }
    }
    #[cfg(not(feature = "planted-bugs"))]
    bug.map_or(Ok(()), |name| {
        Err(format!("to plant {name} this must be built with the feature planted-bugs"))
    })
}
