//! What is remembered of messages that were sent, so that a retry is recognised, is bounded.

use sluice_log::record::{Change, GivenIds};

use crate::broker::Core;
use crate::limits::GIVEN_ID_BYTES;

impl Core {
    /// Forgets the producers that stored nothing for the longest while all of them take more than they may.
    pub(super) fn limit_producers(&mut self) {
        while self.state.producers.memory_bytes() > self.config.producer_memory_bytes && self.state.producers.count() > 1 {
            let Some(producer) = self.state.producers.least_recently_used() else {
                break;
            };
            self.record(Change::ProducerForgotten { producer });
            self.counters.producers_forgotten += 1;
        }
    }

    /// Forgets the oldest ids, a minute at a time, while all take more than they may.
    pub(super) fn limit_given_ids(&mut self) {
        while self.state.given_ids.count() * GIVEN_ID_BYTES > self.config.given_ids_memory_bytes
            && let Some(minute) = self.state.given_ids.oldest_minute()
        {
            self.counters.given_ids_forgotten += self.state.given_ids.count_until(minute);
            self.record(Change::GivenIds(GivenIds::Forgotten { minute }));
        }
    }
}
