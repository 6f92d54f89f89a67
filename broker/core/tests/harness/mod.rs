//! A core stepped by hand: its writes are kept, and synced when the test says so.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use bytes::Bytes;
use sluice_core::effect::{Answer, Delivery, Effect, Taker};
use sluice_core::input::{Action, Admin, ConnectionId, Consume, Input, NamedBy, Numbers, RequestId, SubscriptionId};
use sluice_core::{Core, CoreConfig};
use sluice_log::record::{Change, Filter, OnExpired, OnFailure, PluginLimits, Record, TopicSettings};
use sluice_log::{frame_bytes, record_positions};
use sluice_protocol::batch::{Batch, BatchBuilder, NewMessage};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{Digest, Epoch, Pass, Position, ProducerId, QueueIndex, Sequence};
use sluice_protocol::units::Now;

/// Where the first frame of a log begins here.
const LOG_START: u64 = 4_096;

pub struct Harness {
    pub core: Core,
    pub now: Now,
    pub config: CoreConfig,
    /// What was synced: the records in order with their positions.
    pub durable: Vec<(Position, Record)>,
    pub unsynced: Vec<(Position, Vec<Bytes>)>,
    pub effects: Vec<Effect>,
    epoch: Epoch,
    next_request: u64,
}

impl Harness {
    pub fn new() -> Self {
        let topic = TopicSettings {
            queues: 1,
            retention_ms: 0,
            retention_bytes: 0,
            ttl_ms: 0,
            on_expired: OnExpired::Skip,
        };
        Self::with(CoreConfig {
            topic,
            ..CoreConfig::default()
        })
    }

    pub fn with(config: CoreConfig) -> Self {
        let mut harness = Self {
            core: Core::new(config.clone(), [1; 16]),
            now: Now {
                wall_ms: 1_000_000,
                mono_ms: 1_000,
            },
            config,
            durable: Vec::new(),
            unsynced: Vec::new(),
            effects: Vec::new(),
            epoch: Epoch(0),
            next_request: 0,
        };
        harness.crash();
        harness
    }

    /// Another that starts from the same records.
    pub fn forked(&self) -> Self {
        let mut forked = Self::with(self.config.clone());
        forked.now = self.now;
        forked.durable.clone_from(&self.durable);
        forked.epoch = self.epoch;
        forked.crash();
        forked
    }

    /// Loses what is not synced and starts again from the records alone.
    pub fn crash(&mut self) {
        self.unsynced.clear();
        self.effects.clear();
        self.epoch.0 += 1;
        let mut core = Core::new(self.config.clone(), [1; 16]);
        let end = self.end();
        let opening = Record {
            at: self.now,
            change: Change::Opened { epoch: self.epoch },
        };
        let bytes = opening.encode();
        let position = record_positions(end, [bytes.len()]).next().expect("one record");
        self.durable.push((position, opening));
        for (position, record) in &self.durable {
            core.replay(*position, record);
        }
        core.start(self.epoch, Position(end.0 + frame_bytes([bytes.len()])), self.now);
        self.core = core;
        self.end_turn();
    }

    /// The end of the last durable frame.
    fn end(&self) -> Position {
        let last = self
            .durable
            .last()
            .map(|(position, record)| position.0 + record.encode().len() as u64);
        Position(last.map_or(LOG_START, |end| end.next_multiple_of(8)))
    }

    pub fn input(&mut self, input: Input) {
        self.core.handle(self.now, input);
        self.end_turn();
    }

    pub fn end_turn(&mut self) {
        self.core.end_turn(self.now);
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Write { position, records } => self.unsynced.push((position, records)),
                effect => self.effects.push(effect),
            }
        }
        assert!(self.unsynced.len() <= 1, "one write at a time");
    }

    /// Syncs until nothing is left to be written.
    pub fn sync(&mut self) {
        while let Some((position, records)) = self.unsynced.pop() {
            let lengths: Vec<usize> = records.iter().map(Bytes::len).collect();
            for (at, bytes) in record_positions(position, lengths.iter().copied()).zip(&records) {
                self.durable.push((at, Record::decode(bytes).expect("a record")));
            }
            self.input(Input::Synced {
                end: Position(position.0 + frame_bytes(lengths)),
            });
        }
    }

    pub fn wait(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms as i64;
        self.input(Input::Tick);
    }

    pub fn request(&mut self) -> RequestId {
        self.next_request += 1;
        RequestId(self.next_request)
    }

    /// The answer to a request, if it came.
    pub fn answer(&mut self, request: RequestId) -> Option<Result<Answer, Refusal>> {
        let place = self
            .effects
            .iter()
            .position(|effect| matches!(effect, Effect::Answer { request: other, .. } if *other == request))?;
        match self.effects.remove(place) {
            Effect::Answer { answer, .. } => Some(answer),
            _ => None,
        }
    }

    /// Makes all durable, and says what was released so far, by its bodies.
    pub fn released(&mut self) -> Vec<String> {
        self.sync();
        let batches = self.durable.iter().filter_map(|(_, record)| match &record.change {
            Change::Released { batch, .. } => Some(Batch::parse(batch.clone()).expect("a batch")),
            _ => None,
        });
        let bodies = batches.flat_map(|batch| batch.rows().map(|row| batch.body(&row)).collect::<Vec<_>>());
        bodies.map(|body| String::from_utf8(body.to_vec()).expect("a text")).collect()
    }

    /// The refusal that a request got, or its only batch.
    pub fn refusal(&mut self, request: RequestId) -> ErrorCode {
        match self.answer(request).expect("an answer") {
            Ok(Answer::Stored { runs, refused }) if runs.is_empty() && refused.len() == 1 => refused[0].1.code,
            other => other.expect_err("a refusal").code,
        }
    }

    /// Publishes `count` messages from a sequence on; not synced.
    pub fn publish(&mut self, producer: u128, first: u64, count: u64) -> RequestId {
        let request = self.request();
        self.input(Input::Publish {
            request,
            topic: "t".into(),
            batches: vec![parsed(producer, first, count)],
        });
        request
    }

    pub fn consume(&self, member: &str, filter: Filter) -> Consume {
        Consume {
            group: "g".to_owned(),
            topic: "t".to_owned(),
            member: member.to_owned(),
            named_by: NamedBy::Client,
            filter,
            start: None,
        }
    }

    /// Ten messages stored and a stream with this much credit.
    pub fn streaming(credit: u32) -> Self {
        let mut harness = Self::new();
        harness.publish(1, 0, 10);
        harness.sync();
        harness.stream(1, Filter::All, credit);
        harness.sync();
        harness
    }

    /// Serves the plugin `p` by this version, durably.
    pub fn bind(&mut self, version: u8, on_failure: OnFailure) {
        let limits = PluginLimits {
            fuel_per_run: 1,
            fuel_per_message: 1,
            run_ms: 1,
            memory_bytes: 1,
        };
        self.admin(Admin::BindPlugin {
            name: "p".to_owned(),
            digest: Digest([version; 32]),
            limits,
            on_failure,
        });
        self.sync();
    }

    /// Opens a stream on the connection of the same number, with credit.
    pub fn stream(&mut self, subscription: u64, filter: Filter, credit: u32) -> RequestId {
        let request = self.request();
        let ask = self.consume(&format!("member-{subscription}"), filter);
        let (subscription, connection) = (SubscriptionId(subscription), ConnectionId(subscription));
        self.input(Input::Subscribe {
            request,
            subscription,
            connection,
            ask,
            invisible_ms: 0,
        });
        self.input(Input::Credit {
            subscription,
            messages: credit,
        });
        request
    }

    pub fn receive(&mut self, max: u16, wait_ms: u32) -> RequestId {
        let request = self.request();
        let ask = self.consume("receiver", Filter::All);
        self.input(Input::Receive {
            request,
            connection: ConnectionId(99),
            ask,
            max,
            wait_ms,
            invisible_ms: 10_000,
        });
        request
    }

    pub fn settle(&mut self, subscription: u64, pass: u32, which: Numbers, action: Action) -> RequestId {
        let request = self.request();
        let (subscription, queue) = (SubscriptionId(subscription), QueueIndex(0));
        self.input(Input::SettleStream {
            request,
            subscription,
            queue,
            pass: Pass(pass),
            which,
            action,
        });
        request
    }

    pub fn settle_handles(&mut self, handles: Vec<Bytes>, action: Action) -> RequestId {
        let request = self.request();
        self.input(Input::SettleHandles { request, handles, action });
        request
    }

    pub fn admin(&mut self, admin: Admin) -> RequestId {
        let request = self.request();
        self.input(Input::Admin { request, admin });
        request
    }

    /// The deliveries that came since.
    pub fn deliveries(&mut self) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        self.effects.retain(|effect| match effect {
            Effect::Deliver(delivery) => {
                deliveries.push(delivery.clone());
                false
            }
            _ => true,
        });
        deliveries
    }

    /// Offset and attempt of every message delivered since.
    pub fn delivered(&mut self) -> Vec<(u64, u16)> {
        self.deliveries().iter().flat_map(messages).collect()
    }

    /// The handles of the one receive that was answered since.
    pub fn handles(&mut self) -> Vec<Bytes> {
        let deliveries = self.deliveries();
        assert_eq!(deliveries.len(), 1, "one delivery");
        match &deliveries[0].taker {
            Taker::Receive { handles, .. } => handles.clone(),
            Taker::Stream { .. } => panic!("a stream"),
        }
    }

    pub fn settled(&mut self, request: RequestId) -> Vec<Result<(), ErrorCode>> {
        match self.answer(request) {
            Some(Ok(Answer::Settled { results })) => results.into_iter().map(|result| result.map_err(|refusal| refusal.code)).collect(),
            other => panic!("not settled: {other:?}"),
        }
    }
}

pub fn messages(delivery: &Delivery) -> Vec<(u64, u16)> {
    delivery
        .leases
        .iter()
        .flat_map(|lease| (lease.offsets.first.0..lease.offsets.end.0).map(|offset| (offset, lease.attempt.0)))
        .collect()
}

pub fn parsed(producer: u128, first: u64, count: u64) -> Batch {
    Batch::parse(batch(producer, first, count)).expect("a batch")
}

pub fn batch(producer: u128, first: u64, count: u64) -> Bytes {
    let mut builder = BatchBuilder::new(1_000_000, ProducerId(producer), Sequence(first));
    for nth in 0..count {
        let message = NewMessage::<&str> {
            tag: Some("tag"),
            keys: &[],
            properties: &[],
            born_ms: 1_000_000,
            ..NewMessage::default()
        };
        builder
            .push(&message, format!("body {}", first + nth).as_bytes())
            .expect("a message");
    }
    builder.finish()
}
