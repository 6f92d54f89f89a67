//! Settling: what is acknowledged, given back or kept longer, by delivery numbers of a stream or by receipt handles.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Holder, LeaseRange, OffsetRange, ReturnReason};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Attempt, Pass, Position, QueueIndex};
use sluice_protocol::limits::INVISIBLE_MS_MAX;

use super::members::check_invisible;
use super::{cursor_of, is_current, key_of};
use crate::broker::Core;
use crate::effect::Answer;
use crate::input::{Action, Numbers, RequestId, SubscriptionId};
use crate::limits::CURSOR_AHEAD_MAX;
use crate::planted::{self, Bug};
use crate::ranges::{len, push, range};
use crate::receipt::{AFTER_BACKUP, Made, Receipt};
use crate::state::group::{backoff_ms, in_round, is_last};
use crate::state::lane::NEVER_MONO_MS;

/// Leases by cursor.
type Held = BTreeMap<CursorId, Vec<LeaseRange>>;

/// Spans of a stream's queue beyond which those are dropped that are no longer leased.
const SPANS_SWEEP: usize = 1_024;

/// What was pushed on one queue of a stream under the present pass, as far as it may still be settled there.
#[derive(Debug)]
pub(super) struct Sent {
    pass: Pass,
    next_number: u64,
    spans: VecDeque<SentSpan>,
    /// The number of spans that starts the next sweep.
    sweep_at: usize,
}

/// Neighbouring messages with neighbouring numbers.
#[derive(Clone, Copy, Debug)]
struct SentSpan {
    number: u64,
    offset: u64,
    count: u64,
    attempt: Attempt,
}

impl SentSpan {
    fn offsets(&self) -> OffsetRange {
        range(self.offset, self.offset + self.count)
    }

    /// The span in two, the first with `count` messages; either may be empty.
    fn split(self, count: u64) -> (Self, Self) {
        let rest = Self {
            number: self.number + count,
            offset: self.offset + count,
            count: self.count - count,
            attempt: self.attempt,
        };
        (Self { count, ..self }, rest)
    }
}

impl Sent {
    pub(super) fn new(pass: Pass) -> Self {
        Self {
            pass,
            next_number: 1,
            spans: VecDeque::new(),
            sweep_at: SPANS_SWEEP,
        }
    }

    /// Numbers what is pushed; says the first number.
    pub(super) fn push(&mut self, leases: &[LeaseRange]) -> u64 {
        if planted::is(Bug::NumberSkipped) && leases.iter().any(|lease| lease.attempt.0 > 1) {
            self.next_number += 1;
        }
        let first_number = self.next_number;
        for lease in leases {
            let count = len(lease.offsets);
            let next = SentSpan {
                number: self.next_number,
                offset: lease.offsets.first.0,
                count,
                attempt: lease.attempt,
            };
            self.next_number += count;
            match self.spans.back_mut() {
                Some(last)
                    if last.number + last.count == next.number
                        && last.offset + last.count == next.offset
                        && last.attempt == next.attempt =>
                {
                    last.count += count;
                }
                Some(_) | None => self.spans.push_back(next),
            }
        }
        first_number
    }

    /// The spans up to and including a number; removed unless they are kept.
    fn up_to(&mut self, number: u64, keep: bool) -> Vec<SentSpan> {
        let number = number + u64::from(planted::is(Bug::SettlesOneMore));
        let mut taken = Vec::new();
        while let Some(&span) = self.spans.front() {
            if span.number > number {
                break;
            }
            self.spans.pop_front();
            let (first, rest) = span.split(span.count.min(number - span.number + 1));
            taken.push(first);
            if rest.count > 0 {
                self.spans.push_front(rest);
                break;
            }
        }
        if keep {
            taken.iter().rev().for_each(|span| self.spans.push_front(*span));
        }
        taken
    }

    /// The one message with this number; removed unless it is kept.
    fn one(&mut self, number: u64, keep: bool) -> Option<SentSpan> {
        let place = self.spans.partition_point(|span| span.number <= number).checked_sub(1)?;
        let span = *self.spans.get(place)?;
        let nth = number - span.number;
        if nth >= span.count {
            return None;
        }
        let (before, rest) = span.split(nth);
        let (one, after) = rest.split(1);
        if !keep {
            self.spans.remove(place);
            for piece in [after, before] {
                if piece.count > 0 {
                    self.spans.insert(place, piece);
                }
            }
        }
        Some(one)
    }
}

impl Core {
    /// Settles what was pushed on a stream; says where the records of that are.
    pub(crate) fn settle_stream(
        &mut self,
        subscription: SubscriptionId,
        queue: QueueIndex,
        pass: Pass,
        which: &Numbers,
        action: Action,
    ) -> Result<(Position, Vec<Result<(), Refusal>>), Refusal> {
        check_action(action)?;
        let stream = self.consuming.streams.get_mut(&subscription);
        let stream = stream.ok_or_else(|| Refusal::new(ErrorCode::NotLeased, "the stream is not open"))?;
        let cursor = cursor_of(stream.key, usize::from(queue.0));
        let Some(entry) = self.state.cursors.get(&cursor) else {
            return Err(Refusal::new(ErrorCode::NoSuchQueue, format!("the topic has no queue {}", queue.0)));
        };
        if entry.pass != pass {
            return Err(Refusal::new(
                ErrorCode::StaleHandle,
                format!("pass {} is over, the group was set to another place", pass.0),
            ));
        }
        let keep = matches!(action, Action::Extend { .. });
        let Some(sent) = stream.sent.get_mut(&queue).filter(|sent| sent.pass == pass) else {
            return Err(Refusal::new(ErrorCode::NotLeased, "nothing was pushed on this queue"));
        };
        let mut missing = None;
        let spans = match which {
            Numbers::UpTo(number) => sent.up_to(*number, keep),
            Numbers::Each(numbers) => {
                let mut spans = Vec::with_capacity(numbers.len());
                for &number in numbers {
                    match sent.one(number, keep) {
                        Some(span) => spans.push(span),
                        None => missing = Some(number),
                    }
                }
                spans
            }
        };
        let mut held = Vec::new();
        for span in spans {
            let before = held.len();
            self.push_held(cursor, span, &mut held);
            if held.len() == before && matches!(which, Numbers::Each(_)) {
                missing = Some(span.number);
            }
        }
        self.act(cursor, held, action);
        // What is not held any more may be settled or trimmed by records that are not durable yet: they are waited for, too.
        let depends = self.journal.last();
        let result = match missing {
            None => Ok(()),
            Some(number) => Err(Refusal::new(
                ErrorCode::NotLeased,
                format!("this stream does not hold delivery {number}"),
            )),
        };
        Ok((depends, vec![result]))
    }

    /// Settles by receipt handles, each for itself.
    pub(crate) fn settle_handles(&mut self, request: RequestId, handles: &[Bytes], action: Action) {
        if let Err(refusal) = check_action(action) {
            return self.refuse(request, refusal);
        }
        let (held, results) = self.held_by(handles, action);
        let mut depends = Position::default();
        for (cursor, leases) in held {
            depends = depends.max(self.act(cursor, leases, action));
        }
        self.answer_settled(request, Ok((depends, results)));
    }

    /// Returns what a receive was handed and its client never saw.
    pub(crate) fn undelivered(&mut self, handles: &[Bytes]) {
        let (held, _) = self.held_by(handles, Action::Nack { delay_ms: Some(0) });
        for (cursor, leases) in held {
            self.give_back(cursor, leases, Some(0), ReturnReason::Closed);
        }
    }

    /// The leases that these handles stand for, by cursor and in order, and for each handle whether it may still settle its message.
    fn held_by(&self, handles: &[Bytes], action: Action) -> (Held, Vec<Result<(), Refusal>>) {
        let mut held = Held::new();
        let mut results = Vec::with_capacity(handles.len());
        for handle in handles {
            let found = match self.receipts.read(handle) {
                Some((receipt, made)) => self.check_receipt(&receipt, made, action).map(|()| receipt),
                None => Err(Refusal::plain(ErrorCode::BadHandle)),
            };
            results.push(found.map(|receipt| {
                let offsets = range(receipt.offset.0, receipt.offset.0 + 1);
                held.entry(receipt.cursor).or_default().push(LeaseRange {
                    offsets,
                    attempt: receipt.attempt,
                });
            }));
        }
        for leases in held.values_mut() {
            leases.sort_unstable_by_key(|lease| lease.offsets);
            leases.dedup_by_key(|lease| lease.offsets);
        }
        (held, results)
    }

    pub(crate) fn answer_settled(&mut self, request: RequestId, outcome: Result<(Position, Vec<Result<(), Refusal>>), Refusal>) {
        match outcome {
            Ok((depends, results)) => {
                self.counters.refused += results.iter().filter(|result| result.is_err()).count() as u64;
                self.answer(depends, request, Answer::Settled { results });
            }
            Err(refusal) => self.refuse(request, refusal),
        }
    }

    /// Whether a handle may still settle its message: its lease is there, or a crash forgot it and nobody was given the message since.
    fn check_receipt(&self, receipt: &Receipt, made: Made, action: Action) -> Result<(), Refusal> {
        let stale = |why: &str| Err(Refusal::new(ErrorCode::StaleHandle, why));
        let Some(entry) = self.state.cursors.get(&receipt.cursor) else {
            return stale("the topic or the group was deleted");
        };
        if entry.pass != receipt.pass && !planted::is(Bug::OldPassSettles) {
            return stale("the group was set to another place");
        }
        let offset = receipt.offset.0;
        if let Some(lease) = entry.lease(offset) {
            if planted::is(Bug::StaleHandleSettles) {
                return Ok(());
            }
            let same = made.is_before_end(receipt.epoch)
                && lease.attempt == receipt.attempt
                && matches!(*lease.holder, Holder::Receive { .. })
                && self.state.meta.epoch_of(lease.granted) == Some(receipt.epoch);
            return if same { Ok(()) } else { stale("the message was handed out again") };
        }
        // Whoever goes on with the log that this one was restored from may have stored another message there.
        if made != Made::Here {
            return stale(AFTER_BACKUP);
        }
        // A lane that the crash forgot begins where that of priority 0 stands.
        let lane = entry.level(receipt.priority).unwrap_or(&entry.lane);
        let forgotten = receipt.epoch < self.epoch
            && match entry.retry(offset) {
                Some(retry) => receipt.attempt > retry.attempts,
                None if lane.order.get(offset).is_some() => !lane.held.contains(offset),
                None => receipt.offset >= lane.frontier && !lane.ahead.contains(offset),
            };
        // Without its lease there is nothing to give back or to keep longer: the message will be handed out anyway.
        if forgotten && action == Action::Ack && lane.ahead.count() < CURSOR_AHEAD_MAX {
            return Ok(());
        }
        stale("the lease is over")
    }

    /// What of a stream's queue is still leased to it.
    pub(super) fn still_held(&self, cursor: CursorId, sent: &Sent) -> Vec<LeaseRange> {
        let mut held = Vec::new();
        if is_current(&self.state, cursor, sent.pass) {
            sent.spans.iter().for_each(|span| self.push_held(cursor, *span, &mut held));
        }
        held
    }

    /// Adds what of a span is still leased under the attempt that the stream was given: within a pass a stream's attempt at a message
    /// is had by no other stream that is open.
    fn push_held(&self, cursor: CursorId, span: SentSpan, held: &mut Vec<LeaseRange>) {
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        let pieces = entry.leases_within(span.offsets());
        let own = pieces.filter(|(_, lease)| {
            let same = lease.attempt == span.attempt && matches!(*lease.holder, Holder::Stream { .. });
            same || planted::is(Bug::SettlesForAnother)
        });
        held.extend(own.map(|(offsets, _)| LeaseRange {
            offsets,
            attempt: span.attempt,
        }));
    }

    /// Drops spans that are no longer leased, once there are many.
    pub(super) fn sweep(&self, cursor: CursorId, sent: &mut Sent) {
        if sent.spans.len() < sent.sweep_at {
            return;
        }
        let Some(entry) = self.state.cursors.get(&cursor) else { return };
        sent.spans
            .retain(|span| entry.leases_within(span.offsets()).any(|(_, lease)| lease.attempt == span.attempt));
        sent.sweep_at = (sent.spans.len() * 2).max(SPANS_SWEEP);
    }

    /// Makes the records of an action on leases; says where the last is.
    fn act(&mut self, cursor: CursorId, held: Vec<LeaseRange>, action: Action) -> Position {
        let Some(pass) = self.state.cursors.get(&cursor).map(|entry| entry.pass) else {
            return Position::default();
        };
        if held.is_empty() {
            return Position::default();
        }
        self.consuming.wake(key_of(cursor));
        match action {
            Action::Ack => {
                self.counters.settled += held.iter().map(|lease| len(lease.offsets)).sum::<u64>();
                if planted::is(Bug::AckForgotten) && held.iter().any(|lease| lease.offsets.first.0 % 16 == 7) {
                    return Position::default();
                }
                let offsets = offsets_of(&held);
                if planted::is(Bug::AckForAllMembers) {
                    self.settle_for_all(cursor, &offsets);
                }
                let ending = self.ending(cursor, &offsets);
                let position = self.record(Change::Settled { cursor, pass, offsets });
                self.ended(cursor, ending, position);
                position
            }
            Action::Nack { delay_ms } => self.give_back(cursor, held, delay_ms, ReturnReason::Nacked),
            Action::Extend { .. } if planted::is(Bug::ExtensionForgotten) => Position::default(),
            Action::Extend { invisible_ms } => {
                let expires_mono_ms = self.now.mono_ms + invisible_ms;
                self.record(Change::Extended {
                    cursor,
                    pass,
                    offsets: offsets_of(&held),
                    expires_mono_ms,
                })
            }
        }
    }

    /// Gives leases back, to be handed out again after `delay_ms` or by the group's back-off - or never, after the last attempt.
    pub(super) fn give_back(&mut self, cursor: CursorId, held: Vec<LeaseRange>, delay_ms: Option<u64>, reason: ReturnReason) -> Position {
        let mut last = Position::default();
        let Some(pass) = self.state.cursors.get(&cursor).map(|entry| entry.pass) else {
            return last;
        };
        let Some(settings) = self.state.groups.get(&cursor.group).map(|group| group.settings.clone()) else {
            return last;
        };
        let counted = match reason {
            ReturnReason::Nacked => &mut self.counters.returned_nacked,
            ReturnReason::Expired => &mut self.counters.returned_expired,
            ReturnReason::ConnectionLost => &mut self.counters.returned_lost,
            ReturnReason::Closed => &mut self.counters.returned_closed,
            ReturnReason::Outlived => unreachable!("no lease ends because its message expired"),
        };
        *counted += held.iter().map(|lease| len(lease.offsets)).sum::<u64>();
        let mut by_due: BTreeMap<u64, Vec<LeaseRange>> = BTreeMap::new();
        for lease in held {
            let attempts_max = settings.attempts_max + u16::from(planted::is(Bug::OneAttemptMore));
            let exhausted = is_last(lease.attempt.0, attempts_max) && reason != ReturnReason::Closed;
            let wait_ms = delay_ms.unwrap_or_else(|| backoff_ms(&settings.backoff, in_round(lease.attempt.0, settings.attempts_max)));
            let due = if exhausted {
                NEVER_MONO_MS
            } else {
                let wait_ms = wait_ms.saturating_sub(u64::from(planted::is(Bug::NackTooEarly)));
                self.now.mono_ms + wait_ms.min(INVISIBLE_MS_MAX)
            };
            by_due.entry(due).or_default().push(lease);
        }
        for (due_mono_ms, leases) in by_due {
            last = self.record(Change::Returned {
                cursor,
                pass,
                leases,
                due_mono_ms,
                reason,
            });
        }
        self.consuming.wake(key_of(cursor));
        last
    }
}

fn offsets_of(leases: &[LeaseRange]) -> Vec<OffsetRange> {
    let mut offsets = Vec::new();
    leases.iter().for_each(|lease| push(&mut offsets, lease.offsets));
    offsets
}

/// Demands that the times of an action lie within their bounds.
fn check_action(action: Action) -> Result<(), Refusal> {
    match action {
        Action::Ack | Action::Nack { delay_ms: None } => Ok(()),
        Action::Nack { delay_ms: Some(delay_ms) } if delay_ms <= INVISIBLE_MS_MAX => Ok(()),
        Action::Nack { delay_ms: Some(delay_ms) } => Err(Refusal::new(
            ErrorCode::BadSetting,
            format!("a delay is {INVISIBLE_MS_MAX} milliseconds at most, not {delay_ms}"),
        )),
        Action::Extend { invisible_ms } => check_invisible(invisible_ms),
    }
}
