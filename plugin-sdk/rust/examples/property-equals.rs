//! A first plugin: delivers the messages whose property has the value asked for, as in `region = eu`.

use sluice_plugin::{Column, Columns, Failed, Filter, Message, Refusal, export_filter};

struct PropertyEquals {
    property: Column,
    value: String,
}

impl Filter for PropertyEquals {
    fn compile(expression: &str, columns: &mut Columns) -> Result<Self, Refusal> {
        let (name, value) = expression
            .split_once('=')
            .ok_or_else(|| Refusal::at("`=` and a value are missing", expression.len()))?;
        Ok(Self {
            property: columns.property(name.trim()),
            value: value.trim().to_owned(),
        })
    }

    fn deliver(&self, message: &Message<'_>) -> Result<bool, Failed> {
        Ok(message.text(self.property) == Some(&self.value))
    }
}

export_filter!(PropertyEquals);
