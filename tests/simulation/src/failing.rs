//! How the simulated plugin fails: on some messages always, for a while on all, or by running without end.

use sluice_core::effect::JudgeId;
use sluice_core::input::{Culprit, CulpritKind, Input, JudgeFailure, JudgeFailureKind, Link, Verdicts};
use sluice_protocol::batch::group_hash;
use sluice_protocol::ids::QueueOffset;

use crate::laws::Law;
use crate::oracle::lanes::is_meant;
use crate::stub::Question;
use crate::world::World;

/// The most messages that one answer names as failed on.
const CULPRITS_OF_ONE_ANSWER: usize = 17;

/// How the plugin does at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It fails on a few messages only.
    #[default]
    Well,
    /// It fails on every message.
    Broken,
    /// It runs without end on every message.
    Spinning,
}

impl World {
    /// The plugin breaks.
    pub(crate) fn break_plugin(&mut self) {
        if self.mood == Mood::Well {
            self.mood = if self.random.chance(2, 3) { Mood::Broken } else { Mood::Spinning };
            self.oracle.asked.trials.broken = self.mood == Mood::Broken;
            self.history.note("plugin", &self.mood);
        }
    }

    /// The plugin works again, unless one that always worked could not be told from it.
    pub(crate) fn mend_plugin(&mut self) {
        if self.oracle.asked.trials.may_heal() {
            self.mood = Mood::Well;
            self.oracle.asked.trials.broken = false;
        }
    }

    /// Answers a question without a verdict on any message, if the plugin is so inclined.
    pub(crate) fn fails_to_judge(&mut self, judge: JudgeId) -> bool {
        let (kind, reason) = if !self.healed && self.random.chance(1, 15) {
            self.oracle.court.exercise(Law::JudgeFailed);
            (JudgeFailureKind::Unasked, "the simulated plugin is not loaded")
        } else if self.mood == Mood::Spinning || !self.healed && self.random.chance(1, 60) {
            (JudgeFailureKind::Stopped, "the simulated plugin ran too long")
        } else {
            return false;
        };
        let outcome = Err(JudgeFailure {
            kind,
            reason: reason.to_owned(),
        });
        self.turn(vec![Input::Verdicts { judge, outcome }]);
        true
    }

    /// Takes out of the verdicts on `from..to` what the plugin fails on; where that is much they end early.
    pub(crate) fn fail_on_some(&mut self, question: Question<'_>, queue: sluice_protocol::ids::QueueId, verdicts: &mut Verdicts) {
        let Question { rule, among, ttl } = question;
        let Some(rule) = rule else { return };
        let Some(model) = self.oracle.book.queues.get(&queue) else { return };
        let fails = |offset: u64| match self.mood {
            Mood::Broken => true,
            Mood::Well | Mood::Spinning if self.healed => false,
            Mood::Well | Mood::Spinning => model
                .rows
                .get(offset as usize)
                .is_some_and(|row| crate::content::is_culprit(&rule.digest, row.producer, row.sequence)),
        };
        let kept_from = verdicts.from.0.max(model.start);
        let failed = (kept_from..verdicts.to.0)
            .filter(|offset| is_meant(among, model.priority(*offset)) && fails(*offset))
            .take(CULPRITS_OF_ONE_ANSWER);
        verdicts.culprits = failed
            .map(|offset| Culprit {
                offset: QueueOffset(offset),
                link: Link {
                    group: model.group(offset).map_or(0, |group| group_hash(group.as_bytes())),
                    priority: model.priority(offset),
                    expires_ms: ttl.and_then(|_| self.oracle.book.expires_ms(queue, offset)),
                },
                kind: CulpritKind::Trap,
                reason: format!("the simulated plugin trapped on {offset}"),
            })
            .collect();
        if let (CULPRITS_OF_ONE_ANSWER, Some(last)) = (verdicts.culprits.len(), verdicts.culprits.last()) {
            verdicts.to = QueueOffset(last.offset.0 + 1);
        }
        let culprits = &verdicts.culprits;
        let to = verdicts.to;
        let stays = |offset: &QueueOffset| *offset < to && !culprits.iter().any(|culprit| culprit.offset == *offset);
        let mut deliver = verdicts.deliver.iter();
        verdicts.links.retain(|_| deliver.next().is_some_and(stays));
        verdicts.deliver.retain(stays);
        let asked = (verdicts.from.0..verdicts.to.0).filter(|offset| is_meant(among, model.priority(*offset)));
        verdicts.evaluated = asked.count() as u32;
    }
}
