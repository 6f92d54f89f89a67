//! The entry of one subscription: what a group asks of a topic now, and what it asked before.

use sluice_log::record::Filter;
use sluice_protocol::ids::Position;
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
}

impl Subscription {
    pub(super) fn new(reflects: Position, ruling: Filter) -> Self {
        Self {
            reflects,
            ruling,
            superseded: Vec::new(),
        }
    }

    pub(super) fn replace(&mut self, position: Position, filter: &Filter) {
        if self.reflects >= position {
            return;
        }
        self.reflects = position;
        if self.ruling == *filter {
            return;
        }
        let before = std::mem::replace(&mut self.ruling, filter.clone());
        self.superseded.retain(|other| other != filter);
        self.superseded.push(before);
        if self.superseded.len() > SUPERSEDED_MAX {
            self.superseded.remove(0);
        }
    }

    pub(super) fn encode(&self, to: &mut Writer) {
        to.u64(self.reflects.0);
        encode_filter(&self.ruling, to);
        to.count(self.superseded.len());
        for filter in &self.superseded {
            encode_filter(filter, to);
        }
    }

    pub(super) fn decode(from: &mut Reader<'_>) -> Result<Self, WireError> {
        let reflects = Position(from.u64()?);
        let ruling = decode_filter(from)?;
        let count = from.count(1)?;
        let superseded = (0..count).map(|_| decode_filter(from)).collect::<Result<_, _>>()?;
        Ok(Self {
            reflects,
            ruling,
            superseded,
        })
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
