//! What the records of transactions do to state.

use sluice_log::record::Transaction;
use sluice_protocol::ids::{Position, QueueOffset, TopicId};
use sluice_protocol::units::Now;

use super::State;
use super::producer::Waiting;
use super::transaction::Transactions;
use crate::planted::{self, Bug};

impl State {
    /// Below this no number of a topic's calendar queue is that of a message that waits for its time or for a decision.
    pub fn calendar_start(&self, topic: TopicId) -> Option<QueueOffset> {
        let start = self.calendars.get(topic)?.start();
        let undecided = self.transactions.get(topic).and_then(Transactions::first);
        Some(
            undecided
                .filter(|_| !planted::is(Bug::UndecidedNotKept))
                .map_or(start, |first| first.min(start)),
        )
    }

    /// The part of [`State::apply`] that concerns prepared messages.
    pub(super) fn apply_transaction(&mut self, position: Position, at: Now, transaction: &Transaction) {
        match transaction {
            Transaction::Prepared {
                topic,
                first,
                due_ms,
                batch,
            } => {
                self.calendars.numbered(position, *topic, *first, due_ms.len());
                self.transactions.prepared(at, *topic, *first, due_ms);
                if planted::is(Bug::PreparedReleased) {
                    self.calendars.delayed(position, *topic, *first, due_ms);
                }
                let waits = Waiting { due_ms, prepared: true };
                self.producers.stored(position, topic.calendar(), *first, batch, Some(waits));
            }
            Transaction::Committed { messages, .. } => {
                self.transactions.decided(messages, true);
                self.calendars.committed(messages);
            }
            Transaction::RolledBack { messages, .. } => {
                self.transactions.decided(messages, false);
                if planted::is(Bug::RolledBackReleased) {
                    self.calendars.committed(messages);
                }
            }
            Transaction::Asked { topic, asked } => self.transactions.asked(at, *topic, asked),
            Transaction::GivenUp {
                message,
                to,
                at_offset,
                batch,
            } => {
                self.transactions.given_up(*message, *to, *at_offset);
                self.append(position, *to, *at_offset, batch);
            }
            Transaction::Revived { message, number, .. } => {
                self.transactions.decided(&[*message], true);
                self.calendars.delayed(position, message.topic, *number, &[message.due.at_ms]);
            }
        }
    }
}
