//! The members of broadcast groups: each has a group of its own, named after both.

use sluice_log::record::Sharing;
use sluice_protocol::ids::{GroupId, TopicId};
use sluice_protocol::names::{dead_letter_topic, member_group};

use super::State;

impl State {
    /// Whether each member of a group gets all of its messages.
    pub fn is_broadcast(&self, group: GroupId) -> bool {
        let settings = self.groups.get(&group).map(|entry| &entry.settings);
        settings.is_some_and(|settings| settings.sharing == Sharing::Broadcast)
    }

    /// The broadcast group whose member's group this is.
    pub fn parent_of(&self, group: GroupId) -> Option<GroupId> {
        self.groups.get(&group)?.parent()
    }

    /// The groups of the members of a broadcast group, by name.
    pub fn members_of(&self, parent: GroupId) -> impl Iterator<Item = GroupId> + '_ {
        let first = self
            .groups
            .get(&parent)
            .map_or_else(String::new, |group| member_group(&group.name, ""));
        let named = self
            .group_names
            .range(first.clone()..)
            .take_while(move |(name, _)| name.starts_with(&first));
        let newest = named.filter_map(|(_, ids)| ids.last().copied());
        newest.filter(move |group| self.parent_of(*group) == Some(parent))
    }

    /// The groups that have cursors where this one reads: its members' of a broadcast group, or itself.
    pub fn readers_for(&self, group: GroupId) -> Vec<GroupId> {
        match self.is_broadcast(group) {
            true => self.members_of(group).collect(),
            false => vec![group],
        }
    }

    /// Those of them that read a topic.
    pub fn readers_for_on(&self, group: GroupId, topic: TopicId) -> Vec<GroupId> {
        let mut readers = self.readers_for(group);
        readers.retain(|reader| self.subscriptions.contains_key(&(*reader, topic)));
        readers
    }

    /// The topic of what a group gives up: members have that of their broadcast group.
    pub fn letters_name(&self, group: GroupId) -> Option<String> {
        let group = self.parent_of(group).unwrap_or(group);
        self.groups.get(&group).map(|entry| dead_letter_topic(&entry.name))
    }
}
