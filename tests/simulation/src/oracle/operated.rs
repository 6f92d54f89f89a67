//! What operators did with groups, as the records say it: only what somebody asked for, and kept.

use std::collections::BTreeSet;

use sluice_core::effect::MessageState;
use sluice_core::input::{Admin, RequestId};
use sluice_log::record::{CursorId, Operated, Operation};
use sluice_protocol::ids::{GroupId, QueueIndex, TopicId};

use super::Oracle;
use super::book::Book;
use super::letters::LetterOrders;
use crate::laws::{Court, Law};
use crate::random::Random;

/// A message by the names of its group and topic.
pub(crate) type Named = (String, String, QueueIndex, u64);

/// What operators asked for, whether or not it was answered.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    pauses: BTreeSet<(String, Option<String>)>,
    resumes: BTreeSet<(String, Option<String>)>,
    skips: BTreeSet<Named>,
    letters: LetterOrders,
    growths: BTreeSet<(String, u16)>,
}

impl Orders {
    /// The broker is handed what an operator asks.
    pub fn hears(&mut self, admin: &Admin) {
        self.letters.hears(admin);
        if let Admin::GrowTopic { name, queues, .. } = admin {
            self.growths.insert((name.clone(), *queues));
        } else if let Admin::PauseGroup { name, topic, .. } = admin {
            self.pauses.insert((name.clone(), topic.clone()));
        } else if let Admin::ResumeGroup { name, topic, .. } = admin {
            self.resumes.insert((name.clone(), topic.clone()));
        } else if let Some(message) = skipped_by(admin) {
            self.skips.insert(message);
        }
    }

    /// Whether somebody asked for a topic with so many queues.
    pub(super) fn grows(&self, name: &str, queues: u16) -> bool {
        self.growths.contains(&(name.to_owned(), queues))
    }
}

fn skipped_by(admin: &Admin) -> Option<Named> {
    if let Admin::SkipMessage {
        group,
        topic,
        queue,
        offset,
        ..
    } = admin
    {
        Some((group.clone(), topic.clone(), *queue, offset.0))
    } else {
        None
    }
}

impl Book {
    /// Some message that is leased or waits for another delivery, if there is one.
    pub(crate) fn some_held(&self, random: &mut Random) -> Option<Named> {
        let held = self.cursors.iter().filter(|(_, cursor)| !cursor.held.is_empty());
        let held: Vec<_> = held.collect();
        let (id, cursor) = held.get(random.index(held.len().max(1)))?;
        let offset = *cursor.held.keys().nth(random.index(cursor.held.len()))?;
        let (group, topic) = (self.groups.get(&id.group)?, self.topics.get(&id.queue.topic)?);
        Some((group.name.clone(), topic.clone(), id.queue.index, offset))
    }

    /// Whether a group is paused in a topic.
    pub fn is_paused(&self, group: GroupId, topic: TopicId) -> bool {
        let groups = [Some(group), self.parent_of(group)].into_iter().flatten();
        let mut scopes = groups.flat_map(|group| [(group, None), (group, Some(topic))]);
        scopes.any(|scope| self.pauses.contains(&scope))
    }

    /// Takes in what an operator did.
    pub(super) fn operated(&mut self, frame: u64, operated: &Operated, orders: &Orders, court: &mut Court) {
        let group_name = |group: &GroupId| self.groups.get(group).map(|group| group.name.clone()).unwrap_or_default();
        let scope = |group: &GroupId, topic: &Option<TopicId>| {
            let topic = topic.map(|topic| self.topics.get(&topic).cloned().unwrap_or_default());
            (group_name(group), topic)
        };
        match &operated.operation {
            Operation::Paused { group, topic } => {
                let asked = orders.pauses.contains(&scope(group, topic));
                court.demand(Law::OperatedAsAsked, asked, || format!("nobody asked for {operated:?}"));
                self.pauses.insert((*group, *topic));
            }
            Operation::Unpaused { group, topic } => {
                let asked = orders.resumes.contains(&scope(group, topic));
                court.demand(Law::OperatedAsAsked, asked, || format!("nobody asked for {operated:?}"));
                self.pauses.retain(|(other, of)| other != group || topic.is_some() && of != topic);
                court.exercise(Law::PauseEnded);
            }
            Operation::Skipped { cursor, pass, offset } => {
                let topic = self.topics.get(&cursor.queue.topic).cloned().unwrap_or_default();
                let names = self.names_of(cursor.group).into_iter();
                let messages: Vec<Named> = names.map(|name| (name, topic.clone(), cursor.queue.index, offset.0)).collect();
                let asked = messages.iter().any(|message| orders.skips.contains(message));
                court.demand(Law::OperatedAsAsked, asked, || format!("nobody asked for {operated:?}"));
                self.skipped.extend(messages.into_iter().map(|message| (message, frame)));
                self.skip(frame, *cursor, *pass, offset.0, court);
            }
            Operation::TopicGrown {
                topic,
                ends,
                queues,
                groups,
            } => self.grow(*topic, ends, *queues, groups, orders, court),
            Operation::Absent { group, since_mono_ms } => {
                court.exercise(match since_mono_ms {
                    Some(_) => Law::MemberLeft,
                    None => Law::MemberCameBack,
                });
                match since_mono_ms {
                    Some(since) => drop(self.absent.insert(*group, *since)),
                    None => drop(self.absent.remove(group)),
                }
            }
            Operation::DeadLettersDealt { from, dealt, back } => self.dealt(*from, dealt, back, &orders.letters, court),
        }
    }

    fn skip(&mut self, frame: u64, cursor: CursorId, pass: sluice_protocol::ids::Pass, offset: u64, court: &mut Court) {
        let Some(model) = self.cursors.get_mut(&cursor) else {
            court.demand(Law::NoFailureOfItsOwn, false, || {
                format!("there is no cursor {cursor:?} to skip in")
            });
            return;
        };
        court.demand(Law::SeekEndsThePass, model.pass == pass, || {
            format!("{cursor:?} is in {:?}, skipped in {pass:?}", model.pass)
        });
        if model.held.remove(&offset).is_some() {
            court.exercise(Law::HeldSkipped);
        }
        model.parked.remove(&offset);
        model.settled.insert(offset, frame);
        model.end(offset, frame);
    }
}

impl Oracle {
    /// The broker is handed what an operator asks.
    pub(super) fn ordered(&mut self, request: RequestId, admin: &Admin) {
        self.asked.orders.hears(admin);
        if let Some(message) = skipped_by(admin) {
            self.skips.insert(request, message);
        }
    }

    /// A skip was answered: unless the message was over, the synced log says that it is now.
    pub(super) fn skip_answered(&mut self, request: RequestId, was: MessageState) {
        let Some(message) = self.skips.remove(&request) else { return };
        let kept = was == MessageState::Over || self.book.skipped.get(&message).is_some_and(|frame| *frame < self.synced);
        self.court.demand(Law::SkipIsKept, kept, || {
            format!("{message:?} was {was:?} and skipped, the synced log does not say so")
        });
    }
}
