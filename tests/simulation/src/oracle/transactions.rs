//! Prepared messages: that none is released before it is committed nor after it is rolled back, and that what is told of them is true.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_core::effect::StoredRun;
use sluice_core::input::{Decision, RequestId};
use sluice_log::record::{Prepared, Transaction};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::TopicId;

use super::delayed::Numbered;
use super::undecided::{AsksTold, GivenUp};
use super::{Book, Oracle};
use crate::laws::{Court, Law};
use crate::rows;

/// What the log says of prepared messages.
#[derive(Clone, Debug, Default)]
pub struct Decisions {
    /// What waits for a decision, and when it will be due.
    pub undecided: BTreeMap<Numbered, i64>,
    /// What was committed, by the frame that says so.
    pub committed: BTreeMap<Numbered, u64>,
    /// What was rolled back, by the frame that says so.
    pub rolled_back: BTreeMap<Numbered, u64>,
    /// How often somebody was asked about each that was prepared, and on the monotonic clock when it was prepared or asked about last.
    pub asks: BTreeMap<Numbered, (u16, u64)>,
    /// What was rolled back because nobody decided.
    pub given_up: BTreeMap<Numbered, GivenUp>,
    /// What an operator committed of that: its number from then on, and the frame that says so.
    pub revived: BTreeMap<Numbered, (u64, u64)>,
}

impl Decisions {
    /// Whether a message was sent to be decided about.
    pub fn was_prepared(&self, message: Numbered) -> bool {
        self.asks.contains_key(&message)
    }

    /// A topic went with what waits in it.
    pub(super) fn forget(&mut self, topic: TopicId) {
        self.undecided.retain(|(other, _), _| *other != topic);
        self.committed.retain(|(other, _), _| *other != topic);
        self.rolled_back.retain(|(other, _), _| *other != topic);
        self.asks.retain(|(other, _), _| *other != topic);
        self.given_up.retain(|(other, _), _| *other != topic);
        self.revived.retain(|(other, _), _| *other != topic);
    }

    /// Under which number a message is released, if it ever is.
    pub fn number_of(&self, message: Numbered) -> Numbered {
        self.revived.get(&message).map_or(message, |(number, _)| (message.0, *number))
    }

    fn frame(&self, message: Numbered, decision: Decision) -> Option<u64> {
        match decision {
            Decision::Commit => {
                let revived = self.revived.get(&message).map(|(_, frame)| *frame);
                self.committed.get(&message).copied().or(revived)
            }
            Decision::RollBack => {
                let given_up = self.given_up.get(&message).map(|given| given.frame);
                self.rolled_back.get(&message).copied().or(given_up)
            }
        }
    }
}

/// What was asked and told of prepared messages, over all crashes.
#[derive(Clone, Debug, Default)]
pub struct Deciding {
    handles: BTreeMap<Bytes, Numbered>,
    /// Handles of messages that a crash lost though they counted as durable; another message may have their number by now.
    lost: BTreeMap<Bytes, Numbered>,
    requests: BTreeMap<RequestId, (Vec<Bytes>, Decision, bool)>,
    /// What is known of asks.
    pub asks: AsksTold,
    operator_commits: BTreeSet<Numbered>,
    asked: BTreeSet<(Numbered, bool)>,
    confirmed: BTreeMap<Numbered, bool>,
}

impl Deciding {
    /// Somebody decides about messages, perhaps an operator.
    pub fn decides(&mut self, request: RequestId, handles: &[Bytes], decision: Decision, by_operator: bool) {
        let messages = handles
            .iter()
            .filter_map(|handle| self.handles.get(handle).or(self.lost.get(handle)));
        for message in messages {
            self.asked.insert((*message, decision == Decision::Commit));
            if by_operator && decision == Decision::Commit {
                self.operator_commits.insert(*message);
            }
        }
        self.requests.insert(request, (handles.to_vec(), decision, by_operator));
    }

    /// Whether an operator commits a message.
    pub(super) fn operator_commits(&self, message: Numbered) -> bool {
        self.operator_commits.contains(&message)
    }

    /// What decides about a message is told.
    pub(super) fn learns(&mut self, handle: Bytes, message: Numbered) {
        self.handles.insert(handle, message);
    }

    /// What decides about a message.
    pub(super) fn handle_of(&self, message: Numbered) -> Option<Bytes> {
        let mut handles = self.handles.iter();
        handles.find(|(_, other)| **other == message).map(|(handle, _)| handle.clone())
    }

    /// The broker is gone, and every answer with it.
    pub fn crashed(&mut self) {
        self.requests.clear();
        self.asks.crashed();
    }
}

impl Book {
    /// Something happened to prepared messages.
    pub(super) fn transaction(&mut self, frame: u64, transaction: &Transaction, deciding: &Deciding, court: &mut Court) {
        match transaction {
            Transaction::Prepared {
                topic,
                first,
                due_ms,
                batch,
            } => {
                self.queues.entry(topic.calendar()).or_default();
                self.appended(frame, topic.calendar(), first.0, batch, court);
                let lawful = rows::are_prepared(batch) && rows::times(batch) == *due_ms;
                court.require(Law::CommittedOnce, lawful, || {
                    format!(
                        "{topic:?} from {first:?} on is due at {due_ms:?}, what was sent says {:?}",
                        rows::times(batch)
                    )
                });
                for (due_ms, number) in due_ms.iter().zip(first.0..) {
                    self.decisions.undecided.insert((*topic, number), *due_ms);
                    self.decisions.asks.insert((*topic, number), (0, self.stamp.mono_ms));
                }
            }
            Transaction::Committed { messages, .. } => {
                for message in messages {
                    self.decided(*message, true, deciding, court);
                    let named = (message.topic, message.due.number.0);
                    self.decisions.committed.insert(named, frame);
                    self.delays.waiting.insert(named, message.due.at_ms);
                }
            }
            Transaction::RolledBack { messages, .. } => {
                for message in messages {
                    self.decided(*message, false, deciding, court);
                    self.decisions.rolled_back.insert((message.topic, message.due.number.0), frame);
                }
            }
            Transaction::Asked { topic, asked } => self.were_asked(*topic, asked, &deciding.asks, court),
            Transaction::GivenUp {
                message,
                to,
                at_offset,
                batch,
            } => self.given_up(frame, *message, (*to, at_offset.0), batch, &deciding.asks, court),
            Transaction::Revived {
                message, number, batch, ..
            } => self.revived(frame, *message, number.0, batch, deciding, court),
        }
    }

    fn decided(&mut self, message: Prepared, committed: bool, deciding: &Deciding, court: &mut Court) {
        let named = (message.topic, message.due.number.0);
        if deciding.asks.was_asked(named) {
            court.exercise(Law::DecidedAfterAsk);
        }
        let waited = self.decisions.undecided.remove(&named);
        court.demand(Law::CommittedOnce, waited == Some(message.due.at_ms), || {
            format!("{message:?} is decided about (committed: {committed}) and did not wait for it: {waited:?}")
        });
        court.require(Law::CommittedOnce, deciding.asked.contains(&(named, committed)), || {
            format!("nobody decided so about {message:?} (committed: {committed})")
        });
    }

    /// A message is released.
    pub(super) fn demand_committed(&self, message: Numbered, court: &mut Court) {
        let undecided = self.decisions.undecided.contains_key(&message);
        court.demand(Law::PreparedNeverVisible, !undecided, || {
            format!("{message:?} is released and nobody committed it")
        });
        let rolled_back = self.decisions.rolled_back.contains_key(&message);
        court.demand(Law::RolledBackNever, !rolled_back, || {
            format!("{message:?} was rolled back and is released")
        });
    }
}

impl Oracle {
    /// A prepared message was confirmed with what decides about it.
    pub(super) fn told_transaction(&mut self, run: &StoredRun) {
        let Some(handle) = run.transaction else { return };
        let message = (run.queue.topic, run.first_offset.0);
        self.deciding.handles.insert(Bytes::copy_from_slice(&handle), message);
        let known = self.book.decisions.was_prepared(message) || !self.book.topics.contains_key(&message.0);
        self.court.require(Law::DecisionIsKept, known, || {
            format!("{message:?} is said to be prepared, and nothing is known of it")
        });
    }

    /// A decision was confirmed: the record is durable.
    pub(super) fn decision_done(&mut self, request: RequestId) {
        let Some((handles, decision, _)) = self.deciding.requests.remove(&request) else {
            return;
        };
        for handle in handles {
            let message = self.deciding.handles.get(&handle).or(self.deciding.lost.get(&handle)).copied();
            self.court.demand(Law::ForgedHandleIsRefused, message.is_some(), || {
                format!("{handle:?} decided something")
            });
            let Some(message) = message else { continue };
            let frame = self.book.decisions.frame(message, decision);
            let gone = !self.book.topics.contains_key(&message.0);
            let durable = frame.is_some_and(|frame| frame < self.synced) || gone;
            self.court.demand(Law::DecisionIsKept, durable, || {
                format!(
                    "{decision:?} of {message:?} is confirmed and recorded in {frame:?}, synced is {}",
                    self.synced
                )
            });
            self.deciding.confirmed.insert(message, decision == Decision::Commit);
        }
    }

    /// A decision was refused; `None` when the request was none.
    pub(super) fn decision_refused(&mut self, request: RequestId, refusal: &Refusal) -> Option<()> {
        let (handles, decision, by_operator) = self.deciding.requests.remove(&request)?;
        let named = |handle: &Bytes| self.deciding.handles.get(handle).copied();
        let messages: Vec<Numbered> = handles.iter().filter_map(named).collect();
        let lost = handles.iter().any(|handle| self.deciding.lost.contains_key(handle));
        let before = |decision| {
            let frames = messages.iter().filter_map(|message| self.book.decisions.frame(*message, decision));
            frames.min().is_some_and(|frame| frame < self.synced)
        };
        // What was given up is committed by an operator as long as its copy is kept.
        let kept = messages.iter().any(|message| {
            let given = self.book.decisions.given_up.get(message);
            let place = given.and_then(|given| Some((self.book.queues.get(&given.place.0)?, given.place.1)));
            place.is_some_and(|(queue, offset)| offset >= queue.start)
        });
        let gone = messages.iter().any(|message| !self.book.topics.contains_key(&message.0));
        let lawful = match refusal.code {
            ErrorCode::BadTransactionHandle => messages.len() < handles.len(),
            ErrorCode::AlreadyCommitted => decision == Decision::RollBack && (before(Decision::Commit) || gone || lost),
            ErrorCode::AlreadyRolledBack => {
                decision == Decision::Commit && (before(Decision::RollBack) && !(by_operator && kept) || gone || lost)
            }
            ErrorCode::TopicDeleted => gone || lost,
            ErrorCode::NoSuchTransaction => lost,
            _ => false,
        };
        if matches!(refusal.code, ErrorCode::AlreadyCommitted | ErrorCode::AlreadyRolledBack) {
            self.court.exercise(Law::DecidedOtherwise);
        }
        self.court.require(Law::DecisionIsKept, lawful, || {
            format!("{decision:?} of {messages:?} is refused: {refusal:?}")
        });
        Some(())
    }

    /// The log was read again: what was decided for good is decided.
    pub(super) fn decisions_recovered(&mut self, lazy_loss: bool) {
        if !self.book.decisions.undecided.is_empty() {
            self.court.exercise(Law::UndecidedOverCrash);
        }
        let (book, deciding) = (&self.book, &mut self.deciding);
        let is_recorded = |(message, committed): (&Numbered, &bool)| {
            let decision = match committed {
                true => Decision::Commit,
                false => Decision::RollBack,
            };
            book.decisions.frame(*message, decision).is_some()
        };
        if lazy_loss {
            let is_kept = |(topic, number): &Numbered| {
                let calendar = book.queues.get(&topic.calendar());
                calendar.is_some_and(|calendar| *number < calendar.rows.len() as u64)
            };
            // A topic that was lost may come again under the same number, with other messages.
            deciding.confirmed.retain(|message, committed| is_recorded((message, committed)));
            deciding
                .lost
                .extend(deciding.handles.extract_if(.., |_, message| !is_kept(message)));
        }
        let kept = |decided: (&Numbered, &bool)| is_recorded(decided) || !book.topics.contains_key(&decided.0.0);
        let lost = deciding.confirmed.iter().find(|decided| !kept(*decided));
        self.court.demand(Law::DecisionIsKept, lost.is_none(), || {
            format!("a decision was confirmed and is gone: {lost:?}")
        });
    }
}
