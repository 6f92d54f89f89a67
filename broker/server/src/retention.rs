//! Retention: once a minute, moves the starts of queues by age and size, and has segments removed that nobody keeps.

use std::collections::BTreeMap;

use sluice_core::effect::Answer;
use sluice_core::input::{Admin, Input};
use sluice_log::record::TopicSettings;
use sluice_log::{LogError, LogReader};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{Position, QueueId, QueueIndex, QueueOffset, TopicId};
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

/// What the rounds so far have seen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// The newest topic.
    newest: TopicId,
    /// Up to where the log needs no further look.
    looked_at: Position,
}

/// What each topic wants to be kept.
type Settings = BTreeMap<TopicId, TopicSettings>;

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
        let mut seen = Seen::default();
        let mut rounds = tokio::time::interval(limits::RETENTION_INTERVAL);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        rounds.tick().await; // the first is due at once, while clients are still connecting
        loop {
            rounds.tick().await;
            match self.round(seen).await {
                Ok(now) => seen = now,
                Err(refusal) => tracing::warn!(%refusal, "a round of retention was left out"),
            }
        }
    }

    /// Trims what is too old or too much, waits until that is durable, and has what nobody keeps removed. Takes and returns what the rounds have seen.
    ///
    /// # Errors
    /// What the core or the log refuses; then nothing that is still kept was removed.
    pub(crate) async fn round(&self, seen: Seen) -> Result<Seen, Refusal> {
        let (settings, starts) = self.look(seen.newest).await?;
        let newest = starts.newest.max(seen.newest);
        let reader = self.reader.clone();
        let trims = tokio::task::spawn_blocking(move || trims(&reader, &settings, &starts, seen.looked_at, wall_ms())).await;
        let (trims, looked_at) = crate::delivery::unreadable(trims)?;
        for (queue, start) in trims {
            self.shard.tell(Input::Trim { queue, start });
        }
        // The core answers when what it shows is durable.
        let (_, starts) = self.look(newest).await?;
        self.disk.send(DiskWork::Retain { starts });
        Ok(Seen { newest, looked_at })
    }

    /// The topics, and where their queues begin.
    async fn look(&self, newest: TopicId) -> Result<(Settings, Starts), Refusal> {
        let mut settings = Settings::new();
        let mut starts = Starts {
            starts: BTreeMap::new(),
            newest,
        };
        let mut from = Some(TopicId::default());
        while let Some(first) = from {
            let Answer::Kept { topics, next } = self.ask(Admin::ListKept { from: first }).await? else {
                unreachable!("the core answers a question for what is kept with that");
            };
            for topic in topics {
                settings.insert(topic.id, topic.settings);
                starts.newest = starts.newest.max(topic.id);
                starts.starts.insert(topic.id.calendar(), topic.calendar_start);
                let queues = (0..).map(|index| QueueId {
                    topic: topic.id,
                    index: QueueIndex(index),
                });
                starts.starts.extend(queues.zip(topic.starts));
            }
            from = next;
        }
        Ok((settings, starts))
    }

    async fn ask(&self, admin: Admin) -> Result<Answer, Refusal> {
        match self.shard.ask(|request| Input::Admin { request, admin }).await? {
            Outcome::Answer(answer) => Ok(answer),
            Outcome::Leased(_) => unreachable!("only a receive leases"),
        }
    }
}

/// The queues whose start is to move, by the age of their messages or by the size of their topic, and up to where the log needs no further
/// look: all there is older than any topic keeps, and the settings of a topic never change.
fn trims(
    reader: &LogReader,
    settings: &Settings,
    starts: &Starts,
    looked_at: Position,
    now_ms: i64,
) -> Result<(BTreeMap<QueueId, QueueOffset>, Position), LogError> {
    let since = |settings: &TopicSettings| {
        let kept_ms = i64::try_from(settings.retention_ms).unwrap_or(i64::MAX);
        (kept_ms > 0).then(|| now_ms.saturating_sub(kept_ms))
    };
    let mut trims = by_size(reader, settings)?;
    let mut looked_at = looked_at;
    let bounds = || settings.values().filter_map(since);
    if let (Some(oldest), Some(latest)) = (bounds().min(), bounds().max()) {
        for (queue, start) in reader.expired(looked_at, latest, |topic| settings.get(&topic).and_then(since))? {
            let trim = trims.entry(queue).or_insert(start);
            *trim = start.max(*trim);
        }
        looked_at = reader.sealed_before(oldest);
    }
    // What waits for its time is kept until then, whatever its age.
    let may_go = |queue: &QueueId| queue.index != QueueIndex::CALENDAR;
    trims.retain(|queue, start| may_go(queue) && starts.of(*queue).is_some_and(|from| from < *start));
    Ok((trims, looked_at))
}

/// Where the queues of topics begin that hold more than they may; the topic's size is shared out among its queues by what each has.
fn by_size(reader: &LogReader, settings: &Settings) -> Result<BTreeMap<QueueId, QueueOffset>, LogError> {
    let mut found = BTreeMap::new();
    if settings.values().all(|settings| settings.retention_bytes == 0) {
        return Ok(found);
    }
    let stored = reader.queues()?;
    let mut totals: BTreeMap<TopicId, u64> = BTreeMap::new();
    let stored: Vec<_> = stored
        .into_iter()
        .filter(|(queue, _)| queue.index != QueueIndex::CALENDAR)
        .collect();
    for (queue, kept) in &stored {
        *totals.entry(queue.topic).or_default() += kept.bytes;
    }
    for (queue, kept) in stored {
        let total = totals.get(&queue.topic).copied().unwrap_or(0);
        let bound = settings.get(&queue.topic).map_or(0, |settings| settings.retention_bytes);
        if bound > 0 && total > bound {
            let share = u128::from(bound) * u128::from(kept.bytes) / u128::from(total);
            found.insert(queue, reader.locate_size(queue, u64::try_from(share).unwrap_or(u64::MAX))?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use sluice_log::record::OnExpired;
    use std::sync::Arc;

    use sluice_log::record::{Change, Record};
    use sluice_log::{FaultyStorage, Log, LogConfig, Start};
    use sluice_protocol::batch::{BatchBuilder, NewMessage};
    use sluice_protocol::ids::{ProducerId, Sequence};
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
                ..NewMessage::default()
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
        let settings = TopicSettings {
            queues: 1,
            retention_ms,
            retention_bytes,
            ttl_ms: 0,
            on_expired: OnExpired::Skip,
        };
        let starts = Starts {
            starts: BTreeMap::from([(QUEUE, QueueOffset(2))]),
            newest: TopicId(1),
        };
        let settings = Settings::from([(TopicId(1), settings)]);
        let (trims, _) = trims(&log().reader, &settings, &starts, Position(0), now_ms).unwrap();
        assert!(trims.keys().all(|queue| *queue == QUEUE));
        trims.get(&QUEUE).map(|start| start.0)
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
