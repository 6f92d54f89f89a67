//! What the plugin was heard to fail on, and whether the broker decided about it as the rule allows.

use std::collections::{BTreeMap, BTreeSet};

use sluice_core::effect::{Among, JudgeId};
use sluice_core::input::{JudgeFailure, JudgeFailureKind, Verdicts};
use sluice_log::record::CursorId;
use sluice_protocol::ids::{Digest, GroupId, TopicId};

use super::book::Book;
use super::lanes::is_meant;
use crate::laws::{Court, Law};

/// The most failures among the messages judged with one that is decided about.
const FAILURES_MAX: u64 = 16;
/// After so long it is decided about whatever was judged with it.
const WAIT_MS: u64 = 10_000;

/// A group's reading of a topic.
type Reading = (GroupId, TopicId);

/// A message of a queue, for a group.
type Message = (CursorId, u64);

/// Everything that the plugin answered in this life of the broker, and what it failed on in any.
#[derive(Clone, Debug, Default)]
pub struct Trials {
    /// How many messages must be judged with one that is decided about before its time is over.
    pub quorum: u64,
    /// The plugin fails on everything now.
    pub broken: bool,
    asked: BTreeMap<JudgeId, Question>,
    /// The question that counts, by cursor and lane: answers to others are dropped.
    newest: BTreeMap<(CursorId, u8), JudgeId>,
    /// How often something happened for which an answer under way may be dropped.
    disturbances: u64,
    heard: BTreeMap<Reading, Vec<Stretch>>,
    reports: BTreeMap<Message, Vec<Report>>,
    /// What is set aside, and since when: the frontier must not pass it.
    pending: BTreeMap<Message, u64>,
    /// What a broken plugin failed on and the broker did not hold its group for yet.
    unheld: BTreeSet<Message>,
    /// When runs were stopped by the backstop since a reading was resumed.
    stops: BTreeMap<Reading, Vec<u64>>,
    held: BTreeSet<Reading>,
    /// Everything that a plugin ever failed on.
    ever: BTreeSet<Message>,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    cursor: CursorId,
    among: Among,
    digest: Digest,
    asked_mono_ms: u64,
    disturbances: u64,
}

/// One answer of the plugin.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    mono_ms: u64,
    evaluated: u64,
    failed: u64,
    /// Whether the broker cannot have dropped it.
    sure: bool,
}

/// One time that the plugin failed on a message.
#[derive(Clone, Debug)]
struct Report {
    /// The answer that said so.
    stretch: usize,
    mono_ms: u64,
    digest: Digest,
    reason: String,
    broken: bool,
}

impl Trials {
    /// The broker asks.
    pub fn asks(&mut self, mono_ms: u64, judge: JudgeId, cursor: CursorId, among: Among, digest: Digest) {
        let question = Question {
            cursor,
            among,
            digest,
            asked_mono_ms: mono_ms,
            disturbances: self.disturbances,
        };
        self.asked.insert(judge, question);
        self.newest.insert((cursor, lane_of(among)), judge);
    }

    /// Something happens for which the broker may drop an answer that is under way.
    pub fn disturbed(&mut self) {
        self.disturbances += 1;
    }

    /// The plugin answers.
    pub fn hears(&mut self, mono_ms: u64, judge: JudgeId, outcome: &Result<Verdicts, JudgeFailure>, book: &Book, court: &mut Court) {
        let Some(question) = self.asked.remove(&judge) else { return };
        if self.newest.get(&(question.cursor, lane_of(question.among))) != Some(&judge) {
            return;
        }
        let reading = reading_of(question.cursor);
        match outcome {
            Err(failure) if failure.kind == JudgeFailureKind::Stopped => {
                court.exercise(Law::RunStopped);
                self.stops.entry(reading).or_default().push(mono_ms);
            }
            Err(_) => {}
            Ok(verdicts) => {
                let heard = self.heard.entry(reading).or_default();
                let stretch = heard.len();
                heard.push(Stretch {
                    mono_ms,
                    evaluated: u64::from(verdicts.evaluated),
                    failed: verdicts.culprits.len() as u64,
                    sure: self.disturbances == question.disturbances && mono_ms < question.asked_mono_ms + WAIT_MS,
                });
                let within = (question.cursor, verdicts.from.0)..(question.cursor, verdicts.to.0);
                let known = self.pending.range(within).map(|(message, _)| *message);
                let known: Vec<Message> = known
                    .filter(|(cursor, offset)| is_meant(question.among, book.priority(*cursor, *offset)))
                    .collect();
                known.iter().for_each(|message| {
                    self.pending.remove(message);
                    self.unheld.remove(message);
                });
                for culprit in &verdicts.culprits {
                    court.exercise(Law::CulpritFound);
                    let message = (question.cursor, culprit.offset.0);
                    self.pending.insert(message, mono_ms);
                    self.ever.insert(message);
                    if self.broken {
                        self.unheld.insert(message);
                    }
                    self.reports.entry(message).or_default().push(Report {
                        stretch,
                        mono_ms,
                        digest: question.digest,
                        reason: culprit.reason.clone(),
                        broken: self.broken,
                    });
                }
            }
        }
    }

    /// Whether a plugin ever failed on this message, so that it may come after later ones.
    pub fn was_reported(&self, cursor: CursorId, offset: u64) -> bool {
        self.ever.contains(&(cursor, offset))
    }

    /// Whether this message was set aside before this time, and is. Records are heard when they are written, answers at once: what was
    /// recorded before the plugin failed on a message may pass it.
    pub fn is_pending(&self, cursor: CursorId, offset: u64, mono_ms: u64) -> bool {
        self.pending.get(&(cursor, offset)).is_some_and(|since_ms| *since_ms < mono_ms)
    }

    /// The log says that it was decided about a message.
    pub fn decided(&mut self, mono_ms: u64, cursor: CursorId, offset: u64, digest: Digest, reason: &str, court: &mut Court) {
        let message = (cursor, offset);
        let mut reports = self.reports.remove(&message).unwrap_or_default();
        let heard = self.heard.get(&reading_of(cursor)).map_or(&[][..], Vec::as_slice);
        // Records are heard when they are written: after a seek the plugin may have failed on the message again by then.
        let mut since = reports.split_off(reports.partition_point(|report| report.mono_ms < mono_ms));
        let fits = |report: &&Report| report.digest == digest && report.reason == reason;
        let allowed = |reports: &[Report]| reports.iter().filter(fits).any(|report| self.allows(report, heard, mono_ms));
        let well = |reports: &[Report]| reports.iter().filter(fits).any(|report| !report.broken);
        if !allowed(&reports) || !well(&reports) {
            // What was heard in the same millisecond came before the decision or after it.
            let later = since.split_off(since.partition_point(|report| report.mono_ms <= mono_ms));
            reports.append(&mut since);
            since = later;
        }
        let (lawful, well) = (allowed(&reports), well(&reports));
        let in_time = reports.iter().filter(fits).any(|report| mono_ms < report.mono_ms + WAIT_MS);
        court.demand(Law::CulpritByTheRule, lawful, || {
            format!("{cursor:?} {offset} was decided about at {mono_ms}: {reports:?} among {heard:?}")
        });
        if since.is_empty() {
            self.pending.remove(&message);
            self.unheld.remove(&message);
        } else {
            self.reports.insert(message, since);
        }
        court.demand(Law::BrokenDecidesNothing, well, || {
            format!("{cursor:?} {offset} was decided about at {mono_ms} though the plugin is broken: {reports:?}")
        });
        if in_time {
            court.exercise(Law::QuorumReached);
        }
    }

    /// Whether the rule allows a decision at this time, by some of the answers that the broker may have counted by then.
    fn allows(&self, report: &Report, heard: &[Stretch], mono_ms: u64) -> bool {
        let (own, later) = heard[report.stretch..].split_first().expect("a report belongs to an answer");
        let (mut evaluated, mut succeeded, mut failed) = (own.evaluated, own.evaluated - own.failed, own.failed);
        let waited = mono_ms >= report.mono_ms + WAIT_MS;
        let is_enough = |evaluated: u64, succeeded: u64, failed: u64| {
            let failures_max = FAILURES_MAX.max(evaluated * FAILURES_MAX / self.quorum.max(1));
            (waited || evaluated >= self.quorum) && failed <= failures_max && succeeded > failed
        };
        let mut counted = later.iter();
        loop {
            let next = counted.clone().next();
            // What came in the same millisecond may have come after the decision.
            let may_end = next.is_none_or(|stretch| stretch.mono_ms >= mono_ms);
            if may_end && is_enough(evaluated, succeeded, failed) {
                return true;
            }
            let Some(stretch) = counted.next().filter(|stretch| stretch.mono_ms <= mono_ms) else {
                return false;
            };
            evaluated += stretch.evaluated;
            succeeded += stretch.evaluated - stretch.failed;
            failed += if stretch.sure { stretch.failed } else { 0 };
        }
    }

    /// The log says that a group is held.
    pub fn holds(&mut self, reading: Reading, court: &mut Court) {
        let reported = self.reports.keys().any(|(cursor, _)| reading_of(*cursor) == reading);
        let stopped = self.stops.get(&reading).is_some_and(|stops| stops.len() >= 3);
        court.demand(Law::HeldForAFault, reported || stopped, || {
            format!("{reading:?} is held, and nothing was heard against its plugin")
        });
        if self.broken {
            court.exercise(Law::BrokenDecidesNothing);
        }
        self.unheld.retain(|(cursor, _)| reading_of(*cursor) != reading);
        self.held.insert(reading);
    }

    /// The log says that a group goes on since this time.
    pub fn resumes(&mut self, mono_ms: u64, reading: Reading, court: &mut Court) {
        if self.held.remove(&reading) {
            court.exercise(Law::HeldResumed);
        }
        if let Some(stops) = self.stops.get_mut(&reading) {
            stops.retain(|stopped_ms| *stopped_ms >= mono_ms);
        }
    }

    /// A message is delivered to a group.
    pub fn delivers(&self, cursor: CursorId, court: &mut Court) {
        if self.held.iter().any(|held| *held != reading_of(cursor)) {
            court.exercise(Law::OthersGoOn);
        }
    }

    /// Whether every group for which the broken plugin was asked is held, so that it may work again without being taken for one that always
    /// did.
    pub fn may_heal(&self) -> bool {
        self.unheld.is_empty()
    }

    /// All is well from now on, whatever was heard before.
    pub fn heal(&mut self) {
        self.broken = false;
        self.unheld.clear();
        self.reports.values_mut().flatten().for_each(|report| report.broken = false);
    }

    /// The broker went down and forgot what it was told.
    pub fn crashed(&mut self) {
        self.asked.clear();
        self.newest.clear();
        self.heard.clear();
        self.reports.clear();
        self.pending.clear();
        self.unheld.clear();
        self.stops.clear();
    }
}

/// The lane that asks: one of priority 0 also asks about all.
fn lane_of(among: Among) -> u8 {
    match among {
        Among::All | Among::Ordered => 0,
        Among::Priority(priority) => priority,
    }
}

fn reading_of(cursor: CursorId) -> Reading {
    (cursor.group, cursor.queue.topic)
}
