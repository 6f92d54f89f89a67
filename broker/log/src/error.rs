//! What can go wrong with the log, in words that say what to do.

use std::io;

use sluice_protocol::ids::Position;

use crate::record::RecordError;

/// Why the log cannot go on or cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The disk failed. After a failed write or sync the writer refuses everything else.
    #[error("{doing} {file} failed: {source}")]
    Io {
        /// What was being done, as in "writing".
        doing: &'static str,
        /// The file, or the directory.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The disk has no room for what was to be written. Nothing of it counts and the writer goes on: the same call may be made again.
    #[error("the disk has no room for {file}: make room, or give it a larger disk; nothing that was confirmed is lost")]
    NoRoom {
        /// The file that could not be written.
        file: String,
    },
    /// An earlier write or sync failed, so that nobody knows what the disk holds.
    #[error("the log is stopped, because an earlier write or sync failed: repair the disk and start again")]
    Stopped,
    /// Another process has the directory.
    #[error("{directory} is in use by another process: stop it, or give this one a data directory of its own")]
    InUse {
        /// The directory.
        directory: String,
    },
    /// The directory holds a log of another format.
    #[error("{directory} holds format version {found} and this program reads version {known}: use the version that wrote it, or upgrade")]
    FormatVersion {
        /// The directory.
        directory: String,
        /// The version found.
        found: u32,
        /// The version this program writes.
        known: u32,
    },
    /// Bytes that were confirmed can no longer be read.
    #[error(
        "{file} is damaged: position {position}, {bytes} bytes cannot be read although later bytes were confirmed ({reason}); \
         restore a backup, or see what is readable with `sluice inspect`", position = position.0
    )]
    Damaged {
        /// The file that holds, or held, the bytes.
        file: String,
        /// The first unreadable place.
        position: Position,
        /// How many bytes are missing, as far as known.
        bytes: u64,
        /// How that is known.
        reason: &'static str,
    },
    /// A frame is whole but holds a record that this version cannot read.
    #[error("the record at position {position} cannot be read: {source}", position = position.0)]
    Unreadable {
        /// Where it is.
        position: Position,
        /// Why.
        source: RecordError,
    },
    /// What was asked for is no longer, or not yet, in the log.
    #[error("position {position} is not in the log: retention may have taken it", position = position.0)]
    Gone {
        /// The place asked for.
        position: Position,
    },
    /// A stored batch does not have the form or the checksum that it had when it was stored.
    #[error("the batch at position {position} is damaged: {reason}", position = position.0)]
    BadBatch {
        /// Where it is.
        position: Position,
        /// What is wrong.
        reason: String,
    },
    /// A file of far-off messages is lost or damaged.
    #[error("{file} is damaged: {reason}, at byte {offset}; restore a backup, or see what is readable with `sluice inspect`")]
    BadPart {
        /// The file.
        file: String,
        /// The place in it.
        offset: u64,
        /// What is wrong.
        reason: String,
    },
    /// The files of a snapshot are no longer what they were when it was taken.
    #[error("the snapshot was given up, so that retention could make room on a full disk: take another when there is room")]
    SnapshotLost,
    /// A setting that the log cannot work with.
    #[error("{0}")]
    Setting(String),
}

impl LogError {
    /// Wraps what the system said with what was being done to which file.
    pub(crate) fn io(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            doing,
            file: file.to_string(),
            source,
        }
    }

    /// As [`LogError::io`] for a write that may be made again when it failed for want of room.
    pub(crate) fn room(doing: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            if is_full(&source) {
                return Self::NoRoom { file: file.to_string() };
            }
            Self::io(doing, file)(source)
        }
    }

    /// Whether the disk has no room. The writer goes on after [`LogError::NoRoom`] alone.
    pub fn is_full(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Io { source, .. } => is_full(source),
            Self::Stopped
            | Self::InUse { .. }
            | Self::FormatVersion { .. }
            | Self::Damaged { .. }
            | Self::Unreadable { .. }
            | Self::Gone { .. }
            | Self::BadBatch { .. }
            | Self::BadPart { .. }
            | Self::SnapshotLost
            | Self::Setting(_) => false,
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
