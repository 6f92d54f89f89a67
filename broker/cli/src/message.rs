//! `sluice message`: look up stored messages, and how any message is printed.

use clap::Subcommand;
use serde_json::{Map, Value, json};
use sluice_client::RecallHandle;

use crate::connect::Broker;
use crate::explain;
use crate::failure::Failure;
use crate::list::{List, Search};
use crate::output::Output;
use crate::times;

/// Stored messages.
#[derive(Subcommand)]
pub(crate) enum Message {
    /// Print a message by its id
    Get {
        /// The id: 32 hexadecimal digits
        id: String,
    },
    /// Print stored messages from any offset or time, without a group: nothing is leased, nothing is settled
    List(List),
    /// Print the stored messages that have a key
    Search(Search),
    /// Recall a delayed message before it is due
    Recall {
        /// The handle that its producer was given
        handle: RecallHandle,
    },
    /// Say what became of a message for a group, and why
    Explain {
        /// The id: 32 hexadecimal digits
        id: String,
        /// The group
        #[arg(long)]
        group: String,
        /// The member, in a broadcast group
        #[arg(long, value_name = "NAME")]
        member: Option<String>,
    },
}

impl Message {
    /// Does what is asked.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        let client = broker.connect().await?;
        match self {
            Self::Get { id } => {
                let message = client.message(&id).await?;
                output.show(|| to_json(&message), || to_lines(&message))?;
            }
            Self::List(list) => list.run(&client, output).await?,
            Self::Search(search) => search.run(&client, output).await?,
            Self::Recall { handle } => {
                client.recall(&handle).await?;
                output.show(|| json!({ "recalled": true }), || vec!["the message is recalled".to_owned()])?;
            }
            Self::Explain { id, group, member } => {
                let group = member.map_or(group.clone(), |member| sluice_protocol::names::member_group(&group, &member));
                let told = client.explain(&id, &group).await?;
                output.show(|| explain::to_json(&id, &group, &told), || explain::to_lines(&id, &group, &told))?;
            }
        }
        client.close().await;
        Ok(())
    }
}

/// A message as one JSON object. A body that is not UTF-8 is given in hexadecimal digits as `body_hex`; of one that was left out the size is
/// given as `body_bytes`.
pub(crate) fn to_json(message: &sluice_client::Message) -> Value {
    let properties: Map<String, Value> = message.properties().map(|(name, value)| (name.to_owned(), json!(value))).collect();
    let mut json = json!({
        "id": message.id().to_string(), "topic": message.topic(), "queue": message.queue(), "offset": message.offset(),
        "attempt": message.attempt(), "stored_ms": message.stored_ms(), "born_ms": message.born_ms(), "tag": message.tag(),
        "keys": message.keys().collect::<Vec<_>>(), "properties": properties,
    });
    if let Some(deliver_at_ms) = message.deliver_at_ms() {
        json["deliver_at_ms"] = json!(deliver_at_ms);
    }
    if !message.has_body() {
        json["body_bytes"] = json!(message.body_bytes());
        return json;
    }
    let body = message.body();
    match std::str::from_utf8(&body) {
        Ok(text) => json["body"] = json!(text),
        Err(_) => json["body_hex"] = json!(hex(&body)),
    }
    json
}

/// A message as one line: its id, place and tag, then its body.
pub(crate) fn to_line(message: &sluice_client::Message) -> String {
    let tag = message.tag().unwrap_or("-");
    format!(
        "{} {}/{} {tag} {}",
        message.id(),
        message.queue(),
        message.offset(),
        body_text(&message.body())
    )
}

fn to_lines(message: &sluice_client::Message) -> Vec<String> {
    let mut lines = vec![
        format!("id        {}", message.id()),
        format!("topic     {}", message.topic()),
        format!("queue     {}", message.queue()),
        format!("offset    {}", message.offset()),
        format!("stored    {}", times::shown(message.stored_ms())),
        format!("born      {}", times::shown(message.born_ms())),
    ];
    lines.extend(message.deliver_at_ms().map(|due_ms| format!("due       {}", times::shown(due_ms))));
    lines.extend(message.tag().map(|tag| format!("tag       {tag}")));
    lines.extend(message.keys().map(|key| format!("key       {key}")));
    lines.extend(message.properties().map(|(name, value)| format!("property  {name} = {value}")));
    lines.push(format!("body      {}", body_text(&message.body())));
    lines
}

fn body_text(body: &[u8]) -> String {
    match std::str::from_utf8(body) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("(hex) {}", hex(body)),
    }
}

/// Bytes in hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
