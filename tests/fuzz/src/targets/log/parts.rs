//! Parts of the calendar: their file, and the records of them.

use bytes::Bytes;
use sluice_log::formats;
use sluice_log::record::{Change, FarOff, PartChange, PartFacts, PartId};
use sluice_protocol::batch::crc32c;
use sluice_protocol::ids::{QueueOffset, TopicId};

use super::{Target, put_checksum, survives};

/// The frame secret of the log that gives the valid input.
const SECRET: u64 = 0x0707_0707_0707_0707;

pub(in super::super) const PART: Target = Target {
    name: "log-part",
    valid: || vec![include_bytes!("../../../../../broker/log/golden/part-1.bin").to_vec()],
    repair,
    run: |input| survives(input, |bytes| formats::part(SECRET, bytes)),
    accepts: |input| formats::part(SECRET, &Bytes::copy_from_slice(input)).is_some(),
};

/// Seals a part again from the inside out: names, directory, beginning.
fn repair(input: &mut [u8]) {
    let number = |input: &[u8], at: usize| {
        let bytes = input.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
    };
    let secret = SECRET.to_le_bytes();
    let directory = usize::try_from(number(input, 76)).unwrap_or(usize::MAX).min(input.len());
    for entry in (directory..input.len().saturating_sub(47)).step_by(48) {
        let at = usize::try_from(number(input, entry + 24)).unwrap_or(usize::MAX).min(input.len());
        let names = (number(input, entry + 32) as u32 as usize).saturating_mul(24).min(input.len() - at);
        put_checksum(input, entry + 36, |input| crc32c(&input[at..at + names]));
    }
    put_checksum(input, 84, |input| crc32c(&[&secret, &input[directory..]].concat()));
    put_checksum(input, 100, |input| crc32c(&[&secret, &input[..100]].concat()));
}

/// A record of each kind.
pub(super) fn changes() -> Vec<Change> {
    let far = |at_ms, number| FarOff {
        at_ms,
        topic: TopicId(3),
        number: QueueOffset(number),
    };
    let (part, message) = (PartId(64), far(1_800_000_000_000, 7));
    let changes = [
        PartChange::Written {
            part,
            facts: PartFacts {
                messages: 2,
                bytes: 500,
                first: message,
                last: far(1_900_000_000_000, 2),
            },
            moved: vec![message; 2],
            absorbed: vec![PartId(9)],
            dead: vec![message],
        },
        PartChange::TakenIn {
            part,
            taken: vec![message; 3],
            passed: 4,
            point: message,
            next_ms: Some(9),
        },
        PartChange::Recalled { part, message },
        PartChange::Dropped { part },
    ];
    changes.map(Change::Parts).into()
}
