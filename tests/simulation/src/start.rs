//! Between two lives of the broker: the crash, damage to what was confirmed, and a start that may itself be cut short.

use std::collections::BTreeMap;
use std::sync::Arc;

use sluice_core::{Core, CoreConfig};
use sluice_log::record::{PartFacts, PartId, Record};
use sluice_log::{FRAME_HEADER_BYTES, FaultyStorage, Log, LogConfig, LogError, Recovery, Start, Storage};

use sluice_log::record::OnFailure;

use crate::clients::{Client, bind};
use crate::disk::is_simulated;
use crate::laws::Law;
use crate::shell::Shell;
use crate::world::World;

impl World {
    /// The machine stops, at once.
    pub(crate) fn crash(&mut self) {
        let Some(shell) = self.shell.take() else { return };
        self.oracle.durable = shell.writer.synced().0;
        self.taking = None;
        drop(shell);
        self.storage.crash();
        self.storage.full_after(None);
        if self.oracle.crashed() {
            self.oracle.court.exercise(Law::CrashWithUnsynced);
        }
        self.history.note("crash", &());
        self.network.broker_gone();
        self.routes.clear();
        self.streams.clear();
        for client in &mut self.clients {
            client.disconnect();
            // A binding that was confirmed may be lost here, and without it nobody could go on.
            if let (true, Client::Operator(operator)) = (self.lazy, client) {
                operator.first.push_front(bind(1, OnFailure::DeadLetter));
            }
        }
        self.up_at_ms = self.clock.true_ms + self.random.below(3_000);
        if !self.lazy && self.random.chance(1, 25) {
            self.damage();
        }
        if !self.lazy && self.random.chance(1, 4) {
            self.lose_sidecar();
        }
    }

    /// A sidecar is removed, as an operator does with a damaged one: a start makes it again, though it may be cut short meanwhile.
    fn lose_sidecar(&mut self) {
        let mut names: Vec<String> = self
            .storage
            .list()
            .unwrap_or_default()
            .into_iter()
            .map(|entry| entry.name)
            .collect();
        names.retain(|name| name.starts_with("index-"));
        if names.is_empty() || self.refused {
            return;
        }
        let lost = &names[self.random.index(names.len())];
        let removed = self.storage.remove(lost).and_then(|()| self.storage.sync_directory());
        removed.expect("the simulated disk fails only when it was told to");
        self.oracle.court.exercise(Law::SidecarLost);
        match self.random.below(4) {
            0 => self.storage.fail_next_sync(),
            1 => self.storage.fail_next_write(),
            _ => {}
        }
    }

    /// Damages one bit of a synced frame behind which a later one was synced: the broker must refuse to start on it.
    fn damage(&mut self) {
        // A crash may have left a newer checkpoint than the writer knew of, and what lies before it is not read.
        let Ok(undamaged) = self.open(self.storage.copy(0)) else { return };
        let replay_from = undamaged.writer.replay_from().0;
        let Some(position) = self.oracle.provable_frame(replay_from, &mut self.random) else {
            return;
        };
        for entry in self.storage.list().unwrap_or_default() {
            let Some(bytes) = self.storage.contents(&entry.name).filter(|_| entry.name.starts_with("segment-")) else {
                continue;
            };
            let number = |at: usize| {
                bytes
                    .get(at..at + 8)
                    .map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap_or_default()))
            };
            let is_frame = |at: usize| bytes[at..].starts_with(b"SLF1") && number(at + 16) == Some(position);
            let Some(at) = (64..bytes.len()).step_by(8).find(|at| is_frame(*at)).filter(|_| bytes[0] != 0) else {
                continue;
            };
            let payload = number(at + 36).unwrap_or(0) & u64::from(u32::MAX);
            let place = at as u64 + self.random.below(FRAME_HEADER_BYTES + payload);
            self.storage.flip(&entry.name, place, 1 << self.random.below(8));
            let opened = self.open(self.storage.clone());
            self.history.note("damaged", &(position, place));
            let refused = matches!(opened, Err(LogError::Damaged { .. }));
            self.oracle.court.demand(Law::DamageIsRefused, refused, || {
                format!(
                    "byte {place} of {} was damaged: {:?}",
                    entry.name,
                    opened.err().map(|error| error.to_string())
                )
            });
            self.refused = true;
            return;
        }
    }

    fn open(&mut self, storage: FaultyStorage) -> Result<sluice_log::Opened, LogError> {
        let mut random = [0; 24];
        random.iter_mut().for_each(|byte| *byte = self.random.bits() as u8);
        self.open_with(storage, random)
    }

    /// Opens the log of a disk with these random bytes.
    pub(crate) fn open_with(&self, storage: FaultyStorage, random: [u8; 24]) -> Result<sluice_log::Opened, LogError> {
        let config = LogConfig {
            segment_bytes: self.segment_bytes,
            // Zeros ahead would hide the stale frames of which a lazy log has many.
            fill_ahead_bytes: if self.lazy { 64 } else { 4 << 10 },
            ..LogConfig::default()
        };
        let start = Start {
            wall_ms: self.clock.wall_ms(),
            random,
        };
        Log::open(Arc::new(storage), config, start)
    }

    /// The broker starts on what the disk kept, unless the start is cut short by another crash.
    pub(crate) fn start(&mut self) {
        match self.random.below(40) {
            0 if !self.healed => self.storage.fail_next_sync(),
            1 if !self.healed => self.storage.fail_next_write(),
            2 if !self.healed => self.storage.full_after(Some(self.random.below(200))),
            _ => {}
        }
        let opened = match self.open(self.storage.clone()) {
            Ok(opened) => opened,
            Err(error) if is_simulated(&error) || error.is_full() => {
                self.oracle.court.exercise(Law::StartCutShort);
                self.history.note("start failed", &error.to_string());
                self.storage.crash();
                self.storage.full_after(None);
                self.storage.limit(None);
                return;
            }
            Err(error) => return self.refused_to_start(&error.to_string()),
        };
        self.storage.full_after(None);
        let (mut writer, reader) = (opened.writer, opened.reader);
        let Some(core) = self.recover(opened.recovery) else { return };
        let named: BTreeMap<PartId, PartFacts> = core.state().parts.iter().map(|(part, of)| (part, of.facts)).collect();
        if !named.is_empty() {
            self.oracle.court.exercise(Law::PartsOverCrash);
        }
        if let Err(error) = writer.keep_parts(&named) {
            return self.refused_to_start(&error.to_string());
        }
        self.shell = Some(Shell {
            core,
            writer,
            reader,
            disk: std::collections::VecDeque::new(),
            jobs: Vec::new(),
            delivered: Vec::new(),
            checkpoint_given_up: false,
        });
        self.turn(Vec::new());
    }

    /// What the core is told of its bounds.
    pub(crate) fn core_config(&self) -> CoreConfig {
        CoreConfig {
            checkpoint_bytes: self.checkpoint_bytes,
            producer_memory_bytes: self.producer_memory_bytes,
            given_ids_memory_bytes: self.given_ids_memory_bytes,
            culprit_quorum: self.culprit_quorum,
            member_absent_ms: self.member_absent_ms,
            group: self.group.clone(),
            ask_first_ms: self.asks.first_ms,
            ask_interval_ms: self.asks.interval_ms,
            asks_max: self.asks.max,
            near_ms: self.far.near_ms,
            part_messages: self.far.part_messages,
            merged_parts: self.far.merged_parts,
            ..CoreConfig::default()
        }
    }

    /// A core as the log tells it; `None` when the log does not.
    fn recover(&mut self, recovery: Recovery) -> Option<Core> {
        let mut core = Core::new(self.core_config(), recovery.secret);
        if !recovery.checkpoint_entries.is_empty() {
            self.oracle.court.exercise(Law::RecoveredFromCheckpoint);
        }
        for entry in &recovery.checkpoint_entries {
            if let Err(error) = core.restore(entry) {
                self.broken(&format!("a checkpoint entry cannot be restored: {error}"));
                return None;
            }
        }
        let mut replayed: Vec<Record> = Vec::new();
        let mut opened_at = 0;
        let mut openings: Vec<(u64, Record)> = Vec::new();
        for step in recovery.replay {
            let (position, record) = match step {
                Ok(step) => step,
                Err(error) => {
                    self.broken(&format!("replay: {error}"));
                    return None;
                }
            };
            core.replay(position, &record);
            let frame = position.0.saturating_sub(FRAME_HEADER_BYTES);
            if matches!(record.change, sluice_log::record::Change::Opened { .. }) && position < recovery.next_position {
                openings.push((frame, record.clone()));
            }
            opened_at = frame;
            replayed.push(record);
        }
        self.clock.restart(recovery.opened_at.mono_ms);
        core.start(recovery.epoch, recovery.next_position, self.clock.now());
        openings.pop();
        openings
            .iter()
            .for_each(|(position, record)| self.oracle.opening(*position, record));
        self.oracle.recovered(opened_at, recovery.next_position.0, &replayed);
        self.history.note("started", &(recovery.epoch, recovery.next_position));
        Some(core)
    }

    fn refused_to_start(&mut self, facts: &str) {
        self.oracle
            .court
            .demand(Law::RecoveryIsExact, false, || format!("the broker refused to start: {facts}"));
    }
}
