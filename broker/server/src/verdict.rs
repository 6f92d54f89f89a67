//! The verdict threads: each takes the next stretch of stored messages and has a plugin judge it.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sluice_core::effect::{JudgeId, Rule};
use sluice_core::input::{Input, JudgeFailure, JudgeFailureKind, Verdicts};
use sluice_log::LogReader;
use sluice_plugin_host::RunFailure;
use sluice_protocol::ids::{Digest, QueueId, QueueOffset};

use crate::judge::{Judge, JudgeError};
use crate::metrics::Metrics;
use crate::panics::caught;
use crate::plugins::Plugins;
use crate::shard::Shard;

/// Messages to be judged. The core bounds how many of these are under way.
#[derive(Debug)]
pub(crate) struct JudgeWork {
    pub(crate) judge: JudgeId,
    pub(crate) queue: QueueId,
    pub(crate) rule: Rule,
    pub(crate) from: QueueOffset,
    pub(crate) to: QueueOffset,
}

/// What waits for a verdict thread.
#[derive(Debug, Default)]
pub(crate) struct VerdictPool {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    work: VecDeque<JudgeWork>,
    /// The versions that failed when they were asked last: they cost their limits each time, and have one thread among them.
    failing: BTreeSet<Digest>,
    /// One of them is being asked.
    is_failing_asked: bool,
    closed: bool,
}

impl VerdictPool {
    /// Hands over work.
    pub(crate) fn submit(&self, work: JudgeWork) {
        self.lock().work.push_back(work);
        self.changed.notify_one();
    }

    /// Ends the threads; what still waits is dropped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// The work to be done next, and whether its plugin failed when it was asked last.
    fn take(&self) -> Option<(JudgeWork, bool)> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(next) = waiting.next() {
                return Some(next);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Work that was taken is done: whether its plugin had failed before, and whether it failed now.
    fn done(&self, digest: Digest, was_failing: bool, failed: bool) {
        let mut waiting = self.lock();
        if was_failing {
            waiting.is_failing_asked = false;
            self.changed.notify_all();
        }
        if failed {
            waiting.failing.insert(digest);
        } else {
            waiting.failing.remove(&digest);
        }
    }

    /// No code panics while it holds this, so what is inside is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn next(&mut self) -> Option<(JudgeWork, bool)> {
        let may_go = |work: &JudgeWork| !self.is_failing_asked || !self.failing.contains(&work.rule.digest);
        let work = self.work.iter().position(may_go).and_then(|place| self.work.remove(place))?;
        let is_failing = self.failing.contains(&work.rule.digest);
        self.is_failing_asked |= is_failing;
        Some((work, is_failing))
    }
}

/// Everything that one verdict thread owns.
pub(crate) struct VerdictThread {
    pub(crate) pool: Arc<VerdictPool>,
    pub(crate) reader: LogReader,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) shard: Shard,
    pub(crate) metrics: Arc<Metrics>,
}

impl VerdictThread {
    /// Judges until the pool is closed.
    pub(crate) fn run(self) {
        let mut judge = Judge::new(self.plugins.host());
        while let Some((work, was_failing)) = self.pool.take() {
            let judged = caught("judging messages", || self.judge(&mut judge, &work)).unwrap_or_else(|panicked| {
                judge = Judge::new(self.plugins.host());
                Err(unasked(&panicked))
            });
            let outcome = judged.inspect_err(|JudgeFailure { kind, reason }| {
                self.metrics.runs_failed.one();
                tracing::warn!(queue = %work.queue, from = work.from.0, ?kind, %reason, "messages could not be judged");
            });
            let failed = outcome.as_ref().map_or_else(
                |failure| failure.kind == JudgeFailureKind::Stopped,
                |verdicts| !verdicts.culprits.is_empty(),
            );
            self.pool.done(work.rule.digest, was_failing, failed);
            self.shard.tell(Input::Verdicts {
                judge: work.judge,
                outcome,
            });
        }
    }

    fn judge(&self, judge: &mut Judge, work: &JudgeWork) -> Result<Verdicts, JudgeFailure> {
        let filter = self
            .plugins
            .filter(work.rule.digest, work.rule.limits, &work.rule.expression)
            .map_err(|error| unasked(&error))?;
        let judged = judge
            .stored(&self.reader, &filter, work.queue, work.from, work.to)
            .map_err(|error| JudgeFailure {
                kind: match error {
                    JudgeError::Run(RunFailure::Time(_)) => JudgeFailureKind::Stopped,
                    JudgeError::Run(_) | JudgeError::Log(_) | JudgeError::Batch(_) => JudgeFailureKind::Unasked,
                },
                reason: error.to_string(),
            })?;
        self.metrics.messages_judged.add(judged.to.0 - work.from.0);
        self.metrics.messages_pruned.add(judged.pruned);
        if let Some(culprit) = judged.culprits.first() {
            let (queue, count, first, reason) = (work.queue, judged.culprits.len(), culprit.offset.0, &culprit.reason);
            tracing::warn!(%queue, plugin = %work.rule.digest, count, first, %reason, "a plugin fails on messages");
        }
        Ok(Verdicts {
            from: work.from,
            to: judged.to,
            deliver: judged.deliver,
            failed: judged.failed,
            evaluated: judged.evaluated,
            culprits: judged.culprits,
        })
    }
}

/// The plugin was not asked.
fn unasked(why: &dyn std::fmt::Display) -> JudgeFailure {
    JudgeFailure {
        kind: JudgeFailureKind::Unasked,
        reason: why.to_string(),
    }
}
