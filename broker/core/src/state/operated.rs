//! What the records of operators' interferences with groups do to state.

use sluice_log::record::{Operated, Operation, SentBack};
use sluice_protocol::ids::{GroupId, Position, QueueOffset, TopicId};
use sluice_protocol::units::Now;

use super::State;
use super::pause::{Pause, PauseId};
use crate::planted::{self, Bug};

impl State {
    /// The pause under which nothing is handed out to a group in a topic; that of all topics goes first.
    pub fn pause_of(&self, group: GroupId, topic: TopicId) -> Option<(PauseId, &Pause)> {
        [None, Some(topic)]
            .into_iter()
            .find_map(|topic| Some(((group, topic), self.pauses.get(&(group, topic))?)))
    }

    /// The pauses of a group: of all topics, then of each.
    pub fn pauses_of(&self, group: GroupId) -> impl Iterator<Item = (PauseId, &Pause)> {
        let all = (group, None)..=(group, Some(TopicId(u64::MAX)));
        self.pauses.range(all).map(|(&id, pause)| (id, pause))
    }

    /// The part of [`State::apply`] that concerns operators and groups.
    pub(super) fn apply_operated(&mut self, position: Position, at: Now, operated: &Operated) {
        match &operated.operation {
            Operation::Paused { group, topic } => {
                let pause = Pause {
                    reflects: position,
                    since_wall_ms: at.wall_ms,
                    by: operated.by.clone(),
                };
                let entry = self.pauses.entry((*group, *topic)).or_insert_with(|| pause.clone());
                if entry.reflects < position {
                    *entry = pause;
                }
            }
            Operation::Unpaused { group, topic } => self.pauses.retain(|(other, of), pause| {
                let meant = other == group && (topic.is_none() || of == topic);
                !meant || pause.reflects >= position
            }),
            Operation::Skipped { cursor, pass, offset } => self.update_pass(position, *cursor, *pass, |cursor| {
                if !planted::is(Bug::SkipKeepsRetries) || cursor.retry(offset.0).is_none() {
                    cursor.settled(*offset, QueueOffset(offset.0 + 1));
                }
            }),
            Operation::TopicGrown {
                topic,
                ends,
                queues,
                groups,
            } => self.grow_topic(position, *topic, ends, *queues, groups),
            Operation::Absent { group, since_mono_ms } => {
                if let Some(entry) = self.groups.get_mut(group) {
                    entry.absent(position, *since_mono_ms);
                }
            }
            Operation::DeadLettersDealt { from, dealt, back } => {
                self.letters.entry(from.topic).or_default().deal(position, dealt);
                // The lanes of one cursor stand side by side, and their record changes it once.
                for lanes in back.chunk_by(|one, next| one.cursor == next.cursor) {
                    let SentBack { cursor, pass, .. } = lanes[0];
                    self.update_pass(position, cursor, pass, |cursor| {
                        lanes.iter().for_each(|sent| cursor.sent_back(sent.priority, &sent.messages, at));
                    });
                }
            }
        }
    }
}
