//! Clients that do not do their part: what they cost is bounded, they are told why, and others do not notice.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::time::Duration;

use sluice_client::{Client, ConsumerConfig};
use sluice_protocol::control::{Subscribe, TopicSettings};
use sluice_protocol::errors::ErrorCode;
use sluice_protocol::frame::{self, FrameKind};
use sluice_server::limits::CONFIRMS_UNWRITTEN_MAX;
use sluice_server::{Running, Server};
use support::document::quoted;
use support::others::{goes_on, grown_by_at_most, resident_mib};
use support::raw::{PRODUCER, Raw, batch, batch_of, publish, publish_start};
use support::{STOP_BOUND, config, connect, start};
use tokio::time::timeout;

mod support;

const WAIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_is_not_finished_in_time_is_refused_and_its_connection_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut hasty = config(directory.path());
    hasty.limits.frame_ms = 100;
    let running = Server::start(hasty).await.unwrap();
    let raw = Raw::welcomed(&running).await;
    let header = raw.open(&[200, 0, 0]).await;
    let small = raw.open(&[200, 0, 0, 0, 64, 0, 0, 0, 1, 2, 3]).await;
    let mut publishing = raw.open(&publish_start("t")).await;
    publishing.send.write_all(&publish(&batch(PRODUCER, 0, 1))).await.unwrap();
    publishing.confirm().await;
    publishing.send.write_all(&[0, 64, 0, 0, 17, 0]).await.unwrap();
    for (mut stream, bytes) in [(header, 3), (small, 11), (publishing, 6)] {
        let refusal = timeout(WAIT, stream.refusal()).await.unwrap();
        assert_eq!(
            refusal.to_string(),
            format!("FrameUnfinished: a frame was begun and not finished in time: {bytes} bytes of it came")
        );
        if bytes == 11 {
            quoted(&refusal);
        }
    }
    raw.lives().await;
    assert_eq!(running.metrics().refusals.of(ErrorCode::FrameUnfinished), 3);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_between_frames_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let mut hasty = config(directory.path());
    hasty.limits.frame_ms = 100;
    let running = Server::start(hasty).await.unwrap();
    let raw = Raw::welcomed(&running).await;
    let mut idle = raw.open(&publish_start("t")).await;
    // Another stream is refused after its time: the idle one has been idle for as long.
    let mut unfinished = raw.open(&[200, 0, 0, 0, 64, 0, 0, 0, 1]).await;
    assert_eq!(timeout(WAIT, unfinished.refused()).await.unwrap(), ErrorCode::FrameUnfinished);
    idle.send.write_all(&publish(&batch(PRODUCER, 0, 1))).await.unwrap();
    assert_eq!(idle.confirm().await.stored.len(), 1);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_unfinished_frames_cost_little_and_disturb_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    goes_on(&client, "before").await;
    let before = resident_mib();
    let mut hostile = Vec::new();
    for _ in 0..4 {
        let raw = Raw::welcomed(&running).await;
        let mut streams = Vec::new();
        for _ in 0..1_000 {
            // Each announces eight megabytes and sends a few bytes.
            streams.push(raw.open(&[0, 0, 128, 0, 17, 0, 0, 0, 1, 2, 3]).await);
        }
        hostile.push((raw, streams));
    }
    goes_on(&client, "after").await;
    grown_by_at_most(before, 128);
    client.close().await;
    drop(hostile);
    running.stop(STOP_BOUND).await.unwrap();
}

/// A topic of so many queues with a large message in each of most of them.
async fn large_messages(running: &Running, client: &Client, queues: u32, count: u64) {
    let settings = TopicSettings {
        queues,
        ..TopicSettings::default()
    };
    client.create_topic("large", Some(settings)).await.unwrap();
    let raw = Raw::welcomed(running).await;
    let mut stream = raw.open(&publish_start("large")).await;
    let body = vec![7; 1 << 20];
    for number in 0..count {
        // Neighbouring sequences share a queue, so these are far apart.
        let batch = batch_of(PRODUCER, number << 8, 1, &body);
        stream.send.write_all(&publish(&batch)).await.unwrap();
        assert_eq!(stream.confirm().await.stored.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_stops_reading_holds_a_few_frames_and_others_get_everything() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    large_messages(&running, &client, 512, 192).await;
    let before = resident_mib();
    // It has room for a kilobyte on each stream, and never reads one.
    let raw = Raw::with_windows(&running, 1 << 10).await;
    let subscribe = Subscribe {
        topic: "large".into(),
        group: "stuck".into(),
        credit_messages: 1_000,
        ..Subscribe::default()
    };
    let mut stream = raw.open(&frame::message(FrameKind::Subscribe, &subscribe)).await;
    assert_eq!(stream.next().await.unwrap().0, FrameKind::Subscribed);
    let leased = async || {
        let group = client.group("stuck").await.unwrap();
        group.cursors.iter().map(|cursor| cursor.leased).sum::<u64>()
    };
    timeout(WAIT, async { while leased().await < 192 {} }).await.unwrap();
    goes_on(&client, "good").await;
    let consumer = client.consumer(ConsumerConfig::new("large", "reads"));
    let mut got = 0;
    while got < 192 {
        let messages = timeout(WAIT, consumer.receive(4, Duration::from_secs(10))).await.unwrap().unwrap();
        assert!(consumer.ack(&messages).await.unwrap().iter().all(Result::is_ok));
        got += messages.len();
    }
    grown_by_at_most(before, 128);
    client.close().await;
    drop(raw);
    running.stop(STOP_BOUND).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_reads_no_confirms_is_read_no_further() {
    let directory = tempfile::tempdir().unwrap();
    let running = start(directory.path()).await;
    let client = connect(&running).await;
    goes_on(&client, "before").await;
    let good = running.metrics().messages_admitted.get();
    let before = resident_mib();
    let raw = Raw::with_windows(&running, 256).await;
    let mut writing = tokio::task::JoinSet::new();
    for number in 0..100_u64 {
        let mut stream = raw.open(&publish_start("t")).await;
        writing.spawn(async move {
            // The streams share the producer's sequences; which of them are refused is not of interest here.
            for round in 0.. {
                let batch = batch(PRODUCER, (round * 100 + number) * 256, 256);
                if stream.send.write_all(&publish(&batch)).await.is_err() {
                    return;
                }
            }
        });
    }
    goes_on(&client, "during").await;
    goes_on(&client, "after").await;
    let admitted = running.metrics().messages_admitted.get() - good - 40;
    // Those whose confirms fit into the windows come on top of those that wait.
    assert!(admitted <= u64::from(CONFIRMS_UNWRITTEN_MAX) + 100 * 1_024, "{admitted}");
    grown_by_at_most(before, 128);
    writing.shutdown().await;
    client.close().await;
    drop(raw);
    running.stop(STOP_BOUND).await.unwrap();
}
