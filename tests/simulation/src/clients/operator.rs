//! The operator: binds the plugin, makes topics and groups, and in the midst of traffic seeks, deletes, rebinds and changes filters.

use std::collections::VecDeque;

use sluice_core::input::{Admin, ConnectionId, Decision, Input, LeasePlace, RequestId, SeekTo};
use sluice_log::record::{OnFailure, PluginLimits};
use sluice_protocol::ids::{GroupId, QueueIndex, QueueOffset, TopicId};

use super::{Surroundings, Wish};
use crate::content::{EXPRESSIONS, PLUGIN, digest};
use crate::network::Event;
use crate::random::Random;

/// The operator's name.
const OPERATOR: &str = "operator";

/// After so long without an answer the operator tries again.
const RETRY_AFTER_MS: u64 = 2_000;

/// The one operator of a run.
#[derive(Debug)]
pub struct Operator {
    /// Its number among the clients.
    pub client: usize,
    /// The topic that may be deleted.
    pub scratch: String,
    /// What must be done before anything else, in order.
    pub first: VecDeque<Admin>,
    connection: Option<ConnectionId>,
    waiting: Option<(RequestId, u64)>,
    /// Groups that it went on with since all is well.
    resumed: usize,
}

impl Operator {
    /// An operator with these things to do first.
    pub fn new(client: usize, scratch: String, first: VecDeque<Admin>) -> Self {
        Self {
            client,
            scratch,
            first,
            connection: None,
            waiting: None,
            resumed: 0,
        }
    }

    /// Interferes.
    pub fn act(&mut self, around: &mut Surroundings<'_>) {
        let connection = *self.connection.get_or_insert_with(|| around.network.connect());
        if self
            .waiting
            .as_ref()
            .is_some_and(|(_, sent_ms)| around.now_ms < sent_ms + RETRY_AFTER_MS)
        {
            return;
        }
        if self.first.is_empty() && around.given_up.is_some() && around.random.chance(1, 12) {
            return self.commit(connection, around);
        }
        let admin = match self.first.front() {
            Some(admin) => admin.clone(),
            None if around.healed && !around.random.chance(1, 10) => return,
            None if around.healed => self.resume_next(around),
            None => {
                around.wishes.iter_mut().for_each(|wish| wish.open = true);
                match self.interfere(around) {
                    Some(admin) => admin,
                    None => return,
                }
            }
        };
        let request = RequestId(around.network.number());
        self.waiting = Some((request, around.now_ms));
        around
            .network
            .request(around.random, self.client, connection, Input::Admin { request, admin });
    }

    /// Goes on with one group after the other, so that none is left held.
    fn resume_next(&mut self, around: &Surroundings<'_>) -> Admin {
        let (round, chosen) = (self.resumed / around.wishes.len(), self.resumed % around.wishes.len());
        self.resumed += 1;
        let wish = &around.wishes[chosen];
        let name = match wish.broadcast && round % 2 == 1 {
            true => first_member(wish),
            false => wish.group.clone(),
        };
        resume(name)
    }

    /// Commits a message that was given up, at times twice.
    fn commit(&mut self, connection: ConnectionId, around: &mut Surroundings<'_>) {
        let Some(handle) = around.given_up.take() else { return };
        for _ in 0..around.random.within(1..3) {
            let input = Input::Decide {
                request: RequestId(around.network.number()),
                handles: vec![handle.clone()],
                decision: Decision::Commit,
                operator: Some(OPERATOR.to_owned()),
            };
            around.network.request(around.random, self.client, connection, input);
        }
    }

    fn interfere(&mut self, around: &mut Surroundings<'_>) -> Option<Admin> {
        let random = &mut *around.random;
        let chosen = random.index(around.wishes.len());
        let group = named(&around.wishes[chosen], random, 8);
        match random.below(40) {
            0..=3 => Some(seek(&group, &around.wishes[chosen].topic, around.now_ms, random)),
            4 => Some(Admin::DeleteTopic {
                name: self.scratch.clone(),
            }),
            5 => Some(bind(random.within(1..3) as u8, on_failure(random))),
            6..=8 => {
                let wish = &mut around.wishes[chosen];
                if !wish.topic.starts_with('%') {
                    wish.expression = (*random.pick(&EXPRESSIONS)).to_owned();
                }
                None
            }
            9 => Some(Admin::DescribeGroup {
                name: group,
                from: TopicId::default(),
            }),
            10 => Some(Admin::DescribeTopic {
                name: around.wishes[chosen].topic.clone(),
            }),
            11 => Some(Admin::ListGroups { from: GroupId::default() }),
            12 => Some(Admin::ListTopics { from: TopicId::default() }),
            13 => Some(Admin::ListPlugins),
            14..=15 | 35..=36 => {
                let chosen = around.random.index(around.wishes.len());
                Some(resume(named(&around.wishes[chosen], around.random, 2)))
            }
            16..=17 | 37..=38 => Some(Admin::PauseGroup {
                name: group,
                topic: random.chance(1, 2).then(|| around.wishes[chosen].topic.clone()),
                by: OPERATOR.to_owned(),
            }),
            18 => Some(Admin::ResumeGroup {
                name: group,
                topic: Some(around.wishes[chosen].topic.clone()),
                by: OPERATOR.to_owned(),
            }),
            19..=22 => Some(skip(around, chosen)),
            23 => Some(Admin::PurgeGroup {
                group,
                topic: around.wishes[chosen].topic.clone(),
            }),
            25..=27 => around.letters.take().map(|(group, letters)| Admin::ResendDeadLetters {
                group,
                letters,
                by: OPERATOR.to_owned(),
            }),
            29..=34 => Some(Admin::GrowTopic {
                name: around.wishes[chosen].topic.clone(),
                queues: random.within(2..9) as u16,
                by: OPERATOR.to_owned(),
            }),
            28 => around.letters.take().map(|(group, _)| Admin::DiscardDeadLetters {
                group,
                from: QueueOffset(random.below(3)),
                to: random.chance(1, 2).then_some(QueueOffset(4)),
                most: random.within(1..4),
                by: OPERATOR.to_owned(),
            }),
            24 => Some(Admin::ListLeases {
                group,
                topic: None,
                from: LeasePlace::default(),
            }),
            _ => None,
        }
    }

    /// Hears an answer.
    pub fn hear(&mut self, event: Event) {
        if let Event::Answered { request, .. } = event
            && self.waiting.as_ref().is_some_and(|(waited, _)| *waited == request)
        {
            self.waiting = None;
            self.first.pop_front();
        }
    }

    /// Loses the connection; what was not answered is tried again.
    pub fn disconnect(&mut self) -> Option<ConnectionId> {
        self.waiting = None;
        self.connection.take()
    }

    /// Whether all that had to be done was done.
    pub fn is_done(&self) -> bool {
        self.first.is_empty()
    }
}

/// The name of a group, or one time in so many of the first member of a broadcast group.
fn named(wish: &Wish, random: &mut Random, one_in: u64) -> String {
    match wish.broadcast && random.chance(1, one_in) {
        true => first_member(wish),
        false => wish.group.clone(),
    }
}

fn first_member(wish: &Wish) -> String {
    format!("{}/listener-0", wish.group)
}

/// Goes on with a group, whether or not it is held.
fn resume(name: String) -> Admin {
    Admin::ResumeGroup {
        name,
        topic: None,
        by: OPERATOR.to_owned(),
    }
}

/// Skips a message that a group holds, or any.
fn skip(around: &mut Surroundings<'_>, chosen: usize) -> Admin {
    let wish = &around.wishes[chosen];
    let random = &mut *around.random;
    let any = (
        wish.group.clone(),
        wish.topic.clone(),
        QueueIndex(random.below(2) as u16),
        random.below(20),
    );
    let held = around.held.take().filter(|_| random.chance(2, 3));
    let (group, topic, queue, offset) = held.unwrap_or(any);
    Admin::SkipMessage {
        group,
        topic,
        queue,
        offset: QueueOffset(offset),
        by: OPERATOR.to_owned(),
    }
}

/// Any of what may become of the messages that a plugin fails on.
pub fn on_failure(random: &mut Random) -> OnFailure {
    *random.pick(&[OnFailure::DeadLetter, OnFailure::Hold, OnFailure::Deliver, OnFailure::Skip])
}

/// Binds a version of the plugin.
pub fn bind(version: u8, on_failure: OnFailure) -> Admin {
    let limits = PluginLimits {
        fuel_per_run: 1_000,
        fuel_per_message: 100,
        run_ms: 50,
        memory_bytes: 1 << 20,
    };
    Admin::BindPlugin {
        name: PLUGIN.to_owned(),
        digest: digest(version),
        limits,
        on_failure,
    }
}

fn seek(group: &str, topic: &str, now_ms: u64, random: &mut Random) -> Admin {
    let to = match random.below(4) {
        0 => SeekTo::Earliest,
        1 => SeekTo::Latest,
        2 => SeekTo::Offset(QueueOffset(random.below(60))),
        _ => SeekTo::Time {
            wall_ms: crate::clock::WALL_AT_START_MS + random.below(now_ms + 1) as i64,
        },
    };
    let queue = random.chance(1, 2).then(|| QueueIndex(random.below(2) as u16));
    Admin::Seek {
        group: group.to_owned(),
        topic: topic.to_owned(),
        queue,
        to,
    }
}
