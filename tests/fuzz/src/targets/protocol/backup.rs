//! What a broker says of a backup.

use sluice_protocol::control;

/// What it holds.
pub(super) fn cut() -> control::BackupCut {
    control::BackupCut {
        server: "sluice 0.1.0".into(),
        position: 70_000,
        epoch: 3,
        wall_ms: 1_700_000_000_000,
        files: 2,
        bytes: 67_110_064,
    }
}

/// A list of its files.
pub(super) fn files() -> control::BackupFiles {
    let file = |path: &str, bytes, base| control::BackupFile {
        path: path.into(),
        bytes,
        room_bytes: 64 << 20,
        base,
    };
    control::BackupFiles {
        files: vec![
            file("log/segment-0000000000000003", 67_108_000, Some(0)),
            file("log/segment-0000000000000004", 2_064, None),
        ],
    }
}
