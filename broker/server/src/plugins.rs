//! The broker's plugins: modules kept by content in the data directory, which version serves which name, expressions compiled once.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sluice_core::effect::PluginInfo;
use sluice_log::record::PluginLimits;
use sluice_plugin_host::{self as host, CompileError, FilterHandle, Host, builtin};
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::Digest;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config;
use crate::limits;

/// The built-in plugins, by the names under which they are bound.
pub(crate) const BUILT_IN: [(&str, &[u8]); 2] = [("tag", builtin::FILTER_TAG), ("sql", builtin::FILTER_SQL)];

/// Loads, keeps and finds plugins. Shared by connections and verdict threads.
pub(crate) struct Plugins {
    host: Host,
    directory: PathBuf,
    defaults: PluginLimits,
    built_in: [Digest; 2],
    /// What serves which name; follows the core's bindings.
    bindings: Mutex<BTreeMap<String, (Digest, PluginLimits)>>,
    compiled: Mutex<HashMap<(Digest, PluginLimitsKey, String), FilterHandle>>,
    /// Modules are loaded and bound one at a time.
    loading: Semaphore,
}

type PluginLimitsKey = (u64, u64, u32, u64);

impl std::fmt::Debug for Plugins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plugins")
            .field("directory", &self.directory)
            .field("bindings", &self.bindings)
            .finish_non_exhaustive()
    }
}

/// Why an expression cannot be judged.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginFailure {
    /// The plugin does not compile it, or cannot be loaded.
    #[error(transparent)]
    Compile(#[from] CompileError),
    /// The module is not in the store.
    #[error("the module {path} cannot be read: {source}; load the plugin again")]
    Read {
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Plugins {
    /// The plugins of a data directory.
    ///
    /// # Errors
    /// When the directory of modules cannot be made.
    pub(crate) fn open(host: Host, data_dir: &Path, defaults: &config::Plugins) -> std::io::Result<Self> {
        let directory = data_dir.join("plugins");
        fs::create_dir_all(&directory)?;
        // What is bound is in the log: the directory must be there after a power cut.
        File::open(directory.join(".."))?.sync_all()?;
        let config::Plugins {
            fuel_per_run,
            fuel_per_message,
            run_ms,
            memory_bytes,
        } = *defaults;
        Ok(Self {
            host,
            directory,
            defaults: PluginLimits {
                fuel_per_run,
                fuel_per_message,
                run_ms,
                memory_bytes,
            },
            built_in: BUILT_IN.map(|(_, module)| Digest(host::digest(module))),
            bindings: Mutex::default(),
            compiled: Mutex::default(),
            loading: Semaphore::new(1),
        })
    }

    /// Where the modules are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// What a plugin may use unless its binding says otherwise.
    pub(crate) fn defaults(&self) -> PluginLimits {
        self.defaults
    }

    /// The host that runs them.
    pub(crate) fn host(&self) -> &Host {
        &self.host
    }

    /// Whether the broker carries this version.
    pub(crate) fn is_built_in(&self, digest: &Digest) -> bool {
        self.built_in.contains(digest)
    }

    /// The right to load and bind a plugin; nobody else does meanwhile.
    pub(crate) async fn alone(&self) -> SemaphorePermit<'_> {
        self.loading.acquire().await.expect("the right to load is never closed")
    }

    /// Follows the core's bindings.
    pub(crate) fn bound(&self, plugins: &[PluginInfo]) {
        *lock(&self.bindings) = plugins
            .iter()
            .map(|plugin| (plugin.name.clone(), (plugin.digest, plugin.limits)))
            .collect();
    }

    /// The version that serves a name now, and what it may use.
    pub(crate) fn binding(&self, name: &str) -> Option<(Digest, PluginLimits)> {
        lock(&self.bindings).get(name).copied()
    }

    /// Verifies a module and keeps it, durably, under the digest of its bytes.
    ///
    /// # Errors
    /// `BadPlugin` with what its author can do; `Internal` when it cannot be written.
    pub(crate) async fn store(self: &Arc<Self>, module: Bytes) -> Result<Digest, Refusal> {
        let plugins = self.clone();
        let stored = tokio::task::spawn_blocking(move || plugins.store_blocking(&module)).await;
        stored.unwrap_or_else(|error| Err(failed(&format!("a plugin could not be loaded: {error}"))))
    }

    fn store_blocking(&self, bytes: &[u8]) -> Result<Digest, Refusal> {
        let module = self
            .host
            .load(bytes)
            .map_err(|error| Refusal::new(ErrorCode::BadPlugin, error.to_string()))?;
        let digest = Digest(*module.digest());
        if !self.is_built_in(&digest) {
            self.write(digest, bytes)
                .map_err(|error| failed(&format!("a plugin could not be written: {error}")))?;
        }
        Ok(digest)
    }

    /// Writes the module beside its place, then puts it there: what bears a digest's name is whole.
    fn write(&self, digest: Digest, bytes: &[u8]) -> std::io::Result<()> {
        let path = self.path(digest);
        if path.exists() {
            return Ok(());
        }
        let part = path.with_extension("part");
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&part, &path)?;
        File::open(&self.directory)?.sync_all()
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join(format!("{digest}.wasm"))
    }

    /// Has the version that serves `plugin` now compile an expression.
    ///
    /// # Errors
    /// `NoSuchPlugin`; `BadExpression` with its place; `Internal` when the plugin failed.
    pub(crate) async fn check(self: &Arc<Self>, plugin: &str, expression: &str) -> Result<(), Refusal> {
        let (digest, limits) = self
            .binding(plugin)
            .ok_or_else(|| Refusal::new(ErrorCode::NoSuchPlugin, format!("no plugin is loaded as {plugin}")))?;
        if lock(&self.compiled).contains_key(&(digest, key(limits), expression.to_owned())) {
            return Ok(());
        }
        let (plugins, expression) = (self.clone(), expression.to_owned());
        let compiled = tokio::task::spawn_blocking(move || plugins.filter(digest, limits, &expression)).await;
        match compiled {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(PluginFailure::Compile(CompileError::Refused(refused)))) => {
                let refusal = Refusal::new(ErrorCode::BadExpression, refused.message);
                Err(match refused.at {
                    Some(place) => refusal.at(place),
                    None => refusal,
                })
            }
            Ok(Err(failure)) => Err(failed(&format!("the plugin {plugin} does not serve: {failure}"))),
            Err(error) => Err(failed(&format!("an expression could not be compiled: {error}"))),
        }
    }

    /// The expression as compiled by this version, compiled now if it was not before. Blocks while it compiles.
    ///
    /// # Errors
    /// [`PluginFailure`].
    pub(crate) fn filter(&self, digest: Digest, limits: PluginLimits, expression: &str) -> Result<FilterHandle, PluginFailure> {
        let name = (digest, key(limits), expression.to_owned());
        if let Some(filter) = lock(&self.compiled).get(&name) {
            return Ok(filter.clone());
        }
        let filter = match self.compile(digest, limits, expression) {
            Err(CompileError::Unknown) => {
                let path = self.path(digest);
                let bytes = fs::read(&path).map_err(|source| PluginFailure::Read { path, source })?;
                self.host.load(&bytes).map_err(CompileError::Load)?;
                self.compile(digest, limits, expression)?
            }
            compiled => compiled?,
        };
        let mut compiled = lock(&self.compiled);
        if compiled.len() >= limits::COMPILED_EXPRESSIONS_MAX {
            compiled.clear(); // rare, and each is compiled again in a millisecond when it is needed
        }
        compiled.insert(name, filter.clone());
        Ok(filter)
    }

    fn compile(&self, digest: Digest, limits: PluginLimits, expression: &str) -> Result<FilterHandle, CompileError> {
        let PluginLimits {
            fuel_per_run,
            fuel_per_message,
            run_ms,
            memory_bytes,
        } = limits;
        self.host.filter(
            &digest.0,
            expression,
            host::PluginLimits {
                fuel_per_run,
                fuel_per_message,
                run_ms,
                memory_bytes,
            },
        )
    }
}

fn key(limits: PluginLimits) -> PluginLimitsKey {
    (limits.fuel_per_run, limits.fuel_per_message, limits.run_ms, limits.memory_bytes)
}

fn failed(text: &str) -> Refusal {
    tracing::error!("{text}");
    Refusal::new(ErrorCode::Internal, text)
}

/// No code panics while it holds one of these, so what is inside is whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
