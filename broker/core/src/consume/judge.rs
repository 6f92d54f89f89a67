//! Judging: what is asked of the filter plugins ahead of demand, and what becomes of their verdicts.

use sluice_log::record::CursorId;
use sluice_protocol::ids::{Position, QueueOffset};

use super::{Held, LaneRun, Reading, key_of};
use crate::broker::Core;
use crate::effect::{Effect, JudgeId};
use crate::input::JudgeFailureKind;
use crate::input::{JudgeFailure, Verdicts};
use crate::limits::{
    JUDGE_WAIT_MS_MAX, JUDGE_WAIT_MS_MIN, JUDGED_AHEAD_MAX, QUESTION_MESSAGES_MAX, SUPERSEDED_REST_MS, WINDOW_VERDICTS_MAX, WINDOWS_MAX,
};
use crate::planted::{self, Bug};
use crate::ranges::range;

/// A question under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    cursor: CursorId,
    from: QueueOffset,
    to: QueueOffset,
    deliver_max: u64,
}

impl Core {
    /// Without a rule every durable message matches.
    pub(super) fn extend_window(&self, cursor: CursorId, reading: &Reading, lane: &mut LaneRun) {
        let end = self.visible_end(cursor.queue);
        if reading.rule.is_some() || lane.judged >= end {
            return;
        }
        match lane.matched.back_mut() {
            Some(last) if last.end == lane.judged => last.end = end,
            Some(_) | None => lane.matched.push_back(range(lane.judged.0, end.0)),
        }
        lane.judged = end;
    }

    /// Asks for the verdicts of the next durable messages while there are members and the window has room.
    pub(super) fn ask_judge(&mut self, cursor: CursorId, reading: &Reading, lane: &mut LaneRun) {
        let Some(rule) = &reading.rule else { return };
        if lane.asked.is_some() {
            return;
        }
        let end = self.visible_end(cursor.queue);
        let to = (lane.judged.0 + QUESTION_MESSAGES_MAX).min(lane.place.0 + JUDGED_AHEAD_MAX);
        let to = end.min(QueueOffset(to));
        let deliver_max = WINDOW_VERDICTS_MAX.saturating_sub(lane.matched());
        let waits = lane.held.as_ref().is_some_and(|held| self.now.mono_ms < held.until_mono_ms);
        // Small questions cost as much as large ones: a window that is nearly full is left to be used up first.
        let asked = to.0.saturating_sub(lane.judged.0);
        let worth = (to == end || asked >= QUESTION_MESSAGES_MAX / 4) && deliver_max >= asked.min(WINDOW_VERDICTS_MAX / 4);
        let alarmed = self.has_alarm(key_of(cursor));
        if !reading.has_members() || waits || alarmed || to <= lane.judged || !worth {
            if lane.matched.is_empty() {
                self.consuming.free_window(cursor);
            }
            return;
        }
        if !self.consuming.windows.contains(&cursor) && self.consuming.windows.len() >= WINDOWS_MAX {
            self.consuming.without_window.insert(key_of(cursor));
            return;
        }
        self.consuming.windows.insert(cursor);
        let judge = JudgeId(self.consuming.next_id());
        let from = lane.judged;
        lane.asked = Some(judge);
        self.consuming.judges.insert(
            judge,
            Asked {
                cursor,
                from,
                to,
                deliver_max,
            },
        );
        // Those who judge read the queue, and that is durable as far as it is visible.
        self.journal.release(
            Position::default(),
            Effect::Judge {
                judge,
                cursor,
                rule: rule.clone(),
                from,
                to,
                deliver_max,
            },
        );
    }

    /// Takes verdicts; those of a superseded rule, of an old pass or of a deleted topic are dropped.
    pub(crate) fn judged(&mut self, judge: JudgeId, outcome: Result<Verdicts, JudgeFailure>) {
        let Some(asked) = self.consuming.judges.remove(&judge) else {
            return;
        };
        let now_mono_ms = self.now.mono_ms;
        let Some(lane) = self.consuming.lane_mut(asked.cursor).filter(|lane| lane.asked == Some(judge)) else {
            return;
        };
        lane.asked = None;
        match outcome {
            Ok(verdicts) => {
                lane.take_verdicts(&asked, &verdicts);
                self.counters.evaluation_errors += u64::from(verdicts.failed);
                self.set_aside(asked.cursor, verdicts);
            }
            Err(JudgeFailure { kind, reason }) => {
                if kind == JudgeFailureKind::Stopped {
                    lane.stops += 1;
                    self.counters.runs_stopped += 1;
                }
                let wait_ms = lane
                    .held
                    .as_ref()
                    .map_or(JUDGE_WAIT_MS_MIN, |held| (held.wait_ms * 2).min(JUDGE_WAIT_MS_MAX));
                lane.held = Some(Held {
                    reason,
                    until_mono_ms: if planted::is(Bug::HeldForever) {
                        now_mono_ms + (1 << 40)
                    } else {
                        now_mono_ms + wait_ms
                    },
                    wait_ms,
                });
                self.counters.judge_failures += 1;
            }
        }
        self.consuming.wake(key_of(asked.cursor));
    }

    /// Drops verdicts that nobody came for within a minute.
    pub(super) fn drop_idle_window(&mut self, cursor: CursorId, reading: &Reading, lane: &mut LaneRun) {
        let idle = !reading.has_members() && self.now.mono_ms >= reading.seen_mono_ms + SUPERSEDED_REST_MS;
        if idle
            && !lane.matched.is_empty()
            && let Some(entry) = self.state.cursors.get(&cursor)
        {
            lane.rewind(&entry.lane, lane.frontier());
            self.consuming.free_window(cursor);
        }
    }
}

impl LaneRun {
    fn take_verdicts(&mut self, asked: &Asked, verdicts: &Verdicts) {
        assert!(
            verdicts.from == asked.from && verdicts.from < verdicts.to && verdicts.to <= asked.to,
            "verdicts are of what was asked: the shell judges {}..{} and answers with {}..{}",
            asked.from.0,
            asked.to.0,
            verdicts.from.0,
            verdicts.to.0
        );
        assert!(
            verdicts.deliver.len() as u64 <= asked.deliver_max,
            "{} matches do not fit where there is room for {}",
            verdicts.deliver.len(),
            asked.deliver_max
        );
        for &offset in &verdicts.deliver {
            assert!(
                (verdicts.from..verdicts.to).contains(&offset),
                "a verdict lies within what was judged"
            );
            match self.matched.back_mut() {
                Some(last) if last.end == offset => last.end = QueueOffset(offset.0 + 1),
                Some(_) | None => self.matched.push_back(range(offset.0, offset.0 + 1)),
            }
        }
        self.stops = 0;
        self.judged = verdicts.to;
        self.failed += u64::from(verdicts.failed);
        self.held = None;
        self.place = self.matched.front().map_or(self.judged, |next| next.first);
    }
}
