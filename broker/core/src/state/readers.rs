//! Which groups read a topic: follows from subscriptions and cursors, and is kept so that what concerns one topic looks at no other.

use std::collections::BTreeSet;

use sluice_protocol::ids::{GroupId, TopicId};

/// The groups with a subscription or a cursor on each topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Readers(BTreeSet<(TopicId, GroupId)>);

impl Readers {
    pub(super) fn add(&mut self, topic: TopicId, group: GroupId) {
        self.0.insert((topic, group));
    }

    pub(super) fn remove(&mut self, topic: TopicId, group: GroupId) {
        self.0.remove(&(topic, group));
    }

    /// The groups that read a topic, ascending.
    pub(super) fn of(&self, topic: TopicId) -> impl Iterator<Item = GroupId> + '_ {
        let all = (topic, GroupId(0))..=(topic, GroupId(u64::MAX));
        self.0.range(all).map(|&(_, group)| group)
    }
}
