//! The shard's thread: owns the core, drains the inbox a turn at a time, and carries out what the core asks.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use sluice_core::Core;
use sluice_core::effect::{CheckpointStep, Delivery, Effect, PartWork, Taker};
use sluice_core::input::{Input, RequestId, SubscriptionId};
use sluice_protocol::errors::{ErrorCode, Refusal};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::answerers::Answerers;
use crate::clock::Clock;
use crate::disk::{Disk, DiskWork};
use crate::limits;
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::questions::{JudgeWork, Questions};
use crate::shard::{Ask, Mail, Outcome, Reply, StorageRoom, StreamEvent};

/// Everything that the shard's thread owns.
pub(crate) struct ShardThread {
    pub(crate) core: Core,
    pub(crate) clock: Clock,
    pub(crate) mail: Receiver<Mail>,
    pub(crate) disk: Disk,
    pub(crate) verdicts: Arc<Questions>,
    /// What the turn under way wants judged.
    pub(crate) asked: Vec<JudgeWork>,
    pub(crate) lookup: Lookup,
    pub(crate) metrics: Arc<Metrics>,
    /// Why the shard cannot go on, for whoever waits for the broker's end.
    pub(crate) failure: watch::Sender<Option<String>>,
    pub(crate) waiting: Waiters,
    pub(crate) streams: HashMap<SubscriptionId, UnboundedSender<StreamEvent>, BuildHasherDefault<NumberHasher>>,
    /// Who can be asked about prepared messages.
    pub(crate) answerers: Answerers,
    pub(crate) stopping: Stopping,
}

/// Who waits for which answer.
pub(crate) type Waiters = HashMap<RequestId, Reply, BuildHasherDefault<NumberHasher>>;

/// How far a stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopping {
    /// Nobody asked.
    No,
    /// The last checkpoint is being written.
    Checkpointing,
    /// The last frame is being covered by an empty one, so that damage to it can be told from a torn write.
    Covering,
    /// All is durable.
    Done,
}

impl ShardThread {
    /// Runs turns until the shard is stopped. What is left in the inbox then is dropped, which its senders see.
    pub(crate) fn run(mut self) {
        while self.stopping != Stopping::Done {
            let sleep = self
                .core
                .next_deadline()
                .map_or(limits::SHARD_SLEEP_MAX, |due| self.clock.until(due));
            match self.mail.recv_timeout(sleep.min(limits::SHARD_SLEEP_MAX)) {
                Ok(mail) => {
                    self.take(mail);
                    for _ in 1..limits::TURN_INPUTS_MAX {
                        let Ok(mail) = self.mail.try_recv() else { break };
                        self.take(mail);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            self.end_turn();
            self.go_on_stopping();
            if self.failure.borrow().is_some() {
                return self.refuse_everything();
            }
        }
    }

    fn end_turn(&mut self) {
        let now = self.clock.now();
        if self.core.next_deadline().is_some_and(|due| due <= now.mono_ms) {
            self.core.handle(now, Input::Tick);
        }
        self.core.end_turn(now);
        self.metrics.turns.one();
        while let Some(effect) = self.core.poll_effect() {
            self.carry_out(effect);
        }
        if !self.asked.is_empty() {
            self.verdicts.submit(self.asked.drain(..));
        }
    }

    fn go_on_stopping(&mut self) {
        match self.stopping {
            Stopping::No | Stopping::Done => {}
            Stopping::Checkpointing if self.core.is_quiet() => {
                self.core.cover_now();
                self.stopping = Stopping::Covering;
                self.end_turn();
                if self.core.is_quiet() {
                    self.stopping = Stopping::Done;
                }
            }
            Stopping::Covering if self.core.is_quiet() => self.stopping = Stopping::Done,
            Stopping::Checkpointing | Stopping::Covering => {}
        }
    }

    fn take(&mut self, mail: Mail) {
        match mail {
            Mail::Ask(ask) => self.ask(ask),
            Mail::Open { subscription, events, ask } => {
                self.streams.insert(subscription, events);
                self.ask(ask);
            }
            Mail::Closed { subscription } => {
                self.streams.remove(&subscription);
            }
            Mail::Tell(input) => {
                if let Input::Cancelled { request } = &input {
                    self.waiting.remove(request);
                }
                self.handle(input);
            }
            Mail::Answers { topic, number, asks } => self.answerers.came(topic, number, asks),
            Mail::AnswersNoMore { topic, number } => self.answerers.left(&topic, number),
            Mail::Survey { from, reply } => {
                // A scrape that was given up is answered in vain.
                let _ = reply.send(self.core.survey(from));
            }
            Mail::Snapshot { reply } => self.disk.send(DiskWork::Snapshot { reply }),
            Mail::StorageFailed { reason } => {
                tracing::error!(%reason, "the log could not be written: the shard stops");
                self.failure.send_replace(Some(reason));
            }
            Mail::Stop => {
                self.core.checkpoint_now();
                self.stopping = Stopping::Checkpointing;
            }
        }
    }

    fn ask(&mut self, ask: Ask) {
        // What admission let in before the disk was full would use up what is kept for those who consume.
        if self.lookup.shard.storage_room() < StorageRoom::needed_by(&ask.input) {
            return ask.reply.send(Err(Refusal::plain(ErrorCode::StorageFull)));
        }
        self.waiting.insert(ask.request, ask.reply);
        self.handle(ask.input);
    }

    fn handle(&mut self, input: Input) {
        self.metrics.inputs.one();
        let trim = match &input {
            Input::Trim { queue, start } => Some((*queue, *start, self.core.counters().lost_to_retention)),
            _ => None,
        };
        self.core.handle(self.clock.now(), input);
        if let Some((queue, start, before)) = trim {
            let lost = self.core.counters().lost_to_retention - before;
            if lost > 0 {
                tracing::warn!(%queue, start = start.0, lost, "retention took messages that groups had not settled");
            }
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Write { position, records } => self.disk.send(DiskWork::Write { position, records }),
            Effect::Judge {
                judge,
                cursor,
                rule,
                among,
                ttl,
                from,
                to,
                deliver_max,
            } => {
                self.asked.push(JudgeWork {
                    judge,
                    queue: cursor.queue,
                    rule,
                    among,
                    ttl,
                    from,
                    to,
                    deliver_max,
                });
            }
            Effect::Deliver(delivery) => self.deliver(delivery),
            Effect::Answer { request, answer } => {
                if let Some(reply) = self.waiting.remove(&request) {
                    reply.send(answer.map(Outcome::Answer));
                }
            }
            Effect::StreamEnded { subscription, refusal } => self.notify(subscription, StreamEvent::Ended(refusal)),
            Effect::StreamReset { subscription, queue, pass } => {
                self.notify(subscription, StreamEvent::Reset { queue: queue.index, pass });
            }
            Effect::Fetch {
                fetch,
                source,
                offset,
                copy,
            } => self.lookup.fetch(fetch, source, offset, copy),
            Effect::Ask(ask) => {
                if let Some(ask) = self.answerers.hand_out(ask) {
                    self.lookup.shard.tell(Input::NotAsked { ask: ask.ask });
                }
            }
            Effect::FetchDue {
                fetch,
                calendar,
                messages,
                parts,
            } => self.lookup.fetch_due(fetch, calendar, messages, parts),
            Effect::Parts(PartWork::Remove { part }) => self.disk.send(DiskWork::RemovePart { part }),
            Effect::Parts(work) => self.lookup.part_work(work),
            Effect::Locate { locate, queue, wall_ms } => self.lookup.locate(locate, queue, wall_ms),
            Effect::Checkpoint(CheckpointStep::Begin { replay_from }) => self.disk.send(DiskWork::CheckpointBegin { replay_from }),
            Effect::Checkpoint(CheckpointStep::Slice { entries }) => self.disk.send(DiskWork::CheckpointSlice { entries }),
            Effect::Checkpoint(CheckpointStep::Finish) => self.disk.send(DiskWork::CheckpointFinish),
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery.taker {
            Taker::Receive { request, .. } => {
                let unclaimed = match self.waiting.remove(&request) {
                    Some(reply) => reply.lease(delivery).err(),
                    None => Some(delivery),
                };
                if let Some(delivery) = unclaimed {
                    self.lookup.shard.undelivered(delivery);
                }
            }
            Taker::Stream { subscription, .. } => self.notify(subscription, StreamEvent::Deliver(delivery)),
        }
    }

    fn notify(&self, subscription: SubscriptionId, event: StreamEvent) {
        if let Some(events) = self.streams.get(&subscription) {
            // A session that ended meanwhile has told the core, or its connection will.
            let _ = events.send(event);
        }
    }

    /// The log cannot be written: every waiter is told, and whoever asks until the broker ends.
    fn refuse_everything(mut self) {
        let refusal = Refusal::plain(ErrorCode::StorageFailed);
        for (_, reply) in self.waiting.drain() {
            reply.send(Err(refusal.clone()));
        }
        for events in self.streams.values() {
            // As in `notify`.
            let _ = events.send(StreamEvent::Ended(refusal.clone()));
        }
        while let Ok(mail) = self.mail.recv() {
            match mail {
                Mail::Ask(ask) | Mail::Open { ask, .. } => ask.reply.send(Err(refusal.clone())),
                Mail::Stop => return,
                Mail::Closed { .. }
                | Mail::Answers { .. }
                | Mail::AnswersNoMore { .. }
                | Mail::Tell(_)
                | Mail::Survey { .. }
                | Mail::Snapshot { .. }
                | Mail::StorageFailed { .. } => {}
            }
        }
    }
}

impl Reply {
    /// Hands messages to the receive that waits for them.
    ///
    /// # Errors
    /// They come back when nobody waits any more.
    fn lease(self, delivery: Delivery) -> Result<(), Delivery> {
        let Self::Once(sender) = self else {
            unreachable!("receives are asked alone, by `Shard::ask`");
        };
        match sender.send(Ok(Outcome::Leased(delivery))) {
            Err(Ok(Outcome::Leased(delivery))) => Err(delivery),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Sends the answer, unless nobody waits any more.
    fn send(self, outcome: Result<Outcome, Refusal>) {
        match self {
            Self::Once(sender) => {
                let _ = sender.send(outcome);
            }
            Self::Numbered { number, answers, room } => {
                let answer = outcome.map(|outcome| match outcome {
                    Outcome::Answer(answer) => answer,
                    Outcome::Leased(_) => unreachable!("receives are asked alone, by `Shard::ask`"),
                });
                drop(room);
                let _ = answers.send((number, answer));
            }
        }
    }
}

/// Hashes the shell's own consecutive numbers: one multiplication (Fibonacci hashing, Knuth volume 3, 6.4). No client chooses them.
#[derive(Debug, Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
