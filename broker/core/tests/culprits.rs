//! Messages on which a plugin fails, stepped by hand: whose fault it is, and what becomes of them.

mod harness;

use harness::Harness;
use sluice_core::effect::{AlarmInfo, Answer, Copied, CursorInfo, Effect, FetchId, GroupInfo, JudgeId};
use sluice_core::input::{
    Action, Admin, ConnectionId, Culprit, CulpritKind, Input, JudgeFailure, JudgeFailureKind, Link, Numbers, SeekTo, Verdicts,
};
use sluice_core::survey::SurveyFrom;
use sluice_log::record::{Change, Fate, Filter, GroupSettings, OnFailure};
use sluice_protocol::ids::{Digest, QueueId, QueueIndex, QueueOffset, TopicId};

fn filter() -> Filter {
    Filter::Plugin {
        plugin: "p".to_owned(),
        expression: "x".to_owned(),
    }
}

/// A bound plugin, so many messages, and a stream with credit.
fn judging(on_failure: OnFailure, messages: u64) -> Harness {
    let mut harness = Harness::new();
    harness.bind(1, on_failure);
    harness.publish(1, 0, messages);
    harness.stream(1, filter(), 5_000);
    harness.sync();
    harness
}

/// The one question asked since.
fn question(harness: &mut Harness) -> (JudgeId, u64, u64) {
    let mut asked = Vec::new();
    harness.effects.retain(|effect| match effect {
        Effect::Judge { judge, from, to, .. } => {
            asked.push((*judge, from.0, to.0));
            false
        }
        _ => true,
    });
    assert_eq!(asked.len(), 1, "one question: {asked:?}");
    asked[0]
}

fn is_asked(harness: &Harness) -> bool {
    harness.effects.iter().any(|effect| matches!(effect, Effect::Judge { .. }))
}

/// Answers the one question: all is to be delivered but what the plugin fails on.
fn judge(harness: &mut Harness, culprits: &[u64]) {
    let (judge, from, to) = question(harness);
    let culprit = |&offset: &u64| Culprit {
        offset: QueueOffset(offset),
        link: Link::default(),
        kind: CulpritKind::Trap,
        reason: format!("it trapped on {offset}"),
    };
    let outcome = Ok(Verdicts {
        from: QueueOffset(from),
        to: QueueOffset(to),
        deliver: (from..to).filter(|offset| !culprits.contains(offset)).map(QueueOffset).collect(),
        links: Vec::new(),
        failed: 0,
        evaluated: (to - from) as u32,
        culprits: culprits.iter().map(culprit).collect(),
    });
    harness.input(Input::Verdicts { judge, outcome });
}

fn stop(harness: &mut Harness) {
    let (judge, ..) = question(harness);
    let outcome = Err(JudgeFailure {
        kind: JudgeFailureKind::Stopped,
        reason: "it ran too long".to_owned(),
    });
    harness.input(Input::Verdicts { judge, outcome });
}

fn fetches(harness: &mut Harness) -> Vec<(FetchId, u64, String)> {
    let mut fetches = Vec::new();
    harness.effects.retain(|effect| match effect {
        Effect::Fetch {
            fetch,
            offset,
            copy: Copied::DeadLetter(dead),
            ..
        } => {
            fetches.push((*fetch, offset.0, dead.reason.clone()));
            false
        }
        _ => true,
    });
    fetches
}

fn offsets(harness: &mut Harness) -> Vec<u64> {
    harness.delivered().into_iter().map(|(offset, _)| offset).collect()
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

fn resume(harness: &mut Harness) {
    let request = harness.admin(Admin::ResumeGroup {
        name: "g".to_owned(),
        topic: None,
        by: "operator".to_owned(),
    });
    harness.sync();
    assert!(matches!(harness.answer(request), Some(Ok(Answer::Done))));
}

/// The fates that the log holds.
fn fates(harness: &Harness) -> Vec<(u64, Fate)> {
    let decided = harness.durable.iter().filter_map(|(_, record)| match &record.change {
        Change::CulpritDecided { offset, fate, .. } => Some((offset.0, fate.clone())),
        _ => None,
    });
    decided.collect()
}

#[test]
fn a_message_that_is_set_aside_does_not_stop_the_others_and_the_frontier_stays_at_it() {
    let mut harness = judging(OnFailure::DeadLetter, 10);
    judge(&mut harness, &[4]);
    assert_eq!(offsets(&mut harness), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    harness.settle(1, 1, Numbers::UpTo(9), Action::Ack);
    harness.sync();
    let (info, cursor) = group(&mut harness);
    assert_eq!((cursor.frontier.0, cursor.cursor.0, cursor.set_aside, info.lag), (4, 4, 1, 1));
    assert!(fetches(&mut harness).is_empty());
}

#[test]
fn a_single_culprit_is_dead_lettered_with_its_reason_after_ten_seconds() {
    let mut harness = judging(OnFailure::DeadLetter, 10);
    judge(&mut harness, &[4]);
    harness.wait(9_999);
    assert!(fetches(&mut harness).is_empty());
    harness.wait(1);
    let [(fetch, 4, reason)] = &fetches(&mut harness)[..] else {
        panic!("one message is fetched")
    };
    assert_eq!(reason, "it trapped on 4");
    harness.input(Input::Fetched {
        fetch: *fetch,
        batch: Some(harness::batch(1, 4, 1)),
    });
    harness.sync();
    assert!(matches!(fates(&harness)[..], [(4, Fate::DeadLettered { .. })]));
    let (info, cursor) = group(&mut harness);
    assert_eq!((cursor.frontier.0, cursor.set_aside, info.alarms.len()), (10, 0, 0));
    assert_eq!(info.lag, 9);
}

#[test]
fn a_culprit_that_cannot_be_read_stays_set_aside_and_is_asked_for_again() {
    let mut harness = judging(OnFailure::DeadLetter, 10);
    judge(&mut harness, &[4]);
    harness.wait(10_000);
    for _ in 0..3 {
        let [(fetch, 4, _)] = fetches(&mut harness)[..] else {
            panic!("one message is fetched")
        };
        harness.input(Input::FetchFailed { fetch });
        harness.wait(9_999);
        assert!(fetches(&mut harness).is_empty(), "not before its time");
        assert_eq!(group(&mut harness).1.set_aside, 1);
        harness.wait(1);
    }
    let [(fetch, 4, _)] = fetches(&mut harness)[..] else {
        panic!("one message is fetched")
    };
    harness.input(Input::Fetched {
        fetch,
        batch: Some(harness::batch(1, 4, 1)),
    });
    harness.sync();
    assert!(matches!(fates(&harness)[..], [(4, Fate::DeadLettered { .. })]));
}

#[test]
fn a_culprit_is_decided_about_as_soon_as_1024_messages_were_judged_with_it() {
    let mut harness = judging(OnFailure::Skip, 1_023);
    judge(&mut harness, &[4]);
    harness.sync();
    assert!(fates(&harness).is_empty());
    harness.publish(1, 1_023, 1);
    harness.sync();
    judge(&mut harness, &[]);
    harness.sync();
    assert_eq!(fates(&harness), [(4, Fate::Skipped)]);
}

#[test]
fn more_than_sixteen_failures_are_the_plugins_fault_and_nothing_is_decided() {
    let mut harness = judging(OnFailure::DeadLetter, 1_000);
    judge(&mut harness, &(100..117).collect::<Vec<_>>());
    harness.wait(20_000);
    harness.sync();
    assert!(fetches(&mut harness).is_empty() && fates(&harness).is_empty());
    let (info, cursor) = group(&mut harness);
    let [AlarmInfo { topic, digest, reason, .. }] = &info.alarms[..] else {
        panic!("one alarm: {info:?}")
    };
    assert_eq!(
        (topic.as_str(), *digest, reason.as_str()),
        ("t", Digest([1; 32]), "it trapped on 100")
    );
    assert_eq!((cursor.frontier.0, cursor.set_aside), (100, 17));
    harness.publish(1, 1_000, 5);
    harness.sync();
    assert!(!is_asked(&harness), "a held group is not judged");
}

#[test]
fn sixteen_failures_are_still_the_messages_fault() {
    let mut harness = judging(OnFailure::Skip, 1_024);
    judge(&mut harness, &(100..116).collect::<Vec<_>>());
    harness.sync();
    assert_eq!(fates(&harness).len(), 16);
}

#[test]
fn sixteen_failures_of_each_1024_messages_are_still_the_messages_fault() {
    let mut harness = judging(OnFailure::DeadLetter, 1_000);
    judge(&mut harness, &(0..16).collect::<Vec<_>>());
    harness.publish(1, 1_000, 1_000);
    harness.sync();
    judge(&mut harness, &(1_000..1_006).collect::<Vec<_>>());
    harness.sync();
    assert_eq!(group(&mut harness).0.alarms, []);
    // With the later six too little was judged yet.
    let decided: Vec<u64> = fetches(&mut harness).into_iter().map(|(_, offset, _)| offset).collect();
    assert_eq!(decided, (0..16).collect::<Vec<_>>());
}

#[test]
fn a_plugin_that_fails_on_as_much_as_it_judges_is_at_fault() {
    let mut harness = judging(OnFailure::Skip, 4);
    judge(&mut harness, &[1, 3]);
    harness.wait(10_000);
    harness.sync();
    assert!(fates(&harness).is_empty());
    assert_eq!(group(&mut harness).0.alarms.len(), 1);
}

#[test]
fn three_stops_in_a_row_are_the_plugins_fault_and_fewer_are_not() {
    let mut harness = judging(OnFailure::Skip, 4);
    for wait_ms in [1_000, 2_000] {
        stop(&mut harness);
        assert!(group(&mut harness).0.alarms.is_empty());
        harness.wait(wait_ms);
    }
    judge(&mut harness, &[]);
    harness.publish(1, 4, 1);
    harness.sync();
    for wait_ms in [1_000, 2_000] {
        stop(&mut harness);
        assert!(group(&mut harness).0.alarms.is_empty());
        harness.wait(wait_ms);
    }
    stop(&mut harness);
    let (info, _) = group(&mut harness);
    assert_eq!(info.alarms[0].reason, "it ran too long");
}

#[test]
fn a_group_that_is_resumed_judges_again_what_was_set_aside_and_nothing_else_twice() {
    let mut harness = judging(OnFailure::DeadLetter, 40);
    judge(&mut harness, &(10..30).collect::<Vec<_>>());
    let first: Vec<u64> = (0..10).chain(30..40).collect();
    assert_eq!(offsets(&mut harness), first);
    harness.settle(1, 1, Numbers::Each(vec![12, 13]), Action::Ack);
    harness.sync();
    resume(&mut harness);
    assert!(group(&mut harness).0.alarms.is_empty());
    judge(&mut harness, &[]);
    assert_eq!(offsets(&mut harness), (10..30).collect::<Vec<_>>());
    assert_eq!(group(&mut harness).1.frontier.0, 40);
}

#[test]
fn binding_another_version_goes_on_with_a_held_group() {
    let mut harness = judging(OnFailure::DeadLetter, 4);
    judge(&mut harness, &[0, 1, 2, 3]);
    harness.wait(10_000);
    assert_eq!(group(&mut harness).0.alarms.len(), 1);
    let held = |harness: &Harness| {
        let survey = harness.core.survey(SurveyFrom::default());
        (
            survey.groups[0].alarm,
            survey.totals.counters.alarms,
            survey.totals.counters.culprits_trapped,
        )
    };
    assert_eq!(held(&harness), (true, 1, 4), "what metrics show");
    harness.bind(2, OnFailure::DeadLetter);
    assert!(group(&mut harness).0.alarms.is_empty());
    assert_eq!(held(&harness), (false, 1, 4));
    judge(&mut harness, &[]);
    assert_eq!(offsets(&mut harness), [0, 1, 2, 3]);
}

#[test]
fn a_restart_judges_again_what_was_set_aside_and_keeps_what_was_settled_beyond_it() {
    let mut harness = judging(OnFailure::DeadLetter, 10);
    judge(&mut harness, &[4]);
    harness.settle(1, 1, Numbers::UpTo(9), Action::Ack);
    harness.sync();
    offsets(&mut harness);
    harness.crash();
    harness.stream(1, filter(), 100);
    judge(&mut harness, &[]);
    assert_eq!(offsets(&mut harness), [4]);
}

#[test]
fn an_alarm_outlives_a_restart() {
    let mut harness = judging(OnFailure::DeadLetter, 4);
    judge(&mut harness, &[0, 1, 2, 3]);
    harness.wait(10_000);
    harness.sync();
    harness.crash();
    harness.stream(1, filter(), 100);
    harness.sync();
    assert!(!is_asked(&harness));
    resume(&mut harness);
    judge(&mut harness, &[]);
    assert_eq!(offsets(&mut harness), [0, 1, 2, 3]);
}

#[test]
fn what_the_binding_says_to_deliver_is_delivered_once() {
    let mut harness = judging(OnFailure::Deliver, 10);
    judge(&mut harness, &[4]);
    assert_eq!(harness.delivered().len(), 9);
    harness.wait(10_000);
    harness.sync();
    assert_eq!(fates(&harness), [(4, Fate::Delivered)]);
    assert_eq!(harness.delivered(), [(4, 1)]);
}

#[test]
fn what_the_binding_says_to_hold_stays_and_is_judged_again_when_the_group_is_resumed() {
    let mut harness = judging(OnFailure::Hold, 10);
    judge(&mut harness, &[4, 6]);
    harness.settle(1, 1, Numbers::UpTo(8), Action::Ack);
    harness.wait(10_000);
    harness.sync();
    offsets(&mut harness);
    let (info, cursor) = group(&mut harness);
    assert_eq!((cursor.frontier.0, cursor.cursor.0, cursor.culprits_held, info.lag), (10, 4, 2, 2));
    harness.wait(1_000);
    harness.sync();
    harness.crash();
    harness.stream(1, filter(), 100);
    harness.sync();
    assert!(!is_asked(&harness), "what is held is behind the frontier");
    resume(&mut harness);
    judge(&mut harness, &[6]);
    assert_eq!(offsets(&mut harness), [4]);
    assert_eq!(group(&mut harness).1.set_aside, 1);
}

#[test]
fn a_group_of_a_dead_letter_topic_never_dead_letters_from_it() {
    let mut harness = Harness::new();
    let settings = GroupSettings {
        attempts_max: 1,
        ..harness.config.group.clone()
    };
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings,
    });
    harness.bind(1, OnFailure::DeadLetter);
    harness.publish(1, 0, 3);
    harness.stream(1, Filter::All, 5);
    harness.sync();
    harness.settle(1, 1, Numbers::UpTo(3), Action::Nack { delay_ms: Some(0) });
    for (fetch, offset, _) in fetches(&mut harness) {
        harness.input(Input::Fetched {
            fetch,
            batch: Some(harness::batch(1, offset, 1)),
        });
    }
    harness.sync();
    let mut ask = harness.consume("member", filter());
    ask.group = "morgue".to_owned();
    ask.topic = "%DLQ%g".to_owned();
    let request = harness.request();
    let subscription = sluice_core::input::SubscriptionId(9);
    harness.input(Input::Subscribe {
        request,
        subscription,
        connection: ConnectionId(9),
        ask,
        invisible_ms: 0,
    });
    harness.sync();
    judge(&mut harness, &[1]);
    harness.wait(10_000);
    harness.sync();
    assert!(fetches(&mut harness).is_empty());
    assert_eq!(fates(&harness), [(1, Fate::Held)]);
}

#[test]
fn a_seek_or_an_alarm_overtakes_a_dead_letter_that_is_being_fetched() {
    for overtaken_by_a_seek in [true, false] {
        let mut harness = judging(OnFailure::DeadLetter, 10);
        judge(&mut harness, &[4]);
        harness.wait(10_000);
        let fetch = fetches(&mut harness)[0].0;
        if overtaken_by_a_seek {
            harness.admin(Admin::Seek {
                group: "g".to_owned(),
                topic: "t".to_owned(),
                queue: None,
                to: SeekTo::Earliest,
            });
        } else {
            harness.publish(1, 10, 20);
            harness.sync();
            judge(&mut harness, &(10..30).collect::<Vec<_>>());
        }
        harness.input(Input::Fetched {
            fetch,
            batch: Some(harness::batch(1, 4, 1)),
        });
        harness.sync();
        assert!(fates(&harness).is_empty());
    }
}

#[test]
fn what_is_judged_while_a_dead_letter_is_being_fetched_still_counts() {
    let mut harness = judging(OnFailure::DeadLetter, 10);
    judge(&mut harness, &[4]);
    harness.wait(10_000);
    let fetch = fetches(&mut harness)[0].0;
    harness.publish(1, 10, 9);
    harness.sync();
    judge(&mut harness, &(10..19).collect::<Vec<_>>());
    harness.input(Input::Fetched {
        fetch,
        batch: Some(harness::batch(1, 4, 1)),
    });
    harness.sync();
    assert!(fates(&harness).is_empty(), "the plugin failed on more than it judged");
    assert_eq!(group(&mut harness).0.alarms.len(), 1);
}

#[test]
fn retention_takes_what_is_set_aside_and_it_is_counted() {
    let mut harness = judging(OnFailure::DeadLetter, 10);
    judge(&mut harness, &[4]);
    harness.settle(1, 1, Numbers::UpTo(9), Action::Ack);
    harness.sync();
    let queue = QueueId {
        topic: TopicId(0),
        index: QueueIndex(0),
    };
    harness.input(Input::Trim {
        queue,
        start: QueueOffset(6),
    });
    harness.wait(10_000);
    assert!(fetches(&mut harness).is_empty());
    assert_eq!(harness.core.counters().lost_to_retention, 1);
    assert_eq!(group(&mut harness).1.frontier.0, 10);
}

#[test]
fn without_a_reader_nothing_is_held_against_the_plugin() {
    let mut harness = judging(OnFailure::DeadLetter, 1);
    judge(&mut harness, &[0]);
    harness.input(Input::Disconnected {
        connection: ConnectionId(1),
    });
    harness.wait(10_000);
    harness.sync();
    assert!(group(&mut harness).0.alarms.is_empty());
    harness.stream(2, filter(), 10);
    harness.sync();
    judge(&mut harness, &[]);
    assert_eq!(offsets(&mut harness), [0]);
}
