//! Frames on a QUIC stream: read whole within the connection's room, and written together.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use sluice_protocol::control::Refused;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FRAME_HEADER_BYTES, Frame, FrameKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

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

/// What one connection's large frames may take: memory, together, until each is dealt with; and time to arrive.
#[derive(Clone, Debug)]
pub(crate) struct FrameRoom {
    bytes: Arc<Semaphore>,
    patience: Duration,
}

impl FrameRoom {
    /// Room for two of the largest frames, or one with the largest plugin. A frame is to be finished within `patience`, and a while for its
    /// size.
    pub(crate) fn new(frame_bytes_max: u32, patience: Duration) -> Self {
        let units = (2 * kibibytes(frame_bytes_max)).max(kibibytes(limits::PLUGIN_FRAME_BYTES_MAX));
        Self {
            bytes: Arc::new(Semaphore::new(units as usize)),
            patience,
        }
    }

    /// How long a frame of this size may take once it has begun and has its room.
    fn patience(&self, payload_bytes: u32) -> Duration {
        self.patience + Duration::from_secs((payload_bytes / limits::FRAME_BYTES_PER_SECOND_MIN).into())
    }

    /// Room for one frame, waiting for it. May be cancelled.
    async fn take(&self, payload_bytes: u32) -> OwnedSemaphorePermit {
        let room = self.bytes.clone().acquire_many_owned(kibibytes(payload_bytes)).await;
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
    /// The room of the frame that arrives.
    taken: Option<OwnedSemaphorePermit>,
    /// The room of the frame that was given out last, until the next is asked for: whoever deals with it holds its memory.
    given: Option<OwnedSemaphorePermit>,
    /// When the frame that arrives is to be finished.
    due: Option<Due>,
}

/// By when a frame is to be finished.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// Its header.
    Header(Instant),
    /// All of it.
    Whole(Instant),
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
            given: None,
            due: None,
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
    /// A frame that is malformed, of an unknown kind, or not finished in time; a stream that is gone.
    pub(crate) async fn next(&mut self) -> Result<Option<(FrameKind, Frame)>, Broken> {
        self.given = None;
        let mut chunks: [Bytes; limits::READ_CHUNKS] = Default::default();
        loop {
            if let Some(next) = self.next_read()? {
                return Ok(Some(next));
            }
            let read = match self.due().await {
                None => self.stream.read_chunks(&mut chunks).await,
                Some(due) => {
                    let read = self.stream.read_chunks(&mut chunks);
                    timeout_at(due, read).await.map_err(|_| unfinished(self.buffer.len()))?
                }
            };
            match read {
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
            self.given = self.taken.take();
            self.due = None;
            if let Some(kind) = frame.known()? {
                return Ok(Some((kind, frame)));
            }
        }
        Ok(None)
    }

    /// By when what arrives is to be finished; `None` between frames. Waits until the connection has room for the frame whose header is in
    /// the buffer, so that frames which a client never finishes cannot take more than that; its time begins when it has.
    async fn due(&mut self) -> Option<Instant> {
        if let Some(Due::Whole(due)) = self.due {
            return Some(due);
        }
        if self.buffer.is_empty() {
            return None;
        }
        let Some(&[a, b, c, d]) = self.buffer.get(..FRAME_HEADER_BYTES).and_then(|header| header.first_chunk()) else {
            let first = Due::Header(Instant::now() + self.room.patience(0));
            return match self.due.get_or_insert(first) {
                Due::Header(due) | Due::Whole(due) => Some(*due),
            };
        };
        let payload_bytes = u32::from_le_bytes([a, b, c, d]);
        if payload_bytes > limits::SMALL_FRAME_BYTES {
            self.taken = Some(self.room.take(payload_bytes).await);
            self.buffer.reserve(FRAME_HEADER_BYTES + payload_bytes as usize - self.buffer.len());
        }
        let due = Instant::now() + self.room.patience(payload_bytes);
        self.due = Some(Due::Whole(due));
        Some(due)
    }

    /// Tells the client to send nothing more.
    pub(crate) fn stop(&mut self, code: ErrorCode) {
        // A stream that is over already needs no stopping.
        let _ = self.stream.stop(VarInt::from_u32(u32::from(code as u16)));
    }
}

/// The refusal of a frame of which no more than this came in its time.
fn unfinished(bytes: usize) -> Broken {
    let text = format!("a frame was begun and not finished in time: {bytes} bytes of it came");
    Refusal::new(ErrorCode::FrameUnfinished, text).into()
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
    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn frames_that_are_never_finished_take_no_more_than_the_room_of_their_connection() {
        let room = FrameRoom::new(8 << 20, PATIENCE);
        let mut taken = Vec::new();
        while let Ok(permit) = timeout(Duration::ZERO, room.take(8 << 20)).await {
            taken.push(permit);
        }
        assert_eq!(taken.len(), 4, "32 MiB and 4 KiB");
        taken.pop();
        assert!(timeout(Duration::ZERO, room.take(8 << 20)).await.is_ok());
    }

    #[test]
    fn a_large_frame_may_take_longer_than_a_small_one() {
        let room = FrameRoom::new(8 << 20, PATIENCE);
        assert_eq!(room.patience(1_000), PATIENCE);
        assert_eq!(room.patience(8 << 20), PATIENCE + Duration::from_secs(128));
    }

    #[tokio::test]
    async fn the_largest_frame_of_any_kind_has_room() {
        for frame_bytes_max in [64 << 10, 8 << 20, 128 << 20] {
            let room = FrameRoom::new(frame_bytes_max, PATIENCE);
            assert!(timeout(Duration::ZERO, room.take(frame_bytes_max)).await.is_ok());
            assert!(timeout(Duration::ZERO, room.take(limits::PLUGIN_FRAME_BYTES_MAX)).await.is_ok());
        }
    }
}
