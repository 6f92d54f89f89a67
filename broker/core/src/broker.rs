//! The broker as a value: what it is told, one match for all of it, and what it wants done.

use std::collections::{BTreeMap, VecDeque};

use sluice_log::record::{Change, Fate, Record, Transaction};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{Epoch, Position, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::units::Now;

use crate::asking::Asking;
use crate::checkpoint::Checkpointing;
use crate::config::CoreConfig;
use crate::consume::Consuming;
use crate::counters::Counters;
use crate::delay::Releasing;
use crate::effect::{Answer, Effect};
use crate::input::{Input, RequestId};
use crate::journal::Journal;
use crate::parting::Parting;
use crate::planted::{self, Bug};
use crate::publish::Publishing;
use crate::receipt::Receipts;
use crate::state::State;
use crate::state::codec::BadEntry;

/// One shard of the broker.
///
/// Made by [`Core::new`], then fed with a checkpoint's entries ([`Core::restore`]), the records after it ([`Core::replay`]) and
/// [`Core::start`]. From then on a turn is: every input that waits ([`Core::handle`]), [`Core::end_turn`], then every effect
/// ([`Core::poll_effect`]); the next turn begins with the next input or at [`Core::next_deadline`].
#[derive(Debug)]
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) receipts: Receipts,
    pub(crate) state: State,
    pub(crate) journal: Journal,
    pub(crate) visible: Visible,
    pub(crate) publishing: Publishing,
    pub(crate) releasing: Releasing,
    pub(crate) parting: Parting,
    pub(crate) asking: Asking,
    pub(crate) consuming: Consuming,
    pub(crate) checkpointing: Checkpointing,
    pub(crate) counters: Counters,
    pub(crate) epoch: Epoch,
    pub(crate) now: Now,
    replayed_from: Option<Position>,
}

/// Up to where each queue is durable, and so may be judged and handed out.
#[derive(Debug, Default)]
pub(crate) struct Visible {
    appended: VecDeque<(Position, QueueId, QueueOffset)>,
    /// The durable ends of the queues that have more than that.
    ends: BTreeMap<QueueId, QueueOffset>,
}

impl Visible {
    /// Drops what is known of a deleted topic.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.appended.retain(|(_, queue, _)| queue.topic != topic);
        let at = |index| QueueId {
            topic,
            index: QueueIndex(index),
        };
        let queues: Vec<QueueId> = self.ends.range(at(0)..=at(u16::MAX)).map(|(&queue, _)| queue).collect();
        for queue in queues {
            self.ends.remove(&queue);
        }
    }
}

impl Core {
    /// A core without any state. `secret` keys the receipt handles; it is the log's, so that handles outlive a restart.
    pub fn new(config: CoreConfig, secret: [u8; 16]) -> Self {
        Self {
            journal: Journal::new(config.frame_records_bytes),
            config,
            receipts: Receipts::new(secret),
            state: State::default(),
            visible: Visible::default(),
            publishing: Publishing::default(),
            releasing: Releasing::default(),
            parting: Parting::default(),
            asking: Asking::default(),
            consuming: Consuming::default(),
            checkpointing: Checkpointing::default(),
            counters: Counters::default(),
            epoch: Epoch::default(),
            now: Now::default(),
            replayed_from: None,
        }
    }

    /// Takes an entry of the checkpoint.
    ///
    /// # Errors
    /// [`BadEntry`] when it is not an entry that this broker knows.
    pub fn restore(&mut self, entry: &[u8]) -> Result<(), BadEntry> {
        self.checkpointing.restored(entry);
        self.state.restore(entry)
    }

    /// Takes a record from behind the checkpoint, the opening record of this start included.
    pub fn replay(&mut self, position: Position, record: &Record) {
        self.replayed_from.get_or_insert(position);
        self.state.apply(position, record);
    }

    /// Begins to serve: everything before `next` is durable and replayed, and the next frame begins there.
    pub fn start(&mut self, epoch: Epoch, next: Position, now: Now) {
        self.epoch = epoch;
        self.set_now(now);
        self.journal.start(next);
        self.checkpointing.started(self.replayed_from.unwrap_or(next));
        self.parting.request();
        self.receipts.follow(&self.state.restorations);
        self.start_readings();
    }

    /// Takes an input. Refusals and answers come as effects.
    pub fn handle(&mut self, now: Now, input: Input) {
        self.set_now(now);
        match input {
            Input::Publish { request, topic, batches } => self.publish(request, &topic, batches),
            Input::Subscribe {
                request,
                subscription,
                connection,
                ask,
                invisible_ms,
            } => {
                self.subscribe(request, subscription, connection, ask, invisible_ms);
            }
            Input::Credit { subscription, messages } => self.credit(subscription, messages),
            Input::SettleStream {
                request,
                subscription,
                queue,
                pass,
                which,
                action,
            } => {
                let outcome = self.settle_stream(subscription, queue, pass, &which, action);
                self.answer_settled(request, outcome);
            }
            Input::Unsubscribe { request, subscription } => self.unsubscribe(request, subscription),
            Input::Receive {
                request,
                connection,
                ask,
                max,
                wait_ms,
                invisible_ms,
            } => {
                self.receive(request, connection, ask, max, wait_ms, invisible_ms);
            }
            Input::SettleHandles { request, handles, action } => self.settle_handles(request, &handles, action),
            Input::Recall { request, handle } => self.recall(request, &handle),
            Input::Decide {
                request,
                handles,
                decision,
                operator,
            } => self.decide_transactions(request, &handles, decision, operator),
            Input::Undelivered { handles } => self.undelivered(&handles),
            Input::Cancelled { request } => self.cancel(request),
            Input::Disconnected { connection } => self.disconnect(connection),
            Input::Admin { request, admin } => self.administrate(request, admin),
            Input::Synced { end } => self.synced(end),
            Input::Verdicts { judge, outcome } => self.judged(judge, outcome),
            Input::Fetched { fetch, batch } => {
                // Each fetch is known in one place only.
                self.undecided_fetched(fetch, Some(batch.clone()));
                self.fetched(fetch, batch);
            }
            Input::FetchFailed { fetch } => {
                self.undecided_fetched(fetch, None);
                self.fetch_failed(fetch);
            }
            Input::Asked { ask } => self.ask_ended(ask, true),
            Input::NotAsked { ask } => self.ask_ended(ask, false),
            Input::DueFetched { fetch, batch } => self.due_fetched(fetch, batch),
            Input::Located { locate, offset } => self.located(locate, offset),
            Input::Part(done) => self.part_done(done),
            Input::Checkpointed => {
                self.checkpointing.finished();
                self.parting.request();
            }
            Input::Trim { queue, start } => self.trim(queue, start),
            Input::Tick => {}
        }
    }

    /// Closes the turn: forms batches of what was published, hands out what may be, and asks for the next write.
    pub fn end_turn(&mut self, now: Now) {
        self.set_now(now);
        self.store_published();
        self.ask_undecided();
        self.step_parts();
        self.release_due();
        self.serve_readings();
        self.checkpoint_step();
        self.journal.write();
        if self.journal.cover_mono_ms().is_some_and(|due| due <= self.now.mono_ms) {
            self.journal.cover();
        }
    }

    /// The next thing to be done, in order; `None` until the next turn.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.journal.poll()
    }

    /// When [`Input::Tick`] and the end of a turn are due at the latest, in milliseconds on the monotonic clock.
    pub fn next_deadline(&self) -> Option<u64> {
        let slices = self.checkpointing.has_more_slices().then_some(self.now.mono_ms);
        [
            slices,
            self.consuming.next_timer(),
            self.next_release(),
            self.next_part_step(),
            self.next_ask(),
            self.journal.cover_mono_ms(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Begins a checkpoint with the next turn, or after the one under way.
    pub fn checkpoint_now(&mut self) {
        self.checkpointing.request();
    }

    /// Covers the last frame by an empty one at once, if nothing else is to be written; for a broker that stops.
    pub fn cover_now(&mut self) {
        self.journal.cover();
    }

    /// Whether nothing is being written, waits for a sync, or belongs to a checkpoint under way: a broker that stops may end here.
    pub fn is_quiet(&self) -> bool {
        self.journal.is_quiet() && self.publishing.is_empty() && !self.checkpointing.is_active()
    }

    /// What was counted since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The durable state, as far as records have made it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Up to where a queue may be read.
    pub fn visible_end(&self, queue: QueueId) -> QueueOffset {
        let stored = self.state.stored_end(queue).unwrap_or_default();
        if planted::is(Bug::DeliverBeforeSync) {
            return stored;
        }
        self.visible.ends.get(&queue).copied().unwrap_or(stored)
    }

    /// The stamp that a record gets now: the clock's time, unless the last stamp was later.
    pub(crate) fn stamp(&self) -> Now {
        let last = if planted::is(Bug::StampFalls) {
            self.now
        } else {
            self.state.meta.stamp
        };
        Now {
            wall_ms: self.now.wall_ms.max(last.wall_ms),
            mono_ms: self.now.mono_ms.max(last.mono_ms),
        }
    }

    /// Makes a change durable and does it. Its position is what an effect names that has to wait for it.
    pub(crate) fn record(&mut self, change: Change) -> Position {
        let position = self.journal.next_record();
        self.record_at(position, change)
    }

    /// Records a change that a crash must not part from the one recorded before.
    pub(crate) fn record_beside(&mut self, change: Change) -> Position {
        let position = self.journal.same_frame();
        self.record_at(position, change)
    }

    fn record_at(&mut self, position: Position, change: Change) -> Position {
        let record = Record { at: self.stamp(), change };
        let grown = grown_by(&record.change);
        if let Some(queue) = grown {
            let durable = self.visible_end(queue);
            self.visible.ends.entry(queue).or_insert(durable);
        }
        self.journal.add(record.encode());
        self.state.apply(position, &record);
        if let Some(queue) = grown
            && let Some(end) = self.state.stored_end(queue)
        {
            self.visible.appended.push_back((position, queue, end));
        }
        position
    }

    /// Answers a request once the record at `depends` is durable.
    pub(crate) fn answer(&mut self, depends: Position, request: RequestId, answer: Answer) {
        self.journal.release(
            depends,
            Effect::Answer {
                request,
                answer: Ok(answer),
            },
        );
    }

    /// Refuses a request at once.
    pub(crate) fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        self.refuse_after(Position::default(), request, refusal);
    }

    /// Refuses a request once the record that is the reason is durable.
    pub(crate) fn refuse_after(&mut self, depends: Position, request: RequestId, refusal: Refusal) {
        self.counters.refused += 1;
        self.journal.release(
            depends,
            Effect::Answer {
                request,
                answer: Err(refusal),
            },
        );
    }

    fn synced(&mut self, end: Position) {
        self.journal.synced(end, self.now.mono_ms);
        self.consuming.synced(end);
        while let Some(&(position, queue, queue_end)) = self.visible.appended.front() {
            if position >= end {
                break;
            }
            self.visible.appended.pop_front();
            let stored = self.state.stored_end(queue);
            if stored.is_none_or(|stored| stored <= queue_end) {
                self.visible.ends.remove(&queue);
            } else {
                self.visible.ends.insert(queue, queue_end);
            }
            self.consuming.wake_topic(queue.topic);
        }
    }

    /// The monotonic clock never falls, whatever the shell says.
    fn set_now(&mut self, now: Now) {
        self.now = Now {
            wall_ms: now.wall_ms,
            mono_ms: now.mono_ms.max(self.now.mono_ms),
        };
    }
}

/// The queue at whose end a change stores messages.
fn grown_by(change: &Change) -> Option<QueueId> {
    if let Change::Delayed { topic, .. } = change {
        Some(topic.calendar())
    } else if let Change::Transaction(transaction) = change {
        match transaction {
            Transaction::Prepared { topic, .. } => Some(topic.calendar()),
            Transaction::Revived { message, .. } => Some(message.topic.calendar()),
            Transaction::GivenUp { to, .. } => Some(*to),
            Transaction::Committed { .. } | Transaction::RolledBack { .. } | Transaction::Asked { .. } => None,
        }
    } else if let Change::Appended { queue, .. }
    | Change::Released { queue, .. }
    | Change::DeadLettered { to: queue, .. }
    | Change::CulpritDecided {
        fate: Fate::DeadLettered { to: queue, .. },
        ..
    } = change
    {
        Some(*queue)
    } else {
        None
    }
}
