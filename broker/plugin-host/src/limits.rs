//! What bounds a plugin and the host, each with its reason.

/// What a plugin may use. Zero never means unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PluginLimits {
    /// Fuel for one call, whatever the number of messages. A unit is roughly one WebAssembly instruction.
    pub fuel_per_run: u64,
    /// Further fuel for each message of the run.
    pub fuel_per_message: u64,
    /// Wall-clock backstop for one call, in milliseconds.
    pub run_ms: u32,
    /// Linear memory of one instance, in bytes; at most [`MEMORY_BYTES_MAX`].
    pub memory_bytes: u64,
}

impl Default for PluginLimits {
    fn default() -> Self {
        Self {
            // Some ten instructions for each byte of a full view (1 MiB), about 5 ms: a run of one long message passes.
            fuel_per_run: 10_000_000,
            // Some ten instructions for each byte of the longest attributes (64 kB), about 0.3 ms; filters take 100 to 1,000.
            fuel_per_message: 650_000,
            // Far behind the fuel of a whole run (about 100 ms), so that on a busy machine too it is fuel that decides.
            run_ms: 1_000,
            // The guest's stack (1 MiB), the longest view, 1,024 compiled expressions, and as much again.
            memory_bytes: 16 << 20,
        }
    }
}

/// The messages of one run.
pub const MESSAGES_MAX: usize = 256;

/// A run ends with the message that takes its values to this many bytes.
pub const RUN_VALUE_BYTES: usize = 1 << 20;

/// The columns that one expression may ask for: with them an empty view still stays near 256 kB.
pub const COLUMNS_MAX: usize = 256;

/// An expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 64 << 10;

/// The text of a refusal, in bytes; what is longer is cut.
pub const REFUSAL_BYTES_MAX: usize = 1 << 10;

/// The bytes of a plugin: three times what a component of a garbage-collected language with its runtime takes.
pub const MODULE_BYTES_MAX: usize = 32 << 20;

/// The compiled modules that a host keeps; the one unused for longest gives way, and is compiled again when it is needed.
pub const MODULES_MAX: usize = 256;

/// The linear memory that any limits can grant.
pub const MEMORY_BYTES_MAX: u64 = 256 << 20;

/// The compiled expressions of one instance; the one unused for longest gives way.
pub(crate) const PREDICATES_MAX: usize = 1_024;

/// The instances of one worker (79 kB resident each); the one unused for longest gives way.
pub(crate) const INSTANCES_PER_WORKER_MAX: usize = 64;

/// Fuel to start an instance, and to compile one expression: about half a second.
pub(crate) const COMPILE_FUEL: u64 = 1_000_000_000;

/// Wall-clock backstop behind that, in milliseconds.
pub(crate) const COMPILE_MS: u32 = 5_000;

/// What the host copies out of a guest for one call, in bytes: the names of all columns, or the tags of a hint.
pub(crate) const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Entries of a guest's tables (function pointers).
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;

/// The native stack that a guest may use. Callers run on threads of 2 MiB.
pub(crate) const STACK_BYTES_MAX: usize = 512 << 10;

const _: () = assert!(MESSAGES_MAX.is_multiple_of(64), "verdicts are whole words");
const _: () = assert!(RUN_VALUE_BYTES < u32::MAX as usize / 4, "places in a view are 32 bits wide");
const _: () = assert!(MEMORY_BYTES_MAX < 4 << 30, "a memory fits the address space reserved for it");
