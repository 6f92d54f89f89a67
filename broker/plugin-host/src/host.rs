//! The host: one engine, the modules loaded into it, and the expressions compiled by them.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wasmtime::Engine;

use crate::builtin;
use crate::engine::engine;
use crate::error::{CompileError, HostError, LoadError, RunFailure};
use crate::filter::{Attribute, FilterHandle, Refusal};
use crate::instance::Instance;
use crate::limits::{COLUMNS_MAX, EXPRESSION_BYTES_MAX, MODULES_MAX, PluginLimits, REFUSAL_BYTES_MAX};
use crate::module::{Digest, Module, digest};
use crate::ticker::{Running, Ticker};

/// How a host is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostConfig {
    /// The instances that all workers may have together, 1 to 4,096. Each reserves 4 GiB of address space, not of memory.
    pub instances_max: u32,
}

impl Default for HostConfig {
    fn default() -> Self {
        Self { instances_max: 512 }
    }
}

/// Runs plugins. Cheap to clone; all clones are one host.
#[derive(Clone)]
pub struct Host(Arc<Shared>);

struct Shared {
    engine: Engine,
    ticker: Ticker,
    builtins: [(Digest, &'static [u8]); 2],
    /// The modules loaded, the one used last at the end.
    modules: Mutex<Vec<Module>>,
    /// Held while a module is compiled, so that none is compiled twice at once and a host compiles on one core at most.
    compiling: Mutex<()>,
}

impl Host {
    /// Reserves address space for the instances and starts the clock of their time limits. Nothing is compiled yet.
    ///
    /// # Errors
    ///
    /// When the system refuses the address space or the thread.
    pub fn new(config: HostConfig) -> Result<Self, HostError> {
        let instances_max = config.instances_max.clamp(1, 4_096);
        let engine = engine(instances_max).map_err(|error| {
            HostError(format!(
                "reserving address space for {instances_max} instances failed ({error:#}): lower their number or raise `ulimit -v`"
            ))
        })?;
        let ticker = Ticker::start(&engine).map_err(|error| HostError(format!("the clock's thread did not start ({error})")))?;
        let builtins = [builtin::FILTER_TAG, builtin::FILTER_SQL].map(|bytes| (digest(bytes), bytes));
        Ok(Self(Arc::new(Shared {
            engine,
            ticker,
            builtins,
            modules: Mutex::default(),
            compiling: Mutex::default(),
        })))
    }

    /// Verifies, compiles and tries a plugin: a component, or a core module that carries its component type (what
    /// `cargo build --target wasm32-unknown-unknown` makes with the SDK). What is already loaded is not compiled again.
    ///
    /// # Errors
    ///
    /// What is wrong with the plugin, and what its author can do about it.
    pub fn load(&self, bytes: &[u8]) -> Result<Module, LoadError> {
        self.load_as(digest(bytes), bytes)
    }

    /// The plugin of this digest: one that was loaded and has not given way to [`MODULES_MAX`] others since, or a built-in
    /// one, which is compiled now if it was not before.
    ///
    /// # Errors
    ///
    /// [`CompileError::Unknown`] when there is none.
    pub fn module(&self, digest: &Digest) -> Result<Module, CompileError> {
        match self.loaded(digest) {
            Some(module) => Ok(module),
            None => match self.0.builtins.iter().find(|(builtin, _)| builtin == digest) {
                Some((_, bytes)) => Ok(self.load_as(*digest, bytes)?),
                None => Err(CompileError::Unknown),
            },
        }
    }

    /// Has the plugin of this digest compile an expression, under these limits.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, it refuses the expression, or it fails at it.
    pub fn filter(&self, digest: &Digest, expression: &str, limits: PluginLimits) -> Result<FilterHandle, CompileError> {
        if expression.len() > EXPRESSION_BYTES_MAX {
            let message = format!("the expression has {} bytes and may have {EXPRESSION_BYTES_MAX}", expression.len());
            return Err(CompileError::Refused(Refusal { message, at: None }));
        }
        compile(self, self.module(digest)?, expression, limits)
    }

    /// Keeps the clock of time limits ticking.
    pub(crate) fn running(&self) -> Running<'_> {
        self.0.ticker.running()
    }

    fn load_as(&self, digest: Digest, bytes: &[u8]) -> Result<Module, LoadError> {
        let _compiling = self.0.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = self.loaded(&digest) {
            return Ok(module);
        }
        let module = Module::compile(&self.0.engine, digest, bytes)?;
        self_test(self, &module)?;
        let mut modules = self.modules();
        if modules.len() >= MODULES_MAX {
            modules.remove(0);
        }
        modules.push(module.clone());
        Ok(module)
    }

    fn loaded(&self, digest: &Digest) -> Option<Module> {
        let mut modules = self.modules();
        let place = modules.iter().rposition(|module| module.digest() == digest)?;
        let module = modules.remove(place);
        modules.push(module.clone());
        Some(module)
    }

    fn modules(&self) -> MutexGuard<'_, Vec<Module>> {
        // A list of modules is whole whenever the lock is free, even after a panic.
        self.0.modules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Host")
            .field("modules", &*self.modules())
            .finish_non_exhaustive()
    }
}

/// Has the plugin compile an empty expression: accepting or refusing it are both fine, failing is not.
fn self_test(host: &Host, module: &Module) -> Result<(), LoadError> {
    match compile(host, module.clone(), "", PluginLimits::default()) {
        Ok(_) | Err(CompileError::Refused(_) | CompileError::Unknown) => Ok(()),
        Err(CompileError::Load(error)) => Err(error),
        Err(CompileError::Failed(failure)) => Err(LoadError::SelfTest(failure)),
    }
}

fn compile(host: &Host, module: Module, expression: &str, limits: PluginLimits) -> Result<FilterHandle, CompileError> {
    let _running = host.running();
    let mut instance = Instance::start(&module, &limits)?;
    let expression = Arc::from(expression);
    let predicate = match instance.compile(&expression)? {
        Ok(predicate) => predicate,
        Err(refusal) => return Err(CompileError::Refused(cut(refusal, &expression))),
    };
    let columns = instance.columns(predicate)?;
    check_columns(&columns)?;
    let hint = instance.hint(predicate)?.map(Arc::new);
    Ok(FilterHandle {
        module,
        expression,
        limits,
        columns: columns.into(),
        hint,
    })
}

/// Keeps a refusal within bounds, and its place within the expression.
fn cut(mut refusal: Refusal, expression: &str) -> Refusal {
    refusal.message.truncate(refusal.message.floor_char_boundary(REFUSAL_BYTES_MAX));
    refusal.at = refusal.at.filter(|at| *at as usize <= expression.len());
    refusal
}

fn check_columns(columns: &[Attribute]) -> Result<(), CompileError> {
    if columns.len() > COLUMNS_MAX {
        let message = format!("the expression reads {} attributes and may read {COLUMNS_MAX}", columns.len());
        return Err(CompileError::Refused(Refusal { message, at: None }));
    }
    let mut seen = HashSet::new();
    match columns.iter().find(|column| !seen.insert(*column)) {
        Some(twice) => Err(RunFailure::BadOutput(format!("it asks for the column {twice:?} twice")).into()),
        None => Ok(()),
    }
}
