//! What is about to be written: batches encoded one behind the other, so that many small ones leave in one write.

use bytes::{Bytes, BytesMut};
use sluice_protocol::batch::{BatchBuilder, GivenId, MessageError, NewMessage as Attributes};
use sluice_protocol::control::Limits;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FRAME_HEADER_BYTES, FrameKind};
use sluice_protocol::ids::{ProducerId, Sequence};
use tokio::time::Instant;

use super::gathered::Gathered;
use super::sent::Replies;
use super::{Reply, Submitted};
use crate::error::SendError;
use crate::limits;
use crate::message::{NewMessage, wall_ms};

/// Frames that leave together.
pub(super) struct Outbox {
    builder: BatchBuilder,
    bytes: BytesMut,
    /// For each frame the first sequence, where it ends in the bytes, and who waits for its outcomes.
    frames: Vec<(Sequence, usize, Replies)>,
}

/// What bounds a batch.
pub(super) struct Bounds<'a> {
    /// Messages.
    pub(super) messages: u32,
    /// Bytes, one message excepted.
    pub(super) bytes: usize,
    /// What the broker takes.
    pub(super) limits: &'a Limits,
}

/// What time it is while some batches are made.
#[derive(Clone, Copy)]
pub(super) struct Now {
    pub(super) mono: Instant,
    pub(super) wall_ms: i64,
}

impl Now {
    pub(super) fn read() -> Self {
        Self {
            mono: Instant::now(),
            wall_ms: wall_ms(),
        }
    }
}

impl Outbox {
    pub(super) fn new(producer: ProducerId) -> Self {
        Self {
            builder: BatchBuilder::new(0, producer, Sequence(0)),
            bytes: BytesMut::new(),
            frames: Vec::new(),
        }
    }

    /// Bytes that are encoded.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Encodes the first of these messages, within the bounds, as the frame of one batch that begins with `first`. Those that break a rule are
    /// answered and take no place; whether any was left.
    pub(super) fn add(&mut self, gathered: &mut Gathered, first: Sequence, bounds: &Bounds<'_>, now: Now) -> bool {
        self.builder.begin(now.wall_ms, first);
        let mut replies = Vec::new();
        let mut only = None;
        while self.builder.len() < bounds.messages as usize
            && let Some(Submitted { message, reply }) = gathered.pop()
        {
            let full = self.builder.total_bytes() + message.bytes_max() > bounds.bytes;
            let pushed = match full && !self.builder.is_empty() {
                true => Err(MessageError::BatchFull),
                false => push(&mut self.builder, &message, bounds.limits.body_bytes_max, now.wall_ms),
            };
            match pushed {
                Ok(()) if bounds.messages == 1 => only = Some(reply),
                Ok(()) => replies.push(Some(reply)),
                Err(MessageError::BatchFull) if !self.builder.is_empty() => {
                    gathered.put_back(Submitted { message, reply }, now.mono);
                    break;
                }
                Err(error) => refuse(reply, error),
            }
        }
        let replies = match only {
            Some(reply) => Replies::One(Some(reply)),
            None => Replies::Many(replies),
        };
        let any = !self.builder.is_empty();
        if any {
            self.finish(first, replies);
        }
        any
    }

    fn finish(&mut self, first: Sequence, replies: Replies) {
        let header = frame::header(FrameKind::Publish, self.builder.total_bytes());
        let frame_bytes = FRAME_HEADER_BYTES + self.builder.total_bytes();
        if self.bytes.capacity() - self.bytes.len() < frame_bytes {
            self.bytes.reserve(frame_bytes.max(limits::ROOM_BYTES));
        }
        self.bytes.extend_from_slice(&header);
        self.builder.finish_into(&mut self.bytes);
        self.frames.push((first, self.bytes.len(), replies));
    }

    /// All that is encoded in one piece, and each frame of it; nothing is left.
    pub(super) fn take(&mut self) -> (Bytes, impl Iterator<Item = (Sequence, Bytes, Replies)>) {
        let bytes = self.bytes.split().freeze();
        let whole = bytes.clone();
        let mut from = 0;
        let frames = self.frames.drain(..).map(move |(first, end, replies)| {
            let frame = bytes.slice(from..end);
            from = end;
            (first, frame, replies)
        });
        (whole, frames)
    }
}

fn push(builder: &mut BatchBuilder, message: &NewMessage, body_bytes_max: u32, wall_ms: i64) -> Result<(), MessageError> {
    if message.body.len() > body_bytes_max as usize {
        let text = format!("the body has {} bytes, the limit is {body_bytes_max}", message.body.len());
        return Err(Refusal::new(ErrorCode::BodyTooLarge, text).into());
    }
    let attributes = Attributes {
        tag: message.tag.as_deref(),
        keys: &message.keys,
        properties: &message.properties,
        born_ms: message.born_ms.unwrap_or(wall_ms),
        deliver_at_ms: message.deliver_at_ms.unwrap_or(0),
        deliver_after_ms: message
            .deliver_after_ms
            .map_or(0, |after_ms| i64::try_from(after_ms).unwrap_or(i64::MAX)),
        priority: message.priority,
        group: message.group.as_deref(),
        ttl_ms: message.ttl_ms.unwrap_or(0),
        prepared: message.prepared,
        given_id: message.given_id.as_ref().map(|given| GivenId {
            scope: given.scope,
            id: &given.id,
        }),
    };
    builder.push(&attributes, &message.body)
}

fn refuse(reply: Reply, error: MessageError) {
    let refusal = match error {
        MessageError::Refused(refusal) => refusal,
        MessageError::BatchFull => Refusal::new(ErrorCode::LimitExceeded, "the message does not fit into a batch"),
    };
    // Whoever dropped the confirmation does not want to know.
    let _ = reply.send(Err(SendError::Refused(refusal)));
}
