//! The files of a backup: made durable, read with their digest, and the directories that they go into.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use sluice_log::backup::{MANIFEST_NAME, Manifest, ManifestError, hexadecimal};

use crate::failure::Failure;

/// How much of a file is read at once.
const PIECE_BYTES: usize = 1 << 20;

/// A failure of the system at a path.
pub(super) fn failed(doing: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Failure {
    let text = format!("{doing} {} failed", path.display());
    move |error| Failure::failed(format!("{text}: {error}"))
}

/// A failure with the advice that goes with it.
pub(super) fn advised(text: String, advice: &str) -> Failure {
    Failure::Failed {
        text,
        advice: Some(advice.to_owned()),
        code: None,
    }
}

/// Makes a directory, for this user alone, that must not have anything in it.
pub(super) fn make_empty(directory: &Path) -> Result<(), Failure> {
    match fs::read_dir(directory) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(advised(
                format!("{} is not empty", directory.display()),
                "name a directory that is empty or does not exist; nothing was changed",
            )),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => make(directory),
        Err(error) => Err(failed("looking into", directory)(error)),
    }
}

/// Makes a directory for this user alone, and those above it.
pub(super) fn make(directory: &Path) -> Result<(), Failure> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(failed("making", directory))
}

/// Makes durable what a directory names.
pub(super) fn sync_directory(directory: &Path) -> Result<(), Failure> {
    let synced = File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(failed("syncing", directory))
}

/// A file that is written, for this user alone, with the digest of what was written.
pub(super) struct NewFile {
    path: PathBuf,
    file: File,
    digest: Sha256,
}

impl NewFile {
    /// Makes it; there must be none.
    pub(super) fn new(path: PathBuf) -> Result<Self, Failure> {
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        Ok(Self {
            file: made.map_err(failed("making", &path))?,
            path,
            digest: Sha256::new(),
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.digest.update(bytes);
        self.file.write_all(bytes).map_err(failed("writing", &self.path))
    }

    /// Makes it durable; gives the digest.
    pub(super) fn finish(self) -> Result<String, Failure> {
        self.file.sync_all().map_err(failed("syncing", &self.path))?;
        Ok(hexadecimal(&self.digest.finalize()))
    }
}

/// Reads a file to its end, a piece at a time; gives its size and its digest.
pub(super) fn read(path: &Path, mut each: impl FnMut(&[u8]) -> Result<(), Failure>) -> Result<(u64, String), Failure> {
    let mut file = File::open(path).map_err(failed("opening", path))?;
    let (mut piece, mut bytes, mut digest) = (vec![0; PIECE_BYTES], 0, Sha256::new());
    loop {
        let read = file.read(&mut piece).map_err(failed("reading", path))?;
        if read == 0 {
            return Ok((bytes, hexadecimal(&digest.finalize())));
        }
        digest.update(&piece[..read]);
        bytes += read as u64;
        each(&piece[..read])?;
    }
}

/// The manifest of a backup.
///
/// # Errors
/// There is none, since the backup was not finished; it is damaged; a newer program wrote it.
pub(super) fn manifest(backup: &Path) -> Result<Manifest, Failure> {
    let path = backup.join(MANIFEST_NAME);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(advised(
                format!(
                    "{} is no whole backup: it has no {MANIFEST_NAME}, which is written when all the rest is there",
                    backup.display()
                ),
                "name another backup; one that was not finished can be removed",
            ));
        }
        Err(error) => return Err(failed("reading", &path)(error)),
    };
    Manifest::decode(&bytes).map_err(|error| {
        let advice = match error {
            ManifestError::Version { .. } => "use the sluice that took it, or a newer one; nothing was changed",
            ManifestError::Damaged(_) | ManifestError::Path(_) => "name another backup, or a copy of this one; nothing was changed",
        };
        advised(format!("{}: {error}", path.display()), advice)
    })
}

/// Writes the manifest, which makes a backup of the files that lie there.
pub(super) fn put_manifest(backup: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let (path, part) = (backup.join(MANIFEST_NAME), backup.join("manifest.part"));
    let mut file = NewFile::new(part.clone())?;
    file.write(manifest.encode().as_bytes())?;
    file.finish()?;
    fs::rename(&part, &path).map_err(failed("renaming", &part))?;
    sync_directory(backup)
}
