//! A look at everything for metrics: topics, and how far each group is behind and why, a bounded piece at a time.

use sluice_log::record::{CursorId, Filter};
use sluice_protocol::ids::{GroupId, QueueId, TopicId};

use crate::broker::Core;
use crate::counters::Counters;
use crate::limits::SURVEY_ENTRIES_MAX;
use crate::ranges::{len, range};
use crate::state::cursor::Cursor;

/// Where the next piece of a survey begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SurveyFrom {
    /// The queues, from this one on; a survey begins with the first.
    Queue(QueueId),
    /// The cursors, from this one on.
    Cursor(CursorId),
}

impl Default for SurveyFrom {
    fn default() -> Self {
        Self::Queue(QueueId::default())
    }
}

/// One piece of a survey. A topic, or a group's reading of one, may be spread over pieces that follow one another: their numbers add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// What there is in all, the same in every piece but for what happened between them.
    pub totals: Totals,
    /// Topics of this piece.
    pub topics: Vec<TopicReading>,
    /// Groups of this piece, by topic.
    pub groups: Vec<GroupReading>,
    /// Where the next piece begins; `None` after the last.
    pub next: Option<SurveyFrom>,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// What was counted since the start.
    pub counters: Counters,
    /// Topics.
    pub topics: u64,
    /// Queues of all topics.
    pub queues: u64,
    /// Groups.
    pub groups: u64,
    /// Places of groups in queues.
    pub cursors: u64,
    /// Pauses of groups, in one topic or in all.
    pub pauses: u64,
    /// Producers whose sequences are remembered.
    pub producers: u64,
    /// Bytes that remembering them takes.
    pub producer_bytes: u64,
    /// Messages that wait for their time.
    pub delayed: u64,
    /// Prepared messages that wait for a decision.
    pub undecided: u64,
    /// Open stream subscriptions.
    pub streams: u64,
    /// Receives that wait.
    pub receives: u64,
}

/// A topic in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicReading {
    /// Its name.
    pub name: String,
    /// Messages stored.
    pub stored: u64,
    /// Messages stored since it was created, those that retention has taken included.
    pub appended: u64,
}

/// What a group has not settled of a topic, in four parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupReading {
    /// The group's name.
    pub group: String,
    /// The topic's name.
    pub topic: String,
    /// Messages that the filter has not judged yet.
    pub unjudged: u64,
    /// Messages that matched and wait to be handed out. Without a filter, all that were not handed out.
    pub matched: u64,
    /// Messages handed out and not settled.
    pub leased: u64,
    /// Messages that wait for another delivery.
    pub retrying: u64,
    /// Messages that an ordered group has found and that wait for those before them in their message group, or for a member.
    pub parked: u64,
    /// Queues in which nothing is judged for now because a run could not be judged.
    pub held_queues: u64,
    /// Nothing is judged until an operator does something: the fault is the plugin's.
    pub alarm: bool,
}

impl Core {
    /// The piece of a survey that begins at `from`. It reads what state and memory hold now, durable or not, and changes nothing.
    pub fn survey(&self, from: SurveyFrom) -> Survey {
        let mut survey = Survey {
            totals: self.totals(),
            ..Survey::default()
        };
        let mut room = SURVEY_ENTRIES_MAX;
        let cursor = match from {
            SurveyFrom::Queue(queue) => {
                survey.next = self.survey_queues(queue, &mut room, &mut survey.topics).map(SurveyFrom::Queue);
                CursorId {
                    group: GroupId(0),
                    queue: QueueId::default(),
                }
            }
            SurveyFrom::Cursor(cursor) => cursor,
        };
        if survey.next.is_none() {
            survey.next = self.survey_cursors(cursor, &mut room, &mut survey.groups).map(SurveyFrom::Cursor);
        }
        survey
    }

    fn totals(&self) -> Totals {
        Totals {
            counters: self.counters,
            topics: self.state.topics.len() as u64,
            queues: self.state.queues.len() as u64,
            groups: self.state.groups.len() as u64,
            cursors: self.state.cursors.len() as u64,
            pauses: self.state.pauses.len() as u64,
            producers: self.state.producers.count() as u64,
            producer_bytes: self.state.producers.memory_bytes(),
            delayed: self.state.calendars.count(),
            undecided: self.state.transactions.count(),
            streams: self.consuming.streams.len() as u64,
            receives: self.consuming.receives.len() as u64,
        }
    }

    /// Reads queues while there is room; where to go on.
    fn survey_queues(&self, from: QueueId, room: &mut usize, topics: &mut Vec<TopicReading>) -> Option<QueueId> {
        let mut last: Option<TopicId> = None;
        for (&id, queue) in self.state.queues.range(from..) {
            if *room == 0 {
                return Some(id);
            }
            *room -= 1;
            let Some(topic) = self.state.topics.get(&id.topic) else { continue };
            if last != Some(id.topic) {
                last = Some(id.topic);
                topics.push(TopicReading {
                    name: topic.name.clone(),
                    stored: 0,
                    appended: 0,
                });
            }
            let reading = topics
                .last_mut()
                .expect("the topic of this queue was just added, or by its last queue");
            reading.stored += queue.end.0.saturating_sub(queue.start.0);
            reading.appended += queue.end.0;
        }
        None
    }

    /// Reads cursors while there is room; where to go on.
    fn survey_cursors(&self, from: CursorId, room: &mut usize, groups: &mut Vec<GroupReading>) -> Option<CursorId> {
        let mut last: Option<(GroupId, TopicId)> = None;
        for (&id, cursor) in self.state.cursors.range(from..) {
            if *room == 0 {
                return Some(id);
            }
            *room -= 1;
            let topic = id.queue.topic;
            let names = (self.state.groups.get(&id.group), self.state.topics.get(&topic));
            let (Some(group), Some(topic_entry)) = names else { continue };
            if last != Some((id.group, topic)) {
                last = Some((id.group, topic));
                groups.push(GroupReading {
                    group: group.name.clone(),
                    topic: topic_entry.name.clone(),
                    unjudged: 0,
                    matched: 0,
                    leased: 0,
                    retrying: 0,
                    parked: 0,
                    held_queues: 0,
                    alarm: false,
                });
            }
            let reading = groups
                .last_mut()
                .expect("the group of this cursor was just added, or by its last cursor");
            self.add_cursor(id, cursor, room, reading);
        }
        None
    }

    fn add_cursor(&self, id: CursorId, cursor: &Cursor, room: &mut usize, reading: &mut GroupReading) {
        for (priority, lane) in cursor.levels() {
            // Where there are several lanes, what each has to come to is told by that of priority 0 alone.
            if priority > 0 {
                *room = room.saturating_sub(1);
            }
            if let Some(run) = self.consuming.lane(id, priority) {
                // Counting what matched walks its ranges, which costs about as much as a cursor for each few of them.
                *room = room.saturating_sub(run.matched_ranges() / 16);
                reading.matched += run.matched();
                reading.held_queues += u64::from(run.held.is_some() && priority == 0);
            }
            reading.leased += lane.leases.count();
            reading.retrying += lane.retries.count();
            reading.parked += lane.parked();
        }
        let lane = &cursor.lane;
        let run = self.consuming.lane(id, 0);
        let end = self.state.queues.get(&id.queue).map_or(0, |queue| queue.end.0);
        let judged = run.map_or(lane.frontier, |run| run.judged());
        // What was settled ahead of the frontier is no longer waited for, whichever part it would belong to.
        let rest: u64 = lane.free_within(range(judged.0, end.max(judged.0))).into_iter().map(len).sum();
        let subscription = self.state.subscriptions.get(&(id.group, id.queue.topic));
        reading.alarm |= subscription.is_some_and(|subscription| subscription.alarm.is_some());
        match subscription.map(|subscription| &subscription.ruling) {
            Some(Filter::Plugin { .. }) => reading.unjudged += rest,
            Some(Filter::All) | None => reading.matched += rest,
        }
    }
}
