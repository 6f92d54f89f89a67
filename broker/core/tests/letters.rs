//! Dead letters, stepped by hand: found, sent back once to the group alone, discarded.

mod harness;

use harness::Harness;
use sluice_core::CoreConfig;
use sluice_core::effect::{Answer, Effect};
use sluice_core::input::{Action, Admin, Input, Letter, Numbers, SubscriptionId};
use sluice_log::record::{Backoff, Filter, GroupSettings, OffsetRange, StartPoint};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset, TopicId};

const NACK_NOW: Action = Action::Nack { delay_ms: Some(0) };

/// A group with two attempts that gave up the first `count` of ten messages; the stream of its member has credit.
fn given_up(count: u64) -> Harness {
    let mut harness = Harness::new();
    harness.admin(Admin::CreateGroup {
        name: "g".to_owned(),
        settings: GroupSettings {
            attempts_max: 2,
            backoff: Backoff::Fixed { wait_ms: 0 },
            start: StartPoint::Earliest,
            ..CoreConfig::default().group
        },
    });
    harness.publish(1, 0, 10);
    harness.stream(1, Filter::All, count as u32);
    harness.sync();
    harness.settle(1, 1, Numbers::UpTo(count), NACK_NOW);
    harness.sync();
    credit(&mut harness, count as u32);
    harness.settle(1, 1, Numbers::UpTo(2 * count), NACK_NOW);
    harness.sync();
    give_up(&mut harness);
    harness.delivered();
    harness
}

/// Hands over the copies that are asked for.
fn give_up(harness: &mut Harness) {
    let wanted: Vec<_> = harness
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Fetch { fetch, offset, .. } => Some((*fetch, offset.0)),
            _ => None,
        })
        .collect();
    harness.effects.clear();
    for (fetch, offset) in wanted {
        let batch = Some(harness::batch(1, offset, 1));
        harness.input(Input::Fetched { fetch, batch });
    }
    harness.sync();
}

fn letter(offset: u64, origin: u64, attempts: u16) -> Letter {
    Letter {
        group: "g".to_owned(),
        offset: QueueOffset(offset),
        queue: QueueId {
            topic: TopicId(0),
            index: QueueIndex(0),
        },
        origin: QueueOffset(origin),
        attempts,
        priority: 0,
    }
}

fn resend(harness: &mut Harness, letters: Vec<Letter>) -> [u64; 4] {
    let request = harness.admin(Admin::ResendDeadLetters {
        group: "g".to_owned(),
        letters,
        by: "operator".to_owned(),
    });
    harness.sync();
    match harness.answer(request) {
        Some(Ok(Answer::LettersDealt {
            back,
            under_way,
            gone,
            left,
        })) => [back, under_way, gone, left],
        other => panic!("{other:?}"),
    }
}

fn open(harness: &mut Harness) -> Vec<(u64, u64)> {
    let request = harness.admin(Admin::FindDeadLetters {
        group: "g".to_owned(),
        from: QueueOffset(0),
        to: None,
    });
    match harness.answer(request) {
        Some(Ok(Answer::OpenLetters { ranges, next: None, .. })) => {
            ranges.iter().map(|OffsetRange { first, end }| (first.0, end.0)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn credit(harness: &mut Harness, messages: u32) {
    let subscription = SubscriptionId(1);
    harness.input(Input::Credit { subscription, messages });
    harness.sync();
}

#[test]
fn a_dead_letter_that_is_sent_back_is_delivered_from_its_origin_as_a_further_attempt() {
    let mut harness = given_up(3);
    assert_eq!(open(&mut harness), [(0, 3)]);
    let letters = vec![letter(1, 1, 2)];
    assert_eq!(resend(&mut harness, letters.clone()), [1, 0, 0, 0]);
    credit(&mut harness, 1);
    assert_eq!(harness.delivered(), [(1, 3)]);
    assert_eq!(open(&mut harness), [(0, 1), (2, 3)]);
    assert_eq!(resend(&mut harness, letters), [0, 0, 0, 0], "it was dealt with");
}

#[test]
fn a_message_that_was_sent_back_has_as_many_attempts_as_at_first() {
    let mut harness = given_up(1);
    let letters = vec![letter(0, 0, 2)];
    resend(&mut harness, letters);
    for (number, attempt) in [(3, 3), (4, 4)] {
        credit(&mut harness, 1);
        assert_eq!(harness.delivered(), [(0, attempt)]);
        harness.settle(1, 1, Numbers::Each(vec![number]), NACK_NOW);
        harness.sync();
    }
    credit(&mut harness, 1);
    assert_eq!(harness.delivered(), [(1, 1)]);
    give_up(&mut harness);
    assert_eq!(open(&mut harness), [(1, 2)], "it is dead again, under another offset");
}

#[test]
fn what_was_sent_back_survives_a_crash_and_is_not_taken_for_exhausted() {
    let mut harness = given_up(2);
    let letters = vec![letter(0, 0, 2), letter(1, 1, 2)];
    assert_eq!(resend(&mut harness, letters), [2, 0, 0, 0]);
    harness.crash();
    harness.sync();
    assert_eq!(open(&mut harness), []);
    harness.stream(1, Filter::All, 2);
    harness.sync();
    assert_eq!(harness.delivered(), [(0, 3), (1, 3)]);
}

#[test]
fn a_handle_from_before_settles_nothing_of_what_was_sent_back() {
    let mut harness = given_up(0);
    let mut early = Vec::new();
    for _ in 0..2 {
        harness.receive(1, 0);
        harness.sync();
        early.extend(harness.handles());
        harness.wait(10_000);
        harness.sync();
    }
    give_up(&mut harness);
    let letters = vec![letter(0, 0, 2)];
    assert_eq!(resend(&mut harness, letters), [1, 0, 0, 0]);
    harness.receive(1, 0);
    harness.sync();
    let late = harness.handles();
    let request = harness.settle_handles([early, late].concat(), Action::Ack);
    harness.sync();
    let stale = Err(ErrorCode::StaleHandle);
    assert_eq!(harness.settled(request), [stale, stale, Ok(())]);
}

#[test]
fn what_the_group_has_before_it_anyway_is_dealt_with_and_what_is_gone_is_left() {
    let mut harness = given_up(2);
    let (held, gone) = (letter(0, 5, 2), letter(1, 17, 2));
    assert_eq!(resend(&mut harness, vec![held, gone]), [0, 1, 1, 0]);
    assert_eq!(open(&mut harness), [(1, 2)]);
    let mut older = letter(1, 1, 2);
    older.queue.topic = TopicId(77);
    assert_eq!(resend(&mut harness, vec![older]), [0, 0, 1, 0], "that topic was deleted");
}

#[test]
fn what_is_discarded_is_counted_and_shown_no_more() {
    let mut harness = given_up(5);
    let discard = |harness: &mut Harness, from, most| {
        let request = harness.admin(Admin::DiscardDeadLetters {
            group: "g".to_owned(),
            from: QueueOffset(from),
            to: Some(QueueOffset(4)),
            most,
            by: "operator".to_owned(),
        });
        harness.sync();
        harness.answer(request)
    };
    let next = Some(QueueOffset(3));
    assert_eq!(discard(&mut harness, 1, 2), Some(Ok(Answer::LettersDiscarded { letters: 2, next })));
    assert_eq!(
        discard(&mut harness, 1, 9),
        Some(Ok(Answer::LettersDiscarded { letters: 1, next: None }))
    );
    assert_eq!(open(&mut harness), [(0, 1), (4, 5)]);
    credit(&mut harness, 20);
    assert_eq!(harness.delivered().len(), 5, "nothing of it comes back");
}
