//! Asking producers what becomes of prepared messages that nobody decided about, and giving those up about which nobody says it.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use sluice_log::record::{Asked, Change, Due, Prepared, TopicSettings, Transaction};
use sluice_protocol::batch::Attributes;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Position, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::names::ROLLED_BACK_TOPIC;

use crate::broker::Core;
use crate::effect::{Answer, Ask, AskId, Copied, Effect, FetchId, RolledBack};
use crate::input::RequestId;
use crate::limits::{ASK_AGAIN_MS, ASKS_MAX};
use crate::planted::{self, Bug};
use crate::state::transaction::{Known, Undecided, due_of};

/// What is under way about undecided messages. Nothing of it is durable: all is made anew from when they were prepared or asked about last.
#[derive(Debug, Default)]
pub(crate) struct Asking {
    /// When there may be something to ask, on the monotonic clock. A turn before costs nothing.
    look_mono_ms: u64,
    /// What the shell has not said yet whether it was delivered.
    asks: BTreeMap<AskId, (TopicId, QueueOffset)>,
    /// What is being copied.
    fetches: BTreeMap<FetchId, Copying>,
    rounds: BTreeMap<TopicId, Round>,
    /// What was delivered in this turn.
    delivered: BTreeMap<TopicId, Vec<QueueOffset>>,
}

/// What is under way in one topic.
#[derive(Debug, Default)]
struct Round {
    /// Asked about and not answered by the shell, or being copied to be given up.
    under_way: BTreeSet<QueueOffset>,
    /// Before this nothing further is begun, on the monotonic clock.
    again_mono_ms: u64,
}

/// What a message is copied for.
#[derive(Debug)]
enum Copying {
    /// To be given up.
    GivingUp { topic: TopicId, number: QueueOffset },
    /// To be delivered after all, since an operator says so.
    Reviving {
        request: RequestId,
        topic: TopicId,
        number: QueueOffset,
        by: String,
    },
}

impl Asking {
    /// A topic is gone.
    pub(crate) fn forget(&mut self, topic: TopicId) {
        self.rounds.remove(&topic);
        self.delivered.remove(&topic);
        self.asks.retain(|_, (other, _)| *other != topic);
    }

    /// Something may have to be asked from then on.
    pub(crate) fn look_at(&mut self, mono_ms: u64) {
        self.look_mono_ms = self.look_mono_ms.min(mono_ms);
    }

    /// A message is no longer under way.
    fn ended(&mut self, topic: TopicId, number: QueueOffset) {
        if let Some(round) = self.rounds.get_mut(&topic) {
            round.under_way.remove(&number);
        }
    }

    /// Nothing more is begun in a topic for a while.
    fn rest(&mut self, topic: TopicId, now_mono_ms: u64) {
        let again_mono_ms = now_mono_ms + ASK_AGAIN_MS;
        self.rounds.entry(topic).or_default().again_mono_ms = again_mono_ms;
        self.look_at(again_mono_ms);
    }
}

impl Core {
    /// Asks about what nobody has decided for long enough, and gives up what was asked about often enough.
    pub(crate) fn ask_undecided(&mut self) {
        self.count_delivered();
        if self.now.mono_ms < self.asking.look_mono_ms {
            return;
        }
        let mut next_mono_ms = u64::MAX;
        for asked in [false, true] {
            let wait_ms = self.ask_wait_ms(asked);
            let mut due = Vec::new();
            for (since_mono_ms, topic) in self.state.transactions.waiting(asked) {
                if since_mono_ms.saturating_add(wait_ms) > self.now.mono_ms {
                    next_mono_ms = next_mono_ms.min(since_mono_ms.saturating_add(wait_ms));
                    break;
                }
                due.push(topic);
            }
            for topic in due {
                next_mono_ms = next_mono_ms.min(self.ask_about(topic, asked, wait_ms));
            }
        }
        self.asking.look_mono_ms = next_mono_ms;
    }

    /// How long a message waits for its first ask, or after one for what follows.
    fn ask_wait_ms(&self, asked: bool) -> u64 {
        let early = u64::from(planted::is(Bug::AskedEarly));
        match asked {
            false => self.config.ask_first_ms.saturating_sub(early),
            true => self.config.ask_interval_ms.saturating_sub(early),
        }
    }

    /// Begins what is due in a topic. Says when it is to be looked at again, on the monotonic clock; whatever is under way says it itself.
    fn ask_about(&mut self, topic: TopicId, asked: bool, wait_ms: u64) -> u64 {
        let Some(transactions) = self.state.transactions.get(topic) else {
            return u64::MAX;
        };
        let durable = self.visible_end(topic.calendar());
        let round = self.asking.rounds.entry(topic).or_default();
        if round.again_mono_ms > self.now.mono_ms {
            return round.again_mono_ms;
        }
        let (mut due, mut next_mono_ms) = (Vec::new(), u64::MAX);
        let waiting = transactions.waiting(asked);
        for (since_mono_ms, number) in waiting.filter(|(_, number)| !round.under_way.contains(number)) {
            if since_mono_ms.saturating_add(wait_ms) > self.now.mono_ms {
                next_mono_ms = since_mono_ms.saturating_add(wait_ms);
                break;
            }
            if round.under_way.len() + due.len() >= ASKS_MAX {
                break;
            }
            // Nobody is told of what a crash may take back.
            if number >= durable {
                next_mono_ms = self.now.mono_ms + ASK_AGAIN_MS;
                break;
            }
            if let Known::Undecided(undecided) = transactions.known(number) {
                due.push((number, undecided));
            }
        }
        round.under_way.extend(due.iter().map(|(number, _)| *number));
        if round.under_way.is_empty() {
            self.asking.rounds.remove(&topic);
        }
        for (number, undecided) in due {
            self.ask_or_give_up(topic, number, undecided);
        }
        next_mono_ms
    }

    fn ask_or_give_up(&mut self, topic: TopicId, number: QueueOffset, undecided: Undecided) {
        let Some(name) = self.state.topics.get(&topic).map(|topic| topic.name.clone()) else {
            return;
        };
        let (handle, place) = (self.receipts.transaction(topic, number), (topic.calendar(), number));
        let asks_max = self.config.asks_max + u16::from(planted::is(Bug::OneAskMore));
        let wanted = if undecided.asks < asks_max {
            let ask = AskId(self.consuming.next_id());
            self.asking.asks.insert(ask, (topic, number));
            Effect::Ask(Ask {
                ask,
                topic: name,
                place,
                handle,
                undecided,
            })
        } else {
            let fetch = FetchId(self.consuming.next_id());
            self.asking.fetches.insert(fetch, Copying::GivingUp { topic, number });
            Effect::Fetch {
                fetch,
                source: place.0,
                offset: place.1,
                copy: Copied::RolledBack(RolledBack {
                    topic: name,
                    prepared_wall_ms: undecided.prepared_wall_ms,
                    asks: undecided.asks,
                    handle,
                }),
            }
        };
        self.journal.release(Position::default(), wanted);
    }

    /// An ask was delivered, or was not.
    pub(crate) fn ask_ended(&mut self, ask: AskId, delivered: bool) {
        let Some((topic, number)) = self.asking.asks.remove(&ask) else {
            return;
        };
        self.asking.ended(topic, number);
        if delivered || planted::is(Bug::UndeliveredAskCounts) {
            self.counters.asks_delivered += 1;
            self.asking.delivered.entry(topic).or_default().push(number);
            self.asking.look_at(self.now.mono_ms);
        } else {
            self.counters.asks_undelivered += 1;
            self.asking.rest(topic, self.now.mono_ms);
        }
    }

    /// Records the asks that were delivered in this turn, unless somebody decided meanwhile.
    fn count_delivered(&mut self) {
        for (topic, numbers) in std::mem::take(&mut self.asking.delivered) {
            let Some(transactions) = self.state.transactions.get(topic) else {
                continue;
            };
            let counted = numbers.into_iter().filter_map(|number| match transactions.known(number) {
                Known::Undecided(undecided) => Some(Asked {
                    number,
                    asks: undecided.asks.saturating_add(1),
                }),
                Known::Committed | Known::RolledBack | Known::GivenUp(..) | Known::Nothing => None,
            });
            let asked: Vec<Asked> = counted.collect();
            if !asked.is_empty() && !planted::is(Bug::AskForgotten) {
                self.record(Change::Transaction(Transaction::Asked { topic, asked }));
            }
        }
    }

    /// A copy was made, could not be made this time (`None`), or of nothing that is still stored (`Some(None)`). `None` when it is not one
    /// that was wanted here.
    pub(crate) fn undecided_fetched(&mut self, fetch: FetchId, batch: Option<Option<Bytes>>) -> Option<()> {
        match self.asking.fetches.remove(&fetch)? {
            Copying::GivingUp { topic, number } => {
                self.asking.ended(topic, number);
                self.asking.look_at(self.now.mono_ms);
                match batch.flatten() {
                    Some(batch) => self.give_up_undecided(topic, number, batch),
                    // It is kept until it is decided about, so it is tried again.
                    None => self.asking.rest(topic, self.now.mono_ms),
                }
            }
            Copying::Reviving {
                request,
                topic,
                number,
                by,
            } => match batch {
                Some(batch) => self.revive(request, (topic, number), batch, by),
                None => self.refuse(
                    request,
                    Refusal::new(ErrorCode::Internal, "the copy of the message could not be read"),
                ),
            },
        }
        Some(())
    }

    /// Rolls a message back about which nobody decided, and keeps its copy where an operator finds it.
    fn give_up_undecided(&mut self, topic: TopicId, number: QueueOffset, batch: Bytes) {
        let known = self.state.transactions.get(topic).map_or(Known::Nothing, |of| of.known(number));
        let Known::Undecided(undecided) = known else { return };
        if planted::is(Bug::GivenUpLost) {
            let message = Prepared {
                topic,
                due: due_of(number, &undecided),
            };
            let (messages, by) = (vec![message], String::new());
            self.record(Change::Transaction(Transaction::RolledBack { messages, by }));
            return;
        }
        let to = self.rolled_back_queue();
        let at_offset = self.state.stored_end(to).unwrap_or_default();
        self.note_uses_of(to, at_offset, &batch);
        self.counters.given_up += 1;
        self.record(Change::Transaction(Transaction::GivenUp {
            message: Prepared {
                topic,
                due: due_of(number, &undecided),
            },
            to,
            at_offset,
            batch,
        }));
    }

    /// The queue of the topic of what was given up, which is created when it is needed first.
    fn rolled_back_queue(&mut self) -> QueueId {
        let topic = self.state.topic_named(ROLLED_BACK_TOPIC).unwrap_or_else(|| {
            let topic = self.state.meta.next_topic;
            let settings = TopicSettings {
                queues: 1,
                ttl_ms: 0,
                ..self.config.topic
            };
            let name = ROLLED_BACK_TOPIC.to_owned();
            self.record(Change::TopicCreated { topic, name, settings });
            topic
        });
        QueueId {
            topic,
            index: QueueIndex(0),
        }
    }

    /// Has the message read that a copy was made of, which an operator commits.
    pub(crate) fn read_given_up(
        &mut self,
        request: RequestId,
        (topic, number): (TopicId, QueueOffset),
        (source, offset): (QueueId, QueueOffset),
        by: String,
    ) {
        let fetch = FetchId(self.consuming.next_id());
        self.asking.fetches.insert(
            fetch,
            Copying::Reviving {
                request,
                topic,
                number,
                by,
            },
        );
        let copy = Copied::Revived;
        // The copy may not be durable yet.
        self.journal.release(
            self.journal.last(),
            Effect::Fetch {
                fetch,
                source,
                offset,
                copy,
            },
        );
    }

    /// Commits a message that was given up: it waits for its time, or is due, under a new number.
    fn revive(&mut self, request: RequestId, (topic, number): (TopicId, QueueOffset), batch: Option<Bytes>, by: String) {
        let known = self.state.transactions.get(topic).map_or(Known::Nothing, |of| of.known(number));
        let refusal = match known {
            _ if !self.state.topics.contains_key(&topic) => Refusal::plain(ErrorCode::TopicDeleted),
            Known::Committed if !planted::is(Bug::RevivedTwice) => return self.answer(self.journal.last(), request, Answer::Done),
            Known::GivenUp(..) | Known::Committed => match batch.and_then(|batch| Some((due_ms(&batch)?, batch))) {
                Some((at_ms, batch)) => {
                    let new = self.state.stored_end(topic.calendar()).unwrap_or_default();
                    self.releasing.came(topic, std::iter::once(Due { at_ms, number: new }));
                    self.counters.revived += 1;
                    let message = Prepared {
                        topic,
                        due: Due { at_ms, number },
                    };
                    let revived = Transaction::Revived {
                        message,
                        number: new,
                        batch,
                        by,
                    };
                    let depends = self.record(Change::Transaction(revived));
                    return self.answer(depends, request, Answer::Done);
                }
                None => Refusal::new(ErrorCode::Internal, "the copy of the message could not be read"),
            },
            // Retention took the copy meanwhile.
            Known::RolledBack => Refusal::plain(ErrorCode::AlreadyRolledBack),
            Known::Undecided(_) | Known::Nothing => Refusal::plain(ErrorCode::NoSuchTransaction),
        };
        self.refuse_after(self.journal.last(), request, refusal);
    }

    /// When a producer is asked about a message next: wall clock, milliseconds.
    pub(crate) fn next_ask_wall_ms(&self, undecided: &Undecided) -> Option<i64> {
        let due_mono_ms = undecided.since_mono_ms.saturating_add(self.ask_wait_ms(undecided.asks > 0));
        let in_ms = due_mono_ms.saturating_sub(self.now.mono_ms);
        (undecided.asks < self.config.asks_max).then(|| self.now.wall_ms.saturating_add_unsigned(in_ms))
    }

    /// When there may be something to ask or to give up, in milliseconds on the monotonic clock.
    pub(crate) fn next_ask(&self) -> Option<u64> {
        (self.asking.look_mono_ms < u64::MAX).then_some(self.asking.look_mono_ms)
    }
}

/// When the only message of a batch is due.
fn due_ms(batch: &Bytes) -> Option<i64> {
    let attributes = Attributes::parse_stored(batch.clone()).ok()?;
    attributes.row(0).map(|row| row.deliver_at_ms())
}
