//! A backup of the real binary while it works, and what a broker that is restored from it does; what is refused of a backup that is not whole.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use sluice_client::admin::GroupSettings;
use sluice_client::{Client, Consumer, ConsumerConfig, Error, ErrorCode, Filter, NewMessage, Producer, ProducerConfig, ReadFrom, Reading};
use sluice_end_to_end::{Broker, quoted, sluice, text};

/// Small segments, so that they are sealed while a backup is taken.
const SETTINGS: &str = "segment_bytes = 1048576\n";
const WAIT: Duration = Duration::from_secs(20);
/// A body of which a few hundred fill a segment.
const FILLING: usize = 3_000;

fn run(arguments: &[&str]) -> Output {
    Command::new(sluice()).args(arguments).output().expect("the binary was just built")
}

fn of(path: &Path) -> &str {
    path.to_str().expect("the paths of tests are text")
}

fn number(body: &[u8]) -> u64 {
    let digits = text(body);
    digits
        .split(' ')
        .next()
        .and_then(|number| number.parse().ok())
        .expect("a number begins the body")
}

/// Publishes numbered messages until it is told to stop, and knows which were confirmed.
struct Publishing {
    confirmed: Arc<Mutex<Vec<u64>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Publishing {
    fn begin(producer: Producer) -> Self {
        let confirmed = Arc::new(Mutex::new(Vec::new()));
        let noted = confirmed.clone();
        let task = tokio::spawn(async move {
            for number in 0_u64.. {
                let body = format!("{number} {}", "x".repeat(FILLING));
                let color = if number % 2 == 0 { "red" } else { "blue" };
                let message = NewMessage::new(body).group("one").property("color", color);
                if producer.send(message).await.is_err() {
                    return;
                }
                noted.lock().expect("nobody panics with it").push(number);
            }
        });
        Self { confirmed, task }
    }

    fn confirmed(&self) -> Vec<u64> {
        self.confirmed.lock().expect("nobody panics with it").clone()
    }

    async fn until(&self, count: usize) {
        while self.confirmed().len() < count {
            assert!(!self.task.is_finished(), "the broker takes what is published");
            tokio::task::yield_now().await;
        }
    }
}

async fn create(broker: &Broker, to: &Path, more: &[&str]) -> Value {
    let mut command = Command::new(sluice());
    command.args(["--json", "backup", "create", of(to)]).args(more);
    command.env("SLUICE_READY_FILE", broker.ready_file());
    let output = tokio::task::spawn_blocking(move || command.output()).await.expect("nothing panics");
    let output = output.expect("the binary was just built");
    assert!(output.status.success(), "{}\n{}", text(&output.stderr), broker.log());
    serde_json::from_slice(&output.stdout).expect("it prints JSON")
}

async fn stored(client: &Client, topic: &str) -> Vec<u64> {
    let mut pages = client.read(&Reading {
        from: ReadFrom::Earliest,
        ..Reading::of(topic)
    });
    let mut numbers = Vec::new();
    while let Some(page) = pages.next(256).await.expect("the broker answers") {
        numbers.extend(page.messages.iter().map(|message| number(&message.body())));
    }
    numbers.sort_unstable();
    numbers
}

async fn receive(consumer: &Consumer, count: usize) -> Vec<sluice_client::ReceivedMessage> {
    let mut received = Vec::new();
    while received.len() < count {
        let more = consumer
            .receive((count - received.len()) as u16, WAIT)
            .await
            .expect("the broker answers");
        assert!(!more.is_empty(), "{} of {count} came", received.len());
        received.extend(more);
    }
    received
}

/// Acknowledges, again when the connection was lost meanwhile, which is safe.
async fn ack(consumer: &Consumer, messages: &[sluice_client::ReceivedMessage]) -> Vec<Result<(), Error>> {
    loop {
        match consumer.ack(messages).await {
            Err(Error::Unknown { .. } | Error::Unreachable { .. }) => {}
            outcome => return outcome.expect("the broker answers"),
        }
    }
}

fn refused(result: &Result<(), Error>) -> Option<ErrorCode> {
    match result {
        Err(Error::Refused(refusal)) => Some(refusal.code),
        Ok(()) | Err(_) => None,
    }
}

fn consumer(client: &Client, topic: &str, group: &str) -> Consumer {
    client.consumer(ConsumerConfig {
        invisible: Some(Duration::from_secs(3_600)),
        ..ConsumerConfig::new(topic, group)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_broker_goes_on_from_the_backup_and_from_nothing_that_came_after_it() {
    let mut broker = Broker::start_with(SETTINGS);
    let backups = tempfile::tempdir().expect("a directory for a test can be made");
    let (first, second) = (backups.path().join("first"), backups.path().join("second"));
    let client = broker.client().await;
    let publishing = Publishing::begin(client.producer("live", ProducerConfig::default()));
    publishing.until(200).await;
    let ordered = GroupSettings {
        ordered: true,
        ..GroupSettings::default()
    };
    client.create_group("ordered", Some(ordered)).await.expect("the group is new");
    let jobs = client.producer("jobs", ProducerConfig::default());
    for number in 0..20 {
        jobs.send(NewMessage::new(number.to_string()).property("kind", "job"))
            .await
            .expect("it is stored");
    }
    let workers = client.consumer(ConsumerConfig {
        invisible: Some(Duration::from_secs(3_600)),
        ..ConsumerConfig::new("jobs", "workers").filter(Filter::Sql("kind = 'job'".to_owned()))
    });
    let readers = consumer(&client, "live", "ordered");
    let done = receive(&workers, 5).await;
    workers.ack(&done).await.expect("the broker answers");
    let held = receive(&workers, 3).await;
    let in_order = receive(&readers, 1).await;
    readers.ack(&in_order).await.expect("the broker answers");
    let waiting = client.producer("later", ProducerConfig::default());
    let late = NewMessage::new("7 late").deliver_after(Duration::from_secs(2));
    waiting.send(late).await.expect("it is stored");
    let recalled = waiting
        .send(NewMessage::new("8 recalled").deliver_after(Duration::from_secs(3_600)))
        .await
        .expect("it is stored");
    let prepared = jobs
        .prepare(NewMessage::new("100").property("kind", "job"))
        .await
        .expect("it is prepared");

    let before = publishing.confirmed();
    let told = create(&broker, &first, &["--identity", of(&broker.data())]).await;
    assert_eq!(told["has_identity"], true);
    // What comes now the restored broker never hears of.
    publishing.until(before.len() + 800).await;
    let lost = receive(&workers, 3).await;
    let lost_prepared = jobs
        .prepare(NewMessage::new("101").property("kind", "job"))
        .await
        .expect("it is prepared");
    let lost_recall = waiting
        .send(NewMessage::new("9 lost").deliver_after(Duration::from_secs(3_600)))
        .await
        .expect("it is stored");
    let told = create(&broker, &second, &["--base", of(&first)]).await;
    assert!(
        told["bytes_of_base"].as_u64() > Some(0) && told["bytes_of_base"].as_u64() < told["bytes"].as_u64(),
        "{told}"
    );
    for backup in [&first, &second] {
        let verified = run(&["backup", "verify", of(backup)]);
        assert!(verified.status.success(), "{}", text(&verified.stderr));
    }
    broker.kill();

    let restored = Broker::restored(&first, SETTINGS);
    // The clients that there were find it where the other one was.
    std::fs::copy(restored.ready_file(), broker.ready_file()).expect("a file for a test can be written");
    let now = restored.client().await;
    let there: BTreeSet<u64> = stored(&now, "live").await.into_iter().collect();
    assert!(
        before.iter().all(|number| there.contains(number)),
        "all that was confirmed before is there"
    );
    let outcome = ack(&workers, &held).await;
    assert!(outcome.iter().all(Result::is_ok), "what was leased before is settled: {outcome:?}");
    let outcome = ack(&workers, &lost).await;
    assert!(
        outcome.iter().all(|one| refused(one) == Some(ErrorCode::StaleHandle)),
        "{outcome:?}"
    );
    assert_eq!(refused(&lost_prepared.commit().await), Some(ErrorCode::BadTransactionHandle));
    prepared.commit().await.expect("what was prepared before is committed");
    let recall = |receipt: &sluice_client::Receipt| receipt.delayed.as_ref().expect("it waits").recall.clone();
    assert_eq!(
        refused(&client.recall(&recall(&lost_recall)).await),
        Some(ErrorCode::BadRecallHandle)
    );
    client
        .recall(&recall(&recalled))
        .await
        .expect("what was delayed before is recalled");
    let rest = receive(&workers, 13).await;
    let mut rest: Vec<u64> = rest.iter().map(|message| number(&message.body())).collect();
    rest.sort_unstable();
    let settled: Vec<u64> = done.iter().chain(&held).map(|message| number(&message.body())).collect();
    let expected: Vec<u64> = (0..20).chain([100]).filter(|number| !settled.contains(number)).collect();
    assert_eq!(rest, expected, "the group goes on where it was");
    assert_eq!(
        number(&receive(&readers, 1).await[0].body()),
        number(&in_order[0].body()) + 1,
        "in order"
    );
    let late = receive(&consumer(&now, "later", "late"), 1).await;
    assert_eq!(number(&late[0].body()), 7, "what was delayed comes");
    // It is backed up as another log.
    let third = backups.path().join("third");
    let refused = restored.fail(&["backup", "create", of(&third), "--base", of(&first)]);
    assert!(
        refused
            .1
            .contains("is a backup of another log, or from before this one was restored"),
        "{}",
        refused.1
    );
    publishing.task.abort();
}

/// Every file of a backup.
fn files(backup: &Path) -> Vec<PathBuf> {
    let list = |directory: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(directory).expect("it is a directory");
        entries.map(|entry| entry.expect("it can be listed").path()).collect()
    };
    let mut files: Vec<PathBuf> = list(backup).into_iter().filter(|path| path.is_file()).collect();
    files.extend(["log", "plugins"].iter().flat_map(|directory| list(&backup.join(directory))));
    files
}

/// What a command says that is refused, with `DIR` for the directory.
fn said(directory: &Path, arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr).replace(&directory.display().to_string(), "DIR")
}

#[test]
fn a_backup_that_is_not_what_was_written_is_refused_by_the_name_of_the_file() {
    let broker = Broker::start_with(SETTINGS);
    broker.produce("t", 0, 500);
    let directory = tempfile::tempdir().expect("a directory for a test can be made");
    let (backup, data) = (directory.path().join("backup"), directory.path().join("data"));
    let restore = ["backup", "restore", of(&backup), "--data", of(&data)];
    broker.run(&["backup", "create", of(&backup), "--identity", of(&broker.data())]);
    for path in files(&backup) {
        let sound = std::fs::read(&path).expect("it is there");
        for place in [0, sound.len() / 2, sound.len() - 1] {
            let mut changed = sound.clone();
            changed[place] ^= 4;
            std::fs::write(&path, changed).expect("it can be written");
            let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
            for arguments in [&restore[..], &["backup", "verify", of(&backup)]] {
                let refused = said(directory.path(), arguments);
                assert!(refused.contains(name), "{name}: {refused}");
            }
        }
        std::fs::write(&path, sound).expect("it can be written");
        assert!(!data.exists(), "nothing is made");
    }
    assert!(run(&["backup", "verify", of(&backup)]).status.success());
    refuse_what_is_missing(directory.path(), &backup, &restore);
    refuse_newer(directory.path(), &backup, &restore);
    assert!(run(&restore).status.success());
    quoted(&said(directory.path(), &restore));
    quoted(
        &broker
            .fail(&["backup", "create", of(&backup)])
            .1
            .replace(&directory.path().display().to_string(), "DIR"),
    );
    // A restore that is cut short leaves this behind.
    std::fs::write(data.join("unfinished-restore"), "").expect("it can be written");
    quoted(&said(directory.path(), &["serve", "--listen", "127.0.0.1:0", "--data", of(&data)]));
}

fn refuse_what_is_missing(directory: &Path, backup: &Path, restore: &[&str]) {
    for (name, other) in [("manifest.json", "aside"), ("log/format", "log/other")] {
        std::fs::rename(backup.join(name), backup.join(other)).expect("it is there");
        let refused = said(directory, restore);
        if name == "manifest.json" {
            quoted(&refused);
        }
        assert!(refused.contains(name), "{refused}");
        std::fs::rename(backup.join(other), backup.join(name)).expect("it is there");
    }
    std::fs::write(backup.join("log/segment-00000000000000ff"), "").expect("it can be written");
    quoted(&said(directory, restore));
    std::fs::remove_file(backup.join("log/segment-00000000000000ff")).expect("it is there");
}

fn refuse_newer(directory: &Path, backup: &Path, restore: &[&str]) {
    let path = backup.join("manifest.json");
    let sound = std::fs::read_to_string(&path).expect("it is there");
    let newer = sound.replacen("\"version\": 1", "\"version\": 2", 1);
    std::fs::write(&path, newer).expect("it can be written");
    quoted(&said(directory, restore));
    std::fs::write(&path, sound).expect("it can be written");
}

#[test]
fn a_backup_that_was_interrupted_is_none() {
    let mut broker = Broker::start_with(SETTINGS);
    let rows: String = (0..4_000)
        .map(|n| format!("{{\"n\":{n},\"rest\":\"{}\"}}\n", "x".repeat(FILLING)))
        .collect();
    broker.succeed(&["produce", "t", "--jsonl", "-"], &rows);
    let directory = tempfile::tempdir().expect("a directory for a test can be made");
    let backup = directory.path().join("backup");
    let mut command = Command::new(sluice());
    command.args(["backup", "create", of(&backup), "--rate", "1"]);
    let mut taking = command
        .env("SLUICE_READY_FILE", broker.ready_file())
        .spawn()
        .expect("the binary was just built");
    while !backup.join("log/format").exists() {
        std::thread::yield_now();
    }
    let busy = broker.fail(&["backup", "create", of(&directory.path().join("other"))]);
    assert!(busy.1.contains("another backup is being taken"), "{}", busy.1);
    quoted(&busy.1);
    taking.kill().expect("a child can be killed");
    taking.wait().expect("a killed child ends");
    let refused = said(
        directory.path(),
        &["backup", "restore", of(&backup), "--data", of(&directory.path().join("data"))],
    );
    assert!(refused.contains("is no whole backup"), "{refused}");
    // The broker notices that its client is gone, and is free for the next one.
    let again = directory.path().join("again");
    while !run_of(&broker, &["backup", "create", of(&again)]) {
        std::fs::remove_dir_all(&again).expect("it was made");
    }
    assert!(broker.terminate());
}

fn run_of(broker: &Broker, arguments: &[&str]) -> bool {
    broker.run_with(arguments, "").status.success()
}
