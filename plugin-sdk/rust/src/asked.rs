//! What a filter says about itself when an expression is compiled.

use std::fmt;

/// An attribute of a message that a filter reads. All are text, and absent where the message does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// The tag.
    Tag,
    /// The keys, joined by one space.
    Keys,
    /// The property of this name.
    Property(String),
}

/// What a message must have to be delivered at all; lets the broker pass over others without a call.
///
/// A hint may keep too many messages, never too few. A message that it passes over is not judged, so a filter that would have
/// [failed](crate::Failed) on it does not get to say so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// The tag is one of these.
    TagOneOf(Vec<String>),
    /// The property of this name is there.
    PropertyExists(String),
}

/// Why an expression is refused; whoever subscribes gets to read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Lower case, what then why, no full stop.
    pub message: String,
    /// Where in the expression, in bytes from its beginning.
    pub at: Option<u32>,
}

impl Refusal {
    /// A refusal of the expression as a whole.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            at: None,
        }
    }

    /// A refusal because of what stands at byte `at` of the expression.
    pub fn at(message: impl Into<String>, at: usize) -> Self {
        Self {
            message: message.into(),
            at: u32::try_from(at).ok(),
        }
    }
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

impl std::error::Error for Refusal {}

/// A column that a [`Filter`](crate::Filter) asked for: the key to [`Message::text`](crate::Message::text).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column(pub(crate) usize);

/// The columns that a [`Filter`](crate::Filter) asks for while it compiles. Asking again for the same one gives the same column.
#[derive(Clone, Debug, Default)]
pub struct Columns {
    asked: Vec<Attribute>,
}

impl Columns {
    /// The message's tag.
    pub fn tag(&mut self) -> Column {
        self.ask(Attribute::Tag)
    }

    /// The message's keys, joined by one space.
    pub fn keys(&mut self) -> Column {
        self.ask(Attribute::Keys)
    }

    /// The message's property of this name.
    pub fn property(&mut self, name: &str) -> Column {
        self.ask(Attribute::Property(name.to_owned()))
    }

    /// What was asked for so far, each once, in the order of the columns of the view.
    pub fn asked(&self) -> &[Attribute] {
        &self.asked
    }

    fn ask(&mut self, attribute: Attribute) -> Column {
        let place = self.asked.iter().position(|asked| *asked == attribute);
        Column(place.unwrap_or_else(|| {
            self.asked.push(attribute);
            self.asked.len() - 1
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_asked_twice_is_one_column() {
        let mut columns = Columns::default();
        let price = columns.property("price");
        let tag = columns.tag();
        assert_eq!(columns.property("price"), price);
        assert_ne!(tag, price);
        assert_eq!(columns.asked(), [Attribute::Property("price".to_owned()), Attribute::Tag]);
    }

    #[test]
    fn a_refusal_names_its_place() {
        assert_eq!(
            Refusal::at("an operand is missing", 7).to_string(),
            "an operand is missing (at byte 7)"
        );
        assert_eq!(Refusal::new("too long").to_string(), "too long");
    }
}
