//! Each bench of a message kind, run small: it prints its cases with the figures that docs/performance.md is made of. Nothing is said about how large they are.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

use std::process::Command;

use serde_json::Value;
use sluice_end_to_end::{sluice, text};

/// The cases that a bench prints.
fn cases(arguments: &str) -> Vec<Value> {
    let mut command = Command::new(sluice());
    let output = command.args(["--json", "bench"]).args(arguments.split(' ')).output().unwrap();
    let printed = text(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", text(&output.stderr));
    printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The words of a field, case by case.
fn words<'a>(cases: &'a [Value], field: &str) -> Vec<&'a str> {
    cases.iter().map(|case| case[field].as_str().unwrap_or_default()).collect()
}

fn assert_figures(case: &Value, names: &[&str]) {
    for name in names {
        assert!(case[name].is_f64(), "no {name} in {case}");
    }
}

#[test]
fn priorities_and_order_are_measured_beside_plain_messages() {
    for kind in ["priority", "ordered"] {
        let cases = cases(&format!("{kind} --messages 3000 --rounds 1 --connections 2 --members 2"));
        assert_eq!(words(&cases, "case"), [kind, kind]);
        assert_eq!(words(&cases, "kind"), ["plain", kind]);
        for phase in ["publish", "backlog", "live"] {
            let name = |end: &str| format!("{phase}_{end}");
            // So few messages may take no CPU time that the system counts, which leaves no ratio of it.
            let names = [
                name("messages_per_second"),
                name("broker_cpu_us_a_message"),
                name("rate_to_plain_ratio"),
            ];
            assert_figures(&cases[1], &names.each_ref().map(String::as_str));
        }
    }
}

#[test]
fn transactions_are_measured_beside_plain_sends() {
    let cases = cases("transaction --seconds 1 --rounds 1 --connections 2 --under-way 8");
    assert_eq!(words(&cases, "case"), ["transaction-unbatched", "transaction-batched"]);
    for case in &cases {
        assert_figures(
            case,
            &["messages_per_second", "broker_cpu_to_plain_ratio", "plain_broker_cpu_us_a_message"],
        );
    }
}

#[test]
fn the_head_is_measured_beside_a_group_that_catches_up() {
    let cases = cases("backlog --gigabytes 0.005 --seconds 1 --rounds 1 --rate 100");
    assert_eq!(words(&cases, "case"), ["backlog"]);
    assert_figures(
        &cases[0],
        &["head_alone_p99_us", "head_beside_p99_us", "head_p99_ratio", "device_read_mb"],
    );
}

#[test]
fn searches_find_every_message_by_id_and_by_key() {
    let cases = cases("search --gigabytes 0.004 --searches 20 --cold-searches 3");
    assert_eq!(words(&cases, "by"), ["id", "id", "key", "key", "key-in-range", "key-in-range"]);
    for case in &cases {
        assert_figures(case, &["cold_p99_ms", "warm_p99_ms", "warm_read_kb_a_search"]);
    }
    assert_figures(&cases[1], &["computed_100_gb_warm_p99_ms"]);
}

#[test]
fn the_memory_of_messages_that_wait_is_measured() {
    let cases = cases("delay --pending 2000 --rate 1000 --seconds 1 --fill-seconds 5");
    assert_figures(&cases[0], &["broker_resident_before_mb", "broker_resident_mb", "late_p99_ms"]);
    assert_eq!(cases[0]["early"], 0);
}
