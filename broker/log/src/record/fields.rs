//! How the fields that several kinds of record share are written and read.

use sluice_protocol::ids::{Attempt, GroupId, QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::wire::{Reader, WireError, Writer};

use super::{
    Backoff, CursorId, Filter, GroupSettings, Holder, LeaseRange, OLDEST_EVERY, OffsetRange, OnExhausted, QueueStart, ReturnReason,
    Sharing, StartPoint,
};

pub(super) fn put_queue(out: &mut Writer, queue: QueueId) -> &mut Writer {
    out.u64(queue.topic.0).u16(queue.index.0)
}

pub(super) fn take_queue(from: &mut Reader<'_>) -> Result<QueueId, WireError> {
    Ok(QueueId {
        topic: TopicId(from.u64()?),
        index: QueueIndex(from.u16()?),
    })
}

pub(super) fn put_cursor(out: &mut Writer, cursor: CursorId) -> &mut Writer {
    put_queue(out.u64(cursor.group.0), cursor.queue)
}

pub(super) fn take_cursor(from: &mut Reader<'_>) -> Result<CursorId, WireError> {
    Ok(CursorId {
        group: GroupId(from.u64()?),
        queue: take_queue(from)?,
    })
}

pub(super) fn put_starts(out: &mut Writer, starts: &[QueueStart]) {
    out.count(starts.len());
    for start in starts {
        put_queue(out, start.queue).u64(start.offset.0);
    }
}

/// Groups and how many messages each lost.
pub(super) fn put_losses(out: &mut Writer, lost: &[(GroupId, u64)]) {
    out.count(lost.len());
    for (group, messages) in lost {
        out.u64(group.0).u64(*messages);
    }
}

pub(super) fn take_losses(from: &mut Reader<'_>) -> Result<Vec<(GroupId, u64)>, WireError> {
    let count = from.count(16)?;
    (0..count).map(|_| Ok((GroupId(from.u64()?), from.u64()?))).collect()
}

pub(super) fn take_starts(from: &mut Reader<'_>) -> Result<Vec<QueueStart>, WireError> {
    let count = from.count(18)?;
    (0..count)
        .map(|_| {
            Ok(QueueStart {
                queue: take_queue(from)?,
                offset: QueueOffset(from.u64()?),
            })
        })
        .collect()
}

pub(super) fn put_range(out: &mut Writer, range: OffsetRange) {
    out.u64(range.first.0).u64(range.end.0);
}

pub(super) fn put_ranges(out: &mut Writer, ranges: &[OffsetRange]) {
    out.count(ranges.len());
    ranges.iter().for_each(|range| put_range(out, *range));
}

pub(super) fn take_range(from: &mut Reader<'_>) -> Result<OffsetRange, WireError> {
    let range = OffsetRange {
        first: QueueOffset(from.u64()?),
        end: QueueOffset(from.u64()?),
    };
    if range.first < range.end {
        Ok(range)
    } else {
        Err(WireError::Impossible("offset range"))
    }
}

pub(super) fn take_ranges(from: &mut Reader<'_>) -> Result<Vec<OffsetRange>, WireError> {
    let count = from.count(16)?;
    (0..count).map(|_| take_range(from)).collect()
}

pub(super) fn put_leases(out: &mut Writer, leases: &[LeaseRange]) {
    out.count(leases.len());
    for lease in leases {
        out.u64(lease.offsets.first.0).u64(lease.offsets.end.0).u16(lease.attempt.0);
    }
}

pub(super) fn take_leases(from: &mut Reader<'_>) -> Result<Vec<LeaseRange>, WireError> {
    let count = from.count(18)?;
    (0..count)
        .map(|_| {
            Ok(LeaseRange {
                offsets: take_range(from)?,
                attempt: Attempt(from.u16()?),
            })
        })
        .collect()
}

/// A text that may be longer than 64 KiB.
fn take_long_text(from: &mut Reader<'_>) -> Result<String, WireError> {
    String::from_utf8(from.blob()?.to_vec()).map_err(|_| WireError::NotText)
}

pub(super) fn put_filter(out: &mut Writer, filter: &Filter) {
    match filter {
        Filter::All => out.u8(0),
        Filter::Plugin { plugin, expression } => out.u8(1).text(plugin).blob(expression.as_bytes()),
    };
}

pub(super) fn take_filter(from: &mut Reader<'_>) -> Result<Filter, WireError> {
    match from.u8()? {
        0 => Ok(Filter::All),
        1 => Ok(Filter::Plugin {
            plugin: from.text()?.to_string(),
            expression: take_long_text(from)?,
        }),
        _ => Err(WireError::Impossible("filter")),
    }
}

pub(super) fn put_holder(out: &mut Writer, holder: &Holder) {
    match holder {
        Holder::Stream { member } => out.u8(0).blob(member.as_bytes()),
        Holder::Receive { member } => out.u8(1).blob(member.as_bytes()),
    };
}

pub(super) fn take_holder(from: &mut Reader<'_>) -> Result<Holder, WireError> {
    match from.u8()? {
        0 => Ok(Holder::Stream {
            member: take_long_text(from)?,
        }),
        1 => Ok(Holder::Receive {
            member: take_long_text(from)?,
        }),
        _ => Err(WireError::Impossible("holder")),
    }
}

pub(super) fn reason_number(reason: ReturnReason) -> u8 {
    match reason {
        ReturnReason::Nacked => 1,
        ReturnReason::Expired => 2,
        ReturnReason::ConnectionLost => 3,
        ReturnReason::Closed => 4,
        ReturnReason::Outlived => 5,
    }
}

pub(super) fn take_reason(from: &mut Reader<'_>) -> Result<ReturnReason, WireError> {
    match from.u8()? {
        1 => Ok(ReturnReason::Nacked),
        2 => Ok(ReturnReason::Expired),
        3 => Ok(ReturnReason::ConnectionLost),
        4 => Ok(ReturnReason::Closed),
        5 => Ok(ReturnReason::Outlived),
        _ => Err(WireError::Impossible("return reason")),
    }
}

pub(super) fn put_group_settings(out: &mut Writer, settings: &GroupSettings) {
    out.u16(settings.attempts_max);
    match &settings.backoff {
        Backoff::Table { waits_ms } => {
            out.u8(1).count(waits_ms.len());
            waits_ms.iter().for_each(|wait_ms| {
                out.u64(*wait_ms);
            });
        }
        Backoff::Exponential { first_ms, max_ms } => {
            out.u8(2).u64(*first_ms).u64(*max_ms);
        }
        Backoff::Fixed { wait_ms } => {
            out.u8(3).u64(*wait_ms);
        }
    }
    match settings.start {
        StartPoint::Earliest => out.u8(1),
        StartPoint::Latest => out.u8(2),
        StartPoint::Time { wall_ms } => out.u8(3).i64(wall_ms),
    };
}

pub(super) fn take_group_settings(from: &mut Reader<'_>) -> Result<GroupSettings, WireError> {
    let attempts_max = from.u16()?;
    let backoff = match from.u8()? {
        1 => {
            let count = from.count(8)?;
            Backoff::Table {
                waits_ms: (0..count).map(|_| from.u64()).collect::<Result<_, _>>()?,
            }
        }
        2 => Backoff::Exponential {
            first_ms: from.u64()?,
            max_ms: from.u64()?,
        },
        3 => Backoff::Fixed { wait_ms: from.u64()? },
        _ => return Err(WireError::Impossible("back-off")),
    };
    let start = match from.u8()? {
        1 => StartPoint::Earliest,
        2 => StartPoint::Latest,
        3 => StartPoint::Time { wall_ms: from.i64()? },
        _ => return Err(WireError::Impossible("start point")),
    };
    Ok(GroupSettings {
        attempts_max,
        backoff,
        start,
        ordered: false,
        on_exhausted: OnExhausted::DeadLetter,
        oldest_every: OLDEST_EVERY,
        sharing: Sharing::Shared,
    })
}
