//! Judging and the rule of the newest expression, stepped by hand.

mod harness;

use harness::Harness;
use sluice_core::effect::{Answer, Effect, JudgeId, Rule};
use sluice_core::input::{Admin, ConnectionId, Consume, Input, JudgeFailure, JudgeFailureKind, RequestId, SubscriptionId, Verdicts};
use sluice_core::limits::WINDOWS_MAX;
use sluice_log::record::{Filter, OnFailure};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{Digest, QueueOffset, TopicId};

fn filter(expression: &str) -> Filter {
    Filter::Plugin {
        plugin: "p".to_owned(),
        expression: expression.to_owned(),
    }
}

/// Ten messages, a bound plugin, and a stream with credit under an expression.
fn judging(expression: &str) -> Harness {
    let mut harness = Harness::new();
    harness.bind(1, OnFailure::DeadLetter);
    harness.publish(1, 0, 10);
    harness.stream(1, filter(expression), 20);
    harness.sync();
    harness
}

/// The questions asked since.
fn questions(harness: &mut Harness) -> Vec<(JudgeId, Rule, u64, u64)> {
    let mut asked = Vec::new();
    harness.effects.retain(|effect| match effect {
        Effect::Judge { judge, rule, from, to, .. } => {
            asked.push((*judge, rule.clone().expect("a rule"), from.0, to.0));
            false
        }
        _ => true,
    });
    asked
}

fn verdicts(harness: &mut Harness, judge: JudgeId, from: u64, to: u64, deliver: &[u64]) {
    let deliver = deliver.iter().copied().map(QueueOffset).collect();
    let outcome = Ok(Verdicts {
        from: QueueOffset(from),
        to: QueueOffset(to),
        deliver,
        links: Vec::new(),
        failed: 0,
        evaluated: (to - from) as u32,
        culprits: Vec::new(),
    });
    harness.input(Input::Verdicts { judge, outcome });
}

#[test]
fn only_what_the_filter_lets_through_is_delivered_and_the_rest_is_asked_next() {
    let mut harness = judging("x");
    let asked = questions(&mut harness);
    let [(judge, rule, 0, 10)] = &asked[..] else {
        panic!("asked {asked:?}")
    };
    assert_eq!(rule.expression, "x");
    verdicts(&mut harness, *judge, 0, 4, &[1, 2]);
    assert_eq!(harness.delivered(), [(1, 1), (2, 1)]);
    assert!(matches!(questions(&mut harness)[..], [(_, _, 4, 10)]));
}

#[test]
fn unsynced_messages_are_not_judged_and_groups_without_members_are_not() {
    let mut harness = judging("x");
    let asked = questions(&mut harness);
    verdicts(&mut harness, asked[0].0, 0, 10, &[]);
    harness.publish(1, 10, 2);
    assert!(questions(&mut harness).is_empty());
    harness.sync();
    assert!(matches!(questions(&mut harness)[..], [(_, _, 10, 12)]));
    let request = harness.request();
    harness.input(Input::Unsubscribe {
        request,
        subscription: SubscriptionId(1),
    });
    harness.publish(1, 12, 2);
    harness.sync();
    assert!(questions(&mut harness).is_empty());
}

#[test]
fn a_failed_judge_holds_the_cursor_and_is_asked_again_later() {
    let mut harness = judging("x");
    for wait_ms in [1_000, 2_000, 4_000] {
        let asked = questions(&mut harness);
        assert_eq!(asked.len(), 1);
        harness.input(Input::Verdicts {
            judge: asked[0].0,
            outcome: Err(JudgeFailure {
                kind: JudgeFailureKind::Unasked,
                reason: "not loaded".to_owned(),
            }),
        });
        let request = harness.admin(Admin::DescribeGroup {
            name: "g".to_owned(),
            from: TopicId::default(),
        });
        harness.sync();
        let Some(Ok(Answer::Group { cursors, .. })) = harness.answer(request) else {
            panic!("no group")
        };
        assert_eq!(cursors[0].held.as_deref(), Some("not loaded"));
        harness.wait(wait_ms - 1);
        assert!(questions(&mut harness).is_empty());
        harness.wait(1);
    }
    let asked = questions(&mut harness);
    verdicts(&mut harness, asked[0].0, 0, 10, &[9]);
    assert_eq!(harness.delivered(), [(9, 1)]);
}

#[test]
fn the_newest_expression_wins_and_the_older_member_is_refused_by_name() {
    let mut harness = judging("old");
    let old = questions(&mut harness);
    harness.stream(2, filter("new"), 20);
    verdicts(&mut harness, old[0].0, 0, 10, &[0, 1]);
    harness.sync();
    assert_eq!(harness.delivered(), [], "verdicts of the older expression are dropped");
    let ended = harness.effects.iter().any(|effect| {
        matches!(effect, Effect::StreamEnded { subscription: SubscriptionId(1), refusal } if refusal.code == ErrorCode::SupersededSubscription)
    });
    assert!(ended);
    let asked = questions(&mut harness);
    assert_eq!((asked[0].1.expression.as_str(), asked[0].2), ("new", 0));
    let refused = harness.stream(3, filter("old"), 1);
    assert_eq!(harness.refusal(refused), ErrorCode::SupersededSubscription);
}

#[test]
fn a_superseded_expression_comes_back_when_no_member_of_the_newer_one_was_seen_for_a_minute() {
    let mut harness = judging("old");
    harness.stream(2, filter("new"), 20);
    let request = harness.request();
    harness.input(Input::Unsubscribe {
        request,
        subscription: SubscriptionId(2),
    });
    harness.sync();
    harness.wait(59_999);
    let refused = harness.stream(3, filter("old"), 1);
    assert_eq!(harness.refusal(refused), ErrorCode::SupersededSubscription);
    harness.wait(1);
    let request = harness.stream(4, filter("old"), 1);
    harness.sync();
    assert!(matches!(harness.answer(request), Some(Ok(Answer::Subscribed { .. }))));
}

#[test]
fn a_new_version_of_a_plugin_judges_from_the_recorded_frontier() {
    let mut harness = judging("x");
    let asked = questions(&mut harness);
    verdicts(&mut harness, asked[0].0, 0, 3, &[0]);
    let stale = questions(&mut harness);
    harness.bind(2, OnFailure::DeadLetter);
    verdicts(&mut harness, stale[0].0, 3, 10, &[4]);
    assert_eq!(harness.delivered(), [(0, 1)]);
    let asked = questions(&mut harness);
    assert_eq!((asked[0].1.digest, asked[0].2), (Digest([2; 32]), 3));
}

#[test]
fn a_frontier_over_rejected_messages_is_recorded_after_a_second() {
    let mut harness = judging("x");
    let asked = questions(&mut harness);
    verdicts(&mut harness, asked[0].0, 0, 10, &[]);
    harness.sync();
    let frontier = |harness: &Harness| harness.core.state().cursors.values().next().expect("a cursor").lane.frontier.0;
    assert_eq!(frontier(&harness), 0);
    assert!(harness.core.next_deadline().is_some_and(|due| due <= harness.now.mono_ms + 1_000));
    harness.wait(1_000);
    assert_eq!(frontier(&harness), 10);
}

#[test]
fn a_filter_of_a_plugin_that_is_not_bound_is_refused() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    let request = harness.stream(1, filter("x"), 1);
    assert_eq!(harness.refusal(request), ErrorCode::NoSuchPlugin);
}

/// A receive that does not wait, under the expression of [`judging`].
fn receive_now(harness: &mut Harness) -> RequestId {
    let request = harness.request();
    let ask = harness.consume("receiver", filter("x"));
    harness.input(Input::Receive {
        request,
        connection: ConnectionId(99),
        ask,
        max: 4,
        wait_ms: 0,
        invisible_ms: 10_000,
    });
    request
}

/// Ten messages and a bound plugin; nobody reads.
fn stored() -> Harness {
    let mut harness = Harness::new();
    harness.bind(1, OnFailure::DeadLetter);
    harness.publish(1, 0, 10);
    harness.sync();
    harness
}

#[test]
fn a_receive_that_does_not_wait_gets_what_the_verdicts_under_way_let_through() {
    let mut harness = stored();
    let request = receive_now(&mut harness);
    harness.sync();
    let asked = questions(&mut harness);
    assert!(harness.answer(request).is_none(), "the filter has not answered yet");
    verdicts(&mut harness, asked[0].0, 0, 10, &[3, 4]);
    assert_eq!(harness.delivered(), [(3, 1), (4, 1)]);
    assert!(harness.answer(request).is_none());
}

#[test]
fn a_receive_that_does_not_wait_gets_nothing_when_the_verdicts_under_way_let_nothing_through() {
    let mut harness = stored();
    let request = receive_now(&mut harness);
    harness.sync();
    let asked = questions(&mut harness);
    verdicts(&mut harness, asked[0].0, 0, 10, &[]);
    assert!(matches!(harness.answer(request), Some(Ok(Answer::NothingReceived))));
    // Nothing is under way for the next one.
    let request = receive_now(&mut harness);
    assert!(matches!(harness.answer(request), Some(Ok(Answer::NothingReceived))));
}

#[test]
fn a_receive_waits_for_verdicts_under_way_no_longer_than_a_second() {
    let mut harness = stored();
    let request = receive_now(&mut harness);
    harness.sync();
    harness.wait(999);
    assert!(harness.answer(request).is_none());
    harness.wait(1);
    assert!(matches!(harness.answer(request), Some(Ok(Answer::NothingReceived))));
    let asked = questions(&mut harness);
    verdicts(&mut harness, asked[0].0, 0, 10, &[3]);
    assert!(harness.delivered().is_empty());
}

/// A stream with credit, of a group of its own; the subscription has the number of the group.
fn group_stream(harness: &mut Harness, group: u64, filter: Filter) {
    let request = harness.request();
    let (subscription, connection) = (SubscriptionId(group), ConnectionId(group));
    let ask = Consume {
        group: format!("g{group}"),
        ..harness.consume("member", filter)
    };
    harness.input(Input::Subscribe {
        request,
        subscription,
        connection,
        ask,
        invisible_ms: 0,
    });
    harness.input(Input::Credit { subscription, messages: 1 });
}

/// As many groups as there are windows, each with a question under way, and those questions.
fn windows_in_use() -> (Harness, Vec<JudgeId>) {
    let mut harness = stored();
    for group in 0..WINDOWS_MAX as u64 {
        group_stream(&mut harness, group, filter("x"));
    }
    harness.sync();
    let asked = questions(&mut harness);
    assert_eq!(asked.len(), WINDOWS_MAX);
    (harness, asked.into_iter().map(|(judge, ..)| judge).collect())
}

#[test]
fn a_lane_without_a_window_gets_the_one_of_a_group_that_takes_every_message_now() {
    let (mut harness, _) = windows_in_use();
    group_stream(&mut harness, 1 << 20, filter("x"));
    harness.sync();
    assert!(questions(&mut harness).is_empty(), "it waits for its turn");
    // The group's newest filter wants no plugin, so it wants no window.
    let request = harness.request();
    let ask = Consume {
        group: "g7".to_owned(),
        ..harness.consume("newer", Filter::All)
    };
    harness.input(Input::Subscribe {
        request,
        subscription: SubscriptionId(1 << 21),
        connection: ConnectionId(1 << 21),
        ask,
        invisible_ms: 0,
    });
    assert_eq!(questions(&mut harness).len(), 1);
}

#[test]
fn a_window_that_the_next_in_turn_does_not_want_goes_to_the_one_after() {
    let (mut harness, judges) = windows_in_use();
    for group in [1 << 20, 1 << 21] {
        group_stream(&mut harness, group, filter("x"));
    }
    harness.sync();
    harness.input(Input::Disconnected {
        connection: ConnectionId(1 << 20),
    });
    // The first group has judged all there is, and lets go of its window.
    verdicts(&mut harness, judges[0], 0, 10, &[]);
    assert_eq!(questions(&mut harness).len(), 1);
}
