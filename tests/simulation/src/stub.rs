//! The plugin of the simulation: evaluates its few expressions over stored rows, as a real one does over its columns.

use sluice_core::effect::{Among, Rule, TopicTtl};
use sluice_core::input::{Link, Verdicts};
use sluice_log::BatchPlace;
use sluice_protocol::batch::{Attributes, Row};
use sluice_protocol::ids::QueueOffset;

use crate::content::digest;

/// What the broker asks of messages.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// By which rule.
    pub rule: Option<&'a Rule>,
    /// Of which of them.
    pub among: Among,
    /// Whether it is to know until when they live.
    pub ttl: Option<TopicTtl>,
}

/// Judges those rows of a stored batch that `verdicts` are to speak of.
pub fn judge(question: Question<'_>, attributes: &Attributes, place: &BatchPlace, verdicts: &mut Verdicts) {
    let Question { rule, among, ttl } = question;
    for (row, offset) in attributes.rows().zip(place.first.0..) {
        if offset < verdicts.from.0 || offset >= verdicts.to.0 {
            continue;
        }
        match among {
            Among::All | Among::Ordered => {}
            Among::Priority(priority) if row.priority() != priority => continue,
            Among::Priority(_) => {}
        }
        let said = rule.map_or(Some(true), |rule| {
            matches(&rule.expression, &row).map(|matches| matches == (rule.digest == digest(1)))
        });
        match said {
            None => verdicts.failed += 1,
            Some(true) => {
                verdicts.deliver.push(QueueOffset(offset));
                if among == Among::Ordered || ttl.is_some() {
                    let expires_ms = ttl.and_then(|ttl| ttl.expires_ms(row.ttl_ms(), place.stored_wall_ms));
                    verdicts.links.push(Link { expires_ms, ..link(&row) });
                }
            }
            Some(false) => {}
        }
    }
}

/// What an ordered group must know of a row.
pub fn link(row: &Row<'_>) -> Link {
    Link {
        group: row.group_hash(),
        priority: row.priority(),
        expires_ms: None,
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
