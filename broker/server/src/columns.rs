//! What filters ask of a message: which of its attributes, and which messages at all.

use sluice_plugin_host::{Attribute, Hint, ViewWriter};
use sluice_protocol::batch::{Attributes, NameIndex, Row, tag_hash};

/// Where the values of a batch's attributes go in the view.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    tag: Option<usize>,
    keys: Option<usize>,
    /// By name index; `usize::MAX` for what is not asked.
    properties: Vec<usize>,
    asked: bool,
}

const NOT_ASKED: usize = usize::MAX;

/// A hint, ready to be looked up.
pub(crate) enum Pruning<'a> {
    None,
    Tags { tags: &'a [String], hashes: Vec<u32> },
    Property(&'a str),
}

impl Slots {
    /// Resolves the columns' names once for all rows of a batch.
    pub(crate) fn resolve(&mut self, attributes: &Attributes, columns: &[Attribute]) {
        self.tag = None;
        self.keys = None;
        self.asked = false;
        self.properties.clear();
        self.properties.resize(usize::from(attributes.name_count()), NOT_ASKED);
        for (slot, column) in columns.iter().enumerate() {
            match column {
                Attribute::Tag => self.tag = Some(slot),
                Attribute::Keys => self.keys = Some(slot),
                Attribute::Property(name) => {
                    if let Some(NameIndex(index)) = attributes.name_index(name)
                        && let Some(property) = self.properties.get_mut(usize::from(index))
                    {
                        *property = slot;
                        self.asked = true;
                    }
                }
            }
        }
    }

    #[inline]
    pub(crate) fn write(&self, row: &Row<'_>, writer: &mut ViewWriter, keys: &mut Vec<u8>) {
        if let Some(slot) = self.tag
            && let Some(tag) = row.tag_bytes()
        {
            writer.text(slot, tag);
        }
        if let Some(slot) = self.keys
            && row.key_count() > 0
        {
            keys.clear();
            for key in row.keys() {
                if !keys.is_empty() {
                    keys.push(b' ');
                }
                keys.extend_from_slice(key);
            }
            writer.text(slot, keys);
        }
        if self.asked {
            for (NameIndex(index), value) in row.properties() {
                match self.properties.get(usize::from(index)) {
                    Some(&NOT_ASKED) | None => {}
                    Some(&slot) => writer.text(slot, value),
                }
            }
        }
    }
}

impl<'a> Pruning<'a> {
    pub(crate) fn new(hint: Option<&'a Hint>) -> Self {
        match hint {
            None => Self::None,
            Some(Hint::TagOneOf(tags)) => Self::Tags {
                tags,
                hashes: tags.iter().map(|tag| tag_hash(tag)).collect(),
            },
            Some(Hint::PropertyExists(name)) => Self::Property(name),
        }
    }

    /// Whether the plugin must be asked. Equal hashes are confirmed on the text.
    #[inline]
    pub(crate) fn may_match(&self, row: &Row<'_>) -> bool {
        match self {
            Self::None => true,
            Self::Tags { tags, hashes } => {
                hashes.contains(&row.tag_hash()) && row.tag().is_some_and(|tag| tags.iter().any(|wanted| wanted == tag))
            }
            Self::Property(name) => row.property(name).is_some(),
        }
    }
}
