//! Lists of very many topics and groups come in pages that miss none and repeat none.

mod harness;

use harness::Harness;
use sluice_core::effect::Answer;
use sluice_core::input::{Admin, ConnectionId, Consume, Input};
use sluice_core::limits::LISTED_MAX;
use sluice_log::record::{Filter, OnExpired, TopicSettings};
use sluice_protocol::ids::{GroupId, TopicId};

const SETTINGS: TopicSettings = TopicSettings {
    queues: 2,
    retention_ms: 0,
    retention_bytes: 0,
    ttl_ms: 0,
    on_expired: OnExpired::Skip,
};

fn with_topics(count: usize) -> Harness {
    let mut harness = Harness::new();
    for nth in 0..count {
        let name = format!("t-{nth:05}");
        harness.admin(Admin::CreateTopic { name, settings: SETTINGS });
    }
    harness.sync();
    harness
}

/// Group `g` asks a topic for a message without waiting, and so reads it.
fn read(harness: &mut Harness, nth: u64) {
    let request = harness.request();
    let ask = Consume {
        topic: format!("t-{nth:05}"),
        ..harness.consume("m", Filter::All)
    };
    harness.input(Input::Receive {
        request,
        connection: ConnectionId(1),
        ask,
        max: 1,
        wait_ms: 0,
        invisible_ms: 1_000,
    });
}

fn topics(harness: &mut Harness) -> Vec<String> {
    let (mut names, mut from) = (Vec::new(), Some(TopicId::default()));
    while let Some(first) = from {
        let request = harness.admin(Admin::ListTopics { from: first });
        let Some(Ok(Answer::Topics { topics, next })) = harness.answer(request) else {
            panic!("a list of topics");
        };
        assert!(topics.len() <= LISTED_MAX);
        names.extend(topics.into_iter().map(|topic| topic.name));
        from = next;
    }
    names
}

#[test]
fn pages_of_topics_miss_none_and_repeat_none() {
    let mut harness = with_topics(2 * LISTED_MAX + 500);
    let names = topics(&mut harness);
    assert_eq!(names.len(), 2 * LISTED_MAX + 500);
    assert!(names.is_sorted() && names.windows(2).all(|pair| pair[0] != pair[1]));
}

#[test]
fn ten_thousand_topics_survive_a_restart() {
    let mut harness = with_topics(10_000);
    let before = harness.core.state().clone();
    harness.crash();
    assert_eq!(harness.core.state().topics, before.topics);
    assert_eq!(harness.core.state().queues, before.queues);
    assert_eq!(topics(&mut harness).len(), 10_000);
}

#[test]
fn pages_of_a_groups_description_show_every_topic_it_reads_once() {
    let mut harness = with_topics(1_500);
    for nth in 0..1_500 {
        read(&mut harness, nth);
    }
    harness.sync();
    let (mut seen, mut pages, mut from) = (Vec::new(), 0, Some(TopicId::default()));
    while let Some(first) = from {
        let name = "g".to_owned();
        let request = harness.admin(Admin::DescribeGroup { name, from: first });
        let Some(Ok(Answer::Group { group, cursors, next, .. })) = harness.answer(request) else {
            panic!("a group");
        };
        assert_eq!((group.subscription_count, cursors.len()), (1_500, 2 * group.subscriptions.len()));
        seen.extend(group.subscriptions.into_iter().map(|(topic, _)| topic));
        (pages, from) = (pages + 1, next);
    }
    assert!(pages > 1 && seen.len() == 1_500 && seen.is_sorted(), "{pages} pages");
    let request = harness.admin(Admin::ListGroups { from: GroupId::default() });
    let Some(Ok(Answer::Groups { groups, next: None })) = harness.answer(request) else {
        panic!("one page of groups");
    };
    assert_eq!((groups.len(), groups[0].subscription_count), (1, 1_500));
    assert!(groups[0].subscriptions.len() < 10, "a list shows a few");
}

#[test]
fn a_deleted_topic_leaves_nothing_behind() {
    let mut harness = with_topics(3);
    for nth in 0..3 {
        read(&mut harness, nth);
    }
    harness.sync();
    harness.admin(Admin::DeleteTopic {
        name: "t-00001".to_owned(),
    });
    harness.sync();
    let state = harness.core.state();
    assert_eq!(
        (
            state.topics.len(),
            state.queues.len(),
            state.subscriptions.len(),
            state.cursors.len()
        ),
        (2, 4, 2, 4)
    );
    assert_eq!(state.readers_of(TopicId(1)).count(), 0);
    harness.admin(Admin::DeleteGroup { name: "g".to_owned() });
    harness.sync();
    let state = harness.core.state();
    assert_eq!((state.subscriptions.len(), state.cursors.len()), (0, 0));
    assert!((0..3).all(|topic| state.readers_of(TopicId(topic)).count() == 0));
}
