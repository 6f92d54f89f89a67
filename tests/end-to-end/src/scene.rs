//! A broker inside the test's own process with one topic of one queue: what the tests share in which kinds of messages meet.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice_client::admin::{Backoff, DeadLetter, GroupSettings, TopicInfo, TopicSettings};
use sluice_client::{
    Client, Consumer, ConsumerConfig, Endpoint, Filter, NewMessage, Producer, ProducerConfig, Receipt, ReceivedMessage, Transaction, Trust,
};
use sluice_protocol::control::backoff::Kind;
use sluice_server::{Config, Running, Server};
use tempfile::TempDir;

/// The topic.
pub const TOPIC: &str = "t";
/// How long a receive waits for what must come; only a broken broker comes near it.
const WAIT: Duration = Duration::from_secs(20);
/// How long a receive waits where nothing may come, before it is seen whether the group is done.
const GLANCE: Duration = Duration::from_millis(20);
/// How long a test goes on asking; only a broken broker comes near it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(20);

/// The broker, a client of it and a producer of its topic.
pub struct Scene {
    /// The client.
    pub client: Client,
    producer: Producer,
    running: Running,
    _directory: TempDir,
}

impl Scene {
    /// A topic that keeps what it gets.
    pub async fn new() -> Self {
        Self::with_topic(TopicSettings::default()).await
    }

    /// A topic from which a round of retention takes whatever is older than a millisecond.
    pub async fn forgetful() -> Self {
        let settings = TopicSettings {
            retention_ms: 1,
            ..TopicSettings::default()
        };
        Self::with_topic(settings).await
    }

    /// A topic with these settings, in one queue.
    pub async fn with_topic(settings: TopicSettings) -> Self {
        let directory = tempfile::tempdir().expect("a directory for a test can be made");
        let config = Config {
            data_dir: directory.path().to_path_buf(),
            listen: ([127, 0, 0, 1], 0).into(),
            ..Config::default()
        };
        let running = Server::start(config).await.expect("it starts on an empty directory");
        let trust = Trust::sha256(&running.certificate_sha256()).expect("it is a digest");
        let endpoint = Endpoint::new(running.addresses()[0].to_string(), trust);
        let client = Client::connect(endpoint).await.expect("it serves");
        let settings = TopicSettings { queues: 1, ..settings };
        client.create_topic(TOPIC, Some(settings)).await.expect("the topic is new");
        Self {
            producer: client.producer(TOPIC, ProducerConfig::default()),
            client,
            running,
            _directory: directory,
        }
    }

    /// Creates a group.
    pub async fn group(&self, name: &str, settings: GroupSettings) {
        self.client.create_group(name, Some(settings)).await.expect("the group is new");
    }

    /// Publishes a message.
    pub async fn send(&self, message: NewMessage) -> Receipt {
        self.producer.send(message).await.expect("it is stored")
    }

    /// Prepares a message.
    pub async fn prepare(&self, message: NewMessage) -> Transaction {
        self.producer.prepare(message).await.expect("it is prepared")
    }

    /// The topic as it is now.
    pub async fn topic(&self) -> TopicInfo {
        self.client.topic(TOPIC).await.expect("the topic is there")
    }

    /// Waits until the queue has had so many messages: what is released or committed is on its way there.
    pub async fn stored(&self, messages: u64) {
        let begun = Instant::now();
        while self.topic().await.queues[0].end < messages {
            assert!(begun.elapsed() < PATIENCE, "not {messages} messages: {:?}", self.topic().await);
            tokio::task::yield_now().await;
        }
    }

    /// A member of a group that reads the topic.
    pub fn reader(&self, group: &str, filter: Filter) -> Reader<'_> {
        self.reader_of(TOPIC, group, filter)
    }

    /// A member of another group that reads the dead letters of a group.
    pub fn morgue(&self, group: &str, filter: Filter) -> Reader<'_> {
        self.reader_of(&format!("%DLQ%{group}"), "morgue", filter)
    }

    /// A named member of a broadcast group that reads the topic.
    pub fn member(&self, group: &str, name: &str, filter: Filter) -> Reader<'_> {
        Reader {
            scene: self,
            group: format!("{group}/{name}"),
            consumer: self.client.consumer(ConsumerConfig::new(TOPIC, group).filter(filter).member(name)),
        }
    }

    fn reader_of(&self, topic: &str, group: &str, filter: Filter) -> Reader<'_> {
        Reader {
            scene: self,
            group: group.to_owned(),
            consumer: self.client.consumer(ConsumerConfig::new(topic, group).filter(filter)),
        }
    }

    /// Waits until a group has so many dead letters that were not dealt with.
    pub async fn letters(&self, group: &str, count: usize) -> Vec<DeadLetter> {
        let begun = Instant::now();
        loop {
            let letters = self.client.dead_letters(group, 0, None, 1_000).await.expect("the group is there");
            if letters.len() >= count {
                return letters;
            }
            assert!(begun.elapsed() < PATIENCE, "not {count} dead letters: {letters:?}");
            tokio::task::yield_now().await;
        }
    }

    /// Carries out rounds of retention until everything that the queue has now is gone from it.
    pub async fn forget(&self) {
        let (begun, end) = (Instant::now(), self.topic().await.queues[0].end);
        while self.topic().await.queues[0].start < end {
            assert!(begun.elapsed() < PATIENCE, "not gone: {:?}", self.topic().await);
            self.running.retain().await.expect("a round of retention ends");
        }
    }

    /// Ends it in good order.
    pub async fn end(self) {
        self.producer.close().await.expect("nothing is under way");
        self.client.close().await;
        self.running.stop(STOP_WITHIN).await.expect("it stops");
    }
}

/// A member of a group, which takes one message at a time.
pub struct Reader<'a> {
    scene: &'a Scene,
    group: String,
    consumer: Consumer,
}

impl Reader<'_> {
    /// The next message, leased. One that comes before its time fails the test.
    pub async fn lease(&self) -> ReceivedMessage {
        self.lease_all(1).await.remove(0)
    }

    /// Up to so many messages, at least one, leased.
    pub async fn lease_all(&self, max: u16) -> Vec<ReceivedMessage> {
        let got = self.consumer.receive(max, WAIT).await.expect("the broker answers");
        assert!(!got.is_empty(), "{} got nothing", self.group);
        for message in &got {
            let due_ms = message.deliver_at_ms().unwrap_or(0);
            assert!(wall_ms() >= due_ms, "{message:?} came before its time");
        }
        got
    }

    /// Acknowledges a message.
    pub async fn ack(&self, message: ReceivedMessage) {
        let mut results = self.consumer.ack(&[message]).await.expect("the broker answers");
        results.remove(0).expect("it is leased");
    }

    /// Whether a message can still be acknowledged.
    pub async fn may_ack(&self, message: ReceivedMessage) -> bool {
        self.consumer.ack(&[message]).await.expect("the broker answers")[0].is_ok()
    }

    /// Gives a message back.
    pub async fn nack(&self, message: ReceivedMessage) {
        let mut results = self.consumer.nack(&[message], None).await.expect("the broker answers");
        results.remove(0).expect("it is leased");
    }

    /// The bodies of the next messages, each acknowledged before the next is asked for.
    pub async fn take(&self, count: usize) -> Vec<String> {
        let mut bodies = Vec::with_capacity(count);
        for _ in 0..count {
            let message = self.lease().await;
            bodies.push(body(&message));
            self.ack(message).await;
        }
        bodies
    }

    /// Waits until the group has settled or passed over all there is; what comes meanwhile fails the test.
    pub async fn is_done(&self) {
        let begun = Instant::now();
        loop {
            let got = self.consumer.receive(1, GLANCE).await.expect("the broker answers");
            assert!(got.is_empty(), "{} got {:?}", self.group, got.iter().map(body).collect::<Vec<_>>());
            let group = self.scene.client.group(&self.group).await.expect("the group is there");
            if group.lag == 0 {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "something is left: {:?}", group.cursors);
        }
    }
}

/// The text that a message carries.
pub fn body(message: &ReceivedMessage) -> String {
    String::from_utf8_lossy(&message.body()).into_owned()
}

/// A message of a message group.
pub fn of_group(group: &str, body: &'static str) -> NewMessage {
    NewMessage::new(body).group(group)
}

/// A message with a color, as a property and as its tag.
pub fn colored(color: &str, body: &'static str) -> NewMessage {
    NewMessage::new(body).tag(color).property("color", color)
}

/// The filter that lets one color pass.
pub fn only(color: &str) -> Filter {
    Filter::Sql(format!("color = '{color}'"))
}

/// A group in which none goes before its turn by having waited.
pub fn strict() -> GroupSettings {
    GroupSettings {
        oldest_every: 1,
        ..GroupSettings::default()
    }
}

/// The same, ordered.
pub fn ordered() -> GroupSettings {
    GroupSettings { ordered: true, ..strict() }
}

/// The same settings for a group that gives a message up after so many deliveries and waits for none of them.
pub fn giving_up_after(attempts: u32, settings: GroupSettings) -> GroupSettings {
    GroupSettings {
        attempts_max: attempts,
        backoff: Some(Backoff {
            kind: Some(Kind::FixedMs(0)),
        }),
        ..settings
    }
}

/// The wall clock, milliseconds since 1970.
pub fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
