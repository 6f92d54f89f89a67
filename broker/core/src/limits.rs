//! Every bound of the core, in one place.

use sluice_protocol::limits::{INVISIBLE_MS_MAX, INVISIBLE_MS_MIN, PRODUCER_UNCONFIRMED_MAX, RECEIVE_MESSAGES_MAX};

/// The most messages leased or waiting for a redelivery in one cursor; at the bound no further message is handed out there.
pub const CURSOR_OPEN_MAX: u64 = 100_000;
/// The most messages that an ordered group has found and not handed out in one cursor; at the bound nothing further is looked for there.
pub const CURSOR_PARKED_MAX: u64 = 100_000;
/// The most offsets settled ahead of one frontier.
pub const CURSOR_AHEAD_MAX: u64 = 100_000;
/// The most verdicts kept ahead of one frontier.
pub const WINDOW_VERDICTS_MAX: u64 = 4_096;
/// The most messages that one question to a filter names. Where a hint passes over most of them one answer goes far; otherwise it ends
/// when as many were judged as the window has room for.
pub const QUESTION_MESSAGES_MAX: u64 = 32_768;
/// The most messages judged ahead of the first that matched and waits, so that a new rule has not much to judge again.
pub const JUDGED_AHEAD_MAX: u64 = 2 * QUESTION_MESSAGES_MAX;
/// The most lanes that may have verdicts kept or asked at one time.
pub const WINDOWS_MAX: usize = 4_096;
/// The most messages in one grant.
pub const GRANT_MESSAGES_MAX: u64 = 1_024;
/// The most messages of credit that one stream may have.
pub const CREDIT_MESSAGES_MAX: u64 = 1 << 20;
/// The most entries of a back-off table.
pub const BACKOFF_WAITS_MAX: usize = 64;
/// The most deliveries of one message.
pub const ATTEMPTS_MAX: u16 = 1_000;
/// The sequences of a producer that are remembered, and so the most it may have unconfirmed.
pub const PRODUCER_WINDOW: u64 = PRODUCER_UNCONFIRMED_MAX as u64;
/// An id that a producer gave a message is remembered for so many minutes, and at most one more.
pub const GIVEN_ID_MINUTES: u64 = 10;
/// The ids of one minute are kept in so many entries.
pub const GIVEN_ID_PARTS: u8 = 64;
/// What an id takes in memory, an estimate, in bytes.
pub const GIVEN_ID_BYTES: u64 = 96;
/// Restorations that are remembered. Handles from before the oldest of them are stale.
pub const RESTORATIONS_MAX: usize = 16;
/// Neighbouring sequences that share a slot: `sequence >> SLOT_BLOCK_BITS` is hashed.
pub const SLOT_BLOCK_BITS: u32 = 8;
/// The slots of a topic.
pub const SLOTS: u64 = 1_024;
/// The most queues of a topic.
pub const QUEUES_MAX: u16 = 1_024;
/// How often a topic may grow.
pub const GROWTHS_MAX: usize = 64;
/// The most queues of all topics.
pub const QUEUES_TOTAL_MAX: usize = 100_000;
/// The most groups.
pub const GROUPS_MAX: usize = 100_000;
/// The most cursors of all groups.
pub const CURSORS_MAX: usize = 1_000_000;
/// The most names of plugins bound.
pub const BINDINGS_MAX: usize = 1_024;
/// The most streams and waiting receives of one group on one topic.
pub const MEMBERS_MAX: usize = 10_000;
/// The most members of a broadcast group, each with its own cursors.
pub const BROADCAST_MEMBERS_MAX: usize = 10_000;
/// The most cursors of the members of one broadcast group.
pub const BROADCAST_CURSORS_MAX: usize = 100_000;
/// A member that was absent for so long, in milliseconds, is forgotten with its cursors.
pub const MEMBER_ABSENT_MS: u64 = 24 * 60 * 60 * 1_000;
/// Superseded expressions remembered for one subscription.
pub const SUPERSEDED_MAX: usize = 16;
/// Starts of the broker that leases are told apart by.
pub const EPOCHS_MAX: usize = 64;
/// Topics or groups on one page of a list.
pub const LISTED_MAX: usize = 1_000;
/// Subscriptions of a group that a list shows.
pub const LISTED_SUBSCRIPTIONS_MAX: usize = 8;
/// A page of groups, or of one group's description, ends when it holds about so many bytes.
pub const PAGE_WEIGHT_MAX: usize = 128 << 10;
/// Stretches of a dead-letter queue that were dealt with, at most.
pub const LETTERS_DEALT_RANGES_MAX: usize = 100_000;
/// Ranges on one page of a list of leases or of dead letters.
pub const LISTED_LEASES_MAX: usize = 1_000;
/// Members on one page of a group's description.
pub const PAGE_MEMBERS_MAX: usize = 1_000;
/// How long no member of the ruling expression must have been seen before a superseded one may come back, in milliseconds.
pub const SUPERSEDED_REST_MS: u64 = 60_000;
/// The frontier is recorded at the latest after so many messages without a grant...
pub const FRONTIER_MESSAGES_MAX: u64 = 65_536;
/// ... and after so many milliseconds.
pub const FRONTIER_MS_MAX: u64 = 1_000;
/// The first wait after a judge failed, in milliseconds; it doubles ...
pub const JUDGE_WAIT_MS_MIN: u64 = 1_000;
/// ... up to this.
pub const JUDGE_WAIT_MS_MAX: u64 = 60_000;
/// A message that a plugin failed on is decided about when so many were judged with it, ...
pub const CULPRIT_QUORUM: u64 = 1_024;
/// ... or after so many milliseconds, ...
pub const CULPRIT_MS_MAX: u64 = 10_000;
/// ... where the plugin failed on at most so many, and judged more than it failed on.
pub const CULPRITS_MAX: u64 = 16;
/// Messages of a queue that a plugin failed on and that are held for a group; with one more the group is held.
pub const CULPRITS_HELD_MAX: u64 = 10_000;
/// So many runs of a queue that the wall-clock backstop stopped one after the other are the plugin's fault.
pub const STOPS_MAX: u32 = 3;
/// How a plugin failed is told in at most so many bytes; what is longer is cut.
pub const REASON_BYTES_MAX: usize = 512;
/// A receive that would get nothing waits for the verdicts under way until it is this old, in milliseconds.
pub const FIRST_VERDICTS_MS: u64 = 1_000;
/// Messages of one cursor that are fetched for the dead-letter topic at one time.
pub const FETCHES_MAX: usize = 64;
/// A message that could not be fetched is asked for again after so long, in milliseconds.
pub const FETCH_AGAIN_MS: u64 = 10_000;
/// Messages that are due within so many milliseconds are read ahead, ...
pub const DUE_AHEAD_MS: i64 = 1_000;
/// ... so many at one time, ...
pub const DUE_FETCH_MAX: usize = 1_024;
/// ... in so many questions at one time, ...
pub const DUE_FETCHES_MAX: usize = 8;
/// ... while no more bytes than these are kept ahead. What is due already is read nevertheless.
pub const DUE_BYTES_MAX: usize = 64 << 20;
/// Where messages are not put into parts, those in parts come into memory so long before they are due, in milliseconds.
pub const NEAR_MS: i64 = 10 * 60 * 1_000;
/// Far-off messages that one part of the calendar takes out of the log, ...
pub const PART_MESSAGES_MAX: usize = 16_384;
/// ... that a part has which was merged out of others, ...
pub const PART_MERGED_MESSAGES_MAX: u64 = 1 << 18;
/// ... and the bytes of such a part.
pub const PART_MERGED_BYTES_MAX: u64 = 1 << 30;
/// Messages that are taken in from a part at one time, ...
pub const TAKEN_IN_MAX: usize = 4_096;
/// ... and parts that are read for that at one time.
pub const PART_READS_MAX: usize = 4;
/// A part that could not be written or read is tried again after so long, in milliseconds, ...
pub const PART_AGAIN_MS: u64 = 10_000;
/// ... and parts that could not be merged after so long.
pub const MERGE_AGAIN_MS: u64 = 600_000;
/// Messages of one lane that are ended in one turn because they expired.
pub const EXPIRED_MAX: u64 = 8_192;
/// Messages of one topic that are released in one turn.
pub const RELEASED_MAX: usize = 8_192;
/// After so long, in milliseconds, a topic is gone on with in which a message that is due could not be read.
pub const DUE_AGAIN_MS: u64 = 1_000;
/// Prepared messages of one topic that are asked about or given up at one time.
pub const ASKS_MAX: usize = 64;
/// After an ask that could not be delivered nothing further is asked about its topic for so long, in milliseconds.
pub const ASK_AGAIN_MS: u64 = 1_000;
/// Of each topic the decisions about the last so many times 64 prepared or delayed messages are remembered.
pub const DECIDED_WORDS_MAX: usize = 16_384;
/// Of each topic so many messages that were rolled back because nobody decided can be committed by an operator, the newest.
pub const GIVEN_UP_MAX: usize = 100_000;
/// After so long without a write the last frame is covered by an empty one, in milliseconds.
pub const IDLE_MS: u64 = 100;
/// A frame is closed, and the next begun, when it holds so many bytes of records.
pub const FRAME_RECORDS_BYTES_MAX: u64 = 16 << 20;
/// A merged batch is closed when it holds so many bytes.
pub const MERGED_BATCH_BYTES_MAX: usize = 4 << 20;
/// Queues and cursors in one piece of a survey at most, so that messages do not wait for it: about half a millisecond.
pub const SURVEY_ENTRIES_MAX: usize = 1_024;
/// A published batch of so many messages, or ...
pub const WHOLE_BATCH_MESSAGES_MIN: u32 = 128;
/// ... so many bytes is stored as it came: to merge it with others would cost a copy and save nothing that matters.
pub const WHOLE_BATCH_BYTES_MIN: usize = 64 << 10;
/// A slice of a checkpoint ends when it holds so many bytes: about what a turn encodes in half a millisecond.
pub const SLICE_BYTES_MAX: usize = 64 << 10;
/// The least log that is written between two checkpoints, unless the configured bound is smaller.
pub const CHECKPOINT_BYTES_MIN: u64 = 64 << 20;
/// Log between two checkpoints for each byte that a checkpoint takes itself, within its bounds.
pub const CHECKPOINT_LOG_RATIO: u64 = 8;

const _: () = {
    assert!(GRANT_MESSAGES_MAX <= CURSOR_OPEN_MAX);
    assert!(RECEIVE_MESSAGES_MAX as u64 <= GRANT_MESSAGES_MAX);
    assert!(WINDOW_VERDICTS_MAX <= QUESTION_MESSAGES_MAX && QUESTION_MESSAGES_MAX < FRONTIER_MESSAGES_MAX);
    assert!(INVISIBLE_MS_MIN < INVISIBLE_MS_MAX);
    assert!(JUDGE_WAIT_MS_MIN < JUDGE_WAIT_MS_MAX);
    assert!((QUEUES_MAX as u64) <= SLOTS && (QUEUES_MAX as usize) < QUEUES_TOTAL_MAX);
    assert!(1 << SLOT_BLOCK_BITS < PRODUCER_WINDOW);
};
