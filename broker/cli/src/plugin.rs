//! `sluice plugin`: load, list and describe plugins.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use sluice_client::admin::{OnFailure, PluginInfo};

use crate::connect::Broker;
use crate::failure::Failure;
use crate::message::hex;
use crate::output::Output;
use crate::times;

/// Plugins.
#[derive(Subcommand)]
pub(crate) enum Plugin {
    /// Load a WebAssembly module and bind it to a name, from now on
    Load {
        /// The module: a component, or a core module built with the plugin SDK
        file: PathBuf,
        /// The name that subscriptions use
        #[arg(long)]
        name: String,
        /// What becomes of a message that the plugin fails on though it judges others
        #[arg(long, value_enum, default_value_t = Fate::DeadLetter)]
        on_failure: Fate,
    },
    /// List the plugins that are bound
    List,
    /// Show one plugin
    Describe {
        /// Its name
        name: String,
    },
}

/// What becomes of a message that a plugin fails on.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Fate {
    /// To the group's dead-letter topic, with the reason
    DeadLetter,
    /// Stays where it is until the group is resumed
    Hold,
    /// Delivered as if it matched
    Deliver,
    /// Not delivered
    Skip,
}

impl From<Fate> for OnFailure {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::DeadLetter => Self::DeadLetter,
            Fate::Hold => Self::Hold,
            Fate::Deliver => Self::Deliver,
            Fate::Skip => Self::Skip,
        }
    }
}

/// The fate as the option names it.
fn fate_name(on_failure: OnFailure) -> &'static str {
    match on_failure {
        OnFailure::DeadLetter => "dead-letter",
        OnFailure::Hold => "hold",
        OnFailure::Deliver => "deliver",
        OnFailure::Skip => "skip",
    }
}

impl Plugin {
    /// Does what is asked.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        let module = match &self {
            Plugin::Load { file, .. } => {
                let read = std::fs::read(file);
                read.map_err(|error| Failure::failed(format!("cannot read the module {}: {error}", file.display())))?
            }
            Plugin::List | Plugin::Describe { .. } => Vec::new(),
        };
        let client = broker.connect().await?;
        match self {
            Plugin::Load { name, on_failure, .. } => {
                let loaded = client.load_plugin(&name, module, None, on_failure.into()).await?;
                describe(&loaded, output)?;
            }
            Plugin::List => {
                let rows: Vec<Vec<Value>> = client.plugins().await?.iter().map(row).collect();
                output.table(&["plugin", "digest", "built_in", "bound"], &rows)?;
            }
            Plugin::Describe { name } => describe(&client.plugin(&name).await?, output)?,
        }
        client.close().await;
        Ok(())
    }
}

fn row(plugin: &PluginInfo) -> Vec<Value> {
    vec![
        json!(plugin.name),
        json!(hex(&plugin.digest)),
        json!(plugin.built_in),
        json!(times::shown(plugin.bound_wall_ms)),
    ]
}

fn describe(plugin: &PluginInfo, output: &mut Output) -> Result<(), Failure> {
    let limits = plugin.limits.unwrap_or_default();
    let json = || {
        json!({
            "plugin": plugin.name, "digest": hex(&plugin.digest), "built_in": plugin.built_in, "bound_ms": plugin.bound_wall_ms,
            "fuel_per_run": limits.fuel_per_run, "fuel_per_message": limits.fuel_per_message, "run_ms": limits.run_ms,
            "memory_bytes": limits.memory_bytes, "on_failure": fate_name(plugin.on_failure()),
        })
    };
    output.show(json, || {
        vec![
            format!("plugin    {}{}", plugin.name, if plugin.built_in { " (built in)" } else { "" }),
            format!("digest    {}", hex(&plugin.digest)),
            format!("bound     {}", times::shown(plugin.bound_wall_ms)),
            format!("fuel      {} a run and {} a message", limits.fuel_per_run, limits.fuel_per_message),
            format!("time      {} ms a run", limits.run_ms),
            format!("memory    {} bytes", limits.memory_bytes),
            format!("failures  {}", fate_name(plugin.on_failure())),
        ]
    })
}
