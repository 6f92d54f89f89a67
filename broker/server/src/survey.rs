//! A survey of the whole core for one scrape: asked for in pieces between other work, and kept within the bound on series.

use sluice_core::survey::{GroupReading, Survey, SurveyFrom, TopicReading, Totals};
use tokio::time::timeout;

use crate::limits;
use crate::shard::Shard;

/// What all pieces of a survey say together.
#[derive(Debug, Default)]
pub(crate) struct Everything {
    pub(crate) totals: Totals,
    pub(crate) topics: Largest<TopicReading>,
    pub(crate) groups: Largest<GroupReading>,
    /// The four parts of the lag over all groups.
    pub(crate) lag: Lag,
    /// Readings of a topic by a group that are held because their plugin is broken.
    pub(crate) held: u64,
}

/// Messages that are not settled, by why not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lag {
    pub(crate) unjudged: u64,
    pub(crate) matched: u64,
    pub(crate) leased: u64,
    pub(crate) retrying: u64,
    pub(crate) parked: u64,
}

impl Lag {
    fn of(reading: &GroupReading) -> Self {
        Self {
            unjudged: reading.unjudged,
            matched: reading.matched,
            leased: reading.leased,
            retrying: reading.retrying,
            parked: reading.parked,
        }
    }

    fn add(&mut self, other: Self) {
        self.unjudged += other.unjudged;
        self.matched += other.matched;
        self.leased += other.leased;
        self.retrying += other.retrying;
        self.parked += other.parked;
    }

    /// The parts by their names.
    pub(crate) fn parts(self) -> [(&'static str, u64); 5] {
        [
            ("unjudged", self.unjudged),
            ("matched", self.matched),
            ("leased", self.leased),
            ("retrying", self.retrying),
            ("parked", self.parked),
        ]
    }

    fn total(self) -> u64 {
        self.parts().into_iter().map(|(_, count)| count).sum()
    }
}

impl From<&GroupReading> for Lag {
    fn from(reading: &GroupReading) -> Self {
        Self::of(reading)
    }
}

/// The entries with the largest numbers, as many as there may be series, and how many were left out.
#[derive(Debug)]
pub(crate) struct Largest<T> {
    kept: Vec<(u64, T)>,
    most: usize,
    pub(crate) left_out: u64,
}

impl<T> Default for Largest<T> {
    fn default() -> Self {
        Self::new(limits::METRIC_ENTRIES_MAX)
    }
}

impl<T> Largest<T> {
    fn new(most: usize) -> Self {
        Self {
            kept: Vec::new(),
            most,
            left_out: 0,
        }
    }

    fn push(&mut self, size: u64, entry: T) {
        self.kept.push((size, entry));
        if self.kept.len() >= 2 * self.most {
            self.drop_smallest();
        }
    }

    /// Keeps the order of those that are equal, so that a series does not come and go.
    fn drop_smallest(&mut self) {
        self.kept.sort_by_key(|(size, _)| std::cmp::Reverse(*size));
        self.left_out += self.kept.len().saturating_sub(self.most) as u64;
        self.kept.truncate(self.most);
    }

    /// The entries kept, largest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.kept.iter().map(|(_, entry)| entry)
    }
}

impl Everything {
    /// Asks the core for all pieces; `None` when it does not answer in time, or has ended.
    pub(crate) async fn ask(shard: &Shard) -> Option<Self> {
        timeout(limits::SURVEY_TIMEOUT, Self::pieces(shard)).await.ok().flatten()
    }

    async fn pieces(shard: &Shard) -> Option<Self> {
        let mut everything = Self::default();
        let (mut topic, mut group) = (None, None);
        let mut from = SurveyFrom::default();
        loop {
            let survey = shard.survey(from).await?;
            let next = survey.next;
            everything.add(survey, &mut topic, &mut group);
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        everything.close_topic(topic);
        everything.close_group(group);
        everything.topics.drop_smallest();
        everything.groups.drop_smallest();
        Some(everything)
    }

    /// Adds a piece. `topic` and `group` are the last ones, which the next piece may go on with.
    fn add(&mut self, survey: Survey, topic: &mut Option<TopicReading>, group: &mut Option<GroupReading>) {
        self.totals = survey.totals;
        for next in survey.topics {
            match topic {
                Some(topic) if topic.name == next.name => {
                    topic.stored += next.stored;
                    topic.appended += next.appended;
                }
                _ => self.close_topic(topic.replace(next)),
            }
        }
        for next in survey.groups {
            match group {
                Some(group) if (&group.group, &group.topic) == (&next.group, &next.topic) => {
                    group.unjudged += next.unjudged;
                    group.matched += next.matched;
                    group.leased += next.leased;
                    group.retrying += next.retrying;
                    group.parked += next.parked;
                    group.held_queues += next.held_queues;
                    group.alarm |= next.alarm;
                }
                _ => self.close_group(group.replace(next)),
            }
        }
    }

    fn close_topic(&mut self, topic: Option<TopicReading>) {
        if let Some(topic) = topic {
            self.topics.push(topic.stored, topic);
        }
    }

    fn close_group(&mut self, group: Option<GroupReading>) {
        if let Some(group) = group {
            let lag = Lag::of(&group);
            self.lag.add(lag);
            self.held += u64::from(group.alarm);
            // A held group is what an operator looks for: no lag of others may push it out.
            let size = if group.alarm || group.held_queues > 0 {
                u64::MAX
            } else {
                lag.total()
            };
            self.groups.push(size, group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, unjudged: u64, held_queues: u64) -> GroupReading {
        GroupReading {
            group: name.to_owned(),
            topic: "t".to_owned(),
            unjudged,
            matched: 0,
            leased: 1,
            retrying: 0,
            parked: 0,
            held_queues,
            alarm: held_queues > 0,
        }
    }

    #[test]
    fn a_group_that_two_pieces_share_is_one() {
        let mut everything = Everything::default();
        let (mut topic, mut last) = (None, None);
        for groups in [vec![group("a", 1, 0), group("b", 2, 0)], vec![group("b", 3, 1), group("c", 4, 0)]] {
            let survey = Survey {
                groups,
                ..Survey::default()
            };
            everything.add(survey, &mut topic, &mut last);
        }
        everything.close_group(last);
        everything.groups.drop_smallest();
        let names: Vec<_> = everything
            .groups
            .iter()
            .map(|group| (group.group.as_str(), group.unjudged))
            .collect();
        assert_eq!(names, [("b", 5), ("c", 4), ("a", 1)], "the held one first, then by lag");
        assert_eq!((everything.lag.unjudged, everything.lag.leased, everything.held), (10, 4, 1));
    }

    #[test]
    fn what_has_no_place_is_counted() {
        let mut largest = Largest::new(2);
        for size in [5, 1, 4, 2, 3] {
            largest.push(size, size);
        }
        largest.drop_smallest();
        assert_eq!(largest.iter().copied().collect::<Vec<_>>(), [5, 4]);
        assert_eq!(largest.left_out, 3);
    }
}
