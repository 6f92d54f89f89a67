//! Frames over one QUIC stream: read one after the other, written whole.

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use sluice_protocol::control;
use sluice_protocol::errors::Refusal;
use sluice_protocol::frame::{self, FRAME_HEADER_BYTES, FrameKind};

use crate::error::Error;

/// Datagrams' worth of a stream taken from QUIC at once.
const CHUNKS: usize = 32;

/// A frame of a kind that is known here.
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) payload: Bytes,
}

/// Reads frames from a stream. Cancelling a read loses nothing: what has come stays in the buffer.
pub(crate) struct FrameReader {
    stream: RecvStream,
    buffer: BytesMut,
    frame_bytes_max: u32,
}

impl FrameReader {
    /// A reader that takes no frame whose payload is longer than `frame_bytes_max`.
    pub(crate) fn new(stream: RecvStream, frame_bytes_max: u32) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            frame_bytes_max,
        }
    }

    /// The next frame; `None` when the broker has finished the stream. Frames that may be skipped are.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = self.next_read()? {
                return Ok(Some(frame));
            }
            let mut chunks = [const { Bytes::new() }; CHUNKS];
            match self.stream.read_chunks(&mut chunks).await {
                Ok(Some(count)) => self.take(&chunks[..count]),
                Ok(None) if self.buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(Error::Protocol("a stream ended within a frame".to_owned())),
                Err(error) => return Err(lost(error)),
            }
        }
    }

    /// The next frame that has come whole; `None` when more must be read first. Frames that may be skipped are.
    pub(crate) fn next_read(&mut self) -> Result<Option<Frame>, Error> {
        while let Some(frame) = frame::decode(&mut self.buffer, self.frame_bytes_max).map_err(protocol)? {
            if let Some(kind) = frame.known().map_err(protocol)? {
                return Ok(Some(Frame {
                    kind,
                    payload: frame.payload,
                }));
            }
        }
        Ok(None)
    }

    /// Adds what has come to the buffer, which makes room for the whole of the frame that it begins with, if that is a frame at all.
    fn take(&mut self, chunks: &[Bytes]) {
        for chunk in chunks {
            self.buffer.extend_from_slice(chunk);
        }
        if let Some(bytes) = self.buffer.first_chunk().map(|length| u32::from_le_bytes(*length))
            && bytes <= self.frame_bytes_max
        {
            let whole = FRAME_HEADER_BYTES + bytes as usize;
            self.buffer.reserve(whole.saturating_sub(self.buffer.len()));
        }
    }

    /// The next frame, which must come; a refusal is an error.
    pub(crate) async fn answer(&mut self) -> Result<Frame, Error> {
        match self.next().await? {
            Some(frame) if frame.kind == FrameKind::Refused => Err(Error::Refused(refusal(frame.payload)?)),
            Some(frame) => Ok(frame),
            None => Err(Error::Unknown {
                reason: "the broker ended the stream without an answer".to_owned(),
            }),
        }
    }
}

/// Writes one frame with a control message.
pub(crate) async fn send(stream: &mut SendStream, kind: FrameKind, message: &impl prost::Message) -> Result<(), Error> {
    write(stream, frame::message(kind, message)).await
}

/// Writes bytes that are whole frames, without copying them.
pub(crate) async fn write(stream: &mut SendStream, bytes: Bytes) -> Result<(), Error> {
    stream.write_chunk(bytes).await.map_err(lost)
}

/// Reads a control message out of a frame of the kind that is expected.
pub(crate) fn expect<M: prost::Message + Default>(frame: Frame, kind: FrameKind) -> Result<M, Error> {
    if frame.kind != kind {
        return Err(unexpected(&frame));
    }
    M::decode(frame.payload).map_err(protocol)
}

/// The error of a frame that has no place where it came.
pub(crate) fn unexpected(frame: &Frame) -> Error {
    Error::Protocol(format!("a frame {:?} has no place here", frame.kind))
}

/// Reads a refusal out of the payload of its frame.
pub(crate) fn refusal(payload: Bytes) -> Result<Refusal, Error> {
    <control::Refused as prost::Message>::decode(payload)
        .map(Refusal::from)
        .map_err(protocol)
}

/// The error of bytes that cannot be understood.
pub(crate) fn protocol(error: impl std::fmt::Display) -> Error {
    Error::Protocol(error.to_string())
}

/// The error of a stream that broke.
pub(crate) fn lost(error: impl std::fmt::Display) -> Error {
    Error::Unknown { reason: error.to_string() }
}
