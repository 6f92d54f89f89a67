//! The rows of a file, read one at a time, each made a message.

use std::io::BufRead;
use std::time::Duration;

use serde_json::{Map, Value};
use sluice_client::NewMessage;

use crate::failure::Failure;
use crate::output::plain;

/// The line that a row ends on, from 1, and its columns.
type NumberedRow = (u64, Map<String, Value>);

/// Which columns become attributes, and when the messages are to be delivered.
pub(super) struct Columns {
    pub(super) tag: Option<String>,
    pub(super) key: Option<String>,
    pub(super) properties: Vec<String>,
    pub(super) deliver_after: Option<Duration>,
    pub(super) deliver_at_ms: Option<i64>,
    pub(super) prepared: bool,
    /// The priority of messages that have none in a column.
    pub(super) priority: u8,
    pub(super) priority_column: Option<String>,
    /// The message group of messages that have none in a column.
    pub(super) group: Option<String>,
    pub(super) group_column: Option<String>,
    /// The column with the id of each message, and whose ids these are.
    pub(super) id: Option<(String, String)>,
    /// How long the messages live.
    pub(super) ttl: Option<Duration>,
}

/// A file being read.
pub(super) struct Rows {
    columns: Columns,
    form: Form,
}

enum Form {
    Csv {
        reader: csv::Reader<Box<dyn BufRead>>,
        heads: csv::StringRecord,
    },
    Jsonl {
        reader: Box<dyn BufRead>,
        line: u64,
        text: String,
    },
}

impl Rows {
    /// Rows of a CSV file whose first line names the columns. A column that is asked for and not there is refused.
    pub(super) fn csv(reader: Box<dyn BufRead>, columns: Columns) -> Result<Self, Failure> {
        let mut reader = csv::Reader::from_reader(reader);
        let heads = reader
            .headers()
            .map_err(|error| Failure::failed(format!("the CSV file has no line of heads: {error}")))?
            .clone();
        let lanes = columns.priority_column.iter().chain(&columns.group_column);
        let asked = columns.tag.iter().chain(&columns.key).chain(&columns.properties).chain(lanes);
        let asked = asked.chain(columns.id.iter().map(|(column, _)| column));
        for column in asked {
            if !heads.iter().any(|head| head == column) {
                let known = heads.iter().collect::<Vec<_>>().join(", ");
                return Err(Failure::Usage(format!("the CSV file has no column {column}; it has {known}")));
            }
        }
        Ok(Self {
            columns,
            form: Form::Csv { reader, heads },
        })
    }

    /// Rows of a file with one JSON object a line; empty lines are passed over. A row may lack a column.
    pub(super) fn jsonl(reader: Box<dyn BufRead>, columns: Columns) -> Self {
        Self {
            columns,
            form: Form::Jsonl {
                reader,
                line: 0,
                text: String::new(),
            },
        }
    }

    fn message(&self, line: u64, row: &Map<String, Value>) -> Result<NewMessage, Failure> {
        let column = |name: &String| row.get(name).filter(|value| !value.is_null()).map(plain);
        let filled = |name: &Option<String>| name.as_ref().and_then(column).filter(|value| !value.is_empty());
        let priority = match filled(&self.columns.priority_column) {
            None => self.columns.priority,
            Some(text) => text
                .parse()
                .map_err(|_| Failure::failed(format!("line {line}: {text} is no priority from 0 to 9")))?,
        };
        let given_id = self
            .columns
            .id
            .as_ref()
            .and_then(|(name, scope)| Some((column(name).filter(|id| !id.is_empty())?, scope)));
        let message = NewMessage {
            priority,
            group: filled(&self.columns.group_column).or_else(|| self.columns.group.clone()),
            body: serde_json::to_vec(row).expect("a map with text keys is JSON").into(),
            tag: self.columns.tag.as_ref().and_then(column).filter(|tag| !tag.is_empty()),
            keys: self
                .columns
                .key
                .as_ref()
                .and_then(column)
                .filter(|key| !key.is_empty())
                .into_iter()
                .collect(),
            properties: self
                .columns
                .properties
                .iter()
                .filter_map(|name| Some((name.clone(), column(name)?)))
                .collect(),
            deliver_at_ms: self.columns.deliver_at_ms,
            prepared: self.columns.prepared,
            deliver_after_ms: self
                .columns
                .deliver_after
                .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            ttl_ms: self.columns.ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            ..NewMessage::default()
        };
        Ok(match given_id {
            Some((id, scope)) => message.given_id_within(scope, id),
            None => message,
        })
    }

    /// The next row and the line it ends on.
    fn read(&mut self) -> Result<Option<NumberedRow>, Failure> {
        match &mut self.form {
            Form::Csv { reader, heads } => {
                let mut record = csv::StringRecord::new();
                let more = reader
                    .read_record(&mut record)
                    .map_err(|error| Failure::failed(format!("the CSV file is broken: {error}")))?;
                let row = || {
                    heads
                        .iter()
                        .zip(&record)
                        .map(|(head, value)| (head.to_owned(), Value::from(value)))
                        .collect()
                };
                Ok(more.then(|| (reader.position().line().saturating_sub(1), row())))
            }
            Form::Jsonl { reader, line, text } => loop {
                text.clear();
                *line += 1;
                let read = reader
                    .read_line(text)
                    .map_err(|error| Failure::failed(format!("line {line} cannot be read: {error}")))?;
                if read == 0 {
                    return Ok(None);
                }
                if text.trim().is_empty() {
                    continue;
                }
                let row = serde_json::from_str(text).map_err(|error| Failure::failed(format!("line {line} is no JSON object: {error}")))?;
                return Ok(Some((*line, row)));
            },
        }
    }
}

impl Iterator for Rows {
    type Item = Result<(u64, NewMessage), Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.read() {
            Ok(Some((line, row))) => Some(self.message(line, &row).map(|message| (line, message))),
            Ok(None) => None,
            Err(failure) => Some(Err(failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns() -> Columns {
        Columns {
            tag: Some("origin".into()),
            key: Some("number".into()),
            properties: vec!["delay".into()],
            deliver_after: None,
            deliver_at_ms: None,
            prepared: false,
            priority: 0,
            priority_column: None,
            group: None,
            group_column: None,
            id: None,
            ttl: None,
        }
    }

    #[test]
    fn a_csv_row_becomes_a_message_with_its_attributes() {
        let text: &[u8] = b"number,origin,delay\n1,ATL,\"6,5\"\n";
        let rows: Vec<_> = Rows::csv(Box::new(text), columns()).unwrap().collect::<Result<_, _>>().unwrap();
        let wanted = NewMessage::new(r#"{"number":"1","origin":"ATL","delay":"6,5"}"#)
            .tag("ATL")
            .key("1")
            .property("delay", "6,5");
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].1, wanted);
    }

    #[test]
    fn a_json_row_may_lack_a_column() {
        let text: &[u8] = b"{\"number\":7,\"delay\":null}\n\n{\"origin\":\"X\"}";
        let rows: Vec<_> = Rows::jsonl(Box::new(text), columns()).collect::<Result<_, _>>().unwrap();
        assert_eq!(rows[0].1, NewMessage::new(r#"{"number":7,"delay":null}"#).key("7"));
        assert_eq!((rows[1].0, &rows[1].1), (3, &NewMessage::new(r#"{"origin":"X"}"#).tag("X")));
    }

    #[test]
    fn a_missing_column_is_named_with_the_known_ones() {
        let text: &[u8] = b"a,b\n1,2\n";
        let Err(Failure::Usage(text)) = Rows::csv(Box::new(text), columns()) else {
            panic!("the column is not there")
        };
        assert!(text.contains("origin") && text.contains("a, b"), "{text}");
    }

    #[test]
    fn a_broken_line_is_named() {
        let text: &[u8] = b"{}\nnot json\n";
        let rows: Vec<_> = Rows::jsonl(Box::new(text), columns()).collect();
        assert!(matches!(&rows[1], Err(Failure::Failed { text, .. }) if text.starts_with("line 2 ")));
    }
}
