//! Messages that live for a time, stepped by hand.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod harness;

use harness::Harness;
use sluice_core::CoreConfig;
use sluice_core::effect::{Copied, Effect, TopicTtl};
use sluice_core::input::{Action, Admin, Input, Link, Numbers, Verdicts};
use sluice_log::record::{Change, Filter, GroupSettings, OnExhausted, OnExpired, TopicSettings};
use sluice_protocol::batch::{Batch, BatchBuilder, NewMessage, group_hash};
use sluice_protocol::ids::{ProducerId, QueueOffset, Sequence};

/// A broker whose topics have these times to live, and whose groups are ordered if asked.
fn broker(ttl_ms: u64, on_expired: OnExpired, ordered: bool) -> Harness {
    let defaults = CoreConfig::default();
    Harness::with(CoreConfig {
        topic: TopicSettings {
            queues: 1,
            retention_ms: 0,
            ttl_ms,
            on_expired,
            ..defaults.topic
        },
        group: GroupSettings {
            ordered,
            on_exhausted: if ordered { OnExhausted::Hold } else { OnExhausted::DeadLetter },
            ..defaults.group.clone()
        },
        ..defaults
    })
}

/// Messages of one message group with these times to live, 0 for none.
fn lives(first: u64, ttls_ms: &[u64], group: Option<&str>) -> Batch {
    let mut builder = BatchBuilder::new(0, ProducerId(1), Sequence(first));
    for &ttl_ms in ttls_ms {
        let message = NewMessage::<&str> {
            ttl_ms,
            group,
            ..NewMessage::default()
        };
        builder.push(&message, b"body").unwrap();
    }
    Batch::parse(builder.finish()).unwrap().looked_at()
}

fn publish(harness: &mut Harness, batch: Batch) {
    let request = harness.request();
    harness.input(Input::Publish {
        request,
        topic: "t".into(),
        batches: vec![batch],
    });
    harness.sync();
}

/// Answers what the core asks, from what is stored; how often it asked until when messages live.
fn judge(harness: &mut Harness) -> usize {
    let mut asked = 0;
    loop {
        let place = harness.effects.iter().position(|effect| matches!(effect, Effect::Judge { .. }));
        let Some(Effect::Judge { judge, from, to, ttl, .. }) = place.map(|place| harness.effects.remove(place)) else {
            harness.sync();
            return asked;
        };
        asked += usize::from(ttl.is_some());
        let mut verdicts = Verdicts {
            from,
            to,
            ..Verdicts::default()
        };
        for (offset, stored_ms, own_ms, group) in stored(harness) {
            if (from.0..to.0).contains(&offset) {
                verdicts.deliver.push(QueueOffset(offset));
                verdicts.links.push(Link {
                    group,
                    priority: 0,
                    expires_ms: ttl.unwrap_or(TopicTtl(0)).expires_ms(own_ms, stored_ms),
                });
            }
        }
        harness.input(Input::Verdicts {
            judge,
            outcome: Ok(verdicts),
        });
    }
}

/// Of every message its offset, when it was stored, its own time to live and its message group.
fn stored(harness: &Harness) -> Vec<(u64, i64, u64, u64)> {
    let mut all = Vec::new();
    for (_, record) in &harness.durable {
        if let Change::Appended { first, batch, .. } = &record.change {
            let batch = Batch::parse(batch.clone()).unwrap();
            let of = |row: &sluice_protocol::batch::Row<'_>| {
                let group = row.group_bytes().map_or(0, group_hash);
                (first.0 + u64::from(row.index()), record.at.wall_ms, row.ttl_ms(), group)
            };
            all.extend(batch.rows().map(|row| of(&row)));
        }
    }
    all
}

/// What was recorded as expired.
fn expired(harness: &Harness) -> Vec<(u64, u16, OnExpired)> {
    let of = |change: &Change| match change {
        Change::Expired { messages, fate, .. } => messages
            .iter()
            .flat_map(|message| (message.offsets.first.0..message.offsets.end.0).map(|offset| (offset, message.attempt.0, *fate)))
            .collect(),
        _ => Vec::new(),
    };
    harness.durable.iter().flat_map(|(_, record)| of(&record.change)).collect()
}

#[test]
fn what_expired_is_skipped_and_the_others_are_delivered() {
    let mut harness = broker(0, OnExpired::Skip, false);
    publish(&mut harness, lives(0, &[0, 500, 400, 501], None));
    harness.wait(500);
    harness.stream(1, Filter::All, 10);
    harness.sync();
    assert_eq!(judge(&mut harness), 1);
    assert_eq!(harness.delivered(), [(0, 1), (3, 1)]);
    assert_eq!(expired(&harness), [(1, 0, OnExpired::Skip), (2, 0, OnExpired::Skip)]);
    assert_eq!(harness.core.counters().expired, 2);
}

#[test]
fn of_a_topic_in_which_nothing_expires_nothing_is_asked() {
    let mut harness = broker(0, OnExpired::Skip, false);
    publish(&mut harness, lives(0, &[0, 0], None));
    harness.stream(1, Filter::All, 10);
    harness.sync();
    assert_eq!(judge(&mut harness), 0);
    assert_eq!(harness.delivered(), [(0, 1), (1, 1)]);
    publish(&mut harness, lives(2, &[0, 9_000], None));
    assert_eq!(judge(&mut harness), 1, "where one expires, it is");
    assert_eq!(harness.delivered(), [(2, 1), (3, 1)]);
    publish(&mut harness, lives(4, &[0], None));
    assert_eq!(judge(&mut harness), 0, "and no longer behind it");
    assert_eq!(harness.delivered(), [(4, 1)]);
}

#[test]
fn the_sooner_of_the_two_times_to_live_counts() {
    let mut harness = broker(1_000, OnExpired::Skip, false);
    publish(&mut harness, lives(0, &[0, 500, 9_000], None));
    harness.wait(999);
    harness.stream(1, Filter::All, 1);
    harness.sync();
    judge(&mut harness);
    assert_eq!(harness.delivered(), [(0, 1)]);
    harness.wait(1);
    harness.stream(2, Filter::All, 5);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    assert_eq!(expired(&harness), [(1, 0, OnExpired::Skip), (2, 0, OnExpired::Skip)]);
}

#[test]
fn a_lease_is_not_cut_short_and_what_comes_back_too_late_is_not_delivered_again() {
    let mut harness = broker(0, OnExpired::Skip, false);
    publish(&mut harness, lives(0, &[500, 500], None));
    harness.stream(1, Filter::All, 10);
    harness.sync();
    judge(&mut harness);
    assert_eq!(harness.delivered(), [(0, 1), (1, 1)]);
    harness.wait(600);
    let acked = harness.settle(1, 1, Numbers::Each(vec![1]), Action::Ack);
    harness.settle(1, 1, Numbers::Each(vec![2]), Action::Nack { delay_ms: Some(0) });
    harness.sync();
    assert_eq!(harness.settled(acked), [Ok(())]);
    harness.wait(1);
    harness.sync();
    assert_eq!(harness.delivered(), []);
    assert_eq!(expired(&harness), [(1, 1, OnExpired::Skip)]);
}

#[test]
fn what_expired_is_dead_lettered_with_its_reason_where_the_topic_says_so() {
    let mut harness = broker(500, OnExpired::DeadLetter, true);
    publish(&mut harness, lives(0, &[0, 0], Some("a")));
    harness.wait(500);
    harness.stream(1, Filter::All, 10);
    harness.sync();
    judge(&mut harness);
    assert_eq!(harness.delivered(), []);
    let fetches: Vec<_> = harness
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Fetch {
                fetch,
                copy: Copied::DeadLetter(dead),
                ..
            } => Some((*fetch, dead.reason.clone(), dead.attempts)),
            _ => None,
        })
        .collect();
    assert_eq!(fetches.len(), 2, "though the group holds what is exhausted");
    for (fetch, reason, attempts) in fetches {
        assert_eq!((reason.as_str(), attempts), ("expired", 0));
        let batch = Some(harness::batch(9, 0, 1));
        harness.input(Input::Fetched { fetch, batch });
    }
    harness.sync();
    let counters = harness.core.counters();
    assert_eq!((counters.expired, counters.dead_lettered), (2, 2));
}

#[test]
fn the_next_of_a_message_group_goes_out_once_the_end_of_the_expired_one_is_durable() {
    let mut harness = broker(0, OnExpired::Skip, true);
    publish(&mut harness, lives(0, &[500, 0, 700, 0], Some("a")));
    harness.stream(1, Filter::All, 10);
    harness.sync();
    judge(&mut harness);
    assert_eq!(harness.delivered(), [(0, 1)]);
    harness.wait(600);
    harness.settle(1, 1, Numbers::Each(vec![1]), Action::Nack { delay_ms: Some(0) });
    harness.sync();
    assert_eq!(harness.delivered(), [(1, 1)]);
    assert_eq!(expired(&harness), [(0, 1, OnExpired::Skip)]);
    harness.wait(600);
    harness.settle(1, 1, Numbers::Each(vec![2]), Action::Ack);
    harness.sync();
    assert_eq!(harness.delivered(), [(3, 1)]);
    assert_eq!(expired(&harness).len(), 2);
}

#[test]
fn deadlines_outlive_a_crash() {
    let mut harness = broker(0, OnExpired::Skip, false);
    publish(&mut harness, lives(0, &[500, 900, 0], None));
    harness.stream(1, Filter::All, 10);
    harness.sync();
    judge(&mut harness);
    assert_eq!(harness.delivered().len(), 3);
    harness.crash();
    harness.wait(500);
    harness.stream(1, Filter::All, 10);
    harness.sync();
    assert_eq!(harness.delivered(), [(1, 2), (2, 2)], "what a lost connection gave back");
    assert_eq!(expired(&harness), [(0, 1, OnExpired::Skip)]);
}

#[test]
fn a_replay_delivers_nothing_that_expired() {
    let mut harness = broker(500, OnExpired::Skip, false);
    publish(&mut harness, lives(0, &[0], None));
    harness.stream(1, Filter::All, 10);
    harness.sync();
    judge(&mut harness);
    assert_eq!(harness.delivered(), [(0, 1)]);
    harness.wait(500);
    harness.admin(Admin::Seek {
        group: "g".to_owned(),
        topic: "t".to_owned(),
        queue: None,
        to: sluice_core::input::SeekTo::Earliest,
    });
    harness.sync();
    judge(&mut harness);
    assert_eq!(harness.delivered(), []);
    assert_eq!(expired(&harness), [(0, 0, OnExpired::Skip)]);
}
