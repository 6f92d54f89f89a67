//! `sluice config`: every setting of a broker with its effective value.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value as Json, json};
use sluice_server::settings::{SETTINGS, Value};

use crate::failure::Failure;
use crate::output::Output;

/// Show every setting with its value, its range and what it does. The values are the defaults, or those that a file gives.
#[derive(Args)]
pub(crate) struct Config {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the effective settings as a configuration file
    #[arg(long)]
    toml: bool,
}

impl Config {
    /// Reads, checks and shows the configuration.
    pub(crate) fn run(self, output: &mut Output) -> Result<(), Failure> {
        let config = read(self.config.as_deref())?;
        config.validate().map_err(|error| Failure::failed(error.to_string()))?;
        if self.toml {
            return output.line(config.effective().trim_end());
        }
        if output.is_json() {
            let values = SETTINGS
                .iter()
                .map(|setting| (setting.key.to_owned(), json_of((setting.value)(&config))))
                .collect();
            return output.line(Json::Object(values).to_string());
        }
        for setting in SETTINGS {
            let unit = if setting.unit.is_empty() {
                String::new()
            } else {
                format!(" {}", setting.unit)
            };
            output.line(format!("{} = {}", setting.key, (setting.value)(&config)))?;
            output.line(format!("    {} ({}{unit})", setting.sentence, setting.range))?;
        }
        Ok(())
    }
}

/// The configuration of a file, or the defaults.
pub(crate) fn read(path: Option<&Path>) -> Result<sluice_server::Config, Failure> {
    match path {
        Some(path) => sluice_server::Config::read(path).map_err(|error| Failure::failed(error.to_string())),
        None => Ok(sluice_server::Config::default()),
    }
}

fn json_of(value: Value) -> Json {
    match value {
        Value::Number(number) => json!(number),
        Value::Text(text) => json!(text),
        Value::Switch(on) => json!(on),
        Value::Unset => Json::Null,
    }
}
