//! The static checks of docs/sql.md, made while an expression is read: which kinds of parts an operator takes.

use crate::number::Number;
use crate::token::ParseError;
use crate::tree::NodeId;

/// What the static checks tell apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    String,
    Number(Number),
    Boolean,
    Null,
    Property,
    Negation,
    Test,
}

impl Kind {
    pub(crate) fn is_condition(self) -> bool {
        matches!(self, Kind::Test | Kind::Property | Kind::Boolean | Kind::Null)
    }

    pub(crate) fn has_order(self) -> bool {
        matches!(self, Kind::Number(_) | Kind::Property | Kind::Negation)
    }
}

/// A part just read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand {
    pub(crate) node: NodeId,
    pub(crate) kind: Kind,
    pub(crate) at: usize,
}

/// Check S2: an operand of AND, OR or NOT is a condition.
pub(crate) fn check_condition(operand: Operand, operator: &str) -> Result<(), ParseError> {
    if operand.kind.is_condition() {
        return Ok(());
    }
    Err(ParseError::new(
        operand.at,
        format!("{operator} needs conditions: a comparison, a property, TRUE, FALSE or NULL"),
    ))
}

/// Checks S3 and S4: what stands beside `=` and `<>`.
pub(crate) fn check_equality(left: Operand, right: Operand) -> Result<(), ParseError> {
    for operand in [left, right] {
        if operand.kind == Kind::Null {
            return Err(ParseError::new(
                operand.at,
                "nothing is compared with NULL: write IS NULL or IS NOT NULL",
            ));
        }
    }
    if left.kind == Kind::Boolean && matches!(right.kind, Kind::Number(_) | Kind::String) {
        return Err(ParseError::new(right.at, "TRUE and FALSE are never equal to a number or a string"));
    }
    Ok(())
}

/// Checks S5 and S6: an operand of an ordering or of BETWEEN may have an order.
pub(crate) fn check_order(operand: Operand) -> Result<(), ParseError> {
    if operand.kind.has_order() {
        return Ok(());
    }
    Err(ParseError::new(
        operand.at,
        "only numbers have an order: a number or a property is needed here",
    ))
}

/// Check S7: the bounds of a BETWEEN without NOT, where both are number literals, leave something between them.
pub(crate) fn check_bounds(low: Operand, high: Operand) -> Result<(), ParseError> {
    if let (Kind::Number(low_number), Kind::Number(high_number)) = (low.kind, high.kind)
        && low_number.compare(high_number).is_gt()
    {
        return Err(ParseError::new(
            low.at,
            "the lower bound of BETWEEN is greater than the upper: nothing is between them",
        ));
    }
    Ok(())
}

/// Check S8: what stands before IN is a property.
pub(crate) fn check_property(operand: Operand) -> Result<(), ParseError> {
    if operand.kind == Kind::Property {
        return Ok(());
    }
    Err(ParseError::new(operand.at, "only a property can stand before IN"))
}
