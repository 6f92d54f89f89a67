//! What can go wrong with a plugin, and what to do about it.

use crate::filter::Refusal;
use crate::limits::{MEMORY_BYTES_MAX, MODULE_BYTES_MAX};

/// The host cannot run plugins at all.
#[derive(Clone, Debug, thiserror::Error)]
#[error("plugins cannot run here: {0}")]
pub struct HostError(pub(crate) String);

/// A plugin is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// It has too many bytes.
    #[error(
        "the plugin has {bytes} bytes and at most {MODULE_BYTES_MAX} are taken: build it with `--release` and strip its debug sections"
    )]
    TooLong {
        /// How many it has.
        bytes: usize,
    },
    /// It is no WebAssembly, or no valid one.
    #[error("the plugin is not a valid WebAssembly component or module: {0}")]
    Invalid(String),
    /// It is a core module that does not say which world it is made for.
    #[error(
        "the plugin is a core module that cannot be made a component: {0}; build it with a plugin SDK, or give it its world with \
         `wasm-tools component embed` and `wasm-tools component new`"
    )]
    NoComponent(String),
    /// It wants something from outside.
    #[error(
        "the plugin imports `{0}`, and a filter gets nothing from outside: build it for a target without a system, such as \
         wasm32-unknown-unknown"
    )]
    Import(String),
    /// It is not made for the world `filter` of `plugin-sdk/wit`.
    #[error("the plugin is no filter: {0}; it must export `sluice:plugin/filtering@1.0.0` as plugin-sdk/wit has it")]
    NoFilter(String),
    /// It failed when it was tried.
    #[error("the plugin failed its self-test (compiling an empty expression): {0}")]
    SelfTest(RunFailure),
}

/// An expression cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    /// No plugin of this digest is loaded; it may have given way to others, so load it again.
    #[error("no plugin of this digest is loaded")]
    Unknown,
    /// The plugin cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The expression is at fault, and whoever subscribes is told why.
    #[error("{0}")]
    Refused(Refusal),
    /// The plugin is at fault.
    #[error("the plugin failed to compile the expression: {0}")]
    Failed(#[from] RunFailure),
}

/// A call into a plugin failed as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunFailure {
    /// The guest trapped, for example in a panic.
    #[error("the plugin trapped: {0}")]
    Trap(String),
    /// It used up its fuel.
    #[error("the plugin used up its fuel of {0}")]
    Fuel(u64),
    /// It used up its wall-clock time.
    #[error("the plugin ran for more than {0} ms")]
    Time(u32),
    /// It failed after it was refused more memory.
    #[error("the plugin wanted more than its {0} bytes of memory (limits can grant at most {MEMORY_BYTES_MAX})")]
    Memory(u64),
    /// It answered what the contract does not have.
    #[error("the plugin's answer is not as the contract has it: {0}")]
    BadOutput(String),
    /// There was no instance to run it in.
    #[error("no instance could be started: {0}")]
    NoInstance(String),
}
