//! Growth: a topic gets more queues while messages flow.

use std::collections::BTreeMap;

use sluice_log::record::Operation;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{GroupId, QueueOffset};
use sluice_protocol::names::check_user_name;

use crate::admin::Outcome;
use crate::broker::Core;
use crate::effect::Answer;
use crate::limits::{CURSORS_MAX, GROWTHS_MAX, QUEUES_MAX, QUEUES_TOTAL_MAX};

impl Core {
    /// Gives a topic so many queues, more than it has. What is stored from here on goes by the slots of the new number; those who read the
    /// topic read the new queues from their beginning. Where it has so many already nothing changes, so it may be asked again.
    pub(crate) fn grow_topic(&mut self, name: &str, queues: u16, by: String) -> Outcome {
        check_user_name(name)?;
        let topic = self.topic_id(name)?;
        let ends: Vec<QueueOffset> = self.state.queues_of(topic).map(|(_, queue)| queue.end).collect();
        let has = ends.len() as u16;
        if queues == has {
            return Ok((self.journal.last(), Answer::Done));
        }
        if queues < has {
            let text = format!("topic {name} has {has} queues, and {queues} would be fewer");
            return Err(Refusal::new(ErrorCode::FewerQueues, text));
        }
        if queues > QUEUES_MAX {
            return Err(Refusal::new(
                ErrorCode::BadSetting,
                format!("a topic has 1 to {QUEUES_MAX} queues, not {queues}"),
            ));
        }
        let groups: Vec<GroupId> = self.state.readers_of(topic).collect();
        let further = usize::from(queues - has);
        self.check_growth(topic, further, groups.len())?;
        let operation = Operation::TopicGrown {
            topic,
            ends,
            queues,
            groups: groups.clone(),
        };
        let depends = self.operate(by, operation);
        groups.into_iter().for_each(|group| self.add_lanes((topic, group), further));
        Ok((depends, Answer::Done))
    }

    fn check_growth(&self, topic: sluice_protocol::ids::TopicId, further: usize, groups: usize) -> Result<(), Refusal> {
        let full = |text: String| Err(Refusal::new(ErrorCode::LimitExceeded, text));
        if self.state.growths.get(&topic).is_some_and(|growth| growth.steps() >= GROWTHS_MAX) {
            return full(format!("a topic grows {GROWTHS_MAX} times at most"));
        }
        if self.state.queues.len() + further > QUEUES_TOTAL_MAX {
            return full(format!("there are {QUEUES_TOTAL_MAX} queues at most, over all topics"));
        }
        let readers = self.state.readers_of(topic).filter_map(|group| self.state.parent_of(group));
        let mut of_parent: BTreeMap<GroupId, usize> = BTreeMap::new();
        readers.for_each(|parent| *of_parent.entry(parent).or_default() += further);
        for (parent, cursors) in of_parent {
            self.check_members(parent, false, cursors)?;
        }
        if self.state.cursors.len() + further * groups > CURSORS_MAX {
            return full(format!(
                "there are {CURSORS_MAX} cursors at most, and {groups} groups read the topic"
            ));
        }
        Ok(())
    }
}
