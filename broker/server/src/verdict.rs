//! The verdict threads: each takes the next stretch of stored messages and has the plugins of all who ask about it judge it.

use std::sync::Arc;

use sluice_core::effect::Rule;
use sluice_core::input::{Input, JudgeFailure, JudgeFailureKind, Verdicts};
use sluice_log::LogReader;
use sluice_plugin_host::{FilterHandle, RunFailure};

use crate::judge::{Judge, Stretch};
use crate::judged::Judged;
use crate::listed::listed;
use crate::metrics::Metrics;
use crate::panics::caught;
use crate::plugins::Plugins;
use crate::questions::{JudgeWork, Questions, Taken};
use crate::shard::Shard;

/// Everything that one verdict thread owns.
pub(crate) struct VerdictThread {
    pub(crate) questions: Arc<Questions>,
    pub(crate) reader: LogReader,
    pub(crate) plugins: Arc<Plugins>,
    pub(crate) shard: Shard,
    pub(crate) metrics: Arc<Metrics>,
}

/// A question with the filter that answers it.
type Ready = (JudgeWork, FilterHandle);

/// What became of a question.
type Outcome = Result<Judged, JudgeFailure>;

impl VerdictThread {
    /// Judges until no more is asked.
    pub(crate) fn run(self) {
        let mut judge = Judge::new(self.plugins.host());
        while let Some(Taken { work, is_failing }) = self.questions.take() {
            let (ruled, unruled): (Vec<_>, Vec<_>) = work.into_iter().partition(|work| work.rule.is_some());
            self.list(&unruled);
            let mut ready: Vec<Ready> = ruled.into_iter().filter_map(|work| self.prepare(work)).collect();
            while let Some((_, first)) = ready.first() {
                let hint = first.hint().cloned();
                let (together, others) = ready.into_iter().partition(|(_, filter)| filter.hint() == hint.as_ref());
                ready = others;
                self.serve(&mut judge, together);
            }
            if is_failing {
                self.questions.failing_was_asked();
            }
        }
    }

    /// Answers questions without a rule, which are about the same messages.
    fn list(&self, work: &[JudgeWork]) {
        let Some(stretch) = stretch_of(work) else { return };
        let listed = caught("listing messages", || listed(&self.reader, stretch));
        for work in work {
            let outcome = match &listed {
                Ok(Ok(judged)) => Ok(judged.clone()),
                Ok(Err(error)) => Err(unasked(error)),
                Err(panicked) => Err(unasked(panicked)),
            };
            self.answer(work, outcome);
        }
    }

    /// Finds the filter of a question; one that has none is answered.
    fn prepare(&self, work: JudgeWork) -> Option<Ready> {
        let filter = caught("compiling a filter", || {
            let Rule {
                digest,
                limits,
                expression,
            } = work.rule.as_ref().ok_or("there is no rule to ask")?;
            self.plugins.filter(*digest, *limits, expression).map_err(|error| error.to_string())
        });
        match filter.unwrap_or_else(|panicked| Err(panicked.to_string())) {
            Ok(filter) => Some((work, filter)),
            Err(reason) => {
                self.answer(&work, Err(unasked(&reason)));
                None
            }
        }
    }

    /// Answers questions about the same messages whose filters give the same hint. Where that panics each is tried alone, so that only the
    /// one to blame fails.
    fn serve(&self, judge: &mut Judge, together: Vec<Ready>) {
        let (work, filters): (Vec<JudgeWork>, Vec<FilterHandle>) = together.into_iter().unzip();
        if let Some(outcomes) = self.judge(judge, &work, &filters) {
            work.iter().zip(outcomes).for_each(|(work, outcome)| self.answer(work, outcome));
            return;
        }
        for (work, filter) in work.iter().zip(&filters) {
            let outcomes = self.judge(judge, std::slice::from_ref(work), std::slice::from_ref(filter));
            let failed = || Err(unasked(&"the broker failed while judging messages; its log says more"));
            let outcome = outcomes.and_then(|outcomes| outcomes.into_iter().next());
            self.answer(work, outcome.unwrap_or_else(failed));
        }
    }

    /// What the filters say, each for itself; `None` when the broker panicked.
    fn judge(&self, judge: &mut Judge, work: &[JudgeWork], filters: &[FilterHandle]) -> Option<Vec<Outcome>> {
        let stretch = stretch_of(work)?;
        let judged = caught("judging messages", || judge.stored(&self.reader, filters, stretch));
        match judged {
            Ok(Ok(outcomes)) => Some(outcomes.into_iter().map(|outcome| outcome.map_err(failure)).collect()),
            Ok(Err(error)) => Some(vec![Err(unasked(&error)); work.len()]),
            Err(_) => {
                *judge = Judge::new(self.plugins.host());
                None
            }
        }
    }

    fn answer(&self, work: &JudgeWork, outcome: Outcome) {
        let failed = match &outcome {
            Ok(judged) => {
                self.metrics.messages_judged.add(judged.to.0 - work.from.0);
                self.metrics.messages_pruned.add(judged.pruned);
                if let Some(culprit) = judged.culprits.first() {
                    let (queue, count, first, reason) = (work.queue, judged.culprits.len(), culprit.offset.0, &culprit.reason);
                    let plugin = work.rule.as_ref().map(|rule| tracing::field::display(rule.digest));
                    tracing::warn!(%queue, plugin, count, first, %reason, "a plugin fails on messages");
                }
                !judged.culprits.is_empty()
            }
            Err(JudgeFailure { kind, reason }) => {
                self.metrics.runs_failed.one();
                tracing::warn!(queue = %work.queue, from = work.from.0, ?kind, %reason, "messages could not be judged");
                *kind == JudgeFailureKind::Stopped
            }
        };
        if let Some(rule) = &work.rule {
            self.questions.fails(rule, failed);
        }
        let outcome = outcome.map(|judged| Verdicts {
            from: work.from,
            to: judged.to,
            deliver: judged.deliver,
            links: judged.links,
            failed: judged.failed,
            evaluated: judged.evaluated,
            culprits: judged.culprits,
        });
        self.shard.tell(Input::Verdicts {
            judge: work.judge,
            outcome,
        });
    }
}

/// The messages that these questions are about.
fn stretch_of(work: &[JudgeWork]) -> Option<Stretch> {
    let &JudgeWork {
        queue,
        from,
        to,
        among,
        ttl,
        ..
    } = work.first()?;
    Some(Stretch {
        queue,
        among,
        ttl,
        from,
        to,
        // Whatever is judged by a call may match.
        calls_max: work.iter().map(|work| work.deliver_max).min().unwrap_or(1),
    })
}

fn failure(failure: RunFailure) -> JudgeFailure {
    match failure {
        RunFailure::Time(_) => JudgeFailure {
            kind: JudgeFailureKind::Stopped,
            reason: failure.to_string(),
        },
        RunFailure::Trap(_) | RunFailure::Fuel(_) | RunFailure::Memory(_) | RunFailure::BadOutput(_) | RunFailure::NoInstance(_) => {
            unasked(&failure)
        }
    }
}

/// The plugin was not asked.
fn unasked(why: &dyn std::fmt::Display) -> JudgeFailure {
    JudgeFailure {
        kind: JudgeFailureKind::Unasked,
        reason: why.to_string(),
    }
}
