//! `sluice group leases`: who holds what, and what waits for another delivery.

use serde_json::{Value, json};
use sluice_client::admin::LeaseInfo;
use sluice_protocol::control::{ReturnReason, lease_info};

use crate::failure::Failure;
use crate::output::Output;
use crate::times;

const HEADS: &[&str] = &[
    "topic", "queue", "first", "last", "state", "attempt", "member", "by", "until", "reason",
];

/// Prints what a group holds, by queue and offset.
pub(super) fn print(leases: &[LeaseInfo], output: &mut Output) -> Result<(), Failure> {
    let in_json = output.is_json();
    output.table(HEADS, &leases.iter().map(|lease| row(lease, in_json)).collect::<Vec<_>>())
}

fn row(lease: &LeaseInfo, in_json: bool) -> Vec<Value> {
    let time = |wall_ms: i64| match in_json {
        true => json!(wall_ms),
        false => json!(times::shown(wall_ms)),
    };
    let state = match &lease.state {
        Some(lease_info::State::Leased(leased)) => [
            json!("leased"),
            json!(leased.attempt),
            json!(leased.member),
            json!(if leased.stream { "stream" } else { "receive" }),
            time(leased.until_wall_ms),
            Value::Null,
        ],
        Some(lease_info::State::Retrying(retrying)) => [
            json!("retrying"),
            json!(retrying.attempts),
            Value::Null,
            Value::Null,
            match retrying.exhausted {
                true => json!("never"),
                false => time(retrying.due_wall_ms),
            },
            json!(reason(retrying.reason)),
        ],
        Some(lease_info::State::Held(_)) | None => [
            json!("held"),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
            json!("a plugin failed on it"),
        ],
    };
    let place = [
        json!(lease.topic),
        json!(lease.queue),
        json!(lease.first),
        json!(lease.end.saturating_sub(1)),
    ];
    place.into_iter().chain(state).collect()
}

/// Why the last delivery was not settled, as dead letters say it, too.
pub(crate) fn reason(reason: i32) -> &'static str {
    match ReturnReason::try_from(reason) {
        Ok(ReturnReason::Nacked) => "the consumer asked for another delivery",
        Ok(ReturnReason::Expired) => "the consumer did not settle it in time",
        Ok(ReturnReason::ConnectionLost) => "the consumer's connection was lost",
        Ok(ReturnReason::Closed) => "the consumer left",
        Ok(ReturnReason::Outlived) => "expired",
        Err(_) => "for a reason that this client does not know",
    }
}
