//! The verdict threads: each takes the next stretch of stored messages and has a plugin judge it.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sluice_core::effect::{JudgeId, Rule};
use sluice_core::input::{Input, JudgeFailure, Verdicts};
use sluice_log::LogReader;
use sluice_protocol::ids::{QueueId, QueueOffset};

use crate::judge::Judge;
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

    fn take(&self) -> Option<JudgeWork> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(work) = waiting.work.pop_front() {
                return Some(work);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// No code panics while it holds this, so what is inside is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
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
        while let Some(work) = self.pool.take() {
            let judged = caught("judging messages", || self.judge(&mut judge, &work)).unwrap_or_else(|panicked| {
                judge = Judge::new(self.plugins.host());
                Err(panicked.to_string())
            });
            let outcome = judged.map_err(|reason| {
                self.metrics.runs_failed.one();
                tracing::warn!(queue = %work.queue, from = work.from.0, %reason, "messages could not be judged");
                JudgeFailure { reason }
            });
            self.shard.tell(Input::Verdicts {
                judge: work.judge,
                outcome,
            });
        }
    }

    fn judge(&self, judge: &mut Judge, work: &JudgeWork) -> Result<Verdicts, String> {
        let filter = self
            .plugins
            .filter(work.rule.digest, work.rule.limits, &work.rule.expression)
            .map_err(|error| error.to_string())?;
        let judged = judge
            .stored(&self.reader, &filter, work.queue, work.from, work.to)
            .map_err(|error| error.to_string())?;
        self.metrics.messages_judged.add(work.to.0 - work.from.0);
        self.metrics.messages_pruned.add(judged.pruned);
        Ok(Verdicts {
            from: work.from,
            to: work.to,
            deliver: judged.deliver,
            failed: judged.failed,
        })
    }
}
