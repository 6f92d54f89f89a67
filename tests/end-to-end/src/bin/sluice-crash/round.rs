//! One round: what broker it is, what it has to do, and when it is killed; all drawn from the seed and the number of the round.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use sluice_client::Client;
use sluice_client::admin::TopicSettings;
use sluice_end_to_end::chance::Chance;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::audit::Audit;
use crate::broker::{Broker, Place, Program, Storage};
use crate::decide;
use crate::group::{Acks, GROUPS};
use crate::produce::Load;

/// Producers whose messages are asked for.
const PRODUCERS: u64 = 2;
/// The topic that nobody reads and that keeps little, so that retention has something to do.
const KEEPS_LITTLE: &str = "keeps-little";
const KEEPS_LITTLE_BYTES: u64 = 512 << 10;
/// The size of a segment: so small that a round fills some, up to one that is larger than what any round writes.
const SEGMENT_BYTES: [u64; 4] = [1 << 20, 1 << 20, 2 << 20, 64 << 20];
/// What is far off: nearly everything that is delayed, what is delayed for long, or nothing. A start brings back what another left in parts.
const NEAR_MS: [u64; 4] = [100, 100, 1_000, 600_000];
/// In one of so many loads the topic grows.
const GROWS_ONCE_IN: u64 = 3;
/// How long the load lasts before the kill.
const LOAD_MS: (u64, u64) = (10, 400);
/// How long after a start the process is killed without a load: some time before or after it serves.
const START_MICROS: (u64, u64) = (0, 60_000);
/// How long after it was asked to stop a broker is killed: some time before or after it has.
const STOP_MICROS: (u64, u64) = (0, 30_000);

/// When the broker is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// While it starts.
    Starting { after: Duration },
    /// Under load.
    Loaded { after: Duration },
    /// While it stops in good order, with a last checkpoint.
    Stopping { loaded: Duration, after: Duration },
}

/// One round.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) program: Program,
    pub(crate) moment: Moment,
    seed: u64,
}

/// What the rounds since the last check work with.
pub(crate) struct Work {
    pub(crate) topic: String,
    pub(crate) audit: Arc<Mutex<Audit>>,
}

impl Round {
    /// Draws a round.
    pub(crate) fn draw(seed: u64, number: u64, never_sync: bool) -> Self {
        let chance = Chance::new(seed ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let program = program(&chance, never_sync);
        let load = || Duration::from_millis(chance.between(LOAD_MS.0, LOAD_MS.1));
        let micros = |(low, high)| Duration::from_micros(chance.between(low, high));
        let moment = match chance.between(0, 5) {
            0 => Moment::Starting {
                after: micros(START_MICROS),
            },
            1 => Moment::Stopping {
                loaded: load(),
                after: micros(STOP_MICROS),
            },
            _ => Moment::Loaded { after: load() },
        };
        Self {
            number,
            program,
            moment,
            seed: chance.next(),
        }
    }

    /// Starts the broker, lets it work and kills it.
    ///
    /// # Errors
    /// The broker did not start, or failed by itself.
    pub(crate) async fn run(&self, place: &Place, work: &Work) -> Result<()> {
        match self.moment {
            Moment::Starting { after } => {
                let broker = Broker::spawn(place, &self.program)?;
                tokio::time::sleep(after).await;
                broker.kill().map(drop)
            }
            Moment::Loaded { after } => {
                let broker = Broker::start(place, &self.program).await?;
                self.load(&broker, work, after, Broker::signal_kill).await?;
                broker.kill().map(drop)
            }
            Moment::Stopping { loaded, after } => {
                let broker = Broker::start(place, &self.program).await?;
                self.load(&broker, work, loaded, Broker::signal_stop).await?;
                tokio::time::sleep(after).await;
                broker.kill().map(drop)
            }
        }
    }

    /// Producers and groups at work until the load is over; whatever is under way then is nobody's promise.
    async fn load(&self, broker: &Broker, work: &Work, lasting: Duration, end: impl FnOnce(&Broker) -> Result<()>) -> Result<()> {
        let chance = Chance::new(self.seed);
        let (stop, stopped) = watch::channel(false);
        let mut producers = JoinSet::new();
        for number in 0..=PRODUCERS {
            let read = number < PRODUCERS;
            let load = Load {
                topic: if read { work.topic.clone() } else { KEEPS_LITTLE.to_owned() },
                round: self.number,
                producer: number,
                audit: read.then(|| work.audit.clone()),
                chance: Chance::new(chance.next()),
            };
            producers.spawn(load.run(broker.endpoint("crash-producer"), stopped.clone()));
        }
        let mut consumers = JoinSet::new();
        for group in GROUPS {
            let acks = if chance.once_in(2) { Acks::Single } else { Acks::Cumulative };
            let (topic, audit) = (work.topic.clone(), work.audit.clone());
            let (endpoint, chance) = (broker.endpoint("crash-consumer"), Chance::new(chance.next()));
            consumers.spawn(until(stopped.clone(), async move {
                let client = Client::connect(endpoint).await?;
                group.consume(&client, &topic, acks, &audit, &chance).await
            }));
        }
        if chance.once_in(GROWS_ONCE_IN) {
            let after = Duration::from_millis(chance.between(0, LOAD_MS.1 / 2));
            let (topic, audit, endpoint) = (work.topic.clone(), work.audit.clone(), broker.endpoint("crash-operator"));
            consumers.spawn(until(stopped.clone(), async move {
                let client = Client::connect(endpoint).await?;
                tokio::time::sleep(after).await;
                grow(&client, &topic, &audit).await
            }));
        }
        let (audit, endpoint, chance) = (work.audit.clone(), broker.endpoint("crash-decider"), Chance::new(chance.next()));
        consumers.spawn(until(stopped, async move {
            let client = Client::connect(endpoint).await?;
            decide::decide(&client, &audit, &chance).await
        }));
        tokio::time::sleep(lasting).await;
        end(broker)?;
        stop.send_replace(true);
        // A broker that is gone before a producer reached it is no failure.
        producers.join_all().await;
        consumers.join_all().await;
        Ok(())
    }
}

/// Gives the topic one more queue.
async fn grow(client: &Client, topic: &str, audit: &Mutex<Audit>) -> Result<()> {
    let queues = client.topic(topic).await?.queues.len() + 1;
    client.grow_topic(topic, u16::try_from(queues)?).await?;
    audit.lock().expect("no task panics with the audit").grown(queues);
    Ok(())
}

/// Works until it is stopped or the broker is gone.
async fn until(mut stopped: watch::Receiver<bool>, working: impl Future<Output = Result<()>>) {
    tokio::select! {
        _ = stopped.changed() => {}
        _ = working => {}
    }
}

/// A broker with either storage; the one that never syncs is caught only where a kill loses what was not synced.
pub(crate) fn program(chance: &Chance, never_sync: bool) -> Program {
    let storage = match never_sync || chance.once_in(2) {
        true => Storage::Holding {
            seed: chance.next(),
            never_sync,
        },
        false => Storage::Files,
    };
    Program {
        storage,
        segment_bytes: SEGMENT_BYTES[chance.between(0, SEGMENT_BYTES.len() as u64 - 1) as usize],
        near_ms: NEAR_MS[chance.between(0, NEAR_MS.len() as u64 - 1) as usize],
    }
}

/// Makes the topic that nobody reads.
///
/// # Errors
/// The broker refused.
pub(crate) async fn make_keeps_little(client: &Client) -> Result<()> {
    let settings = TopicSettings {
        queues: 4,
        retention_ms: 0,
        retention_bytes: KEEPS_LITTLE_BYTES,
        ..TopicSettings::default()
    };
    Ok(client.create_topic(KEEPS_LITTLE, Some(settings)).await?)
}
