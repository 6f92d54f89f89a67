//! What records say of priorities and of ordered groups, and how that is written and read.

use sluice_protocol::ids::QueueOffset;
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::{Change, GroupSettings, Sharing};

/// How often the message that has waited longest has its turn unless a group says otherwise.
pub const OLDEST_EVERY: u8 = 16;

/// A message that an ordered group has found and not handed out: it waits for those of its message group before it, or for a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The message.
    pub offset: QueueOffset,
    /// The hash of its message group; 0 when it has none, and waits for no other.
    pub group: u64,
    /// Its priority.
    pub priority: u8,
    /// Whether it matched. If not, a plugin failed on it, and those after it wait until that is decided.
    pub judged: bool,
}

/// What becomes of a message after its last attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExhausted {
    /// It goes to the group's dead-letter topic.
    #[default]
    DeadLetter,
    /// It stays where it is; in an ordered group those of its message group wait behind it.
    Hold,
}

/// Bytes of a parked message.
const PARKED_BYTES: usize = 18;

/// Whether a change says something that version 1 of its kind has no room for. What has none of what came later is written as ever.
pub(super) fn needs_version_2(change: &Change) -> bool {
    match change {
        Change::TopicCreated { settings, .. } => settings.is_extended(),
        Change::GroupCreated { settings, .. } => is_extended(settings),
        Change::Granted { priority, .. } | Change::CulpritDecided { priority, .. } => *priority != 0,
        Change::FrontierMoved { priority, parked, .. } => *priority != 0 || !parked.is_empty(),
        Change::Trimmed { lost, .. } => !lost.is_empty(),
        Change::Operated(operated) => super::operated::needs_version_2(operated),
        Change::Opened { .. }
        | Change::TopicDeleted { .. }
        | Change::GroupDeleted { .. }
        | Change::Subscribed { .. }
        | Change::PluginBound { .. }
        | Change::Appended { .. }
        | Change::Settled { .. }
        | Change::Returned { .. }
        | Change::Extended { .. }
        | Change::DeadLettered { .. }
        | Change::Sought { .. }
        | Change::ProducerForgotten { .. }
        | Change::SubscriptionHeld { .. }
        | Change::SubscriptionResumed { .. }
        | Change::Delayed { .. }
        | Change::Released { .. }
        | Change::Recalled { .. }
        | Change::Prioritized { .. }
        | Change::Expiring { .. }
        | Change::DeadlinesFound { .. }
        | Change::Expired { .. }
        | Change::Transaction(_)
        | Change::GivenIds(_)
        | Change::Restored(_)
        | Change::Parts(_) => false,
    }
}

impl GroupSettings {
    /// The lowest version that has room for what these settings say.
    pub fn version(&self) -> u8 {
        match self.sharing {
            Sharing::Shared => 1 + u8::from(is_extended(self)),
            Sharing::Broadcast | Sharing::MemberOf(_) => 3,
        }
    }
}

fn is_extended(settings: &GroupSettings) -> bool {
    (settings.ordered, settings.on_exhausted, settings.oldest_every) != (false, OnExhausted::DeadLetter, OLDEST_EVERY)
}

/// Writes what version 2 of a group's settings adds.
pub fn put_extension(out: &mut Writer, settings: &GroupSettings) {
    out.u8(settings.ordered.into())
        .u8(match settings.on_exhausted {
            OnExhausted::DeadLetter => 1,
            OnExhausted::Hold => 2,
        })
        .u8(settings.oldest_every);
}

/// Reads what version 2 of a group's settings adds.
///
/// # Errors
/// [`WireError`] when it is cut short or says what it cannot.
pub fn take_extension(from: &mut Reader<'_>, settings: &mut GroupSettings) -> Result<(), WireError> {
    settings.ordered = take_flag(from)?;
    settings.on_exhausted = match from.u8()? {
        1 => OnExhausted::DeadLetter,
        2 => OnExhausted::Hold,
        _ => return Err(WireError::Impossible("what becomes of an exhausted message")),
    };
    settings.oldest_every = from.u8()?;
    Ok(())
}

/// Writes parked messages.
pub fn put_parked(out: &mut Writer, parked: &[Parked]) {
    out.count(parked.len());
    for message in parked {
        out.u64(message.offset.0)
            .u64(message.group)
            .u8(message.priority)
            .u8(message.judged.into());
    }
}

/// Reads parked messages.
///
/// # Errors
/// [`WireError`] when they are cut short or say what they cannot.
pub fn take_parked(from: &mut Reader<'_>) -> Result<Vec<Parked>, WireError> {
    let count = from.count(PARKED_BYTES)?;
    (0..count)
        .map(|_| {
            Ok(Parked {
                offset: QueueOffset(from.u64()?),
                group: from.u64()?,
                priority: from.u8()?,
                judged: take_flag(from)?,
            })
        })
        .collect()
}

fn take_flag(from: &mut Reader<'_>) -> Result<bool, WireError> {
    match from.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(WireError::Impossible("flag")),
    }
}
