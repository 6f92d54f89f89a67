//! Broadcast groups: each named member gets all, with a place of its own.

mod harness;

use harness::Harness;
use sluice_core::CoreConfig;
use sluice_core::effect::{Answer, Copied, DeadLetter, Effect, MemberInfo};
use sluice_core::input::{Action, Admin, ConnectionId, Consume, Input, Letter, NamedBy, Numbers, SeekTo, SubscriptionId};
use sluice_log::record::{Backoff, Filter, GroupSettings, Sharing, StartPoint, TopicSettings};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{GroupId, QueueId, QueueIndex, QueueOffset, TopicId};

const HOUR_MS: u64 = 60 * 60 * 1_000;

fn broadcast(config: &CoreConfig, attempts_max: u16) -> GroupSettings {
    GroupSettings {
        sharing: Sharing::Broadcast,
        start: StartPoint::Latest,
        attempts_max,
        backoff: Backoff::Fixed { wait_ms: 0 },
        ..config.group.clone()
    }
}

/// A broadcast group `g`, a topic `t` with this many messages, and members 1 and 2 with credit.
fn two_members(stored: u64) -> Harness {
    two_members_of(stored, 3)
}

fn two_members_of(stored: u64, attempts_max: u16) -> Harness {
    let mut harness = Harness::new();
    let settings = broadcast(&harness.config, attempts_max);
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings,
    });
    harness.publish(1, 0, stored);
    harness.sync();
    join(&mut harness, 1, Filter::All, 100);
    join(&mut harness, 2, Filter::All, 100);
    harness.sync();
    harness
}

fn ask(harness: &Harness, member: u64, filter: Filter) -> Consume {
    Consume {
        named_by: NamedBy::Member,
        ..harness.consume(&format!("m{member}"), filter)
    }
}

fn join(harness: &mut Harness, member: u64, filter: Filter, credit: u32) -> sluice_core::input::RequestId {
    let request = harness.request();
    let ask = ask(harness, member, filter);
    let (subscription, connection) = (SubscriptionId(member), ConnectionId(member));
    harness.input(Input::Subscribe {
        request,
        subscription,
        connection,
        ask,
        invisible_ms: 0,
    });
    harness.input(Input::Credit {
        subscription,
        messages: credit,
    });
    request
}

fn leave(harness: &mut Harness, member: u64) {
    harness.input(Input::Disconnected {
        connection: ConnectionId(member),
    });
    harness.sync();
}

/// What each of these members was pushed since, by offset.
fn pushed(harness: &mut Harness, members: &[u64]) -> Vec<Vec<u64>> {
    let deliveries = harness.deliveries();
    let of = |member: &u64| {
        let group = harness.core.state().group_named(&format!("g/m{member}"));
        let own = deliveries.iter().filter(|delivery| Some(delivery.cursor.group) == group);
        own.flat_map(harness::messages).map(|(offset, _)| offset).collect()
    };
    members.iter().map(of).collect()
}

fn described(harness: &mut Harness, name: &str) -> (u64, Vec<MemberInfo>) {
    let request = harness.admin(Admin::DescribeGroup {
        name: name.to_owned(),
        from: TopicId::default(),
    });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::Group { group, members, .. })) => (group.lag, members),
        other => panic!("no group: {other:?}"),
    }
}

#[test]
fn each_member_gets_all_that_is_stored_after_it_came() {
    let mut harness = two_members(3);
    assert_eq!(pushed(&mut harness, &[1, 2]), [[0u64; 0], []], "a new member starts at the end");
    harness.publish(1, 3, 2);
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [[3, 4], [3, 4]]);
    join(&mut harness, 3, Filter::All, 9);
    harness.publish(1, 5, 1);
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2, 3]), [[5], [5], [5]]);
}

#[test]
fn an_acknowledgement_counts_for_its_member_alone_and_both_places_survive_a_crash() {
    let mut harness = two_members(0);
    harness.publish(1, 0, 4);
    harness.sync();
    let settled = harness.settle(1, 1, Numbers::UpTo(3), Action::Ack);
    harness.sync();
    assert_eq!(harness.settled(settled), [Ok(())]);
    harness.crash();
    join(&mut harness, 1, Filter::All, 9);
    join(&mut harness, 2, Filter::All, 9);
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [vec![3], vec![0, 1, 2, 3]]);
}

#[test]
fn a_seek_of_the_group_begins_a_new_pass_for_each_member() {
    let mut harness = two_members(3);
    let sought = harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to: SeekTo::Earliest,
    });
    harness.sync();
    assert_eq!(harness.answer(sought), Some(Ok(Answer::Done)));
    assert_eq!(pushed(&mut harness, &[1, 2]), [[0, 1, 2], [0, 1, 2]]);
    let sought = harness.admin(Admin::Seek {
        group: "g/m2".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to: SeekTo::Offset(QueueOffset(2)),
    });
    harness.sync();
    assert_eq!(harness.answer(sought), Some(Ok(Answer::Done)));
    assert_eq!(pushed(&mut harness, &[1, 2]), [vec![], vec![2]], "a member may be sought alone");
    let purged = harness.admin(Admin::PurgeGroup {
        group: "g".to_owned(),
        topic: "t".to_owned(),
    });
    harness.sync();
    assert_eq!(harness.answer(purged), Some(Ok(Answer::Purged { messages: 4 })));
}

#[test]
fn a_member_that_is_absent_for_a_day_is_forgotten_and_one_that_came_back_is_not() {
    let mut harness = two_members(0);
    leave(&mut harness, 1);
    leave(&mut harness, 2);
    harness.wait(61_000);
    harness.sync();
    harness.wait(22 * HOUR_MS);
    harness.crash();
    join(&mut harness, 2, Filter::All, 9);
    harness.sync();
    leave(&mut harness, 2);
    for _ in 0..3 {
        harness.wait(HOUR_MS);
        harness.sync();
    }
    let state = harness.core.state();
    assert_eq!(state.group_named("g/m1"), None);
    let second = state.group_named("g/m2").expect("the second was there an hour ago");
    assert!(state.cursors.keys().all(|cursor| cursor.group == second));
    harness.publish(1, 0, 2);
    join(&mut harness, 1, Filter::All, 9);
    join(&mut harness, 2, Filter::All, 9);
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [vec![], vec![0, 1]], "who was forgotten is new");
}

#[test]
fn a_member_that_is_there_is_never_forgotten() {
    let mut harness = two_members(0);
    for _ in 0..30 {
        harness.wait(HOUR_MS);
        harness.sync();
    }
    harness.publish(1, 0, 1);
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [[0], [0]]);
}

#[test]
fn the_newest_filter_rules_all_members_and_ends_those_that_ask_for_an_older_one() {
    let mut harness = two_members(0);
    harness.bind(1, sluice_log::record::OnFailure::Skip);
    let newer = Filter::Plugin {
        plugin: "p".to_owned(),
        expression: "newer".to_owned(),
    };
    leave(&mut harness, 1);
    join(&mut harness, 1, newer.clone(), 9);
    harness.sync();
    let rules: Vec<&Filter> = harness
        .core
        .state()
        .subscriptions
        .values()
        .map(|subscription| &subscription.ruling)
        .collect();
    assert_eq!(rules, [&newer, &newer]);
    let ended = harness.effects.iter().filter_map(|effect| match effect {
        Effect::StreamEnded { subscription, refusal } => Some((subscription.0, refusal.code)),
        _ => None,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [(2, ErrorCode::SupersededSubscription)]);
    let again = join(&mut harness, 2, Filter::All, 9);
    assert_eq!(harness.refusal(again), ErrorCode::SupersededSubscription);
    join(&mut harness, 2, newer, 9);
    let third = join(&mut harness, 3, Filter::All, 9);
    assert_eq!(
        harness.refusal(third),
        ErrorCode::SupersededSubscription,
        "nor does a new member bring it back"
    );
}

#[test]
fn a_pause_and_a_skip_of_the_group_concern_each_member() {
    let mut harness = two_members(0);
    let pause = |name: &str| Admin::PauseGroup {
        name: name.to_owned(),
        topic: None,
        by: "operator".to_owned(),
    };
    harness.admin(pause("g"));
    harness.publish(1, 0, 3);
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [[0u64; 0], []]);
    let skipped = harness.admin(Admin::SkipMessage {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: QueueIndex(0),
        offset: QueueOffset(1),
        by: "operator".to_owned(),
    });
    harness.sync();
    assert!(matches!(harness.answer(skipped), Some(Ok(Answer::Skipped { .. }))));
    harness.admin(Admin::ResumeGroup {
        name: "g".to_owned(),
        topic: None,
        by: "operator".to_owned(),
    });
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [[0, 2], [0, 2]]);
    harness.admin(pause("g/m1"));
    harness.publish(1, 3, 1);
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [vec![], vec![3]], "a member may be paused alone");
}

#[test]
fn what_a_member_gives_up_lies_with_the_letters_of_the_group_and_comes_back_to_that_member() {
    let mut harness = two_members_of(0, 1);
    harness.publish(1, 0, 1);
    harness.sync();
    harness.settle(1, 1, Numbers::UpTo(1), Action::Nack { delay_ms: None });
    harness.sync();
    let asked = harness.effects.iter().find_map(|effect| match effect {
        Effect::Fetch {
            fetch,
            copy: Copied::DeadLetter(dead),
            ..
        } => Some((*fetch, dead.clone())),
        _ => None,
    });
    let (fetch, DeadLetter { group, .. }) = asked.expect("it had its only attempt");
    assert_eq!(group, "g/m1");
    let batch = Some(harness::batch(1, 0, 1));
    harness.input(Input::Fetched { fetch, batch });
    harness.sync();
    let letters = harness.core.state().topic_named("%DLQ%g").expect("the letters of the group");
    assert_eq!(harness.core.state().topic_named("%DLQ%g/m1"), None);
    pushed(&mut harness, &[]);
    let topic = harness.core.state().topic_named("t").expect("a topic");
    let queue = |topic| QueueId {
        topic,
        index: QueueIndex(0),
    };
    let letter = Letter {
        offset: QueueOffset(0),
        group,
        queue: queue(topic),
        origin: QueueOffset(0),
        attempts: 1,
        priority: 0,
    };
    let resend = |group: &str| Admin::ResendDeadLetters {
        group: group.to_owned(),
        letters: vec![letter.clone()],
        by: "operator".to_owned(),
    };
    let refused = harness.admin(resend("g/m1"));
    assert_eq!(harness.refusal(refused), ErrorCode::BroadcastGroup);
    harness.admin(resend("g"));
    harness.sync();
    assert_eq!(pushed(&mut harness, &[1, 2]), [vec![0], vec![]]);
    assert!(harness.core.state().queues.contains_key(&queue(letters)));
}

#[test]
fn operators_see_the_members_of_a_group_and_no_groups_of_theirs() {
    let mut harness = two_members(0);
    harness.publish(1, 0, 3);
    harness.sync();
    harness.settle(1, 1, Numbers::UpTo(2), Action::Ack);
    harness.sync();
    leave(&mut harness, 2);
    let left_wall_ms = harness.now.wall_ms;
    harness.wait(5_000);
    let (lag, members) = described(&mut harness, "g");
    let expected = |name: &str, leased, lag, absent_since_wall_ms| MemberInfo {
        name: name.to_owned(),
        topic: "t".to_owned(),
        leased,
        lag,
        absent_since_wall_ms,
    };
    assert_eq!(
        (lag, members),
        (4, vec![expected("m2", 0, 3, Some(left_wall_ms)), expected("m1", 1, 1, None)])
    );
    assert_eq!(described(&mut harness, "g/m2").0, 3);
    let listed = harness.admin(Admin::ListGroups { from: GroupId(0) });
    let Some(Ok(Answer::Groups { groups, .. })) = harness.answer(listed) else {
        panic!("no groups")
    };
    let listed: Vec<_> = groups.iter().map(|group| (group.name.as_str(), group.members, group.lag)).collect();
    assert_eq!(listed, [("g", 1, 4)]);
}

#[test]
fn what_contradicts_a_broadcast_group_is_refused() {
    let mut harness = two_members(0);
    let nameless = harness.stream(7, Filter::All, 1);
    assert_eq!(harness.refusal(nameless), ErrorCode::BroadcastGroup);
    let request = harness.request();
    let named = Consume {
        member: "a/b".to_owned(),
        ..ask(&harness, 1, Filter::All)
    };
    harness.input(Input::Receive {
        request,
        connection: ConnectionId(1),
        ask: named,
        max: 1,
        wait_ms: 0,
        invisible_ms: 10_000,
    });
    assert_eq!(harness.refusal(request), ErrorCode::BadName);
    let settings = GroupSettings {
        start: StartPoint::Earliest,
        ..broadcast(&harness.config, 3)
    };
    let created = harness.admin(Admin::CreateGroup {
        name: "h".to_owned(),
        settings,
    });
    assert_eq!(harness.refusal(created), ErrorCode::BadSetting);
    let listed = harness.admin(Admin::ListLeases {
        group: "g".to_owned(),
        topic: None,
        from: Default::default(),
    });
    assert_eq!(harness.refusal(listed), ErrorCode::BroadcastGroup);
}

#[test]
fn a_group_has_so_many_places_of_members_and_no_more() {
    let mut harness = Harness::with(CoreConfig {
        topic: TopicSettings {
            queues: 1_024,
            ..CoreConfig::default().topic
        },
        ..CoreConfig::default()
    });
    let settings = broadcast(&harness.config, 3);
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings,
    });
    harness.publish(1, 0, 1);
    harness.sync();
    for member in 0..97 {
        let joined = join(&mut harness, member, Filter::All, 0);
        harness.sync();
        assert!(matches!(harness.answer(joined), Some(Ok(Answer::Subscribed { .. }))), "{member}");
    }
    let joined = join(&mut harness, 97, Filter::All, 0);
    assert_eq!(harness.refusal(joined), ErrorCode::LimitExceeded);
    let deleted = harness.admin(Admin::DeleteGroup { name: "g".to_owned() });
    harness.sync();
    assert_eq!(harness.answer(deleted), Some(Ok(Answer::Done)));
    assert!(harness.core.state().groups.is_empty() && harness.core.state().cursors.is_empty());
}
