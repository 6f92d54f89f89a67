//! The shell around the core, in the order data meets it: listen, connection, session, admission, shard, disk, verdict, delivery.

mod admission;
mod answers;
mod assembly;
mod certificate;
mod clock;
pub mod config;
mod connection;
mod delivery;
mod disk;
mod frames;
pub mod judge;
pub mod limits;
mod listen;
mod lookup;
mod metrics;
mod panics;
mod plugins;
mod publish;
mod ready;
mod request;
mod retention;
mod running;
mod serving;
pub mod settings;
mod shard;
mod start;
mod subscription;
mod turn;
mod verdict;

pub use certificate::{Certificate, CertificateError};
pub use config::{Config, ConfigError};
pub use listen::{ALPN, ListenError};
pub use metrics::{Counter, Metrics, ProcessUsage};
pub use ready::{Ready, Replayed};
pub use running::{Failed, Running};
pub use start::{Server, StartError, log_directory};
