//! Records that speak of broadcast groups and their members.

use sluice_log::record::*;
use sluice_protocol::ids::*;
use sluice_protocol::units::Now;

/// The kind 58, a broadcast group and the group of a member.
pub(crate) fn of_broadcast() -> Vec<Record> {
    let created = |group, name: &str, sharing| Change::GroupCreated {
        group: GroupId(group),
        name: name.into(),
        settings: GroupSettings {
            attempts_max: 3,
            backoff: Backoff::Fixed { wait_ms: 7 },
            start: StartPoint::Latest,
            ordered: false,
            on_exhausted: OnExhausted::DeadLetter,
            oldest_every: OLDEST_EVERY,
            sharing,
        },
    };
    let absent = |since_mono_ms| {
        Change::Operated(Operated {
            by: "broker".into(),
            operation: Operation::Absent {
                group: GroupId(9),
                since_mono_ms,
            },
        })
    };
    let changes = [
        created(8, "g", Sharing::Broadcast),
        created(9, "g/m", Sharing::MemberOf(GroupId(8))),
        absent(Some(77)),
        absent(None),
    ];
    let at = Now { wall_ms: -2, mono_ms: 3 };
    changes.map(|change| Record { at, change }).into()
}
