//! The back-off and the start point of a group as people write and read them.

use sluice_client::admin::{Backoff, GroupSettings};
use sluice_protocol::control::{StartPoint, backoff, start_point};

use crate::times;

/// Reads a back-off: `5s` is always the same wait, `1s,5s,10s` a table whose last wait holds for all that follow, `1s..1m` doubles from the
/// first to the second.
pub(crate) fn backoff(text: &str) -> Result<Backoff, String> {
    let kind = match (text.split_once(".."), text.contains(',')) {
        (Some((first, max)), _) => backoff::Kind::Exponential(backoff::Exponential {
            first_ms: wait_ms(first)?,
            max_ms: wait_ms(max)?,
        }),
        (None, true) => {
            let waits_ms = text.split(',').map(wait_ms).collect::<Result<_, _>>()?;
            backoff::Kind::Table(backoff::Table { waits_ms })
        }
        (None, false) => backoff::Kind::FixedMs(wait_ms(text)?),
    };
    if let backoff::Kind::Exponential(backoff::Exponential { first_ms, max_ms }) = kind
        && first_ms > max_ms
    {
        return Err("the first wait is longer than the last".to_owned());
    }
    Ok(Backoff { kind: Some(kind) })
}

/// Reads a start point: `earliest`, `latest`, or a time.
pub(crate) fn start(text: &str) -> Result<StartPoint, String> {
    let at = match text {
        "earliest" => start_point::At::Earliest(true),
        "latest" => start_point::At::Latest(true),
        time => start_point::At::WallMs(
            times::time(time)
                .map_err(|_| "give earliest, latest, milliseconds since 1970, or a time before now such as -15m".to_owned())?,
        ),
    };
    Ok(StartPoint { at: Some(at) })
}

fn wait_ms(text: &str) -> Result<u64, String> {
    times::duration(text).map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX))
}

/// A group's back-off, in the form in which it is given.
pub(crate) fn backoff_text(settings: Option<&GroupSettings>) -> String {
    let shown = |wait_ms: &u64| times::duration_text(*wait_ms);
    match settings.and_then(|settings| settings.backoff.as_ref()?.kind.as_ref()) {
        None => "none".to_owned(),
        Some(backoff::Kind::FixedMs(wait_ms)) => shown(wait_ms),
        Some(backoff::Kind::Table(backoff::Table { waits_ms })) => waits_ms.iter().map(shown).collect::<Vec<_>>().join(","),
        Some(backoff::Kind::Exponential(backoff::Exponential { first_ms, max_ms })) => format!("{}..{}", shown(first_ms), shown(max_ms)),
    }
}

/// Where a group begins in a topic that it reads for the first time.
pub(crate) fn start_text(settings: Option<&GroupSettings>) -> String {
    match settings.and_then(|settings| settings.start.as_ref()?.at.as_ref()) {
        None | Some(start_point::At::Earliest(_)) => "earliest".to_owned(),
        Some(start_point::At::Latest(_)) => "latest".to_owned(),
        Some(start_point::At::WallMs(wall_ms)) => times::shown(*wall_ms),
    }
}

/// Reads how often the message that has waited longest has its turn.
pub(super) fn oldest_every(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(every @ (0 | 2..=255)) => Ok(every),
        Ok(_) | Err(_) => Err("a number from 2 to 255, or 0 for none".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_back_off_is_shown_as_it_is_given() {
        for text in ["5s", "250ms", "1s,5s,10s,30s,1m,2h", "100ms..1m", "1d"] {
            let settings = GroupSettings {
                attempts_max: 1,
                backoff: Some(backoff(text).expect("a back-off")),
                ..GroupSettings::default()
            };
            assert_eq!(backoff_text(Some(&settings)), text);
        }
        for text in ["", "5", "5s,", "2s..1s", "1s..", "a,b"] {
            assert!(backoff(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_group_starts_at_either_end_or_at_a_time() {
        let shown = |text| {
            let settings = GroupSettings {
                start: Some(start(text).expect("a start")),
                ..GroupSettings::default()
            };
            start_text(Some(&settings))
        };
        assert_eq!((shown("earliest"), shown("latest")), ("earliest".to_owned(), "latest".to_owned()));
        assert_eq!(shown("951827696789"), "2000-02-29 12:34:56.789Z");
        assert!(start("soon").is_err());
    }
}
