//! What a group did with a message, event by event.

use serde_json::{Value, json};
use sluice_protocol::control::MessageEvent;
use sluice_protocol::control::message_event::What;

use super::dead_letters;
use crate::group::leases::reason;
use crate::message::hex;
use crate::times;

/// An event as a JSON object: when, in which pass, and what.
pub(super) fn to_json(event: &MessageEvent) -> Value {
    let mut json = match event.what.as_ref() {
        Some(What::Delivered(delivered)) => json!({
            "what": "delivered", "member": delivered.member, "by": by(delivered.stream), "attempt": delivered.attempt,
        }),
        Some(What::Returned(why)) => json!({ "what": "returned", "reason": reason(*why) }),
        Some(What::Extended(_)) => json!({ "what": "extended" }),
        Some(What::Settled(_)) => json!({ "what": "acknowledged" }),
        Some(What::Expired(_)) => json!({ "what": "expired" }),
        Some(What::DeadLettered(offset)) => json!({ "what": "dead_lettered", "at_offset": offset }),
        Some(What::Failed(failed)) => json!({ "what": "failed", "digest": hex(&failed.digest), "reason": failed.reason }),
        Some(What::SkippedBy(operator)) => json!({ "what": "skipped", "by": operator }),
        Some(What::SentBackBy(operator)) => json!({ "what": "sent_back", "by": operator }),
        Some(What::MovedTo(offset)) => json!({ "what": "moved", "to_offset": offset }),
        Some(What::Recalled(_)) => json!({ "what": "recalled" }),
        Some(What::CommittedBy(operator)) => json!({ "what": "committed", "by": someone(operator) }),
        Some(What::RolledBackBy(operator)) => json!({ "what": "rolled_back", "by": someone(operator) }),
        Some(What::GivenUp(_)) => json!({ "what": "given_up" }),
        Some(What::RevivedBy(operator)) => json!({ "what": "revived", "by": operator }),
        None => json!({ "what": "unknown" }),
    };
    json["at_ms"] = json!(event.at_wall_ms);
    json["pass"] = json!(event.pass);
    json
}

/// An event as a line.
pub(super) fn to_line(group: &str, event: &MessageEvent) -> String {
    let what = match event.what.as_ref() {
        Some(What::Delivered(delivered)) => format!(
            "delivered to {} by {}, attempt {}",
            delivered.member,
            by(delivered.stream),
            delivered.attempt
        ),
        Some(What::Returned(why)) => format!("came back: {}", reason(*why)),
        Some(What::Extended(_)) => "its lease was extended".to_owned(),
        Some(What::Settled(_)) => "acknowledged".to_owned(),
        Some(What::Expired(_)) => "expired".to_owned(),
        Some(What::DeadLettered(offset)) => format!("went to {} at offset {offset}", dead_letters(group)),
        Some(What::Failed(failed)) => format!("plugin {} failed on it: {}", hex(&failed.digest), failed.reason),
        Some(What::SkippedBy(operator)) => format!("skipped by {operator}"),
        Some(What::SentBackBy(operator)) => format!("sent back out of the dead letters by {operator}"),
        Some(What::MovedTo(offset)) => format!("pass {} of the queue began at offset {offset}", event.pass),
        Some(What::Recalled(_)) => "recalled".to_owned(),
        Some(What::CommittedBy(operator)) => format!("committed by {}", someone(operator)),
        Some(What::RolledBackBy(operator)) => format!("rolled back by {}", someone(operator)),
        Some(What::GivenUp(_)) => "rolled back, since nobody decided about it".to_owned(),
        Some(What::RevivedBy(operator)) => format!("committed after all by {operator}"),
        None => "something that this client does not know".to_owned(),
    };
    format!("history   {} {what}", times::shown(event.at_wall_ms))
}

fn by(stream: bool) -> &'static str {
    if stream { "stream" } else { "receive" }
}

/// Who decided about a prepared message: an operator by name, or who sent it.
fn someone(operator: &str) -> &str {
    if operator.is_empty() { "its producer" } else { operator }
}
