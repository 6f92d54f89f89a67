//! The demonstration's groups: each reads through its filter until nothing is left, and is held against a plain scan.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::join_all;
use indicatif::ProgressBar;
use sluice_client::{Client, Filter, StreamConfig};
use sluice_protocol::ids::MessageId;

use super::TOPIC;
use super::data::{Flight, Question};
use crate::output;

/// How long a stream is silent before the group's lag is asked for.
const SILENCE: Duration = Duration::from_millis(50);

/// What a group got against what it should have got.
pub(super) struct Outcome {
    group: String,
    plugin: &'static str,
    expression: String,
    counted: Option<usize>,
    wanted: usize,
    found: usize,
    missing: usize,
    unwanted: usize,
    twice: usize,
}

impl Outcome {
    /// Just the messages wanted, each once, and as many as were counted by others.
    pub(super) fn is_right(&self) -> bool {
        self.missing == 0 && self.unwanted == 0 && self.twice == 0 && self.counted.is_none_or(|counted| counted == self.found)
    }
}

/// What a question's group is to get, by a plain scan: the ids of the flights wanted.
pub(super) fn scan(flights: &[Flight], ids: &[MessageId], question: &Question) -> Vec<MessageId> {
    flights
        .iter()
        .zip(ids)
        .filter(|(flight, _)| (question.wanted)(flight))
        .map(|(_, id)| *id)
        .collect()
}

/// The subscription of a question's group.
pub(super) fn subscription(question: &Question) -> StreamConfig {
    let filter = Filter::Plugin {
        name: question.plugin.to_owned(),
        expression: question.expression.clone(),
    };
    StreamConfig::new(TOPIC, question.group.clone()).filter(filter)
}

/// Reads all questions' groups side by side until none has anything left.
///
/// # Errors
/// A subscription was refused, or the connection was lost for good.
pub(super) async fn read_all(client: &Client, flights: &[Flight], ids: &[MessageId], questions: &[Question]) -> Result<Vec<Outcome>> {
    let bars = indicatif::MultiProgress::new();
    let mut readers = Vec::new();
    for question in questions {
        let mut wanted = scan(flights, ids, question);
        wanted.sort_unstable();
        let bar = bars.add(output::progress(Some(wanted.len() as u64), false));
        readers.push(read(client, question, wanted, bar));
    }
    let mut outcomes = Vec::new();
    for outcome in join_all(readers).await {
        outcomes.push(outcome?);
    }
    Ok(outcomes)
}

async fn read(client: &Client, question: &Question, wanted: Vec<MessageId>, bar: ProgressBar) -> Result<Outcome> {
    let group = &question.group;
    let mut stream = client
        .stream(subscription(question))
        .await
        .with_context(|| format!("group {group} could not subscribe"))?;
    let mut got: BTreeMap<MessageId, usize> = BTreeMap::new();
    loop {
        match tokio::time::timeout(SILENCE, stream.next_run(256)).await {
            Ok(run) => {
                let run = run.with_context(|| format!("group {group} lost its stream"))?;
                for message in &run {
                    *got.entry(message.id()).or_default() += 1;
                }
                if let Some(last) = run.last() {
                    let settled = stream.ack_up_to(last).await;
                    settled.with_context(|| format!("an acknowledgement of group {group} was refused"))?;
                }
                bar.inc(run.len() as u64);
            }
            Err(_silence) => {
                if client.group(group).await?.lag == 0 {
                    break;
                }
            }
        }
    }
    stream.close().await;
    bar.finish_and_clear();
    Ok(Outcome {
        group: group.clone(),
        plugin: question.plugin,
        expression: question.expression.clone(),
        counted: question.counted,
        wanted: wanted.len(),
        found: got.len(),
        missing: wanted.iter().filter(|id| !got.contains_key(id)).count(),
        unwanted: got.keys().filter(|id| wanted.binary_search(id).is_err()).count(),
        twice: got.values().filter(|times| **times > 1).count(),
    })
}

/// Prints what was found beside what was expected, a line a group.
pub(super) fn print(outcomes: &[Outcome]) {
    println!(
        "   {:<22} {:>6} {:>8} {:>8}  {:<5} filter",
        "group", "found", "expected", "counted", ""
    );
    for outcome in outcomes {
        let counted = outcome.counted.map_or_else(|| "-".to_owned(), |counted| counted.to_string());
        let verdict = if outcome.is_right() { "ok" } else { "WRONG" };
        println!(
            "   {:<22} {:>6} {:>8} {:>8}  {:<5} {}: {}",
            outcome.group, outcome.found, outcome.wanted, counted, verdict, outcome.plugin, outcome.expression
        );
        if !outcome.is_right() {
            println!(
                "     missing {}, unwanted {}, twice {}",
                outcome.missing, outcome.unwanted, outcome.twice
            );
        }
    }
    println!("   (expected: a plain scan of the file, compared message id by message id; counted: with SQLite, by the data's authors)");
}
