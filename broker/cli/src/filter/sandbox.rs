//! One message judged by a built-in plugin, in the sandbox that a broker uses, and the five outcomes of an SQL expression.

use sluice_plugin_host::{Attribute, CompileError, FilterHandle, Host, HostConfig, PluginLimits, ViewWriter, Worker, builtin, digest};

use crate::failure::Failure;

/// What a filter can read of a message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Attributes {
    pub(super) tag: Option<String>,
    /// Joined by spaces; empty for none.
    pub(super) keys: String,
    pub(super) properties: Vec<(String, String)>,
}

impl Attributes {
    /// A property's value. Tag and keys may be given by the names under which expressions read them.
    fn property(&self, name: &str) -> Option<&str> {
        let found = self.properties.iter().find(|(property, _)| property == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// What an expression makes of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    True,
    False,
    Null,
    ParseError { message: String, at: Option<u32> },
    EvalError,
}

impl Outcome {
    /// As the tables write it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Outcome::True => "TRUE",
            Outcome::False => "FALSE",
            Outcome::Null => "NULL",
            Outcome::ParseError { .. } => "PARSE_ERROR",
            Outcome::EvalError => "EVAL_ERROR",
        }
    }
}

/// What a plugin says of one message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Deliver,
    Reject,
    Failed,
}

/// The plugins, ready to judge.
pub(super) struct Sandbox {
    host: Host,
    worker: Worker,
    writer: ViewWriter,
}

impl Sandbox {
    /// Starts a sandbox of one instance for each plugin.
    pub(super) fn new() -> Result<Self, Failure> {
        let host = Host::new(HostConfig { instances_max: 4 }).map_err(|error| Failure::failed(error.to_string()))?;
        let worker = Worker::new(&host);
        Ok(Self {
            host,
            worker,
            writer: ViewWriter::new(),
        })
    }

    /// What the tag filter makes of a message: TRUE or FALSE.
    pub(super) fn tag(&mut self, expression: &str, attributes: &Attributes) -> Result<Outcome, Failure> {
        let filter = match self.compile(builtin::FILTER_TAG, expression)? {
            Ok(filter) => filter,
            Err(refused) => return Ok(refused),
        };
        Ok(match self.judge(&filter, attributes)? {
            Verdict::Deliver => Outcome::True,
            Verdict::Reject => Outcome::False,
            Verdict::Failed => Outcome::EvalError,
        })
    }

    /// What the SQL filter makes of a message. A plugin says only whether it delivers, so FALSE is told from NULL by the negation, which
    /// is TRUE for FALSE alone. The line feed ends a comment that the expression may end with.
    pub(super) fn sql(&mut self, expression: &str, attributes: &Attributes) -> Result<Outcome, Failure> {
        let filter = match self.compile(builtin::FILTER_SQL, expression)? {
            Ok(filter) => filter,
            Err(refused) => return Ok(refused),
        };
        match self.judge(&filter, attributes)? {
            Verdict::Deliver => return Ok(Outcome::True),
            Verdict::Failed => return Ok(Outcome::EvalError),
            Verdict::Reject => {}
        }
        // A complete comment ends its own line, and a line feed added here would make one out of two minus signs.
        let negated = self.compile(builtin::FILTER_SQL, &format!("NOT ({expression})"))?;
        let negated = negated.map_err(|_| Failure::failed(format!("the negation of {expression:?} is refused, though it is not")))?;
        Ok(match self.judge(&negated, attributes)? {
            Verdict::Deliver => Outcome::False,
            Verdict::Reject => Outcome::Null,
            Verdict::Failed => Outcome::EvalError,
        })
    }

    fn compile(&self, plugin: &[u8], expression: &str) -> Result<Result<FilterHandle, Outcome>, Failure> {
        match self.host.filter(&digest(plugin), expression, PluginLimits::default()) {
            Ok(filter) => Ok(Ok(filter)),
            Err(CompileError::Refused(refusal)) => Ok(Err(Outcome::ParseError {
                message: refusal.message,
                at: refusal.at,
            })),
            Err(error) => Err(Failure::failed(format!("the plugin cannot be used: {error}"))),
        }
    }

    fn judge(&mut self, filter: &FilterHandle, attributes: &Attributes) -> Result<Verdict, Failure> {
        self.writer.begin(filter.columns().len());
        for (slot, column) in filter.columns().iter().enumerate() {
            let value = match column {
                Attribute::Tag => attributes.tag.as_deref().or_else(|| attributes.property("TAGS")),
                Attribute::Keys => Some(attributes.keys.as_str())
                    .filter(|keys| !keys.is_empty())
                    .or_else(|| attributes.property("KEYS")),
                Attribute::Property(name) => attributes.property(name),
            };
            if let Some(value) = value {
                self.writer.text(slot, value.as_bytes());
            }
        }
        // A run of one message never needs to know whether there is room for more.
        let _ = self.writer.end_message();
        let view = self.writer.finish().expect("the run has one message");
        let verdicts = self
            .worker
            .evaluate(filter, view)
            .map_err(|failure| Failure::failed(format!("the plugin failed: {failure}")))?;
        Ok(match (verdicts.failed[0] & 1 == 1, verdicts.deliver[0] & 1 == 1) {
            (true, _) => Verdict::Failed,
            (false, true) => Verdict::Deliver,
            (false, false) => Verdict::Reject,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sql(expression: &str, properties: &[(&str, &str)]) -> &'static str {
        let properties = properties
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let attributes = Attributes {
            properties,
            ..Attributes::default()
        };
        Sandbox::new().unwrap().sql(expression, &attributes).unwrap().name()
    }

    #[test]
    fn the_five_outcomes_are_told_apart() {
        assert_eq!(sql("a = 1", &[("a", "1")]), "TRUE");
        assert_eq!(sql("a = 1", &[("a", "2")]), "FALSE");
        assert_eq!(sql("a = 1", &[]), "NULL");
        assert_eq!(sql("a = 1", &[("a", "x")]), "EVAL_ERROR");
        assert_eq!(sql("a = ", &[]), "PARSE_ERROR");
    }

    #[test]
    fn a_comment_at_the_end_does_not_swallow_the_negation() {
        assert_eq!(sql("a = 1 -- why\n", &[("a", "2")]), "FALSE");
        assert_eq!(sql("a = 1 -- why\n", &[]), "NULL");
    }

    #[test]
    fn a_tag_filter_reads_the_tag() {
        let attributes = Attributes {
            tag: Some("ATL".to_owned()),
            ..Attributes::default()
        };
        let mut sandbox = Sandbox::new().unwrap();
        assert_eq!(sandbox.tag("ORD || ATL", &attributes).unwrap(), Outcome::True);
        assert_eq!(sandbox.tag("ORD", &attributes).unwrap(), Outcome::False);
    }
}
