//! Hostile plugins on the real broker: one that a single message breaks, and ones that are wholly broken.

// The guests' source is that of the plugin host's own tests.
#[path = "../../../broker/plugin-host/tests/guests/mod.rs"]
mod guests;

use std::time::Duration;

use guests::{Guest, POISONED, SOUND, TRAPPING};
use serde_json::Value;
use sluice_client::admin::{Alarm, GroupInfo, OnFailure, PluginLimits};
use sluice_client::{Client, Consumer, ConsumerConfig, Filter};
use sluice_end_to_end::{Broker, numbers};

/// The memory that each instance may have.
const MEMORY_BYTES: u64 = 16 << 20;
/// As many threads run plugins unless the broker is told otherwise.
const VERDICT_THREADS: u64 = 2;

const SPINNING: Guest = Guest {
    evaluate: "(loop (br 0))",
    ..SOUND
};
/// Takes memory, and touches every page of it, until it gets none, and then gives up.
const ALLOCATING: Guest = Guest {
    evaluate: "
        (loop $more
            (local.set 3 (memory.grow (i32.const 16)))
            (if (i32.ne (local.get 3) (i32.const -1)) (then
                (local.set 3 (i32.mul (local.get 3) (i32.const 65536)))
                (local.set 2 (i32.add (local.get 3) (i32.const 1048576)))
                (loop $touch
                    (i32.store8 (local.get 3) (i32.const 1))
                    (br_if $touch (i32.lt_u (local.tee 3 (i32.add (local.get 3) (i32.const 4096))) (local.get 2))))
                (br $more))))
        unreachable",
    ..SOUND
};
const BABBLING: Guest = Guest {
    deliver_length: "(i32.const 1000)",
    ..SOUND
};

fn limits() -> PluginLimits {
    PluginLimits {
        memory_bytes: MEMORY_BYTES,
        ..PluginLimits::default()
    }
}

/// Publishes numbered messages, of which these have a tag that breaks the poisoned plugin.
fn produce(broker: &Broker, topic: &str, count: u32, poison: &[u32]) {
    let tag = |number: u32| if poison.contains(&number) { "bad!" } else { "good" };
    let rows: String = (0..count)
        .map(|number| format!("{{\"n\":{number},\"tag\":\"{}\"}}\n", tag(number)))
        .collect();
    broker.succeed(&["produce", topic, "--jsonl", "-", "--tag-column", "tag", "--property", "n"], &rows);
}

async fn load(client: &Client, name: &str, guest: Guest, limits: PluginLimits) {
    let loaded = client
        .load_plugin(name, guest.component(), Some(limits), OnFailure::DeadLetter)
        .await;
    loaded.expect("the guest passes its self-test");
}

fn member(client: &Client, topic: &str, plugin: &str) -> Consumer {
    client.consumer(ConsumerConfig::new(topic, plugin).filter(Filter::Plugin {
        name: plugin.to_owned(),
        expression: String::new(),
    }))
}

/// Receives for a group named like its plugin until the group is held; what it got meanwhile, and why it is held.
async fn until_held(client: &Client, topic: &str, plugin: &str) -> (usize, Alarm) {
    let consumer = member(client, topic, plugin);
    let mut got = 0;
    loop {
        got += consumer
            .receive(32, Duration::from_millis(500))
            .await
            .expect("the group reads")
            .len();
        let group: GroupInfo = client.group(plugin).await.expect("the group is there");
        if let Some(alarm) = group.alarms.into_iter().next() {
            return (got, alarm);
        }
    }
}

async fn has_no_dead_letters(client: &Client, group: &str) {
    let topics = client.topics().await.expect("the broker lists its topics");
    assert!(!topics.iter().any(|topic| topic.name == format!("%DLQ%{group}")));
}

/// Demands that the metrics show each of these groups as held, and failures of each kind, and prints them.
fn metrics_show(broker: &Broker, held: &[&str]) {
    let metrics = broker.page("/metrics");
    let lines = metrics.lines().filter(|line| !line.starts_with('#'));
    let shown = [
        "sluice_groups_held",
        "sluice_group_held{",
        "sluice_plugin_failures",
        "sluice_alarms",
    ];
    lines
        .filter(|line| shown.iter().any(|name| line.starts_with(name)))
        .for_each(|line| println!("{line}"));
    let has = |line: &str| metrics.lines().any(|other| other == line);
    assert!(has(&format!("sluice_groups_held {}", held.len())), "{metrics}");
    for group in held {
        assert!(has(&format!("sluice_group_held{{group=\"{group}\",topic=\"t\"}} 1")), "{metrics}");
    }
    for kind in ["trap", "fuel", "memory", "answer", "stopped"] {
        let none = format!("sluice_plugin_failures_total{{kind=\"{kind}\"}} 0");
        assert!(metrics.contains(none.trim_end_matches('0')) && !has(&none), "{kind}: {metrics}");
    }
}

fn all(count: u64) -> Vec<u64> {
    (0..count).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_culprit_is_found_and_dead_lettered_with_its_reason() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--queues", "1"]);
    produce(&broker, "t", 2_000, &[700]);
    let client = broker.client().await;
    load(&client, "poisoned", POISONED, limits()).await;
    let filter = ["--filter", "poisoned", "--expression", ""];
    let others: Vec<u64> = (0..2_000).filter(|number| *number != 700).collect();
    assert_eq!(broker.consume("t", "g", &filter), others);
    let dead = broker.run(&["consume", "%DLQ%g", "--group", "morgue", "--until-empty", "--json"]);
    assert_eq!(numbers(&dead), [700]);
    let dead: Value = serde_json::from_str(dead.trim()).expect("one message");
    let (reason, plugin) = (&dead["properties"]["sluice.reason"], &dead["properties"]["sluice.plugin"]);
    assert!(reason.as_str().is_some_and(|reason| reason.contains("trapped")), "{dead}");
    assert_eq!(plugin.as_str().map(str::len), Some(64), "{dead}");
    assert!(client.group("g").await.expect("it is there").alarms.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_binding_may_say_to_skip_deliver_or_hold_what_its_plugin_fails_on() {
    let broker = Broker::start();
    broker.run(&["topic", "create", "t", "--queues", "1"]);
    produce(&broker, "t", 1_500, &[3, 900]);
    let module = broker.file("poisoned.wasm", "").display().to_string();
    std::fs::write(&module, POISONED.component()).expect("a file for a test can be written");
    let without: Vec<u64> = all(1_500).into_iter().filter(|number| ![3, 900].contains(number)).collect();
    for (fate, expected) in [("skip", &without), ("deliver", &all(1_500)), ("hold", &without)] {
        broker.run(&["plugin", "load", &module, "--name", fate, "--on-failure", fate]);
        assert!(broker.run(&["plugin", "describe", fate]).contains(&format!("failures  {fate}")));
        // A message that is held stays, so the group is never empty: as many are asked for as there are.
        let count = expected.len().to_string();
        let printed = broker.run(&[
            "consume",
            "t",
            "--group",
            fate,
            "--filter",
            fate,
            "--expression",
            "",
            "--count",
            &count,
            "--json",
        ]);
        assert_eq!(&numbers(&printed), expected, "{fate}");
    }
    let client = broker.client().await;
    // The consumer may be gone before it was decided: a reader makes the broker judge on.
    let reader = member(&client, "t", "hold");
    while client.group("hold").await.expect("it is there").cursors[0].culprits_held < 2 {
        reader.receive(1, Duration::from_millis(500)).await.expect("the group reads");
    }
    load(&client, "hold", SOUND, limits()).await;
    let mut released = 0;
    while released < 2 {
        let messages = reader.receive(32, Duration::from_secs(5)).await.expect("the group reads");
        released += messages.len();
        reader.ack(&messages).await.expect("they are leased");
    }
    assert_eq!(released, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_plugins_hold_their_groups_while_others_go_on_within_their_memory() {
    let broker = Broker::start();
    produce(&broker, "t", 2_000, &[]);
    assert_eq!(broker.consume("t", "before", &["--tag", "good"]), all(2_000));
    let idle = broker.rss_bytes();
    let client = broker.client().await;
    let quick = PluginLimits {
        fuel_per_run: 1 << 40,
        run_ms: 50,
        ..limits()
    };
    let hostile = [
        ("trapping", TRAPPING, limits(), "trapped"),
        ("spinning", SPINNING, limits(), "fuel"),
        ("endless", SPINNING, quick, "50 ms"),
        ("allocating", ALLOCATING, limits(), "memory"),
        ("babbling", BABBLING, limits(), "answer"),
    ];
    let mut held = Vec::new();
    for (name, guest, limits, reason) in hostile {
        load(&client, name, guest, limits).await;
        let client = client.clone();
        held.push((name, reason, tokio::spawn(async move { until_held(&client, "t", name).await })));
    }
    assert_eq!(broker.consume("t", "meanwhile", &["--tag", "good"]), all(2_000));
    for (name, reason, held) in held {
        let (got, alarm) = held.await.expect("the task ends");
        assert_eq!((got, alarm.topic.as_str()), (0, "t"), "{name}");
        assert!(alarm.reason.contains(reason), "{name}: {}", alarm.reason);
        has_no_dead_letters(&client, name).await;
        assert!(broker.run(&["group", "describe", name]).contains("HELD"));
    }
    metrics_show(&broker, &hostile.map(|(name, ..)| name));
    assert_eq!(broker.consume("t", "after", &["--sql", "n < 1000"]), all(1_000));
    let (rss, granted) = (broker.peak_rss_bytes(), hostile.len() as u64 * VERDICT_THREADS * MEMORY_BYTES);
    println!("idle {idle} bytes, limits {granted} bytes, at most {rss} bytes");
    assert!(rss <= idle + granted, "{rss} bytes are more than {idle} + {granted}");
    // An operator may go on, in vain while the plugin is broken; with a sound version all of it is delivered.
    broker.run(&["group", "resume", "trapping"]);
    until_held(&client, "t", "trapping").await;
    load(&client, "trapping", SOUND, limits()).await;
    let filter = ["--filter", "trapping", "--expression", ""];
    assert_eq!(broker.consume("t", "trapping", &filter), all(2_000));
}
