//! `sluice group`: create, list, describe and delete consumer groups, seek, and resume.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_client::admin::{Alarm, Backoff, CursorInfo, GroupInfo, GroupSettings, SeekTo, filter_of};
use sluice_client::{Client, Filter};
use sluice_protocol::control::{StartPoint, backoff, start_point};

use crate::connect::Broker;
use crate::failure::Failure;
use crate::message::hex;
use crate::output::Output;
use crate::times;

/// Consumer groups.
#[derive(Subcommand)]
pub(crate) enum Group {
    /// Create a group
    Create {
        /// Name: 1 to 127 letters, digits, and any of _ - . %
        name: String,
        /// Deliveries of a message before it goes to the dead-letter topic
        #[arg(long, default_value_t = 16)]
        attempts: u16,
        /// Wait before each redelivery, such as 5s, instead of the growing one
        #[arg(long, value_parser = times::duration)]
        backoff: Option<Duration>,
        /// Begin after the newest message instead of at the earliest
        #[arg(long)]
        from_latest: bool,
    },
    /// List the groups
    List,
    /// Show a group with its cursors and members
    Describe {
        /// Name of the group
        name: String,
    },
    /// Delete a group with its place in all topics
    Delete {
        /// Name of the group
        name: String,
    },
    /// Go on with a group that is held for the fault of a plugin: what was set aside or held is judged again
    Resume {
        /// Name of the group
        name: String,
    },
    /// Move a group to another place in a topic; what it holds becomes void
    Seek {
        /// Name of the group
        name: String,
        /// The topic
        #[arg(long)]
        topic: String,
        /// One queue of the topic; all of them unless given
        #[arg(long)]
        queue: Option<u16>,
        #[command(flatten)]
        to: To,
    },
}

// Where a seek goes. Not a documentation comment, since clap would take it for the command's.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(crate) struct To {
    /// To the earliest stored message
    #[arg(long)]
    earliest: bool,
    /// After the newest message
    #[arg(long)]
    latest: bool,
    /// To this offset
    #[arg(long)]
    offset: Option<u64>,
    /// To the first message stored at this time or later: milliseconds since 1970, or before now as in -15m
    #[arg(long, value_parser = times::time, allow_hyphen_values = true)]
    time: Option<i64>,
}

impl To {
    fn place(&self) -> SeekTo {
        match (self.offset, self.time, self.latest) {
            (Some(offset), _, _) => SeekTo::Offset(offset),
            (None, Some(time), _) => SeekTo::Time(time),
            (None, None, true) => SeekTo::Latest,
            (None, None, false) => SeekTo::Earliest,
        }
    }
}

impl Group {
    /// Does what is asked.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        let client = broker.connect().await?;
        match self {
            Group::Create {
                name,
                attempts,
                backoff,
                from_latest,
            } => create(&client, output, &name, attempts, backoff, from_latest).await?,
            Group::List => {
                let rows: Vec<Vec<Value>> = client.groups().await?.iter().map(row).collect();
                output.table(&["group", "members", "lag", "subscriptions"], &rows)?;
            }
            Group::Describe { name } => describe(&client.group(&name).await?, output)?,
            Group::Delete { name } => {
                client.delete_group(&name).await?;
                output.show(
                    || json!({ "group": name, "deleted": true }),
                    || vec![format!("group {name} deleted")],
                )?;
            }
            Group::Resume { name } => {
                client.resume_group(&name).await?;
                output.show(
                    || json!({ "group": name, "resumed": true }),
                    || vec![format!("group {name} goes on")],
                )?;
            }
            Group::Seek { name, topic, queue, to } => {
                client.seek(&name, &topic, queue, to.place()).await?;
                let human = || vec![format!("group {name} begins a new pass in topic {topic}")];
                output.show(|| json!({ "group": name, "topic": topic, "sought": true }), human)?;
            }
        }
        client.close().await;
        Ok(())
    }
}

async fn create(
    client: &Client,
    output: &mut Output,
    name: &str,
    attempts: u16,
    backoff: Option<Duration>,
    from_latest: bool,
) -> Result<(), Failure> {
    let backoff = backoff.map(|wait| {
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Backoff {
            kind: Some(backoff::Kind::FixedMs(wait_ms)),
        }
    });
    let start = from_latest.then_some(StartPoint {
        at: Some(start_point::At::Latest(true)),
    });
    let settings = GroupSettings {
        attempts_max: attempts.into(),
        backoff,
        start,
    };
    client.create_group(name, Some(settings)).await?;
    output.show(
        || json!({ "group": name, "created": true }),
        || vec![format!("group {name} created")],
    )
}

/// A filter as people write it.
fn filter_text(filter: &Filter) -> String {
    match filter {
        Filter::All => "every message".to_owned(),
        Filter::Tag(expression) => format!("tag {expression}"),
        Filter::Sql(expression) => format!("sql {expression}"),
        Filter::Plugin { name, expression } => format!("{name} {expression}"),
    }
}

fn subscriptions(group: &GroupInfo) -> Vec<String> {
    group
        .subscriptions
        .iter()
        .map(|one| format!("{} ({})", one.topic, filter_text(&filter_of(one))))
        .collect()
}

fn row(group: &GroupInfo) -> Vec<Value> {
    let mut shown = subscriptions(group);
    let further = (group.subscription_count as usize).saturating_sub(shown.len());
    if further > 0 {
        shown.push(format!("{further} more"));
    }
    vec![
        json!(group.name),
        json!(group.member_count),
        json!(group.lag),
        json!(shown.join(", ")),
    ]
}

fn cursor_row(cursor: &CursorInfo) -> Vec<Value> {
    let held = if cursor.held.is_empty() { Value::Null } else { json!(cursor.held) };
    vec![
        json!(cursor.topic),
        json!(cursor.queue),
        json!(cursor.pass),
        json!(cursor.cursor),
        json!(cursor.frontier),
        json!(cursor.end),
        json!(cursor.leased),
        json!(cursor.retrying),
        json!(cursor.matched),
        json!(cursor.failed),
        json!(cursor.set_aside),
        json!(cursor.culprits_held),
        held,
    ]
}

const CURSOR: &[&str] = &[
    "topic",
    "queue",
    "pass",
    "cursor",
    "frontier",
    "end",
    "leased",
    "retrying",
    "matched",
    "failed",
    "set_aside",
    "culprits_held",
    "held",
];

fn describe(group: &GroupInfo, output: &mut Output) -> Result<(), Failure> {
    let attempts = group.settings.as_ref().map_or(0, |settings| settings.attempts_max);
    if output.is_json() {
        let cursor = |cursor: &CursorInfo| {
            let fields = CURSOR.iter().map(|head| (*head).to_owned()).zip(cursor_row(cursor)).collect();
            Value::Object(fields)
        };
        let member =
            |member: &sluice_client::admin::MemberInfo| json!({ "name": member.name, "topic": member.topic, "leased": member.leased });
        let alarm = |alarm: &Alarm| {
            json!({
                "topic": alarm.topic, "digest": hex(&alarm.digest), "reason": alarm.reason, "since_ms": alarm.since_wall_ms,
            })
        };
        let json = json!({
            "alarms": group.alarms.iter().map(alarm).collect::<Vec<_>>(),
            "group": group.name, "lag": group.lag, "attempts_max": attempts, "subscriptions": subscriptions(group),
            "members": group.members.iter().map(member).collect::<Vec<_>>(),
            "cursors": group.cursors.iter().map(cursor).collect::<Vec<_>>(),
        });
        return output.line(json.to_string());
    }
    output.line(format!("group          {}", group.name))?;
    output.line(format!("lag            {}", group.lag))?;
    output.line(format!("attempts       {attempts}"))?;
    for subscription in subscriptions(group) {
        output.line(format!("subscription   {subscription}"))?;
    }
    for alarm in &group.alarms {
        output.line(format!(
            "HELD           {} since {}: {} (plugin {}); go on with `sluice group resume {}` or by loading another version",
            alarm.topic,
            times::shown(alarm.since_wall_ms),
            alarm.reason,
            hex(&alarm.digest),
            group.name
        ))?;
    }
    for member in &group.members {
        output.line(format!(
            "member         {} holds {} of {}",
            member.name, member.leased, member.topic
        ))?;
    }
    output.table(CURSOR, &group.cursors.iter().map(cursor_row).collect::<Vec<_>>())
}
