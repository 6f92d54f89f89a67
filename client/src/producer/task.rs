//! The task behind a producer: it alone gathers, numbers, writes, and takes in confirms.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use quinn::SendStream;
use sluice_protocol::control::{Confirm, PublishStart};
use sluice_protocol::errors::{Advice, Refusal};
use sluice_protocol::frame::FrameKind;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::gathered::Gathered;
use super::outbox::{Bounds, Now, Outbox};
use super::sent::{Sent, Unconfirmed};
use super::{ProducerConfig, Submitted};
use crate::error::{Error, SendError};
use crate::event::Event;
use crate::limits;
use crate::link::{Link, jittered};
use crate::session::Session;
use crate::wire::{self, Frame, FrameReader};

/// Runs until the producer is dropped or closed and nothing is under way, or the client is closed.
pub(crate) async fn run(link: Arc<Link>, topic: Arc<str>, config: ProducerConfig, mut submitted: mpsc::Receiver<Submitted>) {
    let mut state = State {
        outbox: Outbox::new(link.producer),
        link,
        topic,
        config,
        gathered: Gathered::default(),
        unconfirmed: Unconfirmed::default(),
        closing: false,
        wait: limits::RETRY_FIRST,
        streams: 0,
    };
    state.run(&mut submitted).await;
    submitted.close();
    while let Ok(late) = submitted.try_recv() {
        state.gathered.push(late);
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
    gathered: Gathered,
    outbox: Outbox,
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
    /// The confirms of one read together.
    confirms: mpsc::Receiver<Result<Vec<Confirm>, Error>>,
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
                    Some(first) => self.gathered.push(first),
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
        self.gathered.is_empty() && self.unconfirmed.is_empty()
    }

    /// Waits for a session and opens a stream on it, giving up meanwhile what has waited too long.
    async fn open(&mut self) -> Result<Stream, Error> {
        let session = loop {
            let link = self.link.clone();
            let deadline = self
                .unconfirmed
                .next_deadline()
                .or_else(|| self.gathered.waited(self.config.confirm_within));
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
                joined_confirms: true,
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
        let mut arrived = Vec::new();
        let mut alarm = pin!(tokio::time::sleep_until(self.next_deadline()));
        loop {
            match self.flush(stream).await {
                Ok(()) => {}
                Err(error) => return lost(error),
            }
            if self.closing && self.idle() {
                return Over::Finished;
            }
            let room = limits::PRODUCER_QUEUE_MESSAGES.saturating_sub(self.gathered.len());
            let deadline = self.next_deadline();
            // Deadlines mostly move on as confirms come: then the alarm goes off for nothing, which costs less than to move it each time.
            if deadline < alarm.deadline() {
                alarm.as_mut().reset(deadline);
            }
            // Cancelling any of these loses nothing.
            tokio::select! {
                biased;
                confirms = stream.confirms.recv() => match confirms {
                    Some(Ok(confirms)) => self.confirmed(stream, confirms),
                    Some(Err(Error::Refused(refusal))) => return Over::Refused(refusal),
                    Some(Err(error)) => return lost(error),
                    None => return Over::Lost("the broker ended the stream".to_owned()),
                },
                count = submitted.recv_many(&mut arrived, room), if room > 0 && !self.closing => {
                    self.closing = count == 0;
                    arrived.drain(..).for_each(|message| self.gathered.push(message));
                },
                () = link.sequences.room(), if self.due() => {}
                () = alarm.as_mut() => {
                    self.give_up("no confirmation from the broker in time");
                    if let Err(error) = self.write_again(stream).await {
                        return lost(error);
                    }
                    alarm.as_mut().reset(self.next_deadline());
                }
            }
        }
    }

    /// Whether what is gathered is to leave now.
    fn due(&self) -> bool {
        self.gathered.due(&self.config, self.closing)
    }

    fn next_deadline(&mut self) -> Instant {
        let linger = self.gathered.waited(Duration::from_millis(self.config.linger_ms));
        // What is due but has no room among the unconfirmed waits for a confirm, not for the clock.
        let linger = linger.filter(|_| !self.due());
        let settled = self.unconfirmed.next_deadline();
        let far = || Instant::now() + self.config.confirm_within;
        linger.into_iter().chain(settled).min().unwrap_or_else(far)
    }

    /// Writes batches while there is something due and room for it.
    async fn flush(&mut self, stream: &mut Stream) -> Result<(), Error> {
        while self.due() {
            self.encode(&stream.session);
            let now = Instant::now();
            let (bytes, frames) = self.outbox.take();
            // In the books before they are written: a broken write is sent again.
            for (first, frame, replies) in frames {
                let deadline = now + self.config.confirm_within;
                self.unconfirmed.push(Sent::new(first.0, frame, replies, deadline, stream.number));
            }
            if bytes.is_empty() {
                return Ok(());
            }
            wire::write(&mut stream.send, bytes).await?;
        }
        Ok(())
    }

    /// Encodes batches of what is due, as far as there is room among the unconfirmed, for one write.
    fn encode(&mut self, session: &Session) {
        let now = Now::read();
        while self.outbox.len() < limits::WRITE_BYTES_MAX && self.due() {
            let wanted = self.config.batch_messages.clamp(1, self.link.sequences.span_max().div_ceil(2));
            let wanted = wanted.min(session.limits.batch_messages_max).min(self.gathered.len() as u32);
            let Some((first, messages)) = self.link.sequences.take(wanted) else {
                return;
            };
            let bounds = Bounds {
                messages,
                bytes: self.config.batch_bytes.min(session.limits.frame_bytes_max as usize),
                limits: &session.limits,
            };
            if !self.outbox.add(&mut self.gathered, first, &bounds, now) {
                self.link.sequences.settle([first]);
            }
            self.gathered.wait_from(now.mono);
        }
    }

    /// Writes again what this stream has not seen, and what is due after the broker asked to come back later.
    async fn write_again(&mut self, stream: &mut Stream) -> Result<(), Error> {
        let now = Instant::now();
        for sent in self.unconfirmed.batches_mut() {
            if sent.is_due(stream.number, now) {
                sent.written(stream.number);
                wire::write(&mut stream.send, sent.frame.clone()).await?;
            }
        }
        Ok(())
    }

    fn confirmed(&mut self, stream: &mut Stream, confirms: Vec<Confirm>) {
        stream.confirmed = true;
        let (link, now) = (&self.link, Instant::now());
        for confirm in confirms {
            if let Some((refusal, wait)) = self.unconfirmed.confirm(link.producer, confirm, now) {
                link.tell(Event::Slowed { refusal, wait });
            }
        }
        link.sequences.settle(self.unconfirmed.take_done());
    }

    /// Gives up what has waited too long, under way or not.
    fn give_up(&mut self, reason: &str) {
        let now = Instant::now();
        self.unconfirmed.give_up(now, reason);
        self.link.sequences.settle(self.unconfirmed.take_done());
        if self.gathered.waited(self.config.confirm_within).is_some_and(|late| late <= now) {
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
        let outcome = |sent: &Sent| match confirmed || sent.first_stream != stream {
            true => SendError::Unknown {
                reason: refusal.to_string(),
            },
            false => SendError::Refused(refusal.clone()),
        };
        self.fail(outcome);
        self.fail_gathered(&SendError::Refused(refusal.clone()));
    }

    fn fail(&mut self, outcome: impl Fn(&Sent) -> SendError) {
        self.unconfirmed.fail(outcome);
        self.link.sequences.settle(self.unconfirmed.take_done());
    }

    fn fail_gathered(&mut self, error: &SendError) {
        while let Some(Submitted { reply, .. }) = self.gathered.pop() {
            // Whoever dropped the confirmation does not want to know.
            let _ = reply.send(Err(error.clone()));
        }
    }

    /// Answers everything that is left when the client is closed.
    fn end(&mut self) {
        let reason = "the client was closed before the confirmation came";
        self.fail(|_| SendError::Unknown { reason: reason.to_owned() });
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

/// Reads confirms beside the writing, so that neither side can wait for the other for ever.
async fn read_confirms(frames: &mut FrameReader, confirms: mpsc::Sender<Result<Vec<Confirm>, Error>>) {
    loop {
        let mut read = Vec::new();
        let end = match frames.next().await {
            Ok(Some(first)) => read_all(first, frames, &mut read),
            Ok(None) => return,
            Err(error) => Err(error),
        };
        // The receiver goes with the stream.
        if !read.is_empty() && confirms.send(Ok(read)).await.is_err() {
            return;
        }
        if let Err(error) = end {
            let _ = confirms.send(Err(error)).await;
            return;
        }
    }
}

/// Takes in the confirms that have come whole, this frame the first.
fn read_all(first: Frame, frames: &mut FrameReader, read: &mut Vec<Confirm>) -> Result<(), Error> {
    let mut next = Some(first);
    while let Some(frame) = next {
        if frame.kind == FrameKind::Refused {
            return Err(Error::Refused(wire::refusal(frame.payload)?));
        }
        if frame.kind != FrameKind::Confirm {
            return Err(wire::unexpected(&frame));
        }
        read.push(Confirm::decode(frame.payload).map_err(wire::protocol)?);
        next = frames.next_read()?;
    }
    Ok(())
}
