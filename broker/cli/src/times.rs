//! Times as people write and read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A wall-clock time as `2001-01-31 23:59:59.123Z`. The calendar is the proleptic Gregorian one (Howard Hinnant, "chrono-compatible
/// low-level date algorithms", civil_from_days).
pub(crate) fn shown(wall_ms: i64) -> String {
    let (days, in_day) = (wall_ms.div_euclid(86_400_000), wall_ms.rem_euclid(86_400_000));
    let since = days + 719_468;
    let era = since.div_euclid(146_097);
    let day_of_era = since.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, millis) = (in_day / 1_000, in_day % 1_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The wall clock, milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// Reads a duration: a whole number with one of `ms`, `s`, `m`, `h`, `d` behind it.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err("give a whole number and its unit: 500ms, 30s, 15m, 12h, 3d".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "give a whole number and its unit: 500ms, 30s, 15m, 12h, 3d".to_owned())?;
    number
        .checked_mul(unit_ms)
        .map(Duration::from_millis)
        .ok_or_else(|| "the duration is too long".to_owned())
}

/// Reads a duration that is not 0.
pub(crate) fn lifetime(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("give a time to live of 1ms or more, or none".to_owned()),
        lifetime => Ok(lifetime),
    }
}

/// A wait in the form in which [`duration`] reads it, in the largest unit that tells it exactly.
pub(crate) fn duration_text(wait_ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let whole = units
        .into_iter()
        .find(|(unit_ms, _)| wait_ms > 0 && wait_ms.is_multiple_of(*unit_ms));
    match whole {
        Some((unit_ms, unit)) => format!("{}{unit}", wait_ms / unit_ms),
        None => format!("{wait_ms}ms"),
    }
}

/// Reads a time: milliseconds since 1970, or a duration before now, such as `-15m`.
pub(crate) fn time(text: &str) -> Result<i64, String> {
    match text.strip_prefix('-') {
        Some(ago) => Ok(now_ms().saturating_sub(i64::try_from(duration(ago)?.as_millis()).unwrap_or(i64::MAX))),
        None => text
            .parse()
            .map_err(|_| "give milliseconds since 1970, or a time before now such as -15m".to_owned()),
    }
}

/// Reads a time: milliseconds since 1970, or a duration from now, such as `+15m`.
pub(crate) fn time_ahead(text: &str) -> Result<i64, String> {
    match text.strip_prefix('+') {
        Some(ahead) => Ok(now_ms().saturating_add(i64::try_from(duration(ahead)?.as_millis()).unwrap_or(i64::MAX))),
        None => text
            .parse()
            .map_err(|_| "give milliseconds since 1970, or a time from now such as +15m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        assert_eq!(shown(0), "1970-01-01 00:00:00.000Z");
        assert_eq!(shown(951_827_696_789), "2000-02-29 12:34:56.789Z");
        assert_eq!(shown(-1), "1969-12-31 23:59:59.999Z");
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert!(duration("15").is_err() && duration("m").is_err() && duration("99999999999999999d").is_err());
    }
}
