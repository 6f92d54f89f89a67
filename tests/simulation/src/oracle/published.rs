//! Publishes: that their answers are true, and that a message that is sent again is stored once.

use sluice_core::effect::StoredRun;
use sluice_core::input::RequestId;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{ProducerId, Sequence};

use super::given::given_key;
use super::{Confirmed, Oracle};
use crate::laws::Law;

impl Oracle {
    pub(super) fn stored(&mut self, request: RequestId, runs: &[StoredRun], refused: &[(u32, Refusal)]) {
        let Some(mut publish) = self.publishes.remove(&request) else {
            self.court.demand(Law::NoFailureOfItsOwn, false, || {
                format!("{request:?} is answered, but is no open publish")
            });
            return;
        };
        for (nth, refusal) in refused {
            let messages = publish.batches.get_mut(*nth as usize).map(std::mem::take).unwrap_or_default();
            self.refused_publish(refusal, &[messages]);
        }
        let mut messages = publish.batches.iter().flatten();
        for run in runs {
            self.told_recall(run);
            self.told_transaction(run);
            for place in 0..u64::from(run.count) {
                let sequence = Sequence(run.first_sequence.0 + place);
                let Some(message) = messages.next().filter(|(_, expected)| *expected == sequence) else {
                    self.court.demand(Law::NoFailureOfItsOwn, false, || {
                        format!("{runs:?} do not answer {:?}", publish.batches)
                    });
                    return;
                };
                let found = Confirmed {
                    topic: publish.topic.clone(),
                    queue: run.queue,
                    offset: run.first_offset.0 + place,
                };
                self.confirm(*message, found, run.duplicate);
            }
        }
        let rest = messages.count();
        self.court.demand(Law::NoFailureOfItsOwn, rest == 0, || {
            format!("{rest} of {:?} are not answered", publish.batches)
        });
    }

    fn confirm(&mut self, message: (ProducerId, Sequence), found: Confirmed, duplicate: bool) {
        if duplicate && self.is_known_by_its_id(message, &found) {
            return;
        }
        if duplicate {
            let tries = self.tried.get(&message).copied().unwrap_or(0);
            self.court.demand(Law::RetryIsStoredOnce, tries > 1, || {
                format!("{message:?} is called a duplicate at its first try")
            });
        }
        if let Some(queue) = self.book.queues.get(&found.queue) {
            let row = queue.rows.get(found.offset as usize);
            let there = row.is_some_and(|row| (row.producer, row.sequence) == message && row.frame < self.synced);
            self.court.demand(Law::ConfirmAfterSync, there, || {
                format!("{message:?} is confirmed at {found:?}, there is {row:?}, synced is {}", self.synced)
            });
        } else {
            let deleted = self.asked.deletes(Some(&found.topic));
            self.court.demand(Law::ConfirmAfterSync, deleted, || {
                format!("{message:?} is confirmed in {found:?}, which does not exist")
            });
        }
        let before = self.confirmed.entry(message).or_insert_with(|| found.clone());
        if self.book.forgotten.contains(&message.0) {
            // The broker said that it would not know it again.
            *before = found.clone();
        }
        self.court.demand(Law::RetryIsStoredOnce, *before == found, || {
            format!("{message:?} is confirmed at {found:?}, and was before at {before:?}")
        });
    }

    /// Whether another message was stored in this one's place because it has the same id.
    fn is_known_by_its_id(&mut self, message: (ProducerId, Sequence), found: &Confirmed) -> bool {
        let Some(queue) = self.book.queues.get(&found.queue) else {
            // Of a topic that was deleted meanwhile the book knows no more.
            return given_key(found.queue.topic, message).is_some() && self.asked.deletes(Some(&found.topic));
        };
        let Some(row) = queue.rows.get(found.offset as usize) else {
            return false;
        };
        let first = (row.producer, row.sequence);
        if first == message {
            return false;
        }
        let alike = given_key(found.queue.topic, message).is_some_and(|key| given_key(found.queue.topic, first) == Some(key));
        let durable = row.frame < self.synced;
        self.court.demand(Law::GivenIdStoredOnce, alike && durable, || {
            format!(
                "{message:?} is called a duplicate of {row:?} at {found:?}, synced is {}",
                self.synced
            )
        });
        true
    }

    pub(super) fn refused(&mut self, request: RequestId, refusal: &Refusal) {
        if refusal.code == ErrorCode::SupersededSubscription {
            self.court.exercise(Law::MemberSuperseded);
        }
        if self
            .recall_refused(request, refusal)
            .or_else(|| self.decision_refused(request, refusal))
            .is_some()
        {
            return;
        }
        match self.publishes.remove(&request) {
            Some(publish) => self.refused_publish(refusal, &publish.batches),
            None => {
                let wrong = refusal.code == ErrorCode::Internal;
                self.court
                    .demand(Law::NoFailureOfItsOwn, !wrong, || format!("{request:?} is refused: {refusal:?}"));
            }
        }
    }

    /// Nothing of these batches is stored.
    fn refused_publish(&mut self, refusal: &Refusal, batches: &[Vec<(ProducerId, Sequence)>]) {
        if refusal.code == ErrorCode::SequenceTooOld {
            self.court.exercise(Law::SequenceTooOld);
            batches.iter().for_each(|messages| self.too_old(messages));
            return;
        }
        let temporary = matches!(
            refusal.code,
            ErrorCode::Overloaded | ErrorCode::TopicDeleted | ErrorCode::NoSuchTopic
        );
        self.court.demand(Law::NoFailureOfItsOwn, temporary, || {
            format!("{batches:?} are refused: {refusal:?}")
        });
    }

    /// What is refused as too old lies before the window of a producer that sent something so much newer.
    fn too_old(&mut self, messages: &[(ProducerId, Sequence)]) {
        let Some((producer, first)) = messages.first().copied() else {
            return;
        };
        let newer = (producer, Sequence(first.0 + 1_024))..=(producer, Sequence(u64::MAX));
        let lawful = self.tried.range(newer).next().is_some();
        self.court
            .require(Law::SequenceTooOld, lawful, || format!("{messages:?} are refused as too old"));
    }
}
