//! Taking a backup: every file that the broker lists, as it sends them or from an earlier backup, and the manifest last.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use sluice_client::Backup;
use sluice_client::admin::BackupSource;
use sluice_log::RESTORED_NAME;
use sluice_log::backup::{BackupFile, Manifest, hexadecimal, is_place};
use tokio::time::Instant;

use super::Create;
use super::files::{self, NewFile, advised, failed};
use crate::connect::Broker;
use crate::failure::Failure;
use crate::output::Output;
use crate::times;

/// The directories of a backup.
const DIRECTORIES: [&str; 2] = ["log", "plugins"];
/// The files of a broker's identity, which are read here and never sent.
const IDENTITY: [&str; 2] = ["certificate.pem", "key.pem"];
/// The files that tell one log from another.
const FORMAT: &str = "log/format";

impl Create {
    pub(super) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        // What is wrong here is said before the broker holds anything ready.
        let base = self.base.as_deref().map(Base::read).transpose()?;
        let identity = self.identity.as_deref().map(identity).transpose()?;
        let client = broker.connect().await?;
        files::make_empty(&self.to)?;
        let backup = client.backup().await?;
        // Not before: whoever is refused may try again with the same directory.
        for directory in DIRECTORIES {
            files::make(&self.to.join(directory))?;
        }
        let mut taking = Taking {
            backup,
            to: self.to.clone(),
            pace: Pace::new(self.rate),
            files: BTreeMap::new(),
            linked_bytes: 0,
        };
        taking.all(base.as_ref()).await?;
        let Taking {
            backup,
            files,
            linked_bytes,
            ..
        } = taking;
        let cut = backup.cut().clone();
        backup.finish().await?;
        client.close().await;
        let mut manifest = Manifest {
            broker: cut.server,
            log: log_of(&self.to)?,
            position: cut.position,
            epoch: cut.epoch,
            taken_ms: cut.wall_ms,
            files: files.into_values().collect(),
        };
        for (name, bytes) in identity.into_iter().flatten() {
            manifest.files.push(put(&self.to, name, &bytes)?);
        }
        DIRECTORIES
            .iter()
            .try_for_each(|directory| files::sync_directory(&self.to.join(directory)))?;
        files::put_manifest(&self.to, &manifest)?;
        if let Some(above) = self.to.parent().filter(|above| !above.as_os_str().is_empty()) {
            files::sync_directory(above)?;
        }
        self.tell(&manifest, linked_bytes, output)
    }

    fn tell(&self, manifest: &Manifest, linked_bytes: u64, output: &mut Output) -> Result<(), Failure> {
        let bytes: u64 = manifest.files.iter().map(|file| file.bytes).sum();
        let has_key = manifest.files.iter().any(|file| file.path == IDENTITY[1]);
        output.show(
            || {
                json!({
                    "backup": self.to, "broker": manifest.broker, "log": manifest.log, "position": manifest.position, "epoch": manifest.epoch,
                    "taken_ms": manifest.taken_ms, "files": manifest.files.len(), "bytes": bytes, "bytes_of_base": linked_bytes,
                    "has_identity": has_key,
                })
            },
            || {
                let mut lines = vec![format!(
                    "{}: {} files of {bytes} bytes, {linked_bytes} of them from the base; the log to position {} as of {}",
                    self.to.display(),
                    manifest.files.len(),
                    manifest.position,
                    times::shown(manifest.taken_ms)
                )];
                if !has_key {
                    lines.push("the broker's certificate and key are not in it (--identity)".to_owned());
                }
                lines
            },
        )
    }
}

/// A backup that is being taken.
struct Taking {
    backup: Backup,
    to: PathBuf,
    pace: Pace,
    /// What was written, in the order of the list.
    files: BTreeMap<usize, BackupFile>,
    linked_bytes: u64,
}

impl Taking {
    /// Takes all files: first those that say which log it is, then those that the base does not have.
    async fn all(&mut self, base: Option<&Base>) -> Result<(), Failure> {
        let listed: Vec<BackupSource> = self.backup.files().to_vec();
        let mine = |file: &&BackupSource| is_place(&file.path) && file.path.contains('/');
        if let Some(file) = listed.iter().find(|file| !mine(file)) {
            return Err(Failure::failed(format!(
                "the broker names a file {:?}, which has no place in a backup",
                file.path
            )));
        }
        let telling = |file: &BackupSource| file.path == FORMAT || file.path == restored_path();
        for (place, file) in listed.iter().enumerate().filter(|(_, file)| telling(file)) {
            self.fetch(place, file).await?;
        }
        let base = match base {
            Some(base) if base.log == log_of(&self.to)? => Some(base),
            Some(base) => {
                return Err(advised(
                    format!(
                        "{} is a backup of another log, or from before this one was restored",
                        base.directory.display()
                    ),
                    "take the backup without --base, into another directory",
                ));
            }
            None => None,
        };
        for (place, file) in listed.iter().enumerate().filter(|(_, file)| !telling(file)) {
            match base.and_then(|base| base.has(file)) {
                Some((base, kept)) => self.link(place, base, kept)?,
                None => self.fetch(place, file).await?,
            }
        }
        Ok(())
    }

    async fn fetch(&mut self, place: usize, source: &BackupSource) -> Result<(), Failure> {
        let mut file = NewFile::new(self.to.join(&source.path))?;
        if source.bytes > 0 {
            let mut pieces = self.backup.read(place).await?;
            while let Some(piece) = pieces.next().await? {
                file.write(&piece)?;
                self.pace.took(piece.len()).await;
            }
        }
        // What is made durable takes its time: the broker waits for as long as a disk takes for one segment.
        let sha256 = tokio::task::block_in_place(|| file.finish())?;
        let file = BackupFile {
            path: source.path.clone(),
            bytes: source.bytes,
            room_bytes: source.room_bytes,
            base: source.base,
            sha256,
        };
        self.files.insert(place, file);
        Ok(())
    }

    /// A segment that an earlier backup has.
    fn link(&mut self, place: usize, base: &Path, kept: &BackupFile) -> Result<(), Failure> {
        let (from, to) = (base.join(&kept.path), self.to.join(&kept.path));
        if fs::hard_link(&from, &to).is_err() {
            let mut copy = NewFile::new(to.clone())?;
            files::read(&from, |piece| copy.write(piece))?;
            if copy.finish()? != kept.sha256 {
                return Err(Failure::failed(format!("{} changed while it was copied", from.display())));
            }
        }
        self.linked_bytes += kept.bytes;
        self.files.insert(place, kept.clone());
        Ok(())
    }
}

/// An earlier backup, as far as it is whole.
struct Base {
    directory: PathBuf,
    log: String,
    /// The segments that never change, by path.
    segments: BTreeMap<String, BackupFile>,
}

impl Base {
    /// Reads all that may be taken over, before a broker waits for it: what rotted is taken from the broker instead.
    fn read(directory: &Path) -> Result<Self, Failure> {
        let manifest = files::manifest(directory)?;
        let whole = |file: &BackupFile| {
            let read = files::read(&directory.join(&file.path), |_| Ok(()));
            read.is_ok_and(|(bytes, sha256)| bytes == file.bytes && sha256 == file.sha256)
        };
        let segments = manifest.files.into_iter().filter(|file| file.base.is_some() && whole(file));
        Ok(Self {
            directory: directory.to_owned(),
            log: manifest.log,
            segments: segments.map(|file| (file.path.clone(), file)).collect(),
        })
    }

    /// The same segment with the same content.
    fn has(&self, file: &BackupSource) -> Option<(&Path, &BackupFile)> {
        let kept = self.segments.get(&file.path)?;
        (file.base.is_some() && kept.base == file.base && kept.bytes == file.bytes).then_some((&self.directory, kept))
    }
}

/// How fast a backup is taken.
struct Pace {
    bytes_per_second: Option<u64>,
    begun: Instant,
    bytes: u64,
}

impl Pace {
    fn new(mebibytes: Option<u64>) -> Self {
        Self {
            bytes_per_second: mebibytes.map(|mebibytes| mebibytes.saturating_mul(1 << 20)),
            begun: Instant::now(),
            bytes: 0,
        }
    }

    /// Waits until so many more bytes may have been taken.
    async fn took(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        if let Some(rate) = self.bytes_per_second {
            let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
            tokio::time::sleep_until(self.begun + due).await;
        }
    }
}

fn restored_path() -> String {
    format!("log/{RESTORED_NAME}")
}

/// Which log the files are of that lie in a backup: the same for all backups of it, until it is restored.
fn log_of(backup: &Path) -> Result<String, Failure> {
    let mut digest = Sha256::new();
    for (path, must_be) in [(FORMAT.to_owned(), true), (restored_path(), false)] {
        let path = backup.join(path);
        if must_be || path.exists() {
            digest.update(fs::read(&path).map_err(failed("reading", &path))?);
        }
    }
    Ok(hexadecimal(&digest.finalize()[..16]))
}

/// Certificate and key of a data directory.
fn identity(data: &Path) -> Result<Vec<(&'static str, Vec<u8>)>, Failure> {
    let read = |name: &'static str| {
        let path = data.join(name);
        fs::read(&path).map(|bytes| (name, bytes)).map_err(failed("reading", &path))
    };
    IDENTITY.into_iter().map(read).collect()
}

fn put(backup: &Path, name: &str, bytes: &[u8]) -> Result<BackupFile, Failure> {
    let mut file = NewFile::new(backup.join(name))?;
    file.write(bytes)?;
    Ok(BackupFile {
        path: name.to_owned(),
        bytes: bytes.len() as u64,
        room_bytes: bytes.len() as u64,
        base: None,
        sha256: file.finish()?,
    })
}
