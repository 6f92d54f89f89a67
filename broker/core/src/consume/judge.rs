//! Judging: what is asked of the filter plugins ahead of demand, and what becomes of their verdicts.

use sluice_log::record::{CursorId, OffsetRange};
use sluice_protocol::ids::{Position, QueueOffset};

use super::lanes::Lanes;
use super::{Held, LaneRun, Reading, key_of};
use crate::broker::Core;
use crate::effect::{Among, Effect, JudgeId};
use crate::input::JudgeFailureKind;
use crate::input::{JudgeFailure, Verdicts};
use crate::limits::{
    CURSOR_PARKED_MAX, JUDGE_WAIT_MS_MAX, JUDGE_WAIT_MS_MIN, JUDGED_AHEAD_MAX, QUESTION_MESSAGES_MAX, SUPERSEDED_REST_MS,
    WINDOW_VERDICTS_MAX, WINDOWS_MAX,
};
use crate::planted::{self, Bug};
use crate::ranges::range;

/// A question under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    cursor: CursorId,
    /// Whose lane it is.
    priority: u8,
    among: Among,
    /// Whether the answer has a link for each message that matches.
    has_links: bool,
    from: QueueOffset,
    to: QueueOffset,
    deliver_max: u64,
}

impl Core {
    /// Without a rule every durable message matches, as far as none of them has a priority or expires.
    pub(super) fn extend_window(&self, cursor: CursorId, reading: &Reading, lane: &mut LaneRun) {
        let end = self.visible_end(cursor.queue);
        // What is asked about is answered, though by now it may be known that nothing of it need be asked.
        let asks = lane.asked.is_some() || reading.ordered || lane.priority > 0;
        if reading.rule.is_some() || lane.judged >= end || asks {
            return;
        }
        let Some(queue) = self.state.queues.get(&cursor.queue) else {
            return;
        };
        let mut end = end;
        for asked in [queue.prioritized(), self.expiring(cursor.queue)].into_iter().flatten() {
            if lane.judged < asked.first {
                end = end.min(asked.first);
            } else if lane.judged < asked.end {
                return;
            }
        }
        match lane.matched.back_mut() {
            Some(last) if last.end == lane.judged => last.end = end,
            Some(_) | None => lane.matched.push_back(range(lane.judged.0, end.0)),
        }
        lane.judged = end;
    }

    /// Where there are several lanes all are asked about at one time, before anything is handed out; but when verdicts just came, what they
    /// found is handed out first, so that a lane does not wait for those above it for ever.
    pub(super) fn ask_before(&mut self, cursor: CursorId, reading: &Reading, lanes: &mut Lanes) {
        if lanes.are_several() && !std::mem::take(&mut lanes.base.answered) {
            self.ask_all(cursor, reading, lanes);
        }
    }

    /// Asks for more when what there was has been handed out.
    pub(super) fn ask_after(&mut self, cursor: CursorId, reading: &Reading, lanes: &mut Lanes) {
        self.ask_all(cursor, reading, lanes);
    }

    fn ask_all(&mut self, cursor: CursorId, reading: &Reading, lanes: &mut Lanes) {
        if lanes.are_several() && lanes.is_asking() {
            return;
        }
        for lane in lanes.iter_mut() {
            self.ask_judge(cursor, reading, lane);
        }
        if lanes.iter().all(|lane| lane.asked.is_none() && lane.matched.is_empty()) {
            self.consuming.free_window(cursor);
        }
    }

    /// Which messages a lane asks about, and up to where; `None` when it need not ask.
    fn asks_among(&self, cursor: CursorId, reading: &Reading, lane: &mut LaneRun) -> Option<(Among, QueueOffset)> {
        let end = self.visible_end(cursor.queue);
        if reading.ordered {
            return Some((Among::Ordered, end));
        }
        let queue = self.state.queues.get(&cursor.queue)?;
        if lane.priority > 0 {
            let offsets = *queue.priorities.get(&lane.priority)?;
            if lane.judged < offsets.first {
                lane.judged = offsets.first;
                lane.place = lane.matched.front().map_or(lane.judged, |next| next.first);
            }
            return Some((Among::Priority(lane.priority), end.min(offsets.end)));
        }
        let ahead = |offsets: &OffsetRange| lane.judged < offsets.end;
        let prioritized = queue.prioritized().filter(ahead);
        let expiring = self.expiring(cursor.queue).filter(ahead);
        let is_within = |offsets: Option<OffsetRange>| offsets.is_some_and(|offsets| lane.judged >= offsets.first);
        let before = |offsets: Option<OffsetRange>| offsets.map_or(end, |offsets| end.min(offsets.first));
        match (is_within(prioritized), is_within(expiring), &reading.rule) {
            (true, _, _) => Some((Among::Priority(0), prioritized.map_or(end, |offsets| end.min(offsets.end)))),
            (false, true, None) => {
                let end = before(prioritized);
                Some((Among::All, expiring.map_or(end, |offsets| end.min(offsets.end))))
            }
            (false, _, Some(_)) => Some((Among::All, before(prioritized))),
            (false, false, None) => None,
        }
    }

    /// How many messages may match, given what a lane has found and nobody was given.
    fn room_for(&self, cursor: CursorId, reading: &Reading, lane: &LaneRun) -> u64 {
        if !reading.ordered {
            return WINDOW_VERDICTS_MAX.saturating_sub(lane.matched());
        }
        let Some(entry) = self.state.cursors.get(&cursor) else { return 0 };
        let parked = CURSOR_PARKED_MAX.saturating_sub(entry.lane.parked());
        WINDOW_VERDICTS_MAX.saturating_sub(entry.lane.order.ready()).min(parked)
    }

    /// Asks for the verdicts of the next durable messages while there are members and the window has room.
    fn ask_judge(&mut self, cursor: CursorId, reading: &Reading, lane: &mut LaneRun) {
        if lane.asked.is_some() {
            return;
        }
        let Some((among, end)) = self.asks_among(cursor, reading, lane) else {
            return;
        };
        let expiring = self.expiring(cursor.queue).filter(|offsets| lane.judged < offsets.end);
        let ttl = expiring.map(|_| self.topic_ttl(cursor.queue));
        let to = (lane.judged.0 + QUESTION_MESSAGES_MAX).min(lane.place.0 + JUDGED_AHEAD_MAX);
        let to = end.min(QueueOffset(to));
        let deliver_max = self.room_for(cursor, reading, lane);
        let waits = lane.held.as_ref().is_some_and(|held| self.now.mono_ms < held.until_mono_ms);
        // Small questions cost as much as large ones: a window that is nearly full is left to be used up first.
        let asked = to.0.saturating_sub(lane.judged.0);
        let worth = (to == end || asked >= QUESTION_MESSAGES_MAX / 4) && deliver_max >= asked.min(WINDOW_VERDICTS_MAX / 4);
        let alarmed = self.has_alarm(key_of(cursor));
        if !reading.has_members() || waits || alarmed || to <= lane.judged || !worth {
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
                priority: lane.priority,
                among,
                has_links: among == Among::Ordered || ttl.is_some(),
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
                rule: reading.rule.clone(),
                among,
                ttl,
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
        let Some(lane) = self
            .consuming
            .lane_mut(asked.cursor, asked.priority)
            .filter(|lane| lane.asked == Some(judge))
        else {
            return;
        };
        lane.asked = None;
        match outcome {
            Ok(verdicts) => {
                lane.take_verdicts(&asked, &verdicts);
                self.counters.evaluation_errors += u64::from(verdicts.failed);
                let ordered = asked.among == Among::Ordered;
                // Deadlines first: a crash must not leave what is parked without.
                self.keep_deadlines(asked.cursor, asked.priority, &verdicts);
                let found = if ordered { self.found(asked.cursor, &verdicts) } else { Vec::new() };
                self.set_aside(asked.cursor, asked.priority, verdicts);
                if ordered {
                    self.park(asked.cursor, found);
                }
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
        if let Some(base) = self.consuming.lane_mut(asked.cursor, 0) {
            base.answered = true;
        }
        self.consuming.wake(key_of(asked.cursor));
    }

    /// Drops verdicts that nobody came for within a minute.
    pub(super) fn drop_idle_window(&mut self, cursor: CursorId, reading: &Reading, lane: &mut LaneRun) {
        let idle = !reading.has_members() && self.now.mono_ms >= reading.seen_mono_ms + SUPERSEDED_REST_MS;
        if idle
            && !lane.matched.is_empty()
            && let Some(durable) = self.state.cursors.get(&cursor).and_then(|entry| entry.level(lane.priority))
        {
            lane.rewind(durable, lane.frontier());
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
        let ordered = asked.among == Among::Ordered;
        assert!(
            !asked.has_links || verdicts.links.len() == verdicts.deliver.len(),
            "what was asked about each is told of each"
        );
        for &offset in &verdicts.deliver {
            assert!(
                (verdicts.from..verdicts.to).contains(&offset),
                "a verdict lies within what was judged"
            );
            if ordered {
                continue;
            }
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
