//! Those who use the broker: producers that retry, members that settle, forget and leave, an operator who interferes.

pub mod absence;
pub mod operator;
pub mod producer;
pub mod receiver;
pub mod stream;

use bytes::Bytes;
use sluice_core::input::{ConnectionId, Letter, NamedBy};
use sluice_log::record::Filter;

pub use self::absence::{Absence, Whereabouts};
pub use self::operator::{Operator, bind, on_failure};
pub use self::producer::{Producer, Temper};
pub use self::receiver::Receiver;
pub use self::stream::Stream;
use crate::content::PLUGIN;
use crate::network::{Event, Network};
use crate::oracle::operated::Named;
use crate::random::Random;

/// What a client sees of the world when it acts.
pub struct Surroundings<'a> {
    /// The chance of this run.
    pub random: &'a mut Random,
    /// The way to the broker.
    pub network: &'a mut Network,
    /// The time, in milliseconds since the run began.
    pub now_ms: u64,
    /// What the wall clock shows, to clients and broker alike.
    pub wall_ms: i64,
    /// The filter that each group is meant to use by now.
    pub wishes: &'a mut [Wish],
    /// A message that a group holds, as an operator may have seen it in a list.
    pub held: Option<Named>,
    /// Some dead letters of a group.
    pub letters: Option<(String, Vec<Letter>)>,
    /// What decides about a message that was given up.
    pub given_up: Option<Bytes>,
    /// All is well: no new work, no nack, no idleness.
    pub healed: bool,
}

/// A group's reading of a topic, and the filter that its members are configured with.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The group.
    pub group: String,
    /// The topic.
    pub topic: String,
    /// The expression; an empty one asks for everything without a plugin.
    pub expression: String,
    /// Whether each member is to get all.
    pub broadcast: bool,
    /// Whether the group is there, if it must be created.
    pub open: bool,
}

impl Wish {
    /// Who names the members.
    pub fn named_by(&self) -> NamedBy {
        match self.broadcast {
            true => NamedBy::Member,
            false => NamedBy::Client,
        }
    }

    /// The filter that the expression stands for.
    pub fn filter(expression: &str) -> Filter {
        if expression.is_empty() {
            Filter::All
        } else {
            Filter::Plugin {
                plugin: PLUGIN.to_owned(),
                expression: expression.to_owned(),
            }
        }
    }
}

/// One client of any kind.
#[derive(Debug)]
pub enum Client {
    /// Sends messages.
    Producer(Producer),
    /// Gets messages pushed.
    Stream(Stream),
    /// Fetches messages.
    Receiver(Receiver),
    /// Creates, deletes, seeks and binds.
    Operator(Operator),
}

impl Client {
    /// Does something, or nothing.
    pub fn act(&mut self, around: &mut Surroundings<'_>) {
        match self {
            Self::Producer(client) => client.act(around),
            Self::Stream(client) => match client.absence.now(client.wish, around) {
                Whereabouts::Here => client.act(around),
                Whereabouts::Leaves => {
                    let left = client.disconnect();
                    left.into_iter()
                        .for_each(|connection| around.network.disconnect(client.client, connection));
                }
                Whereabouts::Away => {}
            },
            Self::Receiver(client) => match client.absence.now(client.wish, around) {
                Whereabouts::Here => client.act(around),
                Whereabouts::Leaves => {
                    let left = client.leave();
                    left.into_iter()
                        .for_each(|connection| around.network.disconnect(client.client, connection));
                }
                Whereabouts::Away => {}
            },
            Self::Operator(client) => client.act(around),
        }
    }

    /// Hears from the broker.
    pub fn hear(&mut self, event: Event, around: &mut Surroundings<'_>) {
        match self {
            Self::Producer(client) => client.hear(event, around.random),
            Self::Stream(client) => client.hear(event),
            Self::Receiver(client) => client.hear(event, around),
            Self::Operator(client) => client.hear(event),
        }
    }

    /// The connection on which it said that it answers for prepared messages, if it did.
    pub fn answering(&self) -> Option<ConnectionId> {
        match self {
            Self::Producer(client) => client.answering(),
            Self::Stream(_) | Self::Receiver(_) | Self::Operator(_) => None,
        }
    }

    /// The connection it has, which it now loses.
    pub fn disconnect(&mut self) -> Option<ConnectionId> {
        match self {
            Self::Producer(client) => client.connection.take(),
            Self::Stream(client) => client.disconnect(),
            Self::Receiver(client) => client.disconnect(),
            Self::Operator(client) => client.disconnect(),
        }
    }

    /// Whether it has nothing left to do of its own.
    pub fn is_done(&self) -> bool {
        match self {
            Self::Producer(client) => client.is_done(),
            Self::Stream(client) => client.is_done(),
            Self::Receiver(client) => client.is_done(),
            Self::Operator(client) => client.is_done(),
        }
    }
}
