//! How the members of a group share its messages, and how that is written and read.

use sluice_protocol::ids::GroupId;
use sluice_protocol::wire::{Reader, WireError, Writer};

/// Who gets the messages of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Its members share them: each goes to one of them.
    #[default]
    Shared,
    /// Each member gets all. For each there is a group of its own, which has the cursors.
    Broadcast,
    /// The group of one member of a broadcast group.
    MemberOf(GroupId),
}

/// Writes what version 3 of a group's settings adds.
pub fn put_sharing(out: &mut Writer, sharing: Sharing) {
    match sharing {
        Sharing::Shared => out.u8(0),
        Sharing::Broadcast => out.u8(1),
        Sharing::MemberOf(group) => out.u8(2).u64(group.0),
    };
}

/// Reads what version 3 of a group's settings adds.
///
/// # Errors
/// [`WireError`] when it is cut short or says what it cannot.
pub fn take_sharing(from: &mut Reader<'_>) -> Result<Sharing, WireError> {
    match from.u8()? {
        0 => Ok(Sharing::Shared),
        1 => Ok(Sharing::Broadcast),
        2 => Ok(Sharing::MemberOf(GroupId(from.u64()?))),
        _ => Err(WireError::Impossible("sharing")),
    }
}
