//! What a group did with a message, record by record, as clients see it.

use bytes::Bytes;
use sluice_log::record::{Change, CursorId, Holder, Operation, Record, Transaction};
use sluice_log::{BatchPlace, LogError, LogReader};
use sluice_protocol::control::explanation::Step;
use sluice_protocol::control::message_event::{Delivered, Failed, What};
use sluice_protocol::control::{Explanation, MessageEvent};
use sluice_protocol::ids::{Pass, QueueOffset};

use crate::limits::HISTORY_EVENTS_MAX;
use crate::operate::reason_of;

/// Adds to an explanation what the log says of the message. Blocks while it reads.
pub(super) fn tell(
    reader: &LogReader,
    cursor: CursorId,
    offset: QueueOffset,
    place: &BatchPlace,
    told: &mut Explanation,
) -> Result<(), LogError> {
    let history = reader.history(cursor, offset, place.position, HISTORY_EVENTS_MAX)?;
    told.history = history
        .records
        .iter()
        .filter_map(|(_, record)| event(record, cursor, offset))
        .collect();
    told.more_history = history.cut;
    Ok(())
}

/// Whether the last that happened to the message in this pass is that it expired.
pub(super) fn ends_expired(history: &[MessageEvent], pass: Pass) -> bool {
    let last = history.iter().rev().find(|event| event.pass == pass.0);
    matches!(last.and_then(|event| event.what.as_ref()), Some(What::Expired(_)))
}

/// What became of a message that was delayed or prepared and neither waits nor has a place in a queue; `None` when it was released and retention
/// took it since, or the log does not say.
pub(super) fn end(history: &[MessageEvent]) -> Option<Step> {
    match history.last()?.what.as_ref()? {
        What::Recalled(_) => Some(Step::Recalled(true)),
        What::RolledBackBy(_) => Some(Step::RolledBack(true)),
        What::GivenUp(_) => Some(Step::GivenUp(true)),
        _ => None,
    }
}

fn event(record: &Record, cursor: CursorId, offset: QueueOffset) -> Option<MessageEvent> {
    let (pass, what) = match &record.change {
        Change::Granted { pass, holder, leases, .. } => {
            let of = |lease: &&sluice_log::record::LeaseRange| (lease.offsets.first..lease.offsets.end).contains(&offset);
            let attempt = leases.iter().find(of)?.attempt.0.into();
            let (member, stream) = match holder {
                Holder::Stream { member } => (member.clone(), true),
                Holder::Receive { member } => (member.clone(), false),
            };
            (*pass, What::Delivered(Delivered { member, stream, attempt }))
        }
        Change::Returned { pass, reason, .. } => (*pass, What::Returned(reason_of(*reason).into())),
        Change::Extended { pass, .. } => (*pass, What::Extended(true)),
        Change::Settled { pass, .. } => (*pass, What::Settled(true)),
        Change::Expired { pass, .. } => (*pass, What::Expired(true)),
        Change::DeadLettered { pass, at_offset, .. } => (*pass, What::DeadLettered(at_offset.0)),
        Change::CulpritDecided { pass, digest, reason, .. } => {
            let digest = Bytes::copy_from_slice(&digest.0);
            (
                *pass,
                What::Failed(Failed {
                    digest,
                    reason: reason.clone(),
                }),
            )
        }
        Change::Sought { pass, starts, .. } => {
            let start = starts.iter().find(|start| start.queue == cursor.queue)?;
            (*pass, What::MovedTo(start.offset.0))
        }
        Change::Operated(operated) => match &operated.operation {
            Operation::Skipped { pass, .. } => (*pass, What::SkippedBy(operated.by.clone())),
            Operation::DeadLettersDealt { back, .. } => {
                let sent = back.iter().find(|sent| sent.cursor == cursor)?;
                (sent.pass, What::SentBackBy(operated.by.clone()))
            }
            Operation::Paused { .. } | Operation::Unpaused { .. } | Operation::TopicGrown { .. } | Operation::Absent { .. } => {
                return None;
            }
        },
        // What became of it before it had a place in a queue was not done in any pass.
        Change::Recalled { .. } => (Pass(0), What::Recalled(true)),
        Change::Transaction(transaction) => match transaction {
            Transaction::Committed { by, .. } => (Pass(0), What::CommittedBy(by.clone())),
            Transaction::RolledBack { by, .. } => (Pass(0), What::RolledBackBy(by.clone())),
            Transaction::GivenUp { .. } => (Pass(0), What::GivenUp(true)),
            Transaction::Revived { by, .. } => (Pass(0), What::RevivedBy(by.clone())),
            Transaction::Prepared { .. } | Transaction::Asked { .. } => return None,
        },
        // Nothing else deals with one message of a group.
        _ => return None,
    };
    Some(MessageEvent {
        at_wall_ms: record.at.wall_ms,
        pass: pass.0,
        what: Some(what),
    })
}
