//! The `sluice` command: serve a broker and use one.

mod backup;
mod bench;
mod child;
mod config;
mod connect;
mod consume;
mod demo;
mod draw;
mod explain;
mod failure;
mod filter;
mod group;
mod inspect;
mod list;
mod message;
mod output;
mod plugin;
mod produce;
mod serve;
mod signals;
mod times;
mod topic;
mod transaction;
mod wanted;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use connect::Broker;
use failure::Failure;
use output::Output;

/// A message broker whose filters are sandboxed WebAssembly plugins.
///
/// The broker is found by --server with --ca or --pin, or else by the ready file that SLUICE_READY_FILE names, or else by
/// sluice-data/ready.json in the current directory, which `sluice serve` writes.
///
/// Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no broker could be reached.
#[derive(Parser)]
#[command(name = "sluice", version, propagate_version = true)]
struct Arguments {
    #[command(flatten)]
    broker: Broker,
    /// Print JSON for programs: one object, or one a line where there are many
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a broker until SIGTERM or SIGINT; a second one ends it at once
    Serve(serve::Serve),
    /// Create, list, describe and delete topics
    #[command(subcommand)]
    Topic(topic::Topic),
    /// Create, list, describe and delete consumer groups, and seek in a topic
    #[command(subcommand)]
    Group(group::Group),
    /// Publish the rows of a CSV or JSON-lines file, each as one message
    Produce(produce::Produce),
    /// Take a group's messages, print them, and acknowledge what was printed
    Consume(consume::Consume),
    /// Try filters here, without a broker, inside the same sandbox
    #[command(subcommand)]
    Filter(filter::Filter),
    /// Load, list and describe plugins
    #[command(subcommand)]
    Plugin(plugin::Plugin),
    /// List, commit and roll back prepared messages
    #[command(subcommand)]
    Transaction(transaction::Transaction),
    /// Look up stored messages
    #[command(subcommand)]
    Message(message::Message),
    /// Show what is readable in a data directory, without a broker
    Inspect(inspect::Inspect),
    /// Take, verify and restore backups
    #[command(subcommand)]
    Backup(backup::Backup),
    /// Measure what the broker costs on this machine
    Bench(bench::Bench),
    /// Show the main job on real input with a kill in the middle, or a shop's day; each checked
    Demo(demo::Demo),
    /// Show every setting of a broker with its effective value
    Config(config::Config),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut output = Output::new(arguments.json);
    let result = run(arguments.command, &arguments.broker, &mut output).and_then(|()| output.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(arguments.json),
    }
}

fn run(command: Command, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
    match command {
        Command::Serve(serve) => on_runtime(serve.run(output)),
        Command::Topic(topic) => on_runtime(topic.run(broker, output)),
        Command::Group(group) => on_runtime(group.run(broker, output)),
        Command::Produce(produce) => on_runtime(produce.run(broker, output)),
        Command::Consume(consume) => on_runtime(consume.run(broker, output)),
        Command::Filter(filter) => filter.run(output),
        Command::Plugin(plugin) => on_runtime(plugin.run(broker, output)),
        Command::Transaction(transaction) => on_runtime(transaction.run(broker, output)),
        Command::Message(message) => on_runtime(message.run(broker, output)),
        Command::Inspect(inspect) => inspect.run(output),
        Command::Backup(backup) => on_runtime(backup.run(broker, output)),
        Command::Bench(bench) => on_runtime(bench.run(output)),
        Command::Demo(demo) => on_runtime(demo.run(output)),
        Command::Config(config) => config.run(output),
    }
}

fn on_runtime(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("the system gives no threads: {error}")))?;
    let result = runtime.block_on(work);
    // What still blocks has nothing left to say.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_commands_are_put_together_without_contradiction() {
        Arguments::command().debug_assert();
    }

    /// What `--help` prints of a command and of all below it, one after the other.
    fn helps(command: &mut clap::Command, path: &str, to: &mut String) {
        to.push_str(&format!("==> {path} --help\n{}\n", command.render_long_help()));
        for below in command.get_subcommands_mut().filter(|below| below.get_name() != "help") {
            let path = format!("{path} {}", below.get_name());
            helps(below, &path, to);
        }
    }

    #[test]
    fn every_command_says_how_it_is_used() {
        let mut all = String::new();
        let mut command = Arguments::command().term_width(100);
        command.build();
        helps(&mut command, "sluice", &mut all);
        insta::assert_snapshot!("help", all);
    }

    fn refused(line: &str) -> bool {
        Arguments::try_parse_from(line.split(' ')).is_err()
    }

    #[test]
    fn filters_exclude_one_another() {
        assert!(refused("sluice consume t --group g --tag a --sql b"));
        assert!(refused("sluice consume t --group g --filter name"));
        assert!(!refused("sluice consume t --group g --filter name --expression e"));
        assert!(!refused("sluice consume t --group g"));
    }

    #[test]
    fn a_produce_needs_one_source() {
        assert!(refused("sluice produce t"));
        assert!(refused("sluice produce t --csv a --jsonl b"));
        assert!(!refused("sluice produce t --csv - --tag-column origin --property a --property b"));
    }

    #[test]
    fn a_certificate_needs_an_address() {
        assert!(refused("sluice topic list --ca file"));
        assert!(!refused("sluice topic list --server localhost:1 --ca file"));
        assert!(!refused("sluice --server localhost:1 --ca file topic list"));
    }
}
