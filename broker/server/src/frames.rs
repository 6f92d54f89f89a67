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
    /// Room for two of the largest frames, or one with the largest plugin.
    pub(crate) fn new(frame_bytes_max: u32) -> Self {
        let units = (2 * kibibytes(frame_bytes_max)).max(kibibytes(limits::PLUGIN_FRAME_BYTES_MAX));
        Self(Arc::new(Semaphore::new(units as usize)))
    }

    /// Room for one frame, waiting for it. May be cancelled.
    async fn take(&self, payload_bytes: u32) -> OwnedSemaphorePermit {
        let room = self.0.clone().acquire_many_owned(kibibytes(payload_bytes)).await;
        room.expect("the room of a connection is never closed")
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
    /// The bound of a frame that loads a plugin.
    plugin_bytes_max: u32,
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
            plugin_bytes_max: payload_bytes_max,
            room,
            taken: None,
        }
    }

    /// The same reader, which takes plugins as large as the host does.
    pub(crate) fn with_plugins(self) -> Self {
        let plugin_bytes_max = self.payload_bytes_max.max(limits::PLUGIN_FRAME_BYTES_MAX);
        Self { plugin_bytes_max, ..self }
    }

    /// The bound of the frame whose header is in the buffer.
    fn bytes_max(&self) -> u32 {
        match self.buffer.first_chunk() {
            Some(&[_, _, _, _, a, b]) if u16::from_le_bytes([a, b]) == FrameKind::LoadPlugin.number() => self.plugin_bytes_max,
            Some(_) | None => self.payload_bytes_max,
        }
    }

    fn decode(&mut self) -> Result<Option<Frame>, Refusal> {
        let bytes_max = self.bytes_max();
        Ok(frame::decode(&mut self.buffer, bytes_max)?)
    }

    /// The next frame of a known kind; `None` when the client has finished the stream. Frames that may be skipped are.
    ///
    /// May be cancelled: what was read stays in the reader.
    ///
    /// # Errors
    /// A frame that is malformed or of an unknown kind; a stream that is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<(FrameKind, Frame)>, Broken> {
        let mut chunks: [Bytes; limits::READ_CHUNKS] = Default::default();
        loop {
            if let Some(next) = self.next_read()? {
                return Ok(Some(next));
            }
            self.take_room().await;
            match self.stream.read_chunks(&mut chunks).await {
                Ok(Some(read)) => {
                    let read = chunks[..read].iter_mut().map(std::mem::take);
                    read.for_each(|chunk| self.buffer.extend_from_slice(&chunk));
                }
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(Refusal::new(ErrorCode::MalformedFrame, "the stream ended within a frame").into()),
                Err(ReadError::Reset(_) | ReadError::ConnectionLost(_) | ReadError::ClosedStream) => return Err(Broken::Gone),
                Err(ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected) => {
                    unreachable!("streams are read in order and 0-RTT is not offered")
                }
            }
        }
    }

    /// The next frame of a known kind that has come whole; `None` when more must be read first. Frames that may be skipped are.
    ///
    /// # Errors
    /// A frame that is malformed or of an unknown kind.
    pub(crate) fn next_read(&mut self) -> Result<Option<(FrameKind, Frame)>, Refusal> {
        while let Some(frame) = self.decode()? {
            self.taken = None;
            if let Some(kind) = frame.known()? {
                return Ok(Some((kind, frame)));
            }
        }
        Ok(None)
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
        self.taken = Some(self.room.take(payload_bytes).await);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn frames_that_are_never_finished_take_no_more_than_the_room_of_their_connection() {
        let room = FrameRoom::new(8 << 20);
        let mut taken = Vec::new();
        while let Ok(permit) = timeout(Duration::ZERO, room.take(8 << 20)).await {
            taken.push(permit);
        }
        assert_eq!(taken.len(), 4, "32 MiB and 4 KiB");
        taken.pop();
        assert!(timeout(Duration::ZERO, room.take(8 << 20)).await.is_ok());
    }

    #[tokio::test]
    async fn the_largest_frame_of_any_kind_has_room() {
        for frame_bytes_max in [64 << 10, 8 << 20, 128 << 20] {
            let room = FrameRoom::new(frame_bytes_max);
            assert!(timeout(Duration::ZERO, room.take(frame_bytes_max)).await.is_ok());
            assert!(timeout(Duration::ZERO, room.take(limits::PLUGIN_FRAME_BYTES_MAX)).await.is_ok());
        }
    }
}
