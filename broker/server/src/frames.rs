//! Frames on a QUIC stream: read whole within the connection's room, and written together.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use sluice_protocol::control::Refused;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FRAME_HEADER_BYTES, Frame, FrameKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// Why nothing more comes from a stream.
#[derive(Debug)]
pub(crate) enum Broken {
    /// What arrived is refused; the client is told, and the stream closed.
    Refused(Refusal),
    /// The client reset the stream, or the connection is lost: there is nobody to tell.
    Gone,
}

impl From<Refusal> for Broken {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The memory that one connection's unfinished large frames may take together.
#[derive(Clone, Debug)]
pub(crate) struct FrameRoom(Arc<Semaphore>);

impl FrameRoom {
    /// Room for two of the largest frames.
    pub(crate) fn new(frame_bytes_max: u32) -> Self {
        Self(Arc::new(Semaphore::new(2 * kibibytes(frame_bytes_max) as usize)))
    }
}

fn kibibytes(bytes: u32) -> u32 {
    bytes.div_ceil(1 << 10)
}

/// Reads frames off a stream.
#[derive(Debug)]
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    payload_bytes_max: u32,
    room: FrameRoom,
    taken: Option<OwnedSemaphorePermit>,
}

impl FrameReader {
    /// A reader of frames of up to `payload_bytes_max` bytes.
    pub(crate) fn new(stream: RecvStream, payload_bytes_max: u32, room: FrameRoom) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            payload_bytes_max,
            room,
            taken: None,
        }
    }

    /// The next frame of a known kind; `None` when the client has finished the stream. Frames that may be skipped are.
    ///
    /// May be cancelled: what was read stays in the reader.
    ///
    /// # Errors
    /// A frame that is malformed or of an unknown kind; a stream that is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<(FrameKind, Frame)>, Broken> {
        loop {
            while let Some(frame) = frame::decode(&mut self.buffer, self.payload_bytes_max).map_err(Refusal::from)? {
                self.taken = None;
                if let Some(kind) = frame.known()? {
                    return Ok(Some((kind, frame)));
                }
            }
            self.take_room().await;
            match self.stream.read_chunk(limits::WRITE_BYTES_MAX, true).await {
                Ok(Some(chunk)) => self.buffer.extend_from_slice(&chunk.bytes),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(Refusal::new(ErrorCode::MalformedFrame, "the stream ended within a frame").into()),
                Err(ReadError::Reset(_) | ReadError::ConnectionLost(_) | ReadError::ClosedStream) => return Err(Broken::Gone),
                Err(ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => {
                    unreachable!("streams are read in order and 0-RTT is not offered")
                }
            }
        }
    }

    /// Waits until the connection has room for the frame whose header is in the buffer, so that frames which a client never finishes
    /// cannot take more than that.
    async fn take_room(&mut self) {
        let Some(&[a, b, c, d]) = self.buffer.get(..FRAME_HEADER_BYTES).and_then(|header| header.first_chunk()) else {
            return;
        };
        let payload_bytes = u32::from_le_bytes([a, b, c, d]);
        if payload_bytes <= limits::SMALL_FRAME_BYTES || self.taken.is_some() {
            return;
        }
        let room = self.room.0.clone().acquire_many_owned(kibibytes(payload_bytes)).await;
        self.taken = Some(room.expect("the room of a connection is never closed"));
        self.buffer.reserve(FRAME_HEADER_BYTES + payload_bytes as usize - self.buffer.len());
    }

    /// Tells the client to send nothing more.
    pub(crate) fn stop(&mut self, code: ErrorCode) {
        // A stream that is over already needs no stopping.
        let _ = self.stream.stop(VarInt::from_u32(u32::from(code as u16)));
    }
}

/// Writes bytes to a stream; waits while the client's window is full.
///
/// # Errors
/// `Broken::Gone` when the client stopped the stream or the connection is lost.
pub(crate) async fn write(stream: &mut SendStream, bytes: Bytes) -> Result<(), Broken> {
    stream.write_chunk(bytes).await.map_err(|_| Broken::Gone)
}

/// Tells the client why the stream ends here, and ends it. Whoever is gone is not told.
pub(crate) async fn refuse(stream: &mut SendStream, refusal: Refusal) {
    let bytes = frame::message(FrameKind::Refused, &Refused::from(refusal));
    if write(stream, bytes).await.is_ok() {
        finish(stream).await;
    }
}

/// Ends a stream in good order and waits until the client has all of it, for a bounded time.
pub(crate) async fn finish(stream: &mut SendStream) {
    if stream.finish().is_ok() {
        // Whether it arrived or the client went away, there is nothing left to do.
        let _ = tokio::time::timeout(limits::HANDSHAKE_TIMEOUT, stream.stopped()).await;
    }
}
