//! Between clients and broker: packets that come late, in another order between streams, twice, or never.

use bytes::Bytes;
use sluice_core::effect::Answer;
use sluice_core::input::{ConnectionId, Input, RequestId, SubscriptionId};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::{Pass, QueueIndex};

use crate::random::Random;

/// What a client hears.
#[derive(Clone, Debug)]
pub enum Event {
    /// The answer to a request.
    Answered {
        /// Which request.
        request: RequestId,
        /// What it got.
        answer: Result<Answer, Refusal>,
    },
    /// Messages for a receive, by their handles.
    Received {
        /// Which receive.
        request: RequestId,
        /// One for each message.
        handles: Vec<Bytes>,
    },
    /// Messages pushed on a stream.
    Pushed {
        /// Which stream.
        subscription: SubscriptionId,
        /// The queue they are from.
        queue: QueueIndex,
        /// The pass under which they are leased.
        pass: Pass,
        /// The number of the first.
        first_number: u64,
        /// How many.
        count: u64,
    },
    /// What was pushed from this queue is void.
    Reset {
        /// Which stream.
        subscription: SubscriptionId,
        /// The queue.
        queue: QueueIndex,
    },
    /// What becomes of a prepared message?
    Asked {
        /// What decides about it.
        handle: Bytes,
    },
    /// The stream is over.
    Ended {
        /// Which stream.
        subscription: SubscriptionId,
        /// Why.
        refusal: Refusal,
    },
}

/// Something on its way.
#[derive(Clone, Debug)]
pub struct Packet<T> {
    /// The client that sent it or is to get it.
    pub client: usize,
    /// The connection it travels on.
    pub connection: ConnectionId,
    /// Packets of one lane and connection keep their order.
    pub lane: u64,
    /// The content.
    pub body: T,
}

/// Everything under way in both directions.
#[derive(Debug, Default)]
pub struct Network {
    to_broker: Vec<Packet<Input>>,
    to_clients: Vec<Packet<Event>>,
    connections: u64,
    requests: u64,
    /// Out of 1,000 packets that may be lost alone, so many are.
    pub losses_per_mille: u64,
}

impl Network {
    /// A network that loses so many out of 1,000 of the packets that may be lost alone.
    pub fn losing(losses_per_mille: u64) -> Self {
        Self {
            losses_per_mille,
            ..Self::default()
        }
    }

    /// A connection that was never used.
    pub fn connect(&mut self) -> ConnectionId {
        self.connections += 1;
        ConnectionId(self.connections)
    }

    /// A number for a request or a subscription that was never used.
    pub fn number(&mut self) -> u64 {
        self.requests += 1;
        self.requests
    }

    /// A client sends a request on a stream of its own: it may be lost alone.
    pub fn request(&mut self, random: &mut Random, client: usize, connection: ConnectionId, body: Input) {
        let lane = self.number();
        if !random.chance(self.losses_per_mille, 1000) {
            self.to_broker.push(Packet {
                client,
                connection,
                lane,
                body,
            });
        }
    }

    /// A client sends on a stream that it holds open: nothing is lost while the connection lives.
    pub fn send(&mut self, client: usize, connection: ConnectionId, lane: u64, body: Input) {
        self.to_broker.push(Packet {
            client,
            connection,
            lane,
            body,
        });
    }

    /// The broker answers on the stream of a request: the answer may be lost alone.
    pub fn answer(&mut self, random: &mut Random, client: usize, connection: ConnectionId, body: Event) {
        let lane = self.number();
        if !random.chance(self.losses_per_mille, 1000) {
            self.to_clients.push(Packet {
                client,
                connection,
                lane,
                body,
            });
        }
    }

    /// The broker sends on a stream that it holds open.
    pub fn push(&mut self, client: usize, connection: ConnectionId, lane: u64, body: Event) {
        self.to_clients.push(Packet {
            client,
            connection,
            lane,
            body,
        });
    }

    /// A packet arrives at the broker, if one is under way.
    pub fn arrive(&mut self, random: &mut Random) -> Option<Packet<Input>> {
        take(random, &mut self.to_broker)
    }

    /// A packet arrives at its client, if one is under way.
    pub fn return_to_client(&mut self, random: &mut Random) -> Option<Packet<Event>> {
        take(random, &mut self.to_clients)
    }

    /// The connection breaks: what is under way is lost, and the broker will hear of it.
    pub fn disconnect(&mut self, client: usize, connection: ConnectionId) {
        self.to_broker.retain(|packet| packet.connection != connection);
        self.to_clients.retain(|packet| packet.connection != connection);
        self.to_broker.push(Packet {
            client,
            connection,
            lane: 0,
            body: Input::Disconnected { connection },
        });
    }

    /// The broker is gone, and every connection with it.
    pub fn broker_gone(&mut self) {
        self.to_broker.clear();
        self.to_clients.clear();
    }

    /// Whether nothing is under way.
    pub fn is_quiet(&self) -> bool {
        self.to_broker.is_empty() && self.to_clients.is_empty()
    }
}

/// Takes a random packet, or rather the oldest of its lane.
fn take<T>(random: &mut Random, packets: &mut Vec<Packet<T>>) -> Option<Packet<T>> {
    if packets.is_empty() {
        return None;
    }
    let chosen = random.index(packets.len());
    let (connection, lane) = (packets[chosen].connection, packets[chosen].lane);
    let oldest = packets
        .iter()
        .position(|packet| packet.connection == connection && packet.lane == lane)?;
    Some(packets.remove(oldest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_keeps_its_order() {
        let (mut network, mut random) = (Network::default(), Random::new(3));
        let connection = network.connect();
        for messages in 0..20 {
            network.send(
                0,
                connection,
                5,
                Input::Credit {
                    subscription: SubscriptionId(1),
                    messages,
                },
            );
        }
        for expected in 0..20 {
            let packet = network.arrive(&mut random).unwrap();
            assert!(matches!(packet.body, Input::Credit { messages, .. } if messages == expected));
        }
        assert!(network.is_quiet());
    }
}
