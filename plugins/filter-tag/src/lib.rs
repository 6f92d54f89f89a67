//! The built-in tag filter: `*`, or tags joined by two vertical bars.

use sluice_plugin::{Attribute, ColumnFilter, Hint, Refusal, Verdicts, View};

/// A compiled tag expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagFilter {
    /// `*`: every message, whether it has a tag or not.
    Any,
    /// Messages whose tag is one of these: sorted, each once.
    OneOf(Vec<String>),
}

impl ColumnFilter for TagFilter {
    fn compile(expression: &str) -> Result<Self, Refusal> {
        if expression.trim() == "*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        let mut at = 0;
        for part in expression.split("||") {
            tags.push(tag(part, at)?);
            at += part.len() + "||".len();
        }
        tags.sort_unstable();
        tags.dedup();
        Ok(Self::OneOf(tags))
    }

    fn columns(&self) -> Vec<Attribute> {
        match self {
            Self::Any => Vec::new(),
            Self::OneOf(_) => vec![Attribute::Tag],
        }
    }

    fn hint(&self) -> Option<Hint> {
        match self {
            Self::Any => None,
            Self::OneOf(tags) => Some(Hint::TagOneOf(tags.clone())),
        }
    }

    fn evaluate(&self, view: &View<'_>, verdicts: &mut Verdicts) {
        match self {
            Self::Any => verdicts.deliver = view.all(),
            Self::OneOf(tags) => {
                let column = view.column(0);
                for message in 0..view.messages() {
                    if column.value(message).is_some_and(|tag| is_one_of(tags, tag)) {
                        verdicts.deliver(message);
                    }
                }
            }
        }
    }
}

/// The tag in one part of the expression, which begins at byte `at` of it.
fn tag(part: &str, at: usize) -> Result<String, Refusal> {
    let begin = at + part.len() - part.trim_start().len();
    match part.trim() {
        "" => Err(Refusal::at("a tag is missing: write `*`, or tags joined by `||`", at)),
        "*" => Err(Refusal::at("`*` stands for every tag and cannot be joined with others", begin)),
        tag => match tag.find('|') {
            Some(bar) => Err(Refusal::at("a single `|` joins nothing: tags are joined by `||`", begin + bar)),
            None => Ok(tag.to_owned()),
        },
    }
}

fn is_one_of(tags: &[String], tag: &[u8]) -> bool {
    match tags {
        [only] => only.as_bytes() == tag,
        tags => tags.binary_search_by(|has| has.as_bytes().cmp(tag)).is_ok(),
    }
}

sluice_plugin::export_column_filter!(TagFilter);

#[cfg(test)]
mod tests {
    use sluice_plugin::testing::{Outcome, Row, assert_pure, judge};

    use super::*;

    fn refused_at(expression: &str) -> Option<u32> {
        TagFilter::compile(expression).expect_err(expression).at
    }

    #[test]
    fn a_star_delivers_messages_with_and_without_a_tag() {
        let rows = [Row::new(), Row::new().tag("a"), Row::new().tag("")];
        assert_eq!(judge::<TagFilter>(" * ", &rows), Ok(vec![Outcome::Deliver; 3]));
        assert_eq!(TagFilter::Any.hint(), None);
        assert_eq!(TagFilter::Any.columns(), []);
    }

    #[test]
    fn a_message_is_delivered_when_its_tag_is_one_of_those_named() {
        let rows = [
            Row::new().tag("a"),
            Row::new().tag("b"),
            Row::new().tag("ab"),
            Row::new().tag("A"),
            Row::new(),
        ];
        let expected = [Outcome::Deliver, Outcome::Skip, Outcome::Deliver, Outcome::Skip, Outcome::Skip];
        assert_eq!(judge::<TagFilter>("ab || a", &rows), Ok(expected.to_vec()));
        assert_pure::<TagFilter>("ab || a", &rows);
    }

    #[test]
    fn spaces_around_tags_are_trimmed_and_those_within_kept() {
        let rows = [Row::new().tag("two words"), Row::new().tag("two")];
        assert_eq!(
            judge::<TagFilter>("\ttwo words  ", &rows),
            Ok(vec![Outcome::Deliver, Outcome::Skip])
        );
    }

    #[test]
    fn the_hint_names_each_tag_once() {
        let filter = TagFilter::compile("b||a||b").expect("a tag expression");
        assert_eq!(filter.hint(), Some(Hint::TagOneOf(vec!["a".to_owned(), "b".to_owned()])));
        assert_eq!(filter.columns(), [Attribute::Tag]);
    }

    #[test]
    fn a_missing_tag_is_refused_with_its_place() {
        assert_eq!(refused_at(""), Some(0));
        assert_eq!(refused_at("  "), Some(0));
        assert_eq!(refused_at("a||"), Some(3));
        assert_eq!(refused_at("a|| ||b"), Some(3));
        assert_eq!(refused_at("||a"), Some(0));
    }

    #[test]
    fn a_star_among_tags_and_a_single_bar_are_refused_with_their_place() {
        assert_eq!(refused_at("a || *"), Some(5));
        assert_eq!(refused_at("a | b"), Some(2));
        assert_eq!(refused_at("a ||| b"), Some(4));
    }

    #[test]
    fn long_runs_agree_with_short_ones() {
        let rows: Vec<_> = (0..600).map(|number| Row::new().tag(format!("t{}", number % 7))).collect();
        assert_pure::<TagFilter>("t1||t3||t5", &rows);
    }
}
