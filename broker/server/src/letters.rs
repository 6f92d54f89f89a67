//! Dead letters: lists them with what they say of their origin, sends them back to their group, discards them - a page at a time.

use std::sync::Arc;

use bytes::Bytes;
use sluice_core::effect::Answer;
use sluice_core::input::{Admin, Letter};
use sluice_log::LogReader;
use sluice_log::record::OffsetRange;
use sluice_protocol::batch::Row;
use sluice_protocol::control::{self, DeadLettersDealt, DealWithDeadLetters, ListDeadLetters};
use sluice_protocol::errors::Refusal;
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::ids::{QueueId, QueueIndex, QueueOffset, TopicId};
use sluice_protocol::names;

use crate::assembly::ReadFailure;
use crate::connection::Client;
use crate::delivery::unreadable;
use crate::frames::Broken;
use crate::limits::LETTERS_OF_PAGE_MAX;
use crate::request::ask_admin;
use crate::serving::Serving;

/// A dead letter as it is stored.
pub(crate) struct Stored {
    pub(crate) letter: Letter,
    pub(crate) shown: control::DeadLetter,
}

/// What was read of a page, and where the next begins.
struct Page {
    stored: Vec<Stored>,
    next: Option<u64>,
}

/// A page of the dead letters that were not dealt with.
///
/// # Errors
/// `NoSuchGroup`; `Internal` when they cannot be read.
pub(crate) async fn list(client: &Arc<Client>, ask: ListDeadLetters) -> Result<Bytes, Broken> {
    let page = page(&client.serving, ask.group, ask.from, ask.to, LETTERS_OF_PAGE_MAX).await?;
    let letters = page.stored.into_iter().map(|stored| stored.shown).collect();
    let next = page.next;
    Ok(frame::message(FrameKind::DeadLetters, &control::DeadLetters { letters, next }))
}

/// Sends a page of dead letters back to their group, in one record.
///
/// # Errors
/// `NoSuchGroup`, `LimitExceeded`; `Internal` when they cannot be read.
pub(crate) async fn resend(client: &Arc<Client>, ask: DealWithDeadLetters) -> Result<Bytes, Broken> {
    let (serving, group, by) = (&client.serving, ask.group, client.name.clone());
    let most = usize::try_from(ask.most).unwrap_or(usize::MAX).min(LETTERS_OF_PAGE_MAX);
    let Page { stored, next } = page(serving, group.clone(), ask.from, ask.to, most).await?;
    let letters: Vec<Letter> = stored.into_iter().map(|stored| stored.letter).collect();
    tracing::info!(client = %client.name, %group, letters = letters.len(), "dead letters are sent back");
    let answer = ask_admin(serving, Admin::ResendDeadLetters { group, letters, by }).await?;
    let Answer::LettersDealt {
        back,
        under_way,
        gone,
        left,
    } = answer
    else {
        unreachable!("the core says what became of letters that are sent back");
    };
    let dealt = DeadLettersDealt {
        sent_back: back,
        under_way,
        gone,
        left,
        discarded: 0,
        next,
    };
    Ok(frame::message(FrameKind::DeadLettersDealt, &dealt))
}

/// Discards a page of dead letters, in one record.
///
/// # Errors
/// `NoSuchGroup`, `LimitExceeded`.
pub(crate) async fn discard(client: &Arc<Client>, ask: DealWithDeadLetters) -> Result<Bytes, Broken> {
    names::check_group(&ask.group)?;
    let admin = Admin::DiscardDeadLetters {
        group: ask.group,
        from: QueueOffset(ask.from),
        to: ask.to.map(QueueOffset),
        most: ask.most,
        by: client.name.clone(),
    };
    tracing::info!(client = %client.name, action = ?admin, "administrative action");
    let Answer::LettersDiscarded { letters, next } = ask_admin(&client.serving, admin).await? else {
        unreachable!("the core says how many letters were discarded");
    };
    let dealt = DeadLettersDealt {
        discarded: letters,
        next: next.map(|offset| offset.0),
        ..DeadLettersDealt::default()
    };
    Ok(frame::message(FrameKind::DeadLettersDealt, &dealt))
}

async fn page(serving: &Serving, group: String, from: u64, to: Option<u64>, most: usize) -> Result<Page, Refusal> {
    names::check_group(&group)?;
    let admin = Admin::FindDeadLetters {
        group,
        from: QueueOffset(from),
        to: to.map(QueueOffset),
    };
    let Answer::OpenLetters { queue, ranges, next } = ask_admin(serving, admin).await? else {
        unreachable!("the core says which dead letters are open");
    };
    let Some(queue) = queue else {
        return Ok(Page {
            stored: Vec::new(),
            next: None,
        });
    };
    let (taken, cut) = first_of(ranges, most as u64);
    let reader = serving.reader.clone();
    let stored = unreadable(tokio::task::spawn_blocking(move || read(&reader, queue, &taken)).await)?;
    let next = cut.or(next).map(|offset| offset.0);
    Ok(Page { stored, next })
}

/// The first so many offsets of some ranges, and the next one.
fn first_of(ranges: Vec<OffsetRange>, most: u64) -> (Vec<OffsetRange>, Option<QueueOffset>) {
    let (mut taken, mut left) = (Vec::new(), most);
    for OffsetRange { first, end } in ranges {
        let count = (end.0 - first.0).min(left);
        let cut = QueueOffset(first.0 + count);
        if count > 0 {
            taken.push(OffsetRange { first, end: cut });
        }
        left -= count;
        if cut < end {
            return (taken, Some(cut));
        }
    }
    (taken, None)
}

/// The letters from one offset up to another that are still stored, ascending. Blocks while it reads.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn between(reader: &LogReader, queue: QueueId, first: QueueOffset, end: QueueOffset) -> Result<Vec<Stored>, ReadFailure> {
    read(reader, queue, &[OffsetRange { first, end }])
}

/// The letters at these offsets that are still stored. Bodies are not read. Blocks while it reads.
fn read(reader: &LogReader, queue: QueueId, ranges: &[OffsetRange]) -> Result<Vec<Stored>, ReadFailure> {
    let mut stored = Vec::new();
    for range in ranges {
        for place in reader.batches(queue, range.first, range.end)? {
            let attributes = reader.attributes(&place)?;
            for row in attributes.rows() {
                let offset = place.first.0 + u64::from(row.index());
                if (range.first.0..range.end.0).contains(&offset) {
                    let name = |index| attributes.name(index).to_owned();
                    stored.push(letter(&row, offset, place.stored_wall_ms, name));
                }
            }
        }
    }
    Ok(stored)
}

fn letter(row: &Row<'_>, offset: u64, stored_wall_ms: i64, name: impl Fn(sluice_protocol::batch::NameIndex) -> String) -> Stored {
    let mut shown = control::DeadLetter {
        offset,
        id: row.message_id().to_string(),
        stored_wall_ms,
        tag: row.tag().unwrap_or_default().to_owned(),
        keys: row.keys().map(|key| String::from_utf8_lossy(key).into_owned()).collect(),
        body_bytes: row.body_len() as u64,
        ..control::DeadLetter::default()
    };
    // Of a topic that is not told there is none.
    let mut topic = TopicId(u64::MAX);
    let mut group = String::new();
    for (index, value) in row.properties() {
        let value = String::from_utf8_lossy(value).into_owned();
        match name(index).as_str() {
            "sluice.origin.topic" => shown.topic = value,
            "sluice.origin.incarnation" => topic = value.parse().map_or(topic, TopicId),
            "sluice.origin.queue" => shown.queue = value.parse().unwrap_or_default(),
            "sluice.origin.offset" => shown.origin_offset = value.parse().unwrap_or_default(),
            "sluice.origin.group" => group = value,
            "sluice.attempts" => shown.attempts = value.parse().unwrap_or_default(),
            "sluice.reason" => shown.reason = value,
            "sluice.plugin" => shown.plugin = value,
            _ => {}
        }
    }
    let letter = Letter {
        offset: QueueOffset(offset),
        group,
        queue: QueueId {
            topic,
            index: QueueIndex(u16::try_from(shown.queue).unwrap_or(u16::MAX)),
        },
        origin: QueueOffset(shown.origin_offset),
        attempts: u16::try_from(shown.attempts).unwrap_or(u16::MAX),
        priority: row.priority(),
    };
    shown.group.clone_from(&letter.group);
    Stored { letter, shown }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_within_a_range() {
        let range = |first, end| OffsetRange {
            first: QueueOffset(first),
            end: QueueOffset(end),
        };
        let ranges = || vec![range(0, 3), range(5, 9)];
        assert_eq!(first_of(ranges(), 5), (vec![range(0, 3), range(5, 7)], Some(QueueOffset(7))));
        assert_eq!(first_of(ranges(), 3), (vec![range(0, 3)], Some(QueueOffset(5))));
        assert_eq!(first_of(ranges(), 7), (ranges(), None));
    }
}
