//! Answering for prepared messages that nobody decided about: the broker asks, a checker says what becomes of them.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use quinn::SendStream;
use sluice_protocol::control;
use sluice_protocol::delivery::AskedMessage;
use sluice_protocol::errors::{Advice, ErrorCode};
use sluice_protocol::frame::FrameKind;
use tokio::task::{JoinHandle, JoinSet};

use crate::deciding::decide;
use crate::error::Error;
use crate::limits;
use crate::link::{Link, jittered};
use crate::message::Message;
use crate::transaction::{Decision, TransactionHandle};
use crate::wire;

/// A prepared message about which the broker asks, of this client or of another.
#[derive(Clone, Debug)]
pub struct Undecided {
    /// What decides about it.
    pub handle: TransactionHandle,
    /// The message, with its body. It is in no queue: both numbers are 0.
    pub message: Message,
    /// When it was prepared (the broker's wall clock, milliseconds since 1970).
    pub prepared_ms: i64,
    /// How often somebody was asked about it before.
    pub asks: u32,
}

/// What a checker says of a prepared message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is delivered.
    Commit,
    /// It is not.
    RollBack,
    /// This client does not know, at least not yet: the broker asks again, somebody.
    Unknown,
}

type Answered = Pin<Box<dyn Future<Output = Answer> + Send>>;
type Checker = dyn Fn(Undecided) -> Answered + Send + Sync;

/// A task that answers for one topic until it is dropped, over every connection that the client has meanwhile.
pub(crate) struct Answering(JoinHandle<()>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Answering {
    /// Begins to answer with what `check` says.
    pub(crate) fn begin<F, A>(link: Arc<Link>, topic: Arc<str>, check: F) -> Self
    where
        F: Fn(Undecided) -> A + Send + Sync + 'static,
        A: Future<Output = Answer> + Send + 'static,
    {
        let check: Arc<Checker> = Arc::new(move |undecided| Box::pin(check(undecided)) as Answered);
        Self(tokio::spawn(run(link, topic, check)))
    }
}

async fn run(link: Arc<Link>, topic: Arc<str>, check: Arc<Checker>) {
    let mut wait = limits::RETRY_FIRST;
    // What a checker is at goes on over a lost connection.
    let mut checks = Checks::default();
    loop {
        match serve(&link, &topic, &check, &mut checks, &mut wait).await {
            Error::Closed => return,
            Error::Refused(refusal) if refusal.code == ErrorCode::UnknownFrame => {
                tracing::info!(%topic, "the broker is older than this client and does not ask about prepared messages");
                return;
            }
            Error::Refused(refusal) if refusal.code.advice() != Advice::Retry => {
                tracing::warn!(%topic, %refusal, "the broker does not want to ask about prepared messages");
                return;
            }
            error => tracing::debug!(%topic, %error, "a stream of asks is lost"),
        }
        tokio::time::sleep(jittered(wait)).await;
        wait = (wait * 2).min(limits::RETRY_MAX);
    }
}

/// The checks under way.
#[derive(Default)]
struct Checks {
    tasks: JoinSet<TransactionHandle>,
    handles: BTreeSet<TransactionHandle>,
}

impl Checks {
    /// Begins a check, unless one of the same message is under way, which will answer.
    fn begin(&mut self, link: &Arc<Link>, check: &Arc<Checker>, undecided: Undecided) {
        if !self.handles.insert(undecided.handle.clone()) {
            return;
        }
        let (link, check) = (link.clone(), check.clone());
        self.tasks.spawn(async move {
            let handle = undecided.handle.clone();
            let decision = match check(undecided).await {
                Answer::Commit => Decision::Commit,
                Answer::RollBack => Decision::RollBack,
                Answer::Unknown => return handle,
            };
            if let Err(error) = decide(&link, std::slice::from_ref(&handle), decision).await {
                // What was decided meanwhile needs no answer, and what was not is asked about again.
                tracing::debug!(%handle, ?decision, %error, "an answer was not taken");
            }
            handle
        });
    }
}

/// Answers over one connection; says why that is over.
async fn serve(link: &Arc<Link>, topic: &Arc<str>, check: &Arc<Checker>, checks: &mut Checks, wait: &mut std::time::Duration) -> Error {
    let opened = async {
        let session = link.session().await?;
        let (mut send, mut frames) = session.open_stream().await?;
        let start = control::AnswerStart { topic: topic.to_string() };
        wire::send(&mut send, FrameKind::AnswerStart, &start).await?;
        let done = frames.answer().await?;
        match done.kind {
            FrameKind::Done => Ok((send, frames)),
            _ => Err(wire::unexpected(&done)),
        }
    };
    let (mut send, mut frames) = match opened.await {
        Ok(opened) => opened,
        Err(error) => return error,
    };
    *wait = limits::RETRY_FIRST;
    loop {
        // Reading a frame may be cancelled.
        tokio::select! {
            // What is not read is not heard, and does not count as asked.
            frame = frames.answer(), if checks.tasks.len() < limits::CHECKS_MAX => {
                let heard = match frame {
                    Ok(frame) if frame.kind == FrameKind::Ask => hear(&mut send, topic, frame.payload).await,
                    Ok(frame) => Err(wire::unexpected(&frame)),
                    Err(error) => Err(error),
                };
                match heard {
                    Ok(undecided) => checks.begin(link, check, undecided),
                    Err(error) => return error,
                }
            }
            Some(over) = checks.tasks.join_next() => match over {
                Ok(handle) => drop(checks.handles.remove(&handle)),
                // Which check panicked is not known any more: all are begun again when they are asked for again.
                Err(error) => {
                    tracing::error!(%error, "a check of a prepared message failed");
                    checks.tasks.abort_all();
                    checks.handles.clear();
                }
            },
        }
    }
}

/// Tells the broker that an ask has come, and reads it.
async fn hear(send: &mut SendStream, topic: &Arc<str>, payload: Bytes) -> Result<Undecided, Error> {
    let AskedMessage { ask, batch } = AskedMessage::decode(payload).map_err(wire::protocol)?;
    let message = Message {
        topic: topic.clone(),
        queue: 0,
        offset: 0,
        attempt: 0,
        stored_ms: ask.prepared_wall_ms,
        batch,
        row: 0,
    };
    if !message.verify() {
        return Err(Error::Protocol("the body does not fit its checksum".to_owned()));
    }
    wire::send(send, FrameKind::Heard, &control::Heard { ask: ask.ask }).await?;
    Ok(Undecided {
        handle: TransactionHandle(ask.handle),
        message,
        prepared_ms: ask.prepared_wall_ms,
        asks: ask.asks,
    })
}
