//! What operators do with a group's messages: pause and go on, skip one, purge all that is stored.

use sluice_log::record::{Change, CursorId, Operated, Operation};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{GroupId, Position, QueueId, QueueIndex, QueueOffset, TopicId};

use crate::admin::Outcome;
use crate::broker::Core;
use crate::consume::{ReadingKey, Seek};
use crate::effect::{Answer, MessageState};
use crate::input::{RequestId, SeekTo};
use crate::limits::CURSOR_AHEAD_MAX;
use crate::planted::{self, Bug};
use crate::ranges::range;
use crate::state::cursor::Cursor;
use crate::state::lane::Lane;

impl Core {
    /// Pauses a group in one topic or in all; where it is paused already nothing changes, so it may be asked again.
    pub(crate) fn pause_group(&mut self, name: &str, topic: Option<&str>, by: String) -> Outcome {
        let group = self.group_id(name)?;
        let topic = topic.map(|topic| self.read_topic(group, name, topic)).transpose()?;
        if self.state.pauses.contains_key(&(group, topic)) {
            return Ok((self.journal.last(), Answer::Done));
        }
        let depends = self.operate(by, Operation::Paused { group, topic });
        for key in self.readings_of(group, topic) {
            self.rest(key);
        }
        Ok((depends, Answer::Done))
    }

    /// Lifts what holds a group in one topic or in all: an operator's pause, or the fault of a plugin. Where nothing holds it nothing
    /// changes, so it may be asked again.
    pub(crate) fn resume_group(&mut self, name: &str, topic: Option<&str>, by: String) -> Outcome {
        let group = self.group_id(name)?;
        let topic = topic.map(|topic| self.read_topic(group, name, topic)).transpose()?;
        if topic.is_some() && self.state.pauses.contains_key(&(group, None)) {
            let text = format!("group {name} is paused in all topics: resume it in all, then pause it where it is to rest");
            return Err(Refusal::new(ErrorCode::GroupPaused, text));
        }
        let mut depends = self.journal.last();
        let paused = self.state.pauses_of(group).any(|((_, of), _)| topic.is_none() || of == topic);
        if paused {
            depends = self.operate(by, Operation::Unpaused { group, topic });
        }
        for key in self.readings_of(group, topic) {
            if paused {
                self.go_on_reading(key, depends);
            }
            if let Some(resumed) = self.resume(key) {
                depends = resumed;
                self.rule_anew(key, depends);
            }
        }
        Ok((depends, Answer::Done))
    }

    /// Settles one message for a group, whatever its state; a running lease of it becomes stale. For each member of a broadcast group, and of
    /// what it was to them the answer says what was furthest from its end.
    pub(crate) fn skip_message(&mut self, name: &str, topic: &str, queue: QueueIndex, offset: QueueOffset, by: String) -> Outcome {
        let group = self.group_id(name)?;
        let topic_id = self.read_topic(group, name, topic)?;
        let queue = QueueId {
            topic: topic_id,
            index: queue,
        };
        let no_queue = || Refusal::new(ErrorCode::NoSuchQueue, format!("topic {topic} has no queue {}", queue.index.0));
        let stored = self.state.queues.get(&queue).ok_or_else(no_queue)?;
        if !(stored.start..stored.end).contains(&offset) {
            let text = format!("queue {} holds the offsets {} to {}", queue.index.0, stored.start.0, stored.end.0);
            return Err(Refusal::new(ErrorCode::NoSuchOffset, text));
        }
        let (mut was, mut open) = (MessageState::Over, Vec::new());
        for group in self.state.readers_for_on(group, topic_id) {
            let cursor = CursorId { group, queue };
            let entry = self.state.cursors.get(&cursor).ok_or_else(no_queue)?;
            let state = state_of(entry, offset.0);
            was = further(was, state);
            if state == MessageState::Over {
                continue;
            }
            if entry.levels().any(|(_, lane)| lane.ahead.count() >= CURSOR_AHEAD_MAX) {
                let text = format!("{CURSOR_AHEAD_MAX} messages ahead of the frontier are settled already: skip earlier ones first");
                return Err(Refusal::new(ErrorCode::LimitExceeded, text));
            }
            open.push((cursor, entry.pass));
        }
        let mut depends = self.journal.last();
        if planted::is(Bug::SkipForgotten) {
            return Ok((depends, Answer::Skipped { was }));
        }
        for (cursor, pass) in open {
            let ending = self.ending(cursor, &[range(offset.0, offset.0 + 1)]);
            depends = self.operate(by.clone(), Operation::Skipped { cursor, pass, offset });
            self.ended(cursor, ending, depends);
            self.forget_suspect(cursor, offset);
            self.counters.skipped += 1;
        }
        Ok((depends, Answer::Skipped { was }))
    }

    /// Passes over all that a topic holds for a group: a seek to the end of every queue, which says how many messages it passed over.
    pub(crate) fn purge_group(&mut self, request: RequestId, group: String, topic: String) {
        let seek = Seek {
            request,
            group,
            topic,
            queue: None,
            to: SeekTo::Latest,
        };
        let cursors = match self.check_seek(&seek) {
            Ok(cursors) => cursors,
            Err(refusal) => return self.refuse(request, refusal),
        };
        let lags = cursors
            .iter()
            .filter_map(|&cursor| Some(self.lag(cursor, self.state.cursors.get(&cursor)?)));
        let messages = lags.sum();
        let depends = self.seek_cursors(&seek, &cursors, &[]);
        self.answer(depends, request, Answer::Purged { messages });
    }

    /// Whether an operator paused a group in a topic.
    pub(crate) fn is_paused(&self, (topic, group): ReadingKey) -> bool {
        let paused = |group| self.state.pause_of(group, topic).is_some();
        !self.state.pauses.is_empty() && (paused(group) || self.state.parent_of(group).is_some_and(paused))
    }

    pub(crate) fn operate(&mut self, by: String, operation: Operation) -> Position {
        self.record(Change::Operated(Operated { by, operation }))
    }

    /// Demands that a group has cursors itself.
    pub(crate) fn one_reader(&self, group: GroupId, name: &str) -> Result<(), Refusal> {
        match self.state.is_broadcast(group) {
            true => Err(Refusal::new(
                ErrorCode::BroadcastGroup,
                format!("each member of group {name} has its own place: name one of them as {name}/MEMBER"),
            )),
            false => Ok(()),
        }
    }

    /// A topic by name that a group reads.
    fn read_topic(&self, group: GroupId, name: &str, topic: &str) -> Result<TopicId, Refusal> {
        let id = self.topic_id(topic)?;
        match !self.state.readers_for_on(group, id).is_empty() {
            true => Ok(id),
            false => Err(Refusal::new(
                ErrorCode::NoSuchGroup,
                format!("group {name} does not read topic {topic}"),
            )),
        }
    }

    fn readings_of(&self, group: GroupId, topic: Option<TopicId>) -> Vec<ReadingKey> {
        let wanted = |of: &TopicId| topic.is_none_or(|topic| *of == topic);
        let readers = self.state.readers_for(group).into_iter();
        let keys = readers.flat_map(|group| {
            self.state
                .topics_of(group)
                .filter(wanted)
                .map(move |topic| (topic, group))
                .collect::<Vec<_>>()
        });
        keys.collect()
    }
}

/// What a cursor says of a message. Where there are several lanes it is over only if none of them has yet to come to it, since the cursor does
/// not know in which it belongs.
pub(crate) fn state_of(entry: &Cursor, offset: u64) -> MessageState {
    let states = entry.levels().map(|(_, lane)| state_in(lane, offset));
    states.fold(MessageState::Over, further)
}

/// Of what two lanes, or two members, say of a message that which is further from its end.
fn further(known: MessageState, state: MessageState) -> MessageState {
    match (known, state) {
        (MessageState::Over, state)
        | (MessageState::Free, state @ (MessageState::Leased | MessageState::Retrying | MessageState::Held)) => state,
        (known, _) => known,
    }
}

/// What a lane says of a message.
pub(crate) fn state_in(lane: &Lane, offset: u64) -> MessageState {
    if lane.leases.get(offset).is_some() {
        MessageState::Leased
    } else if lane.retries.get(offset).is_some() {
        MessageState::Retrying
    } else if lane.held.contains(offset) {
        MessageState::Held
    } else if lane.is_free(offset) || lane.order.get(offset).is_some() {
        MessageState::Free
    } else {
        MessageState::Over
    }
}
