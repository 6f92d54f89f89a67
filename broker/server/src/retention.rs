//! Retention: once a minute, moves the starts of queues by age and size, and has segments removed that nobody keeps.

use std::collections::BTreeMap;

use sluice_core::effect::{Answer, TopicInfo};
use sluice_core::input::{Admin, Input};
use sluice_log::{LogError, LogReader};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{QueueId, QueueOffset, TopicId};
use tokio::time::MissedTickBehavior;

use crate::clock::wall_ms;
use crate::disk::{Disk, DiskWork};
use crate::limits;
use crate::shard::{Outcome, Shard};

/// Looks after what messages are kept.
pub(crate) struct Retention {
    pub(crate) shard: Shard,
    pub(crate) reader: LogReader,
    pub(crate) disk: Disk,
}

/// Where the queues of all topics begin, as of a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Starts {
    starts: BTreeMap<QueueId, QueueOffset>,
    /// Topics with a greater number came later: nothing of theirs may go.
    newest: TopicId,
}

impl Starts {
    /// The first offset of a queue that is to be kept; `None` when its topic is gone.
    pub(crate) fn of(&self, queue: QueueId) -> Option<QueueOffset> {
        match self.starts.get(&queue) {
            Some(&start) => Some(start),
            None if queue.topic > self.newest => Some(QueueOffset(0)),
            None => None,
        }
    }
}

impl Retention {
    /// Runs until its task is ended.
    pub(crate) async fn run(self) {
        let mut newest = TopicId::default();
        let mut rounds = tokio::time::interval(limits::RETENTION_INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        rounds.tick().await; // the first is due at once, while clients are still connecting
        loop {
            rounds.tick().await;
            match self.round(newest).await {
                Ok(seen) => newest = seen,
                Err(refusal) => tracing::warn!(%refusal, "a round of retention was left out"),
            }
        }
    }

    /// First what earlier rounds trimmed is removed, since those trims are durable by now; then what is too old or too much is trimmed.
    async fn round(&self, newest: TopicId) -> Result<TopicId, Refusal> {
        let topics = self.topics().await?;
        let newest = topics.iter().map(|topic| topic.id).max().unwrap_or_default().max(newest);
        let mut starts = Starts {
            starts: BTreeMap::new(),
            newest,
        };
        for topic in &topics {
            match self.ask(Admin::DescribeTopic { name: topic.name.clone() }).await {
                Ok(Answer::Topic { queues, .. }) => starts.starts.extend(queues.iter().map(|queue| (queue.queue, queue.start))),
                Ok(_) => unreachable!("the core answers the description of a topic with a topic"),
                Err(_) => starts.newest = starts.newest.min(TopicId(topic.id.0.saturating_sub(1))), // deleted meanwhile: the next round sees it
            }
        }
        self.disk.send(DiskWork::Retain { starts: starts.clone() });
        let reader = self.reader.clone();
        let trims = tokio::task::spawn_blocking(move || trims(&reader, &topics, &starts)).await;
        for (queue, start) in crate::delivery::unreadable(trims)? {
            self.shard.tell(Input::Trim { queue, start });
        }
        Ok(newest)
    }

    async fn topics(&self) -> Result<Vec<TopicInfo>, Refusal> {
        match self.ask(Admin::ListTopics).await? {
            Answer::Topics { topics } => Ok(topics),
            _ => unreachable!("the core answers a list of topics with topics"),
        }
    }

    async fn ask(&self, admin: Admin) -> Result<Answer, Refusal> {
        match self.shard.ask(|request| Input::Admin { request, admin }).await? {
            Outcome::Answer(answer) => Ok(answer),
            Outcome::Leased(_) => unreachable!("only a receive leases"),
        }
    }
}

/// The queues whose start is to move, by the age of their messages or by the size of their topic, which is shared out among its queues by
/// what each has.
fn trims(reader: &LogReader, topics: &[TopicInfo], starts: &Starts) -> Result<Vec<(QueueId, QueueOffset)>, LogError> {
    let now_ms = wall_ms();
    let stored = reader.queues()?;
    let mut totals: BTreeMap<TopicId, u64> = BTreeMap::new();
    for (queue, kept) in &stored {
        *totals.entry(queue.topic).or_default() += kept.bytes;
    }
    let settings: BTreeMap<TopicId, _> = topics.iter().map(|topic| (topic.id, topic.settings)).collect();
    let mut trims = Vec::new();
    for (&queue, kept) in &stored {
        let (Some(settings), Some(from)) = (settings.get(&queue.topic), starts.of(queue)) else {
            continue;
        };
        let mut start = from;
        if settings.retention_ms > 0 {
            let oldest_ms = now_ms.saturating_sub(i64::try_from(settings.retention_ms).unwrap_or(i64::MAX));
            start = start.max(reader.locate_time(queue, oldest_ms)?);
        }
        let total = totals.get(&queue.topic).copied().unwrap_or(0);
        if settings.retention_bytes > 0 && total > settings.retention_bytes {
            let share = u128::from(settings.retention_bytes) * u128::from(kept.bytes) / u128::from(total);
            start = start.max(reader.locate_size(queue, u64::try_from(share).unwrap_or(u64::MAX))?);
        }
        if start > from {
            trims.push((queue, start));
        }
    }
    Ok(trims)
}

#[cfg(test)]
mod tests {
    use sluice_protocol::ids::QueueIndex;

    use super::*;

    #[test]
    fn nothing_of_a_topic_that_came_later_may_go() {
        let queue = |topic| QueueId {
            topic: TopicId(topic),
            index: QueueIndex(0),
        };
        let starts = Starts {
            starts: BTreeMap::from([(queue(2), QueueOffset(5))]),
            newest: TopicId(3),
        };
        assert_eq!(starts.of(queue(2)), Some(QueueOffset(5)));
        assert_eq!(starts.of(queue(3)), None, "its topic was deleted");
        assert_eq!(starts.of(queue(4)), Some(QueueOffset(0)));
    }
}
