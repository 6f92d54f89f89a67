//! What a publish is refused for.

use sluice_protocol::batch::Batch;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::Sequence;

use crate::limits::PRODUCER_WINDOW;

/// A publish is of one producer, its sequences ascend (with gaps where admission took messages out) and lie within one window.
pub(super) fn check_runs(batch: &Batch) -> Result<(), Refusal> {
    let mut runs = batch.attributes().runs();
    let Some(first) = runs.next() else { return Ok(()) };
    let mut end = first.first_sequence.0 + u64::from(first.rows);
    for run in runs {
        if run.producer != first.producer || run.first_sequence.0 < end {
            return Err(Refusal::new(
                ErrorCode::BadMessage,
                "the messages of a publish have one producer and ascending sequences",
            ));
        }
        end = run.first_sequence.0 + u64::from(run.rows);
    }
    if end - first.first_sequence.0 > PRODUCER_WINDOW {
        let text = format!("the sequences of one publish lie within {PRODUCER_WINDOW} of each other");
        return Err(Refusal::new(ErrorCode::TooManyUnconfirmed, text));
    }
    Ok(())
}

pub(super) fn too_old(sequence: Sequence) -> Refusal {
    let text = format!("sequence {} lies before the producer's window of {PRODUCER_WINDOW}", sequence.0);
    Refusal::new(ErrorCode::SequenceTooOld, text)
}
