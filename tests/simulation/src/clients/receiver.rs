//! A receive member: fetches a few messages, settles them by receipt handles, late, twice or never.

use bytes::Bytes;
use sluice_core::input::{Action, ConnectionId, Consume, Input, RequestId};

use super::{Absence, Surroundings, Wish};
use crate::network::Event;

/// Old handles kept for mischief.
const OLD_HANDLES_MAX: usize = 20;

/// A member that fetches messages.
#[derive(Debug)]
pub struct Receiver {
    /// Its number among the clients.
    pub client: usize,
    /// Which group's reading it takes part in.
    pub wish: usize,
    /// Its name.
    pub member: String,
    /// When it is there.
    pub absence: Absence,
    connection: Option<ConnectionId>,
    waiting: Option<Waiting>,
    held: Vec<Bytes>,
    old: Vec<Bytes>,
    expression: Option<String>,
}

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    until_ms: u64,
}

impl Receiver {
    /// A member that is not connected yet.
    pub fn new(client: usize, wish: usize, member: String) -> Self {
        Self {
            client,
            wish,
            member,
            connection: None,
            waiting: None,
            held: Vec::new(),
            old: Vec::new(),
            expression: None,
            absence: Absence::default(),
        }
    }

    /// Fetches, or settles what it has.
    pub fn act(&mut self, around: &mut Surroundings<'_>) {
        let connection = *self.connection.get_or_insert_with(|| around.network.connect());
        if !self.held.is_empty() && !around.random.chance(1, 3) {
            self.settle(connection, around);
        } else if !self.old.is_empty() && !around.healed && around.random.chance(1, 10) {
            let mut handles = vec![around.random.pick(&self.old).clone()];
            if around.random.chance(1, 4) {
                handles.insert(0, forged(&handles[0], around));
            }
            self.send(connection, handles, Action::Ack, around);
        } else if let Some(waiting) = &self.waiting {
            if around.now_ms > waiting.until_ms {
                let request = waiting.request;
                around
                    .network
                    .request(around.random, self.client, connection, Input::Cancelled { request });
                self.waiting = None;
            }
        } else {
            self.receive(connection, around);
        }
    }

    fn receive(&mut self, connection: ConnectionId, around: &mut Surroundings<'_>) {
        let wish = &around.wishes[self.wish];
        let expression = self.expression.get_or_insert_with(|| wish.expression.clone());
        let ask = Consume {
            group: wish.group.clone(),
            topic: wish.topic.clone(),
            member: self.member.clone(),
            named_by: wish.named_by(),
            filter: Wish::filter(expression),
            start: None,
        };
        let request = RequestId(around.network.number());
        let (max, wait_ms) = (around.random.within(1..9) as u16, wait(around));
        let invisible_ms = around.random.within(1_000..5_000);
        let body = Input::Receive {
            request,
            connection,
            ask,
            max,
            wait_ms,
            invisible_ms,
        };
        around.network.request(around.random, self.client, connection, body);
        self.waiting = Some(Waiting {
            request,
            until_ms: around.now_ms + u64::from(wait_ms) + 2_000,
        });
    }

    fn settle(&mut self, connection: ConnectionId, around: &mut Surroundings<'_>) {
        let most = around.random.within(1..self.held.len() as u64 + 1) as usize;
        let handles: Vec<Bytes> = self.held.drain(..most).collect();
        let action = match around.random.below(12) {
            _ if around.healed => Action::Ack,
            0 => Action::Nack { delay_ms: None },
            1 => Action::Nack {
                delay_ms: Some(around.random.below(3_000)),
            },
            2 => {
                self.held.extend(handles.iter().cloned());
                Action::Extend {
                    invisible_ms: around.random.within(1_000..5_000),
                }
            }
            3 => {
                self.remember(handles);
                return;
            }
            _ => Action::Ack,
        };
        if around.random.chance(1, 8) {
            self.send(connection, handles.clone(), action, around);
        }
        self.remember(handles.clone());
        self.send(connection, handles, action, around);
    }

    fn remember(&mut self, handles: Vec<Bytes>) {
        self.old.extend(handles);
        let surplus = self.old.len().saturating_sub(OLD_HANDLES_MAX);
        self.old.drain(..surplus);
    }

    fn send(&self, connection: ConnectionId, handles: Vec<Bytes>, action: Action, around: &mut Surroundings<'_>) {
        let request = RequestId(around.network.number());
        around.network.request(
            around.random,
            self.client,
            connection,
            Input::SettleHandles { request, handles, action },
        );
    }

    /// Hears from the broker.
    pub fn hear(&mut self, event: Event, around: &mut Surroundings<'_>) {
        match event {
            Event::Received { request, handles } => {
                if self.waiting.as_ref().is_some_and(|waiting| waiting.request == request) {
                    self.waiting = None;
                }
                self.held.extend(handles);
            }
            Event::Answered { request, answer } => {
                if self.waiting.as_ref().is_some_and(|waiting| waiting.request == request) {
                    self.waiting = None;
                    if answer.is_err() || around.random.chance(1, 8) {
                        self.expression = None;
                    }
                }
            }
            Event::Pushed { .. } | Event::Reset { .. } | Event::Asked { .. } | Event::Ended { .. } => {}
        }
    }

    /// Leaves with nothing.
    pub fn leave(&mut self) -> Option<ConnectionId> {
        self.held.clear();
        self.disconnect()
    }

    /// Loses its connection, not its handles.
    pub fn disconnect(&mut self) -> Option<ConnectionId> {
        self.waiting = None;
        self.connection.take()
    }

    /// Whether it holds nothing, or left for good: what reached it after that comes back to its group by itself.
    pub fn is_done(&self) -> bool {
        self.absence.is_gone() || self.held.is_empty()
    }
}

/// How long to wait for messages: now and then not at all.
fn wait(around: &mut Surroundings<'_>) -> u32 {
    if around.random.chance(1, 5) {
        0
    } else {
        around.random.below(3_000) as u32
    }
}

/// A handle with one bit changed.
fn forged(handle: &Bytes, around: &mut Surroundings<'_>) -> Bytes {
    let mut bytes = handle.to_vec();
    let place = around.random.index(bytes.len());
    bytes[place] ^= 1 << around.random.below(8);
    bytes.into()
}
