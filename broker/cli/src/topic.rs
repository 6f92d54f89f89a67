//! `sluice topic`: create, list, describe, grow and delete topics.

use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};
use sluice_client::admin::{TopicInfo, TopicSettings};

use crate::connect::Broker;
use crate::failure::Failure;
use crate::output::Output;
use crate::times;

/// Topics.
#[derive(Subcommand)]
pub(crate) enum Topic {
    /// Create a topic
    Create {
        /// Name: 1 to 127 letters, digits, and any of _ - . %
        name: String,
        /// How many queues it has, 1 to 1024
        #[arg(long, default_value_t = 4)]
        queues: u16,
        /// How long messages are kept, such as 72h; 0s keeps them until the size rules
        #[arg(long, value_parser = times::duration, default_value = "72h")]
        retention: Duration,
        /// How many bytes of its messages are kept; 0 sets no bound
        #[arg(long, default_value_t = 0)]
        retention_bytes: u64,
        /// How long messages live once they are stored, such as 30s or 12h; without it as long as each says
        #[arg(long, value_name = "DURATION", value_parser = times::lifetime)]
        ttl: Option<Duration>,
        /// What becomes of a message that expired before a group settled it
        #[arg(long, value_enum, default_value_t = Expired::Skip)]
        on_expired: Expired,
    },
    /// List the topics
    List,
    /// Show a topic with its queues
    Describe {
        /// Name of the topic
        name: String,
    },
    /// Give a topic more queues while messages flow
    Grow {
        /// Name of the topic
        name: String,
        /// How many queues it has from now on: more than before, up to 1024
        #[arg(long)]
        queues: u16,
    },
    /// Delete a topic with all its messages
    Delete {
        /// Name of the topic
        name: String,
    },
}

/// What becomes of a message that expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Expired {
    /// It is settled and counted
    Skip,
    /// It goes to the dead-letter topic of the group, with the reason "expired"
    DeadLetter,
}

impl Topic {
    /// Does what is asked.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        let client = broker.connect().await?;
        match self {
            Topic::Create {
                name,
                queues,
                retention,
                retention_bytes,
                ttl,
                on_expired,
            } => {
                let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
                let settings = TopicSettings {
                    queues: queues.into(),
                    retention_ms: ms(retention),
                    retention_bytes,
                    ttl_ms: ttl.map_or(0, ms),
                    dead_letter_expired: on_expired == Expired::DeadLetter,
                };
                client.create_topic(&name, Some(settings)).await?;
                output.show(
                    || json!({ "topic": name, "created": true }),
                    || vec![format!("topic {name} created")],
                )?;
            }
            Topic::List => {
                let rows: Vec<Vec<Value>> = client.topics().await?.iter().map(row).collect();
                output.table(&["topic", "queues", "messages", "created"], &rows)?;
            }
            Topic::Describe { name } => describe(&client.topic(&name).await?, output)?,
            Topic::Grow { name, queues } => {
                client.grow_topic(&name, queues).await?;
                output.show(
                    || json!({ "topic": name, "queues": queues }),
                    || vec![format!("topic {name} has {queues} queues")],
                )?;
            }
            Topic::Delete { name } => {
                client.delete_topic(&name).await?;
                output.show(
                    || json!({ "topic": name, "deleted": true }),
                    || vec![format!("topic {name} deleted")],
                )?;
            }
        }
        client.close().await;
        Ok(())
    }
}

fn row(topic: &TopicInfo) -> Vec<Value> {
    let queues = topic.settings.as_ref().map_or(0, |settings| settings.queues);
    vec![
        json!(topic.name),
        json!(queues),
        json!(topic.messages),
        json!(times::shown(topic.created_wall_ms)),
    ]
}

fn describe(topic: &TopicInfo, output: &mut Output) -> Result<(), Failure> {
    let settings = topic.settings.unwrap_or_default();
    if output.is_json() {
        let queue = |queue: &sluice_client::admin::QueueInfo| json!({ "queue": queue.queue, "start": queue.start, "end": queue.end });
        let json = json!({
            "topic": topic.name, "id": topic.id, "created_ms": topic.created_wall_ms, "messages": topic.messages, "delayed": topic.delayed,
            "undecided": topic.undecided,
            "retention_ms": settings.retention_ms, "retention_bytes": settings.retention_bytes,
            "ttl_ms": settings.ttl_ms, "dead_letter_expired": settings.dead_letter_expired,
            "queues": topic.queues.iter().map(queue).collect::<Vec<_>>(),
        });
        return output.line(json.to_string());
    }
    output.line(format!("topic      {} (incarnation {})", topic.name, topic.id))?;
    output.line(format!("created    {}", times::shown(topic.created_wall_ms)))?;
    output.line(format!(
        "retention  {} ms, {} bytes (0: no bound)",
        settings.retention_ms, settings.retention_bytes
    ))?;
    let lives = match settings.ttl_ms {
        0 => "as long as each message says".to_owned(),
        ttl_ms => format!("{} at most", times::duration_text(ttl_ms)),
    };
    let fate = if settings.dead_letter_expired { "dead-lettered" } else { "skipped" };
    output.line(format!("lives      {lives}; what expired is {fate}"))?;
    output.line(format!("messages   {}", topic.messages))?;
    output.line(format!("delayed    {}", topic.delayed))?;
    output.line(format!("undecided  {}", topic.undecided))?;
    let rows: Vec<Vec<Value>> = topic
        .queues
        .iter()
        .map(|queue| vec![json!(queue.queue), json!(queue.start), json!(queue.end)])
        .collect();
    output.table(&["queue", "start", "end"], &rows)
}
