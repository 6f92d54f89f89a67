//! The task behind a stream: subscribes, gives credit, writes settlements, and subscribes again after a loss.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use quinn::SendStream;
use sluice_protocol::control::{self, SettleStream, Settled, StreamEnded, Subscribe, Subscribed};
use sluice_protocol::errors::{Advice, ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::queue::Reader;
use super::{Command, Numbers, Pushed, Shared, StreamConfig};
use crate::error::Error;
use crate::event::Event;
use crate::limits;
use crate::link::{Link, jittered};
use crate::router::Opened;
use crate::session::Session;
use crate::settle::{self, millis};
use crate::wire::{self, FrameReader};

/// Runs until the application closes or drops the stream, or the broker ends it for good.
pub(crate) async fn run(
    link: Arc<Link>,
    config: StreamConfig,
    shared: Arc<Shared>,
    push: mpsc::Sender<Pushed>,
    mut commands: mpsc::Receiver<Command>,
    opened: oneshot::Sender<Result<(), Error>>,
) {
    let mut opened = Some(opened);
    let mut wait = limits::RETRY_FIRST;
    loop {
        let subscribed = subscribe(&link, &config, &shared).await;
        let over = match subscribed {
            Ok(subscription) => {
                wait = limits::RETRY_FIRST;
                match opened.take() {
                    // Whoever dropped the opening drops the commands too, which ends the stream below.
                    Some(opened) => drop(opened.send(Ok(()))),
                    None => link.tell(Event::Resubscribed {
                        topic: config.topic.clone(),
                        group: config.group.clone(),
                    }),
                }
                serve(&link, &config, &shared, &push, &mut commands, subscription).await
            }
            Err(error) => match opened.take() {
                Some(opened) => {
                    // Whoever asked is told, or is gone.
                    let _ = opened.send(Err(error));
                    return;
                }
                None => Over::Broken(error),
            },
        };
        shared.session.store(0, Ordering::Release);
        match over {
            Over::Closed(None) => return,
            Over::Closed(Some(reply)) => {
                // Whoever closed may have stopped waiting.
                let _ = reply.send(());
                return;
            }
            Over::Broken(error) if final_word(&error) => {
                // An application that is gone needs no word.
                let _ = push.send(Pushed::Ended(error)).await;
                return;
            }
            Over::Broken(error) => tracing::debug!(topic = config.topic, group = config.group, %error, "a stream is lost"),
        }
        if !pause(&mut commands, wait).await || push.is_closed() {
            return;
        }
        wait = (wait * 2).min(limits::RETRY_MAX);
    }
}

/// Why one subscription is over.
enum Over {
    /// The application closed or dropped the stream.
    Closed(Option<oneshot::Sender<()>>),
    /// The connection, the stream or the broker.
    Broken(Error),
}

/// Whether trying again cannot help.
fn final_word(error: &Error) -> bool {
    match error {
        Error::Refused(refusal) => refusal.code.advice() != Advice::Retry,
        Error::Closed | Error::Protocol(_) | Error::Endpoint(_) => true,
        Error::Unreachable { .. } | Error::Unknown { .. } | Error::TimedOut { .. } | Error::LeaseLost => false,
    }
}

/// Waits before the next try, answering settlements meanwhile; false when the stream is closed.
async fn pause(commands: &mut mpsc::Receiver<Command>, wait: std::time::Duration) -> bool {
    let over = tokio::time::sleep(jittered(wait));
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return true,
            command = commands.recv() => match command {
                // Whoever dropped the answer does not want to know.
                Some(Command::Settle { reply, .. }) => drop(reply.send(Err(Error::LeaseLost))),
                Some(Command::Close { reply }) => {
                    let _ = reply.send(());
                    return false;
                }
                None => return false,
            },
        }
    }
}

/// An open subscription.
struct Subscription {
    session: Arc<Session>,
    id: u64,
    send: SendStream,
    /// Taken by the task that reads it.
    frames: Option<FrameReader>,
    opened: mpsc::UnboundedReceiver<Opened>,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.session.router.remove(self.id);
        // Fails only when the stream is over already.
        let _ = self.send.finish();
    }
}

async fn subscribe(link: &Link, config: &StreamConfig, shared: &Shared) -> Result<Subscription, Error> {
    let session = link.session().await?;
    let ask = Subscribe {
        topic: config.topic.clone(),
        group: config.group.clone(),
        filter: Some(config.filter.to_wire()),
        invisible_ms: config.invisible.map_or(0, millis),
        credit_messages: shared.credit.min(session.limits.credit_messages_max),
        start: config.start.map(crate::filter::Start::to_wire),
        member: config.member.clone().unwrap_or_default(),
    };
    let waited = link.endpoint.answer_within;
    let (send, frames, subscribed) = tokio::time::timeout(waited, async {
        let (mut send, mut frames) = session.open_stream().await?;
        wire::send(&mut send, FrameKind::Subscribe, &ask).await?;
        let subscribed: Subscribed = wire::expect(frames.answer().await?, FrameKind::Subscribed)?;
        Ok::<_, Error>((send, frames, subscribed))
    })
    .await
    .map_err(|_| Error::TimedOut { waited })??;
    let opened = session.router.register(subscribed.subscription);
    shared.taken.store(0, Ordering::Release);
    shared.session.store(session.number, Ordering::Release);
    Ok(Subscription {
        session,
        id: subscribed.subscription,
        send,
        frames: Some(frames),
        opened,
    })
}

/// The settlements that wait for their answers, by number.
type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<(), Error>>>>>;

/// Serves one subscription until it is over.
async fn serve(
    link: &Arc<Link>,
    config: &StreamConfig,
    shared: &Arc<Shared>,
    push: &mpsc::Sender<Pushed>,
    commands: &mut mpsc::Receiver<Command>,
    mut subscription: Subscription,
) -> Over {
    let pending = Pending::default();
    let (ended, mut end) = oneshot::channel();
    // The reader ends with this function.
    let mut control = JoinSet::new();
    if let Some(frames) = subscription.frames.take() {
        let answers = pending.clone();
        control.spawn(async move { drop(ended.send(read_control(frames, &answers).await)) });
    }
    let (resets, mut reset) = mpsc::unbounded_channel();
    let room_bytes = config.buffer_bytes.clamp(1, Semaphore::MAX_PERMITS.min(u32::MAX as usize));
    let reader = Reader {
        session: subscription.session.number,
        shared: shared.clone(),
        room: Arc::new(Semaphore::new(room_bytes)),
        room_bytes,
        push: push.clone(),
        resets,
    };
    let mut writer = Writer {
        session: subscription.session.number,
        next: 1,
        pending: pending.clone(),
        out: BytesMut::new(),
    };
    let mut queues: JoinSet<Result<(), Error>> = JoinSet::new();
    loop {
        // Cancelling any of these loses nothing. Commands come before the end of the application's half, which a close brings about.
        tokio::select! {
            biased;
            () = shared.credit_due.notified() => {
                let messages = shared.taken.swap(0, Ordering::AcqRel);
                if messages > 0 && let Err(error) = wire::send(&mut subscription.send, FrameKind::Credit, &control::Credit { messages }).await {
                    return Over::Broken(error);
                }
            }
            Some(opened) = subscription.opened.recv() => {
                queues.spawn(reader.clone().run(opened));
            }
            Some(queue) = queues.join_next() => {
                if let Ok(Err(error)) = queue && final_word(&error) {
                    return Over::Broken(error);
                }
            }
            Some((queue, pass)) = reset.recv() => {
                link.tell(Event::Reset { topic: config.topic.clone(), group: config.group.clone(), queue, pass });
            }
            command = commands.recv() => {
                let close = writer.take(command, commands);
                if let Err(error) = writer.write(&mut subscription.send).await {
                    return Over::Broken(error);
                }
                if let Some(reply) = close {
                    queues.shutdown().await;
                    let _ = leave(&mut subscription.send, &mut end).await;
                    return Over::Closed(reply);
                }
            }
            why = &mut end => {
                let error = why.unwrap_or_else(|_| Error::Unknown { reason: "the stream broke".to_owned() });
                if let Error::Refused(refusal) = &error && !final_word(&error) {
                    link.tell(Event::Slowed { refusal: refusal.clone(), wait: limits::RETRY_FIRST });
                }
                return Over::Broken(error);
            }
            () = push.closed() => {
                queues.shutdown().await;
                let _ = leave(&mut subscription.send, &mut end).await;
                return Over::Closed(None);
            }
        }
    }
}

/// Unsubscribes and waits for the broker's last word.
async fn leave(send: &mut SendStream, end: &mut oneshot::Receiver<Error>) -> Result<(), Error> {
    wire::send(send, FrameKind::Unsubscribe, &control::Unsubscribe {}).await?;
    let _ = tokio::time::timeout(limits::CLOSE_WITHIN, end).await;
    Ok(())
}

/// Reads what the broker says on the subscription's own stream, until the end; why it ended.
async fn read_control(mut frames: FrameReader, pending: &Pending) -> Error {
    let why = loop {
        let frame = match frames.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => {
                break Error::Unknown {
                    reason: "the broker ended the stream".to_owned(),
                };
            }
            Err(error) => break error,
        };
        match frame.kind {
            FrameKind::Settled => match wire::expect::<Settled>(frame, FrameKind::Settled) {
                Ok(settled) => answer(pending, settled),
                Err(error) => break error,
            },
            FrameKind::Refused => break wire::refusal(frame.payload).map_or_else(|error| error, Error::Refused),
            FrameKind::StreamEnded => {
                break match wire::expect::<StreamEnded>(frame, FrameKind::StreamEnded) {
                    Ok(StreamEnded { why }) => Error::Refused(why.map_or_else(|| Refusal::plain(ErrorCode::Internal), Refusal::from)),
                    Err(error) => error,
                };
            }
            FrameKind::Done => break Error::Closed,
            _ => break wire::unexpected(&frame),
        }
    };
    let unknown = Error::Unknown { reason: why.to_string() };
    for (_, reply) in lock(pending).drain() {
        // Whoever dropped the answer does not want to know.
        let _ = reply.send(Err(unknown.clone()));
    }
    why
}

fn answer(pending: &Pending, settled: Settled) {
    let reply = lock(pending).remove(&settled.request);
    // One result stands for all that the settlement named; where there are more, the first refusal does.
    let result = settle::results(settled).into_iter().find(Result::is_err).unwrap_or(Ok(()));
    if let Some(reply) = reply {
        let _ = reply.send(result);
    }
}

fn lock(pending: &Pending) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<(), Error>>>> {
    // No code panics while it holds this lock.
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Numbers settlements and writes many at once.
struct Writer {
    session: u64,
    next: u64,
    pending: Pending,
    out: BytesMut,
}

impl Writer {
    /// Takes the commands that are there. Returns how to say that the stream is closed, when it is to be.
    fn take(&mut self, first: Option<Command>, commands: &mut mpsc::Receiver<Command>) -> Option<Option<oneshot::Sender<()>>> {
        let mut command = first;
        let mut taken = 0;
        loop {
            match command {
                Some(Command::Settle { place, reply, .. }) if place.session != self.session => {
                    // Whoever dropped the answer does not want to know.
                    let _ = reply.send(Err(Error::LeaseLost));
                }
                Some(Command::Settle {
                    place,
                    numbers,
                    action,
                    reply,
                }) => {
                    let (up_to, each) = match numbers {
                        Numbers::UpTo(number) => (number, Vec::new()),
                        Numbers::Each(each) => (0, each),
                    };
                    let (queue, pass, action) = (place.queue.into(), place.pass, Some(action.to_wire()));
                    let settle = SettleStream {
                        request: self.next,
                        queue,
                        pass,
                        up_to,
                        each,
                        action,
                    };
                    frame::encode_message(FrameKind::SettleStream, &settle, &mut self.out);
                    lock(&self.pending).insert(self.next, reply);
                    self.next += 1;
                }
                Some(Command::Close { reply }) => return Some(Some(reply)),
                None => return Some(None),
            }
            taken += 1;
            if taken == limits::SETTLEMENTS_A_WRITE {
                return None;
            }
            match commands.try_recv() {
                Ok(next) => command = Some(next),
                Err(_) => return None,
            }
        }
    }

    async fn write(&mut self, send: &mut SendStream) -> Result<(), Error> {
        if self.out.is_empty() {
            return Ok(());
        }
        wire::write(send, self.out.split().freeze()).await
    }
}
