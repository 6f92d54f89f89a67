//! A tree compiled to steps that judge a whole run of messages, one after the other.
//!
//! Types are known when an expression is compiled: a property is text, a test is a truth value, a negation is a
//! number or NULL. So each step is made for its operands, and none looks at a type again. A step works under a
//! selection, the messages for which its part of the expression is to be evaluated; AND and OR narrow it for their
//! right side, which makes short circuits, and thereby errors, exact for each message.

use crate::needle::Needle;
use crate::number::{KeyRange, Number, NumberType};
use crate::tree::{Constant, MatchKind, Node, Ordering, Tree};

/// The place of a column in the view.
pub(crate) type ColumnId = usize;

/// What one step does to the stack of truth values, the stack of selections and the failed messages.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Step {
    /// Pushes the same for all: TRUE, FALSE, or NULL for `None`.
    Constant(Option<bool>),
    /// Fails all, and pushes something.
    Fail,
    /// Pushes TRUE where the property is missing, else FALSE.
    Missing(ColumnId),
    /// Pushes what a bare property is: NULL where it is missing, else FALSE.
    Bare(ColumnId),
    /// Pushes whether the text is one of these; NULL where it is missing.
    TextIn(ColumnId, Vec<Needle>),
    /// Pushes whether the text, converted to this type, lies in the range; NULL where it is missing.
    NumberIn(ColumnId, NumberType, KeyRange),
    /// Pushes whether the text converts to this truth value; NULL where it is missing.
    BooleanIs(ColumnId, bool),
    /// Pushes whether the text matches; FALSE where it is missing, with `negated` too.
    Match {
        column: ColumnId,
        kind: MatchKind,
        needle: Needle,
        negated: bool,
    },
    /// Pushes `left = right` of two properties.
    SameText(ColumnId, ColumnId),
    /// Pushes the ordering of two properties as Doubles; NULL where one is missing.
    Order(ColumnId, Ordering, ColumnId),
    /// Exchanges TRUE and FALSE.
    Not,
    /// TRUE where it is NULL, else FALSE.
    IsNull,
    /// FALSE where it is NULL.
    NullToFalse,
    /// NULL where it is FALSE.
    FalseToNull,
    /// FALSE where it is TRUE.
    TrueToFalse,
    /// Fails where it is not NULL.
    FailUnlessNull,
    /// Removes it.
    Drop,
    /// Removes two, and pushes `left = right` of them.
    SameTruth,
    /// The same with a property on the right: fails where both have a value.
    SameAsText(ColumnId),
    /// The same with a property on the left, converted to Boolean.
    TextSameAs(ColumnId),
    /// Selects only where the property is there.
    SelectPresent(ColumnId),
    /// Back to the selection before.
    Unselect,
    /// Selects where the left side leaves AND open; goes on after the `And` at `end` where that is nowhere.
    SelectForAnd { end: usize },
    /// Combines two by AND; back to the selection before.
    And,
    /// Selects where the left side leaves OR open; goes on after the `Or` at `end` where that is nowhere.
    SelectForOr { end: usize },
    /// Combines two by OR; back to the selection before.
    Or,
}

/// A compiled expression; leaves one truth value on the stack.
#[derive(Clone, Debug)]
pub(crate) struct Program {
    pub(crate) steps: Vec<Step>,
    /// The names of the properties read, in the order of the columns.
    pub(crate) properties: Vec<String>,
}

/// What a part compiled so far yields.
#[derive(Clone, Debug)]
enum Value {
    Constant(Constant),
    Text(ColumnId),
    /// The top of the stack.
    Truth,
}

/// A part compiled so far, and where its steps begin.
#[derive(Clone, Debug)]
struct Part {
    begin: usize,
    value: Value,
}

/// What to do between the two operands of a part, when the first is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Between {
    Nothing,
    And,
    Or,
    Order,
}

/// Compiles a tree by one walk over its list.
pub(crate) fn compile(tree: Tree) -> Program {
    let mut between = vec![Between::Nothing; tree.nodes.len()];
    for node in &tree.nodes {
        match node {
            Node::And(left, _) => between[*left] = Between::And,
            Node::Or(left, _) => between[*left] = Between::Or,
            Node::Order { left, .. } => between[*left] = Between::Order,
            _ => {}
        }
    }
    let mut compiler = Compiler {
        steps: Vec::new(),
        properties: Vec::new(),
        parts: Vec::new(),
        open: Vec::new(),
    };
    for (node, between) in tree.nodes.into_iter().zip(between) {
        compiler.node(node);
        compiler.between(between);
    }
    compiler.make_truth();
    Program {
        steps: compiler.steps,
        properties: compiler.properties,
    }
}

struct Compiler {
    steps: Vec<Step>,
    properties: Vec<String>,
    /// The operands that wait for their operator; those of nested operators lie above.
    parts: Vec<Part>,
    /// The selecting steps whose operators are not complete.
    open: Vec<usize>,
}

impl Compiler {
    fn pop(&mut self) -> Part {
        self.parts.pop().expect("operands come before their operator")
    }

    fn push(&mut self, begin: usize, value: Value) {
        self.parts.push(Part { begin, value });
    }

    fn column(&mut self, name: String) -> ColumnId {
        self.properties.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.properties.push(name);
            self.properties.len() - 1
        })
    }

    /// Makes a truth value on the stack of the last part, which stands where a condition is needed.
    fn make_truth(&mut self) {
        let part = self.pop();
        match part.value {
            Value::Truth => {}
            Value::Text(column) => self.steps.push(Step::Bare(column)),
            Value::Constant(Constant::Boolean(value)) => self.steps.push(Step::Constant(Some(value))),
            Value::Constant(Constant::Null) => self.steps.push(Step::Constant(None)),
            Value::Constant(Constant::Text(_) | Constant::Number(_)) => unreachable!("the parser refuses it as a condition"),
        }
        self.push(part.begin, Value::Truth);
    }

    fn between(&mut self, between: Between) {
        let select = match between {
            Between::Nothing => return,
            Between::And => Step::SelectForAnd { end: 0 },
            Between::Or => Step::SelectForOr { end: 0 },
            Between::Order => {
                // Needed where the right operand has steps; taken back where it has none.
                if let Some(Part {
                    value: Value::Text(column),
                    ..
                }) = self.parts.last()
                {
                    self.steps.push(Step::SelectPresent(*column));
                }
                return;
            }
        };
        self.make_truth();
        self.open.push(self.steps.len());
        self.steps.push(select);
    }

    fn node(&mut self, node: Node) {
        let begin = self.steps.len();
        match node {
            Node::Constant(constant) => self.push(begin, Value::Constant(constant)),
            Node::Property(name) => {
                let column = self.column(name);
                self.push(begin, Value::Text(column));
            }
            Node::NullAfter(_) => {
                self.make_truth();
                self.steps.push(Step::Drop);
                let begin = self.pop().begin;
                self.push(begin, Value::Constant(Constant::Null));
            }
            Node::Not(_) => {
                self.make_truth();
                self.steps.push(Step::Not);
            }
            Node::And(..) => self.junction(Step::And),
            Node::Or(..) => self.junction(Step::Or),
            Node::Equal { negated, .. } => self.equal(negated),
            Node::Order { ordering, .. } => self.order(ordering),
            Node::IsNull { negated, .. } => {
                let part = self.pop();
                match part.value {
                    Value::Truth => self.steps.push(Step::IsNull),
                    Value::Text(column) => self.steps.push(Step::Missing(column)),
                    Value::Constant(constant) => self.steps.push(Step::Constant(Some(constant == Constant::Null))),
                }
                self.test(part.begin, negated);
            }
            Node::In { elements, negated, .. } => {
                let part = self.pop();
                let Value::Text(column) = part.value else {
                    unreachable!("the parser refuses all else before IN")
                };
                self.steps.push(Step::TextIn(column, Needle::set(elements)));
                self.test(part.begin, negated);
            }
            Node::Match { kind, text, negated, .. } => self.text_match(kind, &text, negated),
        }
    }

    /// The truth value on the stack is the value of the part.
    fn test(&mut self, begin: usize, negated: bool) {
        if negated {
            self.steps.push(Step::Not);
        }
        self.push(begin, Value::Truth);
    }

    fn junction(&mut self, junction: Step) {
        self.make_truth();
        self.pop();
        let left = self.pop();
        let select = self.open.pop().expect("it was opened between the operands");
        let fused = match (&junction, &self.steps[left.begin..]) {
            (
                Step::And,
                [
                    Step::NumberIn(column, kind, low),
                    Step::SelectForAnd { .. },
                    Step::NumberIn(again, same, high),
                ],
            ) if column == again && kind == same => Some(Step::NumberIn(*column, *kind, low.intersection(*high))),
            _ => None,
        };
        if let Some(fused) = fused {
            // Both convert the same text to the same type: the second cannot fail, or be NULL, where the first is not.
            self.steps.truncate(left.begin);
            self.steps.push(fused);
        } else {
            let here = self.steps.len();
            if let Step::SelectForAnd { end } | Step::SelectForOr { end } = &mut self.steps[select] {
                *end = here;
            }
            self.steps.push(junction);
        }
        self.push(left.begin, Value::Truth);
    }

    fn text_match(&mut self, kind: MatchKind, text: &str, negated: bool) {
        let part = self.pop();
        if text.is_empty() {
            // The operand is not even evaluated.
            self.steps.truncate(part.begin);
            self.steps.push(Step::Constant(Some(false)));
            return self.push(part.begin, Value::Truth);
        }
        match part.value {
            Value::Text(column) => self.steps.push(Step::Match {
                column,
                kind,
                needle: Needle::new(text),
                negated,
            }),
            Value::Constant(Constant::Text(value)) => {
                let matches = Needle::new(text).matches(kind, value.as_bytes());
                self.steps.push(Step::Constant(Some(matches != negated)));
            }
            Value::Constant(_) => self.steps.push(Step::Constant(Some(false))),
            Value::Truth => self.steps.extend([Step::Drop, Step::Constant(Some(false))]),
        }
        self.push(part.begin, Value::Truth);
    }

    fn equal(&mut self, negated: bool) {
        let (right, left) = (self.pop(), self.pop());
        match (left.value, right.value) {
            (Value::Truth, Value::Truth) => self.steps.push(Step::SameTruth),
            (Value::Truth, Value::Text(column)) => self.steps.push(Step::SameAsText(column)),
            (Value::Text(column), Value::Truth) => self.steps.push(Step::TextSameAs(column)),
            (Value::Text(left), Value::Text(right)) => self.steps.push(Step::SameText(left, right)),
            (Value::Text(column), Value::Constant(constant)) => self.steps.push(text_is(column, constant)),
            (Value::Constant(constant), Value::Text(column)) => self.constant_is_text(constant, column),
            (Value::Truth, Value::Constant(constant)) => self.steps.extend(truth_is(constant)),
            (Value::Constant(constant), Value::Truth) => self.constant_is_truth(constant),
            (Value::Constant(left), Value::Constant(right)) => self.steps.push(constants_are_equal(left, right)),
        }
        self.test(left.begin, negated);
    }

    /// `constant = property`: a missing property is unequal to a value.
    fn constant_is_text(&mut self, constant: Constant, column: ColumnId) {
        match constant {
            Constant::Null => self.steps.extend([Step::Missing(column), Step::FalseToNull]),
            Constant::Boolean(_) => self.steps.extend([Step::Bare(column), Step::FailUnlessNull, Step::NullToFalse]),
            Constant::Text(_) | Constant::Number(_) => self.steps.extend([text_is(column, constant), Step::NullToFalse]),
        }
    }

    /// `constant = test`: a test that is NULL is unequal to a value.
    fn constant_is_truth(&mut self, constant: Constant) {
        let wanted = match constant {
            Constant::Null => return self.steps.extend([Step::IsNull, Step::FalseToNull]),
            Constant::Number(_) => return self.steps.extend([Step::TrueToFalse, Step::NullToFalse]),
            Constant::Boolean(value) => value,
            Constant::Text(text) => crate::convert::to_boolean(text.as_bytes()),
        };
        if !wanted {
            self.steps.push(Step::Not);
        }
        self.steps.push(Step::NullToFalse);
    }

    fn order(&mut self, ordering: Ordering) {
        let (right, left) = (self.pop(), self.pop());
        let has_steps = match left.value {
            Value::Text(_) => right.begin < self.steps.len(),
            Value::Constant(_) | Value::Truth => false,
        };
        if has_steps {
            // Only the negation of a test has steps, and it is NULL.
            self.steps.extend([Step::Unselect, Step::Constant(None)]);
            return self.push(left.begin, Value::Truth);
        }
        if let Value::Text(_) = left.value {
            self.steps.truncate(right.begin - 1);
        }
        let step = match (left.value, right.value) {
            (Value::Constant(Constant::Null), _) => {
                self.steps.truncate(right.begin);
                Step::Constant(None)
            }
            (_, Value::Constant(Constant::Null)) => Step::Constant(None),
            (Value::Text(left), Value::Text(right)) => Step::Order(left, ordering, right),
            (Value::Text(column), Value::Constant(Constant::Number(number))) => number_in(column, ordering, number),
            (Value::Constant(Constant::Number(number)), Value::Text(column)) => number_in(column, ordering.mirrored(), number),
            (Value::Constant(Constant::Number(left)), Value::Constant(Constant::Number(right))) => {
                let holds = match ordering {
                    Ordering::Less => left.compare(right).is_lt(),
                    Ordering::LessOrEqual => left.compare(right).is_le(),
                    Ordering::Greater => left.compare(right).is_gt(),
                    Ordering::GreaterOrEqual => left.compare(right).is_ge(),
                };
                Step::Constant(Some(holds))
            }
            (Value::Truth | Value::Constant(Constant::Text(_) | Constant::Boolean(_)), _)
            | (_, Value::Truth | Value::Constant(Constant::Text(_) | Constant::Boolean(_))) => {
                unreachable!("the parser refuses operands that have no order")
            }
        };
        self.steps.push(step);
        self.push(left.begin, Value::Truth);
    }
}

fn number_in(column: ColumnId, ordering: Ordering, number: Number) -> Step {
    let key = number.key();
    let range = match ordering {
        Ordering::Less => KeyRange::below(key),
        Ordering::LessOrEqual => KeyRange::at_most(key),
        Ordering::Greater => KeyRange::above(key),
        Ordering::GreaterOrEqual => KeyRange::at_least(key),
    };
    Step::NumberIn(column, number.number_type(), range)
}

/// `property = constant`.
fn text_is(column: ColumnId, constant: Constant) -> Step {
    match constant {
        Constant::Text(text) => Step::TextIn(column, Needle::set(vec![text])),
        Constant::Number(number) => Step::NumberIn(column, number.number_type(), KeyRange::exactly(number.key())),
        Constant::Boolean(value) => Step::BooleanIs(column, value),
        Constant::Null => Step::Missing(column),
    }
}

/// `test = constant`, of the test on the stack.
fn truth_is(constant: Constant) -> Option<Step> {
    match constant {
        Constant::Text(_) => Some(Step::FailUnlessNull),
        Constant::Number(_) => Some(Step::TrueToFalse),
        Constant::Boolean(true) => None,
        Constant::Boolean(false) => Some(Step::Not),
        Constant::Null => Some(Step::IsNull),
    }
}

fn constants_are_equal(left: Constant, right: Constant) -> Step {
    let equal = match (left, right) {
        (Constant::Null, Constant::Null) => true,
        (Constant::Null, _) => return Step::Constant(None),
        (_, Constant::Null) => false,
        (Constant::Text(left), Constant::Text(right)) => left == right,
        (Constant::Boolean(left), Constant::Boolean(right)) => left == right,
        (Constant::Boolean(_), Constant::Text(_)) => return Step::Fail,
        (Constant::Text(text), Constant::Boolean(value)) => crate::convert::to_boolean(text.as_bytes()) == value,
        (Constant::Boolean(_), Constant::Number(_)) | (Constant::Number(_), Constant::Boolean(_)) => false,
        (Constant::Number(left), Constant::Number(right)) => left.compare(right).is_eq(),
        (Constant::Text(text), Constant::Number(number)) | (Constant::Number(number), Constant::Text(text)) => {
            match crate::convert::to_key(text.as_bytes(), number.number_type()) {
                Some(key) => key == number.key(),
                None => return Step::Fail,
            }
        }
    };
    Step::Constant(Some(equal))
}
