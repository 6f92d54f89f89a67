//! What each message contains and what each filter must say of it, computed from the message's identity alone.

use sluice_protocol::ids::{Digest, ProducerId, Sequence};

use crate::random::{Random, splitmix};

/// A message as it was sent, and as it must be read for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The tag.
    pub tag: Option<String>,
    /// The keys.
    pub keys: Vec<String>,
    /// The properties; `price` is absent from some, which makes its evaluation fail.
    pub properties: Vec<(String, String)>,
    /// The priority.
    pub priority: u8,
    /// The message group.
    pub group: Option<String>,
    /// How long it lives once it is stored, in milliseconds; 0 for as long as its topic says.
    pub ttl_ms: u64,
    /// The id that its producer gave it: whose ids these are (0 for its own), and the id. Some messages share one.
    pub given_id: Option<(u64, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// When the producer made it (wall clock, milliseconds).
    pub born_ms: i64,
}

/// What a filter says of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To be delivered.
    Deliver,
    /// Not for this group.
    Reject,
    /// The evaluation failed: not delivered, but counted.
    Failed,
}

/// The name under which the plugin of the simulation is bound.
pub const PLUGIN: &str = "simulated";

/// Every expression that a group of the simulation may ask for.
pub const EXPRESSIONS: [&str; 6] = ["tag=a", "tag=b", "region=eu", "price<50", "price<80", "any"];

/// The two versions of the plugin: the second says the opposite of the first wherever evaluation succeeds.
pub fn digest(version: u8) -> Digest {
    Digest([version; 32])
}

/// The message that `producer` numbers `sequence`.
pub fn content(producer: ProducerId, sequence: Sequence) -> Content {
    let mut seed = producer.0 as u64 ^ sequence.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
    let mut random = Random::new(splitmix(&mut seed));
    let tag = (!random.chance(1, 8)).then(|| (*random.pick(&["a", "b", "c"])).to_owned());
    let keys = (0..random.below(3)).map(|key| format!("key-{key}-{}", random.below(100))).collect();
    let mut properties = vec![("region".to_owned(), (*random.pick(&["eu", "us", "ap"])).to_owned())];
    if !random.chance(1, 10) {
        properties.push(("price".to_owned(), random.below(100).to_string()));
    }
    if random.chance(1, 3) {
        properties.push((format!("extra-{}", random.below(5)), "x".repeat(random.index(40))));
    }
    let body_bytes = if random.chance(1, 40) {
        random.below(6000)
    } else {
        random.below(120)
    };
    let body = (0..body_bytes).map(|_| random.bits() as u8).collect();
    // A third of the producers use neither priorities nor message groups.
    let (ranked, grouped) = match producer.0 % 3 {
        0 => (false, false),
        1 => (true, random.chance(1, 2)),
        _ => (random.chance(1, 8), true),
    };
    // Half of the producers give some of their messages a time to live.
    let mortal = producer.0 >> 8 & 1 == 1 && random.chance(1, 4);
    // A quarter of the producers give ids of their own, another one such that others give, too.
    let given_id = match producer.0 >> 12 & 3 {
        0 => Some((0, format!("own-{}", sequence.0 / 3))),
        1 => Some((7, format!("shared-{}", sequence.0 / 4))),
        _ => None,
    };
    let given_id = given_id.filter(|_| random.chance(1, 2));
    Content {
        tag,
        keys,
        properties,
        priority: if ranked { *random.pick(&[0, 0, 1, 5, 9]) } else { 0 },
        group: grouped.then(|| format!("{:x}-{}", producer.0 as u16, random.below(2))),
        ttl_ms: if mortal {
            *random.pick(&[1, 40, 200, 600, 9_000, 3_600_000])
        } else {
            0
        },
        given_id,
        body,
        born_ms: 1_700_000_000_000 + (sequence.0 as i64) * 7,
    }
}

/// What version `digest` of the plugin must say of `expression` for this message.
pub fn verdict(version: &Digest, expression: &str, content: &Content) -> Verdict {
    let property = |name: &str| {
        content
            .properties
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    let said = if let Some(tag) = expression.strip_prefix("tag=") {
        Some(content.tag.as_deref() == Some(tag))
    } else if let Some(region) = expression.strip_prefix("region=") {
        Some(property("region") == Some(region))
    } else if let Some(bound) = expression.strip_prefix("price<") {
        let bound: u64 = bound.parse().expect("the expressions of the simulation are well formed");
        property("price")
            .and_then(|price| price.parse::<u64>().ok())
            .map(|price| price < bound)
    } else {
        Some(true)
    };
    match said {
        None => Verdict::Failed,
        Some(said) if said == (*version == digest(1)) => Verdict::Deliver,
        Some(_) => Verdict::Reject,
    }
}

/// Whether a version of the plugin fails on this message, whenever it is asked.
pub fn is_culprit(version: &Digest, producer: ProducerId, sequence: Sequence) -> bool {
    let version = u64::from(version.0[0]) << 56;
    let mut seed = producer.0 as u64 ^ sequence.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ version;
    splitmix(&mut seed).is_multiple_of(40)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_version_says_the_opposite_of_the_first() {
        for sequence in 0..200 {
            let message = content(ProducerId(9), Sequence(sequence));
            let (first, second) = (verdict(&digest(1), "price<50", &message), verdict(&digest(2), "price<50", &message));
            assert!(first == Verdict::Failed && second == Verdict::Failed || first != second);
        }
    }
}
