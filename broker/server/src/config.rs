//! The configuration: what a TOML file may say, its defaults, and what is refused before anything starts.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluice_core::CoreConfig;
use sluice_plugin_host::PluginLimits;

pub use crate::metrics_listen::MetricsListen;
use crate::settings::{self, Range, Value};

/// Every setting of a broker. Each key is documented in `settings::SETTINGS`, which `docs/configuration.md` is made from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the broker keeps everything.
    pub data_dir: PathBuf,
    /// The address to serve at; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Allows an address beyond loopback although nobody is authenticated.
    pub allow_unauthenticated_remote: bool,
    /// Where metrics and health are served over HTTP.
    pub metrics_listen: MetricsListen,
    /// PEM file with the certificate chain; without one a certificate is made in the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// PEM file with the key of `certificate_file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Where to write the ready file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_file: Option<PathBuf>,
    /// What is logged.
    pub log_level: LogLevel,
    /// How a line of the log looks.
    pub log_format: LogFormat,
    /// When a message counts as stored.
    pub durability: Durability,
    /// Size of a log segment.
    pub segment_bytes: u64,
    /// Memory for the newest frames of the log.
    pub tail_cache_bytes: u64,
    /// Create a topic on first publish.
    pub auto_create_topics: bool,
    /// Create a group on first use.
    pub auto_create_groups: bool,
    /// After so long without a stream or a receive a member of a broadcast group is forgotten, in milliseconds.
    pub member_absent_ms: u64,
    /// Threads that run plugins.
    pub verdict_threads: u32,
    /// How long a stop may take.
    pub drain_ms: u64,
    /// What new topics get.
    pub topics: Topics,
    /// Where delayed messages wait.
    pub delays: Delays,
    /// How producers are asked about prepared messages.
    pub transactions: Transactions,
    /// What clients may use.
    pub limits: Limits,
    /// What a plugin may use unless its binding says otherwise.
    pub plugins: Plugins,
}

/// What topics get that are created without settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// Queues of a topic.
    pub queues: u16,
    /// How long messages are kept.
    pub retention_ms: u64,
    /// How many bytes are kept.
    pub retention_bytes: u64,
}

/// Where delayed messages wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delays {
    /// What is due within so many milliseconds waits in memory, and what is due after more than twice as many in a file.
    pub near_ms: u64,
}

/// How producers are asked about prepared messages that nobody decided about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Transactions {
    /// When they are asked first.
    pub ask_first_ms: u64,
    /// When they are asked again.
    pub ask_interval_ms: u64,
    /// How often they are asked.
    pub asks_max: u16,
}

/// What clients may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// The largest body of a message.
    pub body_bytes: u32,
    /// The largest frame.
    pub frame_bytes: u32,
    /// How long a client may take to finish a frame.
    pub frame_ms: u32,
    /// Connections at a time.
    pub connections: u32,
    /// Streams that a client may have open on a connection.
    pub streams: u32,
    /// Messages that a producer stream may have unconfirmed.
    pub unconfirmed: u32,
    /// What the shard has been asked and has not answered.
    pub inbox_bytes: u64,
}

/// What a plugin may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// Fuel for one call.
    pub fuel_per_run: u64,
    /// Further fuel for each message of the call.
    pub fuel_per_message: u64,
    /// Wall-clock backstop of one call.
    pub run_ms: u32,
    /// Linear memory of an instance.
    pub memory_bytes: u64,
}

/// When a message counts as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// When the disk has confirmed it.
    Sync,
    /// When it is written; the disk confirms within 50 ms. A crash of the machine may lose that much.
    Async,
}

/// What is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// What an operator must look at.
    Error,
    /// What may need a look.
    Warn,
    /// Starts, stops, and administrative changes.
    Info,
    /// Connections and streams.
    Debug,
    /// Everything.
    Trace,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

impl LogFormat {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl LogLevel {
    /// Its name, as filters of log output write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

impl Durability {
    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Async => "async",
        }
    }
}

/// Why a configuration is refused; the text says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not a configuration: an unknown key, a value of another type, or no TOML at all.
    #[error("the configuration is refused: {0}")]
    Parse(String),
    /// A number is out of its range.
    #[error("{key} = {value} is out of range: {min} to {max} {unit}")]
    OutOfRange {
        /// The setting.
        key: &'static str,
        /// What it was set to.
        value: u64,
        /// The least allowed.
        min: u64,
        /// The most allowed.
        max: u64,
        /// What is counted.
        unit: &'static str,
    },
    /// An address beyond loopback without the flag that allows it.
    #[error(
        "{key} = {address} is reachable from other machines and nobody is authenticated yet; \
         listen on loopback, or set allow_unauthenticated_remote = true if everybody who reaches it may do everything"
    )]
    UnauthenticatedRemote {
        /// The setting.
        key: &'static str,
        /// What it was set to.
        address: SocketAddr,
    },
    /// Only one of the two files is given.
    #[error("certificate_file and key_file belong together: {0} is missing")]
    HalfACertificate(&'static str),
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("sluice-data"),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9_470)),
            allow_unauthenticated_remote: false,
            metrics_listen: MetricsListen::Loopback,
            certificate_file: None,
            key_file: None,
            ready_file: None,
            log_level: LogLevel::Info,
            log_format: LogFormat::Text,
            durability: Durability::Sync,
            segment_bytes: 64 << 20,
            tail_cache_bytes: 16 << 20,
            auto_create_topics: true,
            auto_create_groups: true,
            member_absent_ms: 24 * 60 * 60 * 1_000,
            verdict_threads: 2,
            drain_ms: 10_000,
            topics: Topics::default(),
            delays: Delays::default(),
            transactions: Transactions::default(),
            limits: Limits::default(),
            plugins: Plugins::default(),
        }
    }
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            queues: 4,
            retention_ms: 72 * 3_600_000,
            retention_bytes: 0,
        }
    }
}

impl Default for Delays {
    fn default() -> Self {
        Self { near_ms: 600_000 }
    }
}

impl Default for Transactions {
    fn default() -> Self {
        let CoreConfig {
            ask_first_ms,
            ask_interval_ms,
            asks_max,
            ..
        } = CoreConfig::default();
        Self {
            ask_first_ms,
            ask_interval_ms,
            asks_max,
        }
    }
}

impl Default for Plugins {
    fn default() -> Self {
        let PluginLimits {
            fuel_per_run,
            fuel_per_message,
            run_ms,
            memory_bytes,
        } = PluginLimits::default();
        Self {
            fuel_per_run,
            fuel_per_message,
            run_ms,
            memory_bytes,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 4 << 20,
            frame_bytes: 8 << 20,
            frame_ms: 30_000,
            connections: 4_096,
            streams: 1_024,
            unconfirmed: 1_024,
            inbox_bytes: 64 << 20,
        }
    }
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// As `parse`, and when the file cannot be read.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.to_path_buf(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads a configuration from TOML text. It is not validated yet: flags of a command may still change it.
    ///
    /// # Errors
    /// Text that is no TOML, an unknown key (named, with the known ones), or a value of another type.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Parse(error.to_string().trim_end().to_owned()))
    }

    /// Checks ranges and what belongs together.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for setting in settings::SETTINGS {
            if let (Range::Numbers { min, max }, Value::Number(value)) = (&setting.range, (setting.value)(self))
                && !(*min..=*max).contains(&value)
            {
                return Err(ConfigError::OutOfRange {
                    key: setting.key,
                    value,
                    min: *min,
                    max: *max,
                    unit: setting.unit,
                });
            }
        }
        let addresses = [
            ("listen", Some(self.listen)),
            ("metrics_listen", self.metrics_listen.address(self.listen)),
        ];
        for (key, address) in addresses {
            if let Some(address) = address.filter(|address| !address.ip().is_loopback() && !self.allow_unauthenticated_remote) {
                return Err(ConfigError::UnauthenticatedRemote { key, address });
            }
        }
        match (&self.certificate_file, &self.key_file) {
            (Some(_), None) => return Err(ConfigError::HalfACertificate("key_file")),
            (None, Some(_)) => return Err(ConfigError::HalfACertificate("certificate_file")),
            (Some(_), Some(_)) | (None, None) => {}
        }
        self.validate_sizes()
    }

    fn validate_sizes(&self) -> Result<(), ConfigError> {
        let frame = u64::from(self.limits.frame_bytes);
        let room = u64::from(self.limits.body_bytes) + (256 << 10);
        if frame < room {
            let text =
                format!("limits.frame_bytes must hold a body with its attributes: set it to {room} or more, or lower limits.body_bytes");
            return Err(ConfigError::Contradiction(text));
        }
        if self.limits.inbox_bytes < 2 * frame {
            let text = format!(
                "limits.inbox_bytes must hold two frames: set it to {} or more, or lower limits.frame_bytes",
                2 * frame
            );
            return Err(ConfigError::Contradiction(text));
        }
        Ok(())
    }

    /// The settings in effect, as the TOML that gives them.
    pub fn effective(&self) -> String {
        toml::to_string(self).expect("a configuration has only text keys and plain values")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid() {
        Config::default().validate().unwrap();
    }

    #[test]
    fn an_unknown_key_is_refused_by_name_with_the_known_ones() {
        let refused = Config::parse("[limits]\nbody_byte = 3\n").unwrap_err().to_string();
        assert!(
            refused.contains("body_byte") && refused.contains("`body_bytes`") && refused.contains("line 2"),
            "{refused}"
        );
    }

    #[test]
    fn a_value_out_of_range_is_refused_with_the_range() {
        let config = Config::parse("[topics]\nqueues = 0\n").unwrap();
        assert_eq!(
            config.validate().unwrap_err().to_string(),
            "topics.queues = 0 is out of range: 1 to 1024 queues"
        );
    }

    #[test]
    fn an_address_beyond_loopback_needs_the_flag() {
        let mut config = Config::parse("listen = \"0.0.0.0:9470\"").unwrap();
        assert!(matches!(
            config.validate(),
            Err(ConfigError::UnauthenticatedRemote { key: "listen", .. })
        ));
        config.allow_unauthenticated_remote = true;
        config.validate().unwrap();
        let config = Config::parse("metrics_listen = \"0.0.0.0:9471\"").unwrap();
        let refused = config.validate().unwrap_err().to_string();
        assert!(refused.starts_with("metrics_listen = 0.0.0.0:9471 is reachable"), "{refused}");
    }

    #[test]
    fn the_effective_settings_give_the_same_configuration_again() {
        let config = Config {
            durability: Durability::Async,
            key_file: Some("k.pem".into()),
            ..Config::default()
        };
        assert_eq!(Config::parse(&config.effective()).unwrap(), config);
    }

    #[test]
    fn a_certificate_without_its_key_is_refused() {
        let config = Config {
            certificate_file: Some("c.pem".into()),
            ..Config::default()
        };
        assert!(config.validate().unwrap_err().to_string().contains("key_file is missing"));
    }

    #[test]
    fn a_frame_must_hold_a_body() {
        let config = Config::parse("[limits]\nframe_bytes = 4194304\n").unwrap();
        assert!(config.validate().unwrap_err().to_string().contains("limits.frame_bytes must hold"));
    }
}
