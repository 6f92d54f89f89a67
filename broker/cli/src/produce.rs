//! `sluice produce`: publish the rows of a file, each as one message.

mod rows;

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;
use sluice_client::{Confirmation, Producer, ProducerConfig, SendError};

use crate::connect::Broker;
use crate::failure::{Failure, refusal_text};
use crate::output::{Output, progress};
use crate::signals::Signals;
use crate::times;
use rows::{Columns, Rows};

/// Messages under way before the oldest is waited for.
const UNDER_WAY_MAX: usize = 4_096;
/// Delayed and prepared messages that are told one by one, with what recalls or decides about each.
const WAITING_TOLD: usize = 1_000;
/// Refused messages that are named one by one.
const REFUSALS_NAMED: u64 = 10;

/// Publish the rows of a CSV or JSON-lines file. The body is the row as a JSON object; the values of a CSV file are texts.
#[derive(Args)]
pub(crate) struct Produce {
    /// The topic
    topic: String,
    #[command(flatten)]
    source: Source,
    /// Column that becomes the tag
    #[arg(long, value_name = "C")]
    tag_column: Option<String>,
    /// Column that becomes a key
    #[arg(long, value_name = "C")]
    key_column: Option<String>,
    /// Column that becomes a property; may be given several times
    #[arg(long = "property", value_name = "C")]
    properties: Vec<String>,
    /// Have the messages delivered so long after the broker takes them: 500ms, 30s, 15m, 12h, 3d
    #[arg(long, value_name = "DURATION", value_parser = times::duration, conflicts_with = "deliver_at")]
    deliver_after: Option<Duration>,
    /// Have the messages delivered at this time: milliseconds since 1970, or a time from now such as +15m
    #[arg(long, value_name = "TIME", value_parser = times::time_ahead)]
    deliver_at: Option<i64>,
    /// Only prepare the messages: each is delivered when it is committed by the handle that is printed for it
    #[arg(long)]
    prepare: bool,
    /// Priority of every message, 0 to 9, larger first
    #[arg(long, default_value_t = 0, value_name = "P", value_parser = clap::value_parser!(u8).range(0..=9))]
    priority: u8,
    /// Column that becomes the priority; where it is empty --priority holds
    #[arg(long, value_name = "C")]
    priority_column: Option<String>,
    /// Message group of every message: an ordered group gets them one after the other
    #[arg(long, value_name = "G", conflicts_with = "group_column")]
    message_group: Option<String>,
    /// Column that becomes the message group
    #[arg(long, value_name = "C")]
    group_column: Option<String>,
    /// Column with an id of each message: one that was sent to the topic within the last ten minutes is not stored again, whoever sends it
    /// within the same --id-scope; where it is empty the message has none
    #[arg(long, value_name = "C")]
    id_column: Option<String>,
    /// Whose ids those are
    #[arg(long, value_name = "NAME", default_value = "sluice produce", requires = "id_column")]
    id_scope: String,
    /// How long the messages live once they are stored: 500ms, 30s, 15m, 12h, 3d; without it as long as the topic says
    #[arg(long, value_name = "DURATION", value_parser = times::lifetime)]
    ttl: Option<Duration>,
    /// How long a message may wait for others to share its batch, in milliseconds
    #[arg(long, default_value_t = 2, value_name = "MS")]
    linger: u64,
    /// Messages in one batch
    #[arg(long, default_value_t = 256, value_name = "N")]
    batch: u32,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// CSV file with a line of heads; - reads standard input
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// File with one JSON object a line; - reads standard input
    #[arg(long, value_name = "FILE")]
    jsonl: Option<PathBuf>,
}

/// What became of the messages so far.
#[derive(Default)]
struct Tally {
    stored: u64,
    duplicates: u64,
    failed: u64,
    /// The first of those that wait, each to be told with what recalls it or decides about it.
    waiting: Vec<sluice_client::Receipt>,
    first_failure: Option<SendError>,
}

impl Produce {
    /// Publishes until the file ends, or until a signal asks to stop: what is under way is confirmed then.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        let columns = Columns {
            tag: self.tag_column,
            key: self.key_column,
            properties: self.properties,
            deliver_after: self.deliver_after,
            deliver_at_ms: self.deliver_at,
            prepared: self.prepare,
            priority: self.priority,
            priority_column: self.priority_column,
            group: self.message_group,
            group_column: self.group_column,
            id: self.id_column.map(|column| (column, self.id_scope)),
            ttl: self.ttl,
        };
        let mut rows = open(&self.source, columns)?;
        let client = broker.connect().await?;
        let config = ProducerConfig {
            linger_ms: self.linger,
            batch_messages: self.batch.max(1),
            ..ProducerConfig::default()
        };
        let producer = client.producer(&self.topic, config);
        let bar = progress(None, output.is_json());
        let started = Instant::now();
        let mut tally = Tally::default();
        let read = publish(&mut rows, &producer, &mut tally, &bar).await;
        for receipt in &tally.waiting {
            tell_waiting(receipt, output)?;
        }
        bar.finish_and_clear();
        producer.close().await?;
        client.close().await;
        tell(&self.topic, &tally, started.elapsed(), output)?;
        read?;
        match tally.first_failure {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }
}

fn open(source: &Source, columns: Columns) -> Result<Rows, Failure> {
    match (&source.csv, &source.jsonl) {
        (Some(path), _) => Rows::csv(reader(path)?, columns),
        (None, Some(path)) => Ok(Rows::jsonl(reader(path)?, columns)),
        (None, None) => Err(Failure::Usage("give --csv FILE or --jsonl FILE".to_owned())),
    }
}

fn reader(path: &Path) -> Result<Box<dyn BufRead>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file = File::open(path).map_err(|error| Failure::failed(format!("cannot read {}: {error}", path.display())))?;
    Ok(Box::new(BufReader::with_capacity(1 << 20, file)))
}

/// Sends row after row with many under way, and takes in the confirmations in order.
async fn publish(rows: &mut Rows, producer: &Producer, tally: &mut Tally, bar: &ProgressBar) -> Result<(), Failure> {
    let mut signals = Signals::take()?;
    let mut under_way: VecDeque<(u64, Confirmation)> = VecDeque::new();
    let mut result = Ok(());
    for row in rows.by_ref() {
        let (line, message) = match row {
            Ok(row) => row,
            Err(failure) => {
                result = Err(failure);
                break;
            }
        };
        let confirmation = tokio::select! {
            confirmation = producer.enqueue(message) => confirmation?,
            () = signals.next() => {
                result = Err(Failure::failed(format!("stopped by a signal before line {line}")));
                break;
            }
        };
        under_way.push_back((line, confirmation));
        if under_way.len() >= UNDER_WAY_MAX
            && let Some((line, confirmation)) = under_way.pop_front()
        {
            tally.take(line, confirmation.await, bar);
        }
    }
    while let Some((line, confirmation)) = under_way.pop_front() {
        tokio::select! {
            outcome = confirmation => tally.take(line, outcome, bar),
            () = signals.next() => return Err(Failure::failed("ended by a signal while messages were unconfirmed")),
        }
    }
    result
}

impl Tally {
    fn take(&mut self, line: u64, outcome: Result<sluice_client::Receipt, SendError>, bar: &ProgressBar) {
        bar.inc(1);
        match outcome {
            Ok(receipt) => {
                self.stored += 1;
                self.duplicates += u64::from(receipt.duplicate);
                let waits = receipt.delayed.is_some() || receipt.transaction.is_some();
                if waits && self.waiting.len() < WAITING_TOLD {
                    self.waiting.push(receipt);
                }
            }
            Err(error) => {
                self.failed += 1;
                if self.failed <= REFUSALS_NAMED {
                    let text = match &error {
                        SendError::Refused(refusal) => refusal_text(refusal),
                        SendError::Unknown { .. } | SendError::Closed => error.to_string(),
                    };
                    bar.suspend(|| eprintln!("line {line}: {text}"));
                }
                self.first_failure.get_or_insert(error);
            }
        }
    }
}

/// A delayed or prepared message: when it is due and what recalls it, or what decides about it.
fn tell_waiting(receipt: &sluice_client::Receipt, output: &mut Output) -> Result<(), Failure> {
    let id = receipt.id.to_string();
    let (mut json, mut human) = (json!({ "id": id }), id.clone());
    if let Some(delayed) = &receipt.delayed {
        json["deliver_at_ms"] = json!(delayed.deliver_at_ms);
        human += &format!(" due {}", times::shown(delayed.deliver_at_ms));
    }
    match (&receipt.transaction, &receipt.delayed) {
        (Some(handle), _) => {
            json["transaction"] = json!(handle.to_string());
            human += &format!(" transaction {handle}");
        }
        (None, Some(delayed)) => {
            json["recall"] = json!(delayed.recall.to_string());
            human += &format!(" recall {}", delayed.recall);
        }
        (None, None) => {}
    }
    output.show(|| json, || vec![human])
}

fn tell(topic: &str, tally: &Tally, took: Duration, output: &mut Output) -> Result<(), Failure> {
    let Tally {
        stored,
        duplicates,
        failed,
        ..
    } = tally;
    let rate = *stored as f64 / took.as_secs_f64().max(1e-9);
    let json = || {
        json!({
            "topic": topic, "stored": stored, "duplicates": duplicates, "failed": failed, "seconds": took.as_secs_f64(),
            "messages_per_second": rate.round(),
        })
    };
    let human = || {
        vec![format!(
            "{stored} messages stored in {topic}, {failed} failed; {:.2} s, {rate:.0} a second",
            took.as_secs_f64()
        )]
    };
    output.show(json, human)?;
    output.flush()
}
