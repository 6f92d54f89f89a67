//! Restoring a backup: verified, then copied into a data directory on which no broker starts before all of it is there.

use std::fs;
use std::path::Path;

use serde_json::json;
use sluice_log::backup::{BackupFile, Manifest};
use sluice_log::{FileStorage, RESTORED_NAME, Restored, Storage as _};
use sluice_protocol::ids::Position;
use sluice_server::{UNFINISHED_RESTORE, log_directory};

use super::Restore;
use super::files::{self, NewFile, failed};
use super::verify::{refuse_wrong, verify};
use crate::failure::Failure;
use crate::output::Output;
use crate::times;

impl Restore {
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let (manifest, wrong) = verify(&self.backup)?;
        refuse_wrong(&self.backup, &wrong)?;
        files::make_empty(&self.data)?;
        let unfinished = self.data.join(UNFINISHED_RESTORE);
        NewFile::new(unfinished.clone())?.finish()?;
        files::sync_directory(&self.data)?;
        files::make(&self.data.join("plugins"))?;
        let log = log_directory(&self.data);
        let storage = FileStorage::new(&log).map_err(failed("making", &log))?;
        let skipped = format!("log/{RESTORED_NAME}");
        for file in manifest.files.iter().filter(|file| file.path != skipped) {
            copy(&self.backup, &self.data, file)?;
            take_room(&storage, file)?;
        }
        restored(&manifest)?
            .write(&storage)
            .map_err(|error| Failure::failed(error.to_string()))?;
        files::sync_directory(&self.data.join("plugins"))?;
        files::sync_directory(&log)?;
        fs::remove_file(&unfinished).map_err(failed("removing", &unfinished))?;
        files::sync_directory(&self.data)?;
        self.tell(&manifest, output)
    }

    fn tell(&self, manifest: &Manifest, output: &mut Output) -> Result<(), Failure> {
        let has_key = manifest.files.iter().any(|file| file.path == "key.pem");
        output.show(
            || {
                json!({
                    "backup": self.backup, "data": self.data, "position": manifest.position, "taken_ms": manifest.taken_ms,
                    "has_identity": has_key,
                })
            },
            || {
                let mut lines = vec![format!(
                    "{} holds the broker as of {}; start it with `sluice serve --data {0}`",
                    self.data.display(),
                    times::shown(manifest.taken_ms)
                )];
                if !has_key {
                    lines.push(
                        "no certificate is in the backup: the broker makes another, unless you put certificate.pem and key.pem there first"
                            .to_owned(),
                    );
                }
                lines
            },
        )
    }
}

/// Copies a file, which must still be what it was when it was verified.
fn copy(backup: &Path, data: &Path, file: &BackupFile) -> Result<(), Failure> {
    let from = backup.join(&file.path);
    let mut copy = NewFile::new(data.join(&file.path))?;
    files::read(&from, |piece| copy.write(piece))?;
    match copy.finish()? == file.sha256 {
        true => Ok(()),
        false => Err(Failure::failed(format!("{} changed while it was copied", from.display()))),
    }
}

/// Takes the room of the segment that the log goes on in, so that it is not wanting when it is written.
fn take_room(storage: &FileStorage, file: &BackupFile) -> Result<(), Failure> {
    let Some(name) = file.path.strip_prefix("log/").filter(|_| file.room_bytes > file.bytes) else {
        return Ok(());
    };
    let take = || {
        let opened = storage.open(name)?;
        opened.allocate(file.bytes, file.room_bytes)?;
        opened.sync_data()
    };
    take().map_err(failed("taking room for", Path::new(&file.path)))
}

/// What tells the restored log from the one that was backed up.
fn restored(manifest: &Manifest) -> Result<Restored, Failure> {
    let mut mark = [0; 16];
    getrandom::fill(&mut mark).map_err(|error| Failure::failed(format!("the system gives no random bytes: {error}")))?;
    Ok(Restored {
        mark,
        cut: Position(manifest.position),
        wall_ms: times::now_ms(),
    })
}
