//! Starts and seeks at a time: the offsets are asked of the shell first, queue by queue.

use std::collections::BTreeMap;

use sluice_log::record::{Change, CursorId, QueueStart};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{GroupId, Pass, Position, QueueId, QueueIndex, QueueOffset, TopicId};

use super::members::{OpenReceive, OpenStream};
use super::settle::Sent;
use crate::broker::Core;
use crate::effect::{Answer, Effect, LocateId};
use crate::input::{ConnectionId, RequestId, SeekTo, SubscriptionId};
use crate::planted::{self, Bug};

/// What waits for offsets.
#[derive(Debug, Default)]
pub(crate) struct Locating {
    asked: BTreeMap<LocateId, (u64, QueueId)>,
    operations: BTreeMap<u64, Operation>,
}

/// A request that goes on once every offset is there.
#[derive(Debug)]
struct Operation {
    waiting: Waiting,
    missing: usize,
    found: Vec<QueueStart>,
}

/// Which request it is.
#[derive(Debug)]
pub(super) enum Waiting {
    Stream(OpenStream),
    Receive(OpenReceive),
    Seek(Seek),
}

/// A request to begin a new pass.
#[derive(Clone, Debug)]
pub(crate) struct Seek {
    pub(crate) request: RequestId,
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) queue: Option<QueueIndex>,
    pub(crate) to: SeekTo,
}

impl Waiting {
    pub(super) fn is_stream(&self, subscription: SubscriptionId) -> bool {
        matches!(self, Self::Stream(open) if open.subscription == subscription)
    }

    pub(super) fn request(&self) -> RequestId {
        match self {
            Self::Stream(open) => open.request,
            Self::Receive(open) => open.request,
            Self::Seek(seek) => seek.request,
        }
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match self {
            Self::Stream(open) => Some(open.connection),
            Self::Receive(open) => Some(open.connection),
            Self::Seek(_) => None,
        }
    }
}

impl Core {
    /// Asks where a time begins in one queue of a topic or all; the request goes on when every answer is there.
    pub(super) fn locate(&mut self, topic: TopicId, queue: Option<QueueIndex>, wall_ms: i64, waiting: Waiting) {
        let wanted = self
            .state
            .queues_of(topic)
            .filter(|(id, _)| queue.is_none_or(|queue| id.index == queue));
        // A queue without a durable message has but one place to begin: before what is being written, and what is stored meanwhile.
        let (empty, queues): (Vec<QueueStart>, Vec<QueueStart>) = wanted
            .map(|(queue, entry)| QueueStart {
                queue,
                offset: entry.start,
            })
            .partition(|start| start.offset >= self.visible_end(start.queue));
        let operation = self.consuming.next_id();
        let missing = queues.len();
        for QueueStart { queue, .. } in queues {
            let locate = LocateId(self.consuming.next_id());
            self.consuming.locating.asked.insert(locate, (operation, queue));
            self.journal.release(Default::default(), Effect::Locate { locate, queue, wall_ms });
        }
        let entry = Operation {
            waiting,
            missing,
            found: empty,
        };
        if missing == 0 {
            self.go_on(entry);
        } else {
            self.consuming.locating.operations.insert(operation, entry);
        }
    }

    /// Takes an answer; one that nobody waits for any more is dropped.
    pub(crate) fn located(&mut self, locate: LocateId, offset: QueueOffset) {
        let Some((id, queue)) = self.consuming.locating.asked.remove(&locate) else {
            return;
        };
        let Some(operation) = self.consuming.locating.operations.get_mut(&id) else {
            return;
        };
        operation.found.push(QueueStart { queue, offset });
        operation.missing -= 1;
        if operation.missing == 0
            && let Some(operation) = self.consuming.locating.operations.remove(&id)
        {
            self.go_on(operation);
        }
    }

    fn go_on(&mut self, operation: Operation) {
        let located = Some(operation.found.as_slice());
        match operation.waiting {
            Waiting::Stream(open) => self.open_stream(open, located),
            Waiting::Receive(open) => self.open_receive(open, located),
            Waiting::Seek(seek) => self.seek(seek, located),
        }
    }

    /// The stream that waits for offsets under this number.
    pub(super) fn locating_stream(&mut self, subscription: SubscriptionId) -> Option<&mut OpenStream> {
        self.consuming
            .locating
            .operations
            .values_mut()
            .find_map(|operation| match &mut operation.waiting {
                Waiting::Stream(open) if open.subscription == subscription => Some(open),
                Waiting::Stream(_) | Waiting::Receive(_) | Waiting::Seek(_) => None,
            })
    }

    /// Drops one waiting request that `which` picks, and says which it was.
    pub(super) fn forget_locating(&mut self, which: impl Fn(&Waiting) -> bool) -> Option<RequestId> {
        let operations = &mut self.consuming.locating.operations;
        let id = operations
            .iter()
            .find(|(_, operation)| which(&operation.waiting))
            .map(|(&id, _)| id)?;
        operations.remove(&id).map(|operation| operation.waiting.request())
    }

    /// Begins a new pass of a group over a topic's queues: one record, with which all leases and retries there are void.
    pub(crate) fn seek(&mut self, seek: Seek, located: Option<&[QueueStart]>) {
        match self.check_seek(&seek) {
            Err(refusal) => self.refuse(seek.request, refusal),
            Ok(cursors) => {
                if let (SeekTo::Time { wall_ms }, None) = (seek.to, located) {
                    let topic = cursors.first().map_or(TopicId::default(), |cursor| cursor.queue.topic);
                    let queue = seek.queue;
                    return self.locate(topic, queue, wall_ms, Waiting::Seek(seek));
                }
                let depends = self.seek_cursors(&seek, &cursors, located.unwrap_or_default());
                self.answer(depends, seek.request, Answer::Done);
            }
        }
    }

    pub(crate) fn check_seek(&self, seek: &Seek) -> Result<Vec<CursorId>, Refusal> {
        let refusal = |code, text: String| Err(Refusal::new(code, text));
        let Some(group) = self.state.group_named(&seek.group) else {
            return refusal(ErrorCode::NoSuchGroup, format!("there is no group {}", seek.group));
        };
        let Some(topic) = self.state.topic_named(&seek.topic) else {
            return refusal(ErrorCode::NoSuchTopic, format!("there is no topic {}", seek.topic));
        };
        let queues = self.state.queues_of(topic).map(|(queue, _)| queue);
        let queues: Vec<QueueId> = queues.filter(|queue| seek.queue.is_none_or(|index| queue.index == index)).collect();
        if queues.is_empty() {
            return refusal(ErrorCode::NoSuchQueue, format!("topic {} has no such queue", seek.topic));
        }
        let mut readers = self.state.readers_for(group);
        if self.state.is_broadcast(group) {
            readers.retain(|reader| self.state.subscriptions.contains_key(&(*reader, topic)));
        }
        let of_reader = |group: GroupId| queues.iter().map(move |&queue| CursorId { group, queue });
        let cursors: Vec<CursorId> = readers.into_iter().flat_map(of_reader).collect();
        if cursors.is_empty() || !cursors.iter().all(|cursor| self.state.cursors.contains_key(cursor)) {
            return refusal(
                ErrorCode::NoSuchGroup,
                format!("group {} does not read topic {}", seek.group, seek.topic),
            );
        }
        Ok(cursors)
    }

    /// Begins the new pass, for each member of a broadcast group; says where the last record of that is.
    pub(crate) fn seek_cursors(&mut self, seek: &Seek, cursors: &[CursorId], located: &[QueueStart]) -> Position {
        let of_one = cursors.chunk_by(|one, next| one.group == next.group);
        let of_one = of_one.take(if planted::is(Bug::SeekOfOneMember) { 1 } else { usize::MAX });
        of_one
            .map(|cursors| self.seek_of_one(seek, cursors, located))
            .fold(Position::default(), Position::max)
    }

    fn seek_of_one(&mut self, seek: &Seek, cursors: &[CursorId], located: &[QueueStart]) -> Position {
        let Some(&CursorId {
            group,
            queue: QueueId { topic, .. },
        }) = cursors.first()
        else {
            return Position::default();
        };
        let mut pass = Pass(0);
        let mut starts = Vec::with_capacity(cursors.len());
        for cursor in cursors {
            let (Some(entry), Some(queue)) = (self.state.cursors.get(cursor), self.state.queues.get(&cursor.queue)) else {
                continue;
            };
            pass = pass.max(Pass(entry.pass.0 + 1));
            let offset = match seek.to {
                SeekTo::Earliest if planted::is(Bug::SeekOffByOne) => queue.end.min(QueueOffset(queue.start.0 + 1)),
                SeekTo::Earliest => queue.start,
                SeekTo::Latest if planted::is(Bug::PurgeLeavesTheLast) && seek.queue.is_none() => {
                    QueueOffset(queue.end.0.saturating_sub(1)).max(queue.start)
                }
                SeekTo::Latest => queue.end,
                SeekTo::Offset(offset) => offset.clamp(queue.start, queue.end),
                SeekTo::Time { .. } => {
                    let found = located
                        .iter()
                        .find(|start| start.queue == cursor.queue)
                        .map_or(queue.start, |start| start.offset);
                    found.clamp(queue.start, queue.end)
                }
            };
            starts.push(QueueStart {
                queue: cursor.queue,
                offset,
            });
        }
        let depends = self.record(Change::Sought {
            group,
            topic,
            pass,
            starts: starts.clone(),
        });
        let key = (topic, group);
        self.consuming.wake(key);
        let Some(reading) = self.consuming.readings.get_mut(&key) else {
            return depends;
        };
        for start in &starts {
            let (entry, index) = (
                self.state.cursors.get(&CursorId { group, queue: start.queue }),
                usize::from(start.queue.index.0),
            );
            reading.drop_upper(index);
            if let (Some(lane), Some(entry)) = (reading.lanes.get_mut(index), entry) {
                lane.rewind(&entry.lane, start.offset);
                lane.barrier = depends;
                lane.giving_up.clear();
                lane.freed.clear();
            }
        }
        let streams = reading.streams.clone();
        for subscription in streams {
            for start in &starts {
                if let Some(stream) = self.consuming.streams.get_mut(&subscription) {
                    stream.sent.insert(start.queue.index, Sent::new(pass));
                }
                self.journal.release(
                    depends,
                    Effect::StreamReset {
                        subscription,
                        queue: start.queue,
                        pass,
                    },
                );
            }
        }
        depends
    }
}
