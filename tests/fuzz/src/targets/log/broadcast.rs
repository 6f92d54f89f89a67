//! Valid changes that speak of broadcast groups and their members.

use sluice_log::record::{Backoff, Change, GroupSettings, OnExhausted, Operation, Sharing, StartPoint};
use sluice_protocol::ids::GroupId;

use super::operated;

pub(super) fn changes() -> [Change; 2] {
    let settings = GroupSettings {
        attempts_max: 3,
        backoff: Backoff::Fixed { wait_ms: 7 },
        start: StartPoint::Latest,
        ordered: true,
        on_exhausted: OnExhausted::Hold,
        oldest_every: 4,
        sharing: Sharing::MemberOf(GroupId(4)),
    };
    let absent = Operation::Absent {
        group: GroupId(4),
        since_mono_ms: Some(77),
    };
    let created = Change::GroupCreated {
        group: GroupId(5),
        name: "g/m".into(),
        settings,
    };
    [operated(absent), created]
}
