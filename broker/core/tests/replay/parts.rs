//! What the parts of the calendar hold along a history, so that what happens to them is possible.

use super::*;

/// The parts of a history, and what was taken in from them.
#[derive(Default)]
pub(super) struct Parted {
    pub(super) taken: BTreeMap<TopicId, Vec<Due>>,
    /// What each part has left, descending.
    parts: Vec<(PartId, Vec<FarOff>)>,
    made: u64,
}

impl Parted {
    /// Makes a change mean what there is; false when there is nothing that it could mean.
    pub(super) fn made_possible(
        &mut self,
        change: &mut PartChange,
        calendars: &mut BTreeMap<TopicId, Vec<Due>>,
        topics: &BTreeSet<TopicId>,
    ) -> bool {
        self.parts
            .iter_mut()
            .for_each(|(_, left)| left.retain(|message| topics.contains(&message.topic)));
        let place = |part: &PartId, parts: &[_]| (part.0 as usize).checked_rem(parts.len());
        match change {
            PartChange::Written {
                part,
                facts,
                moved,
                absorbed,
                dead,
            } => {
                moved.retain_mut(|message| {
                    let mut due = message.due();
                    let waits = topics.contains(&message.topic) && take(calendars.entry(message.topic).or_default(), &mut due);
                    *message = FarOff::new(message.topic, due);
                    waits
                });
                let mut inside = moved.clone();
                if moved.is_empty() {
                    for one in absorbed.iter_mut() {
                        if let Some(place) = place(one, &self.parts) {
                            let (gone, left) = self.parts.swap_remove(place);
                            *one = gone;
                            inside.extend(left);
                        }
                    }
                } else {
                    absorbed.clear();
                }
                inside.sort_unstable_by(|one, other| other.cmp(one));
                let (Some(first), Some(last)) = (inside.last(), inside.first()) else {
                    return false;
                };
                (facts.first, facts.last) = (*first, *last);
                dead.clear();
                facts.messages = inside.len() as u64;
                self.made += 1;
                *part = PartId(100 + self.made);
                self.parts.push((*part, inside));
                true
            }
            PartChange::TakenIn {
                part,
                taken,
                passed,
                point,
                next_ms,
            } => {
                let Some(place) = place(part, &self.parts) else { return false };
                let (id, left) = &mut self.parts[place];
                *part = *id;
                *taken = left.split_off(left.len().saturating_sub(taken.len()));
                taken.reverse();
                *passed = taken.len() as u64;
                let Some(last) = taken.last() else { return false };
                (*point, *next_ms) = (*last, left.last().map(|next| next.at_ms));
                for message in taken {
                    self.taken.entry(message.topic).or_default().push(message.due());
                }
                true
            }
            PartChange::Recalled { part, message } => {
                let Some(place) = place(part, &self.parts) else { return false };
                let (id, left) = &mut self.parts[place];
                let Some(last) = (message.number.0 as usize).checked_rem(left.len()) else {
                    return false;
                };
                (*part, *message) = (*id, left.remove(last));
                true
            }
            PartChange::Dropped { part } => {
                let done = self.parts.iter().position(|(_, left)| left.is_empty());
                done.map(|done| *part = self.parts.swap_remove(done).0).is_some()
            }
        }
    }
}

fn far_off() -> impl Strategy<Value = FarOff> {
    (0u64..3, 0u64..20).prop_map(|(topic, number)| FarOff::new(TopicId(topic), due(number)))
}

/// Any change to parts, which is made possible where it stands.
pub(super) fn part_change() -> impl Strategy<Value = PartChange> {
    let part = || (0u64..20).prop_map(PartId);
    let messages = || prop::collection::vec(far_off(), 1..6);
    prop_oneof![
        4 => (messages(), prop::collection::vec(part(), 0..3), far_off()).prop_map(|(moved, absorbed, any)| PartChange::Written {
            part: PartId(0),
            facts: PartFacts { messages: 0, bytes: 100, first: any, last: any },
            moved,
            absorbed,
            dead: Vec::new(),
        }),
        1 => (prop::collection::vec(part(), 1..3), far_off()).prop_map(|(absorbed, any)| PartChange::Written {
            part: PartId(0),
            facts: PartFacts { messages: 0, bytes: 100, first: any, last: any },
            moved: Vec::new(),
            absorbed,
            dead: Vec::new(),
        }),
        3 => (part(), messages(), far_off()).prop_map(|(part, taken, point)| PartChange::TakenIn {
            part,
            taken,
            passed: 0,
            point,
            next_ms: None,
        }),
        1 => (part(), far_off()).prop_map(|(part, message)| PartChange::Recalled { part, message }),
        1 => part().prop_map(|part| PartChange::Dropped { part }),
    ]
}
