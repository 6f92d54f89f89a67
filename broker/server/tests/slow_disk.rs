//! A producer ten times faster than the disk: memory is bounded, others are served, it is told so, and what is confirmed is safe.
//!
//! Nothing here is timed: the disk stores one byte for each ten that the producer offers, however fast either is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use quinn::SendStream;
use sluice_client::{Client, ConsumerConfig};
use sluice_log::{Entry, FaultyStorage, Storage, StorageFile, StorageLock};
use sluice_protocol::errors::{Advice, ErrorCode, Refusal};
use sluice_server::{Config, Failed, Server};
use support::others::{goes_on, resident_mib};
use support::raw::{Answers, PRODUCER, Raw, Stream, batch_of, publish, publish_start};
use support::{STOP_BOUND, config, connect};
use tokio::time::timeout;

mod support;

const WAIT: Duration = Duration::from_secs(60);
/// The producer is faster than the disk by this factor.
const FASTER: u64 = 10;
/// Large enough that the broker reads on while the disk is behind: how many messages a stream has without a confirm is bounded, too.
const BODY_BYTES: usize = 60_000;
/// Of the flood's messages so many are offered at least: several times the memory that the broker may take.
const OFFERED_MIN: u64 = 3_300;
/// The broker may grow by so much, its clients and the windows of their connections included: a third of what is offered.
const GROWN_MIB_MAX: u64 = 64;

/// A disk whose syncs wait until the producer has offered ten times what is to be made durable.
#[derive(Clone)]
struct SlowDisk {
    disk: FaultyStorage,
    pace: Arc<Pace>,
}

#[derive(Default)]
struct Pace {
    counted: Mutex<Counted>,
    more: Condvar,
}

/// Bytes since the disk is slow.
#[derive(Default)]
struct Counted {
    is_slow: bool,
    offered: u64,
    written: u64,
}

impl Pace {
    fn set_slow(&self, is_slow: bool) {
        self.counted.lock().unwrap().is_slow = is_slow;
        self.more.notify_all();
    }

    fn offered(&self, bytes: u64) {
        self.counted.lock().unwrap().offered += bytes;
        self.more.notify_all();
    }

    fn written(&self, bytes: u64) {
        let mut counted = self.counted.lock().unwrap();
        counted.written += if counted.is_slow { bytes } else { 0 };
    }

    fn wait_for_sync(&self) {
        let counted = self.counted.lock().unwrap();
        let is_early = |counted: &mut Counted| counted.is_slow && counted.written * FASTER > counted.offered;
        drop(self.more.wait_while(counted, is_early).unwrap());
    }
}

impl Storage for SlowDisk {
    fn list(&self) -> io::Result<Vec<Entry>> {
        self.disk.list()
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Arc<dyn StorageFile>> {
        let (file, pace) = (self.disk.create(name, bytes)?, self.pace.clone());
        Ok(Arc::new(SlowFile { file, pace }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn StorageFile>> {
        let (file, pace) = (self.disk.open(name)?, self.pace.clone());
        Ok(Arc::new(SlowFile { file, pace }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }

    fn lock(&self) -> io::Result<StorageLock> {
        self.disk.lock()
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

struct SlowFile {
    file: Arc<dyn StorageFile>,
    pace: Arc<Pace>,
}

impl StorageFile for SlowFile {
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, into)
    }

    fn write_at(&self, offset: u64, slices: &[&[u8]]) -> io::Result<()> {
        self.pace.written(slices.iter().map(|slice| slice.len() as u64).sum());
        self.file.write_at(offset, slices)
    }

    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        self.file.allocate(from, to)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.pace.wait_for_sync();
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}

/// What the flood got, and the most memory that was resident meanwhile.
#[derive(Default)]
struct Answered {
    confirmed: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    told_to_slow_down: u64,
    resident_mib_max: u64,
}

/// Offers message after message, one a batch, until `enough` says so; how many.
async fn flood(mut send: SendStream, pace: Arc<Pace>, offered: Arc<AtomicU64>, enough: Arc<AtomicU64>) -> SendStream {
    let mut body = vec![7; BODY_BYTES];
    for sequence in 0_u64.. {
        if sequence >= enough.load(Ordering::Relaxed) {
            break;
        }
        body[..8].copy_from_slice(&sequence.to_le_bytes());
        send.write_all(&publish(&batch_of(PRODUCER, sequence, 1, &body))).await.unwrap();
        offered.store(sequence + 1, Ordering::Relaxed);
        pace.offered(BODY_BYTES as u64);
    }
    send
}

/// Reads what becomes of the flood into `answered`. May be cancelled.
async fn read_answers(mut answers: Answers, answered: Arc<Mutex<Answered>>) {
    loop {
        let confirm = answers.confirm().await;
        let mut answered = answered.lock().unwrap();
        for run in &confirm.stored {
            answered
                .confirmed
                .extend((0..u64::from(run.count)).map(|place| run.first_sequence + place));
        }
        for message in confirm.refused {
            let refusal = Refusal::from(message.refused.unwrap());
            assert_eq!(refusal.code.advice(), Advice::Retry, "{refusal}");
            answered.told_to_slow_down += u64::from(refusal.code == ErrorCode::Overloaded && refusal.text.ends_with("send more slowly"));
            answered.refused.insert(message.sequence);
        }
        answered.resident_mib_max = answered.resident_mib_max.max(resident_mib().unwrap_or(0));
    }
}

/// The numbers of the flood's messages that are stored: those in their bodies.
async fn stored(client: &Client) -> BTreeSet<u64> {
    let count = client.topic("flood").await.unwrap().messages;
    let consumer = client.consumer(ConsumerConfig::new("flood", "checks"));
    let mut stored = BTreeSet::new();
    while (stored.len() as u64) < count {
        let messages = timeout(WAIT, consumer.receive(32, Duration::from_secs(10))).await.unwrap().unwrap();
        let number = |body: &[u8]| u64::from_le_bytes(body[..8].try_into().unwrap());
        stored.extend(messages.iter().map(|message| number(&message.body())));
        assert!(consumer.ack(&messages).await.unwrap().iter().all(Result::is_ok));
    }
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_ten_times_faster_than_the_disk_is_told_to_slow_down_and_others_are_served() {
    let directory = tempfile::tempdir().unwrap();
    let slow = SlowDisk {
        disk: FaultyStorage::new(1),
        pace: Arc::default(),
    };
    let mut small = Config {
        segment_bytes: 1 << 20,
        tail_cache_bytes: 1 << 20,
        ..config(directory.path())
    };
    small.limits.body_bytes = 64 << 10;
    small.limits.frame_bytes = 512 << 10;
    small.limits.inbox_bytes = 1 << 20;
    let running = Server::start_on(Arc::new(slow.clone()), small.clone()).await.unwrap();
    let client = connect(&running).await;
    goes_on(&client, "before").await;
    let before = resident_mib();

    slow.pace.set_slow(true);
    let raw = Raw::welcomed(&running).await;
    let Stream { send, answers } = raw.open(&publish_start("flood")).await;
    let (offered, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(u64::MAX)));
    let answered = Arc::new(Mutex::new(Answered::default()));
    let flooding = tokio::spawn(flood(send, slow.pace.clone(), offered.clone(), enough.clone()));
    let answering = tokio::spawn(read_answers(answers, answered.clone()));
    goes_on(&client, "during").await;
    enough.store(OFFERED_MIN.max(offered.load(Ordering::Relaxed)), Ordering::Relaxed);
    let _send = timeout(WAIT, flooding).await.unwrap().unwrap();
    let offered = offered.load(Ordering::Relaxed);
    // All of it has come to the broker, which has taken it or refused it.
    let decided = || running.metrics().messages_admitted.get() + running.metrics().publishes_refused.get();
    timeout(WAIT, async {
        while decided() < offered + 40 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();

    // The power fails while the disk is behind.
    answering.abort();
    assert!(answering.await.unwrap_err().is_cancelled());
    slow.disk.crash();
    slow.pace.set_slow(false);
    assert!(matches!(running.stop(STOP_BOUND).await, Err(Failed::Storage(_))));
    let answered = std::mem::take(&mut *answered.lock().unwrap());
    let (confirmed, refused) = (answered.confirmed.len() as u64, answered.refused.len() as u64);
    println!("offered {offered}, confirmed {confirmed}, refused {refused}");
    assert!(confirmed > 0 && offered >= FASTER * confirmed, "{confirmed} of {offered}");
    assert!(refused > offered / 2 && answered.told_to_slow_down > 0, "{refused} of {offered}");
    if let Some(before) = before {
        // The disk is in memory, as it is and as it would be after a crash.
        let disk_mib = 2 * slow.list().unwrap().iter().map(|entry| entry.bytes >> 20).sum::<u64>();
        let most = answered.resident_mib_max;
        println!("resident memory: {before} MiB before, at most {most} MiB, of which the disk had {disk_mib}");
        assert!(most <= before + disk_mib + GROWN_MIB_MAX);
    }

    let running = Server::start_on(Arc::new(slow), small).await.unwrap();
    let client = connect(&running).await;
    let stored = stored(&client).await;
    assert!(
        stored.is_superset(&answered.confirmed),
        "what was confirmed is there after the crash"
    );
    assert!(stored.is_disjoint(&answered.refused), "what was refused was not taken all the same");
    client.close().await;
    running.stop(STOP_BOUND).await.unwrap();
}
