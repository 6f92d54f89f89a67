//! Transactions: prepared messages wait until they are committed, and then for their time like any other, or until they are rolled back.

use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_log::record::{Change, Due, Prepared, Transaction};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Position, QueueOffset, TopicId};
use sluice_protocol::limits::DECIDE_MESSAGES_MAX;

use crate::broker::Core;
use crate::effect::{Answer, TransactionInfo};
use crate::input::{Decision, RequestId};
use crate::limits::LISTED_MAX;
use crate::planted::{self, Bug};
use crate::state::transaction::{Known, due_of};

impl Core {
    /// Puts prepared messages into the calendar queue of their topic, where they wait for a decision.
    pub(crate) fn prepare(&mut self, topic: TopicId, first: QueueOffset, due_ms: Vec<i64>, batch: Bytes) -> Position {
        self.asking.look_at(self.now.mono_ms + self.config.ask_first_ms);
        self.record(Change::Transaction(Transaction::Prepared {
            topic,
            first,
            due_ms,
            batch,
        }))
    }

    /// Commits or rolls back prepared messages: all of them or none. What was decided so before is answered the same.
    pub(crate) fn decide_transactions(&mut self, request: RequestId, handles: &[Bytes], decision: Decision, operator: Option<String>) {
        if let ([handle], Decision::Commit, Some(by)) = (handles, decision, &operator)
            && let Ok((topic, number)) = self.receipts.read_transaction(handle)
            && let Some(Known::GivenUp(queue, offset)) = self.state.transactions.get(topic).map(|of| of.known(number))
        {
            return self.read_given_up(request, (topic, number), (queue, offset), by.clone());
        }
        let messages = match self.undecided_of(handles, decision, operator.is_some()) {
            Ok(messages) => messages,
            // What it is refused for may not be durable yet.
            Err(refusal) => return self.refuse_after(self.journal.last(), request, refusal),
        };
        let messages: Vec<Prepared> = messages.into_iter().map(|((topic, _), due)| Prepared { topic, due }).collect();
        let by = operator.unwrap_or_default();
        let depends = match decision {
            _ if messages.is_empty() => self.journal.last(),
            Decision::Commit => self.commit(messages, by),
            Decision::RollBack => {
                self.counters.rolled_back += messages.len() as u64;
                self.record(Change::Transaction(Transaction::RolledBack { messages, by }))
            }
        };
        self.answer(depends, request, Answer::Done);
    }

    fn commit(&mut self, mut messages: Vec<Prepared>, by: String) -> Position {
        for message in &messages {
            self.releasing.came(message.topic, std::iter::once(message.due));
        }
        self.note_far(messages.iter().map(|message| message.due.at_ms));
        if planted::is(Bug::CommitForgotten) && messages.len() > 1 {
            messages.pop();
        }
        self.counters.committed += messages.len() as u64;
        self.record(Change::Transaction(Transaction::Committed { messages, by }))
    }

    /// The messages among these that wait for a decision. None of the others was decided otherwise.
    fn undecided_of(
        &self,
        handles: &[Bytes],
        decision: Decision,
        by_operator: bool,
    ) -> Result<BTreeMap<(TopicId, QueueOffset), Due>, Refusal> {
        if handles.is_empty() || handles.len() > DECIDE_MESSAGES_MAX {
            let text = format!(
                "one request decides about 1 to {DECIDE_MESSAGES_MAX} messages, not {}",
                handles.len()
            );
            return Err(Refusal::new(ErrorCode::LimitExceeded, text));
        }
        let mut messages = BTreeMap::new();
        for handle in handles {
            let read = self.receipts.read_transaction(handle);
            let (topic, number) = read.map_err(|not_ours| not_ours.refusal(ErrorCode::BadTransactionHandle))?;
            if !self.state.topics.contains_key(&topic) {
                return Err(Refusal::plain(ErrorCode::TopicDeleted));
            }
            let known = self.state.transactions.get(topic).map_or(Known::Nothing, |of| of.known(number));
            match (known, decision) {
                (Known::Undecided(undecided), _) => {
                    messages.insert((topic, number), due_of(number, &undecided));
                }
                (Known::Committed, Decision::Commit) if planted::is(Bug::CommitTwice) => {
                    messages.insert((topic, number), Due { at_ms: 0, number });
                }
                (Known::RolledBack, Decision::Commit) | (Known::Committed, Decision::RollBack) if planted::is(Bug::DecisionReversed) => {}
                (Known::Committed, Decision::Commit) | (Known::RolledBack | Known::GivenUp(..), Decision::RollBack) => {}
                (Known::GivenUp(..), Decision::Commit) if by_operator => return Err(Refusal::plain(ErrorCode::DecideAlone)),
                (Known::Committed, Decision::RollBack) => return Err(Refusal::plain(ErrorCode::AlreadyCommitted)),
                (Known::RolledBack | Known::GivenUp(..), Decision::Commit) => return Err(Refusal::plain(ErrorCode::AlreadyRolledBack)),
                (Known::Nothing, _) => return Err(Refusal::plain(ErrorCode::NoSuchTransaction)),
            }
        }
        Ok(messages)
    }

    /// A page of a topic's messages that wait for a decision, and of those that were given up.
    pub(crate) fn list_transactions(&self, topic: &str, from: QueueOffset) -> Result<Answer, Refusal> {
        let topic = self.topic_id(topic)?;
        let Some(all) = self.state.transactions.get(topic) else {
            return Ok(Answer::Transactions {
                topic,
                transactions: Vec::new(),
                next: None,
            });
        };
        let durable = self.visible_end(topic.calendar());
        let mut listed = all.listed(from).filter(|(number, _)| *number < durable);
        let mut transactions = Vec::new();
        for (number, known) in listed.by_ref().take(LISTED_MAX) {
            let (undecided, place) = match known {
                Known::Undecided(undecided) => (Some(undecided), (topic.calendar(), number)),
                Known::GivenUp(queue, offset) => (None, (queue, offset)),
                Known::Committed | Known::RolledBack | Known::Nothing => continue,
            };
            transactions.push(TransactionInfo {
                number,
                handle: self.receipts.transaction(topic, number),
                place,
                undecided,
                next_ask_wall_ms: undecided.and_then(|undecided| self.next_ask_wall_ms(&undecided)),
            });
        }
        let next = listed.next().map(|(number, _)| number);
        Ok(Answer::Transactions { topic, transactions, next })
    }
}
