//! The manifest of a backup: which files belong to it, with size and digest, and where in the log it was taken.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sluice_protocol::limits::BACKUP_PATH_BYTES_MAX;

/// The version of a backup's format that this program writes and reads.
pub const BACKUP_VERSION: u32 = 1;
/// The name of the manifest in a backup's directory. It is written last.
pub const MANIFEST_NAME: &str = "manifest.json";

/// What a manifest's first field says.
const FORMAT: &str = "sluice-backup";
/// What stands for the checksum of the manifest while it is computed.
const NO_CHECKSUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The broker that it was taken of, as it calls itself.
    pub broker: String,
    /// Which log it is of: the same for all backups of one log, another once that was restored.
    pub log: String,
    /// Up to where of the log.
    pub position: u64,
    /// In which start of the broker.
    pub epoch: u32,
    /// When (the broker's wall clock, milliseconds).
    pub taken_ms: i64,
    /// Its files.
    pub files: Vec<BackupFile>,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupFile {
    /// Where it is in the backup, and in a data directory.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Its size in a data directory, where that is larger: what follows is zeros.
    pub room_bytes: u64,
    /// Of a segment that never changes, where in the log it begins.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub base: Option<u64>,
    /// The SHA-256 of its bytes, in lower-case hexadecimal digits.
    pub sha256: String,
}

/// Why bytes are not the manifest of a backup.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A newer program wrote it.
    #[error("the backup has format version {found} and this program reads version {BACKUP_VERSION}")]
    Version {
        /// The version found.
        found: u64,
    },
    /// It is not one, or not what was written.
    #[error("the manifest is damaged: {0}")]
    Damaged(String),
    /// It names a file that has no place in a backup.
    #[error("{0:?} is no place for a file of a backup")]
    Path(String),
}

/// The fields as they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    format: String,
    version: u32,
    broker: String,
    log: String,
    position: u64,
    epoch: u32,
    taken_ms: i64,
    files: Vec<BackupFile>,
    sha256: String,
}

impl Manifest {
    /// The manifest as its file holds it. It is the only text that stands for it, and has a checksum: every changed byte shows.
    pub fn encode(&self) -> String {
        let fields = Fields {
            format: FORMAT.to_owned(),
            version: BACKUP_VERSION,
            broker: self.broker.clone(),
            log: self.log.clone(),
            position: self.position,
            epoch: self.epoch,
            taken_ms: self.taken_ms,
            files: self.files.clone(),
            sha256: NO_CHECKSUM.to_owned(),
        };
        let mut text = serde_json::to_string_pretty(&fields).expect("texts and numbers are JSON") + "\n";
        let sum = checksum(text.as_bytes()).expect("the checksum is the last field");
        text.replace_range(checksum_place(text.len()).expect("the checksum is the last field"), &sum);
        text
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// [`ManifestError`] for whatever is not byte by byte what was written, and for one of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let damaged = |error: serde_json::Error| ManifestError::Damaged(error.to_string());
        let any: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
        if any.get("format").and_then(|format| format.as_str()) != Some(FORMAT) {
            return Err(ManifestError::Damaged("it does not say that it is one".to_owned()));
        }
        match any.get("version").and_then(serde_json::Value::as_u64) {
            Some(found) if found > u64::from(BACKUP_VERSION) => return Err(ManifestError::Version { found }),
            Some(_) | None => {}
        }
        let Fields {
            broker,
            log,
            position,
            epoch,
            taken_ms,
            files,
            ..
        } = serde_json::from_slice(bytes).map_err(damaged)?;
        let manifest = Self {
            broker,
            log,
            position,
            epoch,
            taken_ms,
            files,
        };
        if manifest.encode().as_bytes() != bytes {
            return Err(ManifestError::Damaged("it is not what its checksum says".to_owned()));
        }
        manifest.check_paths()?;
        Ok(manifest)
    }

    /// Demands that each file has a place of its own, within the backup.
    fn check_paths(&self) -> Result<(), ManifestError> {
        let mut paths = BTreeSet::new();
        let bad = self.files.iter().find(|file| !is_place(&file.path) || !paths.insert(&file.path));
        bad.map_or(Ok(()), |file| Err(ManifestError::Path(file.path.clone())))
    }
}

/// What the checksum of a manifest would be whose text this is; `None` when the text is too short to have one.
pub fn checksum(text: &[u8]) -> Option<String> {
    let place = checksum_place(text.len())?;
    let mut digest = Sha256::new();
    digest.update(&text[..place.start]);
    digest.update(NO_CHECKSUM);
    digest.update(&text[place.end..]);
    Some(hexadecimal(&digest.finalize()))
}

/// Where in a text of this length the checksum stands: it is the last field, before a quotation mark, a line feed, a bracket and a line feed.
pub fn checksum_place(length: usize) -> Option<std::ops::Range<usize>> {
    let end = length.checked_sub("\"\n}\n".len())?;
    Some(end.checked_sub(NO_CHECKSUM.len())?..end)
}

/// Whether a path is one that a file of a backup may have: certificate or key, or a plain name in the directory of the log or of the plugins.
/// Whoever writes files that somebody else names asks this first.
pub fn is_place(path: &str) -> bool {
    let plain = |name: &str| {
        let letters = name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        letters && !name.is_empty() && !name.starts_with('.')
    };
    path.len() <= BACKUP_PATH_BYTES_MAX
        && match path.split_once('/') {
            None => matches!(path, "certificate.pem" | "key.pem"),
            Some(("log" | "plugins", name)) => plain(name),
            Some(_) => false,
        }
}

/// Bytes as lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn manifest() -> Manifest {
        let file = |path: &str, bytes, room_bytes, base| BackupFile {
            path: path.to_owned(),
            bytes,
            room_bytes,
            base,
            sha256: hexadecimal(&Sha256::digest(path)),
        };
        Manifest {
            broker: "sluice 0.1.0".to_owned(),
            log: "0123456789abcdef0123456789abcdef".to_owned(),
            position: u64::MAX - 7,
            epoch: 4,
            taken_ms: 1_800_000_000_000,
            files: vec![
                file("log/format", 40, 40, None),
                file("log/segment-0000000000000003", 70_000, 70_000, Some(9)),
                file("log/segment-0000000000000004", 640, 4_096, None),
                file("plugins/abc.wasm", 7, 7, None),
                file("key.pem", 7, 7, None),
            ],
        }
    }

    #[test]
    fn every_changed_byte_of_a_manifest_shows() {
        let bytes = manifest().encode().into_bytes();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest()));
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[place] ^= 1 << bit;
                assert!(Manifest::decode(&changed).is_err(), "bit {bit} of byte {place}");
            }
            assert!(Manifest::decode(&bytes[..place]).is_err(), "cut at {place}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let text = manifest().encode().replacen("\"version\": 1", "\"version\": 2", 1);
        let refused = Manifest::decode(text.as_bytes()).unwrap_err();
        assert_eq!(refused, ManifestError::Version { found: 2 });
        assert!(
            refused.to_string().contains("version 2 and this program reads version 1"),
            "{refused}"
        );
    }

    #[test]
    fn no_path_leads_out_of_a_backup() {
        for bad in [
            "../x",
            "log/../x",
            "log/",
            "/log/x",
            "log/a/b",
            "log/.hidden",
            "log/a\\b",
            "manifest.json",
            "",
            "plugins/é",
            "ready.json",
        ] {
            assert!(!is_place(bad), "{bad}");
            let mut manifest = manifest();
            manifest.files[1].path = bad.to_owned();
            assert_eq!(
                Manifest::decode(manifest.encode().as_bytes()),
                Err(ManifestError::Path(bad.to_owned()))
            );
        }
        let mut twice = manifest();
        twice.files[1].path = twice.files[0].path.clone();
        assert!(matches!(Manifest::decode(twice.encode().as_bytes()), Err(ManifestError::Path(_))));
    }

    proptest! {
        #[test]
        fn a_manifest_survives(
            broker in ".{0,20}",
            numbers in any::<(u64, u32, i64)>(),
            files in prop::collection::btree_map("[a-z0-9-]{1,20}", any::<(u64, u64, Option<u64>)>(), 0..8),
        ) {
            let (position, epoch, taken_ms) = numbers;
            let files = files.into_iter().map(|(name, (bytes, room_bytes, base))| BackupFile {
                path: format!("log/{name}"),
                bytes,
                room_bytes,
                base,
                sha256: NO_CHECKSUM.to_owned(),
            });
            let manifest = Manifest { broker, log: "l".to_owned(), position, epoch, taken_ms, files: files.collect() };
            prop_assert_eq!(Manifest::decode(manifest.encode().as_bytes()), Ok(manifest));
        }
    }
}
