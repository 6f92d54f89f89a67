//! Delivery: leased messages are read, put together as frames and written, in order, on each queue's stream.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{SendStream, VarInt};
use sluice_core::effect::{Delivery, Taker};
use sluice_core::input::{Input, SubscriptionId};
use sluice_log::LogReader;
use sluice_log::record::LeaseRange;
use sluice_protocol::control::{DeliveryStart, Found};
use sluice_protocol::delivery::{self, FoundMessage, Received};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::{MessageId, Pass, QueueId, QueueIndex, QueueOffset};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::assembly::{Chunk, ReadFailure, Reading};
use crate::connection::Client;
use crate::serving::{Serving, shutting_down};

/// What a queue's delivery task is told.
#[derive(Debug)]
pub(crate) enum QueueNews {
    /// Push these messages.
    Deliver(Delivery),
    /// What follows belongs to this pass; its numbers begin at 1.
    Reset { pass: Pass },
}

/// Pushes one queue of a subscription on a stream of its own until the subscription ends, which ends this task; or until it cannot go on,
/// and why. While the client's window is full this task waits, holding what it read at once; what it has not read yet are numbers within
/// the client's credit.
pub(crate) async fn run_queue(
    client: Arc<Client>,
    subscription: SubscriptionId,
    queue: QueueIndex,
    first_pass: Pass,
    news: UnboundedReceiver<QueueNews>,
) -> Refusal {
    let stopped = match push_queue(&client, subscription, queue, first_pass, news).await {
        Ok(()) => return shutting_down(), // nobody has news any more: the session has ended
        Err(stopped) => stopped,
    };
    tracing::debug!(subscription = subscription.0, queue = queue.0, reason = %stopped, "a delivery stream ended");
    match stopped {
        Stopped::Read(refusal) => refusal,
        Stopped::Stream(_) => Refusal::new(ErrorCode::UnexpectedFrame, "the client stopped a stream of deliveries"),
    }
}

/// Why a queue's task, which has ended, ends its subscription.
pub(crate) fn ended(task: Result<Refusal, tokio::task::JoinError>) -> Refusal {
    task.unwrap_or_else(|error| {
        tracing::error!(%error, "a delivery task failed");
        Refusal::plain(ErrorCode::Internal)
    })
}

async fn push_queue(
    client: &Client,
    subscription: SubscriptionId,
    queue: QueueIndex,
    first_pass: Pass,
    mut news: UnboundedReceiver<QueueNews>,
) -> Result<(), Stopped> {
    let stream = client.quic.open_uni().await.map_err(quinn::WriteError::ConnectionLost)?;
    let mut push = Push {
        client,
        stream,
        subscription,
        queue,
    };
    push.start(first_pass).await?;
    let mut pass = first_pass;
    while let Some(told) = news.recv().await {
        match told {
            QueueNews::Deliver(delivery) => push.deliver(delivery).await?,
            QueueNews::Reset { pass: next } if next == pass => {}
            QueueNews::Reset { pass: next } => {
                pass = next;
                push.start(pass).await?;
            }
        }
    }
    Ok(())
}

/// A queue's stream; it ends as reset, because its subscription says how it ends.
struct Push<'a> {
    client: &'a Client,
    stream: SendStream,
    subscription: SubscriptionId,
    queue: QueueIndex,
}

impl Drop for Push<'_> {
    fn drop(&mut self) {
        // A stream that the client stopped needs no reset.
        let _ = self.stream.reset(VarInt::from_u32(0));
    }
}

/// Why a delivery stream ended.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Stream(#[from] quinn::WriteError),
    #[error("{0}")]
    Read(Refusal),
}

impl Push<'_> {
    async fn start(&mut self, pass: Pass) -> Result<(), Stopped> {
        let start = DeliveryStart {
            subscription: self.subscription.0,
            queue: self.queue.0.into(),
            pass: pass.0,
        };
        Ok(self.stream.write_chunk(frame::message(FrameKind::DeliveryStart, &start)).await?)
    }

    async fn deliver(&mut self, delivery: Delivery) -> Result<(), Stopped> {
        let Taker::Stream { first_number, .. } = delivery.taker else {
            unreachable!("a stream's events are for streams");
        };
        let mut reading = Reading::new(delivery.cursor.queue, delivery.leases);
        loop {
            // Without room nothing is read: what is not read yet are numbers.
            let mut part = self.client.outgoing.take().await;
            let (chunks, rest) = read(&self.client.serving, reading, Reading::next_several)
                .await
                .map_err(Stopped::Read)?;
            if chunks.is_empty() {
                return Ok(());
            }
            reading = rest;
            part.shrink(chunks.iter().map(Chunk::batch_bytes).sum());
            self.write(first_number, chunks).await?;
        }
    }

    async fn write(&mut self, first_number: u64, chunks: Vec<Chunk>) -> Result<(), Stopped> {
        let messages = chunks.iter().map(|chunk| chunk.messages).sum();
        let frames = chunks.into_iter().flat_map(|chunk| {
            let head = delivery::Delivery::encode_head(first_number + chunk.place, &chunk.ranges);
            framed(FrameKind::Delivery, head, chunk.batch)
        });
        let mut pieces: Vec<Bytes> = frames.collect();
        let bytes: usize = pieces.iter().map(Bytes::len).sum();
        self.stream.write_all_chunks(&mut pieces).await?;
        let metrics = &self.client.serving.metrics;
        metrics.messages_delivered.add(messages);
        metrics.delivery_bytes.add(bytes as u64);
        Ok(())
    }
}

/// A frame in pieces that are not copied together.
pub(crate) fn framed(kind: FrameKind, head: Bytes, batch: Vec<Bytes>) -> Vec<Bytes> {
    let payload_bytes = head.len() + batch.iter().map(Bytes::len).sum::<usize>();
    let header = Bytes::copy_from_slice(&frame::header(kind, payload_bytes));
    [header, head].into_iter().chain(batch).collect()
}

/// Reads on: at once what is in memory, else where waiting for the disk is allowed.
async fn read<T: Send + 'static>(
    serving: &Serving,
    mut reading: Reading,
    next: fn(&mut Reading, &LogReader) -> Result<T, ReadFailure>,
) -> Result<(T, Reading), Refusal> {
    if reading.is_in_memory(&serving.reader) {
        return unreadable(Ok(next(&mut reading, &serving.reader).map(|read| (read, reading))));
    }
    let reader = serving.reader.clone();
    unreadable(tokio::task::spawn_blocking(move || next(&mut reading, &reader).map(|read| (read, reading))).await)
}

/// What cannot be read is our fault or the disk's; the client is told no more than that.
pub(crate) fn unreadable<T, E: std::fmt::Display>(read: Result<Result<T, E>, tokio::task::JoinError>) -> Result<T, Refusal> {
    match read {
        Ok(Ok(read)) => Ok(read),
        Ok(Err(error)) => {
            tracing::error!(%error, "stored messages cannot be read");
            Err(Refusal::new(
                ErrorCode::Internal,
                "stored messages cannot be read; the broker's log says more",
            ))
        }
        Err(error) => {
            tracing::error!(%error, "a reading task failed");
            Err(Refusal::plain(ErrorCode::Internal))
        }
    }
}

/// The frame that answers a receive, in pieces. Messages that do not fit into it are returned at once, as if they had not been handed out.
///
/// # Errors
/// `Internal` when they cannot be read.
pub(crate) async fn received(
    serving: &Serving,
    queue: QueueId,
    leases: Vec<LeaseRange>,
    handles: Vec<Bytes>,
) -> Result<Vec<Bytes>, Refusal> {
    let reading = Reading::new(queue, leases).of_at_most(serving.config.limits.frame_bytes as usize);
    let (chunk, _) = read(serving, reading, Reading::next).await?;
    let Some(chunk) = chunk else {
        return Err(Refusal::new(ErrorCode::Internal, "the messages are no longer stored"));
    };
    let taken = chunk.place as usize..(chunk.place + chunk.messages) as usize;
    let mut given = Vec::with_capacity(taken.len());
    let mut returned = Vec::new();
    for (place, handle) in handles.into_iter().enumerate() {
        if taken.contains(&place) {
            given.push(handle)
        } else {
            returned.push(handle)
        }
    }
    if !returned.is_empty() {
        serving.shard.tell(Input::Undelivered { handles: returned });
    }
    serving.metrics.messages_delivered.add(chunk.messages);
    let head = Received::encode_head(queue.topic, queue.index, &chunk.ranges, &given);
    Ok(framed(FrameKind::Received, head, chunk.batch))
}

/// Where the message with this id is.
///
/// # Errors
/// `Internal` when an index cannot be read.
pub(crate) async fn find(serving: &Serving, id: MessageId) -> Result<Option<(QueueId, QueueOffset)>, Refusal> {
    let reader = serving.reader.clone();
    unreadable(tokio::task::spawn_blocking(move || reader.find(id)).await)
}

/// The batch of one message alone, in pieces.
///
/// # Errors
/// `NoSuchMessage` when it is no longer stored; `Internal` when it cannot be read.
pub(crate) async fn one(serving: &Serving, queue: QueueId, offset: QueueOffset) -> Result<Vec<Bytes>, Refusal> {
    let (chunk, _) = read(serving, Reading::one(queue, offset), Reading::next).await?;
    chunk
        .map(|chunk| chunk.batch)
        .ok_or_else(|| Refusal::plain(ErrorCode::NoSuchMessage))
}

/// The frame that answers a question for a message by its id, in pieces.
///
/// # Errors
/// `NoSuchMessage` when it is no longer stored; `Internal` when it cannot be read.
pub(crate) async fn found(serving: &Serving, topic: String, queue: QueueId, offset: QueueOffset) -> Result<Vec<Bytes>, Refusal> {
    let (chunk, _) = read(serving, Reading::one(queue, offset), Reading::next).await?;
    let chunk = chunk.ok_or_else(|| Refusal::plain(ErrorCode::NoSuchMessage))?;
    let stored_wall_ms = chunk.ranges.first().map_or(0, |range| range.stored_wall_ms);
    let found = Found {
        topic,
        topic_id: queue.topic.0,
        queue: queue.index.0.into(),
        offset: offset.0,
        stored_wall_ms,
    };
    Ok(framed(FrameKind::Found, FoundMessage::encode_head(&found), chunk.batch))
}
