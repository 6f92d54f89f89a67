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
#[derive(Clone)]
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

impl std::fmt::Debug for Retention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Retention").finish_non_exhaustive()
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

    /// Trims what is too old or too much, waits until that is durable, and has what nobody keeps removed. Returns the newest topic seen.
    ///
    /// # Errors
    /// What the core or the log refuses; then nothing that is still kept was removed.
    pub(crate) async fn round(&self, newest: TopicId) -> Result<TopicId, Refusal> {
        let (topics, starts) = self.look(newest).await?;
        let newest = starts.newest.max(newest);
        let reader = self.reader.clone();
        let trims = tokio::task::spawn_blocking(move || trims(&reader, &topics, &starts, wall_ms())).await;
        for (queue, start) in crate::delivery::unreadable(trims)? {
            self.shard.tell(Input::Trim { queue, start });
        }
        // The core answers when what it shows is durable.
        let (_, starts) = self.look(newest).await?;
        self.disk.send(DiskWork::Retain { starts });
        Ok(newest)
    }

    /// The topics, and where their queues begin.
    async fn look(&self, newest: TopicId) -> Result<(Vec<TopicInfo>, Starts), Refusal> {
        let topics = self.topics().await?;
        let mut starts = Starts {
            starts: BTreeMap::new(),
            newest: topics.iter().map(|topic| topic.id).max().unwrap_or_default().max(newest),
        };
        for topic in &topics {
            match self.ask(Admin::DescribeTopic { name: topic.name.clone() }).await {
                Ok(Answer::Topic { queues, .. }) => starts.starts.extend(queues.iter().map(|queue| (queue.queue, queue.start))),
                Ok(_) => unreachable!("the core answers the description of a topic with a topic"),
                Err(_) => starts.newest = starts.newest.min(TopicId(topic.id.0.saturating_sub(1))), // deleted meanwhile: the next round sees it
            }
        }
        Ok((topics, starts))
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
fn trims(reader: &LogReader, topics: &[TopicInfo], starts: &Starts, now_ms: i64) -> Result<Vec<(QueueId, QueueOffset)>, LogError> {
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
    use std::sync::Arc;

    use sluice_log::record::{Change, Record, TopicSettings};
    use sluice_log::{FaultyStorage, Log, LogConfig, Start};
    use sluice_protocol::batch::{BatchBuilder, NewMessage};
    use sluice_protocol::ids::{ProducerId, QueueIndex, Sequence};
    use sluice_protocol::units::Now;

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

    /// A log with one batch of one message in each frame: queue 0 of topic 1 was stored at 1,000 ms, 2,000 ms and so on.
    fn log() -> sluice_log::Opened {
        let start = Start {
            wall_ms: 0,
            random: [7; 24],
        };
        let mut opened = Log::open(Arc::new(FaultyStorage::new(1)), LogConfig::default(), start).unwrap();
        for number in 0..10 {
            let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(number));
            let message = NewMessage::<&str> {
                tag: None,
                keys: &[],
                properties: &[],
                born_ms: 0,
            };
            builder.push(&message, &[0; 1_000]).unwrap();
            let change = Change::Appended {
                queue: QUEUE,
                first: QueueOffset(number),
                batch: builder.finish(),
            };
            let at = Now {
                wall_ms: 1_000 * (number as i64 + 1),
                mono_ms: number,
            };
            let end = opened.writer.end();
            opened.writer.append(end, &[Record { at, change }.encode()]).unwrap();
        }
        opened.writer.sync().unwrap();
        opened
    }

    const QUEUE: QueueId = QueueId {
        topic: TopicId(1),
        index: QueueIndex(0),
    };

    fn trimmed(retention_ms: u64, retention_bytes: u64, now_ms: i64) -> Option<u64> {
        let topic = TopicInfo {
            id: TopicId(1),
            name: "t".into(),
            settings: TopicSettings {
                queues: 1,
                retention_ms,
                retention_bytes,
            },
            created_wall_ms: 0,
            messages: 10,
        };
        let starts = Starts {
            starts: BTreeMap::from([(QUEUE, QueueOffset(2))]),
            newest: TopicId(1),
        };
        let trims = trims(&log().reader, &[topic], &starts, now_ms).unwrap();
        assert!(trims.len() <= 1 && trims.iter().all(|(queue, _)| *queue == QUEUE));
        trims.first().map(|(_, start)| start.0)
    }

    #[test]
    fn what_is_older_than_its_time_is_trimmed() {
        assert_eq!(trimmed(5_000, 0, 11_000), Some(5), "what was stored at 6,000 ms is kept");
        assert_eq!(trimmed(5_000, 0, 11_001), Some(6));
        assert_eq!(trimmed(5_000, 0, 60_000), Some(10), "all");
        assert_eq!(trimmed(9_000, 0, 10_000), None, "the start has been moved further already");
        assert_eq!(trimmed(0, 0, i64::MAX), None, "0 keeps for ever");
    }

    #[test]
    fn what_exceeds_its_size_is_trimmed_oldest_first() {
        assert_eq!(trimmed(0, 1 << 20, 0), None);
        let start = trimmed(0, 4_000, 0).unwrap();
        assert!(
            (6..=8).contains(&start),
            "{start}: each message takes a little more than 1,000 bytes"
        );
        assert_eq!(trimmed(5_000, 4_000, 60_000), Some(10), "the stricter of the two counts");
    }
}
