//! Runs plugins: untrusted WebAssembly, bounded in fuel, time, memory and output, behind one typed face a world.
//!
//! A [`Host`] is made once. [`Host::load`] verifies a plugin's bytes, [`Host::filter`] has it compile an expression and says which
//! columns the expression reads. Each thread that judges has a [`Worker`] (the instances live there, so threads share nothing but
//! compiled code) and a [`ViewWriter`]:
//!
//! ```
//! use sluice_plugin_host::{Attribute, Host, HostConfig, PluginLimits, Room, ViewWriter, Worker, builtin, digest};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let host = Host::new(HostConfig::default())?;
//! let filter = host.filter(&digest(builtin::FILTER_TAG), "red || green", PluginLimits::default())?;
//! assert_eq!(filter.columns(), [Attribute::Tag]);
//!
//! let mut worker = Worker::new(&host);
//! let mut writer = ViewWriter::new();
//! writer.begin(filter.columns().len());
//! for tag in ["red", "blue", "green"] {
//!     writer.text(0, tag.as_bytes());
//!     assert_eq!(writer.end_message(), Room::Left);
//! }
//! let run = writer.finish().ok_or("no messages")?;
//! let verdicts = worker.evaluate(&filter, run)?;
//! assert_eq!((verdicts.deliver[0], verdicts.failed[0]), (0b101, 0));
//! # Ok(())
//! # }
//! ```
//!
//! The loading of a module compiles it (some 20 ms for the built-in ones), so it and [`Host::filter`] belong on a thread that may
//! wait. The built-in plugins are known from the start by their digests and are compiled when they are first asked for.
//!
//! Guests are deterministic: no imports, canonical NaNs, no threads, and fuel decides long before the wall clock does.

pub mod builtin;
mod engine;
mod error;
mod filter;
mod host;
mod instance;
pub mod limits;
mod module;
mod ticker;
mod view;
mod worker;

pub use error::{CompileError, HostError, LoadError, RunFailure};
pub use filter::{Attribute, Bits, FilterHandle, Hint, Refusal, Verdicts};
pub use host::{Host, HostConfig};
pub use limits::PluginLimits;
pub use module::{Digest, Module, digest};
pub use view::{Room, View, ViewWriter};
pub use worker::Worker;
