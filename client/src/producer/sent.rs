//! The batches under way: which messages of each are still without an outcome, and what a confirm says of them.

use std::collections::VecDeque;
use std::ops::Range;
use std::slice;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::control::{Confirm, Stored};
use sluice_protocol::errors::{Advice, Refusal};
use sluice_protocol::ids::{MessageId, ProducerId, Sequence};
use tokio::time::Instant;

use super::Reply;
use crate::error::SendError;
use crate::limits;
use crate::message::{Delayed, RecallHandle, Receipt};
use crate::transaction::TransactionHandle;

/// A batch that was written at least once, or is about to be.
pub(crate) struct Sent {
    pub(crate) first: u64,
    pub(crate) frame: Bytes,
    replies: Replies,
    open: usize,
    /// When it is given up.
    pub(crate) deadline: Instant,
    /// The stream that it was first written to.
    pub(crate) first_stream: u64,
    /// The stream that it was last written to.
    pub(crate) stream: u64,
    /// When it is written again, after the broker asked to come back later.
    again: Option<Instant>,
    /// What the broker said then.
    refused: Option<Refusal>,
    wait: Duration,
}

/// For each message of a batch in order, who waits for its outcome; `None` once it is known. Batches of one are many.
pub(crate) enum Replies {
    One(Option<Reply>),
    Many(Vec<Option<Reply>>),
}

impl Replies {
    fn slots(&self) -> &[Option<Reply>] {
        match self {
            Self::One(slot) => slice::from_ref(slot),
            Self::Many(slots) => slots,
        }
    }

    fn slots_mut(&mut self) -> &mut [Option<Reply>] {
        match self {
            Self::One(slot) => slice::from_mut(slot),
            Self::Many(slots) => slots,
        }
    }
}

impl Sent {
    /// A batch of at least one message with its whole frame.
    pub(crate) fn new(first: u64, frame: Bytes, replies: Replies, deadline: Instant, stream: u64) -> Self {
        let open = replies.slots().len();
        Self {
            first,
            frame,
            replies,
            open,
            deadline,
            first_stream: stream,
            stream,
            again: None,
            refused: None,
            wait: limits::RETRY_FIRST,
        }
    }

    fn len(&self) -> usize {
        self.replies.slots().len()
    }

    fn end(&self) -> u64 {
        self.first + self.len() as u64
    }

    fn resolve(&mut self, sequence: u64, outcome: Result<Receipt, SendError>) {
        let slot = sequence
            .checked_sub(self.first)
            .and_then(|place| self.replies.slots_mut().get_mut(place as usize));
        if let Some(reply) = slot.and_then(Option::take) {
            self.open -= 1;
            // Whoever dropped the confirmation does not want to know.
            let _ = reply.send(outcome);
        }
    }

    /// Gives the messages that a run says are stored their receipts.
    fn stored(&mut self, producer: ProducerId, run: &Stored) {
        let end = run.first_sequence.saturating_add(u64::from(run.count));
        for sequence in self.first.max(run.first_sequence)..self.end().min(end) {
            let receipt = Receipt {
                id: MessageId::new(producer, Sequence(sequence)),
                queue: run.queue as u16,
                offset: run.first_offset.saturating_add(sequence - run.first_sequence),
                duplicate: run.duplicate,
                delayed: (!run.recall.is_empty()).then(|| Delayed {
                    deliver_at_ms: run.deliver_at_ms,
                    recall: RecallHandle(run.recall.clone()),
                }),
                transaction: (!run.transaction.is_empty()).then(|| TransactionHandle(run.transaction.clone())),
            };
            self.resolve(sequence, Ok(receipt));
        }
    }

    /// Gives every message without an outcome this one.
    fn resolve_all(&mut self, error: &SendError) {
        for reply in self.replies.slots_mut().iter_mut().filter_map(Option::take) {
            let _ = reply.send(Err(error.clone()));
        }
        self.open = 0;
    }

    /// Whether the batch is to be written to this stream now: the stream has not seen it, or the time is there that the broker asked for.
    pub(crate) fn is_due(&self, stream: u64, now: Instant) -> bool {
        self.open > 0 && (self.stream != stream || self.again.is_some_and(|again| again <= now))
    }

    /// Notes that the batch is written to this stream.
    pub(crate) fn written(&mut self, stream: u64) {
        self.again = None;
        self.stream = stream;
    }
}

/// All batches under way, by ascending sequence, and so by ascending deadline. One that is done stays as long as an older one is under way.
#[derive(Default)]
pub(crate) struct Unconfirmed {
    batches: VecDeque<Sent>,
    /// Whether some batch may have to be written again.
    again: bool,
    /// The first sequences of batches that are done and not settled yet.
    done: Vec<Sequence>,
}

impl Unconfirmed {
    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Takes a batch that is about to be written, its sequences higher than those of all before.
    pub(crate) fn push(&mut self, sent: Sent) {
        self.batches.push_back(sent);
    }

    /// The batches, for writing them.
    pub(crate) fn batches_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.batches.iter_mut()
    }

    /// Takes in a confirm. A batch refused whole with the advice to retry is set to be written again, and the refusal with the wait is
    /// returned.
    pub(crate) fn confirm(&mut self, producer: ProducerId, confirm: Confirm, now: Instant) -> Option<(Refusal, Duration)> {
        for run in &confirm.stored {
            let end = run.first_sequence.saturating_add(u64::from(run.count));
            let from = self.batches.partition_point(|sent| sent.end() <= run.first_sequence);
            for sent in self.batches.range_mut(from..).take_while(|sent| sent.first < end) {
                let open = sent.open;
                sent.stored(producer, run);
                if sent.open == 0 && open > 0 {
                    self.done.push(Sequence(sent.first));
                }
            }
        }
        let slowed = self.refuse(confirm, now);
        self.drop_done();
        slowed
    }

    fn refuse(&mut self, confirm: Confirm, now: Instant) -> Option<(Refusal, Duration)> {
        let mut refused: Vec<(u64, Refusal)> = confirm
            .refused
            .into_iter()
            .map(|message| (message.sequence, message.refused.map_or_else(unexplained, Refusal::from)))
            .collect();
        refused.sort_by_key(|(sequence, _)| *sequence);
        let mut slowed = None;
        let mut rest = refused.as_slice();
        while let Some((sequence, refusal)) = rest.first() {
            let Some(sent) = self.holding(*sequence) else {
                rest = &rest[1..];
                continue;
            };
            let (end, open) = (sent.end(), sent.open);
            let (here, further) = rest.split_at(rest.partition_point(|(sequence, _)| *sequence < end));
            rest = further;
            let later = here.iter().all(|(_, refusal)| refusal.code.advice() == Advice::Retry);
            if later && here.len() == sent.len() && open == sent.len() {
                slowed = Some((refusal.clone(), sent.wait));
                sent.refused = Some(refusal.clone());
                sent.again = Some(now + sent.wait);
                sent.wait = (sent.wait * 2).min(limits::RETRY_MAX);
                self.again = true;
            } else {
                here.iter()
                    .for_each(|(sequence, refusal)| sent.resolve(*sequence, Err(SendError::Refused(refusal.clone()))));
                if sent.open == 0 && open > 0 {
                    let first = Sequence(sent.first);
                    self.done.push(first);
                }
            }
        }
        slowed
    }

    /// Gives up what has waited too long. What was refused each time, and on the one stream that carried it, is not stored.
    pub(crate) fn give_up(&mut self, now: Instant, reason: &str) {
        let late = self.batches.partition_point(|sent| sent.deadline <= now);
        self.end(0..late, |sent| match &sent.refused {
            Some(refusal) if sent.again.is_some() && sent.first_stream == sent.stream => SendError::Refused(refusal.clone()),
            Some(_) | None => SendError::Unknown { reason: reason.to_owned() },
        });
    }

    /// Gives every message under way this outcome.
    pub(crate) fn fail(&mut self, outcome: impl Fn(&Sent) -> SendError) {
        self.end(0..self.batches.len(), outcome);
    }

    fn end(&mut self, places: Range<usize>, outcome: impl Fn(&Sent) -> SendError) {
        for sent in self.batches.range_mut(places).filter(|sent| sent.open > 0) {
            let error = outcome(sent);
            sent.resolve_all(&error);
            self.done.push(Sequence(sent.first));
        }
        self.drop_done();
    }

    /// When the next batch is to be written again or given up. Says too early rather than too late after a batch was to be written again.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        let again = match self.again {
            true => self.batches.iter().filter(|sent| sent.open > 0).filter_map(|sent| sent.again).min(),
            false => None,
        };
        self.again = again.is_some();
        let oldest = self.batches.front().map(|sent| sent.deadline);
        again.into_iter().chain(oldest).min()
    }

    /// How many messages are without an outcome.
    pub(crate) fn open(&self) -> u64 {
        self.batches.iter().map(|sent| sent.open as u64).sum()
    }

    /// The first sequences of the batches that are done since this was asked last.
    pub(crate) fn take_done(&mut self) -> impl Iterator<Item = Sequence> {
        self.done.drain(..)
    }

    fn holding(&mut self, sequence: u64) -> Option<&mut Sent> {
        let place = self.batches.partition_point(|sent| sent.end() <= sequence);
        self.batches.get_mut(place).filter(|sent| sent.first <= sequence)
    }

    fn drop_done(&mut self) {
        while self.batches.pop_front_if(|sent| sent.open == 0).is_some() {}
    }
}

fn unexplained() -> Refusal {
    Refusal::new(sluice_protocol::errors::ErrorCode::Internal, "the broker gave no reason")
}

#[cfg(test)]
mod tests {
    use sluice_protocol::control::{Refused, RefusedMessage};
    use sluice_protocol::errors::ErrorCode;
    use tokio::sync::oneshot;

    use super::*;

    type Outcome = oneshot::Receiver<Result<Receipt, SendError>>;

    fn batch(unconfirmed: &mut Unconfirmed, first: u64, count: usize) -> Vec<Outcome> {
        let (replies, outcomes) = (0..count)
            .map(|_| oneshot::channel())
            .map(|(reply, outcome)| (Some(reply), outcome))
            .unzip();
        let deadline = Instant::now() + Duration::from_secs(1);
        unconfirmed.push(Sent::new(first, Bytes::new(), Replies::Many(replies), deadline, 1));
        outcomes
    }

    fn refused(sequence: u64, code: ErrorCode) -> RefusedMessage {
        RefusedMessage {
            sequence,
            refused: Some(Refused::from(Refusal::plain(code))),
        }
    }

    fn confirm(unconfirmed: &mut Unconfirmed, stored: Vec<Stored>, refused: Vec<RefusedMessage>) -> (Vec<u64>, bool) {
        let slowed = unconfirmed.confirm(ProducerId(7), Confirm { stored, refused }, Instant::now());
        let mut done: Vec<_> = unconfirmed.take_done().map(|sequence| sequence.0).collect();
        done.sort_unstable();
        (done, slowed.is_some())
    }

    #[tokio::test]
    async fn a_confirm_reaches_each_message_wherever_it_was_stored() {
        let mut unconfirmed = Unconfirmed::default();
        let mut outcomes = batch(&mut unconfirmed, 10, 3);
        outcomes.extend(batch(&mut unconfirmed, 13, 1));
        let stored = vec![
            Stored {
                first_sequence: 10,
                count: 1,
                queue: 2,
                first_offset: 70,
                ..Stored::default()
            },
            Stored {
                first_sequence: 12,
                count: 2,
                queue: 3,
                first_offset: 90,
                duplicate: true,
                ..Stored::default()
            },
        ];
        let (done, slowed) = confirm(&mut unconfirmed, stored, vec![refused(11, ErrorCode::BadMessage)]);
        assert_eq!((done, slowed), (vec![10, 13], false));
        let mut places = Vec::new();
        for outcome in outcomes {
            places.push(
                outcome
                    .await
                    .unwrap()
                    .map(|receipt| (receipt.queue, receipt.offset, receipt.duplicate)),
            );
        }
        let bad = Err(SendError::Refused(Refusal::plain(ErrorCode::BadMessage)));
        assert_eq!(places, [Ok((2, 70, false)), bad, Ok((3, 90, true)), Ok((3, 91, true))]);
    }

    #[tokio::test]
    async fn a_batch_refused_whole_for_now_is_kept_to_be_sent_again() {
        let mut unconfirmed = Unconfirmed::default();
        let mut outcomes = batch(&mut unconfirmed, 0, 2);
        let both = vec![refused(0, ErrorCode::Overloaded), refused(1, ErrorCode::Overloaded)];
        assert_eq!(confirm(&mut unconfirmed, Vec::new(), both), (Vec::new(), true));
        assert!(unconfirmed.batches[0].again.is_some());
        assert!(outcomes[0].try_recv().is_err(), "nobody is told yet");
    }

    #[tokio::test]
    async fn a_batch_given_up_while_it_is_refused_says_why_unless_another_stream_carried_it() {
        for stream in [0, 1] {
            let mut unconfirmed = Unconfirmed::default();
            let outcomes = batch(&mut unconfirmed, 0, 2);
            let both = vec![refused(0, ErrorCode::StorageFull), refused(1, ErrorCode::StorageFull)];
            confirm(&mut unconfirmed, Vec::new(), both);
            unconfirmed.batches[0].stream = unconfirmed.batches[0].first_stream + stream;
            let late = unconfirmed.batches[0].deadline;
            unconfirmed.give_up(late, "too late");
            for outcome in outcomes {
                let outcome = outcome.await.unwrap().unwrap_err();
                assert_eq!(
                    outcome == SendError::Refused(Refusal::plain(ErrorCode::StorageFull)),
                    stream == 0,
                    "{outcome}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_batch_refused_for_good_is_done() {
        let mut unconfirmed = Unconfirmed::default();
        let outcomes = batch(&mut unconfirmed, 0, 2);
        let both = vec![refused(0, ErrorCode::NoSuchTopic), refused(1, ErrorCode::NoSuchTopic)];
        assert_eq!(confirm(&mut unconfirmed, Vec::new(), both), (vec![0], false));
        for outcome in outcomes {
            assert!(matches!(outcome.await.unwrap(), Err(SendError::Refused(_))));
        }
    }

    #[test]
    fn a_confirm_of_what_was_never_sent_changes_nothing() {
        let mut unconfirmed = Unconfirmed::default();
        let _outcomes = batch(&mut unconfirmed, 5, 1);
        let far = Stored {
            first_sequence: u64::MAX,
            count: u32::MAX,
            ..Stored::default()
        };
        assert_eq!(
            confirm(&mut unconfirmed, vec![far], vec![refused(4, ErrorCode::Internal)]),
            (Vec::new(), false)
        );
        assert_eq!(unconfirmed.open(), 1);
    }

    #[test]
    fn a_confirm_reaches_batches_behind_one_that_is_under_way_still() {
        let mut unconfirmed = Unconfirmed::default();
        let mut outcomes: Vec<_> = (0..4).flat_map(|first| batch(&mut unconfirmed, first, 1)).collect();
        let run = |first_sequence, count| Stored {
            first_sequence,
            count,
            first_offset: 100 + first_sequence,
            ..Stored::default()
        };
        assert_eq!(confirm(&mut unconfirmed, vec![run(1, 2)], Vec::new()).0, [1, 2]);
        assert_eq!(unconfirmed.open(), 2);
        // What was confirmed before is not told again.
        assert_eq!(confirm(&mut unconfirmed, vec![run(0, 4)], Vec::new()).0, [0, 3]);
        assert!(unconfirmed.is_empty());
        let offsets: Vec<_> = outcomes
            .iter_mut()
            .map(|outcome| outcome.try_recv().unwrap().unwrap().offset)
            .collect();
        assert_eq!(offsets, [100, 101, 102, 103]);
    }

    #[test]
    fn the_next_deadline_is_that_of_the_oldest_or_of_one_to_be_written_again() {
        let mut unconfirmed = Unconfirmed::default();
        let _outcomes = [batch(&mut unconfirmed, 0, 1), batch(&mut unconfirmed, 1, 1)];
        let oldest = unconfirmed.batches[0].deadline;
        assert_eq!(unconfirmed.next_deadline(), Some(oldest));
        confirm(&mut unconfirmed, Vec::new(), vec![refused(1, ErrorCode::Overloaded)]);
        assert!(unconfirmed.next_deadline().is_some_and(|again| again < oldest));
        unconfirmed.batches[1].written(1);
        assert_eq!(unconfirmed.next_deadline(), Some(oldest));
        unconfirmed.give_up(oldest, "late");
        assert_eq!(unconfirmed.take_done().next(), Some(Sequence(0)));
    }
}
