//! The built-in SQL filter: the language of docs/sql.md, evaluated a column at a time.
//!
//! `token`, `parse` and `checks` read an expression into a `tree`, `program` compiles that to steps, `evaluate` runs them over
//! the columns of up to 256 messages at once, and `hint` finds what a message must have to be delivered at all.

mod checks;
mod convert;
mod evaluate;
mod hint;
mod needle;
mod number;
mod parse;
mod program;
mod token;
mod tree;

use sluice_plugin::{Attribute, ColumnFilter, Hint, Refusal, Verdicts, View};

use crate::program::Program;

/// The property name under which a message's tag is read.
const TAGS: &str = "TAGS";
/// The property name under which a message's keys, joined by a space, are read.
const KEYS: &str = "KEYS";

/// A compiled SQL expression.
#[derive(Clone, Debug)]
pub struct SqlFilter {
    program: Program,
}

impl ColumnFilter for SqlFilter {
    fn compile(expression: &str) -> Result<Self, Refusal> {
        let tree = parse::parse(expression).map_err(|error| Refusal::at(error.message, error.at))?;
        Ok(SqlFilter {
            program: program::compile(tree),
        })
    }

    fn columns(&self) -> Vec<Attribute> {
        let attribute = |name: &String| match name.as_str() {
            TAGS => Attribute::Tag,
            KEYS => Attribute::Keys,
            _ => Attribute::Property(name.clone()),
        };
        self.program.properties.iter().map(attribute).collect()
    }

    fn hint(&self) -> Option<Hint> {
        hint::hint(&self.program)
    }

    fn evaluate(&self, view: &View<'_>, verdicts: &mut Verdicts) {
        evaluate::evaluate(&self.program, view, verdicts);
    }
}

sluice_plugin::export_column_filter!(SqlFilter);
