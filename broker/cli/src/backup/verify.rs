//! Verifying a backup: every file is what the manifest says, none is there that it does not name, and the log is readable to the cut.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::json;
use sluice_log::backup::{BackupFile, Manifest};
use sluice_log::{FileStorage, inspect};

use super::Verify;
use super::files::{self, advised, failed};
use crate::failure::Failure;
use crate::output::Output;
use crate::times;

impl Verify {
    pub(super) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let (manifest, wrong) = verify(&self.backup)?;
        let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
        output.show(
            || {
                json!({
                    "backup": self.backup, "broker": manifest.broker, "log": manifest.log, "position": manifest.position,
                    "epoch": manifest.epoch, "taken_ms": manifest.taken_ms, "files": manifest.files.len(), "bytes": bytes,
                    "wrong": wrong,
                })
            },
            || {
                let taken = times::shown(manifest.taken_ms);
                let what = format!(
                    "{} files of {bytes} bytes, the log to position {}",
                    manifest.files.len(),
                    manifest.position
                );
                let mut lines = vec![format!("backup of {} as of {taken}: {what}", manifest.broker)];
                lines.extend(wrong.iter().cloned());
                lines
            },
        )?;
        output.flush()?;
        refuse_wrong(&self.backup, &wrong)
    }
}

/// The manifest of a backup, and all that is wrong with the backup, each with the name of its file.
///
/// # Errors
/// There is no manifest that can be read.
pub(super) fn verify(backup: &Path) -> Result<(Manifest, Vec<String>), Failure> {
    let manifest = files::manifest(backup)?;
    let mut wrong: Vec<String> = manifest.files.iter().filter_map(|file| wrong_with(backup, file)).collect();
    wrong.extend(strangers(backup, &manifest)?);
    // What is not what it was is not looked into: it may be anything.
    if wrong.is_empty() {
        wrong.extend(unreadable(backup, &manifest)?);
    }
    Ok((manifest, wrong))
}

/// Fails when something is wrong with a backup.
pub(super) fn refuse_wrong(backup: &Path, wrong: &[String]) -> Result<(), Failure> {
    let Some(first) = wrong.first() else { return Ok(()) };
    let more = match wrong.len() - 1 {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    Err(advised(
        format!("the backup {} is damaged: {first}{more}", backup.display()),
        "use another backup, or put a sound copy of the named file in its place; nothing was changed",
    ))
}

fn wrong_with(backup: &Path, file: &BackupFile) -> Option<String> {
    let BackupFile { path, bytes, sha256, .. } = file;
    match files::read(&backup.join(path), |_| Ok(())) {
        Ok((found, _)) if found != *bytes => Some(format!("{path} has {found} bytes and not {bytes}")),
        Ok((_, found)) if found != *sha256 => Some(format!("{path} is not what it was: its SHA-256 is {found} and not {sha256}")),
        Ok(_) => None,
        Err(Failure::Failed { text, .. }) => Some(format!("{path} cannot be read: {text}")),
        Err(_) => Some(format!("{path} cannot be read")),
    }
}

/// Files beside the log's that are not of the backup: a start would take them for the log's own.
fn strangers(backup: &Path, manifest: &Manifest) -> Result<Vec<String>, Failure> {
    let named: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
    let directory = backup.join("log");
    let mut strangers = Vec::new();
    for entry in fs::read_dir(&directory).map_err(failed("listing", &directory))? {
        let path = format!(
            "log/{}",
            entry.map_err(failed("listing", &directory))?.file_name().to_string_lossy()
        );
        if !named.contains(path.as_str()) {
            strangers.push(format!("{path} does not belong to the backup"));
        }
    }
    strangers.sort();
    Ok(strangers)
}

/// What a broker could not read of the log.
fn unreadable(backup: &Path, manifest: &Manifest) -> Result<Vec<String>, Failure> {
    let directory = backup.join("log");
    let storage = FileStorage::existing(&directory).map_err(failed("opening", &directory))?;
    let report = inspect(&storage).map_err(|error| Failure::failed(error.to_string()))?;
    let damage = report.damage.iter().map(|damage| {
        format!(
            "log/{} cannot be read at position {}, {} bytes: {}; it was so when the backup was taken",
            damage.file, damage.position.0, damage.bytes, damage.reason
        )
    });
    let mut wrong: Vec<String> = damage.collect();
    if wrong.is_empty() && report.end.0 != manifest.position {
        wrong.push(format!(
            "the log is readable to position {} and not to {}",
            report.end.0, manifest.position
        ));
    }
    Ok(wrong)
}
