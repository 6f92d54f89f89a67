//! `sluice consume`: take a group's messages, print them, and acknowledge what was printed.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use sluice_client::{Client, Error, MessageStream, Start, StreamConfig, StreamMessage};

use crate::connect::Broker;
use crate::failure::Failure;
use crate::message;
use crate::output::{Output, progress};
use crate::signals::Signals;
use crate::wanted::Wanted;

/// How long no message may come before the group's lag is asked for.
const QUIET: Duration = Duration::from_millis(100);
/// Messages that are printed and then acknowledged together.
const RUN_MESSAGES: usize = 1_024;

/// Print a group's messages and acknowledge what was printed. One JSON object a line with --json, else the id, queue/offset, tag and body.
#[derive(Args)]
pub(crate) struct Consume {
    /// The topic
    topic: String,
    /// The consumer group, created when it does not exist
    #[arg(long, value_name = "G")]
    group: String,
    /// Be the member of this name: each member of a broadcast group needs one, and goes on where it was
    #[arg(long, value_name = "NAME")]
    member: Option<String>,
    #[command(flatten)]
    wanted: Wanted,
    /// End after so many messages
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End when the group has nothing left in the topic
    #[arg(long)]
    until_empty: bool,
    /// A new group begins after the newest message instead of at the earliest
    #[arg(long)]
    from_latest: bool,
}

impl Consume {
    /// Prints until the count, the end of the backlog, or a signal.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        let mut signals = Signals::take()?;
        let client = broker.connect().await?;
        let mut config = StreamConfig::new(&self.topic, &self.group).filter(self.wanted.filter());
        // The broker leases what it pushes, so no more is asked for than can be used.
        config.credit = self.count.map_or(config.credit, |count| {
            config.credit.min(u32::try_from(count).unwrap_or(u32::MAX)).max(1)
        });
        config.member.clone_from(&self.member);
        config.start = self.from_latest.then_some(Start::Latest);
        let mut stream = client.stream(config).await?;
        let taken = tokio::select! {
            taken = self.take(&client, &mut stream, output) => taken,
            () = signals.next() => Ok(()),
        };
        // A second signal does not wait for the good order.
        tokio::select! {
            () = async { stream.close().await; client.close().await; } => {}
            () = signals.end_at_once() => {}
        }
        taken
    }

    async fn take(&self, client: &Client, stream: &mut MessageStream, output: &mut Output) -> Result<(), Failure> {
        // A bar beside the messages would only disturb them.
        let bar = progress(self.count, output.is_json() || std::io::stdout().is_terminal());
        let mut left = self.count.unwrap_or(u64::MAX);
        while left > 0 {
            let max = usize::try_from(left).unwrap_or(usize::MAX).min(RUN_MESSAGES);
            let run = if self.until_empty {
                match tokio::time::timeout(QUIET, stream.next_run(max)).await {
                    Ok(run) => run?,
                    Err(_) if self.nothing_left(client).await? => break,
                    Err(_) => continue,
                }
            } else {
                stream.next_run(max).await?
            };
            if run.is_empty() {
                break;
            }
            print(&run, output)?;
            acknowledge(stream, &run).await?;
            left -= run.len() as u64;
            bar.inc(run.len() as u64);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Whether the group has settled or skipped all that the topic holds.
    async fn nothing_left(&self, client: &Client) -> Result<bool, Failure> {
        let mut group = client.group(&self.group).await?;
        if let (true, Some(member)) = (group.settings.as_ref().is_some_and(|settings| settings.broadcast), &self.member) {
            group = client.group(&sluice_protocol::names::member_group(&self.group, member)).await?;
        }
        let mut cursors = group.cursors.iter().filter(|cursor| cursor.topic == self.topic);
        Ok(cursors.all(|cursor| cursor.cursor >= cursor.end && cursor.leased == 0 && cursor.retrying == 0))
    }
}

fn print(run: &[StreamMessage], output: &mut Output) -> Result<(), Failure> {
    for message in run {
        let line = if output.is_json() {
            message::to_json(message).to_string()
        } else {
            message::to_line(message)
        };
        output.line(line)?;
    }
    // What is acknowledged must have been seen.
    output.flush()
}

/// Acknowledges a run of one queue. A lease that is gone is no failure: the message will come again.
async fn acknowledge(stream: &MessageStream, run: &[StreamMessage]) -> Result<(), Failure> {
    let Some(last) = run.last() else { return Ok(()) };
    match stream.ack_up_to(last).await {
        Ok(()) => Ok(()),
        Err(Error::LeaseLost | Error::Unknown { .. }) => {
            eprintln!(
                "the connection or pass changed before {} messages were acknowledged; they come again",
                run.len()
            );
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
