//! Numbers: literals, their types, and one order for all values of a type.

/// The types that a string is converted to when it meets a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NumberType {
    Int32,
    Int64,
    Double,
}

/// The value of a number literal or of its negation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    Int32(i32),
    Int64(i64),
    Double(f64),
}

impl Number {
    /// The literal of these digits: an Int32 where it fits, else an Int64; `None` where it fits neither.
    pub(crate) fn from_digits(digits: &str) -> Option<Self> {
        let value: i64 = digits.parse().ok()?;
        Some(i32::try_from(value).map_or(Number::Int64(value), Number::Int32))
    }

    /// The literal of this text; `None` where it rounds to infinity or to zero.
    pub(crate) fn from_float(text: &str) -> Option<Self> {
        let value = crate::convert::to_double(text.as_bytes())?;
        (value.is_finite() && value != 0.0).then_some(Number::Double(value))
    }

    pub(crate) fn negated(self) -> Self {
        match self {
            Number::Int32(value) => Number::Int32(-value),
            Number::Int64(value) => Number::Int64(-value),
            Number::Double(value) => Number::Double(-value),
        }
    }

    pub(crate) fn number_type(self) -> NumberType {
        match self {
            Number::Int32(_) => NumberType::Int32,
            Number::Int64(_) => NumberType::Int64,
            Number::Double(_) => NumberType::Double,
        }
    }

    /// Its key among the values of its own type: keys compare as the values do.
    pub(crate) fn key(self) -> i64 {
        match self {
            Number::Int32(value) => i64::from(value),
            Number::Int64(value) => value,
            Number::Double(value) => double_key(value),
        }
    }

    /// Compares two numbers: integers exactly, all others as Doubles.
    pub(crate) fn compare(self, other: Number) -> std::cmp::Ordering {
        match (self, other) {
            (Number::Double(_), _) | (_, Number::Double(_)) => double_key(self.to_f64()).cmp(&double_key(other.to_f64())),
            (Number::Int32(_) | Number::Int64(_), Number::Int32(_) | Number::Int64(_)) => self.key().cmp(&other.key()),
        }
    }

    /// The nearest Double, ties to even.
    fn to_f64(self) -> f64 {
        match self {
            Number::Int32(value) => f64::from(value),
            // `as` rounds to the nearest, ties to even.
            Number::Int64(value) => value as f64,
            Number::Double(value) => value,
        }
    }
}

/// A key that orders Doubles as the language does: -Infinity, ..., -0.0, 0.0, ..., Infinity, NaN.
///
/// The bits of a positive Double grow with it; those of a negative one are turned round. Needs the positive NaN
/// of the standard bits, the only one that `convert` makes, to put NaN above all and equal to itself.
#[inline]
pub(crate) fn double_key(value: f64) -> i64 {
    let bits = value.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// The keys from `low` to `high`, both included; none when `low` is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl KeyRange {
    pub(crate) const EMPTY: KeyRange = KeyRange { low: 1, high: 0 };

    pub(crate) fn exactly(key: i64) -> Self {
        KeyRange { low: key, high: key }
    }

    pub(crate) fn at_least(key: i64) -> Self {
        KeyRange { low: key, high: i64::MAX }
    }

    pub(crate) fn at_most(key: i64) -> Self {
        KeyRange { low: i64::MIN, high: key }
    }

    pub(crate) fn above(key: i64) -> Self {
        key.checked_add(1).map_or(KeyRange::EMPTY, KeyRange::at_least)
    }

    pub(crate) fn below(key: i64) -> Self {
        key.checked_sub(1).map_or(KeyRange::EMPTY, KeyRange::at_most)
    }

    pub(crate) fn intersection(self, other: KeyRange) -> Self {
        KeyRange {
            low: self.low.max(other.low),
            high: self.high.min(other.high),
        }
    }

    #[inline]
    pub(crate) fn contains(self, key: i64) -> bool {
        (self.low <= key) & (key <= self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_in_one_total_order() {
        let ordered = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.0,
            -5e-324,
            -0.0,
            0.0,
            5e-324,
            1.0,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ];
        assert!(ordered.windows(2).all(|pair| double_key(pair[0]) < double_key(pair[1])));
        assert_eq!(double_key(f64::NAN), double_key(f64::NAN));
    }

    #[test]
    fn integers_compare_exactly_and_with_doubles_as_doubles() {
        use std::cmp::Ordering::{Equal, Less};
        assert_eq!(Number::Int64(9007199254740992).compare(Number::Int64(9007199254740993)), Less);
        assert_eq!(Number::Int64(9007199254740993).compare(Number::Double(9007199254740992.0)), Equal);
        assert_eq!(Number::Int32(1).compare(Number::Double(1.5)), Less);
    }

    #[test]
    fn literals_have_the_smallest_type() {
        assert_eq!(Number::from_digits("2147483647"), Some(Number::Int32(i32::MAX)));
        assert_eq!(Number::from_digits("2147483648"), Some(Number::Int64(2147483648)));
        assert_eq!(Number::from_digits("9223372036854775808"), None);
        assert_eq!(Number::from_float("1E400"), None);
        assert_eq!(Number::from_float("0.0"), None);
        assert_eq!(Number::from_float("1e-400"), None);
        assert_eq!(Number::from_float(".5e1"), Some(Number::Double(5.0)));
    }

    #[test]
    fn nothing_is_above_the_greatest_key() {
        assert!(!KeyRange::above(i64::MAX).contains(i64::MAX));
        assert!(!KeyRange::below(i64::MIN).contains(i64::MIN));
        assert!(KeyRange::at_least(3).intersection(KeyRange::at_most(3)).contains(3));
        assert!(!KeyRange::at_least(5).intersection(KeyRange::at_most(-5)).contains(0));
    }
}
