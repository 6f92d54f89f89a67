//! The decoders of what belongs to backups, and the record of a restoration.

use sluice_log::backup::{Manifest, checksum, checksum_place, is_place};
use sluice_log::formats;
use sluice_log::record::{Change, Restoration};
use sluice_protocol::batch::crc32c;
use sluice_protocol::ids::{Epoch, QueueOffset, TopicId};

use super::{put_checksum, survives};
use crate::targets::Target;

pub(in crate::targets) const RESTORED: Target = Target {
    name: "log-restored",
    valid: || vec![include_bytes!("../../../../../broker/log/golden/restored-1.bin").to_vec()],
    repair: |input| put_checksum(input, 40, |input| crc32c(&input[..40])),
    run: |input| survives(input, |bytes| formats::restored(bytes)),
    accepts: |input| formats::restored(input).is_some(),
};

pub(in crate::targets) const MANIFEST: Target = Target {
    name: "backup-manifest",
    valid: || vec![include_bytes!("../../../../../broker/log/golden/manifest-1.json").to_vec()],
    repair: |input| {
        if let (Some(sum), Some(place)) = (checksum(input), checksum_place(input.len())) {
            input[place].copy_from_slice(sum.as_bytes());
        }
    },
    run: |input| {
        if let Ok(manifest) = Manifest::decode(input) {
            assert!(manifest.encode().as_bytes() == input, "there is one text for it");
            assert!(
                manifest.files.iter().all(|file| is_place(&file.path)),
                "no path leads out of the backup"
            );
        }
    },
    accepts: |input| Manifest::decode(input).is_ok(),
};

/// A log that went on from a backup.
pub(super) fn change() -> Change {
    Change::Restored(Restoration {
        mark: [7; 16],
        epoch: Epoch(3),
        numbers: vec![(TopicId(3), QueueOffset(40)), (TopicId(5), QueueOffset(1))],
    })
}
