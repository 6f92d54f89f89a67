//! A group's place in one queue as the records tell it: what is leased, what waits for another delivery, what is over.

mod places;

use std::collections::{BTreeMap, BTreeSet};

use sluice_log::record::{Change, CursorId, Fate, Holder, Record, ReturnReason};
use sluice_protocol::ids::Pass;

use super::asked::{Asked, Key};
use super::book::Book;
use super::dealings::{each, offsets_of};
use crate::content::Verdict;
use crate::laws::{Court, Law};

/// The model of one cursor.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The pass.
    pub pass: Pass,
    /// The frame whose record began the pass.
    pub pass_frame: u64,
    /// Where the pass began.
    start: u64,
    /// The first offset neither leased, parked nor skipped, of the messages of priority 0 or of all.
    pub frontier: u64,
    /// The same for the higher priorities that have lanes.
    upper: BTreeMap<u8, u64>,
    /// The last offset that was granted first in each lane.
    newest: BTreeMap<u8, u64>,
    /// What an ordered group found and is not over, and whether it matched.
    pub chained: BTreeMap<u64, bool>,
    /// What of it is over, and the frame that says so.
    pub ended: BTreeMap<u64, u64>,
    /// What of it was judged again and does not match, and the frame that says so.
    pub passed: BTreeMap<u64, u64>,
    /// What is neither settled nor untouched.
    pub held: BTreeMap<u64, Held>,
    /// Settled, and in which frame.
    pub settled: BTreeMap<u64, u64>,
    /// Extensions by offset and new end, and in which frame each was recorded last.
    pub extended: BTreeMap<(u64, u64), u64>,
    /// Dead-lettered in this pass.
    pub dead: BTreeSet<u64>,
    /// Held for a failure of the plugin.
    pub parked: BTreeSet<u64>,
    /// Sent back as dead letters, and after how many attempts.
    pub rounds: BTreeMap<u64, u16>,
    /// Over when the frontier went back to what was parked before it.
    pub over: BTreeSet<u64>,
    /// How many messages retention took before they were over, as the records say.
    pub lost: u64,
}

/// A message between its first delivery and its settlement.
#[derive(Clone, Debug)]
pub enum Held {
    /// Handed out.
    Leased {
        /// Which delivery.
        attempt: u16,
        /// When it was granted, or extended last, on the monotonic clock.
        granted_mono_ms: u64,
        /// When it ends.
        expires_mono_ms: u64,
        /// Whether it ends with its stream's connection.
        stream: bool,
    },
    /// Returned.
    Waiting {
        /// Which delivery is next.
        attempt: u16,
        /// Not before this.
        due_mono_ms: u64,
        /// Why the last was not settled.
        reason: ReturnReason,
    },
}

impl Held {
    /// Whether it had its last attempt, and not only expired.
    pub fn is_exhausted(&self) -> bool {
        matches!(self, Self::Waiting { due_mono_ms: u64::MAX, reason, .. } if *reason != ReturnReason::Outlived)
    }
}

impl Cursor {
    /// A cursor that begins at `start`, in its first pass.
    pub fn new(start: u64) -> Self {
        Self {
            pass: Pass(1),
            pass_frame: 0,
            start,
            frontier: start,
            upper: BTreeMap::new(),
            newest: BTreeMap::new(),
            chained: BTreeMap::new(),
            ended: BTreeMap::new(),
            passed: BTreeMap::new(),
            held: BTreeMap::new(),
            settled: BTreeMap::new(),
            extended: BTreeMap::new(),
            dead: BTreeSet::new(),
            parked: BTreeSet::new(),
            over: BTreeSet::new(),
            rounds: BTreeMap::new(),
            lost: 0,
        }
    }

    /// After how many attempts the present round of a message began.
    pub fn base(&self, offset: u64) -> u16 {
        self.rounds.get(&offset).copied().unwrap_or(0)
    }

    /// Whether a message is held, or was not come to yet.
    pub fn is_before(&self, lane: u8, offset: u64) -> bool {
        let over = self.settled.contains_key(&offset) || self.dead.contains(&offset) || self.over.contains(&offset);
        self.held.contains_key(&offset)
            || self.parked.contains(&offset)
            || self.chained.contains_key(&offset)
            || offset >= self.frontier_of(lane) && !over
    }

    /// A dead letter was sent back: the message is due again.
    pub fn sent_back(&mut self, offset: u64, attempts: u16, due_mono_ms: u64) {
        self.dead.remove(&offset);
        self.settled.remove(&offset);
        self.over.remove(&offset);
        self.rounds.insert(offset, attempts);
        let due = Held::Waiting {
            attempt: attempts + 1,
            due_mono_ms,
            reason: ReturnReason::Closed,
        };
        self.held.insert(offset, due);
    }

    /// Takes in a record of this cursor and pass.
    pub fn apply(&mut self, frame: u64, id: CursorId, record: &Record, book: &Book, asked: &mut Asked, court: &mut Court) {
        match &record.change {
            Change::Granted {
                holder,
                priority,
                leases,
                frontier,
                expires_mono_ms,
                ..
            } => {
                let stream = matches!(holder, Holder::Stream { .. });
                let granted_mono_ms = record.at.mono_ms;
                for (offset, attempt) in each(leases) {
                    let lease = Held::Leased {
                        attempt,
                        granted_mono_ms,
                        expires_mono_ms: *expires_mono_ms,
                        stream,
                    };
                    // What the plugin once failed on comes when it is decided about or judged again.
                    let late = asked.trials.was_reported(id, offset);
                    self.granted(id, *priority, offset, lease, late, granted_mono_ms, book, court);
                    self.lives(id, offset, record.at.wall_ms, book, court);
                    asked.known.granted(id, self, offset, record.at, book, court);
                    let key = Key {
                        cursor: id,
                        pass: self.pass,
                        offset,
                    };
                    asked.recorded(frame, key, attempt, granted_mono_ms, *expires_mono_ms);
                }
                self.moved(frame, id, *priority, frontier.0, record.at.mono_ms, book, asked, court);
            }
            Change::FrontierMoved {
                priority,
                frontier,
                parked,
                ..
            } => {
                for message in parked {
                    self.found(id, message, book, court);
                }
                self.moved(frame, id, *priority, frontier.0, record.at.mono_ms, book, asked, court);
            }
            Change::DeadlinesFound { deadlines, .. } => Self::dated(id, deadlines, book, court),
            Change::Expired { messages, fate, .. } => self.expired(frame, id, messages, *fate, record.at.wall_ms, book, court),
            Change::Settled { offsets, .. } => {
                for offset in offsets_of(offsets) {
                    let key = Key {
                        cursor: id,
                        pass: self.pass,
                        offset,
                    };
                    court.demand(Law::SettledAsAsked, asked.settlement(&key), || {
                        format!("{key:?} was settled unasked")
                    });
                    self.held.remove(&offset);
                    self.parked.remove(&offset);
                    self.settled.insert(offset, frame);
                    self.end(offset, frame);
                }
            }
            Change::Returned {
                leases,
                due_mono_ms,
                reason,
                ..
            } => {
                for (offset, attempt) in each(leases) {
                    self.returned(id, offset, attempt, *due_mono_ms, *reason, record.at.mono_ms, court);
                }
            }
            Change::Extended {
                offsets, expires_mono_ms, ..
            } => {
                for offset in offsets_of(offsets) {
                    self.extended.insert((offset, *expires_mono_ms), frame);
                    match self.held.get_mut(&offset) {
                        Some(Held::Leased {
                            expires_mono_ms: until,
                            granted_mono_ms,
                            ..
                        }) => {
                            *until = *expires_mono_ms;
                            *granted_mono_ms = record.at.mono_ms;
                        }
                        other => {
                            let other = format!("{other:?}");
                            court.require(Law::OneHolder, false, || format!("{id:?} {offset} was extended while {other}"));
                        }
                    }
                }
            }
            Change::Opened { .. }
            | Change::TopicCreated { .. }
            | Change::TopicDeleted { .. }
            | Change::GroupCreated { .. }
            | Change::GroupDeleted { .. }
            | Change::Subscribed { .. }
            | Change::PluginBound { .. }
            | Change::Appended { .. }
            | Change::DeadLettered { .. }
            | Change::Sought { .. }
            | Change::Trimmed { .. }
            | Change::ProducerForgotten { .. }
            | Change::CulpritDecided { .. }
            | Change::SubscriptionHeld { .. }
            | Change::SubscriptionResumed { .. }
            | Change::Operated(_)
            | Change::Delayed { .. }
            | Change::Released { .. }
            | Change::Recalled { .. }
            | Change::Prioritized { .. }
            | Change::Expiring { .. }
            | Change::Transaction(_)
            | Change::GivenIds(_)
            | Change::Restored(_)
            | Change::Parts(_) => {}
        }
    }

    /// Whether nobody may be given this message any more for the first time.
    pub fn is_touched(&self, offset: u64) -> bool {
        self.held.contains_key(&offset)
            || self.settled.contains_key(&offset)
            || [&self.dead, &self.parked, &self.over].iter().any(|those| those.contains(&offset))
    }

    #[allow(clippy::too_many_arguments, reason = "one lease and what it is judged by")]
    fn granted(&mut self, id: CursorId, lane: u8, offset: u64, lease: Held, late: bool, now: u64, book: &Book, court: &mut Court) {
        let Held::Leased { attempt, .. } = lease else { return };
        let attempts_max = self.base(offset) + book.groups.get(&id.group).map_or(0, |group| group.settings.attempts_max);
        court.demand(Law::AttemptsAreBounded, attempt <= attempts_max, || {
            format!("{id:?} {offset}: attempt {attempt} of {attempts_max}")
        });
        court.demand(Law::AckedNeverAgain, !self.settled.contains_key(&offset), || {
            format!("{id:?} {offset} is settled and granted again")
        });
        court.require(Law::DeadLetteredOnce, !self.dead.contains(&offset), || {
            format!("{id:?} {offset} is dead and granted again")
        });
        let over = self.over.contains(&offset) || self.parked.contains(&offset);
        court.require(Law::AckedNeverAgain, !over, || {
            format!("{id:?} {offset} is over or held and granted again")
        });
        court.require(Law::OrderPerGroup, self.is_head(id, offset, book), || {
            format!("{id:?} {offset} is granted while one before it in its message group is open")
        });
        let ordered = book.is_ordered(id);
        court.require(Law::HigherPriorityFirst, ordered || lane == book.priority(id, offset), || {
            format!("{id:?} {offset} of {} is granted in lane {lane}", book.priority(id, offset))
        });
        let frontier = self.frontier_of(lane);
        match self.held.insert(offset, lease) {
            None if ordered => {
                court.demand(Law::OrderPerGroup, self.chained.get(&offset) == Some(&true), || {
                    format!("{id:?} {offset} was granted and never found: {:?}", self.chained.get(&offset))
                });
                court.require(Law::AttemptsAreBounded, attempt == 1, || {
                    format!("{id:?} {offset}: a first grant is attempt {attempt}")
                });
            }
            None => {
                court.demand(Law::RulingVerdict, book.ruling(id, offset) == Some(Verdict::Deliver), || {
                    format!("{id:?} {offset} was granted, the ruling filter says {:?}", book.ruling(id, offset))
                });
                court.require(Law::AttemptsAreBounded, attempt == 1, || {
                    format!("{id:?} {offset}: a first grant is attempt {attempt}")
                });
                let newest = self.newest.entry(lane).or_insert(frontier);
                let in_order = offset >= frontier && (late || offset >= *newest);
                court.demand(Law::FirstDeliveriesInOrder, in_order, || {
                    format!("{id:?} {offset}: granted first after {newest}, the frontier is {frontier}")
                });
                *newest = offset.max(*newest);
            }
            Some(Held::Waiting {
                attempt: next,
                due_mono_ms,
                reason,
            }) => {
                court.exercise(Law::OneHolder);
                if reason == ReturnReason::Nacked {
                    court.exercise(Law::NackDelayIsKept);
                }
                court.demand(Law::AttemptsAreBounded, attempt == next, || {
                    format!("{id:?} {offset}: attempt {attempt} instead of {next}")
                });
                court.require(Law::NackDelayIsKept, now >= due_mono_ms, || {
                    format!("{id:?} {offset}: at {now} instead of {due_mono_ms}")
                });
            }
            Some(before @ Held::Leased { .. }) => {
                court.require(Law::OneHolder, false, || format!("{id:?} {offset} was granted while {before:?}"));
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of one record, told apart")]
    fn returned(&mut self, id: CursorId, offset: u64, attempt: u16, due_mono_ms: u64, reason: ReturnReason, now: u64, court: &mut Court) {
        if let Some(Held::Waiting {
            attempt: next,
            due_mono_ms: due,
            ..
        }) = self.held.get_mut(&offset)
            && due_mono_ms == u64::MAX
            && attempt + 1 == *next
        {
            // A start found that the stream it took the lease from had the last attempt.
            *due = due_mono_ms;
            return;
        }
        let Some(Held::Leased {
            attempt: leased,
            expires_mono_ms,
            ..
        }) = self.held.get(&offset)
        else {
            court.require(Law::OneHolder, false, || {
                format!("{id:?} {offset} was returned while {:?}", self.held.get(&offset))
            });
            return;
        };
        court.demand(Law::AttemptsAreBounded, attempt == *leased, || {
            format!("{id:?} {offset}: returned {attempt}, leased {leased}")
        });
        if reason == ReturnReason::Expired {
            court.exercise(Law::LeaseExpired);
            court.demand(Law::LeaseLastsItsTime, now >= *expires_mono_ms, || {
                format!("{id:?} {offset} expired at {now}, its lease runs to {expires_mono_ms}")
            });
        }
        let attempt = if reason == ReturnReason::Closed {
            attempt
        } else {
            attempt.saturating_add(1)
        };
        self.held.insert(
            offset,
            Held::Waiting {
                attempt,
                due_mono_ms,
                reason,
            },
        );
    }

    /// The broker started again: streams are gone, and what was leased to them is due.
    pub fn opened(&mut self, mono_ms: u64) {
        for held in self.held.values_mut() {
            if let Held::Leased { attempt, stream: true, .. } = *held {
                *held = Held::Waiting {
                    attempt: attempt.saturating_add(1),
                    due_mono_ms: mono_ms,
                    reason: ReturnReason::ConnectionLost,
                };
            }
        }
    }

    /// A new pass.
    pub fn sought(&mut self, frame: u64, pass: Pass, start: u64, court: &mut Court) {
        court.demand(Law::SeekEndsThePass, pass > self.pass, || {
            format!("{pass:?} follows {:?}", self.pass)
        });
        if self.held.values().any(|held| matches!(held, Held::Leased { .. })) {
            court.exercise(Law::SeekWithLeases);
        }
        *self = Self {
            pass,
            pass_frame: frame,
            lost: self.lost,
            ..Self::new(start)
        };
    }

    /// A message that the plugin failed on got what the binding said.
    pub fn decided(&mut self, frame: u64, id: CursorId, offset: u64, fate: &Fate, mono_ms: u64, court: &mut Court) {
        let ahead = self.upper.values().copied().fold(self.frontier, u64::min);
        court.require(Law::CulpritByTheRule, !self.is_touched(offset) && offset >= ahead, || {
            format!("{id:?} {offset} was decided about though it was handed out or over")
        });
        match fate {
            Fate::DeadLettered { .. } => {
                self.dead.insert(offset);
                self.end(offset, frame);
            }
            Fate::Held => drop(self.parked.insert(offset)),
            Fate::Skipped => {
                self.settled.insert(offset, frame);
                self.end(offset, frame);
            }
            Fate::Delivered if self.chained.contains_key(&offset) => drop(self.chained.insert(offset, true)),
            Fate::Delivered => {
                let due = Held::Waiting {
                    attempt: 1,
                    due_mono_ms: mono_ms,
                    reason: ReturnReason::Closed,
                };
                self.held.insert(offset, due);
            }
        }
    }

    /// The group goes on: what was parked is judged again, and what is over behind the frontier stays so.
    pub fn resumed(&mut self, priority: impl Fn(u64) -> u8, court: &mut Court) {
        let lanes: BTreeSet<u8> = self.parked.iter().map(|offset| priority(*offset)).collect();
        for lane in lanes {
            court.exercise(Law::CulpritReleased);
            let first = self.parked.iter().copied().find(|offset| priority(*offset) == lane).unwrap_or(0);
            let frontier = self.frontier_of(lane);
            let open = |offset: &u64| self.held.contains_key(offset) || self.parked.contains(offset) || self.chained.contains_key(offset);
            let over = (first..frontier).filter(|offset| priority(*offset) == lane && !open(offset));
            self.over.extend(over.collect::<Vec<_>>());
            match lane {
                0 => self.frontier = self.frontier.min(first),
                _ => drop(self.upper.insert(lane, frontier.min(first))),
            }
        }
        self.parked.clear();
        self.judged_anew();
    }

    /// Another rule judges from the frontier on: what the one before rejected may come after what it let through.
    pub fn judged_anew(&mut self) {
        self.newest.clear();
    }

    /// Retention took what lies below `start`.
    pub fn trimmed(&mut self, frame: u64, start: u64) {
        let lost = self.chained.range(..start).map(|(offset, _)| (*offset, frame));
        self.ended.extend(lost);
        self.held = self.held.split_off(&start);
        self.parked = self.parked.split_off(&start);
        self.chained = self.chained.split_off(&start);
        self.start = self.start.max(start);
        self.frontier = self.frontier.max(start);
        self.upper.values_mut().for_each(|frontier| *frontier = start.max(*frontier));
    }

    /// A message had its last attempt.
    pub fn dead_lettered(&mut self, frame: u64, pass: Pass, offset: u64, attempts_max: u16, court: &mut Court) {
        self.end(offset, frame);
        court.demand(Law::SeekEndsThePass, pass == self.pass, || {
            format!("dead-lettered in {pass:?} instead of {:?}", self.pass)
        });
        let last = match self.held.remove(&offset) {
            Some(Held::Waiting { attempt, reason, .. }) => reason == ReturnReason::Outlived || attempt > self.base(offset) + attempts_max,
            Some(Held::Leased { .. }) | None => false,
        };
        court.demand(Law::AttemptsAreBounded, last, || {
            format!("{offset} was dead-lettered before its last attempt was over")
        });
        court.demand(Law::DeadLetteredOnce, self.dead.insert(offset), || {
            format!("{offset} was dead-lettered twice")
        });
    }
}
