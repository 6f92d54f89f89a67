//! What is known of a run that is made in pieces: how far it is, and with which commit.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::audit::{Counts, Law};

/// A run as of its last check: everything confirmed before was found, and its topic is deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) commit: String,
    pub(crate) seed: u64,
    pub(crate) totals: Totals,
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Kills, those of the holding broker among them.
    pub(crate) rounds: u64,
    pub(crate) holding: u64,
    /// Kills of brokers that did not serve yet, or were stopping.
    pub(crate) starting: u64,
    pub(crate) stopping: u64,
    /// Kills that left far-off messages in parts of the calendar.
    pub(crate) parted: u64,
    pub(crate) checks: u64,
    pub(crate) confirmed: u64,
    pub(crate) delivered: u64,
    pub(crate) acked: u64,
    /// How often each law was put to the test.
    pub(crate) laws: Counts,
}

impl Totals {
    /// Name and value of each.
    pub(crate) fn each(&mut self) -> Vec<(&'static str, &mut u64)> {
        let laws = Law::ALL.iter().map(|law| law.name()).zip(&mut self.laws);
        let numbers = [
            ("rounds", &mut self.rounds),
            ("holding", &mut self.holding),
            ("starting", &mut self.starting),
            ("stopping", &mut self.stopping),
            ("parted", &mut self.parted),
            ("checks", &mut self.checks),
            ("confirmed", &mut self.confirmed),
            ("delivered", &mut self.delivered),
            ("acked", &mut self.acked),
        ];
        numbers.into_iter().chain(laws).collect()
    }
}

impl Progress {
    /// Reads what an earlier piece left in the folder; `None` when there was none.
    ///
    /// # Errors
    /// The file cannot be read or is no state.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = file(folder);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context("read the state"),
        };
        let told: Value = serde_json::from_str(&text).context("parse the state")?;
        let number = |name: &str| told[name].as_u64().with_context(|| format!("the state says nothing of {name}"));
        let mut progress = Self {
            commit: told["commit"].as_str().context("the state names no commit")?.to_owned(),
            seed: number("seed")?,
            totals: Totals::default(),
        };
        for (name, value) in progress.totals.each() {
            *value = number(name)?;
        }
        Ok(Some(progress))
    }

    /// Leaves the state for the next piece.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let mut told = json!({ "commit": self.commit, "seed": self.seed });
        let mut totals = self.totals;
        for (name, value) in totals.each() {
            told[name] = (*value).into();
        }
        // Another piece must never see half of it.
        let unfinished = folder.join("state.json.new");
        std::fs::write(&unfinished, told.to_string()).context("write the state")?;
        std::fs::rename(unfinished, file(folder)).context("put the state in its place")
    }
}

fn file(folder: &Path) -> PathBuf {
    folder.join("state.json")
}

/// The commit of the checkout that this runs in; with an addition when there are changes that are not committed.
///
/// # Errors
/// Git does not say.
pub(crate) fn commit() -> Result<String> {
    let git = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("git").args(arguments).output().context("run git")?;
        if !output.status.success() {
            bail!("git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    Ok(match git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
        true => commit,
        false => format!("{commit} with changes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Progress::read(folder.path()).unwrap(), None);
        let mut progress = Progress {
            commit: "abc".to_owned(),
            seed: 7,
            totals: Totals::default(),
        };
        for (place, (_, value)) in progress.totals.each().into_iter().enumerate() {
            *value = place as u64 + 1;
        }
        progress.write(folder.path()).unwrap();
        assert_eq!(Progress::read(folder.path()).unwrap(), Some(progress));
    }
}
