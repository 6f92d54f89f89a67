//! What became of a message for a group: the step that decided, stepped by hand.

mod harness;

use harness::Harness;
use sluice_core::effect::{Answer, LeaseState};
use sluice_core::input::{Action, Admin, Culprit, CulpritKind, Input, JudgeFailure, JudgeFailureKind, Link, Numbers, SeekTo, Verdicts};
use sluice_core::standing::{Standing, Step, Waiting};
use sluice_core::{CoreConfig, effect::Effect};
use sluice_log::record::{Change, Filter, Holder, OnExpired, OnFailure, ReturnReason, StartPoint, TopicSettings};
use sluice_protocol::ids::{Digest, Pass, QueueId, QueueIndex, QueueOffset, TopicId};

fn standing(harness: &mut Harness, group: &str, offset: u64) -> Standing {
    let request = harness.admin(Admin::Explain {
        group: group.to_owned(),
        queue: QueueId {
            topic: TopicId(0),
            index: QueueIndex(0),
        },
        offset: QueueOffset(offset),
        priority: 0,
        due_ms: 0,
        parts: Vec::new(),
    });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::Standing(standing))) => *standing,
        other => panic!("{other:?}"),
    }
}

fn step(harness: &mut Harness, offset: u64) -> Step {
    standing(harness, "g", offset).step
}

fn filter() -> Filter {
    Filter::Plugin {
        plugin: "p".to_owned(),
        expression: "x".to_owned(),
    }
}

/// Ten messages, and a stream with credit whose filter the plugin `p` judges.
fn judged(credit: u32) -> Harness {
    let mut harness = Harness::new();
    harness.bind(1, OnFailure::Hold);
    harness.publish(1, 0, 10);
    harness.sync();
    harness.stream(1, filter(), credit);
    harness.sync();
    harness
}

/// Answers the question under way.
fn answer(harness: &mut Harness, outcome: impl FnOnce(QueueOffset, QueueOffset) -> Result<Verdicts, JudgeFailure>) {
    let asked = harness.effects.iter().rev().find_map(|effect| match effect {
        Effect::Judge { judge, from, to, .. } => Some((*judge, *from, *to)),
        _ => None,
    });
    let (judge, from, to) = asked.expect("a question is under way");
    harness.input(Input::Verdicts {
        judge,
        outcome: outcome(from, to),
    });
    harness.sync();
}

fn verdicts(from: QueueOffset, to: QueueOffset, deliver: &[u64]) -> Verdicts {
    Verdicts {
        from,
        to,
        deliver: deliver.iter().map(|&offset| QueueOffset(offset)).collect(),
        evaluated: (to.0 - from.0) as u32,
        ..Verdicts::default()
    }
}

#[test]
fn a_message_of_a_topic_that_is_not_read_is_no_candidate() {
    let mut harness = Harness::new();
    harness.publish(1, 0, 1);
    harness.sync();
    let nobody = standing(&mut harness, "nobody", 0);
    assert_eq!((nobody.step, nobody.ruling), (Step::NoGroup, None));
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings: harness.config.group.clone(),
    });
    harness.sync();
    assert_eq!(step(&mut harness, 0), Step::NeverRead);
}

#[test]
fn a_message_is_leased_then_retrying_then_over() {
    let mut harness = Harness::streaming(2);
    let Step::Open(LeaseState::Leased { holder, attempt, .. }) = step(&mut harness, 1) else {
        panic!("it is leased")
    };
    let member = "member-1".to_owned();
    assert_eq!((holder, attempt), (Holder::Stream { member }, 1));
    harness.settle(1, 1, Numbers::Each(vec![1]), Action::Ack);
    harness.settle(1, 1, Numbers::Each(vec![2]), Action::Nack { delay_ms: Some(5_000) });
    harness.sync();
    assert_eq!(step(&mut harness, 0), Step::Over);
    let retrying = LeaseState::Retrying {
        attempts: 1,
        due_wall_ms: Some(harness.now.wall_ms + 5_000),
        reason: ReturnReason::Nacked,
    };
    assert_eq!(step(&mut harness, 1), Step::Open(retrying));
    assert_eq!(step(&mut harness, 2), Step::Waiting(Waiting::Demand));
}

#[test]
fn what_waits_says_for_what() {
    let mut harness = judged(0);
    assert_eq!(step(&mut harness, 3), Step::Waiting(Waiting::Verdict));
    answer(&mut harness, |_, _| {
        Err(JudgeFailure {
            kind: JudgeFailureKind::Unasked,
            reason: "it is not loaded".to_owned(),
        })
    });
    let reason = "it is not loaded".to_owned();
    assert_eq!(step(&mut harness, 3), Step::Waiting(Waiting::Retrial { reason }));
    harness.wait(60_000);
    answer(&mut harness, |from, to| Ok(verdicts(from, to, &[3])));
    assert_eq!(step(&mut harness, 3), Step::Waiting(Waiting::Demand));
    assert_eq!(step(&mut harness, 2), Step::Over, "the filter did not let it pass");
    harness.admin(Admin::PauseGroup {
        name: "g".to_owned(),
        topic: None,
        by: "ops".to_owned(),
    });
    harness.sync();
    let Step::Waiting(Waiting::Paused(pause)) = step(&mut harness, 3) else {
        panic!("it is paused")
    };
    assert_eq!(pause.by, "ops");
}

#[test]
fn nothing_is_handed_out_without_members() {
    let mut harness = Harness::streaming(0);
    harness.crash();
    harness.sync();
    assert_eq!(step(&mut harness, 0), Step::Waiting(Waiting::Members));
}

#[test]
fn a_failure_of_a_plugin_is_told_while_the_message_is_set_aside_and_when_it_is_held() {
    let mut harness = judged(0);
    let culprit = |offset| Culprit {
        offset: QueueOffset(offset),
        kind: CulpritKind::Trap,
        link: Link::default(),
        reason: "it trapped".to_owned(),
    };
    answer(&mut harness, |from, to| {
        Ok(Verdicts {
            culprits: vec![culprit(4)],
            ..verdicts(from, to, &[])
        })
    });
    let (digest, reason) = (Digest([1; 32]), "it trapped".to_owned());
    assert_eq!(step(&mut harness, 4), Step::SetAside { digest, reason });
    harness.wait(600_000);
    harness.sync();
    assert_eq!(step(&mut harness, 4), Step::Open(LeaseState::Held));
}

#[test]
fn the_fault_of_a_plugin_is_quoted() {
    let mut harness = judged(0);
    for _ in 0..64 {
        if matches!(step(&mut harness, 4), Step::Waiting(Waiting::Alarm(_))) {
            break;
        }
        answer(&mut harness, |_, _| {
            Err(JudgeFailure {
                kind: JudgeFailureKind::Stopped,
                reason: "it ran too long".to_owned(),
            })
        });
        harness.wait(60_000);
    }
    let Step::Waiting(Waiting::Alarm(alarm)) = step(&mut harness, 4) else {
        panic!("it is held")
    };
    assert_eq!((alarm.topic.as_str(), alarm.reason.as_str()), ("t", "it ran too long"));
}

#[test]
fn a_pass_that_began_behind_a_message_says_so_across_a_crash() {
    let mut harness = Harness::with(CoreConfig {
        topic: TopicSettings {
            queues: 1,
            retention_ms: 0,
            retention_bytes: 0,
            ttl_ms: 0,
            on_expired: OnExpired::Skip,
        },
        group: sluice_log::record::GroupSettings {
            start: StartPoint::Latest,
            ..CoreConfig::default().group
        },
        ..CoreConfig::default()
    });
    harness.publish(1, 0, 5);
    harness.sync();
    harness.stream(1, Filter::All, 0);
    harness.sync();
    let start = QueueOffset(5);
    assert_eq!(step(&mut harness, 4), Step::BeforeStart { pass: Pass(1), start });
    let seek = |harness: &mut Harness, to| {
        harness.admin(Admin::Seek {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            queue: None,
            to,
        });
        harness.sync();
    };
    seek(&mut harness, SeekTo::Offset(QueueOffset(2)));
    harness.crash();
    harness.sync();
    let start = QueueOffset(2);
    assert_eq!(step(&mut harness, 1), Step::BeforeStart { pass: Pass(2), start });
    assert_eq!(step(&mut harness, 2), Step::Waiting(Waiting::Members));
    seek(&mut harness, SeekTo::Earliest);
    assert_eq!(step(&mut harness, 0), Step::Waiting(Waiting::Members));
}

#[test]
fn what_retention_took_is_gone() {
    let mut harness = Harness::streaming(0);
    harness.input(Input::Trim {
        queue: QueueId {
            topic: TopicId(0),
            index: QueueIndex(0),
        },
        start: QueueOffset(4),
    });
    harness.sync();
    assert_eq!(step(&mut harness, 3), Step::Gone { start: QueueOffset(4) });
    assert!(
        harness
            .durable
            .iter()
            .any(|(_, record)| matches!(record.change, Change::Trimmed { .. }))
    );
}
