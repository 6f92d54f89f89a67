//! Standard output: lines for people or JSON for programs, and a closed pipe that is no error.

use std::io::{BufWriter, ErrorKind, IsTerminal as _, Stdout, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use crate::failure::Failure;

/// What a command prints.
pub(crate) struct Output {
    json: bool,
    out: BufWriter<Stdout>,
}

impl Output {
    /// Output in one of the two forms.
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            out: BufWriter::with_capacity(64 * 1024, std::io::stdout()),
        }
    }

    /// Whether programs read it.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Writes a line.
    pub(crate) fn line(&mut self, line: impl AsRef<str>) -> Result<(), Failure> {
        let written = self
            .out
            .write_all(line.as_ref().as_bytes())
            .and_then(|()| self.out.write_all(b"\n"));
        written.map_err(|error| failed(&error))
    }

    /// Writes an object for programs, or else the lines for people.
    pub(crate) fn show(&mut self, json: impl FnOnce() -> Value, human: impl FnOnce() -> Vec<String>) -> Result<(), Failure> {
        if self.json {
            return self.line(json().to_string());
        }
        human().iter().try_for_each(|line| self.line(line))
    }

    /// Writes a table: an object a row for programs, aligned columns for people.
    pub(crate) fn table(&mut self, heads: &[&str], rows: &[Vec<Value>]) -> Result<(), Failure> {
        if self.json {
            for row in rows {
                let object = heads
                    .iter()
                    .zip(row)
                    .map(|(head, value)| ((*head).to_owned(), value.clone()))
                    .collect();
                self.line(Value::Object(object).to_string())?;
            }
            return Ok(());
        }
        let texts: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(plain).collect()).collect();
        let width = |column: usize| {
            let texts = texts.iter().filter_map(|row| row.get(column)).map(|text| text.chars().count());
            texts.chain([heads[column].len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..heads.len()).map(width).collect();
        let heads: Vec<String> = heads.iter().map(|head| head.to_uppercase().replace('_', " ")).collect();
        for row in std::iter::once(&heads).chain(&texts) {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(text, &width)| format!("{text:width$}")).collect();
            self.line(cells.join("  ").trim_end())?;
        }
        Ok(())
    }

    /// Hands over what is buffered.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| failed(&error))
    }
}

fn failed(error: &std::io::Error) -> Failure {
    match error.kind() {
        ErrorKind::BrokenPipe => Failure::ClosedPipe,
        _ => Failure::failed(format!("cannot write the output: {error}")),
    }
}

/// A value as people read it.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A bar for long work, shown only where a person looks: on a terminal, and not for programs. With `None` for the total it counts up.
pub(crate) fn progress(total: Option<u64>, json: bool) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match total {
        Some(_) => "{bar:40} {pos}/{len} {per_sec} {eta}",
        None => "{spinner} {pos} {per_sec} {elapsed}",
    };
    bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}
