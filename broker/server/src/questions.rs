//! What waits for a verdict thread: questions about the same messages are taken together, those of failing plugins apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use sluice_core::effect::{Among, JudgeId, Rule, TopicTtl};
use sluice_protocol::ids::{Digest, QueueId, QueueOffset};

use crate::limits;

/// Messages to be judged. The core bounds how many of these are under way.
#[derive(Debug)]
pub(crate) struct JudgeWork {
    pub(crate) judge: JudgeId,
    pub(crate) queue: QueueId,
    /// Without a rule all that is meant matches.
    pub(crate) rule: Option<Rule>,
    pub(crate) among: Among,
    /// Whether it is asked until when each lives: then how long those of the topic do.
    pub(crate) ttl: Option<TopicTtl>,
    pub(crate) from: QueueOffset,
    pub(crate) to: QueueOffset,
    /// The answer must end before more match.
    pub(crate) deliver_max: u64,
}

/// A plugin's version and what it is asked: one expression may make it fail while the others of the same plugin are sound.
type Asked = (Digest, String);

/// Which messages are to be judged.
type Place = (QueueId, QueueOffset, QueueOffset, Among, Option<TopicTtl>);

/// What waits for a verdict thread.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

/// Questions about the same messages.
#[derive(Debug)]
pub(crate) struct Taken {
    /// At least one.
    pub(crate) work: Vec<JudgeWork>,
    /// Their plugin failed when it was asked last; the thread says when it was asked again.
    pub(crate) is_failing: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each place that somebody asks about once, in the order of the first question.
    places: VecDeque<Place>,
    work: BTreeMap<Place, Vec<JudgeWork>>,
    /// The filters that failed when they were asked last: they cost their limits each time, so they have one thread among them, and nobody
    /// else waits for them.
    failing: BTreeSet<Asked>,
    /// One of them is being asked.
    is_failing_asked: bool,
    closed: bool,
}

impl Questions {
    /// Takes all that a turn asks, so that those who ask about the same messages are answered together.
    pub(crate) fn submit(&self, work: impl IntoIterator<Item = JudgeWork>) {
        let mut waiting = self.lock();
        work.into_iter().for_each(|work| waiting.put(work));
        if !waiting.places.is_empty() {
            self.changed.notify_one();
        }
    }

    /// Ends the threads; what still waits is dropped.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// How many stretches of messages wait for a thread.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().places.len()
    }

    /// Waits for the next questions; `None` when there will be none.
    pub(crate) fn take(&self) -> Option<Taken> {
        let mut waiting = self.lock();
        loop {
            if waiting.closed {
                return None;
            }
            if let Some(taken) = waiting.take() {
                // Each thread that finds more than it takes wakes the next.
                if !waiting.places.is_empty() {
                    self.changed.notify_one();
                }
                return Some(taken);
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whether this filter fails now.
    pub(crate) fn fails(&self, rule: &Rule, fails: bool) {
        let mut waiting = self.lock();
        if fails {
            if waiting.failing.len() >= limits::COMPILED_EXPRESSIONS_MAX {
                waiting.failing.pop_first();
            }
            waiting.failing.insert(asked(rule));
        } else if !waiting.failing.is_empty() {
            waiting.failing.remove(&asked(rule));
        }
    }

    /// The questions of a failing plugin that were taken are answered.
    pub(crate) fn failing_was_asked(&self) {
        self.lock().is_failing_asked = false;
        self.changed.notify_one();
    }

    /// No code panics while it holds this, so what is inside is whole.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn asked(rule: &Rule) -> Asked {
    (rule.digest, rule.expression.clone())
}

impl Waiting {
    fn is_failing(&self, work: &JudgeWork) -> bool {
        !self.failing.is_empty() && work.rule.as_ref().is_some_and(|rule| self.failing.contains(&asked(rule)))
    }

    fn put(&mut self, work: JudgeWork) {
        let place = (work.queue, work.from, work.to, work.among, work.ttl);
        let together = self.work.entry(place).or_default();
        if together.is_empty() {
            self.places.push_back(place);
        }
        together.push(work);
    }

    /// What waits for longest and may be asked now, with the others at the same place.
    fn take(&mut self) -> Option<Taken> {
        let (nth, is_failing) = self.places.iter().enumerate().find_map(|(nth, place)| {
            let sound = self.work.get(place)?.iter().any(|work| !self.is_failing(work));
            (sound || !self.is_failing_asked).then_some((nth, !sound))
        })?;
        let place = self.places[nth];
        let all = self.work.remove(&place)?;
        let alone = all.first().and_then(|work| work.rule.as_ref()).map(asked).filter(|_| is_failing);
        let (mut work, mut rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|work| match &alone {
            Some(alone) => work.rule.as_ref().map(asked).as_ref() == Some(alone),
            None => !self.is_failing(work),
        });
        rest.splice(..0, work.split_off(work.len().min(limits::JUDGED_TOGETHER_MAX)));
        if rest.is_empty() {
            self.places.remove(nth);
        } else {
            self.work.insert(place, rest);
        }
        self.is_failing_asked |= is_failing;
        Some(Taken { work, is_failing })
    }
}

#[cfg(test)]
mod tests {
    use sluice_log::record::PluginLimits;
    use sluice_protocol::ids::{QueueIndex, TopicId};

    use super::*;

    fn question(judge: u64, queue: u16, from: u64) -> JudgeWork {
        JudgeWork {
            judge: JudgeId(judge),
            queue: QueueId {
                topic: TopicId(1),
                index: QueueIndex(queue),
            },
            rule: Some(rule(Digest([0; 32]))),
            among: Among::All,
            ttl: None,
            from: QueueOffset(from),
            to: QueueOffset(from + 10),
            deliver_max: 10,
        }
    }

    fn rule(digest: Digest) -> Rule {
        Rule {
            digest,
            expression: String::new(),
            limits: PluginLimits {
                fuel_per_run: 1,
                fuel_per_message: 1,
                run_ms: 1,
                memory_bytes: 1,
            },
        }
    }

    fn taken(questions: &Questions) -> Vec<u64> {
        questions.take().unwrap().work.iter().map(|work| work.judge.0).collect()
    }

    #[test]
    fn questions_about_the_same_messages_are_taken_together() {
        let questions = Questions::default();
        questions.submit([question(1, 0, 0), question(2, 1, 0), question(3, 0, 0), question(4, 0, 5)]);
        questions.submit([question(5, 1, 0)]);
        assert_eq!(taken(&questions), [1, 3]);
        assert_eq!(taken(&questions), [2, 5]);
        assert_eq!(taken(&questions), [4]);
    }

    #[test]
    fn no_more_are_taken_together_than_may_be() {
        let questions = Questions::default();
        let max = limits::JUDGED_TOGETHER_MAX as u64;
        questions.submit((0..=max).map(|judge| question(judge, 0, 0)));
        assert_eq!(taken(&questions), (0..max).collect::<Vec<_>>());
        assert_eq!(taken(&questions), [max]);
    }

    #[test]
    fn nobody_waits_for_a_failing_plugin_and_one_thread_asks_it() {
        let questions = Questions::default();
        let failing = Digest([9; 32]);
        let with = |mut work: JudgeWork| {
            work.rule = Some(rule(failing));
            work
        };
        questions.fails(&rule(failing), true);
        questions.submit([
            with(question(1, 0, 0)),
            question(2, 0, 0),
            with(question(3, 0, 0)),
            with(question(4, 1, 0)),
            question(5, 1, 5),
        ]);
        let each: Vec<_> = std::iter::from_fn(|| questions.lock().take())
            .map(|taken| (taken.work.iter().map(|work| work.judge.0).collect::<Vec<_>>(), taken.is_failing))
            .collect();
        assert_eq!(each, [(vec![2], false), (vec![1, 3], true), (vec![5], false)]);
        questions.failing_was_asked();
        assert_eq!(taken(&questions), [4]);
    }
}
