//! Messages of every kind, drawn by chance.

use std::time::Duration;

use sluice_client::NewMessage;
use sluice_end_to_end::chance::Chance;

use crate::audit::{Sent, digest};

/// Message groups of a producer.
const GROUPS: u64 = 16;
/// How long a delayed message waits at most.
const DELAY_MS_MAX: u64 = 800;
/// How long one waits at most that waits over several kills.
const LONG_DELAY_MS_MAX: u64 = 8_000;
/// How long a message lives that may be over before anybody asks for it.
const SHORT_TTL_MS_MAX: u64 = 300;
/// How long one lives that nobody is to miss.
const LONG_TTL: Duration = Duration::from_secs(3_600);

/// What number a message has among its producer's.
pub(crate) const NUMBER: &str = "number";
/// Whether it was prepared.
pub(crate) const PREPARED: &str = "prepared";
/// Whether it is always given back.
pub(crate) const POISON: &str = "poison";

/// The message with this number of a producer, and what is to be known of it.
pub(crate) fn draw(chance: &Chance, producer: u64, number: u64, beginning: &str) -> (NewMessage, Sent) {
    let mut body = format!("{beginning}/{number}/").into_bytes();
    let length = match chance.between(0, 99) {
        0 => chance.between(10_000, 300_000),
        1..10 => chance.between(1_000, 10_000),
        _ => chance.between(0, 300),
    };
    body.resize(body.len() + length as usize, b'x');
    let mut message = NewMessage::new(body.clone())
        .tag(format!("t{}", number % 7))
        .property(NUMBER, number.to_string());
    if chance.once_in(3) {
        message = message.priority(chance.between(0, 9) as u8);
    }
    let mut sent = Sent {
        digest: 0,
        prepared: false,
        may_expire: false,
        poison: false,
    };
    let delay = || {
        Duration::from_millis(match chance.once_in(3) {
            true => chance.between(DELAY_MS_MAX, LONG_DELAY_MS_MAX),
            false => chance.between(1, DELAY_MS_MAX),
        })
    };
    match chance.between(0, 99) {
        0..8 => message = message.deliver_after(delay()),
        8..16 => {
            sent.prepared = true;
            message = message.property(PREPARED, "");
            message.prepared = true;
            if chance.once_in(4) {
                message = message.deliver_after(delay());
            }
        }
        16..22 => {
            sent.may_expire = true;
            message = message.time_to_live(Duration::from_millis(chance.between(1, SHORT_TTL_MS_MAX)));
        }
        22..24 => message = message.time_to_live(LONG_TTL),
        24..64 => message = message.group(format!("{producer}-{}", chance.between(1, GROUPS))),
        64 => {
            sent.poison = chance.once_in(4);
            if sent.poison {
                message = message.property(POISON, "");
            }
        }
        _ => {}
    }
    sent.digest = digest(&body, message.priority, message.group.as_deref());
    (message, sent)
}
