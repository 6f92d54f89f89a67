//! The SQL filter as the broker runs it: the built-in plugin inside its sandbox, fed columns.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Deserialize;
use sluice_plugin_host::{
    Attribute, CompileError, Digest, FilterHandle, Hint, Host, HostConfig, PluginLimits, Refusal, Room, Verdicts, ViewWriter, Worker,
    builtin, digest,
};

/// What a message offers by name. The tag stands under `TAGS` and the keys, joined by a space, under `KEYS`.
pub type Properties = BTreeMap<String, String>;

/// The most messages of one run.
pub const RUN_MAX: usize = 256;

const TAG: &str = "TAGS";
const KEYS: &str = "KEYS";

/// What an expression yields for a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    /// Delivered.
    True,
    /// Not delivered; the negation is.
    False,
    /// Unknown: neither the expression nor its negation is delivered.
    Null,
    /// The evaluation failed, and that of the negation too.
    EvalError,
    /// The expression and its negation do not fit together. The oracle never says this.
    Contradiction,
}

/// An expression and its negation, which tells FALSE from NULL.
#[derive(Debug)]
pub struct Judged {
    filter: FilterHandle,
    negation: FilterHandle,
}

/// The plugin, and the buffers of one thread.
pub struct Sandbox {
    host: Host,
    plugin: Digest,
    worker: Worker,
    writer: ViewWriter,
}

impl Sandbox {
    /// Starts a host, with the limits that the broker has by default.
    ///
    /// # Errors
    /// When the system cannot run plugins.
    pub fn new() -> anyhow::Result<Self> {
        let host = Host::new(HostConfig { instances_max: 8 })?;
        Ok(Self {
            plugin: digest(builtin::FILTER_SQL),
            worker: Worker::new(&host),
            writer: ViewWriter::new(),
            host,
        })
    }

    /// Has the plugin compile an expression and, where it takes that, the negation. The inner result is the plugin's refusal.
    ///
    /// # Errors
    /// When the plugin fails, or takes an expression and refuses its negation.
    pub fn compile(&self, expression: &str) -> anyhow::Result<Result<Judged, Refusal>> {
        let filter = match self.filter(expression) {
            Ok(filter) => filter,
            Err(CompileError::Refused(refusal)) => return Ok(Err(refusal)),
            Err(error) => return Err(error.into()),
        };
        let negation = self
            .filter(&format!("NOT ({expression})"))
            .context("the expression is accepted and its negation is not")?;
        Ok(Ok(Judged { filter, negation }))
    }

    /// Judges 1 to 256 messages in one run; an outcome for each, in their order.
    ///
    /// # Errors
    /// When the plugin fails at the run as a whole.
    pub fn run(&mut self, judged: &Judged, messages: &[&Properties]) -> anyhow::Result<Vec<Outcome>> {
        let plain = self.verdicts(&judged.filter, messages)?;
        let negated = self.verdicts(&judged.negation, messages)?;
        Ok((0..messages.len()).map(|message| Outcome::of(&plain, &negated, message)).collect())
    }

    fn filter(&self, expression: &str) -> Result<FilterHandle, CompileError> {
        self.host.filter(&self.plugin, expression, PluginLimits::default())
    }

    fn verdicts(&mut self, filter: &FilterHandle, messages: &[&Properties]) -> anyhow::Result<Verdicts> {
        self.writer.begin(filter.columns().len());
        for (place, message) in messages.iter().enumerate() {
            for (slot, column) in filter.columns().iter().enumerate() {
                if let Some(value) = attribute(message, column) {
                    self.writer.text(slot, value.as_bytes());
                }
            }
            let last = place + 1 == messages.len();
            anyhow::ensure!(
                self.writer.end_message() == Room::Left || last,
                "the messages are too long for one run"
            );
        }
        let view = self.writer.finish().context("a run without messages")?;
        Ok(self.worker.evaluate(filter, view)?)
    }
}

impl Judged {
    /// Whether the broker would drop the message by the filter's hint, without asking the plugin.
    pub fn is_pruned(&self, message: &Properties) -> bool {
        match self.filter.hint() {
            None => false,
            Some(Hint::TagOneOf(tags)) => attribute(message, &Attribute::Tag).is_none_or(|tag| !tags.iter().any(|one| one == tag)),
            Some(Hint::PropertyExists(name)) => attribute(message, &Attribute::Property(name.clone())).is_none(),
        }
    }
}

impl Outcome {
    fn of(plain: &Verdicts, negated: &Verdicts, message: usize) -> Self {
        let verdict = |verdicts: &Verdicts| (verdicts.is_delivered(message), verdicts.is_failed(message));
        match (verdict(plain), verdict(negated)) {
            ((true, false), (false, false)) => Self::True,
            ((false, false), (true, false)) => Self::False,
            ((false, false), (false, false)) => Self::Null,
            ((false, true), (false, true)) => Self::EvalError,
            _ => Self::Contradiction,
        }
    }
}

/// What the broker would put into a column. A property may not bear the names of the tag and the keys.
fn attribute<'a>(message: &'a Properties, column: &Attribute) -> Option<&'a str> {
    let name = match column {
        Attribute::Tag => TAG,
        Attribute::Keys => KEYS,
        Attribute::Property(name) if name == TAG || name == KEYS => return None,
        Attribute::Property(name) => name,
    };
    message.get(name).map(String::as_str)
}
