//! The task behind a producer: it alone gathers, numbers, writes, and takes in confirms.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use quinn::SendStream;
use sluice_protocol::batch::{BatchBuilder, MessageError, NewMessage as Attributes};
use sluice_protocol::control::{Confirm, PublishStart};
use sluice_protocol::errors::{Advice, ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::Sequence;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::sent::{Sent, Unconfirmed};
use super::{ProducerConfig, Reply, Submitted};
use crate::error::{Error, SendError};
use crate::event::Event;
use crate::limits;
use crate::link::{Link, jittered};
use crate::message::{NewMessage, wall_ms};
use crate::session::Session;
use crate::wire::{self, FrameReader};

/// Runs until the producer is dropped or closed and nothing is under way, or the client is closed.
pub(crate) async fn run(link: Arc<Link>, topic: Arc<str>, config: ProducerConfig, mut submitted: mpsc::Receiver<Submitted>) {
    let mut state = State {
        link,
        topic,
        config,
        gathered: VecDeque::new(),
        gathered_bytes: 0,
        since: None,
        unconfirmed: Unconfirmed::default(),
        closing: false,
        wait: limits::RETRY_FIRST,
        streams: 0,
    };
    state.run(&mut submitted).await;
    submitted.close();
    while let Ok(late) = submitted.try_recv() {
        state.gather(late);
    }
    state.end();
}

/// Why a stream is over.
enum Over {
    /// Nothing is left to do.
    Finished,
    /// The connection or the stream broke; another is tried.
    Lost(String),
    /// The broker ended the stream.
    Refused(Refusal),
    /// The client is closed.
    Closed,
}

struct State {
    link: Arc<Link>,
    topic: Arc<str>,
    config: ProducerConfig,
    /// Messages not yet numbered.
    gathered: VecDeque<Submitted>,
    gathered_bytes: usize,
    /// When the oldest of them came.
    since: Option<Instant>,
    unconfirmed: Unconfirmed,
    /// Whether no further message comes.
    closing: bool,
    /// The wait after a stream that ended early.
    wait: Duration,
    /// Counts the streams.
    streams: u64,
}

/// One producer stream on one session.
struct Stream {
    number: u64,
    session: Arc<Session>,
    send: SendStream,
    confirms: mpsc::Receiver<Result<Confirm, Error>>,
    reader: AbortHandle,
    /// Whether the broker has confirmed anything on it.
    confirmed: bool,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reader.abort();
        // Fails only when the stream is over already.
        let _ = self.send.finish();
    }
}

impl State {
    async fn run(&mut self, submitted: &mut mpsc::Receiver<Submitted>) {
        loop {
            // A stream is opened when there is something to send on it.
            if self.idle() {
                match submitted.recv().await {
                    Some(first) => self.gather(first),
                    None => return,
                }
            }
            let over = match self.open().await {
                Ok(mut stream) => {
                    let over = self.serve(&mut stream, submitted).await;
                    if stream.confirmed {
                        self.wait = limits::RETRY_FIRST;
                    }
                    if let Over::Refused(refusal) = &over {
                        self.refused(refusal, stream.number, stream.confirmed);
                    }
                    over
                }
                Err(error) => lost(error),
            };
            match over {
                Over::Finished | Over::Closed => return,
                Over::Lost(reason) => tracing::debug!(topic = &*self.topic, reason, "a producer's stream is lost"),
                Over::Refused(refusal) => tracing::debug!(topic = &*self.topic, %refusal, "a producer's stream was refused"),
            }
            if !self.idle() {
                tokio::time::sleep(jittered(self.wait)).await;
                self.wait = (self.wait * 2).min(limits::RETRY_MAX);
            }
        }
    }

    fn idle(&self) -> bool {
        self.gathered.is_empty() && self.unconfirmed.batches.is_empty()
    }

    /// Waits for a session and opens a stream on it, giving up meanwhile what has waited too long.
    async fn open(&mut self) -> Result<Stream, Error> {
        let session = loop {
            let link = self.link.clone();
            let deadline = self
                .unconfirmed
                .next_deadline()
                .or_else(|| self.since.map(|since| since + self.config.confirm_within));
            let deadline = deadline.unwrap_or_else(|| Instant::now() + self.config.confirm_within);
            match tokio::time::timeout_at(deadline, link.session()).await {
                Ok(session) => break session?,
                Err(_) => self.give_up("no connection to the broker in time"),
            }
            if self.idle() {
                return Err(Error::TimedOut {
                    waited: self.config.confirm_within,
                });
            }
        };
        let (mut send, mut frames) = session.open_stream().await?;
        wire::send(
            &mut send,
            FrameKind::PublishStart,
            &PublishStart {
                topic: self.topic.to_string(),
            },
        )
        .await?;
        let (sender, confirms) = mpsc::channel(limits::CONFIRMS_READ_AHEAD);
        let reader = tokio::spawn(async move { read_confirms(&mut frames, sender).await }).abort_handle();
        self.streams += 1;
        Ok(Stream {
            number: self.streams,
            session,
            send,
            confirms,
            reader,
            confirmed: false,
        })
    }

    /// Sends what there is over one stream until it is over.
    async fn serve(&mut self, stream: &mut Stream, submitted: &mut mpsc::Receiver<Submitted>) -> Over {
        let again = self.unconfirmed.open();
        if let Err(error) = self.write_again(stream).await {
            return lost(error);
        }
        if again > 0 {
            self.link.tell(Event::SentAgain {
                topic: self.topic.to_string(),
                messages: again,
            });
        }
        let link = self.link.clone();
        loop {
            match self.flush(stream).await {
                Ok(()) => {}
                Err(error) => return lost(error),
            }
            if self.closing && self.idle() {
                return Over::Finished;
            }
            let room = self.gathered.len() < limits::PRODUCER_QUEUE_MESSAGES;
            let deadline = self.next_deadline();
            // Cancelling any of these loses nothing.
            tokio::select! {
                biased;
                confirm = stream.confirms.recv() => match confirm {
                    Some(Ok(confirm)) => self.confirmed(stream, confirm),
                    Some(Err(Error::Refused(refusal))) => return Over::Refused(refusal),
                    Some(Err(error)) => return lost(error),
                    None => return Over::Lost("the broker ended the stream".to_owned()),
                },
                message = submitted.recv(), if room && !self.closing => match message {
                    Some(message) => {
                        self.gather(message);
                        while self.gathered.len() < limits::PRODUCER_QUEUE_MESSAGES && let Ok(message) = submitted.try_recv() {
                            self.gather(message);
                        }
                    }
                    None => self.closing = true,
                },
                () = link.sequences.room(), if self.due() => {}
                () = tokio::time::sleep_until(deadline) => {
                    self.give_up("no confirmation from the broker in time");
                    if let Err(error) = self.write_again(stream).await {
                        return lost(error);
                    }
                }
                reason = stream.session.connection.closed() => return Over::Lost(reason.to_string()),
            }
        }
    }

    fn gather(&mut self, message: Submitted) {
        self.gathered_bytes += message.message.bytes_max();
        self.since.get_or_insert_with(Instant::now);
        self.gathered.push_back(message);
    }

    /// Whether what is gathered is to leave now.
    fn due(&self) -> bool {
        let full = self.gathered.len() >= self.config.batch_messages as usize || self.gathered_bytes >= self.config.batch_bytes;
        let linger = Duration::from_millis(self.config.linger_ms);
        let lingered = self.since.is_some_and(|since| linger.is_zero() || since.elapsed() >= linger);
        !self.gathered.is_empty() && (full || self.closing || lingered)
    }

    fn next_deadline(&self) -> Instant {
        let linger = self.since.map(|since| since + Duration::from_millis(self.config.linger_ms));
        // What is due but has no room among the unconfirmed waits for a confirm, not for the clock.
        let linger = linger.filter(|_| !self.due());
        let settled = self.unconfirmed.next_deadline();
        let far = || Instant::now() + self.config.confirm_within;
        linger.into_iter().chain(settled).min().unwrap_or_else(far)
    }

    /// Writes batches while there is something due and room for it.
    async fn flush(&mut self, stream: &mut Stream) -> Result<(), Error> {
        while self.due() {
            let wanted = self.config.batch_messages.clamp(1, self.link.sequences.span_max().div_ceil(2));
            let wanted = wanted.min(stream.session.limits.batch_messages_max).min(self.gathered.len() as u32);
            let Some((first, count)) = self.link.sequences.take(wanted) else {
                return Ok(());
            };
            let (batch, replies) = self.build(first, count, &stream.session);
            self.since = (!self.gathered.is_empty()).then(Instant::now);
            if replies.is_empty() {
                self.link.sequences.settle(first);
                continue;
            }
            let deadline = Instant::now() + self.config.confirm_within;
            let sent = Sent::new(first.0, batch, replies, deadline, stream.number);
            let bytes = sent.batch.clone();
            // In the books before it is written: a broken write is sent again.
            self.unconfirmed.batches.push_back(sent);
            write_batch(&mut stream.send, bytes).await?;
        }
        Ok(())
    }

    /// Encodes up to `count` gathered messages; those that break a rule are answered and take no place.
    fn build(&mut self, first: Sequence, count: u32, session: &Session) -> (Bytes, Vec<Reply>) {
        let now = wall_ms();
        let bytes_max = self.config.batch_bytes.min(session.limits.frame_bytes_max as usize);
        let mut builder = BatchBuilder::new(now, self.link.producer, first);
        let mut replies = Vec::with_capacity(count as usize);
        while replies.len() < count as usize
            && let Some(next) = self.gathered.front()
        {
            let bytes = next.message.bytes_max();
            if !builder.is_empty() && builder.total_bytes() + bytes > bytes_max {
                break;
            }
            let pushed = push(&mut builder, &next.message, session.limits.body_bytes_max, now);
            if pushed == Err(MessageError::BatchFull) && !builder.is_empty() {
                break;
            }
            self.gathered_bytes -= bytes;
            let Some(Submitted { reply, .. }) = self.gathered.pop_front() else {
                break;
            };
            match pushed {
                Ok(()) => replies.push(reply),
                Err(error) => {
                    // Whoever dropped the confirmation does not want to know.
                    let _ = reply.send(Err(SendError::Refused(refusal_of(error))));
                }
            }
        }
        (builder.finish(), replies)
    }

    /// Writes again what this stream has not seen, and what is due after the broker asked to come back later.
    async fn write_again(&mut self, stream: &mut Stream) -> Result<(), Error> {
        let now = Instant::now();
        for sent in &mut self.unconfirmed.batches {
            if sent.stream != stream.number || sent.again.is_some_and(|again| again <= now) {
                sent.again = None;
                sent.stream = stream.number;
                write_batch(&mut stream.send, sent.batch.clone()).await?;
            }
        }
        Ok(())
    }

    fn confirmed(&mut self, stream: &mut Stream, confirm: Confirm) {
        stream.confirmed = true;
        let (link, now) = (&self.link, Instant::now());
        let slowed = self
            .unconfirmed
            .confirm(link.producer, confirm, now, |sequence| link.sequences.settle(sequence));
        if let Some((refusal, wait)) = slowed {
            link.tell(Event::Slowed { refusal, wait });
        }
    }

    /// Gives up what has waited too long, under way or not.
    fn give_up(&mut self, reason: &str) {
        let (link, now) = (&self.link, Instant::now());
        self.unconfirmed.give_up(now, reason, |sequence| link.sequences.settle(sequence));
        if self.since.is_some_and(|since| since + self.config.confirm_within <= now) {
            let error = SendError::Unknown { reason: reason.to_owned() };
            self.fail_gathered(&error);
        }
    }

    /// What is under way, and what is gathered, is not going to be stored when the broker refuses the stream for good. What an earlier
    /// stream carried, or this one beside others that were confirmed, may be stored.
    fn refused(&mut self, refusal: &Refusal, stream: u64, confirmed: bool) {
        if refusal.code.advice() == Advice::Retry {
            self.link.tell(Event::Slowed {
                refusal: refusal.clone(),
                wait: self.wait,
            });
            return;
        }
        let link = &self.link;
        let outcome = |sent: &Sent| match confirmed || sent.first_stream != stream {
            true => SendError::Unknown {
                reason: refusal.to_string(),
            },
            false => SendError::Refused(refusal.clone()),
        };
        self.unconfirmed.fail(outcome, |sequence| link.sequences.settle(sequence));
        self.fail_gathered(&SendError::Refused(refusal.clone()));
    }

    fn fail_gathered(&mut self, error: &SendError) {
        for Submitted { reply, .. } in self.gathered.drain(..) {
            // Whoever dropped the confirmation does not want to know.
            let _ = reply.send(Err(error.clone()));
        }
        (self.gathered_bytes, self.since) = (0, None);
    }

    /// Answers everything that is left when the client is closed.
    fn end(&mut self) {
        let link = &self.link;
        let reason = "the client was closed before the confirmation came";
        let outcome = |_: &Sent| SendError::Unknown { reason: reason.to_owned() };
        self.unconfirmed.fail(outcome, |sequence| link.sequences.settle(sequence));
        self.fail_gathered(&SendError::Closed);
    }
}

fn lost(error: Error) -> Over {
    match error {
        Error::Closed => Over::Closed,
        Error::Refused(refusal) => Over::Refused(refusal),
        other => Over::Lost(other.to_string()),
    }
}

fn push(builder: &mut BatchBuilder, message: &NewMessage, body_bytes_max: u32, now: i64) -> Result<(), MessageError> {
    if message.body.len() > body_bytes_max as usize {
        let text = format!("the body has {} bytes, the limit is {body_bytes_max}", message.body.len());
        return Err(Refusal::new(ErrorCode::BodyTooLarge, text).into());
    }
    let attributes = Attributes {
        tag: message.tag.as_deref(),
        keys: &message.keys,
        properties: &message.properties,
        born_ms: message.born_ms.unwrap_or(now),
    };
    builder.push(&attributes, &message.body)
}

fn refusal_of(error: MessageError) -> Refusal {
    match error {
        MessageError::Refused(refusal) => refusal,
        MessageError::BatchFull => Refusal::new(ErrorCode::LimitExceeded, "the message does not fit into a batch"),
    }
}

async fn write_batch(stream: &mut SendStream, batch: Bytes) -> Result<(), Error> {
    let header = Bytes::copy_from_slice(&frame::header(FrameKind::Publish, batch.len()));
    stream.write_all_chunks(&mut [header, batch]).await.map_err(wire::lost)
}

/// Reads confirms beside the writing, so that neither side can wait for the other for ever.
async fn read_confirms(frames: &mut FrameReader, confirms: mpsc::Sender<Result<Confirm, Error>>) {
    loop {
        let confirm = match frames.next().await {
            Ok(Some(frame)) if frame.kind == FrameKind::Confirm => Confirm::decode(frame.payload).map_err(wire::protocol),
            Ok(Some(frame)) if frame.kind == FrameKind::Refused => {
                Err(wire::refusal(frame.payload).map_or_else(|error| error, Error::Refused))
            }
            Ok(Some(frame)) => Err(wire::unexpected(&frame)),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        let over = confirm.is_err();
        // The receiver goes with the stream.
        if confirms.send(confirm).await.is_err() || over {
            return;
        }
    }
}
