//! `sluice group`: create, list, describe and delete consumer groups, and what operators do with their messages.

pub(crate) mod leases;
mod letters;
mod policy;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use sluice_client::admin::{Alarm, Backoff, CursorInfo, GroupInfo, GroupSettings, MemberInfo, MessageState, Pause, SeekTo, filter_of};
use sluice_client::{Client, Filter};
use sluice_protocol::control::StartPoint;

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
        /// Wait before each redelivery: 5s always, 1s,5s,10s one after the other, 1s..1m doubling; a growing table unless given
        #[arg(long, value_parser = policy::backoff)]
        backoff: Option<Backoff>,
        /// Where it begins in a topic: earliest, latest, or the first message stored at a time (milliseconds since 1970, or -15m)
        #[arg(long, value_parser = policy::start, allow_hyphen_values = true)]
        start: Option<StartPoint>,
        /// The same as --start latest
        #[arg(long, conflicts_with = "start")]
        from_latest: bool,
        /// Deliver the messages of one message group one after the other
        #[arg(long)]
        ordered: bool,
        /// What becomes of a message after its last attempt
        #[arg(long, value_enum, default_value_t = Exhausted::DeadLetter)]
        on_exhausted: Exhausted,
        /// One delivery in so many goes to the message that has waited longest, whatever its priority; 0 for none
        #[arg(long, default_value_t = 16, value_name = "N", value_parser = policy::oldest_every)]
        oldest_every: u32,
        /// Give each named member all messages from when it first comes, instead of sharing them out
        #[arg(long, conflicts_with_all = ["start", "from_latest"])]
        broadcast: bool,
    },
    /// List the groups
    List,
    /// Show a group with its cursors and members
    Describe {
        /// Name of the group, or GROUP/MEMBER for a member of a broadcast group
        name: String,
    },
    /// Delete a group with its place in all topics
    Delete {
        /// Name of the group
        name: String,
    },
    /// Hand nothing out to a group any more; its members stay connected, and what they hold may be settled
    Pause {
        /// Name of the group
        name: String,
        /// One topic; all that the group reads or will read unless given
        #[arg(long)]
        topic: Option<String>,
    },
    /// Go on with a group that is paused, or held for the fault of a plugin: what was set aside or held is judged again
    Resume {
        /// Name of the group
        name: String,
        /// One topic; all unless given
        #[arg(long)]
        topic: Option<String>,
    },
    /// Settle one message for a group, whatever its state
    Skip {
        /// Name of the group
        name: String,
        /// The topic
        #[arg(long)]
        topic: String,
        /// The queue
        #[arg(long)]
        queue: u16,
        /// The message's offset in it
        #[arg(long)]
        offset: u64,
    },
    /// Pass over all that a topic holds for a group; what it holds becomes void
    Purge {
        /// Name of the group
        name: String,
        /// The topic
        #[arg(long)]
        topic: String,
    },
    /// List what the group gave up, send it back, or discard it
    #[command(subcommand)]
    DeadLetters(letters::Letters),
    /// List what is handed out to whom, what waits for another delivery, and what is held
    Leases {
        /// Name of the group
        name: String,
        /// One topic; all unless given
        #[arg(long)]
        topic: Option<String>,
        /// The most ranges of messages to list
        #[arg(long, default_value_t = 1000)]
        limit: usize,
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

/// What becomes of a message after its last attempt.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Exhausted {
    /// It goes to the dead-letter topic of the group
    DeadLetter,
    /// It stays where it is; in an ordered group those of its message group wait behind it
    Hold,
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
                start,
                from_latest,
                ordered,
                on_exhausted,
                oldest_every,
                broadcast,
            } => {
                let start = match from_latest {
                    true => policy::start("latest").ok(),
                    false => start,
                };
                let settings = GroupSettings {
                    attempts_max: attempts.into(),
                    backoff,
                    start,
                    ordered,
                    hold_exhausted: matches!(on_exhausted, Exhausted::Hold),
                    // On the wire 1 stands for none, since 0 asks for the default.
                    oldest_every: oldest_every.max(1),
                    broadcast,
                };
                create(&client, output, &name, settings).await?;
            }
            Group::List => {
                let rows: Vec<Vec<Value>> = client.groups().await?.iter().map(row).collect();
                output.table(&["group", "members", "lag", "paused", "subscriptions"], &rows)?;
            }
            Group::Describe { name } => describe(&client.group(&name).await?, output)?,
            Group::Delete { name } => {
                client.delete_group(&name).await?;
                output.show(
                    || json!({ "group": name, "deleted": true }),
                    || vec![format!("group {name} deleted")],
                )?;
            }
            Group::Pause { name, topic } => {
                client.pause_group(&name, topic.as_deref()).await?;
                let human = || vec![format!("group {name} is paused in {}", place(topic.as_deref()))];
                output.show(|| json!({ "group": name, "topic": topic, "paused": true }), human)?;
            }
            Group::Resume { name, topic } => {
                client.resume_group(&name, topic.as_deref()).await?;
                let human = || vec![format!("group {name} goes on in {}", place(topic.as_deref()))];
                output.show(|| json!({ "group": name, "topic": topic, "resumed": true }), human)?;
            }
            Group::Skip {
                name,
                topic,
                queue,
                offset,
            } => {
                let was = state_text(client.skip_message(&name, &topic, queue, offset).await?);
                let json = || json!({ "group": name, "topic": topic, "queue": queue, "offset": offset, "was": was });
                let human = || {
                    vec![format!(
                        "group {name} skips message {offset} of {topic} queue {queue}, which was {was}"
                    )]
                };
                output.show(json, human)?;
            }
            Group::Purge { name, topic } => {
                let messages = client.purge_group(&name, &topic).await?;
                let human = || vec![format!("group {name} passed over {messages} messages of topic {topic}")];
                output.show(|| json!({ "group": name, "topic": topic, "passed_over": messages }), human)?;
            }
            Group::DeadLetters(letters) => letters.run(&client, output).await?,
            Group::Leases { name, topic, limit } => {
                let mut held = client.leases(&name, topic.as_deref(), limit).await?;
                held.truncate(limit);
                leases::print(&held, output)?;
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

async fn create(client: &Client, output: &mut Output, name: &str, settings: GroupSettings) -> Result<(), Failure> {
    client.create_group(name, Some(settings)).await?;
    output.show(
        || json!({ "group": name, "created": true }),
        || vec![format!("group {name} created")],
    )
}

/// Where something holds.
fn place(topic: Option<&str>) -> String {
    topic.map_or_else(|| "all topics".to_owned(), |topic| format!("topic {topic}"))
}

/// What a message was.
fn state_text(state: MessageState) -> &'static str {
    match state {
        MessageState::Free => "not handed out yet",
        MessageState::Leased => "leased",
        MessageState::Retrying => "waiting for another delivery",
        MessageState::Held => "held",
        MessageState::Over => "settled or passed over already",
    }
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
        json!(group.pauses.iter().any(|pause| pause.topic.is_empty())),
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
        json!(cursor.parked),
        json!(cursor.expired),
        json!(cursor.lost),
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
    "parked",
    "expired",
    "lost",
    "held",
];

fn describe(group: &GroupInfo, output: &mut Output) -> Result<(), Failure> {
    let settings = group.settings.as_ref();
    let attempts = settings.map_or(0, |settings| settings.attempts_max);
    let (backoff, start) = (policy::backoff_text(settings), policy::start_text(settings));
    let settings = group.settings.clone().unwrap_or_default();
    let exhausted = if settings.hold_exhausted { "hold" } else { "dead-letter" };
    let oldest_every = if settings.oldest_every == 1 { 0 } else { settings.oldest_every };
    if output.is_json() {
        let cursor = |cursor: &CursorInfo| {
            let fields = CURSOR.iter().map(|head| (*head).to_owned()).zip(cursor_row(cursor)).collect();
            Value::Object(fields)
        };
        let member = |member: &MemberInfo| {
            let mut told = json!({ "name": member.name, "topic": member.topic, "leased": member.leased });
            if settings.broadcast {
                told["lag"] = json!(member.lag);
                told["absent_since_ms"] = json!(member.absent_since_wall_ms);
            }
            told
        };
        let alarm = |alarm: &Alarm| {
            json!({
                "topic": alarm.topic, "digest": hex(&alarm.digest), "reason": alarm.reason, "since_ms": alarm.since_wall_ms,
            })
        };
        let pause = |pause: &Pause| {
            let topic = (!pause.topic.is_empty()).then_some(&pause.topic);
            json!({ "topic": topic, "since_ms": pause.since_wall_ms, "by": pause.by })
        };
        let json = json!({
            "alarms": group.alarms.iter().map(alarm).collect::<Vec<_>>(),
            "pauses": group.pauses.iter().map(pause).collect::<Vec<_>>(),
            "group": group.name, "lag": group.lag, "attempts_max": attempts, "backoff": backoff, "start": start,
            "broadcast": settings.broadcast, "ordered": settings.ordered, "on_exhausted": exhausted, "oldest_every": oldest_every,
            "subscriptions": subscriptions(group),
            "members": group.members.iter().map(member).collect::<Vec<_>>(),
            "cursors": group.cursors.iter().map(cursor).collect::<Vec<_>>(),
        });
        return output.line(json.to_string());
    }
    output.line(format!("group          {}", group.name))?;
    output.line(format!("lag            {}", group.lag))?;
    output.line(format!("attempts       {attempts}, then {exhausted}"))?;
    output.line(format!("back-off       {backoff}"))?;
    output.line(format!("start          {start}"))?;
    if settings.broadcast {
        output.line("broadcast      each member gets all")?;
    }
    if settings.ordered {
        output.line("ordered        by message group")?;
    }
    for subscription in subscriptions(group) {
        output.line(format!("subscription   {subscription}"))?;
    }
    for pause in &group.pauses {
        output.line(format!(
            "PAUSED         {} since {} by {}; go on with `sluice group resume {}`",
            place((!pause.topic.is_empty()).then_some(pause.topic.as_str())),
            times::shown(pause.since_wall_ms),
            pause.by,
            group.name
        ))?;
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
        output.line(member_line(member, settings.broadcast))?;
    }
    output.table(CURSOR, &group.cursors.iter().map(cursor_row).collect::<Vec<_>>())
}

fn member_line(member: &MemberInfo, broadcast: bool) -> String {
    let holds = format!("member         {} holds {} of {}", member.name, member.leased, member.topic);
    let away = member.absent_since_wall_ms.map(times::shown);
    match broadcast {
        false => holds,
        true => {
            let away = away.map_or_else(String::new, |since| format!(", away since {since}"));
            format!("{holds}, {} behind{away}", member.lag)
        }
    }
}
