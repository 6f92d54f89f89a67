//! A stand-in for the broker, so that filters are unit-tested natively with `cargo test`.
//!
//! ```
//! use sluice_plugin::testing::{Outcome, Row, assert_pure, judge};
//! # use sluice_plugin::{Column, Columns, Failed, Filter, Message, Refusal};
//! # struct Tagged(Column, String);
//! # impl Filter for Tagged {
//! #     fn compile(expression: &str, columns: &mut Columns) -> Result<Self, Refusal> {
//! #         Ok(Self(columns.tag(), expression.to_owned()))
//! #     }
//! #     fn deliver(&self, message: &Message<'_>) -> Result<bool, Failed> {
//! #         Ok(message.text(self.0) == Some(self.1.as_str()))
//! #     }
//! # }
//! use sluice_plugin::Rows;
//!
//! let rows = [Row::new().tag("red"), Row::new().property("price", "12")];
//! assert_eq!(judge::<Rows<Tagged>>("red", &rows), Ok(vec![Outcome::Deliver, Outcome::Skip]));
//! assert_pure::<Rows<Tagged>>("red", &rows);
//! ```

use crate::asked::{Attribute, Refusal};
use crate::column_filter::{ColumnFilter, Verdicts};
use crate::view::{MESSAGES_MAX, View};

/// A message as a filter may see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    tag: Option<String>,
    keys: Option<String>,
    properties: Vec<(String, String)>,
}

impl Row {
    /// A message without tag, keys and properties.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same with this tag.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.tag = Some(tag.into());
        self
    }

    /// The same with these keys, joined by one space as a filter gets them.
    pub fn keys(mut self, keys: impl Into<String>) -> Self {
        self.keys = Some(keys.into());
        self
    }

    /// The same with this property besides.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.properties.push((name.into(), value.into()));
        self
    }

    /// The value of an attribute, `None` where the message does not have it.
    pub fn value(&self, attribute: &Attribute) -> Option<&str> {
        match attribute {
            Attribute::Tag => self.tag.as_deref(),
            Attribute::Keys => self.keys.as_deref(),
            Attribute::Property(name) => self.properties.iter().find(|(has, _)| has == name).map(|(_, value)| value.as_str()),
        }
    }
}

/// What a filter said of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is delivered.
    Deliver,
    /// It is not.
    Skip,
    /// The evaluation failed.
    Failed,
}

/// Collects rows and writes them as the columnar view of one run.
#[derive(Clone, Debug)]
pub struct ViewBuilder<'rows> {
    attributes: Vec<Attribute>,
    rows: Vec<&'rows Row>,
}

impl<'rows> ViewBuilder<'rows> {
    /// A view of these columns without a message.
    pub fn new(attributes: Vec<Attribute>) -> Self {
        Self {
            attributes,
            rows: Vec::new(),
        }
    }

    /// Adds a message at the end of the run.
    pub fn push(&mut self, row: &'rows Row) {
        self.rows.push(row);
    }

    /// The view's bytes, as the README one folder up has them.
    ///
    /// # Panics
    ///
    /// When the run has no message or more than 256.
    pub fn build(&self) -> Vec<u8> {
        assert!((1..=MESSAGES_MAX).contains(&self.rows.len()), "a run has 1 to 256 messages");
        let directory_end = 16 + 16 * self.attributes.len();
        let mut directory = Vec::new();
        let mut parts = Vec::new();
        for attribute in &self.attributes {
            let mut validity = vec![0; self.rows.len().div_ceil(64) * 8];
            let mut offsets = word(0).to_vec();
            let mut bytes = Vec::new();
            for (place, row) in self.rows.iter().enumerate() {
                if let Some(value) = row.value(attribute) {
                    validity[place / 8] |= 1 << (place % 8);
                    bytes.extend_from_slice(value.as_bytes());
                }
                offsets.extend(word(bytes.len()));
            }
            let length = bytes.len();
            for part in [validity, offsets, bytes] {
                directory.extend(word(directory_end + parts.len()));
                parts.extend(part);
                parts.resize(parts.len().next_multiple_of(8), 0);
            }
            directory.extend(word(length));
        }
        let header = [1, self.rows.len(), self.attributes.len(), directory_end + parts.len()].map(word);
        [header.concat(), directory, parts].concat()
    }
}

fn word(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a test's view is small").to_le_bytes()
}

/// Compiles `expression` and judges the rows as the broker would, in runs of 256.
///
/// # Errors
///
/// The filter's refusal of the expression.
pub fn judge<F: ColumnFilter>(expression: &str, rows: &[Row]) -> Result<Vec<Outcome>, Refusal> {
    Ok(judge_in_runs(&F::compile(expression)?, rows, MESSAGES_MAX))
}

/// Judges the rows in runs of `run` messages (1 to 256).
pub fn judge_in_runs<F: ColumnFilter>(filter: &F, rows: &[Row], run: usize) -> Vec<Outcome> {
    rows.chunks(run).flat_map(|rows| judge_run(filter, rows)).collect()
}

fn judge_run<F: ColumnFilter>(filter: &F, rows: &[Row]) -> Vec<Outcome> {
    let mut builder = ViewBuilder::new(filter.columns());
    rows.iter().for_each(|row| builder.push(row));
    let bytes = builder.build();
    let view = View::parse(&bytes).expect("what was just built");
    let mut verdicts = Verdicts::default();
    filter.evaluate(&view, &mut verdicts);
    let is_set = |bits: &[u64], place: usize| bits[place / 64] >> (place % 64) & 1 == 1;
    let outcome = |place| match (is_set(&verdicts.failed, place), is_set(&verdicts.deliver, place)) {
        (true, _) => Outcome::Failed,
        (false, true) => Outcome::Deliver,
        (false, false) => Outcome::Skip,
    };
    (0..rows.len()).map(outcome).collect()
}

/// Demands that the filter says the same of each row in runs of 1, of 7 and of 256, and with the rows in reverse.
///
/// # Panics
///
/// When it does not, or refuses the expression.
pub fn assert_pure<F: ColumnFilter>(expression: &str, rows: &[Row]) {
    let filter = F::compile(expression).unwrap_or_else(|refusal| panic!("{expression:?} is refused: {refusal}"));
    let whole = judge_in_runs(&filter, rows, MESSAGES_MAX);
    for run in [1, 7] {
        assert_eq!(judge_in_runs(&filter, rows, run), whole, "{expression:?} judged in runs of {run}");
    }
    let reversed: Vec<_> = rows.iter().rev().cloned().collect();
    let mut again = judge_in_runs(&filter, &reversed, MESSAGES_MAX);
    again.reverse();
    assert_eq!(again, whole, "{expression:?} judged in reverse");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Delivers what has the property `x`; fails where the tag is `bad`.
    struct HasX;

    impl ColumnFilter for HasX {
        fn compile(_: &str) -> Result<Self, Refusal> {
            Ok(Self)
        }

        fn columns(&self) -> Vec<Attribute> {
            vec![Attribute::Tag, Attribute::Property("x".to_owned())]
        }

        fn evaluate(&self, view: &View<'_>, verdicts: &mut Verdicts) {
            verdicts.deliver = view.column(1).present();
            for message in 0..view.messages() {
                if view.column(0).text(message) == Some("bad") {
                    verdicts.fail(message);
                }
            }
        }
    }

    #[test]
    fn a_message_both_delivered_and_failed_is_failed() {
        let rows = [
            Row::new().tag("bad").property("x", ""),
            Row::new().property("x", "1"),
            Row::new().keys("x"),
        ];
        assert_eq!(judge::<HasX>("", &rows), Ok(vec![Outcome::Failed, Outcome::Deliver, Outcome::Skip]));
        assert_pure::<HasX>("", &rows);
    }

    fn rows() -> impl Strategy<Value = Vec<Row>> {
        let value = proptest::option::of("\\PC{0,12}");
        let row = (value.clone(), value.clone(), value).prop_map(|(tag, keys, x)| Row {
            tag,
            keys,
            properties: x.map(|x| ("x".to_owned(), x)).into_iter().collect(),
        });
        proptest::collection::vec(row, 1..=MESSAGES_MAX)
    }

    fn all_attributes() -> Vec<Attribute> {
        vec![
            Attribute::Keys,
            Attribute::Property("x".to_owned()),
            Attribute::Property("y".to_owned()),
            Attribute::Tag,
        ]
    }

    proptest! {
        #[test]
        fn what_is_built_is_read_again(rows in rows()) {
            let mut builder = ViewBuilder::new(all_attributes());
            rows.iter().for_each(|row| builder.push(row));
            let bytes = builder.build();
            let view = View::parse(&bytes).expect("what was just built");
            prop_assert_eq!(view.messages(), rows.len());
            prop_assert_eq!(view.all().map(u64::count_ones).iter().sum::<u32>() as usize, rows.len());
            for (place, attribute) in all_attributes().iter().enumerate() {
                for (message, row) in rows.iter().enumerate() {
                    prop_assert_eq!(view.column(place).text(message), row.value(attribute));
                }
            }
        }

        #[test]
        fn a_damaged_view_is_refused_or_read_within_its_bounds(rows in rows(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
            let mut builder = ViewBuilder::new(all_attributes());
            rows.iter().for_each(|row| builder.push(row));
            let mut bytes = builder.build();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(view) = View::parse(&bytes) {
                for column in 0..view.columns() {
                    for message in 0..view.messages() {
                        let _ = view.column(column).value(message);
                    }
                }
            }
            prop_assert!(View::parse(&bytes[..at]).is_err());
        }
    }
}
