//! The start of a broker: everything is opened, recovered and begun in the order that lets nobody in too early.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;

use sluice_core::effect::{Answer, PluginInfo};
use sluice_core::input::{Admin, Input};
use sluice_core::{Core, CoreConfig};
use sluice_log::record::{OnFailure, TopicSettings};
use sluice_log::{FileStorage, Log, LogConfig, LogError, LogReader, LogWriter, Recovery, Restored, Start, Storage};
use sluice_plugin_host::{Host, HostConfig, HostError};
use sluice_protocol::errors::Refusal;
use sluice_protocol::ids::Digest;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::calendar;
use crate::certificate::{Certificate, CertificateError};
use crate::clock::{self, Clock};
use crate::config::{Config, ConfigError, Durability};
use crate::disk::{Disk, DiskThread};
use crate::health::{Health, Observed};
use crate::limits;
use crate::listen::{self, ListenError};
use crate::lookup::Lookup;
use crate::metrics::Metrics;
use crate::monitor::Monitor;
use crate::plugins::{BUILT_IN, Plugins};
use crate::questions::Questions;
use crate::ready::{Ready, Replayed};
use crate::renewal::{Current, Renewal};
use crate::retention::Retention;
use crate::running::Running;
use crate::serving::{Draining, Serving};
use crate::shard::{Mail, Outcome, Shard};
use crate::turn::{ShardThread, Stopping};
use crate::verdict::VerdictThread;

/// Starts brokers.
#[derive(Debug)]
pub struct Server;

/// Why a broker does not start; the text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory cannot be made or used.
    #[error("the data directory {path} cannot be used: {source}")]
    DataDirectory {
        /// Which directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A backup was being restored here.
    #[error("a restore into {path} was not finished: remove the directory and restore the backup again")]
    UnfinishedRestore {
        /// Which data directory.
        path: PathBuf,
    },
    /// The log cannot be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log holds what this version does not know.
    #[error("the log's checkpoint cannot be read: {0}")]
    Checkpoint(String),
    /// The certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The endpoint.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// Plugins.
    #[error(transparent)]
    Plugins(#[from] HostError),
    /// What was restored cannot be noted.
    #[error("that the log was restored cannot be noted: {0}")]
    Restored(Refusal),
    /// A built-in plugin cannot be bound.
    #[error("the built-in plugins cannot be bound: {0}")]
    Bind(Refusal),
    /// The system gives no random bytes, which a new log's secrets are made of.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// A thread cannot be started.
    #[error("a thread cannot be started: {0}")]
    Thread(std::io::Error),
    /// The ready file cannot be written.
    #[error("the ready file {path} cannot be written: {source}")]
    ReadyFile {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// The file that lies in a data directory while a backup is restored into it: no broker starts there.
pub const UNFINISHED_RESTORE: &str = "unfinished-restore";

/// Where the log lies within a data directory.
pub fn log_directory(data_dir: &Path) -> PathBuf {
    data_dir.join("log")
}

impl Server {
    /// Starts a broker on the runtime of the caller, which must have its time and network drivers; returns when it serves.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then, and what was stored is untouched but for what recovery makes good.
    pub async fn start(config: Config) -> Result<Running, StartError> {
        config.validate()?;
        if config.data_dir.join(UNFINISHED_RESTORE).exists() {
            return Err(StartError::UnfinishedRestore { path: config.data_dir });
        }
        let storage = FileStorage::new(log_directory(&config.data_dir)).map_err(|source| StartError::DataDirectory {
            path: config.data_dir.clone(),
            source,
        })?;
        Self::start_on(Arc::new(storage), config).await
    }

    /// As `start`, with the log on a storage of the caller's; everything else lies in the data directory, which must exist.
    ///
    /// # Errors
    /// As `start`.
    pub async fn start_on(storage: Arc<dyn Storage>, config: Config) -> Result<Running, StartError> {
        config.validate()?;
        let opening = config.clone();
        let runtime = Handle::current();
        let opened = tokio::task::spawn_blocking(move || open(storage, &opening, runtime)).await;
        let opened = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        serve(config, opened).await
    }
}

/// What is there before anybody is let in.
struct Opened {
    certificate: Certificate,
    endpoint: quinn::Endpoint,
    health: Arc<Health>,
    monitor: Option<Monitor>,
    plugins: Arc<Plugins>,
    reader: LogReader,
    epoch: u32,
    /// Whether the log goes on from a backup.
    restored: Option<Restored>,
    replayed: Replayed,
    core_config: CoreConfig,
    shard: Shard,
    metrics: Arc<Metrics>,
    disk: Disk,
    verdicts: Arc<Questions>,
    failure: watch::Receiver<Option<String>>,
    threads: Vec<thread::JoinHandle<()>>,
}

fn open(storage: Arc<dyn Storage>, config: &Config, runtime: Handle) -> Result<Opened, StartError> {
    let unusable = |source| StartError::DataDirectory {
        path: config.data_dir.clone(),
        source,
    };
    let log_config = LogConfig {
        segment_bytes: config.segment_bytes & !7,
        tail_cache_bytes: usize::try_from(config.tail_cache_bytes).unwrap_or(usize::MAX),
        ..LogConfig::default()
    };
    let mut random = [0; 24];
    getrandom::fill(&mut random).map_err(StartError::Random)?;
    // The log's lock comes first: a second process on the same directory must not touch anything else in it.
    let opened = Log::open(
        storage,
        log_config,
        Start {
            wall_ms: clock::wall_ms(),
            random,
        },
    )?;
    let certificate = match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => Certificate::read(certificate, key)?,
        (Some(_), None) | (None, Some(_)) | (None, None) => Certificate::read_or_make(&config.data_dir, config.listen.ip())?,
    };
    let health = Arc::new(Health::starting());
    let (endpoint, monitor) = {
        let _in_runtime = runtime.enter();
        let endpoint = listen::open(config, &certificate)?;
        let address = config.metrics_listen.address(config.listen);
        let monitor = address.map(|address| Monitor::serve(address, health.clone())).transpose()?;
        (endpoint, monitor)
    };
    let plugins = Arc::new(Plugins::open(Host::new(HostConfig::default())?, &config.data_dir, &config.plugins).map_err(unusable)?);
    let core_config = core_config(config);
    let restored = opened.recovery.restored;
    let (core, clock, epoch, replayed) = recover(core_config.clone(), opened.recovery)?;
    let mut writer = opened.writer;
    writer.keep_parts(&calendar::named(&core))?;
    let (shard, mail) = Shard::new(config.limits.inbox_bytes);
    let parts = Parts {
        config,
        runtime,
        core,
        clock,
        mail,
        writer,
        reader: &opened.reader,
        plugins: &plugins,
        shard: &shard,
    };
    let begun = parts.begin()?;
    Ok(Opened {
        certificate,
        endpoint,
        health,
        monitor,
        reader: opened.reader,
        epoch,
        restored,
        replayed,
        core_config,
        shard,
        plugins,
        metrics: begun.metrics,
        disk: begun.disk,
        verdicts: begun.verdicts,
        failure: begun.failure,
        threads: begun.threads,
    })
}

/// Rebuilds the core from the checkpoint and the records behind it.
fn recover(config: CoreConfig, recovery: Recovery) -> Result<(Core, Clock, u32, Replayed), StartError> {
    let Recovery {
        epoch,
        secret,
        next_position,
        restored: _,
        opened_at,
        checkpoint_entries,
        replay,
    } = recovery;
    let mut core = Core::new(config, secret);
    for entry in checkpoint_entries {
        core.restore(&entry).map_err(|error| StartError::Checkpoint(error.to_string()))?;
    }
    let mut replayed = Replayed::default();
    for record in replay {
        let (position, record) = record?;
        if replayed.records == 0 {
            replayed.bytes = next_position.0 - position.0;
        }
        replayed.records += 1;
        core.replay(position, &record);
    }
    let clock = Clock::from_opened(opened_at);
    core.start(epoch, next_position, clock.now());
    Ok((core, clock, epoch.0, replayed))
}

fn core_config(config: &Config) -> CoreConfig {
    let topic = TopicSettings {
        queues: config.topics.queues,
        retention_ms: config.topics.retention_ms,
        retention_bytes: config.topics.retention_bytes,
        ..CoreConfig::default().topic
    };
    CoreConfig {
        auto_create_topics: config.auto_create_topics,
        auto_create_groups: config.auto_create_groups,
        member_absent_ms: config.member_absent_ms,
        topic,
        near_ms: i64::try_from(config.delays.near_ms).ok(),
        ask_first_ms: config.transactions.ask_first_ms,
        ask_interval_ms: config.transactions.ask_interval_ms,
        asks_max: config.transactions.asks_max,
        ..CoreConfig::default()
    }
}

/// Everything that the threads are made of.
struct Parts<'a> {
    config: &'a Config,
    runtime: Handle,
    core: Core,
    clock: Clock,
    mail: mpsc::Receiver<Mail>,
    writer: LogWriter,
    reader: &'a LogReader,
    plugins: &'a Arc<Plugins>,
    shard: &'a Shard,
}

struct Begun {
    metrics: Arc<Metrics>,
    disk: Disk,
    verdicts: Arc<Questions>,
    failure: watch::Receiver<Option<String>>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Parts<'_> {
    /// Begins the threads: the shard's, the disk's, and those that judge.
    fn begin(self) -> Result<Begun, StartError> {
        let metrics = Arc::new(Metrics::default());
        let verdicts = Arc::new(Questions::default());
        let (work_sender, work) = mpsc::channel();
        let disk = Disk(work_sender);
        let (failure_sender, failure) = watch::channel(None);
        let shard_thread = ShardThread {
            core: self.core,
            clock: self.clock,
            mail: self.mail,
            disk: disk.clone(),
            verdicts: verdicts.clone(),
            asked: Vec::new(),
            lookup: Lookup {
                reader: self.reader.clone(),
                shard: self.shard.clone(),
                runtime: self.runtime,
            },
            metrics: metrics.clone(),
            failure: failure_sender,
            waiting: Default::default(),
            streams: Default::default(),
            answerers: Default::default(),
            stopping: Stopping::No,
        };
        let disk_thread = DiskThread::new(self.writer, work, self.shard.clone(), self.config.durability, metrics.clone());
        let mut threads = vec![
            spawn("shard", move || shard_thread.run())?,
            spawn("disk", move || disk_thread.run())?,
        ];
        for number in 0..self.config.verdict_threads {
            let thread = VerdictThread {
                questions: verdicts.clone(),
                reader: self.reader.clone(),
                plugins: self.plugins.clone(),
                shard: self.shard.clone(),
                metrics: metrics.clone(),
            };
            threads.push(spawn(&format!("verdict-{number}"), move || thread.run())?);
        }
        Ok(Begun {
            metrics,
            disk,
            verdicts,
            failure,
            threads,
        })
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>, StartError> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(StartError::Thread)
}

async fn serve(config: Config, opened: Opened) -> Result<Running, StartError> {
    if let Some(restored) = &opened.restored {
        note_restored(&opened.shard, restored).await.map_err(StartError::Restored)?;
    }
    bind_built_ins(&opened.shard, &opened.plugins).await.map_err(StartError::Bind)?;
    let (drain, draining) = Draining::new();
    let addresses = vec![opened.endpoint.local_addr().unwrap_or(config.listen)];
    let metrics_address = opened.monitor.as_ref().map(|monitor| monitor.address);
    let ready = Ready::new(&addresses, metrics_address, &opened.certificate, &config.data_dir, opened.replayed);
    let ready_file = config.ready_file.clone();
    if config.durability == Durability::Async {
        tracing::warn!("durability = \"async\": a crash of the machine may lose what was confirmed in the last 50 ms");
    }
    tracing::info!(
        version = %ready.version,
        listen = %ready.listen,
        metrics = ready.metrics.as_deref().unwrap_or("off"),
        data_dir = %ready.data_dir.display(),
        certificate = %ready.certificate.display(),
        certificate_sha256 = %ready.certificate_sha256,
        epoch = opened.epoch,
        replayed_bytes = ready.replayed_bytes,
        replayed_records = ready.replayed_records,
        "serving"
    );
    let retention = Retention {
        shard: opened.shard.clone(),
        reader: opened.reader.clone(),
        disk: opened.disk,
    };
    let serving = Arc::new(Serving {
        config,
        metrics: opened.metrics.clone(),
        shard: opened.shard.clone(),
        plugins: opened.plugins,
        reader: opened.reader,
        epoch: opened.epoch,
        group_defaults: opened.core_config.group,
        draining,
        pages: Semaphore::new(limits::PAGES_AT_ONCE),
        backups: Semaphore::new(limits::BACKUPS_AT_ONCE),
    });
    opened.health.serves(Observed {
        metrics: opened.metrics.clone(),
        shard: opened.shard.clone(),
        verdicts: opened.verdicts.clone(),
        draining: serving.draining(),
        failure: opened.failure.clone(),
        log_directory: log_directory(&serving.config.data_dir),
        epoch: opened.epoch,
    });
    let accepting = tokio::spawn(listen::accept(serving.clone(), opened.endpoint.clone()));
    if let Some(path) = &ready_file {
        ready.write(path).map_err(|source| StartError::ReadyFile {
            path: path.clone(),
            source,
        })?;
    }
    let renewal = Arc::new(Renewal {
        config: serving.config.clone(),
        endpoint: opened.endpoint.clone(),
        metrics: opened.metrics.clone(),
        draining: serving.draining(),
        current: Mutex::new(Current {
            certificate: opened.certificate,
            ready,
        }),
    });
    Ok(Running {
        renewing: tokio::spawn(renewal.clone().watch()),
        renewal,
        addresses,
        ready_file,
        metrics: opened.metrics,
        monitor: opened.monitor.map(Monitor::let_go),
        endpoint: opened.endpoint,
        drain,
        failure: opened.failure,
        accepting,
        retaining: tokio::spawn(retention.clone().run()),
        retention,
        shard: opened.shard,
        verdicts: opened.verdicts,
        threads: opened.threads,
    })
}

/// Has the core tell what is handed out from now on from what was handed out after the backup by the log that it was taken of.
async fn note_restored(shard: &Shard, restored: &Restored) -> Result<(), Refusal> {
    tracing::info!(
        position = restored.cut.0,
        restored_wall_ms = restored.wall_ms,
        "this log was restored from a backup"
    );
    let admin = Admin::Restored { mark: restored.mark };
    shard.ask(|request| Input::Admin { request, admin }).await.map(drop)
}

/// Binds the plugins that the broker carries under their names, where another version, or none, is bound.
async fn bind_built_ins(shard: &Shard, plugins: &Plugins) -> Result<(), Refusal> {
    let bound = list_plugins(shard).await?;
    for (name, module) in BUILT_IN {
        let digest = Digest(sluice_plugin_host::digest(module));
        if !bound.iter().any(|plugin| plugin.name == name && plugin.digest == digest) {
            let admin = Admin::BindPlugin {
                name: name.to_owned(),
                digest,
                limits: plugins.defaults(),
                on_failure: OnFailure::DeadLetter,
            };
            shard.ask(|request| Input::Admin { request, admin }).await?;
        }
    }
    plugins.bound(&list_plugins(shard).await?);
    Ok(())
}

async fn list_plugins(shard: &Shard) -> Result<Vec<PluginInfo>, Refusal> {
    match shard
        .ask(|request| Input::Admin {
            request,
            admin: Admin::ListPlugins,
        })
        .await?
    {
        Outcome::Answer(Answer::Plugins { plugins }) => Ok(plugins),
        _ => unreachable!("the core answers a list of plugins with plugins"),
    }
}
