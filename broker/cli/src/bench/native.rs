//! What the sandboxed filter is held against: native code that answers the same question over the same stored messages.

use anyhow::{Result, anyhow};
use filter_sql::SqlFilter;
use sluice_log::{BatchPlace, LogReader, ReadAhead};
use sluice_plugin::{Attribute, ColumnFilter, Verdicts, View};
use sluice_plugin_host::{Room, ViewWriter};
use sluice_protocol::batch::{Attributes, NameIndex};

/// The question, put in Rust over the rows as they are stored: `region = 'eu' AND price > 100.0`, hard-coded. Returns the matches.
pub(super) fn hard_coded(reader: &LogReader, places: &[BatchPlace]) -> Result<u64> {
    let mut matches = 0;
    let mut ahead = ReadAhead::new();
    let mut rest = places;
    while let Some((place, following)) = rest.split_first() {
        rest = following;
        let attributes = ahead.attributes(reader, place, following)?;
        let (region, price) = (attributes.name_index("region"), attributes.name_index("price"));
        for row in attributes.rows() {
            let (mut in_eu, mut dear) = (false, false);
            for (name, value) in row.properties() {
                if Some(name) == region {
                    in_eu = value == b"eu";
                } else if Some(name) == price {
                    dear = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse::<f64>().ok())
                        .is_some_and(|price| price > 100.0);
                }
            }
            matches += u64::from(in_eu && dear);
        }
    }
    Ok(matches)
}

/// The SQL filter itself, compiled for this machine instead of for WebAssembly: the same language, the same views, no sandbox.
pub(super) struct NativeSql {
    filter: SqlFilter,
    columns: Vec<String>,
    writer: ViewWriter,
    slots: Vec<Option<usize>>,
}

impl NativeSql {
    /// Compiles an expression over properties.
    ///
    /// # Errors
    /// The expression is refused, or reads more than properties.
    pub(super) fn compile(expression: &str) -> Result<Self> {
        let filter = SqlFilter::compile(expression).map_err(|refusal| anyhow!("{}", refusal.message))?;
        let columns = filter.columns().into_iter().map(|column| match column {
            Attribute::Property(name) => Ok(name),
            Attribute::Tag | Attribute::Keys => Err(anyhow!("the benchmark's expression reads properties alone")),
        });
        let columns = columns.collect::<Result<_>>()?;
        Ok(Self {
            filter,
            columns,
            writer: ViewWriter::new(),
            slots: Vec::new(),
        })
    }

    /// Judges all messages of the places; returns the matches.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn matches(&mut self, reader: &LogReader, places: &[BatchPlace]) -> Result<u64> {
        let mut matches = 0;
        self.writer.begin(self.columns.len());
        let mut ahead = ReadAhead::new();
        let mut rest = places;
        while let Some((place, following)) = rest.split_first() {
            rest = following;
            let attributes = ahead.attributes(reader, place, following)?;
            self.resolve(&attributes);
            for row in attributes.rows() {
                for (NameIndex(index), value) in row.properties() {
                    if let Some(Some(slot)) = self.slots.get(usize::from(index)) {
                        self.writer.text(*slot, value);
                    }
                }
                if self.writer.end_message() == Room::Full {
                    matches += self.evaluate()?;
                    self.writer.begin(self.columns.len());
                }
            }
        }
        Ok(matches + self.evaluate()?)
    }

    fn resolve(&mut self, attributes: &Attributes) {
        self.slots.clear();
        self.slots.resize(usize::from(attributes.name_count()), None);
        for (slot, name) in self.columns.iter().enumerate() {
            if let Some(NameIndex(index)) = attributes.name_index(name) {
                self.slots[usize::from(index)] = Some(slot);
            }
        }
    }

    fn evaluate(&mut self) -> Result<u64> {
        let Some(view) = self.writer.finish() else { return Ok(0) };
        let view = View::parse(view.bytes()).map_err(|error| anyhow!("{error:?}"))?;
        let mut verdicts = Verdicts::default();
        self.filter.evaluate(&view, &mut verdicts);
        let messages = verdicts.deliver.iter().zip(verdicts.failed);
        Ok(messages.map(|(deliver, failed)| u64::from((deliver & !failed).count_ones())).sum())
    }
}
