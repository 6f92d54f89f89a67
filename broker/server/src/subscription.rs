//! A subscription's stream: credit and settlements come in, their results and the end go out, deliveries go to a task for each queue.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::BytesMut;
use quinn::SendStream;
use sluice_core::effect::{Answer, Delivery};
use sluice_core::input::{Input, SubscriptionId};
use sluice_log::record::LeaseRange;
use sluice_protocol::control::{Credit, Empty, SettleStream, StreamEnded, Subscribe, Subscribed};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, Frame, FrameKind};
use sluice_protocol::ids::{Pass, QueueId, QueueIndex};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;

use crate::connection::{Client, unexpected};
use crate::delivery::{self, QueueNews};
use crate::frames::{self, Broken, FrameReader};
use crate::request::check_filter;
use crate::serving::shutting_down;
use crate::shard::{Numbered, StreamEvent};
use crate::{admission, answers, limits};

/// Serves a subscription until the client or the broker ends it, or the connection is lost.
///
/// # Errors
/// What admission or the core refuses of the subscription; a malformed or misplaced frame.
pub(crate) async fn run(client: &Arc<Client>, send: &mut SendStream, reader: &mut FrameReader, subscribe: Subscribe) -> Result<(), Broken> {
    let serving = &client.serving;
    let Subscribe {
        topic,
        group,
        filter,
        invisible_ms,
        credit_messages,
        start,
        member,
    } = subscribe;
    let invisible_ms = admission::invisible_ms(invisible_ms, limits::STREAM_INVISIBLE_MS_DEFAULT)?;
    let ask = admission::consume(topic, group, member, filter, start, &client.name)?;
    check_filter(serving, &ask.filter).await?;
    let subscription = SubscriptionId(serving.shard.number());
    let (sender, events) = mpsc::unbounded_channel();
    let connection = client.id;
    let _open = Open { client, subscription };
    let opened = serving.shard.open_stream(subscription, sender, |request| Input::Subscribe {
        request,
        subscription,
        connection,
        ask,
        invisible_ms,
    });
    let Answer::Subscribed { topic, queues } = opened.await? else {
        unreachable!("the core answers a subscribe with its topic")
    };
    let subscribed = Subscribed {
        topic: topic.0,
        queues: queues.into(),
        subscription: subscription.0,
    };
    let (settle_sender, settled) = mpsc::unbounded_channel();
    let mut session = Session {
        client,
        subscription,
        queues: HashMap::new(),
        tasks: JoinSet::new(),
        credit: 0,
        settlements: VecDeque::new(),
        first_settlement: 0,
        answers: settle_sender,
    };
    session.run(send, reader, (subscribed, credit_messages), (events, settled)).await
}

/// A subscription whose events are to go nowhere once its session has ended, in whatever way.
struct Open<'a> {
    client: &'a Arc<Client>,
    subscription: SubscriptionId,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.client.serving.shard.close_stream(self.subscription);
    }
}

/// How a session ends.
enum End {
    /// The client asked to end it and is answered `Done`, or closed its side.
    Client,
    /// The broker ended it.
    Broker(Refusal),
}

struct Session<'a> {
    client: &'a Arc<Client>,
    subscription: SubscriptionId,
    /// The way to each queue's delivery task.
    queues: HashMap<QueueIndex, UnboundedSender<QueueNews>>,
    tasks: JoinSet<Refusal>,
    /// Messages that the core may still push.
    credit: u32,
    /// The client's numbers of the settlements under way, oldest first, with their answers as they come.
    settlements: VecDeque<(u64, Option<Result<Answer, Refusal>>)>,
    first_settlement: u64,
    answers: UnboundedSender<Numbered>,
}

impl Session<'_> {
    /// Serves until something ends the subscription; whatever that is, the core is told, and what was asked before is answered.
    async fn run(
        &mut self,
        send: &mut SendStream,
        reader: &mut FrameReader,
        (subscribed, credit): (Subscribed, u32),
        (mut events, mut settled): (UnboundedReceiver<StreamEvent>, UnboundedReceiver<Numbered>),
    ) -> Result<(), Broken> {
        let begun = frames::write(send, frame::message(FrameKind::Subscribed, &subscribed))
            .await
            .and_then(|()| self.credit(credit));
        let end = match begun {
            Ok(()) => self.serve(send, reader, &mut events, &mut settled).await,
            Err(broken) => Err(broken),
        };
        self.unsubscribe().await;
        self.end(end?, send, settled).await
    }

    async fn serve(
        &mut self,
        send: &mut SendStream,
        reader: &mut FrameReader,
        events: &mut UnboundedReceiver<StreamEvent>,
        settled: &mut UnboundedReceiver<Numbered>,
    ) -> Result<End, Broken> {
        let mut draining = self.client.serving.draining();
        loop {
            let may_read = self.settlements.len() < limits::SETTLEMENTS_UNANSWERED_MAX;
            // Each of these waits may be given up without losing anything.
            tokio::select! {
                frame = reader.next(), if may_read => match frame? {
                    Some((kind, frame)) => if let Some(end) = self.take(kind, &frame).await? { return Ok(end) },
                    None => return Ok(End::Client),
                },
                Some((number, answer)) = settled.recv() => {
                    self.settled(number, answer);
                    while let Ok((number, answer)) = settled.try_recv() {
                        self.settled(number, answer);
                    }
                    self.write_settled(send).await?;
                }
                Some(ended) = self.tasks.join_next() => return Ok(End::Broker(delivery::ended(ended))),
                event = events.recv() => match event {
                    Some(event) => if let Some(end) = self.happened(event) { return Ok(end) },
                    None => return Ok(End::Broker(shutting_down())),
                },
                () = draining.begun() => return Ok(End::Broker(shutting_down())),
            }
        }
    }

    async fn take(&mut self, kind: FrameKind, frame: &Frame) -> Result<Option<End>, Broken> {
        match kind {
            FrameKind::Credit => {
                let Credit { messages } = frame.message(kind).map_err(Refusal::from)?;
                self.credit(messages)?;
                Ok(None)
            }
            FrameKind::SettleStream => {
                self.settle(frame.message(kind).map_err(Refusal::from)?).await?;
                Ok(None)
            }
            FrameKind::Unsubscribe => Ok(Some(End::Client)),
            other => Err(unexpected(other)),
        }
    }

    fn credit(&mut self, messages: u32) -> Result<(), Broken> {
        let total = self.credit.saturating_add(messages);
        if total > limits::CREDIT_MESSAGES_MAX {
            let text = format!("a credit of {total} messages is more than {}", limits::CREDIT_MESSAGES_MAX);
            return Err(Refusal::new(ErrorCode::LimitExceeded, text).into());
        }
        if messages > 0 {
            self.credit = total;
            self.client.serving.shard.tell(Input::Credit {
                subscription: self.subscription,
                messages,
            });
        }
        Ok(())
    }

    /// Asks the core to settle. A settlement that breaks a rule is answered alone, in its place; where the inbox is full it waits.
    async fn settle(&mut self, settle: SettleStream) -> Result<(), Broken> {
        let number = self.first_settlement + self.settlements.len() as u64;
        let numbers = settle.each.len() * size_of::<u64>();
        let SettleStream {
            request: client_number,
            queue,
            pass,
            up_to,
            each,
            action,
        } = settle;
        let checked = || {
            Ok((
                admission::queue_index(queue)?,
                admission::numbers(up_to, each)?,
                admission::action(action)?,
            ))
        };
        match checked() {
            Err(refusal) => {
                self.settlements.push_back((client_number, Some(Err(refusal))));
                // Nothing else would wake the writing of it.
                let _ = self.answers.send((u64::MAX, Ok(Answer::Done)));
            }
            Ok((queue, which, action)) => {
                let shard = &self.client.serving.shard;
                let room = shard.wait_for_room(numbers).await;
                self.settlements.push_back((client_number, None));
                let (subscription, pass) = (self.subscription, Pass(pass));
                let input = |request| Input::SettleStream {
                    request,
                    subscription,
                    queue,
                    pass,
                    which,
                    action,
                };
                shard.ask_numbered(input, number, self.answers.clone(), room);
            }
        }
        Ok(())
    }

    fn settled(&mut self, number: u64, answer: Result<Answer, Refusal>) {
        let place = number
            .checked_sub(self.first_settlement)
            .and_then(|place| usize::try_from(place).ok());
        if let Some(slot) = place.and_then(|place| self.settlements.get_mut(place)) {
            slot.1 = Some(answer);
        }
    }

    /// Writes the results of the settlements at the front that are answered, together.
    async fn write_settled(&mut self, send: &mut SendStream) -> Result<(), Broken> {
        let mut out = BytesMut::new();
        while let Some((_, Some(_))) = self.settlements.front()
            && let Some((client_number, Some(answer))) = self.settlements.pop_front()
        {
            self.first_settlement += 1;
            let results = match answer {
                Ok(Answer::Settled { results }) => results,
                Ok(_) => unreachable!("the core answers a settlement with its results"),
                Err(refusal) => vec![Err(refusal)],
            };
            self.client.serving.metrics.refusals.of_results(&results);
            frame::encode_message(FrameKind::Settled, &answers::settled(client_number, results), &mut out);
        }
        match out.is_empty() {
            true => Ok(()),
            false => frames::write(send, out.freeze()).await,
        }
    }

    fn happened(&mut self, event: StreamEvent) -> Option<End> {
        match event {
            StreamEvent::Deliver(delivery) => {
                self.credit = self.credit.saturating_sub(messages(&delivery.leases));
                self.deliver(delivery);
                None
            }
            StreamEvent::Reset { queue, pass } => {
                self.queue(queue, pass, QueueNews::Reset { pass });
                None
            }
            StreamEvent::Ended(refusal) => Some(End::Broker(refusal)),
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        let QueueId { index, .. } = delivery.cursor.queue;
        self.queue(index, delivery.pass, QueueNews::Deliver(delivery));
    }

    /// Hands news to the queue's task, which is begun with the first of them.
    fn queue(&mut self, queue: QueueIndex, pass: Pass, news: QueueNews) {
        let sender = self.queues.entry(queue).or_insert_with(|| {
            let (sender, receiver) = mpsc::unbounded_channel();
            self.tasks
                .spawn(delivery::run_queue(self.client.clone(), self.subscription, queue, pass, receiver));
            sender
        });
        // A task that has ended ends the session, which is about to see it.
        let _ = sender.send(news);
    }

    /// Returns what the stream holds. Deliveries under way are given up first, so that none follows the return.
    async fn unsubscribe(&mut self) {
        self.tasks.shutdown().await;
        if self.client.quic.close_reason().is_some() {
            return; // a lost connection counts an attempt, which its own end tells the core
        }
        let subscription = self.subscription;
        // A stream that the core has ended already holds nothing.
        let _ = self
            .client
            .serving
            .shard
            .ask(|request| Input::Unsubscribe { request, subscription })
            .await;
    }

    /// Ends the session in good order: what was asked before is answered, then the stream ends with the last word.
    async fn end(&mut self, end: End, send: &mut SendStream, mut settled: UnboundedReceiver<Numbered>) -> Result<(), Broken> {
        while !self.settlements.is_empty() {
            self.write_settled(send).await?;
            if self.settlements.is_empty() {
                break;
            }
            let Some((number, answer)) = settled.recv().await else { break };
            self.settled(number, answer);
        }
        let last = match end {
            End::Client => frame::message(FrameKind::Done, &Empty {}),
            End::Broker(refusal) => {
                self.client.serving.metrics.refusals.one(refusal.code);
                frame::message(FrameKind::StreamEnded, &StreamEnded { why: Some(refusal.into()) })
            }
        };
        frames::write(send, last).await?;
        frames::finish(send).await;
        Ok(())
    }
}

fn messages(leases: &[LeaseRange]) -> u32 {
    let count: u64 = leases.iter().map(|lease| lease.offsets.end.0 - lease.offsets.first.0).sum();
    u32::try_from(count).unwrap_or(u32::MAX)
}
