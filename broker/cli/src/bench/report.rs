//! How figures are printed: a JSON object a case for programs, a line a figure for people, always with the machine and the build.

use std::process::Command;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use crate::failure::Failure;
use crate::output::Output;

/// Prints cases as they are done.
pub(super) struct Report<'a> {
    output: &'a mut Output,
    machine: String,
    commit: String,
}

/// One case: its name, what was run, and the figures with their units in their names.
pub(super) struct Case {
    name: String,
    parameters: Vec<(&'static str, Value)>,
    figures: Vec<(&'static str, f64)>,
}

impl Case {
    /// A case without figures yet.
    pub(super) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            parameters: Vec::new(),
            figures: Vec::new(),
        }
    }

    /// What was run.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.parameters.push((name, value.into()));
        self
    }

    /// What was measured; the unit is the name's last word.
    pub(super) fn figure(mut self, name: &'static str, value: f64) -> Self {
        self.figures.push((name, value));
        self
    }

    /// A figure by its name.
    #[cfg(test)]
    pub(super) fn value(&self, name: &str) -> Option<f64> {
        self.figures.iter().find(|(figure, _)| *figure == name).map(|(_, value)| *value)
    }
}

impl<'a> Report<'a> {
    /// A report whose machine and commit are looked up once.
    pub(super) fn new(output: &'a mut Output) -> Result<Self, Failure> {
        let report = Self {
            output,
            machine: machine(),
            commit: commit(),
        };
        if !report.output.is_json() {
            report
                .output
                .line(format!("machine {}; commit {}", report.machine, report.commit))?;
            report.output.flush()?;
        }
        Ok(report)
    }

    /// Prints a case.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub(super) fn print(&mut self, case: &Case) -> Result<()> {
        let lines = if self.output.is_json() { vec![self.json(case)] } else { text(case) };
        let printed = lines
            .into_iter()
            .try_for_each(|line| self.output.line(line))
            .and_then(|()| self.output.flush());
        if printed.is_err() {
            bail!("the output was closed");
        }
        Ok(())
    }

    fn json(&self, case: &Case) -> String {
        let mut object = Map::new();
        object.insert("case".to_owned(), json!(case.name));
        for (name, value) in &case.parameters {
            object.insert((*name).to_owned(), value.clone());
        }
        for (name, value) in &case.figures {
            object.insert((*name).to_owned(), json!((value * 1000.0).round() / 1000.0));
        }
        object.insert("commit".to_owned(), json!(self.commit));
        object.insert("machine".to_owned(), json!(self.machine));
        Value::Object(object).to_string()
    }
}

fn text(case: &Case) -> Vec<String> {
    let parameters: Vec<String> = case.parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut lines = vec![String::new(), format!("{}  {}", case.name, parameters.join(" "))];
    lines.extend(case.figures.iter().map(|(name, value)| format!("  {name:<44} {value:>14.3}")));
    lines
}

fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .and_then(|line| line.split(':').nth(1))
        .unwrap_or("unknown")
        .trim();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {model}")
}

/// The commit of the checkout that the command is run in, where there is one.
fn commit() -> String {
    let output = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    let text = output
        .ok()
        .filter(|output| output.status.success())
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| concat!("version ", env!("CARGO_PKG_VERSION")).to_owned())
}
