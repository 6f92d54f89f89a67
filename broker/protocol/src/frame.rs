//! Frames: what a QUIC stream is cut into, each a length, a kind, flags and a payload.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use crate::errors::{ErrorCode, Refusal};

/// Bytes before the payload: length u32 (of the payload), kind u16, flags u16, little-endian.
pub const FRAME_HEADER_BYTES: usize = 8;

/// The flag of a frame that a receiver may skip when it does not know the kind.
pub const FLAG_OPTIONAL: u16 = 1;

/// What a frame holds. The numbers are the wire's and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum FrameKind {
    /// `Hello`, the first frame of the first stream.
    Hello = 1,
    /// `Welcome`, its answer.
    Welcome = 2,
    /// `Refused`: the answer to a request that is not carried out, or the last frame of a stream.
    Refused = 3,

    /// `PublishStart` opens a producer's stream.
    PublishStart = 16,
    /// A flat batch to be stored.
    Publish = 17,
    /// `Confirm`, one for each publish or for several neighbouring ones, in order.
    Confirm = 18,

    /// `Subscribe` opens a subscription's stream.
    Subscribe = 32,
    /// `Subscribed`, its answer.
    Subscribed = 33,
    /// `Credit`: further messages that the server may push.
    Credit = 34,
    /// `SettleStream`: settles deliveries by number; answered by `Settled`.
    SettleStream = 35,
    /// `Unsubscribe`: ends the subscription in good order; answered by `Done`.
    Unsubscribe = 36,
    /// `StreamEnded`: the server ended the subscription.
    StreamEnded = 37,
    /// `DeliveryStart` opens a queue's stream, or tells of a new pass.
    DeliveryStart = 38,
    /// Messages with their numbers ([`crate::delivery::Delivery`]).
    Delivery = 39,

    /// `Receive`; answered by `Received` or `NothingReceived`.
    Receive = 48,
    /// Messages with their receipt handles ([`crate::delivery::Received`]).
    Received = 49,
    /// `NothingReceived`: the wait is over.
    NothingReceived = 50,
    /// `SettleHandles`; answered by `Settled`.
    SettleHandles = 51,
    /// `Settled`: one result for each handle, or one for a stream's settlement.
    Settled = 52,

    /// `Decide`: commits or rolls back prepared messages; answered by `Done`.
    Decide = 53,
    /// `ListTransactions`; answered by `Transactions`.
    ListTransactions = 54,
    /// `Transactions`.
    Transactions = 55,
    /// `AnswerStart` opens a stream of asks; answered by `Done`.
    AnswerStart = 56,
    /// A prepared message about which the client is asked ([`crate::delivery::AskedMessage`]).
    Ask = 57,
    /// `Heard`: an ask has come.
    Heard = 58,

    /// `CreateTopic`; answered by `Done`.
    CreateTopic = 64,
    /// `Named`; answered by `Done`.
    DeleteTopic = 65,
    /// `List`; answered by `Topics`.
    ListTopics = 66,
    /// `Named`; answered by `Topic`.
    DescribeTopic = 67,
    /// `CreateGroup`; answered by `Done`.
    CreateGroup = 68,
    /// `Named`; answered by `Done`.
    DeleteGroup = 69,
    /// `List`; answered by `Groups`.
    ListGroups = 70,
    /// `DescribeGroup`; answered by `Group`.
    DescribeGroup = 71,
    /// `Seek`; answered by `Done`.
    Seek = 72,
    /// `LoadPlugin`; answered by `Plugin`.
    LoadPlugin = 73,
    /// `Empty`; answered by `Plugins`.
    ListPlugins = 74,
    /// `Named`; answered by `Plugin`.
    DescribePlugin = 75,
    /// `GetMessage`; answered by `Found`.
    GetMessage = 76,
    /// `ResumeGroup`, a group that is paused or held; answered by `Done`.
    ResumeGroup = 77,

    /// `Recall`, a message that waits for its time; answered by `Done`.
    Recall = 78,
    /// `PauseGroup`; answered by `Done`.
    PauseGroup = 84,
    /// `SkipMessage`; answered by `Skipped`.
    SkipMessage = 85,
    /// `PurgeGroup`; answered by `Purged`.
    PurgeGroup = 86,
    /// `ListLeases`; answered by `Leases`.
    ListLeases = 87,
    /// `ListDeadLetters`; answered by `DeadLetters`.
    ListDeadLetters = 88,
    /// `DealWithDeadLetters`: they are delivered to their group again; answered by `DeadLettersDealt`.
    ResendDeadLetters = 89,
    /// `DealWithDeadLetters`: they are not shown any more; answered by `DeadLettersDealt`.
    DiscardDeadLetters = 90,
    /// `GrowTopic`; answered by `Done`.
    GrowTopic = 95,

    /// `Empty`: carried out.
    Done = 96,
    /// `Topics`.
    Topics = 97,
    /// `TopicInfo`.
    Topic = 98,
    /// `Groups`.
    Groups = 99,
    /// `GroupInfo`.
    Group = 100,
    /// `Plugins`.
    Plugins = 101,
    /// `PluginInfo`.
    Plugin = 102,
    /// A message and where it is ([`crate::delivery::FoundMessage`]).
    Found = 103,

    /// `Skipped`.
    Skipped = 108,
    /// `Purged`.
    Purged = 109,
    /// `Leases`.
    Leases = 110,
    /// `DeadLetters`.
    DeadLetters = 111,
    /// `DeadLettersDealt`.
    DeadLettersDealt = 112,
    /// `ReadMessages`; answered by `Messages`.
    ReadMessages = 116,
    /// `ExplainMessage`; answered by `Explanation`.
    ExplainMessage = 118,
    /// Messages that were read without a group ([`crate::page::MessagePage`]).
    Messages = 122,
    /// `Explanation`.
    Explanation = 123,

    /// `Empty` opens the stream of a backup; answered by `BackupCut`.
    BackupStart = 128,
    /// `BackupCut`: what the backup holds.
    BackupCut = 129,
    /// `BackupFiles`: neighbouring files of it, as often as there are any.
    BackupFiles = 130,
    /// `ReadBackup`, one of its files; answered by `BackupPiece` until all of it has come.
    ReadBackup = 131,
    /// The next bytes of the file that was asked for, and nothing else.
    BackupPiece = 132,
}

impl FrameKind {
    /// Every kind, ascending.
    pub const ALL: &[Self] = &[
        Self::Hello,
        Self::Welcome,
        Self::Refused,
        Self::PublishStart,
        Self::Publish,
        Self::Confirm,
        Self::Subscribe,
        Self::Subscribed,
        Self::Credit,
        Self::SettleStream,
        Self::Unsubscribe,
        Self::StreamEnded,
        Self::DeliveryStart,
        Self::Delivery,
        Self::Receive,
        Self::Received,
        Self::NothingReceived,
        Self::SettleHandles,
        Self::Settled,
        Self::Decide,
        Self::ListTransactions,
        Self::Transactions,
        Self::AnswerStart,
        Self::Ask,
        Self::Heard,
        Self::CreateTopic,
        Self::DeleteTopic,
        Self::ListTopics,
        Self::DescribeTopic,
        Self::CreateGroup,
        Self::DeleteGroup,
        Self::ListGroups,
        Self::DescribeGroup,
        Self::Seek,
        Self::LoadPlugin,
        Self::ListPlugins,
        Self::DescribePlugin,
        Self::GetMessage,
        Self::ResumeGroup,
        Self::Recall,
        Self::PauseGroup,
        Self::SkipMessage,
        Self::PurgeGroup,
        Self::ListLeases,
        Self::ListDeadLetters,
        Self::ResendDeadLetters,
        Self::DiscardDeadLetters,
        Self::GrowTopic,
        Self::Done,
        Self::Topics,
        Self::Topic,
        Self::Groups,
        Self::Group,
        Self::Plugins,
        Self::Plugin,
        Self::Found,
        Self::Skipped,
        Self::Purged,
        Self::Leases,
        Self::DeadLetters,
        Self::DeadLettersDealt,
        Self::ReadMessages,
        Self::ExplainMessage,
        Self::Messages,
        Self::Explanation,
        Self::BackupStart,
        Self::BackupCut,
        Self::BackupFiles,
        Self::ReadBackup,
        Self::BackupPiece,
    ];

    /// The kind with this number, if this version knows it.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL
            .binary_search_by_key(&number, |kind| *kind as u16)
            .ok()
            .map(|place| Self::ALL[place])
    }

    /// The number on the wire.
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// The kind of a frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A kind of this version.
    Known(FrameKind),
    /// A kind of some other version, which may be skipped.
    Optional(u16),
    /// A kind of some other version, which must be refused.
    Unknown(u16),
}

/// A frame that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it holds.
    pub kind: Kind,
    /// Its payload.
    pub payload: Bytes,
}

/// A stream that is not made of frames; nothing after it can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The payload is larger than this side takes.
    #[error("a frame of {bytes} bytes is larger than the limit of {bytes_max}")]
    TooLarge {
        /// What its header announces.
        bytes: u32,
        /// What is allowed.
        bytes_max: u32,
    },
    /// A flag that has no meaning in this version.
    #[error("a frame has the unknown flags {flags:#06x}")]
    UnknownFlags {
        /// All flags of the frame.
        flags: u16,
    },
    /// The payload of a control message cannot be decoded.
    #[error("the payload of a frame of kind {kind:?} cannot be decoded")]
    Malformed {
        /// The kind of the frame.
        kind: FrameKind,
    },
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        let code = match error {
            FrameError::TooLarge { .. } => ErrorCode::LimitExceeded,
            FrameError::UnknownFlags { .. } | FrameError::Malformed { .. } => ErrorCode::MalformedFrame,
        };
        Self::new(code, error.to_string())
    }
}

impl Frame {
    /// The kind, when this version knows it. `None` for one that may be skipped.
    ///
    /// # Errors
    /// `UnknownFrame` for a kind that is neither known nor optional.
    pub fn known(&self) -> Result<Option<FrameKind>, Refusal> {
        match self.kind {
            Kind::Known(kind) => Ok(Some(kind)),
            Kind::Optional(_) => Ok(None),
            Kind::Unknown(number) => Err(Refusal::new(
                ErrorCode::UnknownFrame,
                format!("frame kind {number} is not known here"),
            )),
        }
    }

    /// The payload as the control message `M`.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] when it is none.
    pub fn message<M: Message + Default>(&self, kind: FrameKind) -> Result<M, FrameError> {
        M::decode(self.payload.clone()).map_err(|_| FrameError::Malformed { kind })
    }
}

/// Takes one frame off the front of what has arrived of a stream; `None` until it is complete.
///
/// The payload shares the memory of `buffer`. No room is made ahead for what is only announced.
///
/// # Errors
/// [`FrameError`]; the stream is to be closed then.
pub fn decode(buffer: &mut BytesMut, payload_bytes_max: u32) -> Result<Option<Frame>, FrameError> {
    let Some(&[l0, l1, l2, l3, k0, k1, f0, f1]) = buffer.first_chunk::<FRAME_HEADER_BYTES>() else {
        return Ok(None);
    };
    let bytes = u32::from_le_bytes([l0, l1, l2, l3]);
    let number = u16::from_le_bytes([k0, k1]);
    let flags = u16::from_le_bytes([f0, f1]);
    if bytes > payload_bytes_max {
        return Err(FrameError::TooLarge {
            bytes,
            bytes_max: payload_bytes_max,
        });
    }
    if flags & !FLAG_OPTIONAL != 0 {
        return Err(FrameError::UnknownFlags { flags });
    }
    if buffer.len() - FRAME_HEADER_BYTES < bytes as usize {
        return Ok(None);
    }
    let payload = buffer
        .split_to(FRAME_HEADER_BYTES + bytes as usize)
        .freeze()
        .slice(FRAME_HEADER_BYTES..);
    let kind = match FrameKind::from_number(number) {
        Some(kind) => Kind::Known(kind),
        None if flags & FLAG_OPTIONAL != 0 => Kind::Optional(number),
        None => Kind::Unknown(number),
    };
    Ok(Some(Frame { kind, payload }))
}

/// The header of a frame whose payload is written after it.
pub fn header(kind: FrameKind, payload_bytes: usize) -> [u8; FRAME_HEADER_BYTES] {
    let length = u32::try_from(payload_bytes).expect("senders keep payloads below the limit of the welcome");
    let (l, k) = (length.to_le_bytes(), kind.number().to_le_bytes());
    [l[0], l[1], l[2], l[3], k[0], k[1], 0, 0]
}

/// Appends a frame with this payload.
pub fn encode(kind: FrameKind, payload: &[u8], out: &mut BytesMut) {
    out.reserve(FRAME_HEADER_BYTES + payload.len());
    out.put_slice(&header(kind, payload.len()));
    out.put_slice(payload);
}

/// Appends a frame that holds a control message.
pub fn encode_message(kind: FrameKind, message: &impl Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(FRAME_HEADER_BYTES + length);
    out.put_slice(&header(kind, length));
    message.encode(out).expect("a BytesMut grows as needed");
}

/// A frame that holds a control message.
pub fn message(kind: FrameKind, message: &impl Message) -> Bytes {
    let mut out = BytesMut::new();
    encode_message(kind, message, &mut out);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::control;

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(payloads in prop::collection::vec(any::<Vec<u8>>(), 0..8), cut in 1usize..50) {
            let mut stream = BytesMut::new();
            for (place, payload) in payloads.iter().enumerate() {
                encode(FrameKind::ALL[place], payload, &mut stream);
            }
            let (mut buffer, mut read) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = decode(&mut buffer, 1 << 20).unwrap() {
                    prop_assert_eq!(frame.kind, Kind::Known(FrameKind::ALL[read.len()]));
                    read.push(frame.payload.to_vec());
                }
            }
            prop_assert_eq!(read, payloads);
            prop_assert!(buffer.is_empty());
        }
    }

    #[test]
    fn every_kind_survives_its_number() {
        assert!(FrameKind::ALL.is_sorted());
        for &kind in FrameKind::ALL {
            assert_eq!(FrameKind::from_number(kind.number()), Some(kind));
        }
        assert_eq!(FrameKind::from_number(0), None);
    }

    #[test]
    fn an_unknown_kind_is_skipped_only_where_marked_optional() {
        let read = |flags| decode(&mut BytesMut::from(&[0, 0, 0, 0, 9, 9, flags, 0][..]), 10).unwrap().unwrap();
        assert_eq!(read(1).known(), Ok(None));
        assert_eq!(read(0).known().map_err(|refusal| refusal.code), Err(ErrorCode::UnknownFrame));
    }

    #[test]
    fn an_oversized_frame_is_refused_by_its_header_alone() {
        let mut buffer = BytesMut::from(&[11, 0, 0, 0, 1, 0, 0, 0][..]);
        assert_eq!(decode(&mut buffer, 10), Err(FrameError::TooLarge { bytes: 11, bytes_max: 10 }));
    }

    #[test]
    fn a_control_message_survives_its_frame() {
        let hello = control::Hello {
            version_min: 1,
            version_max: 1,
            client_name: "c".into(),
            producer_id: Bytes::from_static(&[7; 16]),
        };
        let mut buffer = BytesMut::from(&message(FrameKind::Hello, &hello)[..]);
        let frame = decode(&mut buffer, 1000).unwrap().unwrap();
        assert_eq!(frame.message(FrameKind::Hello), Ok(hello));
        let broken = Frame {
            kind: frame.kind,
            payload: Bytes::from_static(&[255]),
        };
        assert_eq!(
            broken.message::<control::Hello>(FrameKind::Hello),
            Err(FrameError::Malformed { kind: FrameKind::Hello })
        );
    }
}
