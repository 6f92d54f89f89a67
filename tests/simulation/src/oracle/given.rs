//! The ids that producers gave their messages: of those with the same id only the first is stored.

use std::collections::BTreeMap;

use sluice_log::record::GivenIds as Change;
use sluice_protocol::ids::{ProducerId, Sequence, TopicId};

use crate::content::content;
use crate::laws::{Court, Law};

/// For so long an id is known.
const KNOWN_MS: u64 = 600_000;

/// What an id is known by: the topic, whose ids these are, and the id.
pub(super) type GivenKey = (TopicId, u64, Option<ProducerId>, String);

/// What the id of a message is known by, if it has one.
pub(super) fn given_key(topic: TopicId, (producer, sequence): (ProducerId, Sequence)) -> Option<GivenKey> {
    let (scope, id) = content(producer, sequence).given_id?;
    Some((topic, scope, (scope == 0).then_some(producer), id))
}

/// What the log says of such ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    /// When the message with an id was stored last, by the monotonic clock.
    stored: BTreeMap<GivenKey, u64>,
}

impl Given {
    /// A message of a producer is stored, in a queue or in a calendar.
    pub(super) fn stored(&mut self, topic: TopicId, message: (ProducerId, Sequence), mono_ms: u64, court: &mut Court) {
        let Some(key) = given_key(topic, message) else { return };
        let before = self.stored.get(&key).copied();
        let lawful = before.is_none_or(|before| before + KNOWN_MS < mono_ms);
        court.demand(Law::GivenIdStoredOnce, lawful, || {
            format!("{message:?} with {key:?} is stored at {mono_ms}, and one was at {before:?}")
        });
        self.stored.insert(key, mono_ms);
    }

    /// Ids are forgotten because they take too much memory.
    pub(super) fn changed(&mut self, change: &Change, court: &mut Court) {
        match change {
            Change::Stored { .. } => {}
            Change::Forgotten { minute } => {
                court.exercise(Law::GivenIdsForgotten);
                self.stored.retain(|_, mono_ms| *mono_ms / 60_000 > *minute);
            }
        }
    }
}
