//! How the record of a restoration is written and read.

use sluice_protocol::ids::{Epoch, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

/// The number of its kind.
pub(super) const RESTORED: u16 = 62;
/// What one topic takes.
const NUMBER_BYTES: usize = 16;

/// This log was restored from a backup: another may have gone on from the same place, and what it handed out since is not of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restoration {
    /// What tells this restoration from every other.
    pub mark: [u8; 16],
    /// The first start since.
    pub epoch: Epoch,
    /// The next number of each topic's calendar, of those that had given any, ascending.
    pub numbers: Vec<(TopicId, QueueOffset)>,
}

/// Writes a restoration.
pub fn put_restoration(out: &mut Writer, restoration: &Restoration) {
    out.bytes(&restoration.mark)
        .u32(restoration.epoch.0)
        .count(restoration.numbers.len());
    for (topic, number) in &restoration.numbers {
        out.u64(topic.0).u64(number.0);
    }
}

/// Reads a restoration.
///
/// # Errors
/// [`WireError`] when it is cut short, or names its topics in no order.
pub fn take_restoration(from: &mut Reader<'_>) -> Result<Restoration, WireError> {
    let (mark, epoch, count) = (from.array()?, Epoch(from.u32()?), from.count(NUMBER_BYTES)?);
    let numbers = (0..count).map(|_| Ok((TopicId(from.u64()?), QueueOffset(from.u64()?))));
    let numbers: Vec<_> = numbers.collect::<Result<_, WireError>>()?;
    if !numbers.is_sorted_by(|(left, _), (right, _)| left < right) {
        return Err(WireError::Impossible("order"));
    }
    Ok(Restoration { mark, epoch, numbers })
}
