//! The batches under way: which messages of each are still without an outcome, and what a confirm says of them.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sluice_protocol::control::Confirm;
use sluice_protocol::errors::{Advice, Refusal};
use sluice_protocol::ids::{MessageId, ProducerId, Sequence};
use tokio::time::Instant;

use super::Reply;
use crate::error::SendError;
use crate::limits;
use crate::message::Receipt;

/// A batch that was written at least once, or is about to be.
pub(crate) struct Sent {
    pub(crate) first: u64,
    pub(crate) batch: Bytes,
    /// For each message in order, who waits for its outcome; `None` once it is known.
    replies: Vec<Option<Reply>>,
    open: usize,
    /// When it is given up.
    pub(crate) deadline: Instant,
    /// The stream that it was first written to.
    pub(crate) first_stream: u64,
    /// The stream that it was last written to.
    pub(crate) stream: u64,
    /// When it is written again, after the broker asked to come back later.
    pub(crate) again: Option<Instant>,
    /// What the broker said then.
    refused: Option<Refusal>,
    wait: Duration,
}

impl Sent {
    pub(crate) fn new(first: u64, batch: Bytes, replies: Vec<Reply>, deadline: Instant, stream: u64) -> Self {
        let open = replies.len();
        let replies = replies.into_iter().map(Some).collect();
        Self {
            first,
            batch,
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

    fn end(&self) -> u64 {
        self.first + self.replies.len() as u64
    }

    fn resolve(&mut self, sequence: u64, outcome: Result<Receipt, SendError>) {
        let slot = sequence
            .checked_sub(self.first)
            .and_then(|place| self.replies.get_mut(place as usize));
        if let Some(reply) = slot.and_then(Option::take) {
            self.open -= 1;
            // Whoever dropped the confirmation does not want to know.
            let _ = reply.send(outcome);
        }
    }

    /// Gives every message without an outcome this one.
    pub(crate) fn resolve_all(&mut self, error: &SendError) {
        for reply in self.replies.iter_mut().filter_map(Option::take) {
            let _ = reply.send(Err(error.clone()));
        }
        self.open = 0;
    }
}

/// All batches under way, by ascending sequence.
#[derive(Default)]
pub(crate) struct Unconfirmed {
    pub(crate) batches: VecDeque<Sent>,
}

impl Unconfirmed {
    /// Takes in a confirm. A batch refused whole with the advice to retry is set to be written again, and the refusal with the wait is
    /// returned. The sequences of the batches that are done are given to `done`.
    pub(crate) fn confirm(
        &mut self,
        producer: ProducerId,
        confirm: Confirm,
        now: Instant,
        mut done: impl FnMut(Sequence),
    ) -> Option<(Refusal, Duration)> {
        for run in &confirm.stored {
            for place in 0..u64::from(run.count) {
                let sequence = run.first_sequence.saturating_add(place);
                let Some(sent) = self.holding(sequence) else { break };
                let receipt = Receipt {
                    id: MessageId::new(producer, Sequence(sequence)),
                    queue: run.queue as u16,
                    offset: run.first_offset.saturating_add(place),
                    duplicate: run.duplicate,
                };
                sent.resolve(sequence, Ok(receipt));
            }
        }
        let slowed = self.refuse(confirm, now);
        self.remove_done(&mut done);
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
            let end = sent.end();
            let (here, further) = rest.split_at(rest.partition_point(|(sequence, _)| *sequence < end));
            rest = further;
            let later = here.iter().all(|(_, refusal)| refusal.code.advice() == Advice::Retry);
            if later && here.len() == sent.replies.len() && sent.open == sent.replies.len() {
                slowed = Some((refusal.clone(), sent.wait));
                sent.refused = Some(refusal.clone());
                sent.again = Some(now + sent.wait);
                sent.wait = (sent.wait * 2).min(limits::RETRY_MAX);
            } else {
                here.iter()
                    .for_each(|(sequence, refusal)| sent.resolve(*sequence, Err(SendError::Refused(refusal.clone()))));
            }
        }
        slowed
    }

    /// Gives up what has waited too long. What was refused each time, and on the one stream that carried it, is not stored.
    pub(crate) fn give_up(&mut self, now: Instant, reason: &str, mut done: impl FnMut(Sequence)) {
        for sent in self.batches.iter_mut().filter(|sent| sent.deadline <= now) {
            let refused = sent
                .refused
                .take()
                .filter(|_| sent.again.is_some() && sent.first_stream == sent.stream);
            let unknown = || SendError::Unknown { reason: reason.to_owned() };
            sent.resolve_all(&refused.map_or_else(unknown, SendError::Refused));
        }
        self.remove_done(&mut done);
    }

    /// Gives every message under way this outcome.
    pub(crate) fn fail(&mut self, outcome: impl Fn(&Sent) -> SendError, mut done: impl FnMut(Sequence)) {
        for sent in &mut self.batches {
            let error = outcome(sent);
            sent.resolve_all(&error);
        }
        self.remove_done(&mut done);
    }

    /// When the next batch is to be written again or given up.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.batches
            .iter()
            .map(|sent| sent.again.map_or(sent.deadline, |again| again.min(sent.deadline)))
            .min()
    }

    /// How many messages are without an outcome.
    pub(crate) fn open(&self) -> u64 {
        self.batches.iter().map(|sent| sent.open as u64).sum()
    }

    fn holding(&mut self, sequence: u64) -> Option<&mut Sent> {
        let place = self.batches.partition_point(|sent| sent.end() <= sequence);
        self.batches.get_mut(place).filter(|sent| sent.first <= sequence)
    }

    fn remove_done(&mut self, done: &mut impl FnMut(Sequence)) {
        self.batches.retain(|sent| {
            if sent.open == 0 {
                done(Sequence(sent.first));
            }
            sent.open > 0
        });
    }
}

fn unexplained() -> Refusal {
    Refusal::new(sluice_protocol::errors::ErrorCode::Internal, "the broker gave no reason")
}

#[cfg(test)]
mod tests {
    use sluice_protocol::control::{Refused, RefusedMessage, Stored};
    use sluice_protocol::errors::ErrorCode;
    use tokio::sync::oneshot;

    use super::*;

    type Outcome = oneshot::Receiver<Result<Receipt, SendError>>;

    fn batch(unconfirmed: &mut Unconfirmed, first: u64, count: usize) -> Vec<Outcome> {
        let (replies, outcomes) = (0..count).map(|_| oneshot::channel()).unzip();
        let deadline = Instant::now() + Duration::from_secs(1);
        unconfirmed.batches.push_back(Sent::new(first, Bytes::new(), replies, deadline, 1));
        outcomes
    }

    fn refused(sequence: u64, code: ErrorCode) -> RefusedMessage {
        RefusedMessage {
            sequence,
            refused: Some(Refused::from(Refusal::plain(code))),
        }
    }

    fn confirm(unconfirmed: &mut Unconfirmed, stored: Vec<Stored>, refused: Vec<RefusedMessage>) -> (Vec<u64>, bool) {
        let mut done = Vec::new();
        let confirm = Confirm { stored, refused };
        let slowed = unconfirmed.confirm(ProducerId(7), confirm, Instant::now(), |sequence| done.push(sequence.0));
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
            unconfirmed.give_up(late, "too late", |_| {});
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
}
