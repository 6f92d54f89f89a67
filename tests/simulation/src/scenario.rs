//! Who takes part in a run: topics, groups with their settings, producers, members and the operator, all drawn from the seed.

use std::collections::VecDeque;

use sluice_core::CoreConfig;
use sluice_core::input::Admin;
use sluice_log::record::{Backoff, GroupSettings, OnExhausted, OnExpired, Sharing, StartPoint, TopicSettings};
use sluice_protocol::ids::ProducerId;

use crate::clients::{Client, Operator, Producer, Receiver, Stream, Temper, Wish, bind, on_failure};
use crate::content::EXPRESSIONS;
use crate::random::Random;

/// The topics; the last one may be deleted at any time.
pub const TOPICS: [&str; 3] = ["orders", "events", "scratch"];

/// When producers are asked about prepared messages, and how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// How long after it was prepared, in milliseconds.
    pub first_ms: u64,
    /// How long after the ask before, in milliseconds.
    pub interval_ms: u64,
    /// After so many that were delivered a message is given up.
    pub max: u16,
}

/// What is far off, and in how many messages a part is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Far {
    /// What is due within so many milliseconds waits in memory; `None` for all.
    pub near_ms: Option<i64>,
    /// Messages in a part.
    pub part_messages: usize,
    /// So many parts are merged.
    pub merged_parts: usize,
}

/// The cast of a run.
#[derive(Debug)]
pub struct Scenario {
    /// What each group is meant to read.
    pub wishes: Vec<Wish>,
    /// Everybody.
    pub clients: Vec<Client>,
    /// After so many bytes of log a checkpoint is due.
    pub checkpoint_bytes: u64,
    /// The size of a segment.
    pub segment_bytes: u64,
    /// Whether frames count as durable once they are written.
    pub lazy: bool,
    /// What the windows of all producers may take.
    pub producer_memory_bytes: u64,
    /// What the ids that producers gave may take together.
    pub given_ids_memory_bytes: u64,
    /// How many messages must be judged with one that the plugin failed on.
    pub culprit_quorum: u64,
    /// The settings of groups that nobody created.
    pub group: GroupSettings,
    /// After so long a member of a broadcast group is forgotten that is absent.
    pub member_absent_ms: u64,
    /// When producers are asked.
    pub asks: Asks,
    /// What is far off.
    pub far: Far,
}

impl Scenario {
    /// Draws a cast.
    pub fn draw(random: &mut Random) -> Self {
        let mut first = VecDeque::from([bind(1, on_failure(random))]);
        for topic in TOPICS {
            if !random.chance(1, 4) {
                let settings = TopicSettings {
                    queues: random.within(1..4) as u16,
                    retention_ms: 0,
                    retention_bytes: 0,
                    ttl_ms: if random.chance(1, 5) {
                        *random.pick(&[300, 5_000, 60_000])
                    } else {
                        0
                    },
                    on_expired: if random.chance(1, 2) {
                        OnExpired::DeadLetter
                    } else {
                        OnExpired::Skip
                    },
                };
                first.push_back(Admin::CreateTopic {
                    name: topic.to_owned(),
                    settings,
                });
            }
        }
        let mut wishes = Vec::new();
        for number in 0..random.within(2..5) {
            let group = format!("group-{number}");
            if !random.chance(1, 6) {
                first.push_back(Admin::CreateGroup {
                    name: group.clone(),
                    settings: group_settings(random),
                });
            }
            let expression = if random.chance(1, 4) {
                String::new()
            } else {
                (*random.pick(&EXPRESSIONS)).to_owned()
            };
            wishes.push(Wish {
                group,
                topic: (*random.pick(&TOPICS)).to_owned(),
                expression,
                broadcast: false,
                open: true,
            });
        }
        first.insert(1, broadcast(random, &mut wishes));
        if random.chance(1, 2) {
            wishes.push(Wish {
                group: "morgue".to_owned(),
                topic: "%DLQ%group-0".to_owned(),
                expression: if random.chance(1, 2) {
                    String::new()
                } else {
                    (*random.pick(&EXPRESSIONS)).to_owned()
                },
                broadcast: false,
                open: true,
            });
        }
        if random.chance(1, 3) {
            wishes.push(Wish {
                group: "registry".to_owned(),
                topic: "%SYS%rolled-back".to_owned(),
                expression: String::new(),
                broadcast: false,
                open: true,
            });
        }
        let mut clients = Vec::new();
        for _ in 0..random.within(1..4) {
            let id = ProducerId(u128::from(random.bits()) << 64 | u128::from(random.bits()));
            let budget = random.within(20..160);
            clients.push(Client::Producer(Producer::new(
                clients.len(),
                id,
                TOPICS.map(str::to_owned).to_vec(),
                budget,
                // Somebody can be asked in every run.
                if clients.is_empty() {
                    *random.pick(&[Temper::Answers, Temper::Hangs])
                } else {
                    *random.pick(&[Temper::Answers, Temper::Hangs, Temper::Deaf])
                },
            )));
        }
        for (wish, wished) in wishes.iter().enumerate() {
            for member in 0..random.within(1..4) {
                let client = clients.len();
                // Several streams and receives of one member of a broadcast group share what that gets.
                let name = match wished.broadcast {
                    true if random.chance(1, 4) => "listener-0".to_owned(),
                    true => format!("listener-{member}"),
                    false => format!("member-{wish}-{member}"),
                };
                clients.push(if random.chance(1, 2) {
                    Client::Stream(Stream::new(client, wish, name, random.chance(1, 6)))
                } else {
                    Client::Receiver(Receiver::new(client, wish, name))
                });
            }
        }
        let scratch = TOPICS[TOPICS.len() - 1].to_owned();
        clients.push(Client::Operator(Operator::new(clients.len(), scratch, first)));
        Self {
            wishes,
            clients,
            checkpoint_bytes: random.within(4 << 10..64 << 10),
            segment_bytes: 4096 << random.below(5),
            lazy: random.chance(1, 5),
            culprit_quorum: *random.pick(&[12, 40, 1_024]),
            member_absent_ms: *random.pick(&[1_500, 6_000, 30_000]),
            group: if random.chance(1, 2) {
                group_settings(random)
            } else {
                CoreConfig::default().group
            },
            asks: Asks {
                first_ms: *random.pick(&[50, 1_000, 6_000]),
                interval_ms: *random.pick(&[50, 800, 3_000]),
                max: random.within(1..4) as u16,
            },
            producer_memory_bytes: if random.chance(1, 6) { random.within(300..1_000) } else { 1 << 20 },
            given_ids_memory_bytes: if random.chance(1, 6) { random.within(300..3_000) } else { 1 << 20 },
            far: Far {
                near_ms: *random.pick(&[None, Some(5), Some(100), Some(1_000)]),
                part_messages: *random.pick(&[1, 4, 16]),
                merged_parts: *random.pick(&[2, 3]),
            },
        }
    }
}

/// A broadcast group, which is to be created.
fn broadcast(random: &mut Random, wishes: &mut Vec<Wish>) -> Admin {
    let (name, expression) = ("tower".to_owned(), *random.pick(&["", EXPRESSIONS[0], EXPRESSIONS[1]]));
    wishes.push(Wish {
        group: name.clone(),
        topic: (*random.pick(&TOPICS)).to_owned(),
        expression: expression.to_owned(),
        broadcast: true,
        open: false,
    });
    let settings = GroupSettings {
        start: StartPoint::Latest,
        sharing: Sharing::Broadcast,
        ..group_settings(random)
    };
    Admin::CreateGroup { name, settings }
}

fn group_settings(random: &mut Random) -> GroupSettings {
    let backoff = match random.below(3) {
        0 => Backoff::Fixed {
            wait_ms: random.below(1_500),
        },
        1 => Backoff::Exponential {
            first_ms: random.within(1..500),
            max_ms: 2_000,
        },
        _ => Backoff::Table {
            waits_ms: vec![10, 300, 1_000],
        },
    };
    GroupSettings {
        attempts_max: random.within(1..4) as u16,
        backoff,
        start: StartPoint::Earliest,
        ordered: random.chance(1, 2),
        on_exhausted: if random.chance(1, 6) {
            OnExhausted::Hold
        } else {
            OnExhausted::DeadLetter
        },
        oldest_every: *random.pick(&[0, 2, 4, 16]),
        sharing: Sharing::Shared,
    }
}
