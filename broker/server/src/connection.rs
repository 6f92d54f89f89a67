//! One connection: the handshake, hello and welcome, then a task for each stream until the client or the broker ends it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use sluice_core::input::ConnectionId;
use sluice_protocol::control::{Hello, Limits, Refused, Welcome};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::ProducerId;
use sluice_protocol::limits as wire;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, error};

use crate::frames::{self, Broken, FrameReader, FrameRoom};
use crate::outgoing::Outgoing;
use crate::serving::{Serving, shutting_down};
use crate::shard::Share;
use crate::{admission, answering, backup, limits, publish, request, subscription};

/// The version of the protocol that is spoken here.
const VERSION: u32 = 1;

/// What the broker calls itself.
pub(crate) const SERVER: &str = concat!("sluice ", env!("CARGO_PKG_VERSION"));

/// A client that said hello, as its streams see it.
pub(crate) struct Client {
    pub(crate) serving: Arc<Serving>,
    pub(crate) quic: quinn::Connection,
    pub(crate) id: ConnectionId,
    pub(crate) name: String,
    pub(crate) producer: ProducerId,
    pub(crate) room: FrameRoom,
    pub(crate) outgoing: Outgoing,
    /// What it has of the inbox.
    pub(crate) share: Share,
}

/// Serves one connection until it ends.
pub(crate) async fn serve(serving: Arc<Serving>, incoming: quinn::Incoming) {
    let remote = incoming.remote_address();
    // What only the beginning needs is boxed, so that it does not stay in the task of an idle connection.
    let Ok(Ok(quic)) = Box::pin(timeout(limits::HANDSHAKE_TIMEOUT, async { incoming.await })).await else {
        debug!(%remote, "a handshake was not completed");
        return;
    };
    serving.metrics.connections_opened.one();
    let configured = &serving.config.limits;
    let room = FrameRoom::new(configured.frame_bytes, Duration::from_millis(configured.frame_ms.into()));
    match Box::pin(timeout(limits::HANDSHAKE_TIMEOUT, welcome(&serving, &quic, &room))).await {
        Ok(Ok((hello, first))) => {
            let id = ConnectionId(serving.shard.number());
            debug!(%remote, connection = id.0, client = %hello.name, "connected");
            let client = Client {
                serving: serving.clone(),
                quic,
                id,
                name: hello.name,
                producer: hello.producer,
                room,
                outgoing: Outgoing::new(serving.config.limits.frame_bytes),
                share: Share::default(),
            };
            run(Arc::new(client), first).await;
            debug!(%remote, connection = id.0, "disconnected");
        }
        Ok(Err(Broken::Refused(refusal))) => {
            serving.metrics.refusals.one(refusal.code);
            debug!(%remote, %refusal, "a client was refused");
            quic.close(code(refusal.code), refusal.text.as_bytes());
        }
        Ok(Err(Broken::Gone)) => {}
        Err(_) => quic.close(code(ErrorCode::UnexpectedFrame), b"no hello in time"),
    }
    serving.metrics.connections_closed.one();
}

fn code(code: ErrorCode) -> VarInt {
    VarInt::from_u32(u32::from(code as u16))
}

struct Introduced {
    name: String,
    producer: ProducerId,
}

/// Reads the hello on the first stream and answers it. The stream stays open as long as the connection.
async fn welcome(serving: &Serving, quic: &quinn::Connection, room: &FrameRoom) -> Result<(Introduced, (SendStream, FrameReader)), Broken> {
    let (mut send, receive) = quic.accept_bi().await.map_err(|_| Broken::Gone)?;
    let mut reader = FrameReader::new(receive, wire::CONTROL_FRAME_BYTES_MAX as u32, room.clone());
    match introduce(&mut reader).await {
        Ok(introduced) => {
            frames::write(&mut send, frame::message(FrameKind::Welcome, &welcome_message(serving))).await?;
            Ok((introduced, (send, reader)))
        }
        Err(Broken::Refused(refusal)) => {
            frames::refuse(&mut send, refusal.clone()).await;
            Err(Broken::Refused(refusal))
        }
        Err(Broken::Gone) => Err(Broken::Gone),
    }
}

async fn introduce(reader: &mut FrameReader) -> Result<Introduced, Broken> {
    let Some((FrameKind::Hello, frame)) = reader.next().await? else {
        return Err(Refusal::new(ErrorCode::UnexpectedFrame, "the first frame of a connection is a hello").into());
    };
    let hello: Hello = frame.message(FrameKind::Hello).map_err(Refusal::from)?;
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        let text = format!(
            "versions {} to {} are offered, {VERSION} is spoken here",
            hello.version_min, hello.version_max
        );
        return Err(Refusal::new(ErrorCode::UnsupportedVersion, text).into());
    }
    admission::check_member(&hello.client_name)?;
    let producer: [u8; 16] = hello.producer_id.as_ref().try_into().map_err(|_| {
        let text = format!("a producer's identity has 16 bytes, not {}", hello.producer_id.len());
        Refusal::new(ErrorCode::MalformedFrame, text)
    })?;
    Ok(Introduced {
        name: hello.client_name,
        producer: ProducerId(u128::from_le_bytes(producer)),
    })
}

fn welcome_message(serving: &Serving) -> Welcome {
    let configured = &serving.config.limits;
    Welcome {
        version: VERSION,
        server: SERVER.to_owned(),
        epoch: serving.epoch,
        limits: Some(Limits {
            frame_bytes_max: configured.frame_bytes,
            body_bytes_max: configured.body_bytes,
            attributes_bytes_max: wire::ATTRIBUTES_BYTES_MAX as u32,
            batch_messages_max: wire::BATCH_MESSAGES_MAX as u32,
            producer_unconfirmed_max: configured.unconfirmed,
            receive_messages_max: wire::RECEIVE_MESSAGES_MAX as u32,
            credit_messages_max: limits::CREDIT_MESSAGES_MAX,
        }),
    }
}

/// Serves the client's streams. When the connection is lost its tasks end first, then the core is told; when the broker drains, the
/// connection is closed as soon as its streams have come to their end.
async fn run(client: Arc<Client>, mut first: (SendStream, FrameReader)) {
    let mut streams = JoinSet::new();
    let mut allowance = Allowance::new(client.serving.config.limits.streams);
    let mut draining = client.serving.draining();
    loop {
        tokio::select! {
            opened = client.quic.accept_bi() => match opened {
                Ok((send, receive)) => {
                    streams.spawn(stream(client.clone(), send, receive));
                    if let Some(allowed) = allowance.raised(streams.len()) {
                        client.quic.set_max_concurrent_bi_streams(allowed.into());
                    }
                }
                Err(_) => break,
            },
            Some(ended) = streams.join_next() => report(ended),
            () = draining.begun() => break,
        }
    }
    if client.serving.draining.has_begun() {
        // Whoever is not told on the first stream learns it from its streams, or when the connection is closed.
        let _ = frames::write(&mut first.0, frame::message(FrameKind::Refused, &Refused::from(shutting_down()))).await;
        finish(&client, &mut streams).await;
    }
    streams.shutdown().await;
    client.serving.shard.disconnected(client.id);
}

/// Lets the open streams come to their end while new ones are turned away.
async fn finish(client: &Arc<Client>, streams: &mut JoinSet<()>) {
    while !streams.is_empty() {
        tokio::select! {
            opened = client.quic.accept_bi() => match opened {
                Ok((send, receive)) => { streams.spawn(stream(client.clone(), send, receive)); }
                Err(_) => return,
            },
            Some(ended) = streams.join_next() => report(ended),
        }
    }
    client
        .quic
        .close(code(ErrorCode::ShuttingDown), ErrorCode::ShuttingDown.text().as_bytes());
}

/// How many streams a client may have open. The QUIC library keeps an entry for each that is allowed, opened or not, so a connection begins
/// with few and is given more as it comes to use them.
struct Allowance {
    allowed: u32,
    most: u32,
}

impl Allowance {
    /// What a connection begins with that may come to have `most`.
    fn new(most: u32) -> Self {
        Self {
            allowed: limits::streams_at_first(most),
            most,
        }
    }

    /// What to allow now that `open` streams are: at least twice as many when half are used, or nothing new. The QUIC library does not tell
    /// the client of less than an eighth more, so the last step is a large one, too.
    fn raised(&mut self, open: usize) -> Option<u32> {
        if self.allowed == self.most || open < self.allowed as usize / 2 {
            return None;
        }
        let doubled = self.allowed.saturating_mul(2);
        self.allowed = if doubled > self.most / 2 { self.most } else { doubled };
        Some(self.allowed)
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(failure) = ended
        && failure.is_panic()
    {
        error!(error = %failure, "a stream's task failed");
    }
}

/// Serves one stream by what its first frame asks. A malformed frame ends this stream and nothing else.
async fn stream(client: Arc<Client>, mut send: SendStream, receive: RecvStream) {
    let mut reader = FrameReader::new(receive, client.serving.config.limits.frame_bytes, client.room.clone()).with_plugins();
    if let Err(Broken::Refused(refusal)) = begin(&client, &mut send, &mut reader).await {
        if matches!(
            refusal.code,
            ErrorCode::MalformedFrame | ErrorCode::UnknownFrame | ErrorCode::UnexpectedFrame | ErrorCode::FrameUnfinished
        ) {
            client.serving.metrics.frames_refused.one();
        }
        client.serving.metrics.refusals.one(refusal.code);
        debug!(connection = client.id.0, client = %client.name, %refusal, "a stream was refused");
        reader.stop(refusal.code);
        frames::refuse(&mut send, refusal).await;
    }
}

async fn begin(client: &Arc<Client>, send: &mut SendStream, reader: &mut FrameReader) -> Result<(), Broken> {
    let mut draining = client.serving.draining();
    let first = tokio::select! {
        first = reader.next() => first?,
        () = draining.begun() => return Err(shutting_down().into()),
    };
    let Some((kind, frame)) = first else { return Ok(()) };
    if client.serving.draining.has_begun() {
        return Err(shutting_down().into());
    }
    match kind {
        FrameKind::PublishStart => publish::run(client, send, reader, frame.message(kind).map_err(Refusal::from)?).await,
        FrameKind::AnswerStart => answering::run(client, send, reader, frame.message(kind).map_err(Refusal::from)?).await,
        FrameKind::Subscribe => subscription::run(client, send, reader, frame.message(kind).map_err(Refusal::from)?).await,
        FrameKind::BackupStart => backup::run(client, send, reader).await,
        FrameKind::Receive
        | FrameKind::SettleHandles
        | FrameKind::CreateTopic
        | FrameKind::DeleteTopic
        | FrameKind::ListTopics
        | FrameKind::DescribeTopic
        | FrameKind::CreateGroup
        | FrameKind::DeleteGroup
        | FrameKind::ListGroups
        | FrameKind::DescribeGroup
        | FrameKind::Seek
        | FrameKind::LoadPlugin
        | FrameKind::ListPlugins
        | FrameKind::DescribePlugin
        | FrameKind::GetMessage
        | FrameKind::ResumeGroup
        | FrameKind::Recall
        | FrameKind::Decide
        | FrameKind::ListTransactions
        | FrameKind::PauseGroup
        | FrameKind::SkipMessage
        | FrameKind::PurgeGroup
        | FrameKind::ListLeases
        | FrameKind::ListDeadLetters
        | FrameKind::ResendDeadLetters
        | FrameKind::DiscardDeadLetters
        | FrameKind::GrowTopic
        | FrameKind::ReadMessages
        | FrameKind::ExplainMessage => {
            // Held until the client has taken the answer.
            let mut part = request::room(client, kind).await;
            let mut answer: Vec<Bytes> = request::answer(client, kind, &frame, reader, &mut part).await?;
            if let Some(part) = &mut part {
                part.shrink(answer.iter().map(Bytes::len).sum());
            }
            send.write_all_chunks(&mut answer).await.map_err(|_| Broken::Gone)?;
            frames::finish(send).await;
            Ok(())
        }
        FrameKind::Hello
        | FrameKind::Welcome
        | FrameKind::Refused
        | FrameKind::Publish
        | FrameKind::Confirm
        | FrameKind::Subscribed
        | FrameKind::Credit
        | FrameKind::SettleStream
        | FrameKind::Unsubscribe
        | FrameKind::StreamEnded
        | FrameKind::DeliveryStart
        | FrameKind::Delivery
        | FrameKind::Received
        | FrameKind::NothingReceived
        | FrameKind::Settled
        | FrameKind::Transactions
        | FrameKind::Ask
        | FrameKind::Heard
        | FrameKind::Skipped
        | FrameKind::Purged
        | FrameKind::Leases
        | FrameKind::DeadLetters
        | FrameKind::DeadLettersDealt
        | FrameKind::Done
        | FrameKind::Topics
        | FrameKind::Topic
        | FrameKind::Groups
        | FrameKind::Group
        | FrameKind::Plugins
        | FrameKind::Plugin
        | FrameKind::Found
        | FrameKind::Messages
        | FrameKind::Explanation
        | FrameKind::BackupCut
        | FrameKind::BackupFiles
        | FrameKind::ReadBackup
        | FrameKind::BackupPiece => Err(unexpected(kind)),
    }
}

/// The refusal of a frame that has no place here.
pub(crate) fn unexpected(kind: FrameKind) -> Broken {
    Refusal::new(
        ErrorCode::UnexpectedFrame,
        format!("a frame of kind {kind:?} has no place at this point of the stream"),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_that_uses_half_of_its_streams_is_allowed_twice_as_many_up_to_the_limit() {
        let mut allowance = Allowance::new(120);
        let raised: Vec<(usize, u32)> = (1..=120).filter_map(|open| Some((open, allowance.raised(open)?))).collect();
        assert_eq!(raised, [(7, 28), (14, 56), (28, 120)]);
    }

    #[test]
    fn no_step_is_so_small_that_the_client_is_not_told() {
        for most in 1..=2_000 {
            let mut allowance = Allowance::new(most);
            let mut before = allowance.allowed;
            for raised in (1..=most as usize).filter_map(|open| allowance.raised(open)) {
                assert!(raised - before > raised / 8, "from {before} to {raised} of {most}");
                before = raised;
            }
            assert_eq!(before, most);
        }
    }
}
