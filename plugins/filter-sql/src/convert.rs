//! Turns the text of a property into a number or a truth value, exactly.
//!
//! The rules are those of Java's `Integer.parseInt`, `Long.parseLong` and `Double.parseDouble`, as docs/sql.md
//! spells them out. What most messages hold, plain ASCII digits, is converted without leaving the first function.

use crate::number::{NumberType, double_key};

/// The first characters of the runs of ten decimal digits (general category Nd) in the Basic Multilingual Plane.
const DIGIT_ZEROS: [u16; 37] = [
    0x0030, 0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66, 0x0DE6, 0x0E50, 0x0ED0, 0x0F20,
    0x1040, 0x1090, 0x17E0, 0x1810, 0x1946, 0x19D0, 0x1A80, 0x1A90, 0x1B50, 0x1BB0, 0x1C40, 0x1C50, 0xA620, 0xA8D0, 0xA900, 0xA9D0, 0xA9F0,
    0xAA50, 0xABF0, 0xFF10,
];

/// Powers of ten that are Doubles exactly.
const EXACT_POWERS: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// Significant digits whose number is below 2^53, so that it is a Double exactly.
const EXACT_DIGITS: usize = 15;

/// The most digits that cannot overflow an i64.
const SAFE_DIGITS: usize = 18;

/// The text converted to a type, as its key among the values of that type; `None` where it does not convert.
pub(crate) fn to_key(text: &[u8], number_type: NumberType) -> Option<i64> {
    match number_type {
        NumberType::Int32 => to_int32(text).map(i64::from),
        NumberType::Int64 => to_int64(text),
        NumberType::Double => to_double(text).map(double_key),
    }
}

/// Whether the text says `true`, in any ASCII case. Every text is one or the other.
#[inline]
pub(crate) fn to_boolean(text: &[u8]) -> bool {
    text.eq_ignore_ascii_case(b"true")
}

/// The text as an Int32; `None` where it is none.
#[inline]
pub(crate) fn to_int32(text: &[u8]) -> Option<i32> {
    to_int64(text).and_then(|value| i32::try_from(value).ok())
}

/// The text as an Int64; `None` where it is none.
#[inline]
pub(crate) fn to_int64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = signed(text);
    if digits.is_empty() {
        return None;
    }
    if digits.len() <= SAFE_DIGITS {
        let mut value = 0_i64;
        let mut all_plain = true;
        for &byte in digits {
            let digit = byte.wrapping_sub(b'0');
            all_plain &= digit < 10;
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
        }
        if all_plain {
            return Some(if negative { -value } else { value });
        }
    }
    to_int64_slowly(negative, digits)
}

/// Digits of any script, leading zeros, the ends of the range.
#[cold]
fn to_int64_slowly(negative: bool, digits: &[u8]) -> Option<i64> {
    let mut value = 0_i64;
    for character in std::str::from_utf8(digits).ok()?.chars() {
        let digit = i64::from(digit_value(character)?);
        // Downwards, because the least value has no positive counterpart.
        value = value.checked_mul(10)?.checked_sub(digit)?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

fn digit_value(character: char) -> Option<u8> {
    let code = u16::try_from(u32::from(character)).ok()?;
    let run = DIGIT_ZEROS.partition_point(|&zero| zero <= code).checked_sub(1)?;
    u8::try_from(code - DIGIT_ZEROS[run]).ok().filter(|&value| value < 10)
}

/// A sign and what follows it.
#[inline]
fn signed(text: &[u8]) -> (bool, &[u8]) {
    match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    }
}

/// The text as a Double: the nearest, ties to even; `None` where it is none. A NaN has the standard positive bits.
#[inline]
pub(crate) fn to_double(text: &[u8]) -> Option<f64> {
    let (negative, rest) = signed(text);
    // One digit more for the point, which is not counted as a digit.
    if rest.len() > EXACT_DIGITS + 1 {
        return to_double_slowly(text);
    }
    let mut value = 0_u64;
    let mut point = None;
    for (place, &byte) in rest.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            value = value * 10 + u64::from(digit);
        } else if byte == b'.' && point.is_none() {
            point = Some(place);
        } else {
            return to_double_slowly(text);
        }
    }
    let (digits, decimals) = point.map_or((rest.len(), 0), |place| (rest.len() - 1, rest.len() - 1 - place));
    if digits == 0 || digits > EXACT_DIGITS {
        return to_double_slowly(text);
    }
    // Both are Doubles exactly, so the one rounding of the division is the rounding of the whole.
    let magnitude = value as f64 / EXACT_POWERS[decimals];
    Some(if negative { -magnitude } else { magnitude })
}

/// Every form there is.
#[cold]
fn to_double_slowly(text: &[u8]) -> Option<f64> {
    let (negative, rest) = signed(trimmed(text));
    let magnitude = match rest {
        b"NaN" => return Some(f64::NAN),
        b"Infinity" => f64::INFINITY,
        [b'0', b'x' | b'X', hex @ ..] => hexadecimal(without_suffix(hex))?,
        decimal_text => decimal(without_suffix(decimal_text))?,
    };
    Some(if negative { -magnitude } else { magnitude })
}

fn without_suffix(text: &[u8]) -> &[u8] {
    match text {
        [rest @ .., b'f' | b'F' | b'd' | b'D'] => rest,
        rest => rest,
    }
}

/// Without the characters from U+0000 to U+0020 at both ends.
fn trimmed(text: &[u8]) -> &[u8] {
    let from = text.iter().position(|&byte| byte > b' ').unwrap_or(text.len());
    let to = text.iter().rposition(|&byte| byte > b' ').map_or(from, |last| last + 1);
    &text[from..to]
}

/// The digits at the front, by a test for one digit, and what follows them.
fn split_digits(text: &[u8], is_digit: fn(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|byte| !is_digit(byte)).unwrap_or(text.len()))
}

/// Digits around a point, of which one at least is there: whole, fraction, and what follows.
fn split_number(text: &[u8], is_digit: fn(&u8) -> bool) -> Option<(&[u8], &[u8], &[u8])> {
    let (whole, rest) = split_digits(text, is_digit);
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => split_digits(rest, is_digit),
        rest => (&rest[..0], rest),
    };
    (!whole.is_empty() || !fraction.is_empty()).then_some((whole, fraction, rest))
}

/// A signed whole number of any length; beyond the bound, where the outcome is long decided, it stays at the bound.
fn exponent(text: &[u8]) -> Option<i64> {
    const BOUND: i64 = 1 << 40;
    let (negative, digits) = signed(text);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits
        .iter()
        .fold(0, |value, &byte| (value * 10 + i64::from(byte - b'0')).min(BOUND));
    Some(if negative { -value } else { value })
}

/// A decimal form without sign and suffix.
fn decimal(text: &[u8]) -> Option<f64> {
    let (whole, fraction, rest) = split_number(text, u8::is_ascii_digit)?;
    let exponent = match rest {
        [] => 0,
        [b'e' | b'E', rest @ ..] => exponent(rest)?,
        _ => return None,
    };
    let mut digits: Vec<u8> = [whole, fraction].concat();
    let zeros = digits.iter().position(|&byte| byte != b'0').unwrap_or(digits.len());
    digits.drain(..zeros);
    if digits.is_empty() {
        return Some(0.0);
    }
    // The value is 0.DIGITS x 10^magnitude. The standard parser is exact, but not for exponents of many digits.
    let magnitude = exponent + place(whole.len()) - place(zeros);
    match magnitude {
        i64::MIN..-400 => Some(0.0),
        -400..=400 => {
            let digits = String::from_utf8(digits).expect("they are ASCII digits");
            format!("0.{digits}e{magnitude}").parse().ok()
        }
        401.. => Some(f64::INFINITY),
    }
}

fn place(length: usize) -> i64 {
    i64::try_from(length).expect("a text is shorter than 2^63 bytes")
}

/// A hexadecimal form without sign, `0x` and suffix.
fn hexadecimal(text: &[u8]) -> Option<f64> {
    let (whole, fraction, rest) = split_number(text, u8::is_ascii_hexdigit)?;
    let [b'p' | b'P', rest @ ..] = rest else { return None };
    // The value is mantissa x 2^scale and, when there are lost bits, a little more.
    let mut scale = exponent(rest)? - 4 * place(fraction.len());
    let (mut mantissa, mut lost) = (0_u64, false);
    for &byte in whole.iter().chain(fraction) {
        let digit = char::from(byte).to_digit(16).expect("only hexadecimal digits were split off");
        if mantissa >> 60 == 0 {
            mantissa = mantissa << 4 | u64::from(digit);
        } else {
            scale += 4;
            lost |= digit != 0;
        }
    }
    Some(scaled(mantissa, scale, lost))
}

/// The Double nearest to (mantissa, and a little more when bits were lost) x 2^scale, ties to even.
fn scaled(mantissa: u64, scale: i64, lost: bool) -> f64 {
    if mantissa == 0 {
        return 0.0;
    }
    let shift = i64::from(mantissa.leading_zeros());
    let mantissa = mantissa << shift;
    // The value is 1.xxx x 2^exponent.
    let exponent = scale - shift + 63;
    if exponent > 1023 {
        return f64::INFINITY;
    }
    if exponent < -1075 {
        return 0.0;
    }
    // Normal numbers keep 53 bits, subnormal ones fewer; at -1075 the whole mantissa is beyond the point.
    let dropped = if exponent >= -1022 { 11 } else { 11 + (-1022 - exponent) };
    let wide = u128::from(mantissa);
    let kept = wide >> dropped;
    let remainder = wide & ((1 << dropped) - 1);
    let half = 1_u128 << (dropped - 1);
    let up = remainder > half || (remainder == half && (lost || kept & 1 == 1));
    let kept = u64::try_from(kept).expect("53 bits at most") + u64::from(up);
    // A carry out of the fraction goes on into the exponent, as it should, up to infinity.
    let biased = if exponent >= -1022 {
        u64::try_from(exponent + 1022).expect("it is not negative")
    } else {
        0
    };
    f64::from_bits((biased << 52) + kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers_are_what_java_parses() {
        assert_eq!(to_int32(b"+007"), Some(7));
        assert_eq!(to_int32(b"-2147483648"), Some(i32::MIN));
        assert_eq!(to_int32(b"2147483648"), None);
        assert_eq!(to_int64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(to_int64(b"9223372036854775807"), Some(i64::MAX));
        assert_eq!(to_int64(b"9223372036854775808"), None);
        assert_eq!(to_int64(b"00000000000000000000000000000000000000009"), Some(9));
        assert_eq!(to_int32("\u{ff11}\u{0662}3".as_bytes()), Some(123));
        for text in [
            "",
            "+",
            "-",
            "+-1",
            " 1",
            "1 ",
            "1.0",
            "1_0",
            "1L",
            "\u{1d7d0}",
            "\u{b2}",
            "\u{ff0b}1",
        ] {
            assert_eq!(to_int64(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn every_run_of_digits_counts_from_nought_to_nine() {
        for zero in DIGIT_ZEROS {
            for value in 0..10_u8 {
                let character = char::from_u32(u32::from(zero) + u32::from(value)).expect("no run holds surrogates");
                assert_eq!(digit_value(character), Some(value));
            }
        }
    }

    #[test]
    fn doubles_are_what_java_parses() {
        for (text, value) in [
            ("1", 1.0),
            ("-.5", -0.5),
            ("5.", 5.0),
            ("\u{0}\t 2 \n", 2.0),
            ("2d", 2.0),
            ("1e3F", 1000.0),
            ("0x1p4", 16.0),
            ("0X.8P1d", 1.0),
            ("0xA.p0", 10.0),
            ("0x1p-1074", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.8p-1075", 5e-324),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000001p0", 1.0 + f64::EPSILON),
            ("0x1.fffffffffffffp1023", f64::MAX),
            ("0x1.fffffffffffff8p1023", f64::INFINITY),
            ("0x0.fffffffffffff8p-1022", f64::MIN_POSITIVE),
            ("0x1p99999999999999999999", f64::INFINITY),
            ("0x0p99999999999999999999", 0.0),
            ("1e999", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("1e99999999999999999999", f64::INFINITY),
            ("0e99999999999999999999", 0.0),
            ("1e-99999999999999999999", 0.0),
            ("9007199254740993", 9007199254740992.0),
            ("9007199254740993.0000000000000000000000000000000000000001", 9007199254740994.0),
            ("123456789012345.", 123456789012345.0),
            (".123456789012345", 0.123456789012345),
            ("0.1", 0.1),
        ] {
            assert_eq!(to_double(text.as_bytes()), Some(value), "{text}");
        }
        assert_eq!(to_double(b"-0").map(f64::to_bits), Some((-0.0_f64).to_bits()));
        assert_eq!(to_double(b"-1e-999").map(f64::to_bits), Some((-0.0_f64).to_bits()));
        assert_eq!(to_double(b"-NaN").map(f64::to_bits), Some(f64::NAN.to_bits()));
        for text in [
            "",
            ".",
            "+",
            " ",
            "nan",
            "inf",
            "NaNd",
            "Infinityf",
            "1e",
            "1e+",
            "1ff",
            "0x1",
            "0xp4",
            "0x.p1",
            "1_0",
            "1 2",
            "\u{ff11}",
            "1..",
            "d",
            "- 1",
        ] {
            assert_eq!(to_double(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn a_million_zeros_do_not_move_the_point() {
        let zeros = "0".repeat(1_000_000);
        assert_eq!(to_double(format!("0.{zeros}1e1000001").as_bytes()), Some(1.0));
        assert_eq!(to_double(format!("1{zeros}e-1000000").as_bytes()), Some(1.0));
    }

    proptest! {
        #[test]
        fn plain_decimals_are_what_the_standard_parser_finds(text in "[-+]?[0-9]{0,18}\\.?[0-9]{0,18}") {
            prop_assert_eq!(to_double(text.as_bytes()), text.parse::<f64>().ok());
        }

        #[test]
        fn a_hexadecimal_integer_is_rounded_as_a_cast_rounds(value: u64) {
            prop_assert_eq!(to_double(format!("0x{value:x}p0").as_bytes()), Some(value as f64));
        }

        #[test]
        fn integers_are_what_the_standard_parser_finds(text in "[-+]?[0-9]{1,20}") {
            prop_assert_eq!(to_int64(text.as_bytes()), text.parse::<i64>().ok());
        }
    }
}
