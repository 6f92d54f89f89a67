//! The oracle's process: expressions with messages and outcomes, read while they are made.

use std::io::{BufRead, BufReader, ErrorKind, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::sandbox::{Outcome, Properties};

/// An expression, messages, and what the oracle says of each.
#[derive(Clone, Debug, Deserialize)]
pub struct Case {
    /// The text of a filter.
    pub expression: String,
    /// None where the expression is refused.
    pub messages: Vec<Properties>,
    /// What the plugin has to say.
    pub expected: Expected,
}

/// What the oracle says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum Expected {
    /// One outcome a message.
    Each(Vec<Outcome>),
    /// The expression is refused.
    Refused(Refused),
}

/// The one word for that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Refused {
    /// The text is no expression of the language.
    #[serde(rename = "PARSE_ERROR")]
    ParseError,
}

/// The process that makes cases.
pub struct Generated {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
    line: u64,
}

impl Generated {
    /// Starts making this many pairs of expression and message; the same seed makes the same ones.
    ///
    /// # Errors
    /// When Python is not installed, or does not start.
    pub fn start(pairs: u64, seed: u64) -> anyhow::Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("generate.py");
        let spawned = Command::new("python3")
            .arg("-B")
            .arg(&script)
            .args(["--pairs", &pairs.to_string(), "--seed", &seed.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let mut process = match spawned {
            Ok(process) => process,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!(
                "`python3` is not installed, and the SQL oracle is written in Python: install Python 3.11 or later \
                 (`apt-get install python3`, `brew install python3`)"
            ),
            Err(error) => return Err(error).context("start python3"),
        };
        let output = process.stdout.take().context("the output of python3 is not piped")?;
        Ok(Self {
            process,
            lines: BufReader::new(output).lines(),
            line: 0,
        })
    }

    /// The next case; `None` after the last.
    ///
    /// # Errors
    /// When what the process prints cannot be read, or the process fails.
    pub fn next_case(&mut self) -> anyhow::Result<Option<Case>> {
        let Some(line) = self.lines.next() else {
            let status = self.process.wait().context("wait for python3")?;
            anyhow::ensure!(status.success(), "generate.py failed ({status}); it says why above");
            return Ok(None);
        };
        self.line += 1;
        let line = line.context("read what generate.py prints")?;
        let case = serde_json::from_str(&line).with_context(|| format!("line {} of generate.py is no case: {line}", self.line))?;
        Ok(Some(case))
    }
}

impl Drop for Generated {
    fn drop(&mut self) {
        // It may have ended long ago; then there is nothing to end, and its status was taken.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
