//! Comparing two builds, or two settings of one: child processes in turn, figure by figure, with one of the two against itself beside it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::measure::median;
use crate::output::Output;

/// What a case is measured against, and how often.
#[derive(clap::Args)]
pub(super) struct Against {
    /// Compare with another build of this command: runs alternate, and the medians of the ratios, other to this, are printed
    #[arg(long, value_name = "BINARY", global = true, conflicts_with = "against_setting")]
    against: Option<PathBuf>,
    /// Compare with another setting of the broker in the same way; may be given several times
    #[arg(long, value_name = "KEY=VALUE", global = true)]
    against_setting: Vec<String>,
    /// How often each is run
    #[arg(long, default_value_t = 7, global = true, value_parser = clap::value_parser!(u16).range(1..))]
    pairs: u16,
}

/// The other side of a comparison.
pub(super) struct Other {
    binary: Option<PathBuf>,
    settings: Vec<String>,
    pairs: u16,
}

impl Against {
    /// The other side, if there is to be one.
    pub(super) fn other(&self) -> Option<Other> {
        (self.against.is_some() || !self.against_setting.is_empty()).then(|| Other {
            binary: self.against.clone(),
            settings: self.against_setting.clone(),
            pairs: self.pairs,
        })
    }
}

/// The lines of one run, a case each.
type Cases = Vec<Map<String, Value>>;

/// Runs this command as child processes, in each round this side, the other and this side again, and prints for each figure the median of
/// the ratios of other to this and of this to itself.
///
/// # Errors
/// A run failed, or the two sides do not print the same cases.
pub(super) fn compare(output: &mut Output, settings: &[String], other: &Other) -> Result<()> {
    let this_binary = std::env::current_exe().context("find this binary")?;
    let arguments = own_arguments(std::env::args().skip(1));
    let other_binary = other.binary.as_deref().unwrap_or(&this_binary);
    let mut other_settings = settings.to_vec();
    other_settings.extend(other.settings.iter().cloned());
    let mut rounds = Vec::new();
    for round in 1..=other.pairs {
        let first = run(&this_binary, &arguments, settings)?;
        let others = run(other_binary, &arguments, &other_settings)?;
        let again = run(&this_binary, &arguments, settings)?;
        tracing::debug!(round, "a pair is done");
        rounds.push([first, others, again]);
    }
    let cases = rounds.first().map_or(0, |[first, ..]| first.len());
    for case in 0..cases {
        print(output, &rounds, case)?;
    }
    Ok(())
}

/// This command's arguments without those that ask for a comparison, and with JSON.
fn own_arguments(arguments: impl Iterator<Item = String>) -> Vec<String> {
    const WITH_VALUE: [&str; 4] = ["--against", "--against-setting", "--pairs", "--setting"];
    let mut own = Vec::new();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            own.push(argument);
            own.extend(arguments);
            break;
        }
        let name = argument.split_once('=').map_or(argument.as_str(), |(name, _)| name);
        if WITH_VALUE.contains(&name) {
            if name == argument {
                arguments.next();
            }
        } else if argument != "--json" {
            own.push(argument);
        }
    }
    let end = own.iter().position(|argument| argument == "--").unwrap_or(own.len());
    own.insert(end, "--json".to_owned());
    own
}

fn run(binary: &Path, arguments: &[String], settings: &[String]) -> Result<Cases> {
    let end = arguments.iter().position(|argument| argument == "--").unwrap_or(arguments.len());
    let mut command = Command::new(binary);
    command.args(&arguments[..end]);
    for setting in settings {
        command.args(["--setting", setting]);
    }
    command.args(&arguments[end..]);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {}", binary.display()))?;
    if !output.status.success() {
        bail!(
            "{} ended ({}): {}",
            binary.display(),
            output.status,
            String::from_utf8_lossy(&output.stdout).trim()
        );
    }
    let lines = String::from_utf8(output.stdout).context("the run printed no text")?;
    let cases = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    cases.context("the run printed no JSON")
}

/// One case over all rounds.
fn print(output: &mut Output, rounds: &[[Cases; 3]], case: usize) -> Result<()> {
    let mut sides = Vec::new();
    for round in rounds {
        let [Some(this), Some(other), Some(again)] = round.each_ref().map(|cases| cases.get(case)) else {
            bail!("the two sides do not print the same cases");
        };
        ensure!(this.get("case") == other.get("case"), "the two sides do not print the same cases");
        sides.push([this, other, again]);
    }
    let [first, ..] = sides.first().context("there is a round")?;
    let mut figures = Map::new();
    for (name, value) in first.iter() {
        if is_figure(value) {
            let figure = |[this, other, again]: &[&Map<String, Value>; 3]| {
                let of = |side: &Map<String, Value>| side.get(name).and_then(Value::as_f64).unwrap_or(f64::NAN);
                [of(this), of(other), of(again)]
            };
            figures.insert(name.clone(), summary(&sides.iter().map(figure).collect::<Vec<_>>()));
        }
    }
    let parameters = first.iter().filter(|(name, value)| !is_figure(value) && *name != "commit");
    let mut object: Map<String, Value> = parameters.map(|(name, value)| (name.clone(), value.clone())).collect();
    object.insert("pairs".to_owned(), json!(rounds.len()));
    object.insert("figures".to_owned(), Value::Object(figures));
    let printed = output
        .show(|| Value::Object(object.clone()), || lines(&object))
        .and_then(|()| output.flush());
    ensure!(printed.is_ok(), "the output was closed");
    Ok(())
}

/// Whether a field is a figure: those are printed with a fraction, what was run is not.
fn is_figure(value: &Value) -> bool {
    value.is_f64()
}

/// The medians of a figure: of each side, and of the ratios round by round.
fn summary(rounds: &[[f64; 3]]) -> Value {
    let middle = |of: fn(&[f64; 3]) -> f64| {
        let value = median(&mut rounds.iter().map(of).collect::<Vec<_>>());
        (value * 1e4).round() / 1e4
    };
    json!({
        "this": middle(|[this, _, _]| *this),
        "other": middle(|[_, other, _]| *other),
        "other_to_this_ratio": middle(|[this, other, _]| other / this),
        "this_to_itself_ratio": middle(|[this, _, again]| again / this),
    })
}

fn lines(object: &Map<String, Value>) -> Vec<String> {
    let parameters = object.iter().filter(|(_, value)| !value.is_object());
    let parameters: Vec<String> = parameters.map(|(name, value)| format!("{name}={value}")).collect();
    let mut lines = vec![String::new(), parameters.join(" ")];
    lines.push(format!(
        "  {:<44} {:>14} {:>14} {:>11} {:>11}",
        "", "this", "other", "other/this", "this/itself"
    ));
    let figures = object.get("figures").and_then(Value::as_object);
    for (name, figure) in figures.into_iter().flatten() {
        let of = |part: &str| figure.get(part).and_then(Value::as_f64).unwrap_or(f64::NAN);
        lines.push(format!(
            "  {name:<44} {:>14.3} {:>14.3} {:>11.3} {:>11.3}",
            of("this"),
            of("other"),
            of("other_to_this_ratio"),
            of("this_to_itself_ratio")
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(line: &str) -> String {
        own_arguments(line.split(' ').map(str::to_owned)).join(" ")
    }

    #[test]
    fn children_are_not_asked_for_a_comparison() {
        assert_eq!(own("bench tag --against /a/b --pairs=3 --rounds 2"), "bench tag --rounds 2 --json");
        assert_eq!(
            own("--json bench --against-setting drain_ms=1 publish --setting a=b -- --json --pairs 1"),
            "bench publish --json -- --json --pairs 1"
        );
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // The machine is twice as fast in the second round, which the ratios do not show.
        let rounds = [[10.0, 20.0, 10.0], [5.0, 10.0, 5.5], [10.0, 20.0, 11.0]];
        let summary = summary(&rounds);
        assert_eq!(summary["other_to_this_ratio"], 2.0);
        assert_eq!(summary["this_to_itself_ratio"], 1.1);
        assert_eq!(summary["other"], 20.0);
    }

    #[test]
    fn figures_are_told_from_what_was_run_by_their_fraction() {
        let case: Map<String, Value> = serde_json::from_str(r#"{"case":"tag","messages":5,"seconds":2.0}"#).unwrap();
        let figures: Vec<_> = case.iter().filter(|(_, value)| is_figure(value)).map(|(name, _)| name).collect();
        assert_eq!(figures, ["seconds"]);
    }
}
