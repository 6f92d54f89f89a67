//! The options by which a command names the messages that it wants.

use clap::Args;
use sluice_client::Filter;

/// Which messages pass.
#[derive(Args)]
pub(crate) struct Wanted {
    /// Only messages with this tag; several are joined by ||
    #[arg(long, value_name = "E", conflicts_with_all = ["sql", "filter"])]
    tag: Option<String>,
    /// Only messages for which this SQL expression is TRUE
    #[arg(long, value_name = "E", conflicts_with = "filter")]
    sql: Option<String>,
    /// Only messages that this loaded plugin lets pass
    #[arg(long, value_name = "NAME", requires = "expression")]
    filter: Option<String>,
    /// What the plugin is asked
    #[arg(long, value_name = "E", requires = "filter")]
    expression: Option<String>,
}

impl Wanted {
    /// The filter that they mean; without any, every message passes.
    pub(crate) fn filter(&self) -> Filter {
        match (&self.tag, &self.sql, &self.filter) {
            (Some(tag), _, _) => Filter::Tag(tag.clone()),
            (None, Some(sql), _) => Filter::Sql(sql.clone()),
            (None, None, Some(name)) => Filter::Plugin {
                name: name.clone(),
                expression: self.expression.clone().unwrap_or_default(),
            },
            (None, None, None) => Filter::All,
        }
    }
}
