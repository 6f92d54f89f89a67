//! The table of settings: each key with its default, unit, range and a sentence.

use crate::config::Config;

/// One setting as `sluice config` and docs/configuration.md show it.
#[derive(Debug)]
pub struct Setting {
    /// The key, with its table: `limits.body_bytes`.
    pub key: &'static str,
    /// What is counted; empty where nothing is.
    pub unit: &'static str,
    /// What it may be.
    pub range: Range,
    /// What it does.
    pub sentence: &'static str,
    /// Reads it.
    pub value: fn(&Config) -> Value,
}

/// What a setting may be.
#[derive(Debug)]
pub enum Range {
    /// A whole number between the two, both included.
    Numbers {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// One of these words.
    Words(&'static [&'static str]),
    /// true or false.
    Switch,
    /// What the words say.
    Text(&'static str),
}

/// What a setting is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number.
    Number(u64),
    /// A text.
    Text(String),
    /// A switch.
    Switch(bool),
    /// Not set.
    Unset,
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => write!(f, "\"{text}\""),
            Self::Switch(on) => write!(f, "{on}"),
            Self::Unset => f.write_str("not set"),
        }
    }
}

impl std::fmt::Display for Range {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Numbers { min, max } => write!(f, "{min} to {max}"),
            Self::Words(words) => f.write_str(&words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ")),
            Self::Switch => f.write_str("true, false"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

fn path(path: &Option<std::path::PathBuf>) -> Value {
    path.as_ref().map_or(Value::Unset, |path| Value::Text(path.display().to_string()))
}

const DAY_MS: u64 = 24 * 3_600_000;
const DAYS_400_MS: u64 = 400 * 24 * 3_600_000;
const HUNDRED_TERABYTES: u64 = 100 << 40;

/// Every setting, in the order of the documentation.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "data_dir",
        unit: "",
        range: Range::Text("a directory"),
        sentence: "Where the broker keeps its log, plugins and certificate; made at the first start, used by one broker at a time.",
        value: |config| Value::Text(config.data_dir.display().to_string()),
    },
    Setting {
        key: "listen",
        unit: "",
        range: Range::Text("address:port (UDP)"),
        sentence: "The address to serve at; port 0 takes a free one, which the ready file names.",
        value: |config| Value::Text(config.listen.to_string()),
    },
    Setting {
        key: "allow_unauthenticated_remote",
        unit: "",
        range: Range::Switch,
        sentence: "Allows `listen` and `metrics_listen` to be addresses beyond loopback although nobody is authenticated: whoever reaches them may do \
                   everything.",
        value: |config| Value::Switch(config.allow_unauthenticated_remote),
    },
    Setting {
        key: "metrics_listen",
        unit: "",
        range: Range::Text("\"loopback\", \"off\", address:port (TCP)"),
        sentence: "Where `/metrics`, `/live` and `/ready` are served over HTTP; `loopback` is the loopback address at the TCP port whose number is \
                   that of `listen`.",
        value: |config| Value::Text(config.metrics_listen.to_string()),
    },
    Setting {
        key: "certificate_file",
        unit: "",
        range: Range::Text("a PEM file"),
        sentence: "The certificate chain; without one a self-signed certificate is made in the data directory at the first start and kept. Read again \
                   on SIGHUP and when it changes.",
        value: |config| path(&config.certificate_file),
    },
    Setting {
        key: "key_file",
        unit: "",
        range: Range::Text("a PEM file"),
        sentence: "The private key of `certificate_file`.",
        value: |config| path(&config.key_file),
    },
    Setting {
        key: "ready_file",
        unit: "",
        range: Range::Text("a file"),
        sentence: "Where to write, as JSON, the addresses, process and certificate once the broker serves.",
        value: |config| path(&config.ready_file),
    },
    Setting {
        key: "log_level",
        unit: "",
        range: Range::Words(&["error", "warn", "info", "debug", "trace"]),
        sentence: "What is logged.",
        value: |config| Value::Text(config.log_level.name().to_owned()),
    },
    Setting {
        key: "log_format",
        unit: "",
        range: Range::Words(&["text", "json"]),
        sentence: "How a line of the log looks: for people, or one JSON object with the facts as its fields.",
        value: |config| Value::Text(config.log_format.name().to_owned()),
    },
    Setting {
        key: "durability",
        unit: "",
        range: Range::Words(&["sync", "async"]),
        sentence: "When a message counts as stored: `sync`, when the disk has confirmed it; `async`, when it is written, the disk following every \
                   50 ms, so that a crash of the machine may lose what was confirmed in that time.",
        value: |config| Value::Text(config.durability.name().to_owned()),
    },
    Setting {
        key: "segment_bytes",
        unit: "bytes",
        range: Range::Numbers {
            min: 1 << 20,
            max: 1 << 30,
        },
        sentence: "The size of a segment of the log; space is given back a segment at a time, and two are kept in reserve for a full disk.",
        value: |config| Value::Number(config.segment_bytes),
    },
    Setting {
        key: "tail_cache_bytes",
        unit: "bytes",
        range: Range::Numbers { min: 0, max: 16 << 30 },
        sentence: "Memory for the newest part of the log, so that live traffic is judged and delivered without reading.",
        value: |config| Value::Number(config.tail_cache_bytes),
    },
    Setting {
        key: "auto_create_topics",
        unit: "",
        range: Range::Switch,
        sentence: "Creates a topic on first publish.",
        value: |config| Value::Switch(config.auto_create_topics),
    },
    Setting {
        key: "auto_create_groups",
        unit: "",
        range: Range::Switch,
        sentence: "Creates a consumer group on first use.",
        value: |config| Value::Switch(config.auto_create_groups),
    },
    Setting {
        key: "member_absent_ms",
        unit: "milliseconds",
        range: Range::Numbers {
            min: 1_000,
            max: DAYS_400_MS,
        },
        sentence: "How long a member of a broadcast group may be away before it is forgotten with its places.",
        value: |config| Value::Number(config.member_absent_ms),
    },
    Setting {
        key: "verdict_threads",
        unit: "threads",
        range: Range::Numbers { min: 1, max: 256 },
        sentence: "How many threads run filter plugins.",
        value: |config| Value::Number(config.verdict_threads.into()),
    },
    Setting {
        key: "drain_ms",
        unit: "milliseconds",
        range: Range::Numbers { min: 0, max: 600_000 },
        sentence: "How long a stop may take to finish what is under way; what is not done then is done after the next start.",
        value: |config| Value::Number(config.drain_ms),
    },
    Setting {
        key: "topics.queues",
        unit: "queues",
        range: Range::Numbers { min: 1, max: 1_024 },
        sentence: "Queues of a topic that is created without saying how many.",
        value: |config| Value::Number(config.topics.queues.into()),
    },
    Setting {
        key: "topics.retention_ms",
        unit: "milliseconds",
        range: Range::Numbers {
            min: 0,
            max: 10 * DAYS_400_MS,
        },
        sentence: "How long such a topic keeps its messages; 0 sets no bound.",
        value: |config| Value::Number(config.topics.retention_ms),
    },
    Setting {
        key: "topics.retention_bytes",
        unit: "bytes",
        range: Range::Numbers {
            min: 0,
            max: HUNDRED_TERABYTES,
        },
        sentence: "How many bytes of messages such a topic keeps; 0 sets no bound.",
        value: |config| Value::Number(config.topics.retention_bytes),
    },
    Setting {
        key: "delays.near_ms",
        unit: "milliseconds",
        range: Range::Numbers {
            min: 100,
            max: DAYS_400_MS,
        },
        sentence: "A delayed message that is due after more than twice this time waits in a file, where it takes no memory and keeps no segment of the log; \
                   it comes back when it is due within this time.",
        value: |config| Value::Number(config.delays.near_ms),
    },
    Setting {
        key: "transactions.ask_first_ms",
        unit: "milliseconds",
        range: Range::Numbers { min: 1, max: DAY_MS },
        sentence: "How long a prepared message waits for a decision before a live producer of its topic is asked about it.",
        value: |config| Value::Number(config.transactions.ask_first_ms),
    },
    Setting {
        key: "transactions.ask_interval_ms",
        unit: "milliseconds",
        range: Range::Numbers { min: 1, max: DAY_MS },
        sentence: "How long after one ask that was delivered the next follows, or the message is given up.",
        value: |config| Value::Number(config.transactions.ask_interval_ms),
    },
    Setting {
        key: "transactions.asks_max",
        unit: "asks",
        range: Range::Numbers { min: 1, max: 1_000 },
        sentence: "How many asks about a message are delivered before it is rolled back and its copy put into `%SYS%rolled-back`, where an operator can still \
                   commit it.",
        value: |config| Value::Number(config.transactions.asks_max.into()),
    },
    Setting {
        key: "limits.body_bytes",
        unit: "bytes",
        range: Range::Numbers { min: 1_024, max: 64 << 20 },
        sentence: "The largest body of a message.",
        value: |config| Value::Number(config.limits.body_bytes.into()),
    },
    Setting {
        key: "limits.frame_bytes",
        unit: "bytes",
        range: Range::Numbers {
            min: 512 << 10,
            max: 128 << 20,
        },
        sentence: "The largest frame; what one connection has begun and not finished takes at most twice as much.",
        value: |config| Value::Number(config.limits.frame_bytes.into()),
    },
    Setting {
        key: "limits.frame_ms",
        unit: "milliseconds",
        range: Range::Numbers { min: 100, max: 600_000 },
        sentence: "How long a client may take to finish a frame that it has begun, and a second more for each 64 KiB; then its stream is refused as \
                   FrameUnfinished.",
        value: |config| Value::Number(config.limits.frame_ms.into()),
    },
    Setting {
        key: "limits.connections",
        unit: "connections",
        range: Range::Numbers { min: 1, max: 1_000_000 },
        sentence: "Connections at a time; further ones are refused.",
        value: |config| Value::Number(config.limits.connections.into()),
    },
    Setting {
        key: "limits.streams",
        unit: "streams",
        range: Range::Numbers { min: 4, max: 65_536 },
        sentence: "Streams that a client may have open at a time on a connection: producers, subscriptions and requests.",
        value: |config| Value::Number(config.limits.streams.into()),
    },
    Setting {
        key: "limits.unconfirmed",
        unit: "messages",
        range: Range::Numbers { min: 1, max: 1_024 },
        sentence: "Messages that a producer may have sent and not seen confirmed; at most the window within which a retry is recognised.",
        value: |config| Value::Number(config.limits.unconfirmed.into()),
    },
    Setting {
        key: "limits.inbox_bytes",
        unit: "bytes",
        range: Range::Numbers {
            min: 1 << 20,
            max: 16 << 30,
        },
        sentence: "Memory for what clients asked and was not answered yet, over all connections; beyond it publishes are refused as Overloaded.",
        value: |config| Value::Number(config.limits.inbox_bytes),
    },
    Setting {
        key: "plugins.fuel_per_run",
        unit: "units of fuel",
        range: Range::Numbers { min: 1, max: 1 << 40 },
        sentence: "Fuel of one call of a plugin, about one unit an instruction, unless the plugin was loaded with limits of its own.",
        value: |config| Value::Number(config.plugins.fuel_per_run),
    },
    Setting {
        key: "plugins.fuel_per_message",
        unit: "units of fuel",
        range: Range::Numbers { min: 1, max: 1 << 40 },
        sentence: "Further fuel for each message of the call.",
        value: |config| Value::Number(config.plugins.fuel_per_message),
    },
    Setting {
        key: "plugins.run_ms",
        unit: "milliseconds",
        range: Range::Numbers { min: 1, max: 60_000 },
        sentence: "The wall-clock backstop of one call.",
        value: |config| Value::Number(config.plugins.run_ms.into()),
    },
    Setting {
        key: "plugins.memory_bytes",
        unit: "bytes",
        range: Range::Numbers {
            min: 1 << 17,
            max: 256 << 20,
        },
        sentence: "Linear memory of one instance of a plugin.",
        value: |config| Value::Number(config.plugins.memory_bytes),
    },
];

/// The settings as the Markdown table of docs/configuration.md.
pub fn describe() -> String {
    let defaults = Config::default();
    let mut text = String::from("| Key | Default | Unit | Range | What it does |\n|---|---|---|---|---|\n");
    for setting in SETTINGS {
        let Setting {
            key,
            unit,
            range,
            sentence,
            value,
        } = setting;
        text += &format!("| `{key}` | {} | {unit} | {range} | {sentence} |\n", value(&defaults));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_holds_the_table_of_settings() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let documentation = std::fs::read_to_string(path).unwrap();
        assert!(
            documentation.contains(&describe()),
            "docs/configuration.md must contain:\n{}",
            describe()
        );
    }

    #[test]
    fn every_key_of_the_configuration_is_described() {
        let all = Config {
            certificate_file: Some("c".into()),
            key_file: Some("k".into()),
            ready_file: Some("r".into()),
            ..Config::default()
        };
        let effective: toml::Table = toml::from_str(&all.effective()).unwrap();
        let mut keys = Vec::new();
        for (key, value) in &effective {
            match value {
                toml::Value::Table(table) => keys.extend(table.keys().map(|inner| format!("{key}.{inner}"))),
                _ => keys.push(key.clone()),
            }
        }
        let mut described: Vec<_> = SETTINGS.iter().map(|setting| setting.key.to_owned()).collect();
        keys.sort();
        described.sort();
        assert_eq!(keys, described);
    }
}
