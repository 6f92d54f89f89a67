//! The entry of one consumer group.

use sluice_log::record::{
    Backoff, GroupSettings, OLDEST_EVERY, OnExhausted, Sharing, StartPoint, put_extension, put_sharing, take_extension, take_sharing,
};
use sluice_protocol::ids::{GroupId, Position};
use sluice_protocol::wire::{Reader, WireError, Writer};

/// One incarnation of a consumer group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: GroupSettings,
    /// Since when nobody reads for the member whose group this is, on the monotonic clock; `None` while somebody does, and for other groups.
    pub absent_mono_ms: Option<u64>,
}

/// How long a message that was delivered `attempts` times waits for the next delivery, in milliseconds.
pub fn backoff_ms(backoff: &Backoff, attempts: u16) -> u64 {
    let nth = usize::from(attempts.saturating_sub(1));
    match backoff {
        Backoff::Table { waits_ms } => waits_ms.get(nth).or(waits_ms.last()).copied().unwrap_or(0),
        Backoff::Exponential { first_ms, max_ms } => {
            let factor = 1u64.checked_shl(u32::from(attempts.saturating_sub(1))).unwrap_or(u64::MAX);
            first_ms.saturating_mul(factor).min(*max_ms)
        }
        Backoff::Fixed { wait_ms } => *wait_ms,
    }
}

/// Whether delivery number `attempt` is the last of a round. A message that is sent back after its last attempt gets another round, and its
/// deliveries go on being counted, so that no handle of an earlier one settles a later one.
pub fn is_last(attempt: u16, attempts_max: u16) -> bool {
    attempt >= attempts_max && attempt.is_multiple_of(attempts_max.max(1))
}

/// The number of a delivery within its round, from 1.
pub fn in_round(attempt: u16, attempts_max: u16) -> u16 {
    attempt.saturating_sub(1) % attempts_max.max(1) + 1
}

/// After how many deliveries a message begins its next round that was given up after `attempts`; `None` where they can be counted no further.
pub fn next_round(attempts: u16, attempts_max: u16) -> Option<u16> {
    let next = attempts.checked_next_multiple_of(attempts_max.max(1))?;
    next.checked_add(attempts_max).map(|_| next)
}

impl Group {
    /// The broadcast group whose member's group this is.
    pub fn parent(&self) -> Option<GroupId> {
        match self.settings.sharing {
            Sharing::MemberOf(parent) => Some(parent),
            Sharing::Shared | Sharing::Broadcast => None,
        }
    }

    pub(super) fn absent(&mut self, position: Position, since_mono_ms: Option<u64>) {
        if self.reflects < position {
            self.reflects = position;
            self.absent_mono_ms = since_mono_ms.filter(|_| self.parent().is_some());
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0).text(&self.name).u16(self.settings.attempts_max);
        match &self.settings.backoff {
            Backoff::Table { waits_ms } => {
                to.u8(0).count(waits_ms.len());
                for wait_ms in waits_ms {
                    to.u64(*wait_ms);
                }
            }
            Backoff::Exponential { first_ms, max_ms } => {
                to.u8(1).u64(*first_ms).u64(*max_ms);
            }
            Backoff::Fixed { wait_ms } => {
                to.u8(2).u64(*wait_ms);
            }
        }
        match self.settings.start {
            StartPoint::Earliest => to.u8(0),
            StartPoint::Latest => to.u8(1),
            StartPoint::Time { wall_ms } => to.u8(2).i64(wall_ms),
        };
        if self.settings.version() > 1 {
            put_extension(to, &self.settings);
        }
        if self.settings.version() > 2 {
            put_sharing(to, self.settings.sharing);
            let since = self.absent_mono_ms.unwrap_or_default();
            to.u8(self.absent_mono_ms.is_some().into()).u64(since);
        }
    }

    /// Version 1 knew neither order nor priorities, version 2 no members with cursors of their own.
    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let reflects = Position(from.u64()?);
        let name = from.text()?.to_owned();
        let attempts_max = from.u16()?;
        let backoff = match from.u8()? {
            0 => {
                let count = from.count(8)?;
                Backoff::Table {
                    waits_ms: (0..count).map(|_| from.u64()).collect::<Result<_, _>>()?,
                }
            }
            1 => Backoff::Exponential {
                first_ms: from.u64()?,
                max_ms: from.u64()?,
            },
            2 => Backoff::Fixed { wait_ms: from.u64()? },
            _ => return Err(WireError::Impossible("back-off")),
        };
        let start = match from.u8()? {
            0 => StartPoint::Earliest,
            1 => StartPoint::Latest,
            2 => StartPoint::Time { wall_ms: from.i64()? },
            _ => return Err(WireError::Impossible("start point")),
        };
        let mut settings = GroupSettings {
            attempts_max,
            backoff,
            start,
            ordered: false,
            on_exhausted: OnExhausted::DeadLetter,
            oldest_every: OLDEST_EVERY,
            sharing: Sharing::Shared,
        };
        if version > 1 {
            take_extension(from, &mut settings)?;
        }
        let mut absent_mono_ms = None;
        if version > 2 {
            settings.sharing = take_sharing(from)?;
            let (one, since) = (from.u8()?, from.u64()?);
            absent_mono_ms = match (one, since) {
                (0, 0) => None,
                (1, since) if matches!(settings.sharing, Sharing::MemberOf(_)) => Some(since),
                _ => return Err(WireError::Impossible("absence")),
            };
        }
        Ok(Self {
            reflects,
            name,
            settings,
            absent_mono_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_wait_of_a_table_holds_for_all_that_follow() {
        let table = Backoff::Table { waits_ms: vec![1, 5, 10] };
        assert_eq!([1, 2, 3, 4, 900].map(|attempts| backoff_ms(&table, attempts)), [1, 5, 10, 10, 10]);
    }

    #[test]
    fn every_round_of_attempts_is_as_long_as_the_first() {
        let last = |max| (0..20).filter(|attempt| is_last(*attempt, max)).collect::<Vec<u16>>();
        assert_eq!(last(5), [5, 10, 15]);
        assert_eq!(last(1), (1..20).collect::<Vec<_>>());
        assert_eq!([0, 5, 3, 7].map(|attempts| next_round(attempts, 5)), [0, 5, 5, 10].map(Some));
        assert_eq!(next_round(u16::MAX, 16), None);
    }

    #[test]
    fn an_exponential_wait_doubles_up_to_its_bound() {
        let doubling = Backoff::Exponential {
            first_ms: 100,
            max_ms: 1_000,
        };
        assert_eq!(
            [1, 2, 3, 4, 5, 500].map(|attempts| backoff_ms(&doubling, attempts)),
            [100, 200, 400, 800, 1_000, 1_000]
        );
    }
}
