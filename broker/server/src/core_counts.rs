//! What the core counts, by the names under which metrics show it.

use sluice_core::Counters;

/// Of a core's count: its name, what it counts, and where it is found.
pub(crate) type CoreCount = (&'static str, &'static str, fn(&Counters) -> u64);

/// Each of them, in the order in which they are shown.
pub(crate) const CORE_COUNTS: &[CoreCount] = &[
    ("messages_stored", "Messages stored, dead letters not included.", |c| c.published),
    ("messages_duplicate", "Messages that a retried send found stored already.", |c| {
        c.duplicates
    }),
    ("messages_granted", "Messages handed out, every attempt counted.", |c| c.granted),
    ("messages_redelivered", "Messages handed out for the second time or later.", |c| {
        c.redelivered
    }),
    ("messages_settled", "Messages acknowledged.", |c| c.settled),
    ("messages_skipped", "Messages that operators skipped for a group.", |c| c.skipped),
    (
        "messages_expired",
        "Messages that expired before a group took or settled them.",
        |c| c.expired,
    ),
    ("messages_dead_lettered", "Messages stored in a dead-letter topic.", |c| {
        c.dead_lettered
    }),
    ("messages_delayed", "Messages taken that wait for their time.", |c| c.delayed),
    (
        "messages_released",
        "Delayed messages that were due and were stored in their queue.",
        |c| c.released,
    ),
    ("messages_recalled", "Delayed messages recalled before they were due.", |c| {
        c.recalled
    }),
    (
        "delays_dropped",
        "Delayed messages that waited in a topic which was deleted.",
        |c| c.delays_dropped,
    ),
    (
        "due_unreadable",
        "Times that a delayed message could not be read when it was due.",
        |c| c.due_unreadable,
    ),
    ("calendar_parts_written", "Files of far-off messages written.", |c| c.parts_written),
    (
        "calendar_parts_failed",
        "Times that a file of far-off messages could not be written.",
        |c| c.parts_failed,
    ),
    (
        "calendar_parts_dropped",
        "Files of far-off messages of which nothing was needed any more.",
        |c| c.parts_dropped,
    ),
    ("calendar_taken_in", "Far-off messages that came near.", |c| c.taken_in),
    ("messages_prepared", "Messages taken that wait for a decision.", |c| c.prepared),
    ("messages_committed", "Prepared messages that were committed.", |c| c.committed),
    ("messages_rolled_back", "Prepared messages that were rolled back.", |c| {
        c.rolled_back
    }),
    ("transaction_asks", "Asks about prepared messages that a producer heard.", |c| {
        c.asks_delivered
    }),
    (
        "transaction_asks_undelivered",
        "Asks about prepared messages that no producer heard; each is tried again.",
        |c| c.asks_undelivered,
    ),
    (
        "messages_given_up",
        "Prepared messages that were rolled back because nobody decided.",
        |c| c.given_up,
    ),
    (
        "messages_revived",
        "Messages that were rolled back because nobody decided, and that an operator committed.",
        |c| c.revived,
    ),
    (
        "undecided_dropped",
        "Prepared messages that waited for a decision in a topic which was deleted.",
        |c| c.undecided_dropped,
    ),
    (
        "evaluation_errors",
        "Messages whose evaluation by a filter was an error, so that they are not delivered.",
        |c| c.evaluation_errors,
    ),
    (
        "culprits_decided",
        "Messages on which a plugin failed that were given what its binding says.",
        |c| c.culprits_decided,
    ),
    ("alarms", "Times that a group was held because its plugin is broken.", |c| c.alarms),
    (
        "messages_lost_to_retention",
        "Messages that a group had not settled when retention took them.",
        |c| c.lost_to_retention,
    ),
    (
        "given_ids_forgotten",
        "Ids that producers gave their messages, forgotten within ten minutes to keep within the memory limit.",
        |c| c.given_ids_forgotten,
    ),
    (
        "producers_forgotten",
        "Producers forgotten to keep within the memory limit: a retry of theirs may be stored twice.",
        |c| c.producers_forgotten,
    ),
];
