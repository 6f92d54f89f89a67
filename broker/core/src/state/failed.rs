//! What the records of plugins' failures do to state.

use sluice_log::record::{Change, CursorId, Fate, Record};
use sluice_protocol::ids::{Position, QueueId, QueueIndex};

use super::State;
use super::cursor::Cursor;
use super::subscription::Alarm;

impl State {
    /// The part of [`State::apply`] that concerns the failures of plugins.
    pub(super) fn apply_failure(&mut self, position: Position, record: &Record) {
        let at = record.at;
        // Only these kinds come here.
        if let Change::CulpritDecided {
            cursor,
            pass,
            priority,
            offset,
            fate,
            ..
        } = &record.change
        {
            self.update_pass(position, *cursor, *pass, |cursor| cursor.decided(*priority, *offset, fate, at));
            if let Fate::DeadLettered { to, at_offset, batch } = fate {
                self.append(position, *to, *at_offset, batch);
            }
        } else if let Change::SubscriptionHeld {
            group,
            topic,
            digest,
            reason,
        } = &record.change
        {
            if let Some(subscription) = self.subscriptions.get_mut(&(*group, *topic)) {
                let alarm = Alarm {
                    digest: *digest,
                    reason: reason.clone(),
                    since_wall_ms: at.wall_ms,
                };
                subscription.set_alarm(position, Some(alarm));
            }
        } else if let Change::SubscriptionResumed { group, topic } = &record.change {
            if let Some(subscription) = self.subscriptions.get_mut(&(*group, *topic)) {
                subscription.set_alarm(position, None);
            }
            let at = |index| CursorId {
                group: *group,
                queue: QueueId {
                    topic: *topic,
                    index: QueueIndex(index),
                },
            };
            for (_, cursor) in self.cursors.range_mut(at(0)..=at(u16::MAX)) {
                cursor.update(position, Cursor::release_held);
            }
        }
    }
}
