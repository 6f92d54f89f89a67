//! The plugin of the simulation: evaluates its few expressions over stored rows, as a real one does over its columns.

use sluice_core::effect::Rule;
use sluice_core::input::Verdicts;
use sluice_protocol::batch::{Attributes, Row};
use sluice_protocol::ids::QueueOffset;

use crate::content::digest;

/// Judges those rows of a stored batch, whose first message is at `first`, that `verdicts` are to speak of.
pub fn judge(rule: &Rule, attributes: &Attributes, first: QueueOffset, verdicts: &mut Verdicts) {
    for (row, offset) in attributes.rows().zip(first.0..) {
        if offset < verdicts.from.0 || offset >= verdicts.to.0 {
            continue;
        }
        match matches(&rule.expression, &row) {
            None => verdicts.failed += 1,
            Some(matches) if matches == (rule.digest == digest(1)) => verdicts.deliver.push(QueueOffset(offset)),
            Some(_) => {}
        }
    }
}

/// `None` when the expression cannot be evaluated for this row.
fn matches(expression: &str, row: &Row<'_>) -> Option<bool> {
    match expression.split_once(['=', '<']) {
        Some(("tag", tag)) => Some(row.tag() == Some(tag)),
        Some(("price", bound)) => {
            let price = std::str::from_utf8(row.property("price")?).ok()?;
            Some(price.parse::<u32>().ok()? < bound.parse::<u32>().ok()?)
        }
        Some((property, value)) => Some(row.property(property) == Some(value.as_bytes())),
        None => Some(true),
    }
}
