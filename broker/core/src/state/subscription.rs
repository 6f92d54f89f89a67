//! The entry of one subscription: what a group asks of a topic now, and what it asked before.

use std::collections::BTreeMap;

use sluice_log::record::{Filter, QueueStart};
use sluice_protocol::ids::{Digest, Position, QueueIndex, QueueOffset};
use sluice_protocol::wire::{Reader, WireError, Writer};

use crate::limits::SUPERSEDED_MAX;

/// The ruling filter of a group for a topic, and those that it superseded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The last record that this entry holds.
    pub reflects: Position,
    /// The filter that judges.
    pub ruling: Filter,
    /// Those that ruled before, the newest last.
    pub superseded: Vec<Filter>,
    /// Why nothing is judged by the ruling one before an operator goes on.
    pub alarm: Option<Alarm>,
    /// Where the group's pass over each queue began; a queue that is not here from its beginning on.
    pub begins: BTreeMap<QueueIndex, QueueOffset>,
}

/// A plugin's fault, for which a subscription is held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alarm {
    /// The version of the plugin.
    pub digest: Digest,
    /// How it failed.
    pub reason: String,
    /// Since when (wall clock, milliseconds).
    pub since_wall_ms: i64,
}

impl Subscription {
    pub(super) fn new(reflects: Position, ruling: Filter, starts: &[QueueStart]) -> Self {
        let mut new = Self {
            reflects,
            ruling,
            superseded: Vec::new(),
            alarm: None,
            begins: BTreeMap::new(),
        };
        new.begin(starts);
        new
    }

    pub(super) fn replace(&mut self, position: Position, filter: &Filter, starts: &[QueueStart]) {
        if self.reflects >= position {
            return;
        }
        self.reflects = position;
        self.begin(starts);
        if self.ruling == *filter {
            return;
        }
        // The fault was found under the filter that rules no more.
        self.alarm = None;
        let before = std::mem::replace(&mut self.ruling, filter.clone());
        self.superseded.retain(|other| other != filter);
        self.superseded.push(before);
        if self.superseded.len() > SUPERSEDED_MAX {
            self.superseded.remove(0);
        }
    }

    /// A seek begins a new pass over some queues.
    pub(super) fn seek(&mut self, position: Position, starts: &[QueueStart]) {
        if self.reflects < position {
            self.reflects = position;
            self.begin(starts);
        }
    }

    fn begin(&mut self, starts: &[QueueStart]) {
        for start in starts {
            match start.offset {
                QueueOffset(0) => self.begins.remove(&start.queue.index),
                offset => self.begins.insert(start.queue.index, offset),
            };
        }
    }

    pub(super) fn set_alarm(&mut self, position: Position, alarm: Option<Alarm>) {
        if self.reflects < position {
            self.reflects = position;
            self.alarm = alarm;
        }
    }

    /// The version that says it all: where every pass began with the first message of its queue, all is written as ever.
    pub(super) fn version(&self) -> u8 {
        if self.begins.is_empty() { 2 } else { 3 }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0);
        encode_filter(&self.ruling, to);
        to.count(self.superseded.len());
        for filter in &self.superseded {
            encode_filter(filter, to);
        }
        match &self.alarm {
            None => to.u8(0),
            Some(alarm) => to.u8(1).bytes(&alarm.digest.0).text(&alarm.reason).i64(alarm.since_wall_ms),
        };
        if !self.begins.is_empty() {
            to.count(self.begins.len());
            for (queue, offset) in &self.begins {
                to.u16(queue.0).u64(offset.0);
            }
        }
    }

    /// Version 1 knew no alarm; version 2 did not say where a pass began.
    pub(super) fn decode(from: &mut Reader<'_>, version: u8) -> Result<Self, WireError> {
        let reflects = Position(from.u64()?);
        let ruling = decode_filter(from)?;
        let count = from.count(1)?;
        let superseded = (0..count).map(|_| decode_filter(from)).collect::<Result<_, _>>()?;
        let alarm = match version {
            1 => None,
            _ => decode_alarm(from)?,
        };
        let count = if version > 2 { from.count(10)? } else { 0 };
        let begins = (0..count).map(|_| Ok((QueueIndex(from.u16()?), QueueOffset(from.u64()?))));
        let begins = begins.collect::<Result<_, WireError>>()?;
        Ok(Self {
            reflects,
            ruling,
            superseded,
            alarm,
            begins,
        })
    }
}

fn decode_alarm(from: &mut Reader<'_>) -> Result<Option<Alarm>, WireError> {
    match from.u8()? {
        0 => Ok(None),
        1 => Ok(Some(Alarm {
            digest: Digest(from.array()?),
            reason: from.text()?.to_owned(),
            since_wall_ms: from.i64()?,
        })),
        _ => Err(WireError::Impossible("alarm")),
    }
}

fn encode_filter(filter: &Filter, to: &mut Writer) {
    match filter {
        Filter::All => to.u8(0),
        Filter::Plugin { plugin, expression } => to.u8(1).text(plugin).blob(expression.as_bytes()),
    };
}

fn decode_filter(from: &mut Reader<'_>) -> Result<Filter, WireError> {
    match from.u8()? {
        0 => Ok(Filter::All),
        1 => {
            let plugin = from.text()?.to_owned();
            let expression = std::str::from_utf8(from.blob()?).map_err(|_| WireError::NotText)?.to_owned();
            Ok(Filter::Plugin { plugin, expression })
        }
        _ => Err(WireError::Impossible("filter")),
    }
}
