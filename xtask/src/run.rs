//! The commands that call cargo and the project's own binaries.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{root, tidy, toolchain};

/// Seeds that every test run simulates, besides some from the commit.
const SIMULATION_SEEDS_FIXED: u64 = 150;
/// Seeds that change with the commit, so that every commit looks somewhere new.
const SIMULATION_SEEDS_OF_COMMIT: u64 = 100;
/// Kills of the real broker in every test run.
const CRASH_ROUNDS: u32 = 20;
/// Kills within which a broker that never syncs must be caught.
const CRASH_ROUNDS_NEVER_SYNC: u32 = 40;
/// Generated pairs of expression and message in every test run.
const SQL_ORACLE_PAIRS: u64 = 200_000;

/// Every test there is, in the order of what fails fastest.
pub(crate) fn test() -> Result<()> {
    toolchain::ensure_guest_target()?;
    cargo(
        "unit, property, golden, fuzz and end-to-end tests",
        &["test", "--workspace", "--locked"],
    )?;
    mutants()?;
    simulate(SIMULATION_SEEDS_FIXED, 1, &[])?;
    // How often a law is put to the test is the fixed seeds' affair: a hundred others may miss a rare one by chance.
    simulate(SIMULATION_SEEDS_OF_COMMIT, seed_of_commit(), &["--anywhere"])?;
    sql_oracle(SQL_ORACLE_PAIRS, seed_of_commit())?;
    let seed = seed_of_commit().to_string();
    crash(&["--rounds", &CRASH_ROUNDS.to_string(), "--seed", &seed])?;
    crash(&["--rounds", &CRASH_ROUNDS_NEVER_SYNC.to_string(), "--seed", &seed, "--never-sync"])?;
    println!("all tests passed");
    Ok(())
}

/// What continuous integration demands besides the tests.
pub(crate) fn lint() -> Result<()> {
    toolchain::ensure_guest_target()?;
    cargo("format", &["fmt", "--all", "--check"])?;
    tidy::check(&root())?;
    cargo(
        "clippy",
        &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"],
    )
}

/// A demonstration in the build that is shipped: the main job on real input, unless another is named.
pub(crate) fn demo(rest: &[String]) -> Result<()> {
    toolchain::ensure_guest_target()?;
    let mut arguments = vec!["run", "--release", "--locked", "--package", "sluice", "--", "demo"];
    arguments.extend(rest.iter().map(String::as_str));
    cargo("the demonstration", &arguments)
}

/// The simulation, in the optimised test build.
pub(crate) fn simulate(seeds: u64, from: u64, rest: &[&str]) -> Result<()> {
    let (seeds, from) = (seeds.to_string(), from.to_string());
    let package = ["run", "--locked", "--package", "sluice-simulation", "--"];
    cargo(
        "the simulation",
        &[&package[..], &["--seeds", &seeds, "--from", &from], rest].concat(),
    )
}

/// The simulation against itself: every planted bug must be caught.
pub(crate) fn mutants() -> Result<()> {
    let package = ["run", "--locked", "--package", "sluice-simulation", "--features", "planted-bugs"];
    cargo("planted bugs, each to be caught", &[&package[..], &["--", "--mutants"]].concat())
}

/// Kills of the real binary on real files, half of them with unsynced writes lost.
pub(crate) fn crash<A: AsRef<str>>(arguments: &[A]) -> Result<()> {
    build_all()?;
    let arguments: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    binary("sluice-crash", &arguments)
}

/// The SQL filter against an oracle in Python.
pub(crate) fn sql_oracle(pairs: u64, seed: u64) -> Result<()> {
    build_all()?;
    binary("sluice-sql-oracle", &["--pairs", &pairs.to_string(), "--seed", &seed.to_string()])
}

/// The guests: their native tests, and their components as the plugin host carries them.
pub(crate) fn plugins() -> Result<()> {
    toolchain::ensure_guest_target()?;
    cargo(
        "the guests' unit tests",
        &["test", "--locked", "--package", "filter-tag", "--package", "filter-sql"],
    )?;
    cargo("the components", &["build", "--locked", "--package", "sluice-plugin-host"])
}

/// Builds everything there is in the test profile. One selection of packages for all who need the binaries: cargo unites features over
/// the packages selected, so that another selection would build wasmtime once more.
fn build_all() -> Result<()> {
    toolchain::ensure_guest_target()?;
    cargo("everything", &["build", "--workspace", "--all-targets", "--locked"])
}

/// Runs a binary of the test profile, which lies beside this one.
fn binary(name: &str, arguments: &[&str]) -> Result<()> {
    eprintln!("==> {name} {}", arguments.join(" "));
    let this = std::env::current_exe().context("find this binary")?;
    let status = Command::new(this.with_file_name(name)).args(arguments).current_dir(root()).status();
    if !status.with_context(|| format!("run {name}"))?.success() {
        bail!("{name} failed");
    }
    Ok(())
}

/// A seed that is the same for the same commit and differs between commits.
fn seed_of_commit() -> u64 {
    let output = Command::new("git")
        .args(["rev-parse", "--short=12", "HEAD"])
        .current_dir(root())
        .output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        .unwrap_or_default();
    u64::from_str_radix(&text, 16).unwrap_or(1_000_000)
}

/// Runs cargo in the root and says how long it took.
fn cargo(what: &str, arguments: &[&str]) -> Result<()> {
    eprintln!("==> {what}: cargo {}", arguments.join(" "));
    let begun = Instant::now();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(arguments)
        .current_dir(root())
        .status()
        .context("run cargo")?;
    if !status.success() {
        bail!("{what} failed: cargo {}", arguments.join(" "));
    }
    eprintln!("==> {what}: done in {} s", begun.elapsed().as_secs());
    Ok(())
}
