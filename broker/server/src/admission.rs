//! Admission: control messages become what the core trusts, or a refusal that says what to change.

use std::collections::HashSet;

use sluice_core::input::{Action, Admin, Consume, NamedBy, Numbers, SeekTo};
use sluice_log::record::{
    Backoff, Filter, GroupSettings, OnExhausted, OnExpired, OnFailure, PluginLimits, Sharing, StartPoint, TopicSettings,
};
use sluice_protocol::control;
use sluice_protocol::errors::{ErrorCode, Refusal};
use sluice_protocol::ids::{QueueIndex, QueueOffset};
use sluice_protocol::limits::{INVISIBLE_MS_MAX, INVISIBLE_MS_MIN, TTL_MS_MAX};
use sluice_protocol::names;

use crate::config::Topics;
use crate::limits;

/// The entries of a back-off table that are accepted.
const BACKOFF_TABLE_MAX: usize = 64;

/// The longest wait before a redelivery that a group may set: what a nack may ask for, and what the core takes.
const BACKOFF_MS_MAX: u64 = INVISIBLE_MS_MAX;

fn bad_setting(text: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::BadSetting, text)
}

fn missing(what: &str) -> Refusal {
    Refusal::new(ErrorCode::MalformedFrame, format!("{what} is missing"))
}

/// The invisible time asked for, or the default when none is.
///
/// # Errors
/// `BadSetting` when it is out of range.
pub(crate) fn invisible_ms(asked: u64, default: u64) -> Result<u64, Refusal> {
    match asked {
        0 => Ok(default),
        INVISIBLE_MS_MIN..=INVISIBLE_MS_MAX => Ok(asked),
        _ => Err(bad_setting(format!(
            "an invisible time of {asked} ms is out of range: {INVISIBLE_MS_MIN} to {INVISIBLE_MS_MAX} ms"
        ))),
    }
}

/// Who wants which messages: names checked, the member's name defaulting to the client's.
///
/// # Errors
/// `BadName`, `ReservedName` for a group, `MalformedFrame`.
pub(crate) fn consume(
    topic: String,
    group: String,
    member: String,
    filter: Option<control::Filter>,
    start: Option<control::StartPoint>,
    client: &str,
) -> Result<Consume, Refusal> {
    names::owner(&topic)?;
    names::check_user_name(&group)?;
    let (member, named_by) = match member.is_empty() {
        true => (client.to_owned(), NamedBy::Client),
        false => (member, NamedBy::Member),
    };
    check_member(&member)?;
    Ok(Consume {
        group,
        topic,
        member,
        named_by,
        filter: self::filter(filter)?,
        start: start.map(start_point).transpose()?,
    })
}

/// Checks the name of a member or client: 1 to 128 bytes without control characters.
///
/// # Errors
/// `BadName`.
pub(crate) fn check_member(name: &str) -> Result<(), Refusal> {
    if name.is_empty() || name.len() > limits::CLIENT_NAME_BYTES_MAX || name.chars().any(char::is_control) {
        let text = format!(
            "the name of a client or member has 1 to {} bytes and no control characters",
            limits::CLIENT_NAME_BYTES_MAX
        );
        return Err(Refusal::new(ErrorCode::BadName, text));
    }
    Ok(())
}

/// What is asked of a message.
///
/// # Errors
/// `NoSuchPlugin` for an expression alone, `BadName`.
pub(crate) fn filter(filter: Option<control::Filter>) -> Result<Filter, Refusal> {
    match filter {
        None => Ok(Filter::All),
        Some(control::Filter { plugin, expression }) if plugin.is_empty() => match expression.is_empty() {
            true => Ok(Filter::All),
            false => Err(Refusal::new(
                ErrorCode::NoSuchPlugin,
                "an expression needs the name of the plugin that reads it",
            )),
        },
        Some(control::Filter { plugin, expression }) => {
            names::check_user_name(&plugin)?;
            Ok(Filter::Plugin { plugin, expression })
        }
    }
}

fn start_point(start: control::StartPoint) -> Result<StartPoint, Refusal> {
    match start.at.ok_or_else(|| missing("the start point"))? {
        control::start_point::At::Earliest(_) => Ok(StartPoint::Earliest),
        control::start_point::At::Latest(_) => Ok(StartPoint::Latest),
        control::start_point::At::WallMs(wall_ms) => Ok(StartPoint::Time { wall_ms }),
    }
}

/// What is to become of leased messages.
///
/// # Errors
/// `MalformedFrame` without an action, `BadSetting` when a time is out of range.
pub(crate) fn action(action: Option<control::Action>) -> Result<Action, Refusal> {
    match action.and_then(|action| action.kind).ok_or_else(|| missing("the action"))? {
        control::action::Kind::Ack(_) => Ok(Action::Ack),
        control::action::Kind::Nack(control::Nack { by_group: true, .. }) => Ok(Action::Nack { delay_ms: None }),
        control::action::Kind::Nack(control::Nack { by_group: false, delay_ms }) => {
            if delay_ms > limits::NACK_DELAY_MS_MAX {
                return Err(bad_setting(format!(
                    "a delay of {delay_ms} ms is longer than {} ms",
                    limits::NACK_DELAY_MS_MAX
                )));
            }
            Ok(Action::Nack { delay_ms: Some(delay_ms) })
        }
        control::action::Kind::ExtendMs(asked) => {
            if asked == 0 {
                return Err(bad_setting(
                    "an extension by 0 ms is none; nack the message to have it delivered again",
                ));
            }
            Ok(Action::Extend {
                invisible_ms: invisible_ms(asked, asked)?,
            })
        }
    }
}

/// Which deliveries a settlement means.
///
/// # Errors
/// `MalformedFrame` when it names none or both ways, `LimitExceeded` when it names too many.
pub(crate) fn numbers(up_to: u64, each: Vec<u64>) -> Result<Numbers, Refusal> {
    match (up_to, each.len()) {
        (0, 0) => Err(missing("the number of a delivery")),
        (0, 1..=limits::SETTLE_MAX) => Ok(Numbers::Each(each)),
        (0, count) => {
            let text = format!("{count} numbers in one settlement are more than {}", limits::SETTLE_MAX);
            Err(Refusal::new(ErrorCode::LimitExceeded, text))
        }
        (up_to, 0) => Ok(Numbers::UpTo(up_to)),
        (_, _) => Err(Refusal::new(
            ErrorCode::MalformedFrame,
            "a settlement is either cumulative or names single numbers",
        )),
    }
}

/// The number of a queue.
///
/// # Errors
/// `NoSuchQueue` when no topic can have it.
pub(crate) fn queue_index(queue: u32) -> Result<QueueIndex, Refusal> {
    u16::try_from(queue)
        .map(QueueIndex)
        .map_err(|_| Refusal::plain(ErrorCode::NoSuchQueue))
}

/// The settings of a new topic; what is not given takes the broker's default.
///
/// # Errors
/// `BadSetting`.
pub(crate) fn topic_settings(settings: Option<control::TopicSettings>, defaults: &Topics) -> Result<TopicSettings, Refusal> {
    let Some(settings) = settings else {
        return Ok(TopicSettings {
            queues: defaults.queues,
            retention_ms: defaults.retention_ms,
            retention_bytes: defaults.retention_bytes,
            ttl_ms: 0,
            on_expired: OnExpired::Skip,
        });
    };
    let queues = match settings.queues {
        0 => defaults.queues,
        1..=1_024 => settings.queues as u16,
        more => return Err(bad_setting(format!("a topic has 1 to 1024 queues, not {more}"))),
    };
    if settings.ttl_ms > TTL_MS_MAX {
        let text = format!("messages live {TTL_MS_MAX} ms at most, not {}", settings.ttl_ms);
        return Err(bad_setting(text));
    }
    Ok(TopicSettings {
        queues,
        retention_ms: settings.retention_ms,
        retention_bytes: settings.retention_bytes,
        ttl_ms: settings.ttl_ms,
        on_expired: if settings.dead_letter_expired {
            OnExpired::DeadLetter
        } else {
            OnExpired::Skip
        },
    })
}

/// The settings of a new group; what is not given takes the defaults of `defaults`.
///
/// # Errors
/// `BadSetting`.
pub(crate) fn group_settings(settings: Option<control::GroupSettings>, defaults: GroupSettings) -> Result<GroupSettings, Refusal> {
    let Some(settings) = settings else { return Ok(defaults) };
    let attempts_max = match settings.attempts_max {
        0 => defaults.attempts_max,
        1..=1_000 => settings.attempts_max as u16,
        more => return Err(bad_setting(format!("a group makes 1 to 1000 attempts, not {more}"))),
    };
    let backoff = settings.backoff.map_or(Ok(defaults.backoff), backoff)?;
    let sharing = match settings.broadcast {
        true => Sharing::Broadcast,
        false => Sharing::Shared,
    };
    // A member of a broadcast group begins at the end whatever the default is; the core refuses what says otherwise.
    let default_start = match sharing {
        Sharing::Broadcast => StartPoint::Latest,
        Sharing::Shared | Sharing::MemberOf(_) => defaults.start,
    };
    let start = settings.start.map_or(Ok(default_start), start_point)?;
    let oldest_every = match settings.oldest_every {
        0 => defaults.oldest_every,
        1 => 0,
        2..=255 => settings.oldest_every as u8,
        more => {
            return Err(bad_setting(format!(
                "the longest waiting has its turn once in 2 to 255 deliveries, not {more}"
            )));
        }
    };
    Ok(GroupSettings {
        attempts_max,
        backoff,
        start,
        ordered: settings.ordered,
        on_exhausted: match settings.hold_exhausted {
            true => OnExhausted::Hold,
            false => OnExhausted::DeadLetter,
        },
        oldest_every,
        sharing,
    })
}

fn backoff(backoff: control::Backoff) -> Result<Backoff, Refusal> {
    let within = |ms: u64| match ms <= BACKOFF_MS_MAX {
        true => Ok(ms),
        false => Err(bad_setting(format!("a back-off of {ms} ms is longer than {BACKOFF_MS_MAX} ms"))),
    };
    match backoff.kind.ok_or_else(|| missing("the kind of back-off"))? {
        control::backoff::Kind::Table(control::backoff::Table { waits_ms }) => {
            if waits_ms.is_empty() || waits_ms.len() > BACKOFF_TABLE_MAX {
                return Err(bad_setting(format!(
                    "a back-off table has 1 to {BACKOFF_TABLE_MAX} entries, not {}",
                    waits_ms.len()
                )));
            }
            Ok(Backoff::Table {
                waits_ms: waits_ms.into_iter().map(within).collect::<Result<_, _>>()?,
            })
        }
        control::backoff::Kind::Exponential(control::backoff::Exponential { first_ms, max_ms }) => {
            if first_ms == 0 || first_ms > max_ms {
                return Err(bad_setting(
                    "an exponential back-off begins above 0 ms and at most at its longest wait",
                ));
            }
            Ok(Backoff::Exponential {
                first_ms,
                max_ms: within(max_ms)?,
            })
        }
        control::backoff::Kind::FixedMs(wait_ms) => Ok(Backoff::Fixed { wait_ms: within(wait_ms)? }),
    }
}

/// A seek.
///
/// # Errors
/// `BadName`, `NoSuchQueue`, `MalformedFrame`.
pub(crate) fn seek(seek: control::Seek) -> Result<Admin, Refusal> {
    names::owner(&seek.topic)?;
    names::check_group(&seek.group)?;
    let queue = seek.one_queue.then(|| queue_index(seek.queue)).transpose()?;
    let to = match seek.to.ok_or_else(|| missing("the place to seek"))? {
        control::seek::To::Earliest(_) => SeekTo::Earliest,
        control::seek::To::Latest(_) => SeekTo::Latest,
        control::seek::To::Offset(offset) => SeekTo::Offset(QueueOffset(offset)),
        control::seek::To::WallMs(wall_ms) => SeekTo::Time { wall_ms },
    };
    Ok(Admin::Seek {
        group: seek.group,
        topic: seek.topic,
        queue,
        to,
    })
}

/// The limits of a binding; what is 0 or not given takes the default.
///
/// # Errors
/// `BadSetting` when one is beyond what any plugin may have.
pub(crate) fn plugin_limits(limits: Option<control::PluginLimits>, defaults: PluginLimits) -> Result<PluginLimits, Refusal> {
    let Some(asked) = limits else { return Ok(defaults) };
    let or = |asked: u64, default: u64, max: u64, what: &str| match asked {
        0 => Ok(default),
        asked if asked <= max => Ok(asked),
        asked => Err(bad_setting(format!("{what} = {asked} is more than {max}"))),
    };
    let run_ms = or(asked.run_ms.into(), defaults.run_ms.into(), 60_000, "run_ms")?;
    Ok(PluginLimits {
        fuel_per_run: or(asked.fuel_per_run, defaults.fuel_per_run, 1 << 40, "fuel_per_run")?,
        fuel_per_message: or(asked.fuel_per_message, defaults.fuel_per_message, 1 << 40, "fuel_per_message")?,
        run_ms: u32::try_from(run_ms).expect("run_ms is at most 60,000 or the default, which is a u32"),
        memory_bytes: or(asked.memory_bytes, defaults.memory_bytes, 256 << 20, "memory_bytes")?,
    })
}

/// What becomes of the messages that a plugin fails on.
///
/// # Errors
/// `BadSetting` for what this broker does not know.
pub(crate) fn on_failure(asked: i32) -> Result<OnFailure, Refusal> {
    match control::OnFailure::try_from(asked) {
        Ok(control::OnFailure::DeadLetter) => Ok(OnFailure::DeadLetter),
        Ok(control::OnFailure::Hold) => Ok(OnFailure::Hold),
        Ok(control::OnFailure::Deliver) => Ok(OnFailure::Deliver),
        Ok(control::OnFailure::Skip) => Ok(OnFailure::Skip),
        Err(_) => Err(bad_setting(format!("on_failure = {asked} is not known"))),
    }
}

/// Refuses a list of handles that is empty, too long or names one twice.
///
/// # Errors
/// `MalformedFrame`, `LimitExceeded`.
pub(crate) fn handles(handles: &[bytes::Bytes]) -> Result<(), Refusal> {
    if handles.is_empty() {
        return Err(missing("a receipt handle"));
    }
    if handles.len() > limits::SETTLE_MAX {
        let text = format!("{} handles in one settlement are more than {}", handles.len(), limits::SETTLE_MAX);
        return Err(Refusal::new(ErrorCode::LimitExceeded, text));
    }
    let mut seen = HashSet::with_capacity(handles.len());
    match handles.iter().all(|handle| seen.insert(handle)) {
        true => Ok(()),
        false => Err(Refusal::new(ErrorCode::BadHandle, "a receipt handle is given twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invisible_time_of_zero_takes_the_default() {
        assert_eq!(invisible_ms(0, 900_000), Ok(900_000));
        assert_eq!(invisible_ms(5_000, 900_000), Ok(5_000));
        assert_eq!(invisible_ms(1, 900_000).unwrap_err().code, ErrorCode::BadSetting);
    }

    #[test]
    fn a_settlement_names_its_messages_in_one_way() {
        assert_eq!(numbers(7, vec![]), Ok(Numbers::UpTo(7)));
        assert_eq!(numbers(0, vec![3]), Ok(Numbers::Each(vec![3])));
        assert_eq!(numbers(0, vec![]).unwrap_err().code, ErrorCode::MalformedFrame);
        assert_eq!(numbers(7, vec![3]).unwrap_err().code, ErrorCode::MalformedFrame);
        assert_eq!(
            numbers(0, vec![1; limits::SETTLE_MAX + 1]).unwrap_err().code,
            ErrorCode::LimitExceeded
        );
    }

    #[test]
    fn a_consumer_without_a_member_name_takes_the_clients() {
        let ask = consume("t".into(), "g".into(), String::new(), None, None, "client").unwrap();
        assert_eq!(
            (ask.member.as_str(), ask.named_by, ask.filter),
            ("client", NamedBy::Client, Filter::All)
        );
        assert_eq!(
            consume("t".into(), "%DLQ%g".into(), "m".into(), None, None, "c").unwrap_err().code,
            ErrorCode::ReservedName
        );
    }

    #[test]
    fn a_topic_takes_the_defaults_where_nothing_is_said() {
        let settings = topic_settings(None, &Topics::default()).unwrap();
        assert_eq!((settings.queues, settings.retention_ms), (4, 72 * 3_600_000));
        let many = control::TopicSettings {
            queues: 1_025,
            ..Default::default()
        };
        assert_eq!(
            topic_settings(Some(many), &Topics::default()).unwrap_err().code,
            ErrorCode::BadSetting
        );
    }

    #[test]
    fn a_back_off_table_cannot_be_empty() {
        let kind = Some(control::backoff::Kind::Table(control::backoff::Table { waits_ms: vec![] }));
        assert_eq!(backoff(control::Backoff { kind }).unwrap_err().code, ErrorCode::BadSetting);
    }
}
