//! Finds what a message must have for an expression to be TRUE.
//!
//! A message that a hint passes over is not judged, so its evaluation error would not be counted. Hence a hint is
//! given only where every message it passes over would yield FALSE or NULL and no error. That is found by running
//! the steps once for all such messages, with the set of outcomes that each part may have in place of an outcome.

use sluice_plugin::Hint;

use crate::program::{ColumnId, Program, Step};

/// The most tags that a hint names.
const TAGS_MAX: usize = 256;

/// The outcomes that a part may have, of those messages that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Outcomes {
    truth: bool,
    falsehood: bool,
    null: bool,
}

impl Outcomes {
    const TRUE: Outcomes = Outcomes {
        truth: true,
        falsehood: false,
        null: false,
    };
    const FALSE: Outcomes = Outcomes {
        truth: false,
        falsehood: true,
        null: false,
    };
    const NULL: Outcomes = Outcomes {
        truth: false,
        falsehood: false,
        null: true,
    };
    const ANY: Outcomes = Outcomes {
        truth: true,
        falsehood: true,
        null: true,
    };

    fn or(self, other: Outcomes) -> Self {
        Outcomes {
            truth: self.truth | other.truth,
            falsehood: self.falsehood | other.falsehood,
            null: self.null | other.null,
        }
    }
}

/// What is known of a property in the messages that are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Missing,
    /// It is there and is none of the texts that the expression compares it with by `=` or IN.
    Another,
}

/// The hint of a program: its tags before a property.
pub(crate) fn hint(program: &Program) -> Option<Hint> {
    let tags = program.properties.iter().position(|name| name == crate::TAGS);
    tags.and_then(|column| tag_one_of(program, column)).or_else(|| {
        let needed = |column: &ColumnId| program.properties[*column] != crate::KEYS && never_true(program, *column, Known::Missing);
        let column = (0..program.properties.len()).filter(|column| Some(*column) != tags).find(needed)?;
        Some(Hint::PropertyExists(program.properties[column].clone()))
    })
}

fn tag_one_of(program: &Program, column: ColumnId) -> Option<Hint> {
    if !never_true(program, column, Known::Missing) || !never_true(program, column, Known::Another) {
        return None;
    }
    let mut tags: Vec<String> = Vec::new();
    for step in &program.steps {
        if let Step::TextIn(read, needles) = step
            && *read == column
        {
            tags.extend(needles.iter().map(|needle| String::from_utf8_lossy(needle.bytes()).into_owned()));
        }
    }
    tags.sort_unstable();
    tags.dedup();
    (tags.len() <= TAGS_MAX).then_some(Hint::TagOneOf(tags))
}

/// Whether an expression is FALSE or NULL, without an error, for each message of which this is known.
fn never_true(program: &Program, column: ColumnId, known: Known) -> bool {
    let mut looking = Looking {
        column,
        known,
        stack: Vec::new(),
    };
    let mut next = 0;
    while let Some(step) = program.steps.get(next) {
        match looking.step(step) {
            Some(Next::Step) => next += 1,
            Some(Next::After(end)) => next = end + 1,
            None => return false,
        }
    }
    looking.stack.pop().is_some_and(|outcomes| !outcomes.truth)
}

enum Next {
    Step,
    After(usize),
}

struct Looking {
    column: ColumnId,
    known: Known,
    stack: Vec<Outcomes>,
}

impl Looking {
    fn known(&self, column: ColumnId) -> Known {
        if column == self.column { self.known } else { Known::Nothing }
    }

    /// What a test of a present text may be, with NULL for a missing one.
    fn valued(&self, column: ColumnId, present: Outcomes) -> Outcomes {
        match self.known(column) {
            Known::Nothing => present.or(Outcomes::NULL),
            Known::Missing => Outcomes::NULL,
            Known::Another => present,
        }
    }

    fn is_missing(&self, column: ColumnId) -> bool {
        self.known(column) == Known::Missing
    }

    fn pop(&mut self) -> Outcomes {
        self.stack.pop().expect("each step finds what the steps before it left")
    }

    fn change(&mut self, change: impl FnOnce(Outcomes) -> Outcomes) {
        let before = self.pop();
        self.stack.push(change(before));
    }

    /// Runs one step; `None` where it may fail.
    fn step(&mut self, step: &Step) -> Option<Next> {
        let either = Outcomes::TRUE.or(Outcomes::FALSE);
        let pushed = match step {
            Step::Constant(Some(true)) => Outcomes::TRUE,
            Step::Constant(Some(false)) => Outcomes::FALSE,
            Step::Constant(None) => Outcomes::NULL,
            Step::Fail => return None,
            Step::Missing(column) => match self.known(*column) {
                Known::Nothing => either,
                Known::Missing => Outcomes::TRUE,
                Known::Another => Outcomes::FALSE,
            },
            Step::Bare(column) => self.valued(*column, Outcomes::FALSE),
            Step::TextIn(column, _) if self.known(*column) == Known::Another => Outcomes::FALSE,
            Step::TextIn(column, _) | Step::BooleanIs(column, _) => self.valued(*column, either),
            Step::NumberIn(column, ..) => {
                if !self.is_missing(*column) {
                    return None;
                }
                Outcomes::NULL
            }
            Step::Match { column, .. } => {
                if self.is_missing(*column) {
                    Outcomes::FALSE
                } else {
                    either
                }
            }
            Step::SameText(..) => Outcomes::ANY,
            Step::Order(left, _, right) => {
                if !self.is_missing(*left) && !self.is_missing(*right) {
                    return None;
                }
                Outcomes::NULL
            }
            Step::SameTruth => {
                self.pop();
                self.pop();
                Outcomes::ANY
            }
            Step::SameAsText(_) => return None,
            Step::TextSameAs(_) => {
                self.pop();
                Outcomes::ANY
            }
            Step::SelectPresent(_) | Step::Unselect => return Some(Next::Step),
            Step::SelectForAnd { end } => return Some(self.narrow(*end, |left| left.truth || left.null)),
            Step::SelectForOr { end } => return Some(self.narrow(*end, |left| left.falsehood || left.null)),
            Step::And | Step::Or => {
                let (right, left) = (self.pop(), self.pop());
                if *step == Step::And {
                    and(left, right)
                } else {
                    negated(and(negated(left), negated(right)))
                }
            }
            Step::Not | Step::IsNull | Step::NullToFalse | Step::FalseToNull | Step::TrueToFalse | Step::FailUnlessNull | Step::Drop => {
                return self.on_top(step);
            }
        };
        self.stack.push(pushed);
        Some(Next::Step)
    }

    fn narrow(&self, end: usize, is_open: fn(&Outcomes) -> bool) -> Next {
        let left = self.stack.last().expect("the left side was pushed");
        if is_open(left) { Next::Step } else { Next::After(end) }
    }

    /// Runs a step that changes the last outcomes.
    fn on_top(&mut self, step: &Step) -> Option<Next> {
        match step {
            Step::Not => self.change(negated),
            Step::IsNull => self.change(|top| Outcomes {
                truth: top.null,
                falsehood: top.truth || top.falsehood,
                null: false,
            }),
            Step::NullToFalse => self.change(|top| Outcomes {
                falsehood: top.falsehood || top.null,
                null: false,
                ..top
            }),
            Step::FalseToNull => self.change(|top| Outcomes {
                null: top.falsehood || top.null,
                falsehood: false,
                ..top
            }),
            Step::TrueToFalse => self.change(|top| Outcomes {
                falsehood: top.falsehood || top.truth,
                truth: false,
                ..top
            }),
            Step::FailUnlessNull => {
                if *self.stack.last()? != Outcomes::NULL {
                    return None;
                }
            }
            _ => drop(self.pop()),
        }
        Some(Next::Step)
    }
}

fn negated(outcomes: Outcomes) -> Outcomes {
    Outcomes {
        truth: outcomes.falsehood,
        falsehood: outcomes.truth,
        null: outcomes.null,
    }
}

fn and(left: Outcomes, right: Outcomes) -> Outcomes {
    Outcomes {
        truth: left.truth && right.truth,
        falsehood: left.falsehood || right.falsehood,
        null: (left.null && (right.null || right.truth)) || (left.truth && right.null),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of(expression: &str) -> Option<Hint> {
        let tree = crate::parse::parse(expression).expect("a valid expression");
        hint(&crate::program::compile(tree))
    }

    fn tags(tags: &[&str]) -> Option<Hint> {
        Some(Hint::TagOneOf(tags.iter().map(|&tag| tag.to_owned()).collect()))
    }

    #[test]
    fn tags_that_alone_make_it_true_are_the_hint() {
        assert_eq!(hint_of("TAGS = 'a'"), tags(&["a"]));
        assert_eq!(hint_of("TAGS IN ('b', 'a') AND region = 'eu'"), tags(&["a", "b"]));
        assert_eq!(hint_of("TAGS = 'a' OR TAGS = 'b' AND region = 'eu'"), tags(&["a", "b"]));
        assert_eq!(hint_of("'a' = TAGS AND price > 5"), tags(&["a"]));
        assert_eq!(hint_of("TAGS IS NOT NULL AND TAGS = 'a' AND price > 5"), tags(&["a"]));
    }

    #[test]
    fn a_hint_that_would_hide_an_error_is_not_given() {
        // Without a tag the left side is NULL, so the right side is evaluated, and its error counted.
        let price = Some(Hint::PropertyExists("price".to_owned()));
        for text in [
            "TAGS = 'a' AND price > 5",
            "price > 5 AND 'a' = TAGS",
            "region = 'eu' AND price > 5",
        ] {
            assert_eq!(hint_of(text), price, "{text}");
        }
        assert_eq!(hint_of("TAGS = 'a' AND 'x' = 1"), None);
    }

    #[test]
    fn what_other_messages_may_satisfy_has_no_hint() {
        for text in [
            "TAGS <> 'a'",
            "NOT (TAGS = 'a')",
            "TAGS = 'a' OR x = 'b'",
            "TAGS IS NULL",
            "TRUE",
            "TAGS STARTSWITH 'a' OR x IS NULL",
        ] {
            assert_eq!(hint_of(text), None, "{text}");
        }
    }

    #[test]
    fn a_property_without_which_nothing_is_true_is_the_hint() {
        let exists = |name: &str| Some(Hint::PropertyExists(name.to_owned()));
        assert_eq!(hint_of("price > 5"), exists("price"));
        assert_eq!(hint_of("price IS NOT NULL AND weight > 5"), exists("price"));
        assert_eq!(hint_of("name CONTAINS 'x' AND price > 5"), exists("name"));
        assert_eq!(hint_of("KEYS = 'x'"), None);
    }
}
