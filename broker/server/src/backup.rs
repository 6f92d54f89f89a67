//! A backup for one client: the log's files as they were at one place and the plugins' modules, in pieces, as fast as the client takes them.

use std::fs::{self, File};
use std::future::Future;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use quinn::SendStream;
use sluice_log::backup::is_place;
use sluice_log::{LogError, Snapshot, SnapshotReader};
use sluice_protocol::control::{BackupCut, BackupFile, BackupFiles, ReadBackup};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::frame::{self, FrameKind};
use sluice_protocol::limits::{BACKUP_FILES_MAX, BACKUP_PIECE_BYTES_MAX};
use tokio::time::timeout;

use crate::clock;
use crate::connection::{Client, SERVER, unexpected};
use crate::frames::{self, Broken, FrameReader};
use crate::limits;
use crate::serving::{Serving, shutting_down};

/// Lists the files of a backup to the client and sends each that it asks for, until it ends its stream.
///
/// # Errors
/// `BackupRunning` when another client is at it; `BackupLost`, `BackupStalled`, `NoSuchBackupFile`.
pub(crate) async fn run(client: &Arc<Client>, send: &mut SendStream, reader: &mut FrameReader) -> Result<(), Broken> {
    let serving = &client.serving;
    let Ok(_alone) = serving.backups.try_acquire() else {
        return Err(Refusal::plain(ErrorCode::BackupRunning).into());
    };
    let backup = take(serving).await?;
    tracing::info!(client = %client.name, position = backup.snapshot.cut.0, files = backup.files.len(), bytes = backup.bytes(), "a backup begins");
    let sent = serve(serving, &backup, send, reader).await;
    let (client, position) = (&client.name, backup.snapshot.cut.0);
    match &sent {
        Ok(()) => {
            serving.metrics.backups_sent.one();
            tracing::info!(%client, position, "the backup was sent");
        }
        Err(broken) => {
            serving.metrics.backups_ended_early.one();
            let why = match broken {
                Broken::Refused(refusal) => refusal.to_string(),
                Broken::Gone => "its client is gone".to_owned(),
            };
            tracing::warn!(%client, position, %why, "a backup ends early");
        }
    }
    sent
}

/// What a backup is made of.
struct Backup {
    snapshot: Arc<Snapshot>,
    /// Those of the log, in the order of the snapshot, then the plugins' modules.
    files: Vec<Source>,
}

/// A file of a backup.
struct Source {
    facts: BackupFile,
    from: From,
}

/// Where a file comes from.
#[derive(Clone)]
enum From {
    /// The snapshot, by its place there.
    Log(usize),
    /// The directory of plugins, where nothing that has its name is ever changed or removed.
    Plugin(PathBuf),
}

impl Backup {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.facts.bytes).sum()
    }
}

/// Takes a snapshot of the log, then finds the modules: what the log at that place speaks of was written before.
async fn take(serving: &Serving) -> Result<Backup, Refusal> {
    let snapshot = serving.shard.snapshot().await?.map_err(|error| unreadable(&error))?;
    let plugins = serving.plugins.directory().to_owned();
    let taken = tokio::task::spawn_blocking(move || {
        let of_log = snapshot.files.iter().enumerate().filter_map(|(place, file)| {
            let path = format!("log/{}", file.name);
            let facts = BackupFile {
                bytes: file.bytes,
                room_bytes: file.room_bytes,
                base: file.sealed.map(|base| base.0),
                path,
            };
            wanted(Source {
                facts,
                from: From::Log(place),
            })
        });
        let mut files: Vec<Source> = of_log.collect();
        files.extend(modules(&plugins)?);
        let snapshot = Arc::new(snapshot);
        Ok(Backup { snapshot, files })
    });
    let taken: std::io::Result<Backup> = taken.await.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
    taken.map_err(|error| failed(&format!("the plugins cannot be listed: {error}")))
}

/// Leaves out what the broker never names so, and says it.
fn wanted(source: Source) -> Option<Source> {
    let wanted = is_place(&source.facts.path);
    if !wanted {
        tracing::warn!(file = %source.facts.path, "a file that no broker wrote is left out of the backup");
    }
    wanted.then_some(source)
}

fn modules(directory: &Path) -> std::io::Result<Vec<Source>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let (path, bytes) = (entry.path(), entry.metadata()?.len());
        if path.extension().is_some_and(|extension| extension == "wasm") {
            modules.extend(wanted(Source {
                facts: BackupFile {
                    path: format!("plugins/{}", entry.file_name().to_string_lossy()),
                    bytes,
                    room_bytes: bytes,
                    base: None,
                },
                from: From::Plugin(path),
            }));
        }
    }
    Ok(modules)
}

async fn serve(serving: &Serving, backup: &Backup, send: &mut SendStream, reader: &mut FrameReader) -> Result<(), Broken> {
    let cut = BackupCut {
        server: SERVER.to_owned(),
        position: backup.snapshot.cut.0,
        epoch: backup.snapshot.epoch.0,
        wall_ms: clock::wall_ms(),
        files: u32::try_from(backup.files.len()).unwrap_or(u32::MAX),
        bytes: backup.bytes(),
    };
    in_time(frames::write(send, frame::message(FrameKind::BackupCut, &cut))).await?;
    for files in backup.files.chunks(BACKUP_FILES_MAX) {
        let files = files.iter().map(|file| file.facts.clone()).collect();
        in_time(frames::write(send, frame::message(FrameKind::BackupFiles, &BackupFiles { files }))).await?;
    }
    let mut draining = serving.draining();
    loop {
        let asked = tokio::select! {
            asked = in_time(reader.next()) => asked?,
            () = draining.begun() => return Err(shutting_down().into()),
        };
        match asked {
            Some((kind @ FrameKind::ReadBackup, frame)) => {
                let ReadBackup { file } = frame.message(kind).map_err(Refusal::from)?;
                let file = backup
                    .files
                    .get(file as usize)
                    .ok_or_else(|| Refusal::plain(ErrorCode::NoSuchBackupFile))?;
                tokio::select! {
                    sent = send_file(serving, backup, file, send) => sent?,
                    () = draining.begun() => return Err(shutting_down().into()),
                }
            }
            Some((kind, _)) => return Err(unexpected(kind)),
            None => {
                frames::finish(send).await;
                return Ok(());
            }
        }
    }
}

/// Sends a file: while one piece is taken by the client, the next is read.
async fn send_file(serving: &Serving, backup: &Backup, file: &Source, send: &mut SendStream) -> Result<(), Broken> {
    let (snapshot, from) = (backup.snapshot.clone(), file.from.clone());
    let opened = blocking(move || match from {
        From::Log(place) => snapshot.open(place).map(Open::Log).map_err(|error| unreadable(&error)),
        From::Plugin(path) => File::open(&path)
            .map(Open::Plugin)
            .map_err(|error| failed(&format!("{} cannot be opened: {error}", path.display()))),
    });
    let (open, bytes) = (Arc::new(opened.await?), file.facts.bytes);
    let mut at = 0;
    let mut piece = read(&open, at, bytes).await?;
    while !piece.is_empty() {
        let taken = piece.len() as u64;
        at += taken;
        let header = Bytes::copy_from_slice(&frame::header(FrameKind::BackupPiece, piece.len()));
        let mut chunks = [header, piece];
        let (written, next) = tokio::join!(
            in_time(async { send.write_all_chunks(&mut chunks).await.map_err(|_| Broken::Gone) }),
            read(&open, at, bytes)
        );
        written?;
        serving.metrics.backup_bytes.add(taken);
        piece = next?;
    }
    Ok(())
}

/// A file that is sent.
enum Open {
    Log(SnapshotReader),
    Plugin(File),
}

async fn read(open: &Arc<Open>, at: u64, bytes: u64) -> Result<Bytes, Refusal> {
    let piece_bytes = (bytes - at).min(BACKUP_PIECE_BYTES_MAX as u64) as usize;
    if piece_bytes == 0 {
        return Ok(Bytes::new());
    }
    let open = open.clone();
    blocking(move || match &*open {
        Open::Log(file) => file.read(at, piece_bytes).map(Bytes::from).map_err(|error| unreadable(&error)),
        Open::Plugin(file) => {
            let mut piece = vec![0; piece_bytes];
            let read = file.read_exact_at(&mut piece, at);
            read.map(|()| Bytes::from(piece))
                .map_err(|error| failed(&format!("a plugin cannot be read: {error}")))
        }
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// A client that neither asks nor takes holds up retention: it is given up.
async fn in_time<T>(step: impl Future<Output = Result<T, Broken>>) -> Result<T, Broken> {
    let stalled = || Refusal::plain(ErrorCode::BackupStalled);
    timeout(limits::BACKUP_PATIENCE, step).await.map_err(|_| stalled())?
}

fn unreadable(error: &LogError) -> Refusal {
    match error {
        LogError::SnapshotLost => Refusal::plain(ErrorCode::BackupLost),
        error => failed(&format!("the log cannot be read for a backup: {error}")),
    }
}

fn failed(text: &str) -> Refusal {
    tracing::error!("{text}");
    Refusal::new(ErrorCode::Internal, text)
}
