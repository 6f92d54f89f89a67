//! Taking a backup: what it holds, then its files one after the other, as they were at one place of the broker's log.

use bytes::Bytes;
use quinn::{SendStream, VarInt};
use sluice_protocol::control::{BackupCut, BackupFile, BackupFiles, Empty, ReadBackup};
use sluice_protocol::frame::FrameKind;

use crate::client::Client;
use crate::error::Error;
use crate::wire::{self, FrameReader};

/// A backup that the broker holds ready. While it is open the broker lets go of no segment; it gives up on a client that neither reads nor
/// asks for a minute.
pub struct Backup {
    cut: BackupCut,
    files: Vec<BackupFile>,
    send: SendStream,
    frames: FrameReader,
}

/// Reads one file of a backup.
pub struct BackupReader<'a> {
    frames: &'a mut FrameReader,
    bytes_left: u64,
}

impl Client {
    /// Has the broker hold a backup ready.
    ///
    /// # Errors
    /// `BackupRunning` while it does so for another client.
    pub async fn backup(&self) -> Result<Backup, Error> {
        let session = self.link.session().await?;
        let (mut send, mut frames) = session.open_stream().await?;
        wire::send(&mut send, FrameKind::BackupStart, &Empty {}).await?;
        let cut: BackupCut = wire::expect(frames.answer().await?, FrameKind::BackupCut)?;
        let mut files = Vec::new();
        while files.len() < cut.files as usize {
            let more: BackupFiles = wire::expect(frames.answer().await?, FrameKind::BackupFiles)?;
            if more.files.is_empty() {
                return Err(Error::Protocol("a list of files is empty".to_owned()));
            }
            files.extend(more.files);
        }
        Ok(Backup { cut, files, send, frames })
    }
}

impl Backup {
    /// Where and when it is taken.
    pub fn cut(&self) -> &BackupCut {
        &self.cut
    }

    /// Its files. Their paths are what the broker says, and to be checked before anything is written there.
    pub fn files(&self) -> &[BackupFile] {
        &self.files
    }

    /// Begins to read a file, by its place in the list. What is left of the one before must have been read.
    ///
    /// # Errors
    /// The connection is lost.
    ///
    /// # Panics
    /// When there is no such file.
    pub async fn read(&mut self, file: usize) -> Result<BackupReader<'_>, Error> {
        let bytes_left = self.files[file].bytes;
        let file = u32::try_from(file).expect("there are as many files as a u32 can count");
        wire::send(&mut self.send, FrameKind::ReadBackup, &ReadBackup { file }).await?;
        Ok(BackupReader {
            frames: &mut self.frames,
            bytes_left,
        })
    }

    /// Says that all was read, so that the broker goes on at once.
    ///
    /// # Errors
    /// The broker had given it up before.
    pub async fn finish(mut self) -> Result<(), Error> {
        self.send.finish().map_err(wire::lost)?;
        match self.frames.next().await? {
            None => Ok(()),
            Some(frame) if frame.kind == FrameKind::Refused => Err(Error::Refused(wire::refusal(frame.payload)?)),
            Some(frame) => Err(wire::unexpected(&frame)),
        }
    }
}

impl Drop for Backup {
    /// A stream that is dropped says that it came to its end; one that was given up must not.
    fn drop(&mut self) {
        let _ = self.send.reset(VarInt::from_u32(0));
    }
}

impl BackupReader<'_> {
    /// The next bytes of the file; `None` at its end.
    ///
    /// # Errors
    /// `BackupLost`, `BackupStalled`, `ShuttingDown`: another backup must be taken. Or the connection is lost.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.bytes_left == 0 {
            return Ok(None);
        }
        let frame = self.frames.answer().await?;
        if frame.kind != FrameKind::BackupPiece {
            return Err(wire::unexpected(&frame));
        }
        let bytes = frame.payload.len() as u64;
        if bytes == 0 || bytes > self.bytes_left {
            return Err(Error::Protocol(format!(
                "{bytes} bytes came of a file with {} left",
                self.bytes_left
            )));
        }
        self.bytes_left -= bytes;
        Ok(Some(frame.payload))
    }
}
