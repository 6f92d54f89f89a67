//! What is published: messages of the kinds that meet, what of it a group must get, and what must stay where it is.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_client::{Filter, NewMessage, Reading, Transaction};
use sluice_end_to_end::chance::Chance;
use sluice_end_to_end::scene::{Scene, TOPIC};

use super::reading::Group;
use super::{Kind, Triple};

/// How many messages are published.
const MESSAGES: u64 = 40;
/// How many were published before and are gone, where retention is among the kinds.
const OLD: u64 = 6;

/// A message as it is told apart and as the oracle sees it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// What its body says.
    pub(super) body: String,
    /// Its priority.
    pub(super) priority: u8,
    /// Its message group.
    pub(super) group: Option<String>,
    /// Whether the filter lets it pass.
    pub(super) passes: bool,
    /// Whether its consumer gives it back each time in the first pass.
    pub(super) broken: bool,
}

/// What was published.
pub(super) struct Load {
    /// What the queue holds, by offset: neither what waits nor what was rolled back.
    pub(super) stored: BTreeMap<u64, Told>,
    /// Where the queue begins.
    start: u64,
    /// Prepared before anything else and never decided; kept to the end.
    _undecided: Option<Transaction>,
}

impl Load {
    /// Publishes, decides, and waits until all that is due is in the queue.
    pub(super) async fn publish(triple: Triple, scene: &Scene, chance: &Chance, group: &Group<'_>) -> Self {
        let undecided = match triple.has(Kind::Transaction) {
            true => Some(scene.prepare(NewMessage::new("undecided").priority(9).group("a")).await),
            false => None,
        };
        if triple.has(Kind::Delay) {
            let hour = Duration::from_secs(3_600);
            scene
                .send(NewMessage::new("waits").priority(9).group("a").deliver_after(hour))
                .await;
        }
        let mut stored = 0;
        if triple.has(Kind::Retention) {
            stored = OLD;
            for number in 0..OLD {
                scene.send(message(&told(triple, chance, &format!("old {number}")))).await;
            }
            group.hold_one().await;
            scene.forget().await;
        }
        let start = stored;
        let (mut published, mut prepared) = (BTreeMap::new(), Vec::new());
        for number in 0..MESSAGES {
            let told = told(triple, chance, &number.to_string());
            let mut message = message(&told);
            if triple.has(Kind::Delay) && chance.once_in(2) {
                message = message.deliver_after(Duration::from_millis(chance.between(1, 120)));
            }
            if triple.has(Kind::Transaction) && chance.once_in(2) {
                prepared.push((scene.prepare(message).await, told));
            } else {
                scene.send(message).await;
                published.insert(told.body.clone(), told);
            }
        }
        while !prepared.is_empty() {
            let (transaction, told) = prepared.remove(chance.between(0, prepared.len() as u64 - 1) as usize);
            if chance.once_in(3) {
                transaction.roll_back().await.expect("it is decided");
            } else {
                transaction.commit().await.expect("it is decided");
                published.insert(told.body.clone(), told);
            }
        }
        scene.stored(stored + published.len() as u64).await;
        Self {
            stored: placed(scene, published).await,
            start,
            _undecided: undecided,
        }
    }

    /// What the group must get, by offset.
    pub(super) fn wanted(&self) -> BTreeMap<u64, Told> {
        let passing = self.stored.iter().filter(|(_, told)| told.passes);
        passing.map(|(&offset, told)| (offset, told.clone())).collect()
    }

    /// Checks what stays where it is: what waits, what is undecided, and where the queue begins.
    pub(super) async fn is_kept(&self, triple: Triple, scene: &Scene) {
        let topic = scene.topic().await;
        assert_eq!(topic.delayed, u64::from(triple.has(Kind::Delay)), "what waits for its time");
        assert_eq!(
            topic.undecided,
            u64::from(triple.has(Kind::Transaction)),
            "what waits for a decision"
        );
        assert_eq!(topic.queues[0].start, self.start, "where the queue begins");
    }
}

/// A message of the kinds that meet; of the others it has nothing.
fn told(triple: Triple, chance: &Chance, body: &str) -> Told {
    let groups = ["a", "b", "c"].map(str::to_owned);
    Told {
        body: body.to_owned(),
        priority: if triple.has(Kind::Priority) {
            chance.between(0, 3) as u8 * 3
        } else {
            0
        },
        group: groups
            .into_iter()
            .nth(chance.between(0, 3) as usize)
            .filter(|_| triple.has(Kind::Ordered)),
        passes: !triple.has(Kind::Filter) || !chance.once_in(3),
        broken: triple.has(Kind::DeadLetter) && chance.once_in(5),
    }
}

fn message(told: &Told) -> NewMessage {
    let color = if told.passes { "red" } else { "blue" };
    let message = NewMessage {
        group: told.group.clone(),
        ..NewMessage::new(told.body.clone())
    };
    message.priority(told.priority).tag(color).property("color", color)
}

/// Where the messages are in the queue, as it is read without a group: just these, each once.
async fn placed(scene: &Scene, mut published: BTreeMap<String, Told>) -> BTreeMap<u64, Told> {
    let mut stored = BTreeMap::new();
    let mut pages = scene.client.read(&Reading {
        filter: Filter::All,
        ..Reading::of(TOPIC)
    });
    while let Some(page) = pages.next(100).await.expect("the topic is read") {
        for message in page.messages {
            let body = String::from_utf8_lossy(&message.body()).into_owned();
            let told = published
                .remove(&body)
                .unwrap_or_else(|| panic!("{body:?} is stored and should not be, or twice"));
            stored.insert(message.offset(), told);
        }
    }
    assert!(published.is_empty(), "not stored: {published:?}");
    stored
}
