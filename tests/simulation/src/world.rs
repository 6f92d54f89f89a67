//! One run: a broker, its disk, its network and its users, each step drawn from the seed.

use std::collections::BTreeMap;

use sluice_core::input::{ConnectionId, Input, RequestId, SubscriptionId};
use sluice_log::FaultyStorage;
use sluice_log::record::GroupSettings;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::QueueOffset;

use crate::backup::Taking;
use crate::clients::{Client, Surroundings, Wish};
use crate::clock::Clock;
use crate::failing::Mood;
use crate::history::History;
use crate::laws::{Law, Tally, Violation};
use crate::network::{Event, Network};
use crate::oracle::Oracle;
use crate::random::Random;
use crate::scenario::{Asks, Far, Scenario};
use crate::shell::Shell;

/// Steps of a run in which anything may go wrong.
const STEPS_OF_CHAOS: u64 = 2_500;

/// Everything there is in one run.
pub struct World {
    pub(crate) random: Random,
    pub(crate) clock: Clock,
    pub(crate) history: History,
    pub(crate) oracle: Oracle,
    pub(crate) network: Network,
    pub(crate) clients: Vec<Client>,
    pub(crate) wishes: Vec<Wish>,
    pub(crate) storage: FaultyStorage,
    pub(crate) shell: Option<Shell>,
    /// Who is to hear the answer to a request.
    pub(crate) routes: BTreeMap<RequestId, Route>,
    /// Who reads a stream.
    pub(crate) streams: BTreeMap<SubscriptionId, Route>,
    /// How the plugin does.
    pub(crate) mood: Mood,
    /// How many messages must be judged with one that the plugin failed on.
    pub(crate) culprit_quorum: u64,
    /// After so long a member of a broadcast group is forgotten that is absent.
    pub(crate) member_absent_ms: u64,
    /// The settings of groups that nobody created.
    pub(crate) group: GroupSettings,
    /// When producers are asked about prepared messages.
    pub(crate) asks: Asks,
    /// What is far off, and how it is kept.
    pub(crate) far: Far,
    /// No fault happens any more.
    pub(crate) healed: bool,
    /// A frame counts as durable when it is written: the shell syncs later, and a crash may lose what was confirmed.
    pub(crate) lazy: bool,
    /// The broker refused to start on damage, as it must: nothing further happens.
    pub(crate) refused: bool,
    /// What the windows of producers may take.
    pub(crate) producer_memory_bytes: u64,
    pub(crate) given_ids_memory_bytes: u64,
    /// Everything came to its end.
    pub(crate) finished: bool,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) segment_bytes: u64,
    /// When a broker that is down starts again.
    pub(crate) up_at_ms: u64,
    /// What is drawn for backups, apart from all else: nothing but what they are for comes of them.
    pub(crate) backups: Random,
    /// The backup that is being taken.
    pub(crate) taking: Option<Taking>,
}

/// A client and one of its connections.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// The client.
    pub client: usize,
    /// The connection.
    pub connection: ConnectionId,
    /// The stream on which the answer comes, unless the request has one of its own.
    pub stream: Option<SubscriptionId>,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The hash of everything that happened.
    pub hash: u64,
    /// How much happened.
    pub events: u64,
    /// How often each law was put to the test.
    pub tally: Tally,
    /// The first law that was broken.
    pub violation: Option<Violation>,
}

impl World {
    /// The beginning of the run that belongs to `seed`.
    pub fn new(seed: u64, verbose: bool) -> Self {
        let mut random = Random::new(seed);
        let Scenario {
            wishes,
            clients,
            checkpoint_bytes,
            segment_bytes,
            lazy,
            producer_memory_bytes,
            given_ids_memory_bytes,
            culprit_quorum,
            member_absent_ms,
            group,
            asks,
            far,
        } = Scenario::draw(&mut random);
        let losses_per_mille = if random.chance(1, 3) { 0 } else { random.below(60) };
        Self {
            storage: FaultyStorage::new(random.bits()),
            random,
            clock: Clock::default(),
            history: History::new(verbose),
            oracle: Oracle::new(lazy, culprit_quorum, asks, member_absent_ms),
            network: Network::losing(losses_per_mille),
            clients,
            wishes,
            shell: None,
            routes: BTreeMap::new(),
            streams: BTreeMap::new(),
            mood: Mood::Well,
            culprit_quorum,
            member_absent_ms,
            group,
            asks,
            far,
            healed: false,
            lazy,
            refused: false,
            producer_memory_bytes,
            given_ids_memory_bytes,
            finished: false,
            checkpoint_bytes,
            segment_bytes,
            up_at_ms: 0,
            backups: Random::new(!seed),
            taking: None,
        }
    }

    /// Runs to the end, or to the first broken law.
    pub fn run(mut self) -> Outcome {
        for _ in 0..STEPS_OF_CHAOS {
            if self.is_over() {
                break;
            }
            self.trouble();
            self.back_up();
            self.step();
        }
        self.finish();
        self.outcome()
    }

    /// What came of it so far.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            hash: self.history.hash(),
            events: self.history.events(),
            tally: self.oracle.court.tally().clone(),
            violation: self.oracle.court.violation().cloned(),
        }
    }

    /// Whether a law is broken, so that nothing further counts.
    pub(crate) fn is_over(&self) -> bool {
        self.refused || self.oracle.court.violation().is_some()
    }

    /// One thing happens, and a little time passes.
    pub(crate) fn step(&mut self) {
        if self.is_over() {
            return;
        }
        if self.shell.is_none() {
            if self.clock.true_ms < self.up_at_ms {
                self.clock.advance(self.up_at_ms - self.clock.true_ms);
            }
            self.start();
            return;
        }
        if self.random.chance(2, 5) {
            let passed = self.random.below(4);
            self.clock.advance(passed);
        }
        if self.tick_is_due() && self.random.chance(1, 2) {
            self.turn(vec![Input::Tick]);
            return;
        }
        match self.random.below(10) {
            0..=2 => self.arrivals(),
            3..=4 => self.returns(),
            5..=6 => self.act(),
            7 => self.disk(),
            _ => self.job(),
        }
    }

    /// Something may go wrong.
    fn trouble(&mut self) {
        match self.random.below(6_000) {
            0..8 => self.crash(),
            // Only where several frames are lost at once can a stale one come to lie where the log ends.
            5_900.. if self.lazy => self.crash(),
            8..11 => self.storage.fail_next_sync(),
            11..13 => self.storage.fail_next_write(),
            13..20 => {
                let bytes = self.random.below(3_000);
                // A file system that writes in place keeps what was allocated; one that copies does not.
                match self.random.chance(1, 2) {
                    true => self.storage.full_after(Some(bytes)),
                    false => self.storage.limit(Some(bytes)),
                }
            }
            20..60 => self.drop_connection(),
            60..90 => {
                self.clock.jump(&mut self.random);
                self.oracle.court.exercise(Law::WallJumped);
            }
            90..114 => self.trim(),
            114..122 => self.trim_all(),
            122..130 => self.retain(),
            130..330 => {
                let passed = self.random.below(300);
                self.clock.advance(passed);
            }
            330..350 => {
                let passed = self.random.below(10_000);
                self.clock.advance(passed);
            }
            350..450 => self.storage.full_after(None),
            450..490 => self.storage.limit(None),
            490..496 => self.break_plugin(),
            496..520 => self.mend_plugin(),
            _ => {}
        }
    }

    /// A few packets reach the broker and make one turn.
    fn arrivals(&mut self) {
        let mut inputs = Vec::new();
        for _ in 0..self.random.within(1..5) {
            let Some(packet) = self.network.arrive(&mut self.random) else {
                break;
            };
            self.route(
                &packet.body,
                Route {
                    client: packet.client,
                    connection: packet.connection,
                    stream: None,
                },
            );
            match packet.body {
                Input::Publish { request, .. } if !self.has_room() => {
                    let answer = Err(Refusal::plain(ErrorCode::StorageFull));
                    self.answer(request, Event::Answered { request, answer });
                }
                input => inputs.push(input),
            }
        }
        if !inputs.is_empty() {
            self.turn(inputs);
        }
    }

    /// Whether what may be refused is let in, as admission decides it.
    pub(crate) fn has_room(&self) -> bool {
        self.shell.as_ref().is_some_and(|shell| shell.writer.has_reserve())
    }

    fn route(&mut self, input: &Input, route: Route) {
        match input {
            Input::Subscribe { request, subscription, .. } => {
                self.routes.insert(
                    *request,
                    Route {
                        stream: Some(*subscription),
                        ..route
                    },
                );
                self.streams.insert(*subscription, route);
            }
            Input::SettleStream { request, subscription, .. } | Input::Unsubscribe { request, subscription } => {
                self.routes.insert(
                    *request,
                    Route {
                        stream: Some(*subscription),
                        ..route
                    },
                );
            }
            Input::Publish { request, .. }
            | Input::Receive { request, .. }
            | Input::SettleHandles { request, .. }
            | Input::Recall { request, .. }
            | Input::Decide { request, .. }
            | Input::Admin { request, .. } => {
                self.routes.insert(*request, route);
            }
            Input::Credit { .. }
            | Input::Undelivered { .. }
            | Input::Cancelled { .. }
            | Input::Disconnected { .. }
            | Input::Synced { .. }
            | Input::Verdicts { .. }
            | Input::Fetched { .. }
            | Input::DueFetched { .. }
            | Input::Part(_)
            | Input::Located { .. }
            | Input::Asked { .. }
            | Input::NotAsked { .. }
            | Input::Checkpointed
            | Input::Trim { .. }
            | Input::FetchFailed { .. }
            | Input::Tick => {}
        }
    }

    /// A packet reaches a client.
    fn returns(&mut self) {
        let Some(packet) = self.network.return_to_client(&mut self.random) else {
            return;
        };
        let mut around = Surroundings {
            random: &mut self.random,
            network: &mut self.network,
            now_ms: self.clock.true_ms,
            wall_ms: self.clock.wall_ms(),
            wishes: &mut self.wishes,
            healed: self.healed,
            held: None,
            letters: None,
            given_up: None,
        };
        self.clients[packet.client].hear(packet.body, &mut around);
    }

    /// A client does something.
    fn act(&mut self) {
        let client = self.random.index(self.clients.len());
        let (held, letters, given_up) = match &self.clients[client] {
            Client::Operator(_) => {
                let (book, random) = (&self.oracle.book, &mut self.random);
                let given_up = self.oracle.deciding.some_given_up(book, random);
                (book.some_held(random), book.some_letters(random), given_up)
            }
            Client::Producer(_) | Client::Stream(_) | Client::Receiver(_) => (None, None, None),
        };
        let mut around = Surroundings {
            random: &mut self.random,
            network: &mut self.network,
            now_ms: self.clock.true_ms,
            wall_ms: self.clock.wall_ms(),
            wishes: &mut self.wishes,
            healed: self.healed,
            held,
            letters,
            given_up,
        };
        self.clients[client].act(&mut around);
    }

    fn drop_connection(&mut self) {
        let client = self.random.index(self.clients.len());
        if let Some(connection) = self.clients[client].disconnect() {
            self.history.note("connection lost", &connection);
            self.network.disconnect(client, connection);
        }
    }

    /// Retention gives up a part of a queue.
    fn trim(&mut self) {
        let queues: Vec<_> = self.oracle.book.queues.iter().filter(|(_, queue)| !queue.rows.is_empty()).collect();
        if queues.is_empty() || self.shell.is_none() {
            return;
        }
        let (queue, model) = queues[self.random.index(queues.len())];
        let (queue, end) = (*queue, model.rows.len() as u64);
        let start = QueueOffset(self.random.below(end / 3 + 1));
        self.turn(vec![Input::Trim { queue, start }]);
    }

    /// Retention gives up most of every queue, so that whole segments may go.
    fn trim_all(&mut self) {
        let ends = self
            .oracle
            .book
            .queues
            .iter()
            .map(|(queue, model)| (*queue, model.rows.len() as u64));
        let ends: Vec<_> = ends.filter(|(_, end)| *end > 0).collect();
        let most = ends.into_iter().map(|(queue, end)| Input::Trim {
            queue,
            start: QueueOffset(end - end / 8),
        });
        let trims: Vec<Input> = most.collect();
        if self.shell.is_some() && !trims.is_empty() {
            self.turn(trims);
            self.retain();
        }
    }
}
