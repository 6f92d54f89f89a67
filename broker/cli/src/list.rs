//! `sluice message list` and `search`: stored messages from any offset or time or by their key, without a group.

use clap::Args;
use sluice_client::{Client, Message, ReadFrom, ReadTo, Reading};

use crate::failure::Failure;
use crate::output::Output;
use crate::wanted::Wanted;
use crate::{message, times};

/// Print stored messages in the order in which they were stored: for people the time, id, queue/offset, tag and size or body of each.
#[derive(Args)]
pub(crate) struct List {
    /// The topic
    topic: String,
    /// Only this queue
    #[arg(long, value_name = "Q")]
    queue: Option<u16>,
    /// Begin at this offset of each queue
    #[arg(long, value_name = "N", conflicts_with = "since")]
    from_offset: Option<u64>,
    /// Begin with what was stored at this time: milliseconds since 1970, or a time before now such as -15m
    #[arg(long, value_name = "T", value_parser = times::time, allow_hyphen_values = true)]
    since: Option<i64>,
    /// End before this offset of each queue
    #[arg(long, value_name = "N", conflicts_with = "until")]
    to_offset: Option<u64>,
    /// End before what was stored at this time
    #[arg(long, value_name = "T", value_parser = times::time, allow_hyphen_values = true)]
    until: Option<i64>,
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    shown: Shown,
}

/// Print the stored messages of a topic that have a key, in the order in which they were stored.
#[derive(Args)]
pub(crate) struct Search {
    /// The topic
    topic: String,
    /// The key
    #[arg(long, value_name = "K", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    key: String,
    /// Begin with what was stored at this time: milliseconds since 1970, or a time before now such as -15m
    #[arg(long, value_name = "T", value_parser = times::time, allow_hyphen_values = true)]
    since: Option<i64>,
    /// End before what was stored at this time
    #[arg(long, value_name = "T", value_parser = times::time, allow_hyphen_values = true)]
    until: Option<i64>,
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    shown: Shown,
}

/// How many messages are shown, and what of them.
#[derive(Args)]
struct Shown {
    /// End after so many messages
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// With their bodies
    #[arg(long)]
    body: bool,
}

impl List {
    /// Prints the messages.
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let from = match (self.from_offset, self.since) {
            (Some(offset), _) => ReadFrom::Offset(offset),
            (None, Some(wall_ms)) => ReadFrom::Time(wall_ms),
            (None, None) => ReadFrom::Earliest,
        };
        let reading = Reading {
            topic: self.topic,
            queue: self.queue,
            from,
            to: to(self.to_offset, self.until),
            key: None,
            filter: self.wanted.filter(),
            bodies: self.shown.body,
        };
        self.shown.print(client, &reading, output).await
    }
}

impl Search {
    /// Prints the messages.
    pub(crate) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        let reading = Reading {
            topic: self.topic,
            queue: None,
            from: self.since.map_or(ReadFrom::Earliest, ReadFrom::Time),
            to: to(None, self.until),
            key: Some(self.key),
            filter: self.wanted.filter(),
            bodies: self.shown.body,
        };
        self.shown.print(client, &reading, output).await
    }
}

fn to(offset: Option<u64>, wall_ms: Option<i64>) -> ReadTo {
    match (offset, wall_ms) {
        (Some(offset), _) => ReadTo::BeforeOffset(offset),
        (None, Some(wall_ms)) => ReadTo::BeforeTime(wall_ms),
        (None, None) => ReadTo::End,
    }
}

impl Shown {
    async fn print(&self, client: &Client, reading: &Reading, output: &mut Output) -> Result<(), Failure> {
        let mut pages = client.read(reading);
        let (mut left, mut failed) = (self.limit, 0);
        while left > 0
            && let Some(page) = pages.next(left).await?
        {
            left -= page.messages.len().min(left);
            failed += page.failed;
            for message in &page.messages {
                output.line(if output.is_json() {
                    message::to_json(message).to_string()
                } else {
                    line(message)
                })?;
            }
            output.flush()?;
        }
        if failed > 0 {
            eprintln!("{failed} messages are left out: the filter failed on them");
        }
        if pages.has_more() {
            eprintln!("there may be more: --limit says how many are shown");
        }
        Ok(())
    }
}

fn line(message: &Message) -> String {
    let what = match message.has_body() {
        true => message::to_line(message),
        false => format!(
            "{} {}/{} {} {} bytes",
            message.id(),
            message.queue(),
            message.offset(),
            message.tag().unwrap_or("-"),
            message.body_bytes()
        ),
    };
    format!("{} {what}", times::shown(message.stored_ms()))
}
