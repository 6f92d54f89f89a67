//! What matches without a filter: of the messages at some offsets those that are meant, with what else must be known of each.

use sluice_core::effect::Among;
use sluice_core::input::Link;
use sluice_log::{LogReader, ReadAhead};
use sluice_protocol::batch::Row;
use sluice_protocol::ids::QueueOffset;

use crate::judge::{JudgeError, PLACES_MESSAGES, Stretch, rows_within, unless_gone};
use crate::judged::Judged;

/// Whether a message is among those that are meant.
#[inline]
pub(crate) fn is_meant(among: Among, row: &Row<'_>) -> bool {
    match among {
        Among::All | Among::Ordered => true,
        Among::Priority(priority) => row.priority() == priority,
    }
}

/// What must be known of a message that was stored then, beside that it matches.
pub(crate) fn link_of(row: &Row<'_>, stretch: &Stretch, stored_wall_ms: i64) -> Link {
    let ordered = stretch.among == Among::Ordered;
    Link {
        group: if ordered { row.group_hash() } else { 0 },
        priority: row.priority(),
        expires_ms: stretch.ttl.and_then(|ttl| ttl.expires_ms(row.ttl_ms(), stored_wall_ms)),
    }
}

/// Lists what is meant of a stretch, as far as it may; messages that are no longer stored are left out.
///
/// # Errors
/// [`JudgeError`]; then nothing is known of any of them.
pub(crate) fn listed(reader: &LogReader, stretch: Stretch) -> Result<Judged, JudgeError> {
    let mut judged = Judged::default();
    let mut ahead = ReadAhead::new();
    let mut from = stretch.from;
    while from < stretch.to {
        let to = stretch.to.min(QueueOffset(from.0 + PLACES_MESSAGES));
        let places = reader.batches(stretch.queue, from, to)?;
        let mut rest = places.as_slice();
        while let Some((place, following)) = rest.split_first() {
            rest = following;
            let Some(attributes) = unless_gone(ahead.attributes(reader, place, following))? else {
                continue;
            };
            for row in rows_within(place, from, to) {
                let offset = QueueOffset(place.first.0 + u64::from(row));
                let Some(row) = attributes.row(row).filter(|row| is_meant(stretch.among, row)) else {
                    continue;
                };
                if judged.deliver.len() as u64 == stretch.calls_max {
                    judged.to = offset;
                    return Ok(judged);
                }
                judged.deliver.push(offset);
                if stretch.has_links() {
                    judged.links.push(link_of(&row, &stretch, place.stored_wall_ms));
                }
            }
        }
        from = to;
    }
    judged.to = stretch.to;
    Ok(judged)
}
