//! Which messages a group wants, and where a new one begins.

use sluice_protocol::control;

/// What a group asks of a message before it is delivered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// Every message.
    #[default]
    All,
    /// Messages with this tag or one of several: `*`, or tags joined by two vertical bars.
    Tag(String),
    /// Messages for which this SQL expression is TRUE.
    Sql(String),
    /// What a loaded plugin says of an expression of its own.
    Plugin {
        /// The name it was loaded under.
        name: String,
        /// The expression, in the plugin's language.
        expression: String,
    },
}

impl Filter {
    pub(crate) fn to_wire(&self) -> control::Filter {
        let (plugin, expression) = match self {
            Filter::All => ("", ""),
            Filter::Tag(expression) => ("tag", expression.as_str()),
            Filter::Sql(expression) => ("sql", expression.as_str()),
            Filter::Plugin { name, expression } => (name.as_str(), expression.as_str()),
        };
        control::Filter {
            plugin: plugin.to_owned(),
            expression: expression.to_owned(),
        }
    }

    pub(crate) fn from_wire(filter: Option<control::Filter>) -> Self {
        let control::Filter { plugin, expression } = filter.unwrap_or_default();
        match plugin.as_str() {
            "" => Filter::All,
            "tag" => Filter::Tag(expression),
            "sql" => Filter::Sql(expression),
            _ => Filter::Plugin { name: plugin, expression },
        }
    }
}

/// Where a group that does not exist yet begins to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// At the earliest stored message.
    Earliest,
    /// After the newest.
    Latest,
    /// At the first message stored at this time (wall clock, milliseconds since 1970) or later.
    Time(i64),
}

impl Start {
    pub(crate) fn to_wire(self) -> control::StartPoint {
        use control::start_point::At;
        let at = match self {
            Start::Earliest => At::Earliest(true),
            Start::Latest => At::Latest(true),
            Start::Time(wall_ms) => At::WallMs(wall_ms),
        };
        control::StartPoint { at: Some(at) }
    }
}
