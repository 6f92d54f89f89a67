//! Runs the steps of a program over the columns of a run of messages.
//!
//! Sets of messages are 256-bit masks. Bits of a truth value are meaningful only for messages that are selected and
//! have not failed; every step may leave anything in the others.

use sluice_plugin::{Bits, TextColumn, Verdicts, View};

use crate::convert;
use crate::needle::Needle;
use crate::number::{KeyRange, NumberType, double_key};
use crate::program::{ColumnId, Program, Step};
use crate::tree::Ordering;

/// Up to this many elements of IN are looked for one by one, beyond it by halving.
const ELEMENTS_ONE_BY_ONE_MAX: usize = 4;

/// A truth value for each message: TRUE where `truth`, NULL where `null`, else FALSE; never both.
#[derive(Clone, Copy, Debug)]
struct Truth {
    truth: Bits,
    null: Bits,
}

const NONE: Bits = [0; 4];
const ALL: Bits = [u64::MAX; 4];

fn both(a: Bits, b: Bits) -> Bits {
    std::array::from_fn(|word| a[word] & b[word])
}

fn either(a: Bits, b: Bits) -> Bits {
    std::array::from_fn(|word| a[word] | b[word])
}

fn without(a: Bits, b: Bits) -> Bits {
    std::array::from_fn(|word| a[word] & !b[word])
}

/// Judges the messages of a run.
pub(crate) fn evaluate(program: &Program, view: &View<'_>, verdicts: &mut Verdicts) {
    let mut run = Run {
        view,
        truths: Vec::with_capacity(4),
        selections: Vec::with_capacity(4),
        selected: view.all(),
        failed: NONE,
    };
    let mut next = 0;
    while let Some(step) = program.steps.get(next) {
        next = run.step(step).unwrap_or(next) + 1;
    }
    let outcome = run.pop();
    verdicts.failed = run.failed;
    verdicts.deliver = without(both(outcome.truth, view.all()), run.failed);
}

struct Run<'run> {
    view: &'run View<'run>,
    truths: Vec<Truth>,
    /// The selections to go back to.
    selections: Vec<Bits>,
    /// The messages for which the present part is to be evaluated.
    selected: Bits,
    failed: Bits,
}

impl<'run> Run<'run> {
    fn pop(&mut self) -> Truth {
        self.truths.pop().expect("each step finds what the steps before it left")
    }

    fn push(&mut self, truth: Bits, null: Bits) {
        self.truths.push(Truth { truth, null });
    }

    fn change(&mut self, change: impl FnOnce(Truth) -> (Bits, Bits)) {
        let before = self.pop();
        let (truth, null) = change(before);
        self.push(truth, null);
    }

    fn fail(&mut self, messages: Bits) {
        self.failed = either(self.failed, both(messages, self.selected));
    }

    fn column(&self, column: ColumnId) -> TextColumn<'run> {
        self.view.column(column)
    }

    /// The selected messages, not failed, that have a value in the column.
    fn open(&self, column: &TextColumn<'_>) -> Bits {
        without(both(self.selected, column.present()), self.failed)
    }

    fn select(&mut self, messages: Bits) {
        self.selections.push(self.selected);
        self.selected = without(both(self.selected, messages), self.failed);
    }

    fn unselect(&mut self) {
        self.selected = self.selections.pop().expect("each selection is left once");
    }

    /// Runs one step; the place of the step to go on after, where that is not itself.
    #[inline]
    fn step(&mut self, step: &Step) -> Option<usize> {
        match step {
            Step::Constant(value) => {
                let fill = |when: bool| if when { ALL } else { NONE };
                self.push(fill(*value == Some(true)), fill(value.is_none()));
            }
            Step::Fail => {
                self.fail(ALL);
                self.push(NONE, NONE);
            }
            Step::Missing(column) => self.push(without(ALL, self.column(*column).present()), NONE),
            Step::Bare(column) => self.push(NONE, without(ALL, self.column(*column).present())),
            Step::TextIn(column, needles) => self.text_in(*column, needles),
            Step::NumberIn(column, number_type, range) => self.number_in(*column, *number_type, *range),
            Step::BooleanIs(column, wanted) => {
                let column = self.column(*column);
                let truth = filtered(self.open(&column), |message| {
                    convert::to_boolean(column.value_or_empty(message)) == *wanted
                });
                self.push(truth, without(ALL, column.present()));
            }
            Step::Match {
                column,
                kind,
                needle,
                negated,
            } => {
                let column = self.column(*column);
                let truth = filtered(self.open(&column), |message| {
                    needle.matches(*kind, column.value_or_empty(message)) != *negated
                });
                self.push(truth, NONE);
            }
            Step::SameText(left, right) => self.same_text(*left, *right),
            Step::Order(left, ordering, right) => self.order(*left, *ordering, *right),
            Step::Not => self.change(|top| (without(ALL, either(top.truth, top.null)), top.null)),
            Step::IsNull => self.change(|top| (top.null, NONE)),
            Step::NullToFalse => self.change(|top| (top.truth, NONE)),
            Step::FalseToNull => self.change(|top| (top.truth, without(ALL, top.truth))),
            Step::TrueToFalse => self.change(|top| (NONE, top.null)),
            Step::FailUnlessNull => {
                let top = self.pop();
                self.fail(without(ALL, top.null));
                self.push(NONE, top.null);
            }
            Step::Drop => drop(self.pop()),
            Step::SameTruth => {
                let (right, left) = (self.pop(), self.pop());
                let differ = std::array::from_fn(|word| left.truth[word] ^ right.truth[word]);
                self.compared(left.null, right.null, without(ALL, differ));
            }
            Step::SameAsText(column) => {
                let left = self.pop();
                let missing = without(ALL, self.column(*column).present());
                self.fail(without(ALL, either(left.null, missing)));
                self.compared(left.null, missing, NONE);
            }
            Step::TextSameAs(column) => {
                let right = self.pop();
                let column = self.column(*column);
                let text = filtered(self.open(&column), |message| convert::to_boolean(column.value_or_empty(message)));
                let differ = std::array::from_fn(|word| text[word] ^ right.truth[word]);
                self.compared(without(ALL, column.present()), right.null, without(ALL, differ));
            }
            Step::SelectPresent(column) => self.select(self.column(*column).present()),
            Step::Unselect => self.unselect(),
            Step::SelectForAnd { end } => {
                let left = self.truths.last().expect("the left side was pushed");
                return self.narrow(either(left.truth, left.null), *end);
            }
            Step::SelectForOr { end } => {
                let left = self.truths.last().expect("the left side was pushed");
                return self.narrow(without(ALL, left.truth), *end);
            }
            Step::And => self.joined(|left, right| {
                let truth = both(left.truth, right.truth);
                let open = both(either(left.truth, left.null), either(right.truth, right.null));
                (truth, without(open, truth))
            }),
            Step::Or => self.joined(|left, right| {
                let truth = either(left.truth, right.truth);
                (truth, without(either(left.null, right.null), truth))
            }),
        }
        None
    }

    /// Selects where the left side leaves the outcome open, or passes over the right side where that is nowhere.
    fn narrow(&mut self, open: Bits, end: usize) -> Option<usize> {
        self.select(open);
        if self.selected != NONE {
            return None;
        }
        self.unselect();
        Some(end)
    }

    fn joined(&mut self, join: impl FnOnce(Truth, Truth) -> (Bits, Bits)) {
        let (right, left) = (self.pop(), self.pop());
        let (truth, null) = join(left, right);
        self.push(truth, null);
        self.unselect();
    }

    /// Pushes an equality: `equal` holds for the messages in which neither side is NULL.
    fn compared(&mut self, left_null: Bits, right_null: Bits, equal: Bits) {
        let valued = without(equal, either(left_null, right_null));
        self.push(either(valued, both(left_null, right_null)), without(left_null, right_null));
    }

    fn text_in(&mut self, column: ColumnId, needles: &[Needle]) {
        let column = self.column(column);
        let open = self.open(&column);
        let truth = if needles.len() <= ELEMENTS_ONE_BY_ONE_MAX {
            needles
                .iter()
                .fold(NONE, |truth, needle| either(truth, equals(&column, open, needle)))
        } else {
            filtered(open, |message| {
                let value = column.value_or_empty(message);
                needles.binary_search_by(|needle| needle.bytes().cmp(value)).is_ok()
            })
        };
        self.push(truth, without(ALL, column.present()));
    }

    fn number_in(&mut self, column: ColumnId, number_type: NumberType, range: KeyRange) {
        let column = self.column(column);
        let open = self.open(&column);
        let (truth, failed) = match number_type {
            NumberType::Int32 => in_range(&column, open, range, |text| convert::to_int32(text).map(i64::from)),
            NumberType::Int64 => in_range(&column, open, range, convert::to_int64),
            NumberType::Double => in_range(&column, open, range, |text| convert::to_double(text).map(double_key)),
        };
        self.failed = either(self.failed, failed);
        self.push(truth, without(ALL, column.present()));
    }

    fn same_text(&mut self, left: ColumnId, right: ColumnId) {
        let (left, right) = (self.column(left), self.column(right));
        let open = both(self.open(&left), self.open(&right));
        let equal = filtered(open, |message| left.value_or_empty(message) == right.value_or_empty(message));
        self.compared(without(ALL, left.present()), without(ALL, right.present()), equal);
    }

    fn order(&mut self, left: ColumnId, ordering: Ordering, right: ColumnId) {
        let (left, right) = (self.column(left), self.column(right));
        let open = both(self.open(&left), self.open(&right));
        let mut failed = NONE;
        let truth = filtered(open, |message| {
            let key = |column: &TextColumn<'_>| convert::to_double(column.value_or_empty(message)).map(double_key);
            let (Some(left), Some(right)) = (key(&left), key(&right)) else {
                failed[message / 64] |= 1 << (message % 64);
                return false;
            };
            match ordering {
                Ordering::Less => left < right,
                Ordering::LessOrEqual => left <= right,
                Ordering::Greater => left > right,
                Ordering::GreaterOrEqual => left >= right,
            }
        });
        self.failed = either(self.failed, failed);
        self.push(truth, without(ALL, both(left.present(), right.present())));
    }
}

/// The messages of a set for which a condition holds.
#[inline]
fn filtered(messages: Bits, mut condition: impl FnMut(usize) -> bool) -> Bits {
    let mut kept = NONE;
    for (word, &bits) in messages.iter().enumerate() {
        let mut left = bits;
        while left != 0 {
            let bit = left.trailing_zeros();
            left &= left - 1;
            kept[word] |= u64::from(condition(word * 64 + bit as usize)) << bit;
        }
    }
    kept
}

/// The messages of a set whose text is the needle.
#[inline]
fn equals(column: &TextColumn<'_>, messages: Bits, needle: &Needle) -> Bits {
    let length = needle.bytes().len();
    let of_length: Bits = std::array::from_fn(|word| {
        if messages[word] == 0 {
            0
        } else {
            messages[word] & lengths(column, word, length)
        }
    });
    filtered(of_length, |message| needle.is_at(column.bytes(), column.offset(message)))
}

/// Which of the 64 messages of a word have a value of this length. No branch a message: most are told apart here.
#[inline]
fn lengths(column: &TextColumn<'_>, word: usize, length: usize) -> u64 {
    let offsets = &column.offsets()[word * 64..];
    let mut bits = 0;
    for (bit, (from, to)) in offsets.iter().zip(&offsets[1..]).take(64).enumerate() {
        let found = u32::from_le_bytes(*to) - u32::from_le_bytes(*from);
        bits |= u64::from(found as usize == length) << bit;
    }
    bits
}

/// The messages of a set whose converted text lies in the range, and those whose text does not convert.
#[inline]
fn in_range(column: &TextColumn<'_>, messages: Bits, range: KeyRange, convert: impl Fn(&[u8]) -> Option<i64>) -> (Bits, Bits) {
    let mut failed = NONE;
    let truth = filtered(messages, |message| match convert(column.value_or_empty(message)) {
        Some(key) => range.contains(key),
        None => {
            failed[message / 64] |= 1 << (message % 64);
            false
        }
    });
    (truth, failed)
}
