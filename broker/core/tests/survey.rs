//! What a survey shows of topics and groups, whole and in pieces.

mod harness;

use harness::Harness;
use sluice_core::effect::{Effect, JudgeId};
use sluice_core::input::{
    Action, Admin, ConnectionId, Consume, Culprit, CulpritKind, Input, JudgeFailure, JudgeFailureKind, Link, Numbers, SubscriptionId,
    Verdicts,
};
use sluice_core::limits::SURVEY_ENTRIES_MAX;
use sluice_core::survey::{GroupReading, Survey, SurveyFrom, TopicReading};
use sluice_log::record::{Filter, OnExpired, OnFailure, PluginLimits, TopicSettings};
use sluice_protocol::ids::{Digest, QueueOffset};

fn lag(unjudged: u64, matched: u64, leased: u64, retrying: u64) -> GroupReading {
    GroupReading {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        unjudged,
        matched,
        leased,
        retrying,
        parked: 0,
        held_queues: 0,
        alarm: false,
    }
}

/// The groups of a survey that fits into one piece.
fn groups(harness: &Harness) -> Vec<GroupReading> {
    let survey = harness.core.survey(SurveyFrom::default());
    assert_eq!(survey.next, None);
    survey.groups
}

/// Ten messages of one queue, a filter, and a stream with a credit of two.
fn filtered() -> Harness {
    let mut harness = Harness::new();
    harness.admin(Admin::BindPlugin {
        name: "p".to_owned(),
        digest: Digest([1; 32]),
        limits: PluginLimits {
            fuel_per_run: 1,
            fuel_per_message: 1,
            run_ms: 1,
            memory_bytes: 1,
        },
        on_failure: OnFailure::DeadLetter,
    });
    harness.publish(1, 0, 10);
    let filter = Filter::Plugin {
        plugin: "p".to_owned(),
        expression: "x".to_owned(),
    };
    harness.stream(1, filter, 2);
    harness.sync();
    harness
}

fn asked(harness: &mut Harness) -> JudgeId {
    let judge = harness.effects.iter().find_map(|effect| match effect {
        Effect::Judge { judge, .. } => Some(*judge),
        _ => None,
    });
    judge.expect("a question")
}

#[test]
fn a_groups_lag_shows_its_four_parts() {
    let mut harness = filtered();
    assert_eq!(groups(&harness), [lag(10, 0, 0, 0)]);
    let judge = asked(&mut harness);
    let outcome = Ok(Verdicts {
        from: QueueOffset(0),
        to: QueueOffset(7),
        deliver: [0, 2, 4, 6].map(QueueOffset).to_vec(),
        links: Vec::new(),
        failed: 0,
        evaluated: 7,
        culprits: Vec::new(),
    });
    harness.input(Input::Verdicts { judge, outcome });
    assert_eq!(
        groups(&harness),
        [lag(3, 2, 2, 0)],
        "two of four are handed out, three are not judged"
    );
    harness.settle(1, 1, Numbers::Each(vec![1]), Action::Ack);
    harness.settle(1, 1, Numbers::Each(vec![2]), Action::Nack { delay_ms: Some(60_000) });
    assert_eq!(groups(&harness), [lag(3, 2, 0, 1)]);
}

#[test]
fn what_waits_beyond_a_message_that_is_set_aside_is_counted_once() {
    let mut harness = filtered();
    let judge = asked(&mut harness);
    let culprit = Culprit {
        offset: QueueOffset(1),
        link: Link::default(),
        kind: CulpritKind::Trap,
        reason: "it trapped".to_owned(),
    };
    let outcome = Ok(Verdicts {
        from: QueueOffset(0),
        to: QueueOffset(7),
        deliver: [0, 2].map(QueueOffset).to_vec(),
        links: Vec::new(),
        failed: 0,
        evaluated: 7,
        culprits: vec![culprit],
    });
    harness.input(Input::Verdicts { judge, outcome });
    harness.settle(1, 1, Numbers::Each(vec![1]), Action::Ack);
    harness.sync();
    harness.crash();
    // The frontier stays at the message that was set aside, and one of those beyond it is to be delivered again.
    assert_eq!(groups(&harness), [lag(8, 0, 0, 1)]);
}

#[test]
fn without_a_filter_nothing_is_unjudged() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 10);
    harness.stream(1, Filter::All, 3);
    harness.sync();
    assert_eq!(groups(&harness), [lag(0, 7, 3, 0)]);
    harness.crash();
    assert_eq!(
        groups(&harness),
        [lag(0, 7, 0, 3)],
        "what a lost stream held waits for another delivery"
    );
}

#[test]
fn a_held_queue_is_shown() {
    let mut harness = filtered();
    let judge = asked(&mut harness);
    let (kind, reason) = (JudgeFailureKind::Stopped, "out of time".to_owned());
    harness.input(Input::Verdicts {
        judge,
        outcome: Err(JudgeFailure { kind, reason }),
    });
    let held = GroupReading {
        held_queues: 1,
        ..lag(10, 0, 0, 0)
    };
    assert_eq!(groups(&harness), [held]);
    let counters = harness.core.survey(SurveyFrom::default()).totals.counters;
    assert_eq!((counters.judge_failures, counters.runs_stopped, counters.alarms), (1, 1, 0));
}

/// All pieces, with what is spread over several put together.
fn pieces(harness: &Harness) -> (usize, Vec<TopicReading>, Vec<GroupReading>) {
    let (mut topics, mut groups) = (Vec::<TopicReading>::new(), Vec::<GroupReading>::new());
    let (mut from, mut count) = (SurveyFrom::default(), 0);
    loop {
        let Survey {
            topics: more_topics,
            groups: more_groups,
            next,
            ..
        } = harness.core.survey(from);
        count += 1;
        for topic in more_topics {
            match topics.last_mut().filter(|last| last.name == topic.name) {
                Some(last) => {
                    last.stored += topic.stored;
                    last.appended += topic.appended;
                }
                None => topics.push(topic),
            }
        }
        for group in more_groups {
            match groups
                .last_mut()
                .filter(|last| (&last.group, &last.topic) == (&group.group, &group.topic))
            {
                Some(last) => last.matched += group.matched,
                None => groups.push(group),
            }
        }
        match next {
            Some(next) => from = next,
            None => return (count, topics, groups),
        }
    }
}

#[test]
fn a_survey_of_many_queues_comes_in_bounded_pieces_and_leaves_nothing_out() {
    let mut harness = Harness::new();
    let settings = TopicSettings {
        queues: 700,
        retention_ms: 0,
        retention_bytes: 0,
        ttl_ms: 0,
        on_expired: OnExpired::Skip,
    };
    for name in ["t", "u", "v"] {
        let name = name.to_owned();
        harness.admin(Admin::CreateTopic { name, settings });
    }
    harness.publish(1, 0, 1_000);
    harness.sync();
    for (number, topic) in ["t", "u", "v"].into_iter().enumerate() {
        let request = harness.request();
        harness.input(Input::Subscribe {
            request,
            subscription: SubscriptionId(number as u64),
            connection: ConnectionId(1),
            ask: Consume {
                topic: topic.to_owned(),
                ..harness.consume("m", Filter::All)
            },
            invisible_ms: 0,
        });
    }
    harness.sync();
    let (count, topics, groups) = pieces(&harness);
    assert!(count >= 4_200usize.div_ceil(SURVEY_ENTRIES_MAX), "{count}");
    let stored: Vec<_> = topics
        .iter()
        .map(|topic| (topic.name.as_str(), topic.stored, topic.appended))
        .collect();
    assert_eq!(stored, [("t", 1_000, 1_000), ("u", 0, 0), ("v", 0, 0)]);
    let matched: Vec<_> = groups.iter().map(|group| (group.topic.as_str(), group.matched)).collect();
    assert_eq!(matched, [("t", 1_000), ("u", 0), ("v", 0)]);
    assert_eq!(harness.core.survey(SurveyFrom::default()).totals.cursors, 2_100);
}
