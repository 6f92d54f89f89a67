//! What the shell does beside the disk, in any order that the contract allows: judge, deliver, fetch, locate.

use bytes::Bytes;
use sluice_core::effect::{Ask, Copied, Delivery, Effect, FetchId, JudgeId, LocateId, Taker};
use sluice_core::input::{Input, Verdicts};
use sluice_log::record::{CursorId, Due, FarOff, PartId};
use sluice_log::{Delayed, SeenDelayed};
use sluice_protocol::batch::{Batch, BatchMerger, tag_hash};
use sluice_protocol::ids::{QueueId, QueueOffset};

use crate::content::content;
use crate::laws::Law;
use crate::network::Event;
use crate::oracle::Book;
use crate::shell::lane_of;
use crate::stub::{self, Question};
use crate::world::World;

impl World {
    /// Does one thing that waits to be done, if any.
    pub(crate) fn job(&mut self) {
        let Some(shell) = &mut self.shell else { return };
        if !shell.delivered.is_empty() && (shell.jobs.is_empty() || self.random.chance(1, 3)) {
            let ask = shell.delivered.swap_remove(self.random.index(shell.delivered.len()));
            return self.turn(vec![Input::Asked { ask }]);
        }
        if shell.jobs.is_empty() {
            return;
        }
        let chosen = self.random.index(shell.jobs.len());
        let lane = lane_of(&shell.jobs[chosen]);
        let oldest = match lane {
            None => chosen,
            Some(_) => shell
                .jobs
                .iter()
                .position(|job| lane_of(job) == lane)
                .expect("the chosen job has this lane"),
        };
        match shell.jobs.remove(oldest) {
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
                let rule = rule.as_ref();
                let to = to.min(QueueOffset(from.0 + deliver_max));
                self.judge(judge, cursor, Question { rule, among, ttl }, from, to);
            }
            Effect::Deliver(delivery) => self.deliver(delivery),
            Effect::StreamReset { subscription, queue, .. } => self.push(
                subscription,
                Event::Reset {
                    subscription,
                    queue: queue.index,
                },
            ),
            Effect::StreamEnded { subscription, refusal } => self.push(subscription, Event::Ended { subscription, refusal }),
            Effect::Fetch {
                fetch,
                source,
                offset,
                copy,
            } => self.fetch(fetch, source, offset, &copy),
            Effect::Ask(ask) => self.ask(&ask),
            Effect::FetchDue {
                fetch,
                calendar,
                messages,
                parts,
            } => self.fetch_due(fetch, calendar, &messages, &parts),
            Effect::Parts(work) => self.part_work(work),
            Effect::Locate { locate, queue, wall_ms } => self.locate(locate, queue, wall_ms),
            Effect::Write { .. } | Effect::Answer { .. } | Effect::Checkpoint(_) => unreachable!("these are not put among the jobs"),
        }
    }

    fn locate(&mut self, locate: LocateId, queue: QueueId, wall_ms: i64) {
        let Some(shell) = &self.shell else { return };
        match shell.reader.locate_time(queue, wall_ms) {
            Ok(offset) => self.turn(vec![Input::Located { locate, offset }]),
            Err(error) => self.broken(&format!("locate in {queue}: {error}")),
        }
    }

    fn judge(&mut self, judge: JudgeId, cursor: CursorId, question: Question<'_>, from: QueueOffset, to: QueueOffset) {
        let rule = question.rule;
        if rule.is_some() && self.fails_to_judge(judge) {
            return;
        }
        let mut asked_to = to;
        if to.0 - from.0 > 1 && self.random.chance(1, 4) {
            self.oracle.court.exercise(Law::PartialVerdicts);
            asked_to = QueueOffset(self.random.within(from.0 + 1..to.0));
        }
        if rule.is_some_and(|rule| self.oracle.is_superseded(cursor, rule)) {
            self.oracle.court.exercise(Law::RuleChangedInFlight);
        }
        let Some(shell) = &self.shell else { return };
        let mut verdicts = Verdicts {
            from,
            to: asked_to,
            deliver: Vec::new(),
            links: Vec::new(),
            failed: 0,
            evaluated: 0,
            culprits: Vec::new(),
        };
        let places = match shell.reader.batches(cursor.queue, from, asked_to) {
            Ok(places) => places,
            Err(error) => return self.broken(&format!("judge {cursor:?}: {error}")),
        };
        let gapless = places.windows(2).all(|pair| pair[0].end() == pair[1].first);
        // Retention may have taken the segment of what lies between the last of them and the start of the queue.
        let start = self.oracle.book.queues.get(&cursor.queue).map_or(0, |queue| queue.start);
        let reaches = |end: QueueOffset| end >= asked_to || end.0 >= start;
        let whole =
            gapless && places.first().is_some_and(|place| place.first <= from) && places.last().is_some_and(|place| reaches(place.end()));
        // Of a topic that is being deleted the oracle knows no more, and what retention took is in no index.
        for (tag, expected) in content_tags(&self.oracle.book, cursor.queue, from, asked_to, whole) {
            let found = shell.reader.tagged(cursor.queue, from, asked_to, &[tag_hash(tag)]);
            let same = matches!(&found, Ok(found) if *found == expected);
            self.oracle.court.demand(Law::TagsAreIndexed, same, || {
                format!("{tag} in {cursor:?} {from:?}..{asked_to:?}: {found:?} instead of {expected:?}")
            });
        }
        for place in places {
            match shell.reader.attributes(&place) {
                Ok(attributes) => stub::judge(question, &attributes, &place, &mut verdicts),
                Err(error) => return self.broken(&format!("judge {cursor:?}: {error}")),
            }
        }
        if rule.is_some() {
            self.fail_on_some(question, cursor.queue, &mut verdicts);
        }
        self.turn(vec![Input::Verdicts {
            judge,
            outcome: Ok(verdicts),
        }]);
    }

    fn deliver(&mut self, delivery: Delivery) {
        let queue = delivery.cursor.queue;
        let mut count = 0;
        for range in &delivery.leases {
            for offset in range.offsets.first.0..range.offsets.end.0 {
                self.read_and_compare(queue, offset);
                count += 1;
            }
        }
        match delivery.taker {
            Taker::Receive { request, mut handles } if !self.healed && handles.len() > 1 && self.random.chance(1, 20) => {
                let rest = handles.split_off(self.random.within(1..handles.len() as u64) as usize);
                self.answer(request, Event::Received { request, handles });
                self.turn(vec![Input::Undelivered { handles: rest }]);
            }
            Taker::Receive { request, handles } => self.answer(request, Event::Received { request, handles }),
            Taker::Stream {
                subscription,
                first_number,
            } => {
                let event = Event::Pushed {
                    subscription,
                    queue: queue.index,
                    pass: delivery.pass,
                    first_number,
                    count,
                };
                self.push(subscription, event);
            }
        }
    }

    /// Reads a stored message and compares it with what was sent. What retention took or a deletion ended need not be there.
    pub(crate) fn read_and_compare(&mut self, queue: QueueId, offset: u64) {
        let Some(shell) = &self.shell else { return };
        let gone = self.oracle.book.queues.get(&queue).is_none_or(|model| offset < model.start);
        let read = shell.read(queue, offset);
        let expected = self
            .oracle
            .book
            .queues
            .get(&queue)
            .and_then(|model| model.rows.get(offset as usize));
        match (read, expected) {
            (Ok(Some((batch, row))), Some(expected)) => {
                let found = batch.row(row).map(|row| {
                    let same = (row.producer(), row.sequence()) == (expected.producer, expected.sequence);
                    let differs = crate::rows::difference(batch.attributes(), &row, expected.copy);
                    (same && crate::rows::body_is_exact(&batch, &row), differs)
                });
                let exact = matches!(found, Some((true, None)));
                self.oracle.court.demand(Law::DeliveredAsSent, exact, || {
                    format!("{queue} {offset}: {found:?}, expected {expected:?}")
                });
            }
            (Ok(None), _) | (Ok(Some(_)), None) => {
                self.oracle
                    .court
                    .demand(Law::DeliveredAsSent, gone, || format!("{queue} {offset} cannot be found"));
            }
            (Err(error), _) => self
                .oracle
                .court
                .demand(Law::DeliveredAsSent, gone, || format!("{queue} {offset}: {error}")),
        }
    }

    /// Asks a producer that can be asked, if there is one and nothing comes between.
    fn ask(&mut self, ask: &Ask) {
        let (queue, number) = ask.place;
        self.read_and_compare(queue, number.0);
        let clients = self.clients.iter().enumerate();
        let able: Vec<_> = clients.filter_map(|(client, of)| Some((client, of.answering()?))).collect();
        if able.is_empty() || !self.healed && self.random.chance(1, 4) {
            self.oracle.court.exercise(Law::AskNotDelivered);
            return self.turn(vec![Input::NotAsked { ask: ask.ask }]);
        }
        let (client, connection) = able[self.random.index(able.len())];
        let handle = Bytes::copy_from_slice(&ask.handle);
        self.network.answer(&mut self.random, client, connection, Event::Asked { handle });
        if let Some(shell) = &mut self.shell {
            shell.delivered.push(ask.ask);
        }
    }

    fn fetch(&mut self, fetch: FetchId, source: QueueId, offset: QueueOffset, copy: &Copied) {
        if matches!(copy, Copied::RolledBack(_)) && !self.healed && self.random.chance(1, 8) {
            return self.turn(vec![Input::FetchFailed { fetch }]);
        }
        let Some(shell) = &self.shell else { return };
        let batch: Option<Bytes> = match shell.read(source, offset.0) {
            Ok(Some((batch, row))) => Some(match copy {
                Copied::DeadLetter(dead) => crate::rows::dead_letter(&batch, row, source, offset, dead),
                Copied::RolledBack(back) => crate::rows::rolled_back(&batch, row, back),
                Copied::Revived => crate::rows::revived(&batch, row),
            }),
            Ok(None) | Err(_) => None,
        };
        if batch.is_none() {
            let gone = self.oracle.book.queues.get(&source).is_none_or(|model| offset.0 < model.start);
            self.oracle
                .court
                .demand(Law::DeliveredAsSent, gone, || format!("{source} {offset:?} cannot be fetched"));
            if let Copied::DeadLetter(dead) = copy {
                self.oracle.unreadable(source, offset.0, &dead.group);
            }
        }
        self.turn(vec![Input::Fetched { fetch, batch }]);
    }

    /// Reads messages that are due: all that are asked for, the first few, or at times none.
    fn fetch_due(&mut self, fetch: FetchId, calendar: QueueId, messages: &[Due], parts: &[PartId]) {
        let Some(shell) = &self.shell else { return };
        let most = match self.random.chance(1, 4) {
            true => self.random.within(1..messages.len() as u64 + 1) as usize,
            false => messages.len(),
        };
        let fails = !self.healed && self.random.chance(1, 30);
        let (mut merger, mut seen) = (BatchMerger::new(), SeenDelayed::default());
        for due in messages.iter().take(if fails { 0 } else { most }) {
            let message = FarOff::new(calendar.topic, *due);
            let waiting = shell.core.state().calendars.get(calendar.topic);
            // It may have come back from a part since it was asked for.
            let mut stale = false;
            if waiting.is_some_and(|waiting| waiting.is_taken(*due)) {
                let held = shell.core.state().parts.iter().filter(|(_, part)| part.may_have_held(message));
                let held: Vec<PartId> = held.map(|(part, _)| part).collect();
                stale = !held.iter().any(|part| parts.contains(part));
                // The log may have it still; one day it has not.
                let found = shell.reader.find_in_parts(message, &held);
                self.oracle.court.demand(Law::TakenIsInAPart, matches!(found, Ok(Some(_))), || {
                    format!("{message:?} was taken in and is in none of {held:?}: {found:?}")
                });
            }
            let read = shell.reader.delayed(message, parts, &mut seen);
            let added = match read {
                Ok(Some(Delayed { attributes, row, body })) => {
                    merger.add(&attributes, row..row + 1, body).map_err(|error| error.to_string())
                }
                Ok(None) => Err("it cannot be found".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            if let Err(error) = added {
                // Of what was recalled or deleted meanwhile nothing need be there.
                let waits = self.oracle.book.delays.waiting.contains_key(&(calendar.topic, due.number.0));
                self.oracle.court.demand(Law::DeliveredAsSent, !waits || stale, || {
                    format!("{calendar} {due:?} waits and cannot be read from {parts:?}: {error}")
                });
                break;
            }
        }
        let batch = Batch::parse(merger.take().into_bytes()).ok().filter(|batch| !batch.is_empty());
        self.turn(vec![Input::DueFetched { fetch, batch }]);
    }

    /// The broker failed by itself.
    pub(crate) fn broken(&mut self, facts: &str) {
        self.oracle.court.demand(Law::NoFailureOfItsOwn, false, || facts.to_owned());
    }
}

/// For each tag the offsets of a range whose message has it; nothing where the range is not `whole`.
fn content_tags(book: &Book, queue: QueueId, from: QueueOffset, to: QueueOffset, whole: bool) -> Vec<(&'static str, Vec<QueueOffset>)> {
    let Some(model) = book.queues.get(&queue).filter(|_| whole) else {
        return Vec::new();
    };
    let tag = |offset: u64| {
        let row = model.rows.get(offset as usize)?;
        content(row.producer, row.sequence).tag
    };
    let tags: Vec<_> = (from.0..to.0).map(|offset| (QueueOffset(offset), tag(offset))).collect();
    let with = |wanted: &str| {
        let those = tags.iter().filter(|(_, tag)| tag.as_deref() == Some(wanted));
        those.map(|(offset, _)| *offset).collect()
    };
    ["a", "b", "c"].map(|tag| (tag, with(tag))).into()
}
