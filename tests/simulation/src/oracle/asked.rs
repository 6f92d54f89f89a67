//! What was asked of the broker, so that no record does what nobody wanted.

use std::collections::{BTreeMap, BTreeSet};

use sluice_core::input::SeekTo;
use sluice_log::record::CursorId;
use sluice_protocol::ids::{Pass, QueueId};

use super::lanes::Known;
use super::members::Members;
use super::operated::Orders;
use super::trials::Trials;
use crate::laws::{Court, Law};

/// A message in one pass of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The group and queue.
    pub cursor: CursorId,
    /// The pass.
    pub pass: Pass,
    /// The message.
    pub offset: u64,
}

/// Requests handed to the broker, whether or not they were answered.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// What the plugin was heard to fail on.
    pub trials: Trials,
    /// What operators asked for.
    pub orders: Orders,
    /// What is known of the members of broadcast groups.
    pub members: Members,
    /// The verdicts that the broker heard.
    pub known: Known,
    settlements: BTreeSet<Key>,
    unreadable: BTreeSet<(CursorId, u64)>,
    trims: BTreeMap<QueueId, u64>,
    deletions: BTreeSet<String>,
    seeks: BTreeMap<(String, String), Vec<SeekTo>>,
    /// How many deliveries came whose lease record did not come yet, by message, attempt and length of the lease.
    unrecorded: BTreeMap<(Key, u16, u64), u32>,
    /// Lease records whose delivery did not come yet.
    undelivered: Vec<Recorded>,
}

/// A lease in the log.
#[derive(Clone, Copy, Debug)]
struct Recorded {
    /// The message, the attempt and the length of the lease.
    lease: (Key, u16, u64),
    frame: u64,
    expires_mono_ms: u64,
}

impl Asked {
    /// A consumer asks to settle this message.
    pub fn settle(&mut self, key: Key) {
        self.settlements.insert(key);
    }

    /// The broker was told that this message can no longer be read.
    pub fn cannot_read(&mut self, cursor: CursorId, offset: u64) {
        self.unreadable.insert((cursor, offset));
    }

    /// Whether someone asked to settle this message, or it cannot be delivered any more.
    pub fn settlement(&self, key: &Key) -> bool {
        self.settlements.contains(key) || self.unreadable.contains(&(key.cursor, key.offset))
    }

    /// Retention gives up what lies below `start`.
    pub fn trim(&mut self, queue: QueueId, start: u64) {
        let furthest = self.trims.entry(queue).or_default();
        *furthest = start.max(*furthest);
    }

    /// Below which offset retention gave up.
    pub fn trims(&self, queue: QueueId) -> u64 {
        self.trims.get(&queue).copied().unwrap_or(0)
    }

    /// Somebody asks to delete the topic of this name.
    pub fn delete(&mut self, name: &str) {
        self.deletions.insert(name.to_owned());
    }

    /// Whether somebody ever asked to delete this topic.
    pub fn deletes(&self, name: Option<&String>) -> bool {
        name.is_some_and(|name| self.deletions.contains(name))
    }

    /// Somebody asks for a seek.
    pub fn seek(&mut self, group: &str, topic: &str, to: SeekTo) {
        self.seeks.entry((group.to_owned(), topic.to_owned())).or_default().push(to);
    }

    /// A seek was recorded to begin at `start` in a queue that holds `kept_from..end`: one that was asked for must lead there.
    pub fn sought(&self, groups: &[String], topic: Option<&String>, start: u64, kept_from: u64, end: u64, court: &mut Court) {
        let topic = topic.cloned().unwrap_or_default();
        let of = |group: &String| self.seeks.get(&(group.clone(), topic.clone()));
        let asked: Vec<SeekTo> = groups.iter().filter_map(of).flatten().copied().collect();
        let leads = |to: &SeekTo| match to {
            SeekTo::Earliest => start == kept_from,
            SeekTo::Latest => start == end,
            SeekTo::Offset(offset) => start == offset.0.clamp(kept_from, end.max(kept_from)),
            SeekTo::Time { .. } => (kept_from..=end.max(kept_from)).contains(&start),
        };
        court.demand(Law::SeekGoesWhereAsked, asked.iter().any(leads), || {
            format!("{groups:?} in {topic} went to {start} of {kept_from}..{end}, asked was {asked:?}")
        });
    }

    /// A delivery of a message under a lease of this length came out of the broker.
    pub fn delivered(&mut self, key: Key, attempt: u16, invisible_ms: u64, court: &mut Court) {
        court.exercise(Law::DeliveryIsRecorded);
        let lease = (key, attempt, invisible_ms);
        match self.undelivered.iter().position(|recorded| recorded.lease == lease) {
            Some(place) => {
                self.undelivered.remove(place);
            }
            None => *self.unrecorded.entry(lease).or_default() += 1,
        }
    }

    /// A lease was recorded. Its delivery came before, or comes when all that it waits for is synced.
    pub fn recorded(&mut self, frame: u64, key: Key, attempt: u16, granted_mono_ms: u64, expires_mono_ms: u64) {
        let lease = (key, attempt, expires_mono_ms - granted_mono_ms);
        match self.unrecorded.get_mut(&lease) {
            Some(count) => {
                *count -= 1;
                if *count == 0 {
                    self.unrecorded.remove(&lease);
                }
            }
            None => self.undelivered.push(Recorded {
                lease,
                frame,
                expires_mono_ms,
            }),
        }
    }

    /// The leases that were recorded before the frame at `frame` and whose delivery did not come, with their ends.
    pub fn undelivered(&mut self, frame: u64) -> Vec<(Key, u16, u64)> {
        let (old, new) = std::mem::take(&mut self.undelivered)
            .into_iter()
            .partition(|recorded: &Recorded| recorded.frame < frame);
        self.undelivered = new;
        let old: Vec<Recorded> = old;
        old.into_iter()
            .map(|recorded| (recorded.lease.0, recorded.lease.1, recorded.expires_mono_ms))
            .collect()
    }

    /// The broker went down: what was on its way to the log or to a consumer is lost.
    pub fn crashed(&mut self) {
        self.unrecorded.clear();
        self.undelivered.clear();
        self.trials.crashed();
        self.members.crashed();
        self.known.crashed();
    }

    /// A delivery whose record never came.
    pub fn unrecorded(&self) -> Option<&(Key, u16, u64)> {
        self.unrecorded.keys().next()
    }
}
