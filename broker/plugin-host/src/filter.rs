//! What a filter plugin says: of an expression, and of a run of messages.

use std::fmt;
use std::sync::Arc;

use wasmtime::component::{ComponentType, Lift};

use crate::error::RunFailure;
use crate::limits::{MESSAGES_MAX, PluginLimits};
use crate::module::{Digest, Module};

/// An attribute of a message that an expression reads. All are text, and absent where the message does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, ComponentType, Lift)]
#[component(variant)]
pub enum Attribute {
    /// The tag.
    #[component(name = "tag")]
    Tag,
    /// The keys, joined by one space.
    #[component(name = "keys")]
    Keys,
    /// The property of this name. The name may be one that no message can have.
    #[component(name = "property")]
    Property(String),
}

/// What a message must have to be delivered at all; others need not be judged.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(variant)]
pub enum Hint {
    /// The tag is one of these.
    #[component(name = "tag-one-of")]
    TagOneOf(Vec<String>),
    /// The property of this name is there.
    #[component(name = "property-exists")]
    PropertyExists(String),
}

/// Why an expression is refused.
#[derive(Clone, Debug, PartialEq, Eq, ComponentType, Lift)]
#[component(record)]
pub struct Refusal {
    /// What is wrong, then why: at most 1 kB.
    pub message: String,
    /// Where in the expression, in bytes from its beginning.
    pub at: Option<u32>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match self.at {
            Some(at) => write!(formatter, " (at byte {at})"),
            None => Ok(()),
        }
    }
}

/// An expression that a plugin has compiled, and what it said of it. Cheap to clone; [`Worker::evaluate`](crate::Worker::evaluate)
/// judges by it on any thread.
#[derive(Clone, Debug)]
pub struct FilterHandle {
    pub(crate) module: Module,
    pub(crate) expression: Arc<str>,
    pub(crate) limits: PluginLimits,
    pub(crate) columns: Arc<[Attribute]>,
    pub(crate) hint: Option<Arc<Hint>>,
}

impl FilterHandle {
    /// The version of the plugin.
    pub fn digest(&self) -> &Digest {
        self.module.digest()
    }

    /// The expression.
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// What the plugin may use for it.
    pub fn limits(&self) -> &PluginLimits {
        &self.limits
    }

    /// The columns of a view for it, in order, each once.
    pub fn columns(&self) -> &[Attribute] {
        &self.columns
    }

    /// The same filter, asked about every message.
    pub fn without_hint(mut self) -> Self {
        self.hint = None;
        self
    }

    /// What a message must have to be delivered at all.
    pub fn hint(&self) -> Option<&Hint> {
        self.hint.as_deref()
    }
}

/// One bit a message of a run: message `i` at bit `i % 64` of word `i / 64`.
pub type Bits = [u64; MESSAGES_MAX / 64];

/// What a filter said of the messages of a run. No message is in both sets, and no bit is set beyond the run's messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// To be delivered.
    pub deliver: Bits,
    /// The evaluation failed: not delivered, and counted.
    pub failed: Bits,
}

impl Verdicts {
    /// Whether message `message` of the run is to be delivered.
    pub fn is_delivered(&self, message: usize) -> bool {
        self.deliver[message / 64] >> (message % 64) & 1 == 1
    }

    /// Whether the evaluation of message `message` of the run failed.
    pub fn is_failed(&self, message: usize) -> bool {
        self.failed[message / 64] >> (message % 64) & 1 == 1
    }

    /// How many are to be delivered.
    pub fn delivered_count(&self) -> u32 {
        self.deliver.iter().map(|word| word.count_ones()).sum()
    }

    /// How many failed.
    pub fn failed_count(&self) -> u32 {
        self.failed.iter().map(|word| word.count_ones()).sum()
    }

    /// Reads a guest's answer for a run of `messages`.
    pub(crate) fn read(raw: &RawVerdicts, messages: usize) -> Result<Self, RunFailure> {
        let failed = bits(&raw.failed, messages, "failed")?;
        let mut deliver = bits(&raw.deliver, messages, "deliver")?;
        for (deliver, failed) in deliver.iter_mut().zip(failed) {
            *deliver &= !failed;
        }
        Ok(Self { deliver, failed })
    }
}

/// The answer of `evaluate` as it crosses the boundary.
#[derive(ComponentType, Lift)]
#[component(record)]
pub(crate) struct RawVerdicts {
    deliver: Vec<u8>,
    failed: Vec<u8>,
}

fn bits(list: &[u8], messages: usize, name: &str) -> Result<Bits, RunFailure> {
    let wanted = messages.div_ceil(8);
    if list.len() != wanted {
        let length = list.len();
        return Err(RunFailure::BadOutput(format!(
            "`{name}` has {length} bytes where {messages} messages take {wanted}"
        )));
    }
    let byte = |at: usize| list.get(at).copied().unwrap_or(0);
    Ok(std::array::from_fn(|word| {
        let read = u64::from_le_bytes(std::array::from_fn(|at| byte(word * 8 + at)));
        match messages.saturating_sub(word * 64) {
            0 => 0,
            left @ 1..=63 => read & ((1 << left) - 1),
            _ => read,
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_beyond_the_run_are_ignored_and_failed_wins() {
        let raw = RawVerdicts {
            deliver: vec![0xff, 0xff],
            failed: vec![0b10, 0xf0],
        };
        let verdicts = Verdicts::read(&raw, 11).expect("lists of the right length");
        assert_eq!(
            verdicts,
            Verdicts {
                deliver: [0x7fd, 0, 0, 0],
                failed: [0b10, 0, 0, 0]
            }
        );
        assert_eq!((verdicts.delivered_count(), verdicts.failed_count()), (10, 1));
        assert!(verdicts.is_failed(1) && !verdicts.is_delivered(1) && verdicts.is_delivered(10));
    }

    #[test]
    fn a_list_of_another_length_is_no_answer() {
        let raw = |deliver, failed| RawVerdicts {
            deliver: vec![0; deliver],
            failed: vec![0; failed],
        };
        for (deliver, failed) in [(1, 2), (2, 1), (3, 2), (0, 0)] {
            assert!(matches!(Verdicts::read(&raw(deliver, failed), 16), Err(RunFailure::BadOutput(_))));
        }
    }
}
