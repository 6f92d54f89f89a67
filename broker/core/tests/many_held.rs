//! How many messages that a plugin failed on are held for a group before the group itself is.

mod harness;

use harness::Harness;
use sluice_core::effect::{Answer, CursorInfo, Effect, GroupInfo};
use sluice_core::input::{Admin, Culprit, CulpritKind, Input, Link, Verdicts};
use sluice_core::limits::{CULPRIT_QUORUM, CULPRITS_HELD_MAX, CULPRITS_MAX};
use sluice_log::record::{Filter, OnFailure};
use sluice_protocol::ids::{QueueOffset, TopicId};

/// Answers the question that is asked: the plugin fails on so many of the first messages and wants none of the others.
fn judge(harness: &mut Harness, culprits: u64) {
    let at = harness.effects.iter().position(|effect| matches!(effect, Effect::Judge { .. }));
    let Effect::Judge { judge, from, to, .. } = harness.effects.remove(at.expect("a question")) else {
        unreachable!("it was just found")
    };
    let culprit = |offset: u64| Culprit {
        offset: QueueOffset(offset),
        link: Link::default(),
        kind: CulpritKind::Trap,
        reason: format!("it trapped on {offset}"),
    };
    let outcome = Ok(Verdicts {
        from,
        to,
        deliver: Vec::new(),
        links: Vec::new(),
        failed: 0,
        evaluated: (to.0 - from.0) as u32,
        culprits: (from.0..from.0 + culprits).map(culprit).collect(),
    });
    harness.input(Input::Verdicts { judge, outcome });
    harness.sync();
}

fn group(harness: &mut Harness) -> (GroupInfo, CursorInfo) {
    let request = harness.admin(Admin::DescribeGroup {
        name: "g".to_owned(),
        from: TopicId::default(),
    });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::Group { group, mut cursors, .. })) => (*group, cursors.remove(0)),
        other => panic!("no group: {other:?}"),
    }
}

#[test]
fn with_one_more_than_ten_thousand_held_messages_their_group_is_held() {
    let mut harness = Harness::new();
    harness.bind(1, OnFailure::Hold);
    harness.publish(1, 0, CULPRIT_QUORUM);
    let filter = Filter::Plugin {
        plugin: "p".to_owned(),
        expression: "x".to_owned(),
    };
    harness.stream(1, filter, 1);
    harness.sync();
    let rounds = CULPRITS_HELD_MAX / CULPRITS_MAX;
    for round in 1..=rounds {
        judge(&mut harness, CULPRITS_MAX);
        harness.publish(1, round * CULPRIT_QUORUM, CULPRIT_QUORUM);
        harness.sync();
    }
    let (info, cursor) = group(&mut harness);
    assert_eq!((cursor.culprits_held, info.alarms), (CULPRITS_HELD_MAX, vec![]));
    judge(&mut harness, 1);
    let (info, cursor) = group(&mut harness);
    assert_eq!(cursor.culprits_held, CULPRITS_HELD_MAX);
    assert_eq!(info.alarms[0].reason, format!("it trapped on {}", rounds * CULPRIT_QUORUM));
}
