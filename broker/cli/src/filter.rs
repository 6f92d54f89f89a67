//! `sluice filter`: try filters here, without a broker, inside the same sandbox.

mod cases;
mod sandbox;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::output::Output;
use cases::Case;
use sandbox::{Attributes, Outcome, Sandbox};

/// Filters.
#[derive(Subcommand)]
pub(crate) enum Filter {
    /// Check an expression, and say what it makes of a message with these attributes
    Check(Check),
    /// Check a table of SQL expressions, messages and results; prints each mismatch and `N passed, N failed`
    Test {
        /// Tab-separated file with the columns id, expression (\n is a line feed), properties (a=1;b=2) and result
        cases: PathBuf,
    },
}

/// One expression and one message.
#[derive(Args)]
pub(crate) struct Check {
    #[command(flatten)]
    expression: Expression,
    /// Property of the message, NAME=VALUE; may be given several times
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property)]
    properties: Vec<(String, String)>,
    /// Tag of the message
    #[arg(long, value_name = "TAG")]
    message_tag: Option<String>,
    /// Key of the message; may be given several times
    #[arg(long = "message-key", value_name = "KEY")]
    message_keys: Vec<String>,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Expression {
    /// SQL expression
    #[arg(long, value_name = "E")]
    sql: Option<String>,
    /// Tag expression: * or tags joined by ||
    #[arg(long, value_name = "E")]
    tag: Option<String>,
}

fn property(text: &str) -> Result<(String, String), String> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "give NAME=VALUE".to_owned())
}

impl Filter {
    /// Does what is asked.
    pub(crate) fn run(self, output: &mut Output) -> Result<(), Failure> {
        match self {
            Filter::Check(check) => check.run(output),
            Filter::Test { cases } => {
                let text = std::fs::read_to_string(&cases);
                let text = text.map_err(|error| Failure::failed(format!("cannot read {}: {error}", cases.display())))?;
                test(&cases::parse(&text)?, output)
            }
        }
    }
}

impl Check {
    fn run(self, output: &mut Output) -> Result<(), Failure> {
        let mut sandbox = Sandbox::new()?;
        let attributes = Attributes {
            tag: self.message_tag,
            keys: self.message_keys.join(" "),
            properties: self.properties,
        };
        let (outcome, expression) = match (self.expression.sql, self.expression.tag) {
            (Some(sql), _) => (sandbox.sql(&sql, &attributes)?, sql),
            (None, Some(tag)) => (sandbox.tag(&tag, &attributes)?, tag),
            (None, None) => return Err(Failure::Usage("give --sql E or --tag E".to_owned())),
        };
        if let Outcome::ParseError { message, at } = &outcome {
            let at_text = at.map_or(String::new(), |at| {
                format!("\n  {expression}\n  {}^ at byte {at}", before(&expression, at))
            });
            return Err(Failure::Failed {
                text: format!("the expression is refused: {message}{at_text}"),
                advice: Some("change the expression; docs/sql.md has the language".to_owned()),
                code: Some("BadExpression"),
            });
        }
        let delivered = matches!(outcome, Outcome::True);
        let human = || {
            vec![format!(
                "{}: the message is {}delivered",
                outcome.name(),
                if delivered { "" } else { "not " }
            )]
        };
        output.show(|| json!({ "result": outcome.name(), "delivered": delivered }), human)
    }
}

/// Spaces up to a byte of the expression, where the expression is one line.
fn before(expression: &str, at: u32) -> String {
    let place = expression.floor_char_boundary(at as usize);
    " ".repeat(expression[..place].chars().count())
}

/// Judges every case and compares.
fn test(cases: &[Case], output: &mut Output) -> Result<(), Failure> {
    let mut sandbox = Sandbox::new()?;
    let mut mismatches: Vec<Value> = Vec::new();
    for case in cases {
        let outcome = sandbox.sql(&case.expression, &case.attributes)?;
        if outcome.name() != case.result {
            mismatches.push(json!({ "id": case.id, "expression": case.expression, "expected": case.result, "found": outcome.name() }));
        }
    }
    let (passed, failed) = (cases.len() - mismatches.len(), mismatches.len());
    let human = || {
        let line = |mismatch: &Value| {
            format!(
                "{}: expected {}, found {}: {}",
                mismatch["id"], mismatch["expected"], mismatch["found"], mismatch["expression"]
            )
        };
        mismatches
            .iter()
            .map(line)
            .chain([format!("{passed} passed, {failed} failed")])
            .collect()
    };
    output.show(|| json!({ "passed": passed, "failed": failed, "mismatches": mismatches }), human)?;
    match failed {
        0 => Ok(()),
        _ => Err(Failure::failed(format!(
            "{failed} of {} cases did not give what the table says",
            cases.len()
        ))),
    }
}
