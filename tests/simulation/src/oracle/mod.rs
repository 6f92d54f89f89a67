//! The judge: hears every input, effect, record and crash, and says when a law is broken. It shares no code with the core.

pub mod asked;
pub mod book;
pub mod cursor;
pub mod dealings;
mod delayed;
mod expiry;
mod failed;
mod given;
mod growth;
pub mod lanes;
mod left;
mod letters;
mod members;
pub(crate) mod operated;
mod published;
pub mod seen;
mod settling;
pub mod transactions;
mod trials;
mod undecided;

use std::collections::BTreeMap;

use bytes::Bytes;
use sluice_core::effect::{Answer, Effect, Rule, Taker};
use sluice_core::input::{Admin, Input, NamedBy, RequestId, SeekTo, SubscriptionId};
use sluice_log::record::{Change, CursorId, Filter, Record};
use sluice_protocol::ids::{ProducerId, QueueId, Sequence};
use sluice_protocol::units::Now;

pub use self::asked::{Asked, Key};
pub use self::book::{Book, Group, Queue, Row};
pub use self::cursor::{Cursor, Held};
pub use self::delayed::Told;
pub use self::seen::Seen;
pub use self::transactions::Deciding;
use crate::laws::{Court, Law};
use crate::random::Random;
use crate::rows;
use crate::scenario::Asks;

/// Where a message was confirmed to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// The topic's name.
    pub topic: String,
    /// The queue.
    pub queue: QueueId,
    /// The offset.
    pub offset: u64,
}

/// The judge of one run.
#[derive(Debug, Default)]
pub struct Oracle {
    /// What the log says.
    pub book: Book,
    /// What was asked.
    pub asked: Asked,
    /// What consumers saw.
    pub seen: Seen,
    /// What was asked and told of delayed messages.
    pub told: Told,
    /// What was asked and told of prepared messages.
    pub deciding: Deciding,
    /// Counts and the first violation.
    pub court: Court,
    /// Every confirmed message.
    pub confirmed: BTreeMap<(ProducerId, Sequence), Confirmed>,
    frames: Vec<Frame>,
    /// Frames count as durable when they are written, so a crash may lose what was confirmed.
    pub lazy: bool,
    /// What the disk had really synced when the broker went down.
    pub durable: u64,
    /// Old passes that came on streams after the sync of their seek, which is right only if a reset follows at once.
    unreset: Vec<(SubscriptionId, QueueId, String)>,
    synced: u64,
    publishes: BTreeMap<RequestId, Publish>,
    tried: BTreeMap<(ProducerId, Sequence), u32>,
    /// Skips that were not answered yet.
    skips: BTreeMap<RequestId, operated::Named>,
}

#[derive(Debug)]
struct Frame {
    position: u64,
    records: Vec<Record>,
}

#[derive(Debug)]
struct Publish {
    topic: String,
    /// The messages of each batch.
    batches: Vec<Vec<(ProducerId, Sequence)>>,
}

impl Oracle {
    /// A judge of a broker that has done nothing yet; `lazy` when frames count as durable once they are written, the rest as the
    /// broker is set.
    pub fn new(lazy: bool, culprit_quorum: u64, asks: Asks, member_absent_ms: u64) -> Self {
        let mut oracle = Self { lazy, ..Self::default() };
        oracle.asked.members.absent_ms = member_absent_ms;
        oracle.asked.trials.quorum = culprit_quorum;
        oracle.deciding.asks.asks = asks;
        oracle
    }

    /// An input is about to be handed to the core.
    pub fn input(&mut self, now: Now, input: &Input) {
        self.settle_suspicions();
        self.asked.members.hears(now.mono_ms, input, &self.book);
        self.told.clock(now);
        if self.disturbs(input) {
            self.asked.trials.disturbed();
            self.asked.known.disturbed();
        }
        if let Input::Admin { request, admin } = input {
            self.ordered(*request, admin);
        }
        match input {
            Input::Publish { request, topic, batches } => {
                let batches: Vec<_> = batches.iter().map(|batch| rows::identities(batch.bytes())).collect();
                let messages = batches.iter().flatten();
                messages.for_each(|message| *self.tried.entry(*message).or_default() += 1);
                let topic = topic.to_string();
                self.publishes.insert(*request, Publish { topic, batches });
            }
            Input::Subscribe {
                subscription,
                connection,
                invisible_ms,
                ..
            } => {
                self.seen.subscribes(*subscription, *connection, *invisible_ms);
            }
            Input::Receive {
                request,
                max,
                invisible_ms,
                ..
            } => self.seen.receives(*request, u64::from(*max), *invisible_ms),
            Input::SettleStream {
                request,
                subscription,
                queue,
                pass,
                which,
                action,
            } => {
                self.seen
                    .settles_numbers(now.mono_ms, *request, *subscription, *queue, *pass, which, *action, &mut self.asked);
            }
            Input::SettleHandles { request, handles, action } => {
                self.seen.settles_handles(now.mono_ms, *request, handles, *action, &mut self.asked);
            }
            Input::Recall { request, handle } => self.told.recalls(*request, handle),
            Input::Decide {
                request,
                handles,
                decision,
                operator,
            } => self.deciding.decides(*request, handles, *decision, operator.is_some()),
            Input::Asked { ask } => self.ask_delivered(now, *ask),
            Input::Undelivered { handles } => self.seen.undelivered(handles),
            Input::Unsubscribe { subscription, .. } => {
                self.seen.closed(*subscription);
            }
            Input::Disconnected { connection } => self.seen.disconnected(*connection, &mut self.court),
            Input::Admin {
                admin: Admin::DeleteTopic { name },
                ..
            } => self.asked.delete(name),
            Input::Admin {
                admin: Admin::Seek { group, topic, to, .. },
                ..
            } => self.asked.seek(group, topic, *to),
            Input::Admin {
                admin: Admin::PurgeGroup { group, topic },
                ..
            } => self.asked.seek(group, topic, SeekTo::Latest),
            Input::Trim { queue, start } => {
                self.asked.trim(*queue, start.0);
                self.asked.members.trims(*queue, start.0.min(self.synced_end(*queue)));
            }
            Input::Verdicts { judge, outcome } => {
                self.asked.trials.hears(now.mono_ms, *judge, outcome, &self.book, &mut self.court);
                if let Ok(verdicts) = outcome {
                    self.asked.known.hears(now.mono_ms, *judge, verdicts);
                }
            }
            Input::Synced { end } => self.synced = self.synced.max(end.0),
            Input::Admin { .. }
            | Input::Credit { .. }
            | Input::Cancelled { .. }
            | Input::Fetched { .. }
            | Input::DueFetched { .. }
            | Input::Located { .. }
            | Input::NotAsked { .. }
            | Input::Checkpointed
            | Input::FetchFailed { .. }
            | Input::Part(_)
            | Input::Tick => {}
        }
    }

    /// An effect came out of the core.
    pub fn effect(&mut self, now: Now, effect: &Effect) {
        self.asked.members.says(effect, &self.book, &mut self.court);
        match effect {
            Effect::Write { position, records } => {
                self.seen.written_mono_ms = now.mono_ms;
                self.written(position.0, records);
            }
            Effect::Judge {
                judge,
                cursor,
                rule,
                among,
                to,
                ..
            } => {
                if let Some(rule) = rule {
                    self.asked.trials.asks(now.mono_ms, *judge, *cursor, *among, rule.digest);
                }
                self.asked.known.asks(*judge, *cursor);
                let end = self.synced_end(cursor.queue);
                self.court.demand(Law::DeliverAfterSync, to.0 <= end, || {
                    format!("{cursor:?} is judged to {to:?}, synced is {end}")
                });
            }
            Effect::Deliver(delivery) => {
                let end = self.synced_end(delivery.cursor.queue);
                for (offset, _) in dealings::each(&delivery.leases) {
                    self.court
                        .demand(Law::DeliverAfterSync, offset < end, || format!("{delivery:?}, synced is {end}"));
                }
                self.in_pass(delivery);
                lanes::in_turn(delivery, &self.book, &mut self.court);
                lanes::in_order(delivery, &self.book, self.synced, &mut self.court);
                growth::in_order(delivery, &self.book, self.synced, &mut self.court);
                self.asked.trials.delivers(delivery.cursor, &mut self.court);
                self.seen
                    .delivered(now.mono_ms, delivery, &self.book, &mut self.asked, &mut self.court);
            }
            Effect::Answer {
                request,
                answer: Ok(Answer::Stored { runs, refused }),
            } => self.stored(*request, runs, refused),
            Effect::Answer {
                request,
                answer: Ok(Answer::Settled { results }),
            } => {
                let results: Vec<bool> = results.iter().map(Result::is_ok).collect();
                self.seen.settled(*request, &results, &self.book, self.synced, &mut self.court);
            }
            Effect::Answer {
                request,
                answer: Ok(Answer::Skipped { was }),
            } => self.skip_answered(*request, *was),
            Effect::Answer {
                request,
                answer: Ok(Answer::Done),
            } => {
                self.recall_done(*request);
                self.decision_done(*request);
            }
            Effect::Answer {
                request,
                answer: Err(refusal),
            } => self.refused(*request, refusal),
            Effect::StreamEnded { subscription, .. } => {
                self.seen.closed(*subscription);
                self.unreset.retain(|(other, _, _)| other != subscription);
            }
            Effect::StreamReset { subscription, queue, .. } => {
                self.unreset.retain(|(other, of, _)| (other, of) != (subscription, queue));
            }
            Effect::Ask(ask) => self.asks(now, ask),
            Effect::Answer { .. }
            | Effect::Fetch { .. }
            | Effect::FetchDue { .. }
            | Effect::Parts(_)
            | Effect::Locate { .. }
            | Effect::Checkpoint(_) => {}
        }
    }

    /// Whether the broker may drop, for this input, an answer of the plugin that is under way. A seek to a time is done when it is located.
    fn disturbs(&self, input: &Input) -> bool {
        let ask = match input {
            Input::Subscribe { ask, .. } | Input::Receive { ask, .. } => ask,
            Input::Admin { .. } | Input::Trim { .. } | Input::Located { .. } => return true,
            _ => return false,
        };
        let name = match ask.named_by {
            NamedBy::Member => format!("{}/{}", ask.group, ask.member),
            NamedBy::Client => ask.group.clone(),
        };
        let group = self.book.group_named(&name);
        let ruling = group
            .zip(self.book.topic_named(&ask.topic))
            .and_then(|reading| self.book.rules.get(&reading));
        ruling != Some(&ask.filter)
    }

    /// A pass that a synced seek ended delivers nothing any more, and a pass that is not synced delivers nothing yet.
    fn in_pass(&mut self, delivery: &sluice_core::effect::Delivery) {
        let Some(cursor) = self.book.cursors.get(&delivery.cursor) else {
            return;
        };
        let (current, synced) = (cursor.pass, cursor.pass_frame < self.synced || cursor.pass_frame == 0);
        let lawful = if synced {
            delivery.pass == current
        } else {
            delivery.pass < current
        };
        if let (false, true, Taker::Stream { subscription, .. }) = (lawful, delivery.pass < current, &delivery.taker) {
            self.unreset.push((*subscription, delivery.cursor.queue, format!("{delivery:?}")));
            return;
        }
        self.court.demand(Law::SeekEndsThePass, lawful, || {
            format!("{delivery:?} while the pass is {current:?}, synced: {synced}")
        });
    }

    /// All effects of the turn were heard: what was right only if something else followed is judged.
    fn settle_suspicions(&mut self) {
        self.seen.settle_suspicions(&mut self.court);
        for (_, _, facts) in self.unreset.drain(..) {
            self.court
                .require(Law::SeekEndsThePass, false, || format!("{facts} was followed by no reset"));
        }
        // Whatever a delivery waits for was recorded before its lease; what is over by then is recorded as over in the next frame.
        let synced = self.frames.partition_point(|frame| frame.position < self.synced);
        let Some(frame) = synced.checked_sub(2).map(|place| self.frames[place].position) else {
            return;
        };
        for (key, attempt, end) in self.asked.undelivered(frame) {
            let cursor = self.book.cursors.get(&key.cursor).filter(|cursor| cursor.pass == key.pass);
            let held = cursor.and_then(|cursor| cursor.held.get(&key.offset));
            let runs =
                matches!(held, Some(Held::Leased { attempt: now, expires_mono_ms, .. }) if *now == attempt && *expires_mono_ms == end);
            self.court.require(Law::DeliveryIsRecorded, !runs, || {
                format!("{key:?} was leased until {end} as attempt {attempt} and never delivered")
            });
        }
    }

    fn synced_end(&self, queue: QueueId) -> u64 {
        let Some(queue) = self.book.queues.get(&queue) else { return 0 };
        queue.rows.partition_point(|row| row.frame < self.synced) as u64
    }

    fn written(&mut self, position: u64, records: &[Bytes]) {
        let mut decoded = Vec::with_capacity(records.len());
        for bytes in records {
            match Record::decode(bytes) {
                Ok(record) => {
                    self.book
                        .apply(position, &record, &mut self.asked, (&self.told, &self.deciding), &mut self.court);
                    self.seen.recorded(&record.change);
                    decoded.push(record);
                }
                Err(error) => self
                    .court
                    .demand(Law::RecoveryIsExact, false, || format!("a record cannot be decoded: {error}")),
            }
        }
        self.frames.push(Frame {
            position,
            records: decoded,
        });
    }

    /// Whether the book says nothing that is not synced.
    pub fn is_all_synced(&self) -> bool {
        self.frames.last().is_some_and(|frame| frame.position < self.synced)
    }

    /// The position of a synced frame at or after `from` behind which another one was synced.
    pub fn provable_frame(&self, from: u64, random: &mut Random) -> Option<u64> {
        let synced = self.frames.partition_point(|frame| frame.position < self.synced);
        let first = self.frames.partition_point(|frame| frame.position < from);
        let last = synced.checked_sub(1)?;
        (first < last).then(|| self.frames[first + random.index(last - first)].position)
    }

    /// The broker went down. Returns whether something written was not synced.
    pub fn crashed(&mut self) -> bool {
        self.asked.crashed();
        self.told.crashed();
        self.deciding.crashed();
        self.publishes.clear();
        self.skips.clear();
        self.frames.last().is_some_and(|frame| frame.position >= self.synced)
    }

    /// The log holds this opening: one that is not known was left by a start that was cut short, over whatever was torn there.
    pub fn opening(&mut self, position: u64, record: &Record) {
        let known = self
            .frames
            .iter()
            .any(|frame| frame.position == position && frame.records.first() == Some(record));
        if !known && position >= self.durable {
            self.frames.retain(|frame| frame.position < position);
            self.frames.push(Frame {
                position,
                records: vec![record.clone()],
            });
        }
    }

    /// The broker opened its log again: the frame of the new epoch is at `opened`, before it lies what was recovered.
    /// `replayed` are the records read back, the last ones of the log, ending with the opening itself.
    pub fn recovered(&mut self, opened: u64, end: u64, replayed: &[Record]) {
        let durable = if self.lazy { self.durable } else { self.synced };
        let lost = opened < self.synced;
        self.court.demand(Law::RecoveryIsExact, opened >= durable, || {
            format!("the log was synced to {durable} and ends at {opened} after recovery")
        });
        if self.frames.iter().any(|frame| frame.position >= opened) {
            self.court.exercise(Law::TornTail);
        }
        self.frames.retain(|frame| frame.position < opened);
        let mut written = self.frames.iter().flat_map(|frame| &frame.records).rev();
        let Some((opening, before)) = replayed.split_last() else {
            self.court.demand(Law::RecoveryIsExact, false, || {
                "nothing was replayed, not even the opening".to_owned()
            });
            return;
        };
        for record in before.iter().rev() {
            let expected = written.next();
            self.court.demand(Law::RecoveryIsExact, expected == Some(record), || {
                format!("replayed was {record:?}, written {expected:?}")
            });
        }
        let is_opening = matches!(opening.change, Change::Opened { .. });
        self.court
            .demand(Law::RecoveryIsExact, is_opening, || format!("replay ends with {opening:?}"));
        self.frames.push(Frame {
            position: opened,
            records: vec![opening.clone()],
        });
        self.synced = end;
        let (mut book, frames, asked, told) = (Book::default(), &self.frames, &mut self.asked.clone(), (&self.told, &self.deciding));
        self.court.muted(|court| {
            for frame in frames {
                frame
                    .records
                    .iter()
                    .for_each(|record| book.apply(frame.position, record, asked, told, court));
            }
        });
        self.book = book;
        self.seen.recovered(&self.book);
        self.asked.members.recovered(opening.at.mono_ms, lost && self.lazy, &self.book);
        self.delays_recovered(lost && self.lazy);
        self.decisions_recovered(lost && self.lazy);
        if lost && self.lazy {
            self.court.exercise(Law::LazyLoss);
            self.seen.lost(&self.book);
            let queues = &self.book.queues;
            self.confirmed.retain(|message, place| {
                let row = queues.get(&place.queue).and_then(|queue| queue.rows.get(place.offset as usize));
                row.is_some_and(|row| (row.producer, row.sequence) == *message)
            });
        }
        for (message, place) in &self.confirmed {
            let Some(queue) = self.book.queues.get(&place.queue) else {
                continue;
            };
            let row = queue.rows.get(place.offset as usize);
            let there = row.is_some_and(|row| (row.producer, row.sequence) == *message);
            self.court.demand(Law::ConfirmedIsKept, there, || {
                format!("{message:?} was confirmed at {place:?}, now {row:?} is there")
            });
        }
    }

    /// The broker was told that a message of this group can no longer be read.
    pub fn unreadable(&mut self, queue: QueueId, offset: u64, group: &str) {
        let cursors = self.book.cursors.keys().filter(|cursor| cursor.queue == queue);
        let named = cursors.filter(|cursor| self.book.groups.get(&cursor.group).is_some_and(|model| model.name == group));
        let named: Vec<CursorId> = named.copied().collect();
        named.into_iter().for_each(|cursor| self.asked.cannot_read(cursor, offset));
    }

    /// Whether the log names another expression or version by now than the one that a plugin is asked for.
    pub fn is_superseded(&self, cursor: CursorId, asked: &Rule) -> bool {
        match self.book.rules.get(&(cursor.group, cursor.queue.topic)) {
            Some(Filter::Plugin { plugin, expression }) => {
                *expression != asked.expression || self.book.bindings.get(plugin) != Some(&asked.digest)
            }
            Some(Filter::All) | None => true,
        }
    }
}
