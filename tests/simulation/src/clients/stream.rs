//! A stream member: gives credit, settles by numbers one by one or cumulatively, gets stuck, leaves and comes back.

use sluice_core::effect::Answer;
use sluice_core::input::{Action, ConnectionId, Consume, Input, Numbers, RequestId, SubscriptionId};
use sluice_protocol::ids::{Pass, QueueIndex};

use super::{Absence, Surroundings, Wish};
use crate::network::Event;

/// The credit a member keeps given.
const CREDIT: u64 = 12;

/// A member that gets messages pushed.
#[derive(Debug)]
pub struct Stream {
    /// Its number among the clients.
    pub client: usize,
    /// Which group's reading it takes part in.
    pub wish: usize,
    /// Its name.
    pub member: String,
    /// When it is there.
    pub absence: Absence,
    /// Does nothing with what it holds, as long as not all is well.
    pub stuck: bool,
    connection: Option<ConnectionId>,
    open: Option<Open>,
    held: Vec<Held>,
    /// The filter it was started with.
    expression: Option<String>,
}

#[derive(Debug)]
struct Open {
    subscription: SubscriptionId,
    request: RequestId,
    answered: bool,
    credit: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    queue: QueueIndex,
    pass: Pass,
    number: u64,
}

impl Stream {
    /// A member that is not connected yet.
    pub fn new(client: usize, wish: usize, member: String, stuck: bool) -> Self {
        Self {
            client,
            wish,
            member,
            stuck,
            connection: None,
            open: None,
            held: Vec::new(),
            expression: None,
            absence: Absence::default(),
        }
    }

    /// Connects, subscribes, gives credit, settles or leaves.
    pub fn act(&mut self, around: &mut Surroundings<'_>) {
        let connection = *self.connection.get_or_insert_with(|| around.network.connect());
        let Some(open) = &mut self.open else {
            self.subscribe(connection, around);
            return;
        };
        if !open.answered {
            return;
        }
        let subscription = open.subscription;
        if open.credit < CREDIT / 2 {
            let messages = CREDIT - open.credit;
            open.credit = CREDIT;
            let credit = Input::Credit {
                subscription,
                messages: messages as u32,
            };
            around.network.send(self.client, connection, subscription.0, credit);
        }
        if !around.healed && around.random.chance(1, 60) {
            let request = RequestId(around.network.number());
            around.network.send(
                self.client,
                connection,
                subscription.0,
                Input::Unsubscribe { request, subscription },
            );
            self.open = None;
            self.held.clear();
        } else if !self.held.is_empty() && (around.healed || !self.stuck) {
            self.settle(connection, subscription, around);
        }
    }

    fn subscribe(&mut self, connection: ConnectionId, around: &mut Surroundings<'_>) {
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
        let (request, subscription) = (RequestId(around.network.number()), SubscriptionId(around.network.number()));
        let invisible_ms = around.random.within(1_000..6_000);
        let body = Input::Subscribe {
            request,
            subscription,
            connection,
            ask,
            invisible_ms,
        };
        around.network.send(self.client, connection, subscription.0, body);
        self.open = Some(Open {
            subscription,
            request,
            answered: false,
            credit: 0,
        });
    }

    fn settle(&mut self, connection: ConnectionId, subscription: SubscriptionId, around: &mut Surroundings<'_>) {
        let Held { queue, pass, number } = *around.random.pick(&self.held);
        let action = match around.random.below(10) {
            _ if around.healed => Action::Ack,
            0 => Action::Nack { delay_ms: None },
            1 => Action::Nack {
                delay_ms: Some(around.random.below(3_000)),
            },
            2 => Action::Extend {
                invisible_ms: around.random.within(1_000..5_000),
            },
            3 => return,
            _ => Action::Ack,
        };
        let same = |held: &&Held| held.queue == queue && held.pass == pass;
        let which = if around.random.chance(1, 2) {
            Numbers::UpTo(number)
        } else {
            let mut each: Vec<u64> = self.held.iter().filter(same).map(|held| held.number).collect();
            if each.len() > 1 {
                each.truncate(around.random.within(1..each.len() as u64 + 1) as usize);
            }
            Numbers::Each(each)
        };
        if !matches!(action, Action::Extend { .. }) {
            self.held.retain(|held| {
                let named = match &which {
                    Numbers::UpTo(number) => held.number <= *number,
                    Numbers::Each(each) => each.contains(&held.number),
                };
                !(held.queue == queue && held.pass == pass && named)
            });
        }
        let request = RequestId(around.network.number());
        let body = Input::SettleStream {
            request,
            subscription,
            queue,
            pass,
            which,
            action,
        };
        around.network.send(self.client, connection, subscription.0, body);
    }

    /// Hears from the broker.
    pub fn hear(&mut self, event: Event) {
        let Some(open) = &mut self.open else { return };
        match event {
            Event::Answered { request, answer } if request == open.request => match answer {
                Ok(Answer::Subscribed { .. }) => open.answered = true,
                Ok(_) | Err(_) => self.restart(),
            },
            Event::Pushed {
                subscription,
                queue,
                pass,
                first_number,
                count,
            } if subscription == open.subscription => {
                open.credit = open.credit.saturating_sub(count);
                self.held
                    .extend((first_number..first_number + count).map(|number| Held { queue, pass, number }));
            }
            Event::Reset { subscription, queue } if subscription == open.subscription => {
                self.held.retain(|held| held.queue != queue);
            }
            Event::Ended { subscription, .. } if subscription == open.subscription => self.restart(),
            Event::Answered { .. }
            | Event::Received { .. }
            | Event::Pushed { .. }
            | Event::Reset { .. }
            | Event::Asked { .. }
            | Event::Ended { .. } => {}
        }
    }

    /// Comes back with the newest configuration.
    fn restart(&mut self) {
        self.open = None;
        self.held.clear();
        self.expression = None;
    }

    /// Loses its connection; its configuration it keeps.
    pub fn disconnect(&mut self) -> Option<ConnectionId> {
        self.open = None;
        self.held.clear();
        self.connection.take()
    }

    /// Whether it holds nothing, or left for good: what reached it after that comes back to its group by itself.
    pub fn is_done(&self) -> bool {
        self.absence.is_gone() || self.held.is_empty()
    }
}
