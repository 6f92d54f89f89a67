//! `sluice message explain`: what became of one message for one group, as one object or a few lines.

mod history;

use serde_json::{Map, Value, json};
use sluice_client::admin::{DeadLetter, Evaluation, Explanation};
use sluice_protocol::control::explanation::{Step, waiting::What};
use sluice_protocol::control::{Column, Verdict, column};

use crate::group::leases::reason;
use crate::message::hex;
use crate::times;

/// The step that decided: its name for programs, the same for people, and what there is to know of it.
struct Told {
    step: &'static str,
    why: String,
    details: Value,
}

/// An explanation as one JSON object.
pub(crate) fn to_json(id: &str, group: &str, explanation: &Explanation) -> Value {
    let told = told(group, explanation);
    let mut json = json!({ "id": id, "group": group, "step": told.step, "why": told.why, "details": told.details });
    if !explanation.topic.is_empty() {
        json["topic"] = json!(explanation.topic);
        if !waits_outside(explanation) {
            json["queue"] = json!(explanation.queue);
            json["offset"] = json!(explanation.offset);
        }
        // Of what waits in a file of the calendar it is not known.
        if explanation.stored_wall_ms > 0 {
            json["stored_ms"] = json!(explanation.stored_wall_ms);
        }
    }
    if explanation.pass > 0 {
        json["pass"] = json!(explanation.pass);
    }
    if let Some(evaluation) = &explanation.evaluation {
        json["filter"] = filter_json(evaluation);
    }
    if let Some(letter) = &explanation.dead_letter {
        json["dead_letter"] = json!({
            "topic": dead_letters(group), "offset": letter.offset, "stored_ms": letter.stored_wall_ms, "attempts": letter.attempts,
            "reason": letter.reason, "plugin": (!letter.plugin.is_empty()).then_some(&letter.plugin),
        });
    }
    if !explanation.history.is_empty() {
        json["history"] = explanation.history.iter().map(history::to_json).collect();
    }
    if explanation.more_history {
        json["more_history"] = json!(true);
    }
    if explanation.more_letters {
        json["more_dead_letters"] = json!(true);
    }
    json
}

/// An explanation as lines.
pub(crate) fn to_lines(id: &str, group: &str, explanation: &Explanation) -> Vec<String> {
    let told = told(group, explanation);
    let mut lines = vec![format!("id        {id}"), format!("group     {group}")];
    if !explanation.topic.is_empty() {
        lines.push(format!("topic     {}", explanation.topic));
        if !waits_outside(explanation) {
            lines.push(format!("queue     {}", explanation.queue));
            lines.push(format!("offset    {}", explanation.offset));
        }
        if explanation.stored_wall_ms > 0 {
            lines.push(format!("stored    {}", times::shown(explanation.stored_wall_ms)));
        }
    }
    lines.push(format!("step      {}", told.step.replace('_', " ")));
    lines.push(format!("why       {}", told.why));
    if let Some(evaluation) = &explanation.evaluation {
        lines.extend(filter_lines(evaluation));
    }
    lines.extend(explanation.history.iter().map(|event| history::to_line(group, event)));
    if explanation.more_history {
        lines.push("note      more was done with it later, which is left out".to_owned());
    }
    lines.extend(explanation.dead_letter.as_ref().map(|letter| letter_line(group, letter)));
    if explanation.more_letters {
        lines.push("note      the group has older dead letters, which were not looked through".to_owned());
    }
    lines
}

/// Whether the message has no place in a queue.
fn waits_outside(explanation: &Explanation) -> bool {
    match &explanation.step {
        Some(Step::Waiting(waiting)) => matches!(waiting.what, Some(What::DueWallMs(_) | What::Decision(_))),
        Some(Step::Recalled(_) | Step::RolledBack(_) | Step::GivenUp(_)) => true,
        _ => false,
    }
}

fn told(group: &str, explanation: &Explanation) -> Told {
    let told = |step, why: String| Told {
        step,
        why,
        details: json!({}),
    };
    let place = format!("queue {} of topic {}", explanation.queue, explanation.topic);
    match &explanation.step {
        Some(Step::NotStored(_)) => told(
            "not_stored",
            "no message has this id: it never was stored, retention took it, or its topic was deleted".to_owned(),
        ),
        Some(Step::NoGroup(_)) => told("no_group", format!("there is no group {group}")),
        Some(Step::NeverRead(_)) => told("never_read", format!("group {group} does not read topic {}", explanation.topic)),
        Some(Step::GoneBefore(start)) => Told {
            details: json!({ "start": start }),
            ..told("gone", format!("retention took it: {place} begins at offset {start} now"))
        },
        Some(Step::StartAfter(start)) => {
            let how = match explanation.pass {
                1 => "the group began behind it",
                _ => "a seek or a purge moved the group past it",
            };
            Told {
                details: json!({ "start": start }),
                ..told("before_start", format!("{how}, in {place} at offset {start}"))
            }
        }
        Some(Step::Skipped(_)) => told("skipped", skipped(explanation)),
        Some(Step::Settled(_)) => told("settled", "it was acknowledged, or an operator skipped it".to_owned()),
        Some(Step::Expired(_)) => told("expired", "its time to live was over before it was settled".to_owned()),
        Some(Step::Recalled(_)) => told("recalled", "it was recalled before it was due".to_owned()),
        Some(Step::RolledBack(_)) => told("rolled_back", "it was prepared and rolled back".to_owned()),
        Some(Step::GivenUp(_)) => told(
            "given_up",
            format!(
                "it was prepared, and rolled back since nobody decided about it: `sluice transaction list {}` shows it, and an operator can still commit it",
                explanation.topic
            ),
        ),
        Some(Step::DeadLettered(_)) => told(
            "dead_lettered",
            format!("the group gave it up: it went to topic {}", dead_letters(group)),
        ),
        Some(Step::Leased(_) | Step::Retrying(_) | Step::Held(_) | Step::SetAside(_)) => open(explanation),
        Some(Step::Waiting(waiting)) => waits(waiting.what.as_ref()),
        None => told("unknown", "a step decided that this client does not know".to_owned()),
    }
}

/// What the group has in its hands.
fn open(explanation: &Explanation) -> Told {
    match &explanation.step {
        Some(Step::Leased(leased)) => {
            let by = if leased.stream { "stream" } else { "receive" };
            let until = times::shown(leased.until_wall_ms);
            Told {
                step: "leased",
                why: format!(
                    "member {} has it by {by}, as attempt {}, until {until}",
                    leased.member, leased.attempt
                ),
                details: json!({
                    "member": leased.member, "by": by, "attempt": leased.attempt, "until_ms": leased.until_wall_ms,
                }),
            }
        }
        Some(Step::Retrying(retrying)) => {
            let due = match retrying.exhausted {
                true => "had its last attempt and is on its way to the dead letters, or held".to_owned(),
                false => format!("is due again at {}", times::shown(retrying.due_wall_ms)),
            };
            let reason = reason(retrying.reason);
            Told {
                step: "retrying",
                why: format!("it {due} after {} attempts: {reason}", retrying.attempts),
                details: json!({
                    "attempts": retrying.attempts, "due_ms": (!retrying.exhausted).then_some(retrying.due_wall_ms), "reason": reason,
                }),
            }
        }
        Some(Step::SetAside(aside)) => Told {
            step: "set_aside",
            why: format!(
                "plugin {} failed on it, and nothing is decided yet: {}",
                hex(&aside.digest),
                aside.reason
            ),
            details: json!({ "digest": hex(&aside.digest), "reason": aside.reason }),
        },
        _ => {
            let failed = explanation.evaluation.as_ref().filter(|evaluation| !evaluation.reason.is_empty());
            let reason = failed.map(|evaluation| evaluation.reason.as_str());
            Told {
                step: "held",
                why: format!(
                    "a plugin failed on it, and it is held: {}",
                    reason.unwrap_or("it does not fail now")
                ),
                details: json!({ "reason": reason }),
            }
        }
    }
}

fn waits(what: Option<&What>) -> Told {
    let (what, why, mut details) = match what {
        Some(What::Paused(pause)) => {
            let topics = if pause.topic.is_empty() { "all topics" } else { &pause.topic };
            let since = times::shown(pause.since_wall_ms);
            (
                "resume",
                format!("the group is paused in {topics} since {since} by {}", pause.by),
                json!({ "since_ms": pause.since_wall_ms, "by": pause.by }),
            )
        }
        Some(What::Alarm(alarm)) => (
            "alarm",
            format!(
                "the group is held since {} for the fault of plugin {}: {}",
                times::shown(alarm.since_wall_ms),
                hex(&alarm.digest),
                alarm.reason
            ),
            json!({ "since_ms": alarm.since_wall_ms, "digest": hex(&alarm.digest), "reason": alarm.reason }),
        ),
        Some(What::Members(_)) => ("members", "no member of the group is connected".to_owned(), json!({})),
        Some(What::Retrial(reason)) => (
            "retrial",
            format!("nothing could be judged the last time, and it is tried again: {reason}"),
            json!({ "reason": reason }),
        ),
        Some(What::Verdict(_)) => (
            "verdict",
            "the group has not come to it: it is not judged yet".to_owned(),
            json!({}),
        ),
        Some(What::Demand(_)) => ("demand", "it is to be delivered once a member takes it".to_owned(), json!({})),
        Some(What::Order(_)) => (
            "order",
            "the group is ordered, and another message of its message group comes first".to_owned(),
            json!({}),
        ),
        Some(What::Growth(_)) => (
            "growth",
            "the group is ordered, and what comes before it in its message group is in a queue where that was before the topic grew"
                .to_owned(),
            json!({}),
        ),
        Some(What::DueWallMs(0)) => (
            "release",
            "it was committed, and gets its place in its queue at once".to_owned(),
            json!({}),
        ),
        Some(What::DueWallMs(due_ms)) => (
            "time",
            format!(
                "it is delayed until {}, and gets its place in its queue then",
                times::shown(*due_ms)
            ),
            json!({ "due_ms": due_ms }),
        ),
        Some(What::Decision(_)) => (
            "decision",
            "it is prepared: nobody has committed it or rolled it back".to_owned(),
            json!({}),
        ),
        None => ("unknown", "for something that this client does not know".to_owned(), json!({})),
    };
    details["for"] = json!(what);
    Told {
        step: "waiting",
        why,
        details,
    }
}

fn skipped(explanation: &Explanation) -> String {
    let verdict = explanation.evaluation.as_ref().map(Evaluation::verdict);
    match verdict {
        Some(Verdict::Error) => "the evaluation of the filter fails on it, so it is not delivered".to_owned(),
        Some(Verdict::Fault) => "the plugin fails on it, and it was passed over as its binding says".to_owned(),
        Some(Verdict::Deliver | Verdict::Skip) | None => "the filter does not let it pass".to_owned(),
    }
}

fn verdict(evaluation: &Evaluation) -> &'static str {
    match evaluation.verdict() {
        Verdict::Deliver => "deliver",
        Verdict::Skip => "skip",
        Verdict::Error => "error",
        Verdict::Fault => "fault",
    }
}

fn filter_json(evaluation: &Evaluation) -> Value {
    let filter = evaluation.filter.clone().unwrap_or_default();
    let columns: Map<String, Value> = evaluation
        .columns
        .iter()
        .map(|column| (column_name(column), json!(column_value(column))))
        .collect();
    json!({
        "plugin": filter.plugin, "expression": filter.expression, "digest": hex(&evaluation.digest), "columns": columns,
        "verdict": verdict(evaluation), "reason": (!evaluation.reason.is_empty()).then_some(&evaluation.reason),
        "changed": evaluation.changed,
    })
}

fn filter_lines(evaluation: &Evaluation) -> Vec<String> {
    let filter = evaluation.filter.clone().unwrap_or_default();
    if filter.plugin.is_empty() {
        return vec!["filter    none: the group takes every message".to_owned()];
    }
    let mut lines = vec![
        format!("filter    {}: {}", filter.plugin, filter.expression),
        format!("digest    {}", hex(&evaluation.digest)),
    ];
    lines.extend(evaluation.columns.iter().map(|column| {
        let value = column_value(column).unwrap_or_else(|| "(none)".to_owned());
        format!("saw       {} = {value}", column_name(column))
    }));
    let says = match evaluation.verdict() {
        Verdict::Deliver => "it lets it pass".to_owned(),
        Verdict::Skip => "it does not let it pass".to_owned(),
        Verdict::Error => "its evaluation fails".to_owned(),
        Verdict::Fault => format!("the plugin fails: {}", evaluation.reason),
    };
    lines.push(match evaluation.changed {
        true => format!("verdict   {says} - as the filter rules now; another may have ruled when it was judged"),
        false => format!("verdict   {says}"),
    });
    lines
}

fn column_name(column: &Column) -> String {
    match &column.of {
        Some(column::Of::Tag(_)) => "tag".to_owned(),
        Some(column::Of::Keys(_)) => "keys".to_owned(),
        Some(column::Of::Property(name)) => format!("property {name}"),
        None => "unknown".to_owned(),
    }
}

fn column_value(column: &Column) -> Option<String> {
    column.value.as_ref().map(|value| String::from_utf8_lossy(value).into_owned())
}

fn letter_line(group: &str, letter: &DeadLetter) -> String {
    format!(
        "copy      {} at offset {}, since {}, after {} attempts: {}",
        dead_letters(group),
        letter.offset,
        times::shown(letter.stored_wall_ms),
        letter.attempts,
        letter.reason
    )
}

fn dead_letters(group: &str) -> String {
    // What a member of a broadcast group gives up lies with the letters of its group.
    let group = group.split_once('/').map_or(group, |(group, _)| group);
    sluice_protocol::names::dead_letter_topic(group)
}
