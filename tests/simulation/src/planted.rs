//! The bugs that can be let into core and log on purpose, and the hunt for each: how many runs it may take to find it.

use sluice_core::planted::Bug as OfCore;
use sluice_log::planted::Bug as OfLog;

use crate::laws::Violation;
use crate::run;

/// The crate in which a bug is planted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// `sluice-core`.
    Core,
    /// `sluice-log`.
    Log,
}

/// A bug that must be found.
#[derive(Clone, Copy, Debug)]
pub struct Planted {
    /// Its name in its crate's list.
    pub name: &'static str,
    /// The crate.
    pub owner: Owner,
    /// What goes wrong.
    pub what: &'static str,
    /// One of the seeds from 1 to this one must find it.
    pub seeds: u64,
}

const fn core(name: &'static str, seeds: u64, what: &'static str) -> Planted {
    Planted {
        name,
        owner: Owner::Core,
        what,
        seeds,
    }
}

const fn log(name: &'static str, seeds: u64, what: &'static str) -> Planted {
    Planted {
        name,
        owner: Owner::Log,
        what,
        seeds,
    }
}

/// Every bug that can be planted.
pub const BUGS: [Planted; 119] = [
    core("confirm-before-sync", 5, "answers and deliveries do not wait for the sync"),
    core("ack-forgotten", 5, "an acknowledgement is answered but not kept"),
    core("expiry-too-early", 10, "a lease ends 1 ms before its time"),
    core("dedup-off", 5, "a retried send is stored again"),
    core("seek-keeps-leases", 20, "a seek keeps the leases of the pass before"),
    core("stale-verdicts", 50, "verdicts asked under a superseded expression count"),
    core("deliver-before-sync", 10, "messages are judged and handed out before their sync"),
    core(
        "duplicate-before-sync",
        50,
        "a retried send is confirmed while its first try is not synced",
    ),
    core(
        "seek-not-waited",
        150,
        "messages of a new pass are handed out before the sync of its seek",
    ),
    core("settles-one-more", 20, "a cumulative settlement takes the next message too"),
    core("settles-for-another", 100, "a stream settles what it lost to another"),
    core("old-pass-settles", 500, "a handle of an old pass settles in the new one"),
    core("attempt-not-counted", 20, "a lease that ran out does not count as an attempt"),
    core("one-attempt-more", 100, "a message gets one attempt more than its group allows"),
    core("dead-letter-twice", 100, "a dead-lettered message stays in its group"),
    core("extension-forgotten", 20, "an extension is answered but not kept"),
    core(
        "extension-not-applied",
        50,
        "an extension is recorded, and the lease ends as before",
    ),
    core("delivery-lost", 10, "some leases are recorded and never handed out"),
    core("frontier-too-far", 20, "the frontier skips a message that was not judged"),
    core("seek-off-by-one", 50, "a seek to the earliest message skips it"),
    core("offset-gap", 10, "a batch begins one offset too late"),
    core("newest-first", 10, "of what matched the newest goes first"),
    core("nack-too-early", 150, "a message that was given back returns 1 ms before its delay"),
    core("number-skipped", 20, "a redelivery skips a delivery number of its stream"),
    core("stamp-falls", 50, "a record's stamp lies before the one before it"),
    core("mac-unverified", 50, "handles are believed without their MAC"),
    core("held-forever", 200, "a plugin that failed is never asked again"),
    core(
        "checkpoint-forgets-window",
        100,
        "a checkpoint leaves out the newest run of each producer's window",
    ),
    core(
        "checkpoint-replays-late",
        50,
        "the records of the frame that is open when a checkpoint begins are not replayed",
    ),
    log("checksum-unverified", 20, "a frame's checksum is not verified"),
    log("stale-frame", 1000, "a frame of a lower epoch than its predecessor counts"),
    log("sync-skipped", 20, "some syncs are told and not made"),
    log("damage-cut", 200, "damage to confirmed frames is cut off as a torn tail"),
    log("directory-not-synced", 50, "a new segment's name is not made durable"),
    log(
        "tags-shifted",
        20,
        "the tag hashes of some batches stand one row too late in the index",
    ),
    log("id-not-indexed", 20, "some batches cannot be found by message id"),
    log("key-not-indexed", 20, "some messages cannot be found by their keys"),
    log("dealing-not-indexed", 20, "some of what groups did cannot be found"),
    log("neighbour-read", 20, "of the batches kept in memory the one before is read"),
    log("retention-too-far", 50, "retention takes segments of which something is still kept"),
    log(
        "checkpoint-unsynced",
        300,
        "a checkpoint replaces the one before though it is not durable",
    ),
    log("no-room-counts", 50, "a frame for which there was no room counts as written"),
    log("reserve-forgotten", 50, "on a full disk the segments in reserve are not used"),
    log("sidecar-at-once", 1000, "the header of a sidecar may be durable before the rest"),
    log("clock-starts-anew", 200, "the monotonic clock begins at 0 with every start"),
    core("culprit-at-once", 10, "a message that a plugin failed on is decided about at once"),
    core("broken-plugin-dead-letters", 50, "the fault is never taken for the plugin's"),
    core("set-aside-forgotten", 10, "the frontier passes over messages that are set aside"),
    core("one-message-more", 100, "a receive gets one message more than it asked for"),
    core("stale-handle-settles", 100, "a handle settles what was handed out again"),
    core(
        "checkpoint-forgets-retries",
        100,
        "a checkpoint leaves out what waits for another delivery",
    ),
    core("pause-spares-retries", 50, "a paused group goes on with what comes back"),
    core("skip-forgotten", 20, "a skip is answered but not kept"),
    core(
        "skip-keeps-retries",
        200,
        "a message that waits for another delivery is skipped and comes all the same",
    ),
    core(
        "purge-leaves-the-last",
        50,
        "a seek to the end leaves the last message of each queue",
    ),
    core("resend-loses", 200, "some dead letters are dealt with and not sent back"),
    core(
        "resend-counts-anew",
        200,
        "the attempts of what is sent back are counted from 1 again",
    ),
    core("resend-twice", 500, "what was dealt with of the dead letters is not kept"),
    core("released-early", 20, "a delayed message is released 1 ms before its time"),
    core("released-stays-due", 50, "a released message still waits in its calendar"),
    core("recall-forgotten", 50, "a recall is recorded, and the message waits on"),
    core(
        "recalled-fetched-fires",
        200,
        "a message that was read ahead is released though it was recalled",
    ),
    core(
        "due-forgotten",
        100,
        "some messages that come late into a calendar are not released",
    ),
    core("recall-handle-unverified", 100, "recall handles are believed without their MAC"),
    core("calendar-not-kept", 100, "retention takes the segments of messages that wait"),
    core("priority-forgotten", 50, "the lowest priority goes first"),
    core("oldest-forgotten", 100, "the message that has waited longest never has its turn"),
    core("lane-begins-late", 20, "a lane begins behind the messages for which it was made"),
    core(
        "order-not-waited",
        20,
        "the next of a message group goes out before the end of the one before is synced",
    ),
    core("order-lost-on-retry", 20, "a message that is given back lets those behind it pass"),
    core("parked-forgotten", 50, "a checkpoint leaves out what an ordered group has parked"),
    core(
        "order-lost-at-restart",
        50,
        "a checkpoint leaves out the message groups of what is parked",
    ),
    core(
        "exhausted-lets-pass",
        100,
        "a message that had its last attempt lets those behind it pass",
    ),
    core(
        "growth-skips-the-first",
        50,
        "groups pass over the first message of each queue that a topic grew by",
    ),
    core(
        "growth-not-gated",
        100,
        "a message group goes on in a new queue while it is open in the old one",
    ),
    core(
        "growth-forgotten",
        200,
        "a start forgets how topics grew, as far as its checkpoint says it",
    ),
    core("expires-late", 100, "a message is handed out for 20 ms after it expired"),
    core("expires-early", 50, "a message is ended 1 ms before it expires"),
    core(
        "expired-not-buried",
        50,
        "what expired is skipped though its topic wants it dead-lettered",
    ),
    core("retries-outlive", 50, "what waits for another delivery does not expire"),
    core("deadlines-forgotten", 500, "a checkpoint leaves out until when messages live"),
    core("prepared-released", 20, "a prepared message does not wait until it is committed"),
    core(
        "commit-forgotten",
        100,
        "of several messages that are committed together one is not",
    ),
    core("commit-twice", 100, "a commit that is asked for again is done again"),
    core("rolled-back-released", 50, "a message that is rolled back is released"),
    core("decision-reversed", 100, "a decision is confirmed though the other was made before"),
    core(
        "checkpoint-forgets-undecided",
        200,
        "a message that waits for a decision is missing in a checkpoint",
    ),
    core(
        "undecided-not-kept",
        2_000,
        "retention takes the segments of messages that wait for a decision",
    ),
    core(
        "transaction-handle-unverified",
        100,
        "transaction handles are believed without their MAC",
    ),
    core("asked-early", 50, "a producer is asked 1 ms before the time"),
    core("one-ask-more", 50, "one ask more is delivered than there may be"),
    core("undelivered-ask-counts", 50, "an ask that was not delivered counts"),
    core("ask-forgotten", 50, "a delivered ask is not recorded"),
    core("given-up-lost", 50, "what is given up is rolled back without a copy"),
    core("revived-twice", 300, "what was given up is committed as often as an operator asks"),
    core(
        "checkpoint-forgets-asks",
        200,
        "a checkpoint leaves out how often producers were asked",
    ),
    core("checkpoint-forgets-given-up", 300, "a checkpoint leaves out what was given up"),
    core("given-id-forgotten", 50, "a message whose id is known is stored again"),
    core("checkpoint-forgets-given-id", 300, "an entry of given ids lacks one after a start"),
    core(
        "member-from-earliest",
        20,
        "a new member of a broadcast group begins with what is stored",
    ),
    core(
        "seek-of-one-member",
        50,
        "a seek of a broadcast group concerns its first member alone",
    ),
    core(
        "rule-of-one-member",
        500,
        "a new filter of a broadcast group rules one member alone",
    ),
    core("present-expires", 50, "a member that has a stream is taken for absent"),
    core("absence-kept", 200, "a member that came back goes on being absent"),
    core("absent-stays", 50, "a member that is absent is never forgotten"),
    core(
        "absent-holds-retention",
        100,
        "retention stops before what a member has yet to read",
    ),
    core("loss-untold", 50, "what retention takes from a group is not counted"),
    core("ack-for-all-members", 20, "an acknowledgement counts for the other members, too"),
    core("point-not-moved", 50, "what was taken in from a part is taken in again"),
    core(
        "far-recall-forgotten",
        200,
        "a message that is recalled in a part comes all the same",
    ),
    core(
        "dead-in-part-fires",
        300,
        "what was recalled while its part was written comes all the same",
    ),
    core("absorbed-stays", 100, "of parts that were merged one goes on"),
    core("part-dropped-early", 100, "a part is dropped while messages are to be read from it"),
    core("taken-forgotten", 200, "a checkpoint leaves out a message that was taken in"),
    log("part-unsynced", 200, "a part is named before it is durable"),
    log("merge-drops-one", 100, "a merge leaves out messages"),
    log("snapshot-not-held", 300, "retention takes segments while a backup is read"),
    log("snapshot-to-the-end", 50, "a backup has what was written and not synced"),
    log("snapshot-leaves-parts", 50, "a backup is without the parts of the calendar"),
];

/// Lets a bug in on this thread, or none.
///
/// # Errors
/// When there is no such bug, or this build has none.
pub fn plant(bug: Option<&str>) -> Result<(), String> {
    let of_core = OfCore::ALL.iter().find(|(name, _)| Some(*name) == bug).map(|(_, bug)| *bug);
    let of_log = OfLog::ALL.iter().find(|(name, _)| Some(*name) == bug).map(|(_, bug)| *bug);
    match bug {
        Some(name) if of_core.is_none() && of_log.is_none() => return Err(format!("there is no bug {name}")),
        Some(_) | None => {}
    }
    #[cfg(feature = "planted-bugs")]
    {
        sluice_core::planted::choose(of_core);
        sluice_log::planted::choose(of_log);
        Ok(())
    }
    #[cfg(not(feature = "planted-bugs"))]
    bug.map_or(Ok(()), |name| {
        Err(format!("to plant {name} this must be built with the feature planted-bugs"))
    })
}

/// Plants a bug and runs seeds from 1 on until one breaks a law; says which seed and which law.
///
/// # Errors
/// When the bug cannot be planted, or no seed of those it may take finds it.
pub fn hunt(bug: &Planted) -> Result<(u64, Violation), String> {
    plant(Some(bug.name))?;
    let found = (1..=bug.seeds).find_map(|seed| run(seed, false).violation.map(|violation| (seed, violation)));
    plant(None)?;
    found.ok_or_else(|| format!("{} is not found within {} seeds: {}", bug.name, bug.seeds, bug.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bug_that_can_be_planted_is_on_the_table_once() {
        let mut planted: Vec<(&str, Owner)> = OfCore::ALL.iter().map(|(name, _)| (*name, Owner::Core)).collect();
        planted.extend(OfLog::ALL.iter().map(|(name, _)| (*name, Owner::Log)));
        let mut listed: Vec<(&str, Owner)> = BUGS.iter().map(|bug| (bug.name, bug.owner)).collect();
        planted.sort_unstable_by_key(|(name, _)| *name);
        listed.sort_unstable_by_key(|(name, _)| *name);
        assert_eq!(listed, planted);
    }
}
